"""All that a run reads: from ``prepare.*`` to label and document sources, and the fingerprint that tells a change.

Comes in: the configuration. Goes out: :class:`Inputs`; files are listed, none is opened.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

from ezxmc_ray.config import PrepareConfig, fingerprint, to_dict
from ezxmc_ray.credentials import without_credentials
from ezxmc_ray.documents.documents import DocumentSource
from ezxmc_ray.documents.finding import find_sources
from ezxmc_ray.documents.labels import LabelSource
from ezxmc_ray.documents.lists import separator_of
from ezxmc_ray.documents.sources import (
    COMPRESSIONS,
    LABEL_FORMATS,
    TEXT_FORMATS,
    Source,
    common_folders,
    open_location,
    real_path,
)
from ezxmc_ray.documents.splits import splits_of_files
from ezxmc_ray.documents.xmc import find_xmc_sources
from ezxmc_ray.errors import UserError

#: The signs that prepare.csv_separator names.
CSV_SEPARATORS = {"auto": None, "comma": ",", "semicolon": ";", "tab": "\t", "pipe": "|"}


@dataclass(frozen=True)
class Inputs:
    """The sources of a run, in the order in which they are read.

    ``has_columns``: as the configuration names them. ``unread``: files of the directories that are not read.
    """

    labels: list[LabelSource]
    documents: list[DocumentSource]
    has_columns: bool = True
    unread: Sequence[str] = ()

    @property
    def sources(self) -> int:
        """Files of labels and documents."""
        return len(self.labels) + len(self.documents)


def find_inputs(prepare: PrepareConfig) -> Inputs:
    """The sources that ``prepare`` names; UserError if files are missing, or both ways of naming them are used."""
    separator_of(prepare.list_separator)
    if prepare.xmc_directory:
        if prepare.documents or prepare.labels:
            raise UserError(
                "prepare.xmc_directory stands instead of prepare.documents and prepare.labels; set one or the other."
            )
        found, texts, others = find_xmc_sources(prepare.xmc_directory)
        return Inputs(found, texts, has_columns=False, unread=others)
    unread: list[str] = []
    documents = document_sources(prepare, prepare.documents, "prepare.documents", unread)
    labels = label_sources(prepare, unread)
    _check_apart(prepare, documents, labels)
    splits = splits_of_files([one.source for one in documents], prepare.split_column)
    with_splits = [replace(one, split=split) for one, split in zip(documents, splits, strict=True)]
    return Inputs(labels, with_splits, unread=_not_among(unread, [*documents, *labels]))


def documents_and_unread(
    prepare: PrepareConfig, patterns: Sequence[str], key: str
) -> tuple[list[DocumentSource], list[str]]:
    """:func:`document_sources`, and the names of the files of directories that are not read."""
    unread: list[str] = []
    found = document_sources(prepare, patterns, key, unread)
    return found, _not_among(unread, found)


def labels_and_unread(prepare: PrepareConfig) -> tuple[list[LabelSource], list[str]]:
    """:func:`label_sources`, and the names of the files of directories that are not read."""
    unread: list[str] = []
    found = label_sources(prepare, unread)
    return found, _not_among(unread, found)


def _not_among(unread: Sequence[str], found: Sequence[DocumentSource | LabelSource]) -> list[str]:
    """The names in ``unread`` that no source has: what one pattern leaves out another may name."""
    return sorted(set(unread) - {one.source.name for one in found})


def _check_apart(prepare: PrepareConfig, documents: Sequence[DocumentSource], labels: Sequence[LabelSource]) -> None:
    """UserError for a file of documents and labels both, unless it is named by its path for both."""
    named = [{real_path(*open_location(one)) for one in some} for some in (prepare.documents, prepare.labels)]
    files = [real_path(one.source.filesystem, one.source.path) for one in labels]
    both = set(files).intersection(real_path(one.source.filesystem, one.source.path) for one in documents)
    both -= named[0] & named[1]
    if both:
        name = next(one.source.name for one, file in zip(labels, files, strict=True) if file in both)
        raise UserError(
            f"{name} is among the files of prepare.labels and of prepare.documents, by a directory or a glob: name "
            "them so that it is one of either."
        )


def label_sources(prepare: PrepareConfig, unread: list[str] | None = None) -> list[LabelSource]:
    """The files of labels, with the columns that ``prepare`` names, or those of a vocabulary's rows.

    ``unread``: see finding.find_sources.
    """
    separator = CSV_SEPARATORS[prepare.csv_separator]
    found = find_sources(prepare.labels, prepare.format, "prepare.labels", separator, LABEL_FORMATS, unread)
    required = (
        ("prepare.label_id_column", (prepare.label_id_column,)),
        ("prepare.label_text_column", (prepare.label_text_column,)),
    )
    columns = (prepare.label_id_column, prepare.label_text_column, prepare.label_description_column)
    others = prepare.label_alternatives_column
    vocabulary = ("id", "text", "description", "alternatives" if others else "")
    return [
        LabelSource(replace(one, language=prepare.label_language.lower()), *vocabulary, (), False)
        if one.format in LABEL_FORMATS.values()
        else LabelSource(one, *columns, others, required)
        for one in found
    ]


def document_sources(
    prepare: PrepareConfig, patterns: Sequence[str], key: str, unread: list[str] | None = None
) -> list[DocumentSource]:
    """The files of documents that ``patterns`` name, with the columns that ``prepare`` names.

    A title column that is the text column too is read once. A .txt file has a text a line, without ids. ``unread``: see
    finding.find_sources.
    """
    separator = CSV_SEPARATORS[prepare.csv_separator]
    found = find_sources(patterns, prepare.format, key, separator, TEXT_FORMATS, unread)
    required = (
        ("prepare.id_column", (prepare.id_column,)),
        ("prepare.text_column or prepare.title_column", (prepare.text_column, prepare.title_column)),
    )
    sources = [
        DocumentSource(
            one,
            id_column=prepare.id_column,
            title_column="" if prepare.title_column == prepare.text_column else prepare.title_column,
            text_column=prepare.text_column,
            labels_column=prepare.labels_column,
            split_column=prepare.split_column,
            required=required,
        )
        for one in found
    ]
    texts = {one.source.name: one for one in with_row_ids(sources) if one.source.format == "list"}
    return [_of_texts(texts[one.source.name]) if one.source.name in texts else one for one in sources]


def _of_texts(source: DocumentSource) -> DocumentSource:
    """A file with a text a line."""
    return replace(source, title_column="", text_column="text", labels_column="", split_column="", required=())


def with_row_ids(sources: Sequence[DocumentSource]) -> list[DocumentSource]:
    """``sources`` whose ids are row numbers; those of several files begin with the file's path below the common one.

    Of files that only their endings tell apart it is with these.
    """
    paths = [_without_endings(one.source) for one in sources]
    counts = Counter(map(tuple, paths))
    paths = [
        one.source.name.split("/") if counts[tuple(path)] > 1 else path
        for one, path in zip(sources, paths, strict=True)
    ]
    above = common_folders(paths)
    prefixes = ["/".join(path[above:]) + "-" if len(sources) > 1 else "" for path in paths]
    required = [[group for group in one.required if group[0] != "prepare.id_column"] for one in sources]
    return [
        replace(one, row_ids=True, id_prefix=prefix, required=groups)
        for one, prefix, groups in zip(sources, prefixes, required, strict=True)
    ]


def _without_endings(source: Source) -> list[str]:
    *folders, name = source.name.split("/")
    for ending in COMPRESSIONS:
        name = name.removesuffix(ending)
    return [*folders, name.rpartition(".")[0] or name]


def inputs_fingerprint(prepare: PrepareConfig, seed: int) -> str:
    """Hash of ``prepare``, the seed, and each file's name, size and time of change; no file is opened.

    Credentials in URIs are no part of it: they may come from the environment the next time.
    """
    inputs = find_inputs(prepare)
    files = [one.source for one in inputs.labels] + [file for one in inputs.documents for file in one.files]
    return fingerprint(
        [without_credentials(to_dict(prepare)), seed, [[file.name, file.size, file.mtime_ns] for file in files]]
    )
