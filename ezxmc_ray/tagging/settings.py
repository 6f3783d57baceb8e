"""How a tagger tags, whether it is a run's or a bundle's."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from ezxmc_ray import layout
from ezxmc_ray.config import ClusterConfig, EncoderConfig, LexicalConfig, PredictConfig, PrepareConfig
from ezxmc_ray.index.build import ShardInfo
from ezxmc_ray.metrics.thresholds import LeastScores, ProbabilityCurve
from ezxmc_ray.tagging.cross_encoder import CrossSettings


@dataclass(frozen=True)
class AddedLabels:
    """Labels that were added to a bundle: the ``shards`` of their index, and their ``label_fingerprint``.

    ``part``: a name by chance, of the time that they came, since words weigh by what was there then; empty where they
    are being written.
    """

    shards: list[ShardInfo]
    label_fingerprint: str
    part: str = ""

    @property
    def note(self) -> dict[str, Any]:
        """What bundle.json says of it; the part's name is its folder's."""
        return {"shards": [asdict(one) for one in self.shards], "label_fingerprint": self.label_fingerprint}


@dataclass(frozen=True)
class TagSettings:
    """How a run tags. ``predict`` and ``least_scores`` give ``min_score``, a similarity (index/hybrid.py).

    ``cross_encoder``: what ranks the first ``predict.rerank`` labels anew, where that is not 0. Least scores and
    chances of the scores that it gives are its own; ``least_scores`` and ``probability`` are of the similarity.

    ``gpu_dtype``: see :class:`ShardedIndex`. ``probability``: of a teacher's yes; None where it was not fitted.
    ``encoder_folder``: where the student lies; ``onnx``: it is there as onnx_export.py writes it. ``prepare``: names
    the columns of files that are tagged. ``cluster``: where many files are tagged, by actors of ``gpus_per_actor``.
    ``added``: labels after those of ``shards``, in the order of their numbers. ``removed``: label numbers, rising.
    Errors: UserError where no least score has predict.precision.
    """

    encoder: EncoderConfig
    lexical: LexicalConfig
    shards: list[ShardInfo]
    predict: PredictConfig
    least_scores: LeastScores
    label_fingerprint: str
    gpu_dtype: str | None = None
    probability: ProbabilityCurve | None = None
    encoder_folder: str = layout.STUDENT
    onnx: bool = False
    prepare: PrepareConfig = field(default_factory=PrepareConfig)
    cluster: ClusterConfig = field(default_factory=ClusterConfig)
    added: list[AddedLabels] = field(default_factory=list)
    removed: list[int] = field(default_factory=list)
    gpus_per_actor: int = 1
    cross_encoder: CrossSettings | None = None
    min_score: float = field(init=False)

    def __post_init__(self) -> None:
        fitted = self.reranking.least_scores if self.reranking else self.least_scores
        object.__setattr__(self, "min_score", fitted.choose(self.predict.min_score, self.predict.precision))

    @property
    def reranking(self) -> CrossSettings | None:
        """The cross-encoder, if it is to be asked."""
        return self.cross_encoder if self.predict.rerank else None

    @property
    def chances(self) -> ProbabilityCurve | None:
        """Of a teacher's yes, by the score that a label has."""
        return self.reranking.probability if self.reranking else self.probability

    @property
    def cut_at(self) -> str:
        """The knob of how much of a document is read, of that network that reads less."""
        reads_less = self.reranking and self.reranking.config.max_document_tokens < self.encoder.max_document_tokens
        return f"{'cross_encoder' if reads_less else 'encoder'}.max_document_tokens"
