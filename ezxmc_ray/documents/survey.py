"""A quick look at documents before anything is prepared: how many, and how long; for ``--dry-run``.

Comes in: document sources. Goes out: counts. Rows are counted, not checked; lengths are those of the first ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pyarrow.parquet as pq

from ezxmc_ray.config import PrepareConfig
from ezxmc_ray.documents.documents import DocumentSource
from ezxmc_ray.documents.inputs import Inputs
from ezxmc_ray.documents.labels import LabelSource
from ezxmc_ray.documents.readers import read_rows
from ezxmc_ray.documents.sources import Source

SAMPLE = 1000
#: English text has about four characters a token.
CHARACTERS_A_TOKEN = 4


@dataclass(frozen=True)
class Survey:
    """Documents and labels by count of rows, the share of train documents, mean tokens of a document (estimated)."""

    documents: int
    labels: int
    train_share: float
    document_tokens: float


def survey(inputs: Inputs, prepare: PrepareConfig, max_document_tokens: int) -> Survey:
    """Count all rows and look at the first thousand of each document file. Errors: UserError as in reading."""
    documents = sum(_count(one.source, one) for one in inputs.documents)
    limited = min(documents, prepare.limit_documents) if prepare.limit_documents else documents
    tokens: list[float] = []
    train: list[float] = []
    for source in inputs.documents:
        for number, row in enumerate(read_rows(source.source, source.columns, source.required)):
            if number == SAMPLE:
                break
            values = row.values or {}
            text = f"{values.get(source.title_column) or ''} {values.get(source.text_column) or ''}"
            tokens.append(min(max_document_tokens, len(text) / CHARACTERS_A_TOKEN))
            split = source.split or values.get(source.split_column)
            train.append(1 - prepare.test_share if split in (None, "") else float(split == "train"))
    labels = sum(_count(one.source, one) for one in inputs.labels)
    return Survey(limited, labels, _mean(train), _mean(tokens))


def _count(source: Source, described: DocumentSource | LabelSource) -> int:
    if source.format == "parquet":
        return int(pq.read_metadata(source.path, filesystem=source.filesystem).num_rows)
    if source.format == "csv":  # a row may span lines
        return sum(1 for _ in read_rows(source, [], described.required))
    with source.open() as stream:
        return sum(1 for line in stream if line.strip())


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else 0.0
