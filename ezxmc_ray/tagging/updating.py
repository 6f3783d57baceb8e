"""Tags that are brought up to date when the labels of a bundle have changed, without asking all labels again.

Comes in: a tagger with the labels of now, which labels there were then, documents and the tags that they got then. Goes
out: the tags that a search of all labels gives. Labels that came since are parts of their own (index/parts.py): a
document is asked about these alone, and what is found is merged with its tags by score, ties by label number. Tags of
labels that went are left out. A label that is called otherwise went and came again with another number. The words of
labels that were there weigh as they did, so that their scores stand.

A document is searched anew where a label that is not among its tags may belong there now: where a full list of tags
lost one and no label that came with a higher score takes the place, and where a label may be proposed in place of one
that went (PartedSearcher.newly_proposed).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from ezxmc_ray.errors import UserError
from ezxmc_ray.index.search import NO_LABEL
from ezxmc_ray.tagging.files import TagColumns, TagRow
from ezxmc_ray.tagging.tagger import Ranked, Tagger, has_text

#: Scores that are nearer are not told apart: in texts they are rounded, and the last bits of a document's vector differ
#: from batch to batch.
MARGIN = 1e-5
#: What to do where tags cannot be brought up to date.
ANEW = "tag them anew, without --new-labels"


@dataclass(frozen=True)
class LabelsThen:
    """The labels that there were: those of the bundle's first ``parts``, without the numbers ``removed``."""

    parts: int
    removed: list[int]


@dataclass
class Asked:
    """Documents that were asked about all labels, about those that came since only (``new``), or about none."""

    all: int = 0
    new: int = 0
    none: int = 0

    def add(self, other: Asked) -> None:
        """Count what ``other`` counted as well."""
        self.all, self.new, self.none = self.all + other.all, self.new + other.new, self.none + other.none


class _Found(NamedTuple):
    """Scores float32 and label numbers int32, [q, m]; -inf and NO_LABEL where there is none."""

    scores: np.ndarray
    labels: np.ndarray

    @classmethod
    def nothing(cls, documents: int, width: int) -> _Found:
        shape = (documents, width)
        return cls(np.full(shape, -np.inf, np.float32), np.full(shape, NO_LABEL, np.int32))

    def put(self, rows: np.ndarray, found: _Found) -> None:
        """In place of ``rows`` (int [r]): what was ``found`` for them, [r, <= m]."""
        width = found.labels.shape[1]
        self.scores[rows], self.labels[rows] = -np.inf, NO_LABEL
        self.scores[rows, :width], self.labels[rows, :width] = found

    def drop(self, where: np.ndarray) -> None:
        """Take out what is ``where`` (bool [q, m])."""
        self.scores[where], self.labels[where] = -np.inf, NO_LABEL


