"""A quick look at documents before anything is prepared, for ``--dry-run``: how many, for training or not, how long.

Comes in: document sources, label sources. Goes out: counts. Documents are counted by rows, not checked; their split and
their lengths are those of rows from all over each file (at most 2,000 a file), the split of a Parquet file that of
every row. Labels are read as prepare reads them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ezxmc_ray.config import PrepareConfig
from ezxmc_ray.documents.documents import DocumentSource
from ezxmc_ray.documents.inputs import Inputs
from ezxmc_ray.documents.labels import read_labels
from ezxmc_ray.documents.look import first_columns, with_ids
from ezxmc_ray.documents.parquet_reader import column_values
from ezxmc_ray.documents.readers import sample_rows
from ezxmc_ray.documents.rejected import BadRow
from ezxmc_ray.documents.told import without_text
from ezxmc_ray.documents.values import as_split

SAMPLE = 1000
#: English text has about four characters a token.
CHARACTERS_A_TOKEN = 4
_ALL = 1 << 62


@dataclass(frozen=True)
class Survey:
    """Documents by count of rows, those for training (estimated), mean tokens of one (estimated)."""

    documents: int
    train: int
    document_tokens: float


def survey(inputs: Inputs, prepare: PrepareConfig, max_document_tokens: int) -> Survey:
    """Count the rows of every document file and look at some.

    Errors: UserError as in reading, and where the first rows have no column of texts, nor any row that is looked at.
    """
    documents, train, tokens, has_text = 0, 0.0, 0.0, False
    columns = first_columns(inputs.documents)
    for source in with_ids(inputs.documents, columns):
        most = prepare.limit_documents - documents if prepare.limit_documents else _ALL
        count, rows = sample_rows(source.source, source.columns, source.required, SAMPLE, most)
        values = [row.values or {} for row in rows]
        documents += count
        has_text |= any(one.get(source.text_column) for one in values)
        tokens += count * _mean(
            [min(max_document_tokens, _characters(source, one) / CHARACTERS_A_TOKEN) for one in values]
        )
        if source.source.format == "parquet":
            splits = list(column_values(source.source, source.split_column, most))
        else:
            splits = [one.get(source.split_column) for one in values]
        splits = splits or [None]
        train += count * _mean([_train(split, source, prepare) for split in splits])
    if columns and prepare.text_column not in columns and not has_text:
        raise without_text(prepare, columns)
    return Survey(documents, round(train), tokens / documents if documents else 0.0)


def count_labels(inputs: Inputs, prepare: PrepareConfig) -> tuple[int, int]:
    """Labels, and texts that they have beside their own. Errors: UserError as in reading."""
    labels = read_labels(inputs.labels, prepare.repeated_labels, prepare.list_separator)
    return labels.table.num_rows, sum(map(len, labels.alternatives.values()))


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
