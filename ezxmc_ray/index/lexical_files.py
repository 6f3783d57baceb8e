"""The words and names of a run's labels as files that all processes of a machine map, made once a run.

Comes in: labels.parquet, and documents by which the language is told. Goes out: lexical/, a .npy file for each array of
LexicalArrays and NameArrays, and a note of what they are.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np

from ezxmc_ray import layout
from ezxmc_ray.errors import one_line
from ezxmc_ray.index.label_texts import LabelTexts, all_texts, read_label_texts, text_batches
from ezxmc_ray.index.language import AUTO, detect_language
from ezxmc_ray.index.lexical import BATCH_LABELS, LexicalArrays, LexicalTable, OtherLabels, lexical_arrays
from ezxmc_ray.index.names import NameArrays, NameTable, name_arrays
from ezxmc_ray.index.node_files import FileNote, map_checked_array, write_array
from ezxmc_ray.storage import Storage, damage_error
from ezxmc_ray.tables import DOCUMENTS_SCHEMA

#: Raise when index/lexical.py, words.py or names.py change what words and names are, or how they weigh.
VERSION = 3
_NOTE = f"{layout.LEXICAL}/lexical.json"
#: By how many labels and documents of the run the language is told, and of how many letters of each.
TOLD_BY, TOLD_BY_LETTERS = 1000, 1000


@dataclass(frozen=True)
class LexicalSource:
    """What the files are made of: the labels with this fingerprint; names in ``language``, which where it is ``auto``
    the ``documents`` with that fingerprint tell; empty: whichever there are."""

    labels: str
    language: str = AUTO
    documents: str = ""

    @property
    def note(self) -> dict[str, str | int]:
        """As the files' note has it."""
        documents = self.documents if self.language == AUTO else ""
        return {"version": VERSION, "label_fingerprint": self.labels, "asked": self.language, "documents": documents}


def has_lexical_files(storage: Storage, source: LexicalSource) -> bool:
    """Whether the files made of ``source`` are there, every one in its size."""
    try:
        note = storage.read_note(_NOTE) if storage.exists(_NOTE) else {}
    except ValueError:  # damaged
        return False
    sizes = storage.sizes(layout.LEXICAL)
    files = map(_file_note, note.get("files", {}).values())
    told = source.note if source.documents else {k: v for k, v in source.note.items() if k != "documents"}
    made_of = all(note.get(name) == value for name, value in told.items())
    return made_of and all(sizes.get(one.file) == one.bytes for one in files)


def lexical_files(storage: Storage) -> list[str]:
    """The files of :func:`write_lexical_files`, in the run."""
    return storage.list(layout.LEXICAL)


def write_lexical_files(storage: Storage, source: LexicalSource, others: Sequence[OtherLabels] = ()) -> str:
    """Task: write the words and names of all labels, and the note last of all; returns the names' language.

    ``others``: as lexical_arrays has them.
    """
    storage.remove(layout.LEXICAL)
    language = tell_language(storage) if source.language == AUTO else source.language
    files = {}
    for arrays in _made_anew(storage, language, read_label_texts(storage), others):
        for field in dataclasses.fields(arrays):
            note = write_array(storage, f"{layout.LEXICAL}/{field.name}.npy", getattr(arrays, field.name))
            files[field.name] = dataclasses.asdict(note)
    storage.write_note(_NOTE, source.note | {"language": language, "files": files})
    return language


def tell_language(storage: Storage) -> str:
    """The language of labels and documents, as :func:`detect_language` has it, by some of both."""
    labels = all_texts(storage)
    texts = labels.take(np.unique(np.linspace(0, len(labels) - 1, TOLD_BY).astype(np.int64))).to_pylist()
    if storage.exists(layout.shard_file(layout.DOCUMENTS, 0)):
        documents = storage.read_shard(layout.DOCUMENTS, 0, DOCUMENTS_SCHEMA, ["title", "text"]).slice(0, TOLD_BY)
        texts += chain.from_iterable(documents[name].to_pylist() for name in ("title", "text"))
    return detect_language(text[:TOLD_BY_LETTERS] for text in texts)


def open_lexical_table(
    storage: Storage,
    label_fingerprint: str | None = None,
    language: str | None = None,
    others: Sequence[OtherLabels] = (),
) -> LexicalTable:
    """The words and names of all labels: mapped; where the files are not there, made anew in memory.

    ``label_fingerprint``: of the labels; None: the files are known to be theirs. ``language``: as configured; None: as
    the files have it, else ``auto``. ``others``: as lexical_arrays has them, where the files are not there. Errors:
    UserError for files that are damaged: all bytes are held against their checksums.
    """
    try:
        note = storage.read_note(_NOTE) if storage.exists(_NOTE) else {}
    except ValueError as error:
        raise damage_error(storage.path(_NOTE), one_line(error)) from error
    label_texts = read_label_texts(storage)
    told = (note.get("version"), note.get("label_fingerprint"), note.get("asked"))
    if told != (VERSION, label_fingerprint or note.get("label_fingerprint"), language or note.get("asked")):
        language = language or note.get("asked")  # words of another version of the program were asked for in it
        language = tell_language(storage) if language in (None, AUTO) else language
        anew = _made_anew(storage, language, label_texts, others)
        return LexicalTable(anew[0], NameTable(anew[1], language), label_texts)
    files = {name: map_checked_array(storage, _file_note(one)) for name, one in note["files"].items()}
    words, names = ([files[field.name] for field in dataclasses.fields(kind)] for kind in (LexicalArrays, NameArrays))
    return LexicalTable(LexicalArrays(*words), NameTable(NameArrays(*names), note["language"]), label_texts)


def _file_note(told: dict[str, Any]) -> FileNote:
    return FileNote(**told)


def _made_anew(
    storage: Storage, language: str, label_texts: LabelTexts | None, others: Sequence[OtherLabels]
) -> tuple[LexicalArrays, NameArrays]:
    words = lexical_arrays(text_batches(storage, BATCH_LABELS), label_texts, others)
    return words, name_arrays(text_batches(storage, BATCH_LABELS), language, label_texts)
