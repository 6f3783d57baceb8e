"""The clients of benchmarks/serve.py count what they are answered, and what not."""

from __future__ import annotations

import pytest

from serve_bench.clients import Load, measured
from tests.serving.conftest import FakeTagger
from tests.serving.test_server import serves


def test_every_request_is_answered_once_or_lost() -> None:
    with serves(FakeTagger()) as (port, _):
        row = measured(Load(port, ["a", "bb", "ccc"], 2), clients=3, size=4, requests=10)
        assert (row["requests"], row["lost"], row["exports"]) == (10, 0, 1)
        assert row["documents_per_s"] == pytest.approx(4 * row["requests_per_s"], rel=0.01)
        assert 0 < row["p50_ms"] <= row["p95_ms"] <= row["p99_ms"]
        refused = measured(Load(port, ["a", "bb", "ccc"], 99), clients=3, size=4, requests=10)
        assert refused["lost"] == 10 and refused["requests_per_s"] == 0 and "422" in refused["why_lost"]
    gone = measured(Load(port, ["a"], 2), clients=2, size=1, requests=4)
    assert gone["lost"] == 4 and "Refused" in gone["why_lost"]
