"""How a cross-encoder is trained, as the knobs of a student's training.

It is apart from the loop (pair_loop.py), whose libraries take seconds to import.
"""

from __future__ import annotations

import dataclasses

from ezxmc_ray.config import Config


def cross_encoder_training(config: Config) -> Config:
    """``config`` with the knobs of the cross-encoder's training in place of the student's.

    Scores are logits, whose softmax has a temperature of 1; a pair of the shortlist is drawn by no chance that would
    have to be corrected; and no held-out document chooses the weights, since the last layer is fitted by all of them.
    """
    own = config.cross_encoder
    student = dataclasses.replace(
        config.student,
        loss="listwise",
        temperature=1.0,
        sampling_correction=False,
        epochs=own.epochs,
        batch_size=own.batch_size,
        max_batch_size=None,
        learning_rate=own.learning_rate,
        max_document_tokens=own.max_document_tokens,
        dropout=own.dropout,
        validate_every_steps=0,
        patience=0,
    )
    return dataclasses.replace(config, student=student)
