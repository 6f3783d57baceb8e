"""Files of labels that a command names, read as ``prepare`` reads those of a configuration.

Comes in: paths, globs or URIs, and the columns' names. Goes out: the labels, or their ids alone. A bad row is refused.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from ezxmc_ray.config import PrepareConfig
from ezxmc_ray.documents.inputs import labels_and_unread
from ezxmc_ray.documents.labels import LabelSet, LabelSource, read_labels
from ezxmc_ray.documents.list_reader import line_row
from ezxmc_ray.documents.readers import read_rows
from ezxmc_ray.documents.rejected import BadRow
from ezxmc_ray.documents.sources import RawRow, read_lines
from ezxmc_ray.documents.told import check_one_separator, unread_files
from ezxmc_ray.documents.values import as_id
from ezxmc_ray.errors import UserError
from ezxmc_ray.progress import say


def read_label_files(prepare: PrepareConfig, files: Sequence[str]) -> LabelSet:
    """The labels in ``files``. Errors: UserError for files that cannot be read, for two separators of alternatives, and
    for bad rows unless prepare.on_bad_rows is skip."""
    sources, unread = _sources(prepare, files)
    found = read_labels(sources, prepare.repeated_labels, prepare.list_separator)
    found.notes.extend(unread)
    check_one_separator(prepare.label_alternatives_column, "texts", found.separators)
    if len(found.rejected) and prepare.on_bad_rows == "fail":
        first = found.rejected.slice(0, 1).to_pylist()[0]
        raise _bad_rows(len(found.rejected), files, first["source"], first["line"], first["reason"])
    return found


def read_label_ids(prepare: PrepareConfig, files: Sequence[str]) -> list[str]:
    """The ids in files of labels, whose other columns are not looked at; a .txt file has an id a line, blank ones are
    none. Errors: UserError as :func:`read_label_files`, and where a file has no id."""
    ids, bad = list[str](), list[tuple[LabelSource, RawRow, str]]()
    without = list[str]()
    sources, unread = _sources(prepare, files)
    for told in unread:
        say(f"{told}.")
    for source in sources:
        required = (("prepare.label_id_column", (source.id_column,)),) if source.required else ()
        rows = _lines(source) if source.source.format == "list" else read_rows(source.source, source.columns, required)
        row = None
        for row in rows:
            try:
                if row.values is None:
                    raise BadRow(row.reason)
                ids.append(as_id(row.values.get(source.id_column), source.id_column))
            except BadRow as error:
                bad.append((source, row, str(error)))
        if row is None:
            without.append(source.source.name)
    if bad:
        source, row, reason = bad[0]
        raise _bad_rows(len(bad), files, source.source.name, row.line, reason)
    if without or not ids:
        raise UserError(f"There is no id in {', '.join(without or files)}; give one a line, or a file of labels.")
    return ids


def _sources(prepare: PrepareConfig, files: Sequence[str]) -> tuple[list[LabelSource], list[str]]:
    """The files of labels, and what is to be said of those of directories that are not read."""
    found, unread = labels_and_unread(replace(prepare, labels=list(files)))
    return found, unread_files(unread)


def _lines(source: LabelSource) -> Iterator[RawRow]:
    """Each line that is not blank as an id."""
    for number, line in read_lines(source.source):
        row = line_row(number, line)
        if row.values is None:
            yield row
        elif text := row.values["text"].strip():
            yield RawRow(number, {source.id_column: text})


def _bad_rows(count: int, files: Sequence[str], name: str, line: int, reason: str) -> UserError:
    rows = "1 bad row" if count == 1 else f"{count:,} bad rows"
    return UserError(f"{rows} in {', '.join(files)}, the first {name}:{line}: {reason}; mend them.")
