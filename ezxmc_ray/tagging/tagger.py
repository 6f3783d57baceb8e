"""What a finished run is for: texts in, labels out, with the student and the index, without the LLM and without Ray.

Comes in: a run directory, or what ``ezxmc export`` made of one; texts. Goes out: labels with their scores. The command,
the stage ``predict``, the server and Python programs all tag by this class.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from types import TracebackType

import numpy as np
import pyarrow as pa

from ezxmc_ray import layout
from ezxmc_ray.encoder.document_encoder import DocumentEncoder
from ezxmc_ray.encoder.reranker import Reranker
from ezxmc_ray.errors import UserError
from ezxmc_ray.index.hybrid import HybridSearcher
from ezxmc_ray.index.label_texts import read_label_texts
from ezxmc_ray.index.lexical import OtherLabels
from ezxmc_ray.index.lexical_files import open_lexical_table
from ezxmc_ray.index.parts import PartedSearcher
from ezxmc_ray.index.search import NO_LABEL, ShardedIndex
from ezxmc_ray.integrity import checked
from ezxmc_ray.models import is_hub_id
from ezxmc_ray.storage import Storage
from ezxmc_ray.tables import LABELS_SCHEMA, PREDICTIONS_SCHEMA, list_columns
from ezxmc_ray.tagging.arguments import as_count, as_score, as_texts, column_of, some_ids
from ezxmc_ray.tagging.bundle import is_bundle, open_bundle
from ezxmc_ray.tagging.cross_encoder import load_reranker
from ezxmc_ray.tagging.hub_bundle import fetch_bundle
from ezxmc_ray.tagging.known_labels import NAMES, read_known_names
from ezxmc_ray.tagging.settings import TagSettings
from ezxmc_ray.tagging.why import Why, why


@dataclass(frozen=True)
class Tagged:
    """A label of a text. ``score``: its similarity: the cosine, and what the words add (index/hybrid.py); and with
    predict.rerank what the cross-encoder adds (encoder/reranker.py), then ``similarity`` is what it was without.

    ``probability``: of the teacher's yes at this score, by its verdicts on held-out documents; None where there were
    too few of them.
    """

    label_id: str
    text: str
    score: float
    probability: float | None
    similarity: float | None = None


@dataclass(frozen=True)
class Ranked:
    """Labels of documents: ``scores`` float32 and ``labels`` (label numbers) int32, [q, k], falling; ``counts`` int64
    [q]: how many of a row pass the threshold, which are its first. ``truncated``: documents that were cut.
    ``similarity``: of the same labels, where a cross-encoder made their scores; None: it is the score."""

    scores: np.ndarray
    labels: np.ndarray
    counts: np.ndarray
    truncated: int
    similarity: np.ndarray | None = None

    @property
    def passing(self) -> np.ndarray:
        """Which labels pass the threshold, bool [q, k]."""
        passing: np.ndarray = np.arange(self.labels.shape[1]) < self.counts[:, None]
        return passing


class Tagger:
    """Tags texts with the labels of a run; several threads may share one.

    >>> with Tagger.load(run) as tagger:  # doctest: +SKIP
    ...     [[label.text for label in labels] for labels in tagger.tag(["A text editor with colours."], k=2)]
    [['works with: text', 'use: editing']]
    """

    def __init__(
        self, storage: Storage, settings: TagSettings, added: Sequence[Storage] = (), has_known_labels: bool = False
    ) -> None:
        """See :meth:`load`; ``storage``: of a run that is known to be whole; ``added``: of settings.added.

        ``has_known_labels``: the files of the labels were held against checksums; else they are read whole for that.
        """
        self.encoder = load_encoder(storage, settings)
        parts = [storage, *added]
        self._counts = np.ones(sum(one.rows(layout.LABELS) for one in parts), bool)
        self._counts[settings.removed] = False
        self.searcher = _load_searcher(parts, settings, ~self._counts)
        labels = pa.concat_tables(
            _read_names(files, None if has_known_labels else fingerprint)
            for files, fingerprint in zip(parts, _label_fingerprints(settings), strict=True)
        )
        #: By label number; also of those that were removed.
        self.label_ids, self.label_texts = labels["id"].combine_chunks(), labels["text"].combine_chunks()
        self.settings = settings
        self.reranker = self._load_reranker(storage)
        self.top_k, self.min_score = settings.predict.top_k, settings.min_score

    @classmethod
    def load(cls, where: str, overrides: Sequence[str] = ()) -> Tagger:
        """The tagger of a run, or of a bundle that ``ezxmc export`` wrote.

        Args:
            where: a directory, an object-store URI, or the hub id of a bundle (org/name), unless that is a path here.
            overrides: knobs of a run, such as ``predict.top_k=3``.

        Errors: UserError for what is neither, is not finished, is damaged, or does not belong together.
        """
        return cls(*_open(where, overrides))

    def _load_reranker(self, storage: Storage) -> Reranker | None:
        """What ranks labels anew, where something does."""
        how = self.settings.reranking
        if how is None:
            return None
        return load_reranker(storage, self.settings.encoder, how, self.label_texts, self.settings.onnx)

    def __enter__(self) -> Tagger:
        """The tagger itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Nothing to do: files are mapped, and let go with the tagger."""

    @property
    def removed(self) -> np.ndarray:
        """Which labels were removed, bool by label number."""
        return ~self._counts

    @cached_property
    def labels(self) -> pa.Table:
        """All labels, in the order of their numbers: columns ``id`` and ``text``."""
        labels = pa.table({"id": self.label_ids, "text": self.label_texts})
        return labels if self._counts.all() else labels.filter(self._counts)

    def tag(
        self,
        texts: Sequence[str],
        k: int | None = None,
        min_score: float | None = None,
        titles: Sequence[str] | None = None,
        among: Sequence[str] | None = None,
    ) -> list[list[Tagged]]:
        """The labels of each of ``texts``, best first.

        Args:
            texts: of the documents; one that is empty, and whose title is, gets no label.
            k: labels a document at most; None: as the run's predict.top_k says.
            min_score: least score of a label; None: as the run has it, fitted or given; -1 keeps all.
            titles: of the same documents; None: they have none.
            among: ids of labels; no other is given. None: all labels.

        Errors: UserError for what is no list of texts, a bad k, titles that are not as many as texts, and ids that no
        label has.
        """
        texts = as_texts(texts, "texts")
        titles = [""] * len(texts) if titles is None else as_texts(titles, "titles")
        ranked = self.rank(titles, texts, k, min_score, among=among)
        curve = self.settings.chances
        found = []
        columns = (column.to_pylist() for column in self._lists(ranked))
        for row, (ids, names, scores) in enumerate(zip(*columns, strict=True)):
            chances = curve(scores).tolist() if curve else [None] * len(scores)
            before = (
                [None] * len(scores) if ranked.similarity is None else ranked.similarity[row, : len(scores)].tolist()
            )
            found.append([Tagged(*one) for one in zip(ids, names, scores, chances, before, strict=True)])
        return found

    def explain(
        self, texts: Sequence[str], tagged: Sequence[Sequence[Tagged]], titles: Sequence[str] | None = None
    ) -> list[list[Why]]:
        """Why each of ``texts`` got the labels that :meth:`tag` gave it: the cosine, the words that matched, and what
        the cross-encoder added."""
        whys = []
        for title, text, labels in zip(titles or [""] * len(texts), texts, tagged, strict=True):
            numbers = [self._number_of[label.label_id] for label in labels]
            before = [label.score if label.similarity is None else label.similarity for label in labels]
            found = why(self.searcher, title, text, numbers, before)
            if self.reranker:
                added = [label.score - was for label, was in zip(labels, before, strict=True)]
                found = [replace(one, cross_encoder=more) for one, more in zip(found, added, strict=True)]
            whys.append(found)
        return whys

    def tag_table(
        self,
        documents: pa.Table,
        k: int | None = None,
        min_score: float | None = None,
        among: Sequence[str] | None = None,
    ) -> pa.Table:
        """The labels of the rows of a table: PREDICTIONS_SCHEMA (columns id, label_ids, label_texts, scores).

        ``documents``: columns ``text``, ``title`` and ``id``, the last two of which may be absent; without ids rows are
        called by their number. A null is an empty text. The rest as in :meth:`tag`.
        """
        texts = column_of(documents, "text")
        if texts is None:
            raise UserError(
                f"The table has no column text, only {', '.join(documents.column_names) or 'none'}; rename one."
            )
        ids, titles = column_of(documents, "id"), column_of(documents, "title")
        ranked = self.rank(titles or [""] * len(texts), texts, k, min_score, among=among)
        return self.table_of(ids or list(map(str, range(len(texts)))), ranked)

    def tag_columns(
        self,
        ids: Sequence[str],
        titles: Sequence[str],
        texts: Sequence[str],
        excluded: Sequence[Sequence[int]] | None = None,
    ) -> tuple[pa.Table, int]:
        """PREDICTIONS_SCHEMA, by the run's own k and least score; and how many documents were cut.

        ``excluded``: label numbers that each document must not get.
        """
        ranked = self.rank(titles, texts, excluded=excluded)
        return self.table_of(ids, ranked), ranked.truncated

    def rank(
        self,
        titles: Sequence[str],
        texts: Sequence[str],
        k: int | None = None,
        min_score: float | None = None,
        excluded: Sequence[Sequence[int]] | None = None,
        among: Sequence[str] | None = None,
    ) -> Ranked:
        """As :meth:`tag`, in label numbers; ``excluded``: as in :meth:`tag_columns`."""
        k = self.top_k if k is None else as_count(k)
        least = self.min_score if min_score is None else as_score(min_score)
        if len(titles) != len(texts):
            raise UserError(f"There are {len(titles):,} titles for {len(texts):,} texts: give as many, or none.")
        numbers = None if among is None else self.numbers_of(among)
        encoded = self.encoder.encode_documents(titles, texts)
        first = self.settings.predict.rerank
        wanted = min(max(k, self.reranker.depth(first)) if self.reranker else k, int(self._counts.sum()))
        if numbers is None:
            scores, labels = self.searcher.search(encoded.vectors, titles, texts, wanted, excluded)
        else:
            scores, labels = self.searcher.search_among(encoded.vectors, titles, texts, wanted, numbers)
        similarity, truncated = None, encoded.truncated
        if self.reranker:
            anchors = None
            if numbers is not None:
                anchors = self.searcher.search(encoded.vectors, titles, texts, self.reranker.scale.anchor)[1]
            found = self.reranker.rerank(titles, texts, scores, labels, first, anchors)
            scores, labels, similarity = found.scores[:, :k], found.labels[:, :k], found.similarity[:, :k]
            truncated = max(truncated, found.truncated)  # the one that reads less cuts all that the other one does
            least = least if least > -1 else -np.inf  # what it makes of a similarity may be below
        keep = (labels != NO_LABEL) & (scores >= least) & has_text(titles, texts)[:, None]
        # What passes the threshold is a prefix of each row, since scores fall.
        return Ranked(scores, labels, keep.sum(axis=1), truncated, similarity)

    def pairs_of_text(self, among: int | None = None) -> int:
        """Pairs that the cross-encoder reads of a text, ``among`` so many labels or all, at most; 0: there is none."""
        if self.reranker is None:
            return 0
        first, labels = self.settings.predict.rerank, int(self._counts.sum())
        if among is None:
            return min(self.reranker.depth(first), labels)
        return min(first, among) + min(self.reranker.scale.anchor, labels)

    def numbers_of(self, label_ids: Sequence[str]) -> np.ndarray:
        """The label numbers of ``label_ids``, rising, int32. Errors: UserError for ids that no label has."""
        label_ids = as_texts(label_ids, "among")
        unknown = [one for one in label_ids if one not in self._number_of]
        if unknown:
            raise UserError(f"No label has the id {some_ids(unknown)}.")
        return np.unique(np.array([self._number_of[one] for one in label_ids], np.int32))

    @cached_property
    def _number_of(self) -> dict[str, int]:
        numbers = np.flatnonzero(self._counts).tolist()
        return dict(zip(self.labels["id"].to_pylist(), numbers, strict=True))

    def _lists(self, ranked: Ranked) -> list[pa.ListArray]:
        """Ids, texts, and scores of the labels that pass, by document."""
        numbers = pa.array(ranked.labels[ranked.passing], pa.int32())
        scores = pa.array(ranked.scores[ranked.passing], pa.float32())
        return list_columns(ranked.counts, self.label_ids.take(numbers), self.label_texts.take(numbers), scores)

    def table_of(self, ids: Sequence[str], ranked: Ranked) -> pa.Table:
        """PREDICTIONS_SCHEMA of the documents ``ids``."""
        return pa.Table.from_arrays([pa.array(ids, pa.string()), *self._lists(ranked)], schema=PREDICTIONS_SCHEMA)


def has_text(titles: Sequence[str], texts: Sequence[str]) -> np.ndarray:
    """Which documents say anything, bool [q]: the others get no label."""
    return np.array([bool(title.strip() or text.strip()) for title, text in zip(titles, texts, strict=True)], bool)


def open_settings(where: str, overrides: Sequence[str] = ()) -> tuple[Storage, TagSettings, list[Storage]]:
    """What :meth:`Tagger.load` makes a tagger of. Errors: as there."""
    return _open(where, overrides)[:3]


def _open(where: str, overrides: Sequence[str]) -> tuple[Storage, TagSettings, list[Storage], bool]:
    """As :func:`open_settings`; and whether the labels were held against their checksums, as those of a bundle are."""
    if is_hub_id(where):
        where = fetch_bundle(where)
    if is_bundle(Storage(where)):
        return *open_bundle(where, overrides), True
    from ezxmc_ray.tagging.opening import open_for_tagging  # what runs are made by, which a bundle does without

    return *open_for_tagging(where, overrides), [], False


def _load_searcher(parts: Sequence[Storage], settings: TagSettings, removed: np.ndarray) -> PartedSearcher:
    """Of the labels in ``parts``; ``removed``: bool, by label number."""
    words = open_words(parts, settings, removed)
    shards = [settings.shards, *(one.shards for one in settings.added)]
    searchers, first = list[HybridSearcher](), 0
    for number, files in enumerate(parts):
        stop = first + files.rows(layout.LABELS)
        gone = removed[first:stop] if removed[first:stop].any() else None
        texts = read_label_texts(files)
        index = ShardedIndex.load(files, layout.INDEX, shards[number], settings.gpu_dtype, texts, gone)
        searchers.append(HybridSearcher(index, words[number].table if words else None, settings.lexical))
        first = stop
    return PartedSearcher(searchers)


def open_words(parts: Sequence[Storage], settings: TagSettings, removed: np.ndarray) -> list[OtherLabels]:
    """The words of the labels in each of ``parts``, and which of them are ``removed`` (bool, by label number).

    None where words do not count. Errors: UserError as open_lexical_table.
    """
    words, first = list[OtherLabels](), 0
    for files, fingerprint in zip(parts, _label_fingerprints(settings), strict=True) if settings.lexical.weight else ():
        language = words[0].table.names.language if words else None
        table = open_lexical_table(files, fingerprint, language, words)
        words.append(OtherLabels(table, removed[first : first + table.labels]))
        first += table.labels
    return words


def _label_fingerprints(settings: TagSettings) -> list[str]:
    """Of the labels in each part."""
    return [settings.label_fingerprint, *(one.label_fingerprint for one in settings.added)]


def _read_names(files: Storage, fingerprint: str | None) -> pa.Table:
    """NAMES of the labels; of such as have the ``fingerprint``, if there is one."""
    if fingerprint is None:
        return files.read_table(layout.LABELS, LABELS_SCHEMA, NAMES)
    return read_known_names(files, fingerprint)


def load_encoder(storage: Storage, settings: TagSettings) -> DocumentEncoder:
    """The student of a run or a bundle. Errors: UserError where it is damaged, or cannot be loaded here."""
    with checked(storage, settings.encoder_folder) as folder:
        if settings.onnx:
            from ezxmc_ray.encoder.onnx_encoder import OnnxEncoder

            return OnnxEncoder.load(folder, settings.encoder)
        from ezxmc_ray.encoder.encoder import Encoder  # seconds of imports, not for who only names this class

        return Encoder.load(str(folder), settings.encoder)
