"""The words of a run's labels as files that all processes of a machine map, made once a run.

Comes in: labels.parquet. Goes out: lexical/, a .npy file for each of LexicalArrays and a note of what they are.
"""

from __future__ import annotations

import dataclasses
from typing import Any

from ezxmc_ray import layout
from ezxmc_ray.errors import one_line
from ezxmc_ray.index.label_texts import LabelTexts, read_label_texts, text_batches
from ezxmc_ray.index.lexical import BATCH_LABELS, LexicalArrays, LexicalTable, lexical_arrays
from ezxmc_ray.index.node_files import FileNote, map_checked_array, write_array
from ezxmc_ray.storage import Storage, damage_error

#: Raise when index/lexical.py changes what words are, or how they weigh.
VERSION = 1
_NOTE = f"{layout.LEXICAL}/lexical.json"


def has_lexical_files(storage: Storage, label_fingerprint: str) -> bool:
    """Whether the words of the labels with this fingerprint are there, every file in its size."""
    try:
        note = storage.read_note(_NOTE) if storage.exists(_NOTE) else {}
    except ValueError:  # damaged
        return False
    sizes = storage.sizes(layout.LEXICAL)
    files = map(_file_note, note.get("files", {}).values())
    return _made_of(note, label_fingerprint) and all(sizes.get(one.file) == one.bytes for one in files)


def lexical_files(storage: Storage) -> list[str]:
    """The files of :func:`write_lexical_files`, in the run."""
    return storage.list(layout.LEXICAL)


def write_lexical_files(storage: Storage, label_fingerprint: str) -> None:
    """Task: write the words of all labels, and the note last of all."""
    storage.remove(layout.LEXICAL)
    arrays = _made_anew(storage, read_label_texts(storage))
    files = {}
    for field in dataclasses.fields(arrays):
        note = write_array(storage, f"{layout.LEXICAL}/{field.name}.npy", getattr(arrays, field.name))
        files[field.name] = dataclasses.asdict(note)
    storage.write_note(_NOTE, {"version": VERSION, "label_fingerprint": label_fingerprint, "files": files})


def open_lexical_table(storage: Storage, label_fingerprint: str | None = None) -> LexicalTable:
    """The words of all labels: mapped; of a run that has no such files (an older one's) made anew in memory.

    ``label_fingerprint``: of the labels; None: the files are known to be theirs. Errors: UserError for files that are
    damaged: all bytes are held against their checksums.
    """
    try:
        note = storage.read_note(_NOTE) if storage.exists(_NOTE) else {}
    except ValueError as error:
        raise damage_error(storage.path(_NOTE), one_line(error)) from error
    label_texts = read_label_texts(storage)
    if not _made_of(note, label_fingerprint or note.get("label_fingerprint")):
        return LexicalTable(_made_anew(storage, label_texts), label_texts)
    files = {name: map_checked_array(storage, _file_note(one)) for name, one in note["files"].items()}
    return LexicalTable(LexicalArrays(**files), label_texts)


def _file_note(told: dict[str, Any]) -> FileNote:
    return FileNote(**told)


def _made_of(note: dict[str, Any], label_fingerprint: str | None) -> bool:
    return (note.get("version"), note.get("label_fingerprint")) == (VERSION, label_fingerprint)


def _made_anew(storage: Storage, label_texts: LabelTexts | None) -> LexicalArrays:
    return lexical_arrays(text_batches(storage, BATCH_LABELS), label_texts)
