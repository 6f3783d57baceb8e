"""What the tests of reading, checking and sharding share: writing input files, and running the stage without Ray."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest

from ezxmc_ray.config import Config
from ezxmc_ray.context import Context
from ezxmc_ray.stages import prepare as stage
from ezxmc_ray.storage import Storage

Prepared = tuple[int, list[str], dict[str, Any]]


@pytest.fixture
def write_jsonl(tmp_path: Path) -> Callable[..., str]:
    """``write(name, rows)``: one JSON object a line; a row of bytes is written as it is. Returns the path."""

    def write(name: str, rows: Iterable[dict[str, Any] | bytes]) -> str:
        lines = [row if isinstance(row, bytes) else json.dumps(row, ensure_ascii=False).encode() for row in rows]
        content = b"".join(line + b"\n" for line in lines)
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(gzip.compress(content, mtime=0) if name.endswith(".gz") else content)
        return str(path)

    return write


@pytest.fixture
def sequential_prepare(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[Prepared, Storage]]:
    """``run(config, root, backwards=False)``: the stage with its tasks run one after the other in this process.

    ``backwards`` ends the tasks of a batch in the opposite order, as a busy cluster may.
    """

    def run(config: Config, root: str = "run", backwards: bool = False) -> tuple[Prepared, Storage]:
        def run_tasks(function: Callable[..., Any], arguments: Iterable[tuple[Any, ...]]) -> Iterator[Any]:
            if backwards:
                yield from [function(*one) for one in list(arguments)[::-1]]
            else:
                yield from (function(*one) for one in arguments)

        monkeypatch.setattr(stage, "run_tasks", run_tasks)
        monkeypatch.setattr(stage, "run_task", lambda function, *arguments: function(*arguments))
        storage = Storage(root if "://" in root else str(tmp_path / root))
        done = stage.prepare(Context(config, storage))
        return (done.rows, done.files, done.details), storage

    return run
