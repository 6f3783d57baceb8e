"""The Arrow schema of every table that a run holds, what is always true of it, and how it is written and read.

Every per-document table is sharded as the documents are: shard 12 of the shortlist belongs to shard 12 of the
documents, and its column ``row`` is the document's row in that shard. A *label number* is a label's row in
``labels.parquet``; it is valid only inside one run. Verdicts outlive label numbers and are keyed by content hashes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray
from pyarrow import fs

from ezxmc_ray.errors import UserError

HASH_BYTES = 16
HASH = pa.binary(HASH_BYTES)

#: documents/shard-NNNNN.parquet. ``split`` is "train" or "test"; ``held_out`` marks the train documents that are
#: judged but never trained on (they select the cycle and fit thresholds); ``content_hash``: see the function.
#: ``excluded``: label numbers that must never be proposed for this document (a document that is its own label).
DOCUMENTS_SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("title", pa.string()),
        ("text", pa.string()),
        ("split", pa.string()),
        ("held_out", pa.bool_()),
        ("content_hash", HASH),
        ("excluded", pa.list_(pa.int32())),
    ]
)

#: gold/shard-NNNNN.parquet, row for row with the documents: sorted label numbers without repeats. Read by the stage
#: ``evaluate`` and by ``ezxmc compare`` only; written only where the source names gold labels (null = none given for
#: this one).
GOLD_SCHEMA = pa.schema([("labels", pa.list_(pa.int32()))])

#: labels.parquet: the row is the label number; ``text`` is the preferred one; ``description`` may be "";
#: ``content_hash`` is content_hash(description, text).
LABELS_SCHEMA = pa.schema(
    [("id", pa.string()), ("text", pa.string()), ("description", pa.string()), ("content_hash", HASH)]
)

#: The same where a label has other texts besides: without repeats, none of them the preferred one, [] for none.
ALTERNATIVES = "alternatives"
LABELS_WITH_ALTERNATIVES = LABELS_SCHEMA.append(pa.field(ALTERNATIVES, pa.list_(pa.string())))

#: rejected.parquet: rows of the sources that were left out, and why. ``line`` counts from 1 (Parquet: the row).
REJECTED_SCHEMA = pa.schema(
    [("source", pa.string()), ("line", pa.int64()), ("reason", pa.string()), ("content", pa.string())]
)

#: cycle-N/shortlist/shard-NNNNN.parquet: a row for every document that was asked for, ordered by ``row``. ``labels``
#: in falling similarity (index/hybrid.py), ties by label number, no repeats; never one of the document's ``excluded``.
#: ``base_similarity``: of the same labels, by the base encoder; in cycle 0 the same numbers.
SHORTLIST_SCHEMA = pa.schema(
    [
        ("row", pa.int32()),
        ("labels", pa.list_(pa.int32())),
        ("similarity", pa.list_(pa.float32())),
        ("base_similarity", pa.list_(pa.float32())),
    ]
)

#: verdicts/<teacher key>/shard-NNNNN/<batch key>.parquet: raw scores as the read-out defines them; append-only.
#: A label's prior (the score of the label beside no document) is the pair whose document_hash is NO_DOCUMENT.
VERDICTS_SCHEMA = pa.schema(
    [
        ("document_hash", HASH),
        ("label_hash", HASH),
        ("raw", pa.float32()),
        ("prompt_tokens", pa.int32()),
        ("truncated", pa.bool_()),
    ]
)

#: What ``ezxmc verdicts export`` writes: verdicts with the ids that the run has for the hashes (of a text that
#: several documents or labels share, the first one's; null for what the run no longer has). A prior has no document.
EXPORTED_VERDICTS_SCHEMA = pa.schema(
    [
        *[VERDICTS_SCHEMA.field(name) for name in ("document_hash", "label_hash")],
        ("document_id", pa.string()),
        ("label_id", pa.string()),
        *[VERDICTS_SCHEMA.field(name) for name in ("raw", "prompt_tokens", "truncated")],
    ]
)

#: cycle-N/examples/shard-NNNNN.parquet: the shortlist joined with its verdicts, lists aligned with ``labels``.
#: ``raw`` is the read-out's score, ``verdict`` the calibrated one.
EXAMPLES_SCHEMA = pa.schema(
    [
        ("row", pa.int32()),
        ("held_out", pa.bool_()),
        ("labels", pa.list_(pa.int32())),
        ("similarity", pa.list_(pa.float32())),
        ("base_similarity", pa.list_(pa.float32())),
        ("raw", pa.list_(pa.float32())),
        ("verdict", pa.list_(pa.float32())),
    ]
)

#: cycle-N/examples/summary/held-out-NNNNN.parquet: the held-out documents of some shards of the examples, in their
#: order.
HELD_OUT_SCHEMA = pa.schema(
    [
        ("shard", pa.int32()),
        *[EXAMPLES_SCHEMA.field(name) for name in ("row", "labels", "similarity", "base_similarity", "verdict")],
    ]
)

#: cross_encoder/held-out-NNNNN.parquet: the same documents, or some of them, with the cross-encoder's ``score``.
CROSS_HELD_OUT_SCHEMA = pa.schema([*HELD_OUT_SCHEMA, ("score", pa.list_(pa.float32()))])

#: cycle-N/examples/summary/<scope>-shards.parquet: a row a shard. ``rows``: train documents with a shortlist, which are
#: trained on; ``empty_shortlists``: train documents without; ``held_out``: documents with one that are not trained on.
SHARD_COUNTS_SCHEMA = pa.schema([(name, pa.int64()) for name in ("rows", "empty_shortlists", "held_out")])

#: cycle-N/examples/summary/<scope>-labels.parquet, a row a label, by label number: shortlists that are trained on with
#: the label in them. Labels after the last one with any have no row.
LABEL_DOCUMENTS_SCHEMA = pa.schema([("documents", pa.int64())])
SUMMARY_SCHEMAS = (HELD_OUT_SCHEMA, SHARD_COUNTS_SCHEMA, LABEL_DOCUMENTS_SCHEMA)

#: predictions/shard-NNNNN.parquet and the output of ``ezxmc tag``: lists in falling score.
PREDICTIONS_SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("label_ids", pa.list_(pa.string())),
        ("label_texts", pa.list_(pa.string())),
        ("scores", pa.list_(pa.float32())),
    ]
)

#: The output of ``ezxmc tag --rerank``. ``scores``: what the labels are ordered by, falling (tagging/reranking.py);
#: ``similarities``: the student's, of the same labels; ``verdicts``: the teacher's, calibrated.
RERANKED_SCHEMA = pa.schema(
    [*PREDICTIONS_SCHEMA, ("similarities", pa.list_(pa.float32())), ("verdicts", pa.list_(pa.float32()))]
)

#: evaluation/encoder-N/shard-NNNNN.parquet: a row for every test document with gold given; ``labels`` in falling score.
RANKINGS_SCHEMA = pa.schema([("row", pa.int32()), ("labels", pa.list_(pa.int32()))])

#: Rows that are read at once where a row group cannot be.
_FEW_ROWS = 1024

#: Marks a label's prior in the verdict store: no document's text hashes to zeros.
NO_DOCUMENT = bytes(HASH_BYTES)


def label_vectors_schema(dimension: int, dtype: str) -> pa.Schema:
    """cycle-N/label_vectors/shard-NNNNN.parquet: ``label`` int32, consecutive; ``vector`` [dimension] of ``dtype``.

    ``label``: the row of a label's text in index/label_texts.py: the label number, as far as there are labels.
    ``dtype``: float32 or float16, as ``encoder.vector_dtype`` says.
    """
    number = {"float32": pa.float32(), "float16": pa.float16()}[dtype]
    return pa.schema([("label", pa.int32()), ("vector", pa.list_(number, dimension))])


def content_hash(title: str, text: str) -> bytes:
    """BLAKE2b of title and text, 16 bytes; the key of a document in the verdict store.

    A label's key is that of its description as the title and its text.
    """
    return hashlib.blake2b(f"{title}\x00{text}".encode(), digest_size=HASH_BYTES).digest()


def open_parquet(path: str, filesystem: fs.FileSystem, schema: pa.Schema) -> pq.ParquetWriter:
    """A Parquet file to write tables to: zstd, and a checksum (CRC-32) of every page."""
    return pq.ParquetWriter(path, schema, filesystem=filesystem, compression="zstd", write_page_checksum=True)


def read_parquet(path: str, filesystem: fs.FileSystem, columns: Sequence[str] | None = None) -> pa.Table:
    """A Parquet file, or some of its columns in this order; pages that have a checksum are held against it.

    On an object store it is three requests: the size, the footer, the columns. Errors: those of pyarrow and of the
    file system.
    """
    wanted = None if columns is None else list(columns)
    options = {"page_checksum_verification": True, "pre_buffer": True}
    with filesystem.open_input_file(path) as source, pq.ParquetFile(source, **options) as file:
        if absent := set(wanted or []) - set(file.schema_arrow.names):
            raise pa.ArrowInvalid(f"it has no column {min(absent)!r}")
        try:
            table = file.read(wanted)
        except pa.ArrowNotImplementedError:  # lists with more than 2 GiB of texts in a row group
            table = pa.Table.from_batches(file.iter_batches(_FEW_ROWS, columns=wanted))
            table = table.replace_schema_metadata(file.schema_arrow.metadata)
    return table if wanted is None else table.select(wanted)


def rows_of(table: pa.Table, rows: np.ndarray) -> pa.Table:
    """``table``'s ``rows``, integers [n], in their order; as Table.take, which fails where the texts exceed 2 GiB.

    So texts are large_string afterwards where the rows do not rise.
    """
    rising, places = np.unique(rows, return_inverse=True)
    wanted = np.zeros(len(table), bool)
    wanted[rising] = True
    found = table.filter(pa.array(wanted))
    if np.array_equal(places, np.arange(len(found))):
        return found
    large = [one.with_type(pa.large_string()) if pa.types.is_string(one.type) else one for one in found.schema]
    return found.cast(pa.schema(large)).take(pa.array(places))


def flat(column: pa.ChunkedArray) -> np.ndarray:
    """The values of a list column, one after the other, in the lists' own dtype."""
    return np.asarray(column.combine_chunks().flatten().to_numpy(zero_copy_only=False))


def list_columns(counts: np.ndarray, *columns: pa.Array) -> list[pa.ListArray]:
    """List columns with ``counts`` (int [rows]) values a row; ``columns``: the values, one after the other."""
    offsets = pa.array(np.concatenate([[0], np.cumsum(counts)]), pa.int32())
    return [pa.ListArray.from_arrays(offsets, values) for values in columns]


def lengths(column: pa.ChunkedArray) -> NDArray[np.int64]:
    """How many values each row of a list column without nulls has, int64 [rows]."""
    return np.asarray(pc.list_value_length(column).to_numpy(), np.int64)


def check(table: pa.Table, schema: pa.Schema, where: str) -> pa.Table:
    """``table`` in ``schema``'s column order; a missing column or another type is a UserError naming ``where``."""
    for field in schema:
        if field.name not in table.column_names:
            raise UserError(f"{where} has no column {field.name!r}: it is of another version of ezxmc; remove it.")
        if table.schema.field(field.name).type != field.type:
            found = table.schema.field(field.name).type
            raise UserError(f"{where}: column {field.name!r} has type {found}, expected {field.type}: remove the file.")
    return table.select(schema.names)
