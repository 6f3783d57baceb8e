"""What the tests of reading, checking and sharding share: writing input files, and running the stage without Ray."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ezxmc_ray.config import Config, PrepareConfig
from ezxmc_ray.context import Context
from ezxmc_ray.errors import UserError
from ezxmc_ray.stages import prepare as stage
from ezxmc_ray.storage import Storage

Prepared = tuple[int, list[str], dict[str, Any]]
Row = dict[str, Any]
LABELS = [{"id": "bees", "text": "Bees"}, {"id": "tax", "text": "Taxes"}, {"id": "sea", "text": "The sea"}]


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
    """``run(config, root, backwards=False, cpus=2)``: the stage, its tasks run one after the other in this process.

    Documents may be too few to learn from, unless ``counted``: what is looked at is what is read.

    ``backwards`` ends the tasks in the opposite order, as a busy cluster may; ``cpus``: that the cluster has;
    ``trains``: whether the command does.
    """

    def run(
        config: Config,
        root: str = "run",
        backwards: bool = False,
        cpus: int = 2,
        counted: bool = False,
        trains: bool = True,
    ) -> tuple[Prepared, Storage]:
        def run_tasks(function: Callable[..., Any], arguments: Iterable[tuple[Any, ...]]) -> Iterator[Any]:
            if backwards:
                yield from [function(*one) for one in list(arguments)[::-1]]
            else:
                yield from (function(*one) for one in arguments)

        monkeypatch.setattr(stage, "run_tasks", run_tasks)
        monkeypatch.setattr(stage, "cluster_cpus", lambda: cpus)
        monkeypatch.setattr(stage, "run_task", lambda function, *arguments: function(*arguments))
        if not counted:
            monkeypatch.setattr(stage, "check_counts", lambda *counts: None)
        storage = Storage(root if "://" in root else str(tmp_path / root))
        done = stage.prepare(Context(config, storage, trains))
        return (done.rows, done.files, done.details), storage

    return run


class Folder:
    """A directory with labels, where documents are written and prepared without Ray."""

    def __init__(self, path: Path, run: Callable[..., Any], say: list[str]) -> None:
        self.path, self._run, self.said = path, run, say
        self.write("labels.jsonl", LABELS)

    def write(self, name: str, content: list[Row] | str | bytes | pa.Table) -> str:
        path = self.path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, bytes):
            path.write_bytes(content)
        elif name.endswith(".parquet"):
            pq.write_table(content if isinstance(content, pa.Table) else pa.Table.from_pylist(content), path)
        else:
            lines = content if isinstance(content, str) else "".join(json.dumps(row) + "\n" for row in content)
            path.write_text(lines, encoding="utf-8", newline="")
        return str(path)

    def prepare(self, documents: str = "documents.jsonl", **knobs: Any) -> Any:
        """(id, split, gold label ids) of the documents; ``details`` keeps the manifest's."""
        paths = {"documents": [str(self.path / documents)], "labels": [str(self.path / "labels.jsonl")]}
        self.said.clear()
        (_, _, self.details), self.storage = self._run(Config(prepare=PrepareConfig(**(paths | knobs))))
        return documents_of(self.storage)

    def refused(self, *files: str, **knobs: Any) -> str:
        with pytest.raises(UserError) as raised:
            self.prepare(*files, **knobs)
        return str(raised.value).replace(str(self.path), "…")


def documents_of(storage: Storage) -> list[tuple[str, str, list[str] | None]]:
    ids = storage.read_table("labels.parquet")["id"].to_pylist()
    found = []
    for name in storage.list("documents", ".parquet"):
        gold = name.replace("documents", "gold")
        rows = storage.read_table(name).to_pylist()
        lists = storage.read_table(gold)["labels"].to_pylist() if storage.exists(gold) else [None] * len(rows)
        for row, numbers in zip(rows, lists, strict=True):
            found.append((row["id"], row["split"], numbers if numbers is None else [ids[one] for one in numbers]))
    return found


@pytest.fixture
def folder(tmp_path: Path, sequential_prepare: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> Folder:
    said: list[str] = []
    monkeypatch.setattr("ezxmc_ray.stages.prepare.say", said.append)
    return Folder(tmp_path, sequential_prepare, said)
