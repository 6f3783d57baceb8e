"""The cross-encoder of a run or a bundle, for who tags with it (predict.rerank).

Comes in: what the stage cross_encoder found, or bundle.json says. Goes out: how it ranks anew, and the network.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from ezxmc_ray import layout
from ezxmc_ray.config import CrossEncoderConfig, EncoderConfig
from ezxmc_ray.encoder.pairs import PairNetwork, pair_config
from ezxmc_ray.encoder.reranker import Reranker, RerankScale
from ezxmc_ray.integrity import checked, damaged_files
from ezxmc_ray.metrics.thresholds import LeastScores, ProbabilityCurve
from ezxmc_ray.storage import Manifest, Storage, read_manifest


@dataclass(frozen=True)
class CrossSettings:
    """How a cross-encoder ranks labels anew: as section ``cross_encoder`` says it reads, by ``scale``.

    ``least_scores`` and ``probability``: of the new scores, as those of TagSettings are of the similarity.
    """

    config: CrossEncoderConfig
    scale: RerankScale
    least_scores: LeastScores
    probability: ProbabilityCurve | None

    @classmethod
    def of(cls, details: Mapping[str, Any]) -> CrossSettings:
        """By the ``details`` of the stage's manifest."""
        config = CrossEncoderConfig(**details["settings"])
        scale = RerankScale(float(details["per_score"]), int(details["anchor"]))
        return cls(config, scale, LeastScores.of(details), ProbabilityCurve.of(details["probability"]))

    @property
    def note(self) -> dict[str, Any]:
        """What bundle.json says of it; see :meth:`of_note`."""
        return dataclasses.asdict(self)

    @classmethod
    def of_note(cls, told: Mapping[str, Any]) -> CrossSettings:
        """The inverse of :attr:`note`."""
        thresholds = told["least_scores"]["by_precision"]
        return cls(
            CrossEncoderConfig(**told["config"]),
            RerankScale(**told["scale"]),
            LeastScores(told["least_scores"]["best"], tuple(thresholds) if thresholds else None),
            ProbabilityCurve.of(told["probability"]),
        )


def trained_network(storage: Storage, mark: str | None) -> Manifest | None:
    """The manifest of a run's network, if it was trained in a folder that was begun with the fingerprint ``mark``
    (integrity.note_begun), and no file of it is missing or of another size; of older versions None."""
    found = read_manifest(storage, layout.CROSS_NETWORK)
    if found is None or found.fingerprint != mark or damaged_files(storage, found):
        return None
    return found


def load_reranker(
    storage: Storage, encoder: EncoderConfig, how: CrossSettings, label_texts: pa.StringArray, onnx: bool = False
) -> Reranker:
    """What ranks labels with these preferred texts (by label number) anew. Errors: as :func:`load_pairs`."""
    return Reranker(load_pairs(storage, encoder, how.config, onnx), label_texts, how.scale)


def load_pairs(storage: Storage, encoder: EncoderConfig, config: CrossEncoderConfig, onnx: bool = False) -> PairNetwork:
    """The network in ``cross_encoder/network``; ``onnx``: as onnx_export.py writes it.

    Errors: UserError where it is damaged, or cannot be loaded here.
    """
    reading = pair_config(encoder, config)
    with checked(storage, layout.CROSS_NETWORK, layout.CROSS_ENCODER) as network:
        if onnx:
            from ezxmc_ray.encoder.onnx_encoder import load_onnx_pairs

            return load_onnx_pairs(network, reading)
        from ezxmc_ray.encoder.cross_encoder import CrossEncoder  # seconds of imports

        return CrossEncoder.load(str(network), reading).pairs
