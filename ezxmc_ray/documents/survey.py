"""A quick look at documents before anything is prepared, for ``--dry-run``: how many, for training or not, how long.

Comes in: document sources. Goes out: counts. Rows are counted, not checked; their split and their lengths are those of
rows from all over each file (at most 2,000 a file), the split of a Parquet file that of every row.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ezxmc_ray.config import PrepareConfig
from ezxmc_ray.documents.documents import DocumentSource
from ezxmc_ray.documents.inputs import Inputs
from ezxmc_ray.documents.look import first_columns, with_ids
from ezxmc_ray.documents.parquet_reader import column_values
from ezxmc_ray.documents.readers import sample_rows
from ezxmc_ray.documents.rejected import BadRow
from ezxmc_ray.documents.values import as_split

SAMPLE = 1000
#: English text has about four characters a token.
CHARACTERS_A_TOKEN = 4
_ALL = 1 << 62


@dataclass(frozen=True)
class Survey:
    """Documents and labels by count of rows, documents for training (estimated), mean tokens of one (estimated)."""

    documents: int
    labels: int
    train: int
    document_tokens: float


def survey(inputs: Inputs, prepare: PrepareConfig, max_document_tokens: int) -> Survey:
    """Count the rows and look at some of every document file. Errors: UserError as in reading."""
    documents, train, tokens = 0, 0.0, 0.0
    for source in with_ids(inputs.documents, first_columns(inputs.documents)):
        most = prepare.limit_documents - documents if prepare.limit_documents else _ALL
        count, rows = sample_rows(source.source, source.columns, source.required, SAMPLE, most)
        values = [row.values or {} for row in rows]
        documents += count
        tokens += count * _mean(
            [min(max_document_tokens, _characters(source, one) / CHARACTERS_A_TOKEN) for one in values]
        )
        if source.source.format == "parquet":
            splits = list(column_values(source.source, source.split_column, most))
        else:
            splits = [one.get(source.split_column) for one in values]
        splits = splits or [None]
        train += count * _mean([_train(split, source, prepare) for split in splits])
    labels = sum(sample_rows(one.source, [], one.required, 1, _ALL)[0] for one in inputs.labels)
    return Survey(documents, labels, round(train), tokens / documents if documents else 0.0)


def _characters(source: DocumentSource, values: dict[str, Any]) -> int:
    title, text = (values.get(name) for name in (source.title_column, source.text_column))
    return len(f"{title or ''} {text or ''}")


def _train(split: Any, source: DocumentSource, prepare: PrepareConfig) -> float:
    """How much of a document with that ``split`` is for training; where it says nothing, what is to be expected."""
    try:
        name = as_split(split, source.split_column) or source.split
    except BadRow:
        return 0.0
    return 1 - prepare.test_share if name is None else float(name != "test")


def _mean(values: list[float]) -> float:
    return sum(values) / len(values) if values else 0.0
