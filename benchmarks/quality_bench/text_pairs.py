"""Pairs of texts that need no teacher, in the form of the examples: the rivals that learn from documents alone.

Comes in: the documents' shards. Goes out: for each global batch the part of one worker, in which every document has
one right "label" of its own, a text: its title (``title``), or one of its own sentences (``sentence``), or another
part of it (``segment``); the other documents' texts are its in-batch negatives. What is drawn depends on seed, step and
document only, so that a training can be taken up again.

Sources: ``title`` is the first pseudo label of MACLR (arXiv 2112.08652), ``sentence`` its inverse cloze task (arXiv
1906.00300), ``segment`` randomized text segmentation (RTS, Zhang et al., Findings of EMNLP 2022). Their label
regularization and clustering are not built here.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

import numpy as np
import pyarrow.compute as pc

from ezxmc_ray import layout
from ezxmc_ray.encoder.document_text import document_text
from ezxmc_ray.storage import Storage
from ezxmc_ray.student.batches import Row
from ezxmc_ray.student.data import Batch
from ezxmc_ray.tables import DOCUMENTS_SCHEMA

#: A text of fewer words is not taken apart.
MIN_WORDS = 8
_SENTENCE_END = re.compile(r"(?<=[.!?])\s+")


def title_pair(title: str, text: str, random: np.random.Generator) -> tuple[str, str]:
    """The text, and its title as the label."""
    return text, title


def sentence_pair(title: str, text: str, random: np.random.Generator) -> tuple[str, str]:
    """The text without one of its sentences, and that sentence (inverse cloze task); of one sentence: its halves."""
    sentences = _SENTENCE_END.split(text.strip())
    if len(sentences) < 2:
        return segment_pair("", text, random)
    one = int(random.integers(len(sentences)))
    return " ".join(sentences[:one] + sentences[one + 1 :]), sentences[one]


def segment_pair(title: str, text: str, random: np.random.Generator) -> tuple[str, str]:
    """The text of a document with its title, cut in two at a random word; either part may be the document."""
    words = document_text(title, text).split()
    cut = int(random.integers(MIN_WORDS // 2, len(words) - MIN_WORDS // 2 + 1))
    parts = " ".join(words[:cut]), " ".join(words[cut:])
    return parts if random.random() < 0.5 else (parts[1], parts[0])


PAIRS: dict[str, Callable[[str, str, np.random.Generator], tuple[str, str]]] = {
    "title": title_pair,
    "sentence": sentence_pair,
    "segment": segment_pair,
}


class PairReader:
    """Pairs of the train documents with a text of at least MIN_WORDS words, and a title where it is the label.

    ``kind``: a key of PAIRS. ``skipped``: the train documents that are left out.
    """

    def __init__(self, storage: Storage, kind: str, seed: int, documents_dir: str = layout.DOCUMENTS) -> None:
        self._pair, self._seed = PAIRS[kind], seed
        self._texts: list[list[tuple[str, str]]] = []
        self.skipped = 0
        for name in storage.list(documents_dir, suffix=".parquet"):
            table = storage.read_table(name, DOCUMENTS_SCHEMA, columns=["title", "text", "split", "held_out"])
            table = table.filter(pc.and_(pc.equal(table["split"], "train"), pc.invert(table["held_out"])))
            texts = zip(table["title"].to_pylist(), table["text"].to_pylist(), strict=True)
            usable = [(title or "", text) for title, text in texts if self._has_parts(title, text)]
            self.skipped += len(table) - len(usable)
            self._texts.append(usable)
        self.rows_of_shards = [len(texts) for texts in self._texts]

    def _has_parts(self, title: str | None, text: str | None) -> bool:
        return len((text or "").split()) >= MIN_WORDS and (bool(title) or self._pair is not title_pair)

    def read(self, rows: Sequence[Row], step: int, rank: int = 0, world: int = 1) -> Batch:
        """The part ``rows[rank::world]`` of a global batch; labels are those of all its documents."""
        pairs = [
            self._pair(*self._texts[shard][row], np.random.default_rng([self._seed, step, shard, row]))
            for shard, row in rows
        ]
        labels = list(dict.fromkeys(label for _, label in pairs))
        mine = pairs[rank::world]
        verdict = np.full((len(mine), len(labels)), np.nan, dtype=np.float32)
        verdict[np.arange(len(mine)), [labels.index(label) for _, label in mine]] = 1.0
        return Batch(
            document_texts=[text for text, _ in mine],
            label_numbers=np.arange(len(labels), dtype=np.int32),
            label_texts=labels,
            label_weights=np.ones(len(labels)),  # the papers' losses know no others
            verdict=verdict,
            similarity=np.zeros_like(verdict),
            excluded=np.zeros(verdict.shape, dtype=bool),
            best_verdict=np.ones(len(pairs), dtype=np.float32),
        )
