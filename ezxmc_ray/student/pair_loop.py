"""The training step of the cross-encoder: :class:`StudentTrainer` with pairs in place of texts.

Comes in: the same batches as the bi-encoder's. Each judged pair of a document's shortlist goes through the network
once. The loss is ListNet's, as the bi-encoder's (losses.listwise_loss), over the document's own shortlist alone: no
pair with another document's label is read.
"""

from __future__ import annotations

import dataclasses
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from ezxmc_ray.encoder.cross_encoder import CrossEncoder
from ezxmc_ray.encoder.pairs import PairReader
from ezxmc_ray.student.data import Batch
from ezxmc_ray.student.loop import StepInput, StudentTrainer


class PairTrainer(StudentTrainer):
    """As :class:`StudentTrainer`, around a cross-encoder; ``objective``: of cross_training.cross_encoder_training."""

    encoder: CrossEncoder
    batch_key = "cross_encoder.batch_size"
    remedy = "lower cross_encoder.learning_rate, or set student.dtype=float32"

    @cached_property
    def _reader(self) -> PairReader:
        return self.encoder.pair_reader

    def tokenize(self, batch: Batch) -> StepInput:
        """What :meth:`step` takes: the judged pairs of this worker's documents, document after document."""
        documents, labels = _judged_pairs(batch)
        read = self.encoder.document_tokens(batch.document_texts or [""], self.config.max_document_tokens)
        of_labels = self._label_tokens.of([batch.label_texts[label] for label in labels])
        pairs = [
            self._reader.join(read.token_ids[document], label)
            for document, label in zip(documents, of_labels, strict=True)
        ]
        # A part without pairs still runs the network, on a text: the others wait for its gradients.
        kinds = [(pairs or read.token_ids[:1], "")]
        return self._grouped(batch, kinds, len(batch.document_texts), read.truncated)

    def _check_tokens(self) -> None:
        """Checked where the cross-encoder began (cross_encoder.check_pair_tokens)."""

    def _loss(self, vectors: Tensor, texts: StepInput) -> Tensor:
        """This worker's share of the loss, as the bi-encoder's."""
        scores = vectors[texts.places.to(vectors.device)].squeeze(1)
        here, everywhere = self.objective.teaching(texts.batch)
        if here == 0:
            return scores.sum() * 0.0
        batch = texts.batch
        places = torch.from_numpy(np.stack(_judged_pairs(batch))).to(scores.device)
        table = scores.new_zeros(batch.verdict.shape).index_put((places[0], places[1]), scores)
        only_judged = dataclasses.replace(batch, excluded=~_is_judged(batch))
        with torch.autocast(self.device.type, enabled=False):
            return self.objective.loss(table, only_judged) * (here * self.world / everywhere)


def _is_judged(batch: Batch) -> np.ndarray:
    """Which labels a document was judged with and may have, bool [b, m]."""
    is_judged: np.ndarray = np.isfinite(batch.verdict) & ~batch.excluded
    return is_judged


def _judged_pairs(batch: Batch) -> tuple[np.ndarray, np.ndarray]:
    """Documents and labels of these pairs, int64 [pairs] each, document after document."""
    documents, labels = np.nonzero(_is_judged(batch))
    return documents, labels
