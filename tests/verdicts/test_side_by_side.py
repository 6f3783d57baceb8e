"""Commands on verdicts read many files of an object store: some side by side, and not all at once."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ezxmc_ray.prefetch import REQUESTS_AT_ONCE
from ezxmc_ray.storage import Storage
from ezxmc_ray.verdicts.store import FOLDERS_AT_ONCE
from ezxmc_ray.verdicts.summary import compact, summary
from ezxmc_ray.verdicts.transfer import export_verdicts, import_verdicts
from tests.verdicts.judged_run import KEY, Run, by_hand, names


class Requests:
    """Slow reads: how many have been under way at once."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.most = self._now = 0
        self._lock = threading.Lock()
        for name in ("read_table", "read_counts", "list"):
            monkeypatch.setattr(Storage, name, self._slow(getattr(Storage, name)))

    def _slow(self, ask: Callable[..., Any]) -> Callable[..., Any]:
        def slow(*arguments: Any, **options: Any) -> Any:
            with self._lock:
                self._now += 1
                self.most = max(self.most, self._now)
            time.sleep(0.01)
            try:
                return ask(*arguments, **options)
            finally:
                with self._lock:
                    self._now -= 1

        return slow


@pytest.mark.parametrize("command", ["show", "export", "import", "import by hand", "compact"])
def test_files_are_read_side_by_side(
    make_run: Callable[..., Run], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    texts = names(*range(60))
    run, other, out = make_run(texts), make_run(texts, "other"), str(tmp_path / "out.parquet")
    run.judge()
    pairs = run.context.shards * 20
    if command == "import":
        export_verdicts(run.context, out, None)
    people = by_hand(tmp_path / "people.parquet", document_id=["dtext 0"], label_id=["L0"], raw=[1.0])
    requests = Requests(monkeypatch)
    if command == "show":
        assert summary(run.context)[0]["pairs"] == pairs
    elif command == "export":
        assert export_verdicts(run.context, out, None) == pairs
    elif command == "import":
        assert import_verdicts(other.context, out, None).new == pairs
    elif command == "import by hand":
        assert import_verdicts(other.context, people, "people").new == 1
    else:
        assert compact(run.context) == (2 * run.context.shards, run.context.shards)
    assert 4 <= requests.most <= REQUESTS_AT_ONCE * FOLDERS_AT_ONCE
    monkeypatch.undo()
    (other if command == "import" else run).check_scores(KEY)
