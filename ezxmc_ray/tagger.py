"""What a finished run is for: texts in, labels out, with the student and the index, without the LLM and without Ray."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from ezxmc_ray import layout
from ezxmc_ray.config import EncoderConfig, LexicalConfig, PrepareConfig
from ezxmc_ray.documents.readers import read_rows
from ezxmc_ray.documents.rejected import BadRow, RejectedRows
from ezxmc_ray.documents.sources import RawRow, Source, find_sources
from ezxmc_ray.documents.values import as_id, as_text
from ezxmc_ray.errors import UserError
from ezxmc_ray.index.build import ShardInfo
from ezxmc_ray.index.hybrid import HybridSearcher
from ezxmc_ray.index.lexical import LexicalTable
from ezxmc_ray.index.search import ShardedIndex
from ezxmc_ray.integrity import checked
from ezxmc_ray.storage import Storage, check_writable
from ezxmc_ray.tables import LABELS_SCHEMA, PREDICTIONS_SCHEMA, REJECTED_SCHEMA, lengths

#: Documents that are encoded and searched at once.
TAG_BATCH = 1024


@dataclass
class TagCounts:
    """What tagging files did: documents, labels given, documents without any, documents cut, bad rows left out."""

    documents: int = 0
    labels: int = 0
    without_labels: int = 0
    truncated: int = 0
    rejected: int = 0


@dataclass(frozen=True)
class TagSettings:
    """How a run tags. ``shards``: as the index's manifest has them; ``min_score``: a similarity (index/hybrid.py)."""

    encoder: EncoderConfig
    lexical: LexicalConfig
    shards: list[dict[str, Any]]
    top_k: int
    min_score: float


class Tagger:
    """The student and the index of the run in ``storage``."""

    def __init__(self, storage: Storage, settings: TagSettings) -> None:
        from ezxmc_ray.encoder.encoder import Encoder  # seconds of imports, not for who only names this class

        with checked(storage, layout.STUDENT) as student:
            self.encoder = Encoder.load(str(student), settings.encoder)
        with storage.local(layout.INDEX) as folder:
            index = ShardedIndex.load(folder, [ShardInfo(**shard) for shard in settings.shards])
        labels = storage.read_table(layout.LABELS, LABELS_SCHEMA)
        table = LexicalTable(labels["text"].to_pylist()) if settings.lexical.weight else None
        self.searcher = HybridSearcher(index, table, settings.lexical)
        self.label_ids, self.label_texts = labels["id"], labels["text"]
        self.top_k, self.min_score = settings.top_k, settings.min_score

    def tag(
        self,
        ids: Sequence[str],
        titles: Sequence[str],
        texts: Sequence[str],
        excluded: Sequence[Sequence[int]] | None = None,
    ) -> tuple[pa.Table, int]:
        """Up to ``top_k`` labels of at least ``min_score`` a document: PREDICTIONS_SCHEMA; and how many were cut."""
        encoded = self.encoder.encode_documents(titles, texts)
        scores, labels = self.searcher.search(encoded.vectors, titles, texts, self.top_k, excluded)
        keep = (labels >= 0) & (scores >= self.min_score)
        # What passes the threshold is a prefix of each row, since scores fall.
        counts = keep.sum(axis=1)
        offsets = pa.array(np.concatenate([[0], np.cumsum(counts)]), pa.int32())
        numbers = pa.array(labels[keep], pa.int32())
        columns = [
            pa.array(ids, pa.string()),
            pa.ListArray.from_arrays(offsets, self.label_ids.take(numbers).combine_chunks()),
            pa.ListArray.from_arrays(offsets, self.label_texts.take(numbers).combine_chunks()),
            pa.ListArray.from_arrays(offsets, pa.array(scores[keep], pa.float32())),
        ]
        return pa.Table.from_arrays(columns, schema=PREDICTIONS_SCHEMA), encoded.truncated


def tag_files(tagger: Tagger, inputs: list[str], output: str, prepare: PrepareConfig) -> TagCounts:
    """Tag the documents in ``inputs`` (paths, globs or URIs; formats as in ``prepare``), commit ``output`` (Parquet).

    Documents stream through memory a batch at a time. Rows that cannot be used are left out and listed in
    ``<output>.rejected.parquet`` (REJECTED_SCHEMA). Errors: UserError for inputs that do not exist or cannot be read.
    """
    counts = TagCounts()
    sources = find_sources(inputs, prepare.format, "--input")
    folder, name = os.path.split(output)
    storage = Storage(folder or ".")
    if not name or storage.is_folder(name):
        raise UserError(f"--output {output} is a directory; name a file, for example {folder or '.'}/tags.parquet.")
    if any(source.path == storage.path(name) for source in sources):
        raise UserError(f"--output {output} is one of the files to tag, which it would replace; name another file.")
    check_writable(storage)
    with storage.open_table(name, PREDICTIONS_SCHEMA) as sink:
        rejected: list[pa.Table] = []
        for number, source in enumerate(sources):
            bad = RejectedRows(source.name, number)
            for ids, titles, texts in _document_batches(source, prepare, bad):
                table, truncated = tagger.tag(ids, titles, texts)
                sink.write_table(table)
                labels = lengths(table["label_ids"])
                counts.documents += len(ids)
                counts.labels += int(labels.sum())
                counts.without_labels += int((labels == 0).sum())
                counts.truncated += truncated
            rejected.append(bad.table().select(REJECTED_SCHEMA.names))
        counts.rejected = sum(map(len, rejected))
        if not counts.documents and not counts.rejected:
            raise UserError(f"There are no documents in {', '.join(inputs)}; give files with a row for each document.")
    if counts.rejected:
        storage.write_table(f"{name}.rejected.parquet", pa.concat_tables(rejected))
    else:
        storage.remove(f"{name}.rejected.parquet")
    return counts


def _document_batches(
    source: Source, prepare: PrepareConfig, bad: RejectedRows
) -> Iterator[tuple[list[str], list[str], list[str]]]:
    """(ids, titles, texts) of the usable rows of ``source``, up to TAG_BATCH at a time."""
    names = (prepare.id_column, prepare.title_column, prepare.text_column)
    required = [("prepare.id_column", names[:1]), ("prepare.text_column", names[1:])]
    batch: list[tuple[str, str, str]] = []
    for row in read_rows(source, names, required):
        try:
            batch.append(_document(row, prepare))
        except BadRow as error:
            bad.add(row, str(error))
        if len(batch) == TAG_BATCH:
            yield tuple(map(list, zip(*batch, strict=True)))  # type: ignore[misc]
            batch = []
    if batch:
        yield tuple(map(list, zip(*batch, strict=True)))  # type: ignore[misc]


def _document(row: RawRow, prepare: PrepareConfig) -> tuple[str, str, str]:
    """(id, title, text) of a row; BadRow if it cannot be used."""
    if row.values is None:
        raise BadRow(row.reason)
    document_id = as_id(row.values.get(prepare.id_column), prepare.id_column)
    title = as_text(row.values.get(prepare.title_column), prepare.title_column)
    text = as_text(row.values.get(prepare.text_column), prepare.text_column)
    if not title and not text:
        raise BadRow(f"empty document: title and text of {document_id!r} are both empty")
    return document_id, title, text
