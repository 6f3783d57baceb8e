"""Rows that repeat an id are found in all parts at once, and each piece reads those of its own part alone."""

from __future__ import annotations

import threading
from collections import Counter
from typing import Any

import pytest

from ezxmc_ray.documents import parts
from ezxmc_ray.storage import Storage
from tests.documents.conftest import Folder

DOCUMENTS, LABELS, PART_ROWS = 200, 5, 50


@pytest.fixture
def pairs(folder: Folder, monkeypatch: pytest.MonkeyPatch) -> Folder:
    """A row a (document, label) pair, in 20 parts, each of which loses four rows of five."""
    monkeypatch.setattr(parts, "PART_ROWS", PART_ROWS)
    folder.write("labels.jsonl", [{"id": f"L{number}", "text": f"label {number}"} for number in range(LABELS)])
    rows: list[Any] = [
        {"id": f"d{number}", "text": f"text {number}", "labels": [f"L{label}"]}
        for number in range(DOCUMENTS)
        for label in range(LABELS)
    ]
    folder.write("documents.jsonl", rows)
    return folder


def test_a_piece_reads_what_its_own_part_loses(pairs: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    read, asked = Storage.read_table, Counter[str]()

    def counted(self: Storage, name: str, *words: Any) -> Any:
        table = read(self, name, *words)
        asked[name.rpartition("/")[2].partition("-")[0]] += len(table) if "dropped" in name else 0
        return table

    monkeypatch.setattr(Storage, "read_table", counted)
    found = pairs.prepare(test_share=0, held_out_share=0, shard_rows=64)
    assert [(one, len(gold)) for one, _, gold in found] == [(f"d{number}", LABELS) for number in range(DOCUMENTS)]
    lost = DOCUMENTS * (LABELS - 1)
    assert lost <= asked["dropped"] <= 2 * lost  # a part may be of two shards


def test_parts_are_read_at_once(pairs: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    read, others = Storage.read_table, threading.Barrier(4)

    def together(self: Storage, name: str, schema: Any = None, columns: Any = None) -> Any:
        if columns and "id_hash" in columns:
            others.wait(20)
        return read(self, name, schema, columns)

    monkeypatch.setattr(Storage, "read_table", together)
    assert len(pairs.prepare(test_share=0, held_out_share=0)) == DOCUMENTS
