"""What every worker of the stage ``train`` is told by the driver; it travels pickled."""

from __future__ import annotations

from dataclasses import dataclass

from ezxmc_ray import layout
from ezxmc_ray.config import Config
from ezxmc_ray.storage import Storage
from ezxmc_ray.student.targets import TargetScale


@dataclass(frozen=True)
class TrainingPlace:
    """Where a training keeps its checkpoints, ``folder``, and writes what it trained, ``target``; ``name``: how it is
    called. ``is_cross_encoder``: what it trains begins with the weights of ``student/`` and reads pairs."""

    folder: str
    target: str
    name: str
    is_cross_encoder: bool = False

    @classmethod
    def of_cycle(cls, cycle: int) -> TrainingPlace:
        """Of the student of ``cycle``."""
        return cls(layout.cycle_folder(cycle), layout.cycle_student(cycle), f"cycle {cycle} train")


#: Of the cross-encoder.
CROSS_PLACE = TrainingPlace(layout.CROSS_ENCODER, layout.CROSS_NETWORK, "cross-encoder", is_cross_encoder=True)


@dataclass(frozen=True)
class TrainSettings:
    """One training: where, of which cycle, how many ``steps``, and by which scale and thresholds of a yes.

    ``batch_size``: documents of a step, over all workers.
    ``earlier_thresholds``: of the cycles before, as far as their verdicts teach. ``command``: a worker that starts
    again knows by it whether it is still the same command. ``is_half``: cycles.halves_held_out.
    """

    place: TrainingPlace
    config: Config
    storage: Storage
    cycle: int
    steps: int
    batch_size: int
    scale: TargetScale
    yes_threshold: float
    earlier_thresholds: list[float]
    command: str
    is_half: bool = False
