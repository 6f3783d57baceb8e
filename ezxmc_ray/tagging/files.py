"""Files of documents in, a file of tags out, a batch at a time.

Comes in: a :class:`Tagger`, and files as ``prepare`` reads them. Goes out: Parquet, JSON lines or CSV, and beside it
the rows that could not be used.
"""

from __future__ import annotations

import csv
import io
import json
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from itertools import chain
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from ezxmc_ray.config import PrepareConfig
from ezxmc_ray.documents.columns import (
    DOCUMENT_COLUMNS,
    absent_title,
    check_ids,
    check_named,
    check_text,
    divided,
)
from ezxmc_ray.documents.documents import DocumentSource, document_name, document_texts, empty_document
from ezxmc_ray.documents.inputs import documents_and_unread
from ezxmc_ray.documents.look import first_columns, with_ids
from ezxmc_ray.documents.readers import read_rows
from ezxmc_ray.documents.rejected import BadRow, RejectedRows, none_usable, rowless
from ezxmc_ray.documents.sources import MAX_LINE_BYTES, RawRow, Source, real_path
from ezxmc_ray.documents.told import unread_files
from ezxmc_ray.errors import UserError, one_line
from ezxmc_ray.places import check_apart, folder_and_name, name_of
from ezxmc_ray.progress import say
from ezxmc_ray.shown import use_utf8
from ezxmc_ray.storage import Storage, check_writable
from ezxmc_ray.tables import PREDICTIONS_SCHEMA, REJECTED_SCHEMA, lengths
from ezxmc_ray.tagging.tagger import Tagger

#: Documents that are encoded and searched at once.
TAG_BATCH = 1024
#: Endings of the file that tags are written to.
OUTPUTS = (".parquet", ".jsonl", ".csv")
#: The output that is the standard output, as JSON lines.
STDOUT = "-"
#: Ids, titles and texts of documents in; PREDICTIONS_SCHEMA out, and how many of them were cut.
TagColumns = Callable[[list[str], list[str], list[str]], tuple[pa.Table, int]]
#: A document's id, the ids of its labels, and their scores.
TagRow = tuple[str, list[str], list[float]]
#: Of a score in a text, and the columns that hold some.
SCORE_DIGITS, SCORES = 6, ("scores", "similarities", "verdicts")


@dataclass
class TagCounts:
    """What tagging files did: documents, labels given, documents without any or without a text, cut, bad rows."""

    documents: int = 0
    labels: int = 0
    without_labels: int = 0
    without_text: int = 0
    truncated: int = 0
    rejected: int = 0

    @property
    def is_rowless(self) -> bool:
        """Whether there was no row, neither a good one nor a bad one."""
        return not self.documents and not self.rejected

    def add(self, other: TagCounts) -> None:
        """Count what ``other`` counted as well."""
        for name, count in asdict(other).items():
            setattr(self, name, getattr(self, name) + count)


def check_kind(kind: str) -> None:
    """UserError unless tags are written in files that end in ``kind``."""
    if f".{kind}".lower() not in OUTPUTS:
        raise UserError(f"--format {kind} must be one of {', '.join(one[1:] for one in OUTPUTS)}.")


def check_output(output: str) -> None:
    """UserError unless ``output`` is STDOUT, or ends as one of the formats that tags are written in."""
    if output != STDOUT and os.path.splitext(name_of(output))[1].lower() not in OUTPUTS:
        raise UserError(
            f"--output {output} must end in one of {', '.join(OUTPUTS)}, which say how the tags are written."
        )


def tag_files(tagger: Tagger, inputs: list[str], output: str) -> TagCounts:
    """Tag the documents in ``inputs`` (paths, globs or URIs; formats as in ``prepare``), commit ``output``.

    Its ending says how: .parquet (PREDICTIONS_SCHEMA), .jsonl, or .csv (lists as JSON in the cells); STDOUT: JSON lines
    to the standard output. Documents stream through memory a batch at a time. Rows that cannot be used are left out and
    listed in ``<output>.rejected.parquet`` (REJECTED_SCHEMA), with STDOUT only counted. Errors: UserError
    for inputs that do not exist or cannot be read, that lack the configured columns, or of which no row can be used.
    """
    check_output(output)
    prepare = tagger.settings.prepare
    sources, unread = documents_and_unread(prepare, inputs, "--input")
    for told in unread_files(unread):
        say(f"{told}.")
    counts, files = TagCounts(), dict[tuple[str, ...], str]()
    rejected, without = list[pa.Table](), list[str]()
    storage, name = (None, "") if output == STDOUT else _target(output, [one.source for one in sources])
    with _to_stdout() if storage is None else open_output(storage, name) as write:
        for number, source in enumerate(with_ids(sources, first_columns(sources))):
            here = dict[str, None]()
            found, bad = tag_source(tagger.tag_columns, source, number, write, here)
            files.setdefault(tuple(here), source.source.name)
            counts.add(found)
            rejected.append(bad)
            without += [source.source.name] if found.is_rowless else []
        columns = dict.fromkeys(chain.from_iterable(files))
        check_tagged(prepare, inputs, counts, columns, pa.concat_tables(rejected), without)
    tell_divided(prepare, files)
    if storage is not None:
        write_rejected(storage, name, pa.concat_tables(rejected))
    return counts


