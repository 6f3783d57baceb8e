"""``ezxmc export --labels FILE``: a bundle of another label set, without training anew; no stage of a run.

In: a run, and files of labels: the run's own with some added, removed or called otherwise, or others altogether. Out:
in the bundle's files labels.parquet, lexical/ and index/. Texts that the run has keep their vectors; the student
embeds the others, and no more.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, partial

import numpy as np

from ezxmc_ray import layout
from ezxmc_ray.context import Context
from ezxmc_ray.documents.label_files import read_label_files
from ezxmc_ray.documents.parts import label_fingerprint
from ezxmc_ray.documents.told import label_notes
from ezxmc_ray.encoder.encoder import Encoder
from ezxmc_ray.index.build import AUTO, EXACT_FACTORY, ShardInfo, auto_factory, is_exact
from ezxmc_ray.index.label_texts import all_texts
from ezxmc_ray.index.label_vectors import READ_AT_ONCE, map_label_vectors
from ezxmc_ray.index.lexical_files import LexicalSource, tell_language, write_lexical_files
from ezxmc_ray.index.measure import Nearest, choose_cells, nearest_labels
from ezxmc_ray.integrity import checked
from ezxmc_ray.progress import say
from ezxmc_ray.stages.index import (
    Plan,
    Slice,
    commit_shard,
    embed_documents,
    recall_of,
    slices_of,
    tell_low_recall,
)
from ezxmc_ray.storage import Storage
from ezxmc_ray.tables import LABELS_SCHEMA
from ezxmc_ray.tagging.changes import reading_labels


@dataclass(frozen=True)
class NewLabels:
    """What was written: the labels' ``fingerprint`` and the ``shards`` of their index; how many ids the run has not
    (``added``), or has alone (``gone``), and how many texts the student had to embed (``embedded``)."""

    fingerprint: str
    shards: list[ShardInfo]
    labels: int
    added: int
    gone: int
    embedded: int


def write_new_labels(
    context: Context, files: Storage, labels: Sequence[str], overrides: Sequence[str] = ()
) -> NewLabels:
    """Write what tagging with the labels in the files ``labels`` needs, the student apart, into ``files``.

    They are read as ``prepare`` reads labels, but for the knobs in ``overrides`` (changes.KNOBS). Errors: UserError for
    other knobs, for files that cannot be read, and for bad rows unless prepare.on_bad_rows is skip.
    """
    config, storage = context.config, context.storage
    found = read_label_files(reading_labels(config.prepare, overrides), labels)
    for told in label_notes(found):
        say(f"{told}.")
    files.write_table(layout.LABELS, found.table)
    vectors = _Vectors(context, files)
    fingerprint = label_fingerprint(found.table)
    language = config.lexical.language
    if language == "auto":  # new labels tell less of it than the run's documents
        language = tell_language(storage)
    write_lexical_files(files, LexicalSource(fingerprint, language))
    shards = _build(context, files, vectors)
    before = set(storage.read_table(layout.LABELS, LABELS_SCHEMA, ["id"])["id"].to_pylist())
    now = set(found.table["id"].to_pylist())
    return NewLabels(fingerprint, shards, len(now), len(now - before), len(before - now), len(vectors.new))


class _Vectors:
    """The vectors of all texts of the new labels, in their order: of the run where it has the text, or ``new``."""

    def __init__(self, context: Context, files: Storage) -> None:
        storage = context.storage
        encoder = context.manifest(layout.STUDENT).details["encoder"]
        self.old = map_label_vectors(storage, layout.label_vectors(encoder))
        known = {text: row for row, text in enumerate(all_texts(storage).to_pylist())}
        texts = all_texts(files).to_pylist()
        #: Of each text its row in ``old``, or behind it in ``new``: int64 [texts].
        self.rows = np.array([known.get(text, -1) for text in texts], np.int64)
        missing = np.flatnonzero(self.rows < 0)
        self.rows[missing] = len(self.old) + np.arange(len(missing))
        self._context = context
        self.new = self.encoder.encode_labels([texts[row] for row in missing]).vectors if len(missing) else self.old[:0]

    @cached_property
    def encoder(self) -> Encoder:
        """The student, loaded where it is needed."""
        with checked(self._context.storage, layout.STUDENT) as student:
            return Encoder.load(str(student), self._context.config.encoder)

    def blocks(self, first: int, stop: int) -> Iterator[np.ndarray]:
        """Those of the texts ``first`` to ``stop``, block by block: [m, d]."""
        for start in range(first, stop, READ_AT_ONCE):
            rows = self.rows[start : min(start + READ_AT_ONCE, stop)]
            block = np.empty((len(rows), self.old.shape[1]), self.old.dtype)
            is_old = rows < len(self.old)
            block[is_old], block[~is_old] = self.old[rows[is_old]], self.new[rows[~is_old] - len(self.old)]
            yield block


def _build(context: Context, files: Storage, vectors: _Vectors) -> list[ShardInfo]:
    """The index, as the run's configuration has it for a machine without GPUs; auto's cells are chosen anew, by
    documents of the run, and what the index finds is told by others of them."""
    config = context.config.index
    slices = slices_of(len(vectors.rows), config.shard_labels)
    plan, told_by = _plan(context, vectors, slices[0])
    infos = [commit_shard(files, partial(vectors.blocks, one.first, one.stop), one, plan)[0] for one in slices]
    if told_by is not None:
        tell_low_recall(recall_of(files, infos, told_by)[f"at_{told_by.labels.shape[1]}"], config.recall)
    return infos


def _plan(context: Context, vectors: _Vectors, first: Slice) -> tuple[Plan, Nearest | None]:
    """How the shards are built, and what the recall is told by of one whose cells were chosen by the first slice."""
    config, texts = context.config.index, len(vectors.rows)
    if config.factory != AUTO:
        return Plan(config.factory, config.probes, config.recall), None
    if is_exact(config, texts, gpus=0):
        return Plan(EXACT_FACTORY, config.probes, config.recall), None
    queries = embed_documents(context.storage, vectors.encoder, context.shards)
    k = min(max(1, context.config.lexical.candidates), texts)
    nearest = Nearest(queries, nearest_labels(vectors.blocks(0, texts), 0, queries, k)[1])
    chosen_by, told_by = nearest.halves()
    blocks = partial(vectors.blocks, first.first, first.stop)
    cells, _ = choose_cells(blocks, first.first, first.stop - first.first, chosen_by, config.recall)
    return Plan(auto_factory(cells, queries.shape[1]), 0, config.recall, cells, chosen_by), told_by