class TagUpdater:
    """Brings tags of ``then`` up to date with the labels of ``tagger``; ``asked`` counts what that took."""

    def __init__(self, tagger: Tagger, then: LabelsThen) -> None:
        self.tagger, self.asked = tagger, Asked()
        self._parts = then.parts
        removed = np.zeros(tagger.searcher.starts[then.parts], bool)
        removed[then.removed] = True
        numbers = np.flatnonzero(~removed)
        ids = tagger.label_ids.take(pa.array(numbers)).to_pylist()
        self._number_of = dict(zip(ids, numbers.tolist(), strict=True))
        #: Labels that came, and went: their tags go.
        self.came = tagger.searcher.labels_since(then.parts)
        self._went = tagger.removed
        self._k = min(tagger.top_k, len(tagger.labels))
        self._lost = tagger.searcher.parts_that_lost(min(tagger.top_k, len(numbers)), removed)

    def following(self, tags: Iterator[TagRow]) -> TagColumns:
        """A function that tags documents in the order of ``tags``, theirs of then; it counts none that is cut.

        It raises UserError for tags of other documents, or with labels that there were not.
        """

        def tag(ids: list[str], titles: list[str], texts: list[str]) -> tuple[pa.Table, int]:
            return self.update(ids, titles, texts, list(islice(tags, len(ids)))), 0

        return tag

    def update(
        self, ids: Sequence[str], titles: Sequence[str], texts: Sequence[str], tags: Sequence[TagRow]
    ) -> pa.Table:
        """PREDICTIONS_SCHEMA of documents whose ``tags`` of then are given. Errors: as :meth:`following`."""
        _check_ids(ids, tags)
        then = self._read(tags)
        there = then.labels != NO_LABEL
        went = there & self._went[then.labels]
        is_full = there.sum(axis=1) >= self.tagger.top_k
        #: No label beyond a full list has a higher score than its last.
        beyond = np.where(is_full & went.any(axis=1), then.scores.min(axis=1, initial=np.inf, where=there), -np.inf)
        then.drop(went)
        is_asked = has_text(titles, texts)
        if not self.came and not self._lost:  # only who lost a tag may get another
            is_asked &= np.isfinite(beyond)
        rows = np.flatnonzero(is_asked)
        merged = self._ask(then, beyond, rows, [titles[row] for row in rows], [texts[row] for row in rows])
        self.asked.none += len(ids) - len(rows)
        return self.tagger.table_of(ids, Ranked(*merged, (merged.labels != NO_LABEL).sum(axis=1), 0))

    def _ask(
        self, then: _Found, beyond: np.ndarray, rows: np.ndarray, titles: Sequence[str], texts: Sequence[str]
    ) -> _Found:
        """The k best of ``then`` and of what the documents ``rows``, with these ``titles`` and ``texts``, get now."""
        new = _Found.nothing(len(then.labels), self._k)
        vectors = self.tagger.encoder.encode_documents(titles, texts).vectors if len(rows) else np.zeros((0, 1))
        if self.came and len(rows):
            new.put(rows, self._search(vectors, titles, texts, self._parts))
        merged, is_unsure = self._merge(then, new, beyond)
        if self._lost and len(rows):
            last = merged.scores[rows, -1]
            last = np.where(np.isfinite(last), last, self.tagger.min_score)
            bound = self.tagger.searcher.newly_proposed(vectors, titles, texts, self._lost)
            is_unsure[rows] |= bound >= last - MARGIN
        again = np.flatnonzero(is_unsure[rows])
        if len(again):
            few_titles, few_texts = ([column[place] for place in again] for column in (titles, texts))
            merged.put(rows[again], self._search(vectors[again], few_titles, few_texts))
        self.asked.all += len(again)
        self.asked.new += len(rows) - len(again)
        return merged

    def _search(self, vectors: np.ndarray, titles: Sequence[str], texts: Sequence[str], since: int = 0) -> _Found:
        """The best labels of the parts from ``since`` on, those of the least score."""
        found = _Found(*self.tagger.searcher.search(vectors, titles, texts, self._k, since=since))
        found.drop(found.scores < self.tagger.min_score)
        return found

    def _merge(self, then: _Found, new: _Found, beyond: np.ndarray) -> tuple[_Found, np.ndarray]:
        """The k best of both, and which documents a label may be missing from: one ``beyond`` (a score or -inf, [q])
        what they had, or one that scores like the last."""
        scores, labels = (np.concatenate(both, axis=1) for both in zip(then, new, strict=True))
        order = np.lexsort((labels, -scores), axis=1)
        scores, labels = np.take_along_axis(scores, order, axis=1), np.take_along_axis(labels, order, axis=1)
        is_new = order >= then.labels.shape[1]
        is_sure = (labels != NO_LABEL) & (~is_new | (scores > beyond[:, None] + MARGIN))
        is_unsure = np.isfinite(beyond) & (is_sure.sum(axis=1) < self._k)
        is_close = np.zeros(len(labels), bool)
        if scores.shape[1] > self._k:
            has_next = labels[:, self._k] != NO_LABEL
            is_close[has_next] = scores[has_next, self._k - 1] - scores[has_next, self._k] <= MARGIN
        return _Found(scores[:, : self._k].copy(), labels[:, : self._k].copy()), is_unsure | is_close

    def _read(self, tags: Sequence[TagRow]) -> _Found:
        """Of each document its tags."""
        found = _Found.nothing(len(tags), max(self.tagger.top_k, *(len(row[1]) for row in tags)))
        for place, (document, names, scores) in enumerate(tags):
            unknown = [name for name in names if name not in self._number_of]
            if unknown:
                raise UserError(
                    f"The tags of {document!r} have the label {unknown[0]!r}, which there was not when they were made: "
                    f"{ANEW}."
                )
            found.labels[place, : len(names)] = [self._number_of[name] for name in names]
            found.scores[place, : len(names)] = scores
        return found


def _check_ids(ids: Sequence[str], tags: Sequence[TagRow]) -> None:
    """Errors: UserError where the tags are not those of the documents."""
    for place, document in enumerate(ids):
        if place >= len(tags) or tags[place][0] != document:
            found = repr(tags[place][0]) if place < len(tags) else "no more"
            raise UserError(
                f"The documents are not those that were tagged: where the document {document!r} comes, the tags have "
                f"{found}: {ANEW}."
            )
