"""Runs with a verdict store: prepared by the real stage, its tasks one after the other, and judged by a fake.

The fake judge stands in for the teacher: a pair's score is a hash of its texts' hashes, so that every score that is
found can be checked.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from itertools import starmap
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ezxmc_ray import cli, layout
from ezxmc_ray.context import Context
from ezxmc_ray.storage import Storage
from ezxmc_ray.tables import NO_DOCUMENT, VERDICTS_SCHEMA, content_hash
from ezxmc_ray.verdicts.relocate import relocate
from ezxmc_ray.verdicts.shortlist_pairs import ShortlistPairs, count_pending
from ezxmc_ray.verdicts.store import PRIORS, VerdictStore

LABELS = 6
PAIRS = LABELS - 1  # a document
ROWS = 4  # documents a shard
KEY = "0123456789abcdef"
DESCRIPTION = {"key": KEY, "model": "org/name", "prompt": "generic v1", "readout": "yes_no"}


def score(document: bytes, label: bytes) -> float:
    """What the fake judge says of a pair: exact in float32, between 0 and 1."""
    return int.from_bytes(hashlib.blake2b(document + label, digest_size=2).digest()) / 65536


def verdicts(pairs: list[tuple[bytes, bytes]]) -> pa.Table:
    documents, labels = zip(*pairs, strict=True)
    columns = [documents, labels, [score(*pair) for pair in pairs], [7] * len(pairs), [False] * len(pairs)]
    return pa.table(
        [pa.array(c, f.type) for c, f in zip(columns, VERDICTS_SCHEMA, strict=True)], schema=VERDICTS_SCHEMA
    )


@dataclass
class Run:
    """A run directory with a prepared input and a shortlist of every label but one for every document."""

    context: Context
    asked: int = 0

    @property
    def storage(self) -> Storage:
        return self.context.storage

    @property
    def path(self) -> str:
        return self.storage.root

    def store(self, key: str = KEY) -> VerdictStore:
        return VerdictStore(self.storage, key)

    def pending(self, key: str = KEY) -> int:
        return count_pending(self.storage, key, 0, range(self.context.shards))

    def judge(self, key: str = KEY) -> list[str]:
        """Judge what is pending, a batch of two documents at a time; returns the texts that were asked about."""
        relocate(self.context, key, starmap)
        self.store(key).write_description({**DESCRIPTION, "key": key})
        shortlist_pairs = ShortlistPairs(self.storage, key, 0)
        texts = []
        for shard in range(self.context.shards):
            for start in range(0, ROWS, 2):
                documents = shortlist_pairs.documents(shard, start, start + 2)
                pairs = [(one.document_hash, label) for one in documents for label in one.label_hashes]
                if pairs:
                    cost = {"computed_tokens": 3 * len(pairs), "engine_ms": 500}
                    shortlist_pairs.store.append(layout.shard_name(shard), verdicts(pairs), cost)
                texts += [one.text for one in documents for _ in one.label_hashes]
        return texts

    def judge_priors(self) -> None:
        labels = [content_hash("", f"label {n}") for n in range(LABELS)]
        self.store().append(PRIORS, verdicts([(NO_DOCUMENT, label) for label in labels]))

    def check_scores(self, key: str = KEY) -> None:
        """Every pair of the shortlists has the fake judge's score."""
        shortlist_pairs = ShortlistPairs(self.storage, key, 0)
        for shard in range(self.context.shards):
            pairs = shortlist_pairs.pairs(shard)
            raw = shortlist_pairs.store.lookup(layout.shard_name(shard), pairs["document_hash"], pairs["label_hash"])
            assert raw.tolist() == list(map(score, pairs["document_hash"], pairs["label_hash"]))


def names(*numbers: int) -> list[str]:
    return [f"text {number}" for number in numbers]


OLD = names(*range(18))


def call(capsys: pytest.CaptureFixture[str], *argv: str) -> tuple[int, str, str]:
    capsys.readouterr()
    with pytest.raises(SystemExit) as caught:
        cli.main(["verdicts", *argv])
    printed = capsys.readouterr()
    return int(caught.value.code or 0), printed.out, printed.err


def by_hand(path: Path, **columns: list[Any]) -> str:
    pq.write_table(pa.table(columns), path)
    return str(path)
