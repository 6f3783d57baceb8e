"""``ezxmc labels``: labels that come to a bundle, go, or are called otherwise; nothing is built anew, nothing trained.

Comes in: a bundle, and files of labels or ids. Goes out: the same bundle. Labels that come are a part of their own
(index/parts.py): a folder with their table, an exact index of their vectors, which the bundle's own encoder makes, and
their words. Label numbers go on, so that a number means what it meant. Labels that go are numbers in bundle.json. One
that is called otherwise goes and comes again. bundle.json is written last of all: until then the old state holds.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property, partial
from itertools import accumulate
from typing import Any

import numpy as np
import pyarrow as pa

from ezxmc_ray import layout
from ezxmc_ray.config import Config, PrepareConfig, apply_overrides
from ezxmc_ray.documents.label_files import read_label_files, read_label_ids
from ezxmc_ray.documents.labels import LabelSet
from ezxmc_ray.documents.parts import label_fingerprint
from ezxmc_ray.documents.told import label_notes
from ezxmc_ray.documents.values import same_id
from ezxmc_ray.errors import UserError
from ezxmc_ray.index.build import EXACT_FACTORY, build_shard, save_shard
from ezxmc_ray.index.label_texts import all_texts, read_labels
from ezxmc_ray.index.lexical_files import LexicalSource, write_lexical_files
from ezxmc_ray.leftovers import temporary_folder
from ezxmc_ray.storage import Storage
from ezxmc_ray.tables import ALTERNATIVES, LABELS_SCHEMA
from ezxmc_ray.tagging.arguments import some_ids
from ezxmc_ray.tagging.bundle import (
    BUNDLE,
    READING_LABELS,
    added_note,
    describe_files,
    is_bundle,
    new_folder,
    open_bundle,
    read_bundle_note,
)
from ezxmc_ray.tagging.bundle_lock import owned_bundle
from ezxmc_ray.tagging.settings import AddedLabels
from ezxmc_ray.tagging.tagger import load_encoder, open_words

#: With more parts than these a bundle should be made one again: each is searched by itself.
MANY_PARTS = 16
#: Those that name a column of a file of labels.
COLUMNS = ("label_id_column", "label_text_column", "label_description_column", "label_alternatives_column")
#: The knobs of ``prepare`` that say how files of labels are read.
KNOBS = (*READING_LABELS, "format", "csv_separator")
#: Labels that are listed at once.
_BATCH = 65_536


@dataclass(frozen=True)
class Changed:
    """What a change did: labels that ``came`` and ``went`` (one that is called otherwise does both); ``texts`` that
    were embedded, of which ``unreadable`` hold nothing that the encoder knows; ``labels`` and ``parts`` that there are
    now, the parts of which all labels went apart. ``notes``: sentences of what was chosen in reading the files."""

    came: int
    went: int
    texts: int
    unreadable: int
    labels: int
    parts: int
    notes: list[str]


def add_labels(where: str, files: Sequence[str], overrides: Sequence[str] = ()) -> Changed:
    """Add the labels in ``files`` to the bundle ``where``. They are read as the run's ``prepare`` read its own, but for
    the knobs in ``overrides`` (KNOBS).

    Errors: UserError for what is no bundle, is damaged or in use, for other knobs, for files as read_label_files, and
    for an id that a label has.
    """
    with opened_bundle(where, overrides) as bundle:
        labels = read_label_files(bundle.prepare, files)
        known = [one for one in labels.table["id"].to_pylist() if same_id(one) in bundle.number_of]
        if known:
            raise UserError(
                f"{some_ids(known)} {'is' if len(known) == 1 else 'are'} among the labels of {where} already: leave "
                "out what is there, or give it another text with `ezxmc labels rename`."
            )
        return bundle.change(labels, [])


def remove_labels(where: str, files: Sequence[str], overrides: Sequence[str] = ()) -> Changed:
    """Remove the labels whose ids are in ``files``, as read_label_ids reads them.

    Errors: as :func:`add_labels`, for an id that no label has, and where no label would be left.
    """
    with opened_bundle(where, overrides) as bundle:
        return bundle.change(None, bundle.numbers_of(read_label_ids(bundle.prepare, files)))


def rename_labels(where: str, files: Sequence[str], overrides: Sequence[str] = ()) -> Changed:
    """Give the labels in ``files`` the texts that they have there, and no others. Errors: as :func:`add_labels`, and
    for an id that no label has."""
    with opened_bundle(where, overrides) as bundle:
        labels = read_label_files(bundle.prepare, files)
        numbers = bundle.numbers_of(labels.table["id"].to_pylist())
        table = labels.table.set_column(0, "id", bundle.ids.take(pa.array(numbers)))
        return bundle.change(replace(labels, table=table), numbers)


def listed_labels(where: str) -> Iterator[dict[str, Any]]:
    """The labels that the bundle has now, in the order of their numbers, under the names of the run's columns; under
    the default ones where one of the run's is two things at once, as in a vocabulary whose ids are its texts.

    ``ezxmc export --labels`` takes them, with :func:`knobs_of_list`. Errors: UserError as :func:`add_labels`.
    """
    check_bundle(where)
    bundle = OwnedBundle(Storage(where))
    names = _names_of_list(bundle.prepare)
    for number, files in enumerate(bundle.parts):
        for batch in read_labels(files).filter(bundle.alive(number)).to_batches(_BATCH):
            for row in batch.to_pylist():
                label = {names.label_id_column: row["id"], names.label_text_column: row["text"]}
                if row["description"] and names.label_description_column:
                    label[names.label_description_column] = row["description"]
                alternatives = row.get(ALTERNATIVES) or []
                if alternatives and names.label_alternatives_column:
                    label[names.label_alternatives_column] = alternatives
                    alternatives = []
                yield label
                for text in alternatives:  # as they came: rows of the id, by prepare.repeated_labels=synonyms
                    yield {names.label_id_column: row["id"], names.label_text_column: text}


def knobs_of_list(where: str) -> list[str]:
    """The knobs with which :func:`listed_labels`, written as JSON lines, are read as what they are: by ``ezxmc export``
    and ``ezxmc labels``, which else read them as the run read its own labels. Errors: UserError as read_bundle_note."""
    prepare = PrepareConfig(**read_bundle_note(Storage(where))["prepare"])
    names, knobs = _names_of_list(prepare), dict[str, str]()
    if prepare.format not in ("auto", "jsonl"):
        knobs["format"] = "jsonl"
    knobs |= {name: getattr(names, name) for name in COLUMNS if getattr(names, name) != getattr(prepare, name)}
    if not names.label_alternatives_column and names.repeated_labels != "synonyms":
        knobs["repeated_labels"] = "synonyms"
    return [f"prepare.{name}={value}" for name, value in knobs.items()]


def _names_of_list(prepare: PrepareConfig) -> PrepareConfig:
    """What names the columns of a list of labels: ``prepare``, or the defaults where it names one column twice."""
    several = [name for name in map(partial(getattr, prepare), COLUMNS) if name]
    return prepare if len(set(several)) == len(several) else PrepareConfig()


@contextmanager
def opened_bundle(where: str, overrides: Sequence[str] = ()) -> Iterator[OwnedBundle]:
    """The bundle, for this process alone, without what killed commands left."""
    check_bundle(where)
    target = Storage(where)
    with owned_bundle(target):
        yield OwnedBundle(target, overrides)


def check_bundle(where: str) -> None:
    """Errors: UserError unless ``where`` is a bundle, whose labels may change."""
    storage = Storage(where)
    if is_bundle(storage):
        return
    if storage.exists(layout.CONFIG):
        raise UserError(
            f"{where} is a run, whose labels are those of its configuration: export it (`ezxmc export {where} "
            "DIRECTORY`) and change the export, or name other files in prepare.labels."
        )
    raise UserError(f"{where} is not a bundle: it has no {BUNDLE}; name a directory that `ezxmc export` wrote.")


class OwnedBundle:
    """A bundle that is whole, and that this process alone writes to."""

    def __init__(self, target: Storage, overrides: Sequence[str] = ()) -> None:
        """``overrides``: of how files of labels are read, KNOBS."""
        self.target, self.note = target, read_bundle_note(target)
        base, self.settings, added = open_bundle(target.root)
        #: How files of labels are read.
        self.prepare = reading_labels(self.settings.prepare, overrides)
        #: The files of the export, and of each change.
        self.parts = [base, *added]
        tables = [one.read_table(layout.LABELS, LABELS_SCHEMA, ["id"]) for one in self.parts]
        self.ids = pa.concat_tables(tables)["id"]
        #: Where the label numbers of each part begin, and how many there are.
        self.starts = [0, *accumulate(map(len, tables))]
        self.removed = np.zeros(len(self.ids), bool)
        self.removed[self.settings.removed] = True

    def alive(self, part: int) -> np.ndarray:
        """Which labels of a part are not removed, bool by their place in it."""
        first, stop = self.starts[part : part + 2]
        alive: np.ndarray = ~self.removed[first:stop]
        return alive

    @cached_property
    def number_of(self) -> dict[str, int]:
        """The label numbers by ids as they are compared."""
        ids = self.ids.filter(pa.array(~self.removed)).to_pylist()
        return dict(zip(map(same_id, ids), np.flatnonzero(~self.removed).tolist(), strict=True))

    def numbers_of(self, ids: Sequence[str]) -> list[int]:
        """The label numbers of ``ids``. Errors: UserError for ids that no label has."""
        unknown = [one for one in ids if same_id(one) not in self.number_of]
        if unknown:
            raise UserError(f"No label of {self.target.root} has the id {some_ids(unknown)}.")
        return [self.number_of[same_id(one)] for one in ids]

    def change(self, labels: LabelSet | None, removed: Sequence[int]) -> Changed:
        """Take ``labels`` up, if there are any, in place of those with the numbers ``removed``."""
        went = len(set(removed))
        self.removed[removed] = True
        came = 0 if labels is None else len(labels.table)
        left = int((~self.removed).sum()) + came
        if not left:
            raise UserError(f"No label of {self.target.root} would be left: keep one at least.")
        note = self.note | {"removed": np.flatnonzero(self.removed).tolist(), "changed": True}
        texts = unreadable = 0
        if labels is not None:
            part, texts, unreadable = self._write_part(labels)
            note |= {"added": [*note["added"], part]}
        self.target.write_note(BUNDLE, note)
        in_use = sum(bool(self.alive(part).any()) for part in range(len(self.parts)))
        parts, notes = in_use + (labels is not None), label_notes(labels) if labels else []
        return Changed(came, went, texts, unreadable, left, parts, notes)

    def _write_part(self, labels: LabelSet) -> tuple[dict[str, Any], int, int]:
        """Write what comes; returns what bundle.json says of it, texts, and unreadable ones."""
        with new_folder(self.target) as (folder, files):
            files.write_table(layout.LABELS, labels.table)
            texts = all_texts(files).to_pylist()
            encoded = load_encoder(self.parts[0], self.settings).encode_labels(texts)
            added = self.write_search(files, labels.table, encoded.vectors, len(self.parts))
            part = added_note(added, folder, describe_files(files))
        return part, len(texts), encoded.unreadable

    def write_search(self, files: Storage, labels: pa.Table, vectors: np.ndarray, others: int) -> AddedLabels:
        """Write what the ``labels`` in ``files`` are found by: an exact index of ``vectors`` (by row), and words, which
        weigh by their rarity among these labels and those of the first ``others`` parts."""
        with temporary_folder() as scratch:
            info = save_shard(build_shard(vectors, 0, EXACT_FACTORY), scratch / layout.index_shard(0), 0)
            files.upload(scratch / info.file, f"{layout.INDEX}/{info.file}")
        added = AddedLabels([info], label_fingerprint(labels))
        if words := open_words(self.parts, self.settings, self.removed):
            language = words[0].table.names.language
            write_lexical_files(files, LexicalSource(added.label_fingerprint, language), words[:others])
        return added


def reading_labels(prepare: PrepareConfig, overrides: Sequence[str]) -> PrepareConfig:
    """How files of labels are read: ``prepare`` with ``overrides``. Errors: UserError for a knob not in KNOBS."""
    for word in overrides:
        if word.partition("=")[0].removeprefix("prepare.") not in KNOBS:
            raise UserError(
                f"{word.partition('=')[0]} does not say how a file of labels is read; these knobs of prepare do: "
                f"{', '.join(KNOBS)}."
            )
    return apply_overrides(Config(prepare=prepare), list(overrides)).prepare
