"""What a stage asks of the storage does not grow with the documents: files and requests a shard, counted, not timed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from itertools import starmap
from typing import Any

import pytest

from scale_bench.growth import summary
from scale_bench.growth_run import ENCODERS, STAGES, grow, recombined_labels, write_inputs

SMALL, LARGE, SHARD_ROWS = 500, 5000, 250
ROWS = [{"title": f"title {n}", "text": f"words of text {n} and more of them"} for n in range(50)]


class TasksHere:
    """Tasks in this process; what they take is counted as the driver's."""

    cpu_s, requests = 0.0, Counter[str]()
    run_tasks = staticmethod(starmap)

    def run_task(self, function: Callable[..., Any], *arguments: Any) -> Any:
        return function(*arguments)

    def close(self) -> None:
        """Nothing to end."""


@pytest.fixture(scope="module")
def sizes(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    labels = recombined_labels([{"id": str(n), "text": f"label {n}"} for n in range(60)], 80)
    found = []
    for documents in (SMALL, LARGE):
        folder = tmp_path_factory.mktemp("growth")
        write_inputs(folder / "input", ROWS, labels, documents)
        found.append(grow(folder, SHARD_ROWS, TasksHere(), STAGES[:-1]))  # of the report only pictures take time
    return found


def test_the_sizes_are_those_asked_for(sizes: list[dict[str, Any]]) -> None:
    assert [(size["documents"], size["labels"]) for size in sizes] == [(SMALL, 80), (LARGE, 80)]
    assert sizes[1]["shards"] == LARGE // SHARD_ROWS


def test_files_a_shard_stay_the_same(sizes: list[dict[str, Any]]) -> None:
    few, many = (size["shards"] for size in sizes)
    small, large = ({name: cost["files"] for name, cost in size["stages"].items()} for size in sizes)
    assert {name: (large[name] - small[name]) / (many - few) for name in small} == {
        "prepare": 2,  # documents and gold
        "join_examples": 2,  # examples, and the held-out documents of up to 256 groups of shards
        "evaluate": 0,
    }


def test_requests_a_shard_stay_the_same(sizes: list[dict[str, Any]]) -> None:
    """A shard more costs so many requests, of which a square would be more the more shards there are."""
    shards = sizes[1]["shards"] - sizes[0]["shards"]
    asked = [{name: cost["requests"] for name, cost in size["stages"].items()} for size in sizes]
    more = {name: (asked[1][name] - asked[0][name]) / shards for name in asked[0]}
    assert 0 < more["prepare"] < 25
    assert 0 < more["join_examples"] < 55
    assert 0 < more["evaluate"] < 50 * ENCODERS
    whole = {name: asked[1][name] / sizes[1]["shards"] for name in asked[1]}
    for name in ("prepare", "join_examples", "evaluate"):
        assert whole[name] <= 1.15 * asked[0][name] / sizes[0]["shards"], name


def test_the_summary_is_by_document_and_by_shard(sizes: list[dict[str, Any]]) -> None:
    found = summary(sizes)
    cost = sizes[1]["stages"]["evaluate"]
    one = found["stages"]["evaluate"][str(LARGE)]
    assert one["requests_per_shard"] == cost["requests"] / sizes[1]["shards"]
    assert one["driver_cpu_ms_per_document"] == pytest.approx(1000 * cost["driver_cpu_s"] / LARGE)
    assert [row["documents"] for row in found["rows"]] == [SMALL, LARGE] * 3
    assert found["growth"]["evaluate"] == pytest.approx(
        (cost["driver_cpu_s"] / LARGE) / (sizes[0]["stages"]["evaluate"]["driver_cpu_s"] / SMALL)
    )
