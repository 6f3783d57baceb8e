"""The columns that the configuration names against those that the files have.

A name that the user wrote and that no file has is an error; a default one may be absent. Where a column is absent and
another looks like it (another case, blanks, a well-known synonym), that is told, with the override to give. Comes in:
the configuration and the names of columns. Goes out: UserErrors and sentences.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields

from ezxmc_ray.config import PrepareConfig
from ezxmc_ray.documents.sources import listed
from ezxmc_ray.errors import UserError

#: The keys of PrepareConfig that name columns of documents and of labels, and what those are often called.
DOCUMENT_COLUMNS = {
    "id_column": ("uid", "docid", "documentid", "identifier", "key"),
    "title_column": ("name", "headline", "heading", "subject"),
    "text_column": ("abstract", "body", "content", "description", "fulltext", "summary"),
    "labels_column": (
        "label",
        "tags",
        "tag",
        "subjects",
        "subjecturis",
        "categories",
        "category",
        "keywords",
        "topics",
        "classes",
        "labelids",
        "gold",
        "goldlabels",
        "targets",
        "descriptors",
        "topic",
    ),
    "split_column": ("fold", "subset", "partition", "set"),
}
LABEL_COLUMNS = {
    "label_id_column": ("uid", "labelid", "identifier", "uri", "notation", "key"),
    "label_text_column": ("name", "label", "title", "preflabel"),
    "label_description_column": ("definition", "scopenote", "content", "note"),
    "label_alternatives_column": (
        "synonyms",
        "synonym",
        "altlabels",
        "altlabel",
        "alternativelabels",
        "alternative",
        "aliases",
        "alias",
        "othernames",
    ),
}
_DEFAULTS = {field.name: field.default for field in fields(PrepareConfig)}


def check_named(prepare: PrepareConfig, keys: Iterable[str], found: Sequence[str], what: str) -> None:
    """UserError for a column that the configuration names and that is not among ``found``, all that ``what`` has."""
    absent = []
    for key in keys:
        name = getattr(prepare, key)
        if name and name != _DEFAULTS[key] and name not in found:
            alike = _alike(name, (), found)
            absent.append(f"{name!r} (prepare.{key}" + (f"; did you mean {alike!r}?)" if alike else ")"))
    if absent:
        raise UserError(
            f"No file of {what} has a column {' or '.join(absent)}; the columns are {listed(found)}: name one of "
            "these, or none with an empty value."
        )


def check_ids(id_column: str, found: Iterable[str], what: str) -> None:
    """UserError where ``what``, whose rows are called by their numbers, has the column of ids."""
    if id_column in found:
        raise UserError(
            f"Some files of {what} have a column {id_column!r} and others have none: give all of them ids, or set "
            "prepare.id_column to a column that all have."
        )


def absent_title(prepare: PrepareConfig, found: Sequence[str]) -> list[str]:
    """A sentence where none of the columns ``found`` is the title, and it was named, or another looks like it."""
    key, used = "title_column", {getattr(prepare, one) for one in DOCUMENT_COLUMNS}
    free = [name for name in found if name not in used]
    told = lookalikes(prepare, {key: DOCUMENT_COLUMNS[key]}, free) if prepare.title_column not in found else []
    if not told and prepare.title_column not in ("", _DEFAULTS[key], *found):
        told = [f"no file has a column {prepare.title_column!r} (prepare.{key}), so documents have no titles"]
    return told


def text_elsewhere(prepare: PrepareConfig, found: Sequence[str]) -> str:
    """What to do where no document has a text, but one of the columns ``found`` looks like it; empty: none does."""
    others = {getattr(prepare, key) for key in DOCUMENT_COLUMNS} - {prepare.text_column}
    synonyms = {"text_column": DOCUMENT_COLUMNS["text_column"]}
    alike = "; ".join(lookalikes(prepare, synonyms, [name for name in found if name not in others]))
    titles = f"prepare.text_column={prepare.title_column or 'title'}"
    return alike and f"No document has a text: {alike}; where titles are all there is, set {titles}."


def check_text(prepare: PrepareConfig, found: Sequence[str]) -> list[str]:
    """A sentence where none of the columns ``found`` is the text, so that titles are all that is read.

    Errors: UserError where another of them looks like it.
    """
    if prepare.text_column in ("", *found):
        return []
    if told := text_elsewhere(prepare, found):
        raise UserError(told)
    return [f"no file has a column {prepare.text_column!r} (prepare.text_column), so of documents the titles are read"]


def lookalikes(prepare: PrepareConfig, columns: dict[str, tuple[str, ...]], found: Sequence[str]) -> list[str]:
    """A sentence for each column that is absent where an unused one looks like it. ``columns``: one of those above."""
    used = {getattr(prepare, key) for key in columns}
    free = [name for name in found if name not in used]
    told = []
    for key, synonyms in columns.items():
        name = getattr(prepare, key)
        if name and name not in found and (alike := _alike(name, synonyms, free)):
            told.append(f"no file has a column {name!r}; if {alike!r} is it, set prepare.{key}={listed([alike])}")
    return told


def divided(
    prepare: PrepareConfig, columns: dict[str, tuple[str, ...]], files: Mapping[str, Sequence[str]]
) -> list[str]:
    """A sentence for each column that some files (name, columns) have under another name, or in two ways of writing."""
    used, told = {getattr(prepare, key) for key in columns}, []
    for key, synonyms in columns.items():
        name = getattr(prepare, key)
        if not any(name in found for found in files.values()):
            continue
        for file, found in files.items():
            others = [one for one in found if one not in used]
            alike = _alike(name, () if name in found else synonyms, others)
            if alike:
                how = "beside" if name in found else "instead of"
                told.append(
                    f"{file} has {listed([alike])} {how} {name!r}, which alone prepare.{key} names: give the column "
                    "one name in all rows and files"
                )
                break
    return told


def unused(prepare: PrepareConfig, keys: Iterable[str], found: Sequence[str]) -> list[str]:
    """The columns that are there and not read."""
    used = {getattr(prepare, key) for key in keys}
    roots = {name.partition(".")[0] for name in used if name not in found or "." in name}
    return [name for name in found if name and name not in used and name not in roots]


def _alike(name: str, synonyms: Sequence[str], found: Sequence[str]) -> str | None:
    """The column of ``found`` that is ``name`` but for case and signs, else the first that is a synonym."""
    plain = {_plain(one): one for one in reversed(found)}
    return next((plain[one] for one in (_plain(name), *synonyms) if one in plain), None)


def _plain(name: str) -> str:
    return re.sub(r"[\W_]", "", name).casefold()
