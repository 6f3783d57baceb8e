"""How many train documents a cycle takes: as many as wanted, never one more, the same ones whatever the shards."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from itertools import starmap
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from ezxmc_ray.config import load_config
from ezxmc_ray.context import MAX_GROUPS, Context
from ezxmc_ray.stages import shortlist
from ezxmc_ray.storage import Manifest, Storage, write_manifest
from ezxmc_ray.tables import DOCUMENTS_SCHEMA, content_hash

DOCUMENTS_MADE, HELD_OUT = 400, 40


@pytest.fixture
def make_context(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Context]:
    """``make_context(shards, *overrides)``: 400 documents, every fourth of them for testing, 40 held out.

    ``texts``: how many different ones they have; None: each its own.
    """
    monkeypatch.setattr(shortlist, "run_tasks", starmap)

    def make(shards: int, *overrides: str, texts: int | None = None) -> Context:
        context = Context(load_config(None, list(overrides)), Storage(str(tmp_path / f"run-{shards}")))
        rows: list[dict[str, Any]] = []
        for number in range(DOCUMENTS_MADE):
            split = "test" if number % 4 == 0 else "train"
            row: dict[str, Any] = {
                "id": f"d{number}",
                "title": "",
                "text": f"text {number % (texts or DOCUMENTS_MADE)}",
            }
            row |= {"excluded": [], "split": split}
            row |= {"held_out": split == "train" and number % 10 == 1, "content_hash": content_hash("", row["text"])}
            rows.append(row)
        counts = {"documents": DOCUMENTS_MADE, "train": 300, "held_out": sum(row["held_out"] for row in rows)}
        counts |= {"test": DOCUMENTS_MADE - 300, "labels": 50, "shards": shards, "shard_rows": []}
        counts |= dict.fromkeys(("document_fingerprint", "label_fingerprint", "gold_fingerprint"), "f")
        for shard, part in enumerate(np.array_split(np.arange(DOCUMENTS_MADE), shards)):
            table = pa.Table.from_pylist([rows[n] for n in part], DOCUMENTS_SCHEMA)
            context.storage.write_shard("documents", shard, table)
        manifest = Manifest("prepare", "f", DOCUMENTS_MADE, 1.0, details=counts)
        write_manifest(context.storage, "documents", manifest)
        return context

    return make


def taken(context: Context, cycle: int) -> list[tuple[str, bool]]:
    """Id of every document that the worker takes, and whether it is held out."""
    worker = object.__new__(shortlist.ShortlistWorker)  # without its encoder and index, which choose nothing
    shares = shortlist.train_share(context, cycle), shortlist.held_out_share(context)
    worker.settings, worker.cycle = shortlist.ShortlistSettings(context.config, None, cycle, *shares), cycle
    found = []
    for shard in range(context.shards):
        table = context.storage.read_shard("documents", shard, DOCUMENTS_SCHEMA)
        rows = table.take(worker._wanted_rows(table)).to_pylist()
        found += [(row["id"], row["held_out"]) for row in rows]
    return found


@pytest.mark.parametrize("wanted", [1, 57, 130])
def test_a_cycle_takes_as_many_documents_as_wanted_besides_the_held_out_ones(
    make_context: Callable[..., Context], wanted: int
) -> None:
    one, many = (taken(make_context(n, f"shortlist.documents_per_cycle={wanted}"), 0) for n in (1, 7))
    assert one == many
    assert sum(held_out for _, held_out in one) == HELD_OUT
    assert sum(not held_out for _, held_out in one) == wanted


@pytest.mark.parametrize("texts", [1, 3, 20])
def test_copies_of_a_text_are_drawn_one_by_one(make_context: Callable[..., Context], texts: int) -> None:
    settings = ["shortlist.held_out_documents=15", "shortlist.documents_per_cycle=57"]
    one, many = (taken(make_context(n, *settings, texts=texts), 0) for n in (1, 7))
    assert one == many
    assert sum(held_out for _, held_out in one) == 15
    assert sum(not held_out for _, held_out in one) == 57


def test_documents_of_different_texts_are_drawn_by_their_texts_alone(make_context: Callable[..., Context]) -> None:
    context = make_context(1, "shortlist.documents_per_cycle=57")
    found = {name for name, held_out in taken(context, 0) if not held_out}
    table = context.storage.read_shard("documents", 0, DOCUMENTS_SCHEMA)
    learned = table.filter(pc.and_(pc.equal(table["split"], "train"), pc.invert(table["held_out"])))
    draws = {
        row["id"]: hashlib.blake2b(b"0/0/" + row["content_hash"], digest_size=8).digest() for row in learned.to_pylist()
    }
    assert found == set(sorted(draws, key=lambda name: draws[name])[:57])


def test_cycles_draw_different_documents_and_no_wish_takes_all(make_context: Callable[..., Context]) -> None:
    context = make_context(3, "shortlist.documents_per_cycle=100")
    assert taken(context, 0) != taken(context, 1)
    context.config.shortlist.documents_per_cycle = 0
    assert len(taken(context, 0)) == 300


def test_every_cycle_compares_by_the_same_held_out_documents(make_context: Callable[..., Context]) -> None:
    contexts = [make_context(n, "shortlist.held_out_documents=15", "shortlist.documents_per_cycle=20") for n in (1, 7)]
    found = [{name for name, held_out in taken(c, cycle) if held_out} for c in contexts for cycle in (0, 1)]
    assert len(found[0]) == 15
    assert all(one == found[0] for one in found)


def test_few_documents_of_a_large_set_are_found_too(
    make_context: Callable[..., Context], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shortlist, "DRAW_BINS", 16)  # some 16 documents a bin
    for wanted in (1, 3, 57):
        found = taken(make_context(3, f"shortlist.documents_per_cycle={wanted}"), 0)
        assert wanted - 1 <= sum(not held_out for _, held_out in found) <= wanted


def test_long_seeds_draw_differently_in_every_cycle(make_context: Callable[..., Context]) -> None:
    context = make_context(3, "shortlist.documents_per_cycle=100", "seed=123456789012345")
    assert taken(context, 0) != taken(context, 1)


def test_a_budget_of_pairs_is_never_exceeded(make_context: Callable[..., Context]) -> None:
    context = make_context(3, "curriculum.cycles=2", "curriculum.pair_budget=2500", "student.batch_size=16")
    pairs = 10 * (len(taken(context, 0)) + len(taken(context, 1)) + HELD_OUT)
    assert 2500 - 20 < pairs <= 2500


def test_as_much_comes_to_the_driver_whatever_the_shards(
    make_context: Callable[..., Context], monkeypatch: pytest.MonkeyPatch
) -> None:
    """And the very documents are drawn that are drawn where each shard's draws are brought alone."""
    brought: list[int] = []

    def counted(function: Any, tasks: Any) -> Any:
        found = list(starmap(function, tasks))
        brought.append(sum(one.nbytes for one in found))
        return iter(found)

    monkeypatch.setattr(shortlist, "run_tasks", counted)
    monkeypatch.setattr(shortlist, "DRAW_BINS", 256)
    settings = ["shortlist.held_out_documents=15", "shortlist.documents_per_cycle=57"]
    context = make_context(80, *settings, texts=3)
    found = taken(context, 0)
    assert len(brought) == 2 * shortlist.DRAW_DEPTH  # copies: every pass of both draws
    assert max(brought) <= MAX_GROUPS * 256 * 8
    monkeypatch.setattr(shortlist, "shard_groups", lambda shards: [range(one, one + 1) for one in range(shards)])
    assert taken(context, 0) == found
    assert max(brought) == 80 * 256 * 8