def tag_source(
    tag: TagColumns, source: DocumentSource, number: int, write: Callable[[pa.Table], None], columns: dict[str, None]
) -> tuple[TagCounts, pa.Table]:
    """Tag the documents of a file, the ``number``-th of its call, by ``tag`` (as Tagger.tag_columns); ``write`` takes
    tables of PREDICTIONS_SCHEMA.

    ``columns`` takes up the names of all columns that were there. Returns counts, and the bad rows (REJECTED_SCHEMA).
    """
    counts, bad = TagCounts(), RejectedRows(source.source.name, number)
    for ids, titles, texts in document_batches(source, bad, columns):
        table, truncated = tag(ids, titles, texts)
        write(table)
        labels = lengths(table["label_ids"])
        without = int((labels == 0).sum())
        counts.add(TagCounts(len(ids), int(labels.sum()), without, texts.count(""), truncated))
    counts.rejected = len(bad)
    return counts, rejected_rows(bad)


def rejected_rows(bad: RejectedRows) -> pa.Table:
    """The bad rows as they are listed beside tags: REJECTED_SCHEMA."""
    return bad.table().select(REJECTED_SCHEMA.names)


def check_tagged(
    prepare: PrepareConfig,
    inputs: Sequence[str],
    counts: TagCounts,
    columns: dict[str, None],
    rejected: pa.Table,
    without: Sequence[str],
) -> None:
    """UserError where ``inputs`` lacked the text that ``prepare`` names, or had no usable document.

    Titles may be absent, and texts where no other column looks like them; but it is said where none was found under the
    name that was given, or a title under that of another. So are files ``without`` rows.
    """
    if columns:
        found = list(columns)
        check_named(prepare, ["text_column"], found, "--input")
        for told in [*check_text(prepare, found), *absent_title(prepare, found)]:
            say(f"Note: {told}.")
    if not counts.documents:
        raise UserError(_nothing(inputs, rejected))
    for told in rowless(without):
        say(f"{told}.")


def tell_divided(prepare: PrepareConfig, files: Mapping[tuple[str, ...], str]) -> None:
    """Say which file has titles or texts under another name than others. ``files``: by its columns, one with each."""
    names = {key: DOCUMENT_COLUMNS[key] for key in ("title_column", "text_column")}
    for told in divided(prepare, names, {file: columns for columns, file in files.items()}):
        say(f"Warning: {told}.")


def write_rejected(storage: Storage, name: str, rejected: pa.Table) -> None:
    """Write the bad rows beside the tags ``name``, or remove those of an earlier call where there are none."""
    if len(rejected):
        storage.write_table(rejected_name(name), rejected)
    else:
        storage.remove(rejected_name(name))


def rejected_name(name: str) -> str:
    """Where the bad rows lie of the documents that have the tags ``name``."""
    return f"{name}.rejected.parquet"


def _target(output: str, sources: Sequence[Source]) -> tuple[Storage, str]:
    """Where ``output`` is written; UserError for a directory, one of ``sources``, or what check_apart refuses."""
    storage, name = folder_and_name(output)
    if storage.is_folder(name):
        raise UserError(
            f"--output {output} is a directory; name a file, or end it with / for a file of tags "
            "for each file of documents."
        )
    place = real_path(storage.filesystem, storage.path(name))
    if any(real_path(source.filesystem, source.path) == place for source in sources):
        raise UserError(f"--output {output} is one of the files to tag, which it would replace; name another file.")
    check_apart("--output", output, storage, name)
    check_writable(storage)
    return storage, name


def _nothing(inputs: Sequence[str], rejected: pa.Table) -> str:
    if not rejected.num_rows:
        return f"There are no documents in {', '.join(inputs)}; give files with a row for each document."
    return none_usable("document", ", ".join(inputs), rejected)


@contextmanager
def _to_stdout() -> Iterator[Callable[[pa.Table], None]]:
    """As :func:`open_output`, of the standard output. Errors: UserError where it is closed, or takes no more."""
    if sys.stdout is None:
        raise UserError("--output - writes to the standard output, which is closed: give a file.")
    use_utf8(sys.stdout)
    try:
        yield lambda table: print(_json_text(table), end="", flush=True)
    except BrokenPipeError:  # who read it has enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise
    except OSError as error:
        raise UserError(f"The tags cannot be written to the standard output: {one_line(error)}.") from error


