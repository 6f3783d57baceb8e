"""The knobs of what a document gets, and of the cross-encoder that may order it. Sections of schema.py's Config."""

from __future__ import annotations

from dataclasses import dataclass

from ezxmc_ray.config.knobs import knob


@dataclass
class CrossEncoderConfig:
    """How the cross-encoder learns from the verdicts (predict.rerank); else as section student says."""

    weight: float = knob(
        0.5,
        "of its score beside the similarity, both by how far they lie apart within a document; another one is fitted anew, not trained",
        above=0,
    )
    epochs: float = knob(4.0, "passes over the examples", above=0)
    batch_size: int = knob(4, "documents a step of one worker, each with its whole shortlist", above=0)
    learning_rate: float = knob(5e-5, "peak learning rate of AdamW, of a step of batch_size documents", above=0)
    max_document_tokens: int = knob(128, "tokens of a document that it reads; the label's come on top", above=0)
    dropout: bool = knob(True, "the encoder's own dropout, which its several passes need")


@dataclass
class PredictConfig:
    """How many labels a document gets."""

    top_k: int = knob(10, "labels a document at most", above=0)
    min_score: float | None = knob(
        None,
        "least score: the similarity (cosine, and words), and what the cross-encoder adds; null: fitted on the teacher's verdicts on held-out documents; -1 keeps all",
        least=-1_000,
        most=1_000,
    )
    precision: float | None = knob(
        None,
        "share of the predicted labels that the teacher would say yes to, 0 to 1, by which min_score=null is fitted: the more, the fewer labels, or none; null: as many as agree best with its yes (F1)",
        above=0,
        most=0.99,
    )
    rerank: int = knob(
        0,
        "the first so many labels of a document are ranked anew by a cross-encoder, which the run then trains on its verdicts: better tags for so many forwards a document; 0 = none; 30 is a good number",
    )
    rerank_candidates: int | None = knob(
        None,
        "labels a document that ezxmc tag --rerank asks the teacher about, of which top_k are kept at most; null: twice top_k",
        above=0,
        performance=True,
    )