@contextmanager
def open_output(
    storage: Storage, name: str, schema: pa.Schema = PREDICTIONS_SCHEMA
) -> Iterator[Callable[[pa.Table], None]]:
    """A function that writes tables of ``schema`` as the ending of ``name`` says."""
    ending = os.path.splitext(name)[1].lower()
    if ending == ".parquet":
        with storage.open_table(name, schema) as sink:
            yield sink.write_table
        return
    as_text = _csv_text if ending == ".csv" else _json_text
    with storage.open_file(name) as sink:
        if ending == ".csv":
            sink.write((",".join(schema.names) + "\n").encode())
        yield lambda table: sink.write(as_text(table).encode())


def read_tags(storage: Storage, name: str) -> Iterator[TagRow]:
    """The rows of the tags ``name``, as :func:`open_output` wrote them. Errors: UserError where they are damaged."""
    try:
        yield from _READERS[os.path.splitext(name)[1].lower()](storage, name)
    except (OSError, ValueError, KeyError, TypeError, pa.ArrowException, csv.Error) as error:
        raise UserError(
            f"The tags {storage.path(name)} cannot be read ({one_line(error, 120)}): remove them, and tag their "
            "documents anew."
        ) from error


def _parquet_rows(storage: Storage, name: str) -> Iterator[TagRow]:
    columns = ["id", "label_ids", "scores"]
    options = {"filesystem": storage.filesystem, "page_checksum_verification": True}
    with pq.ParquetFile(storage.path(name), **options) as file:
        for batch in file.iter_batches(TAG_BATCH, columns=columns):
            yield from zip(*(batch.column(one).to_pylist() for one in columns), strict=True)


def _json_rows(storage: Storage, name: str) -> Iterator[TagRow]:
    with _open_text(storage, name) as lines:
        for row in map(json.loads, lines):
            yield row["id"], row["label_ids"], row["scores"]


def _csv_rows(storage: Storage, name: str) -> Iterator[TagRow]:
    csv.field_size_limit(MAX_LINE_BYTES)
    with _open_text(storage, name) as lines:
        for row in csv.DictReader(lines):
            yield row["id"], json.loads(row["label_ids"]), json.loads(row["scores"])


def _open_text(storage: Storage, name: str) -> io.TextIOWrapper:
    stream = storage.filesystem.open_input_stream(storage.path(name), compression=None)
    return io.TextIOWrapper(stream, encoding="utf-8", newline="")


#: By the endings in OUTPUTS.
_READERS = {".parquet": _parquet_rows, ".jsonl": _json_rows, ".csv": _csv_rows}


def _json_text(table: pa.Table) -> str:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in _plain_rows(table))


def _csv_text(table: pa.Table) -> str:
    text = io.StringIO()
    plain, quoted = (csv.writer(text, lineterminator="\n", quoting=one) for one in (csv.QUOTE_MINIMAL, csv.QUOTE_ALL))
    for row in _plain_rows(table):
        cells = [one if isinstance(one, str) else json.dumps(one, ensure_ascii=False) for one in row.values()]
        # Python puts quotes around a carriage return only where lines end in one.
        (quoted if "\r" in row["id"] else plain).writerow(cells)
    return text.getvalue()


def _plain_rows(table: pa.Table) -> Iterator[dict[str, Any]]:
    for row in table.to_pylist():
        yield row | {name: [round(score, SCORE_DIGITS) for score in row[name]] for name in SCORES if name in row}


def document_batches(
    source: DocumentSource, bad: RejectedRows, columns: dict[str, None]
) -> Iterator[tuple[list[str], list[str], list[str]]]:
    """(ids, titles, texts) of the usable rows of ``source``, up to TAG_BATCH at a time.

    ``columns`` takes up the names of all columns, ``bad`` the rows that cannot be used. Errors: UserError for ids where
    none were seen at first, so that rows are called by their numbers.
    """
    batch: list[tuple[str, str, str]] = []
    seen: dict[str, None] = {}
    names = [source.id_column, source.title_column, source.text_column]
    without_ids = source.row_ids and source.source.format != "list"
    for number, row in enumerate(read_rows(source.source, names, source.required, seen)):
        try:
            batch.append(_document(row, source, number))
        except BadRow as error:
            bad.add(row, str(error))
        if len(batch) == TAG_BATCH:
            if without_ids:
                check_ids(source.id_column, seen, "--input")
            yield tuple(map(list, zip(*batch, strict=True)))  # type: ignore[misc]
            batch = []
    columns |= seen
    if without_ids:
        check_ids(source.id_column, seen, "--input")
    if batch:
        yield tuple(map(list, zip(*batch, strict=True)))  # type: ignore[misc]


def _document(row: RawRow, source: DocumentSource, number: int) -> tuple[str, str, str]:
    """(id, title, text) of a row, the file's ``number``-th from 0; BadRow if it cannot be used."""
    if row.values is None:
        raise BadRow(row.reason)
    document_id = document_name(row.values, source, number)
    title, text = document_texts(row.values, source)
    if not title and not text:
        raise BadRow(empty_document(document_id, row.values, source))
    return document_id, title, text
