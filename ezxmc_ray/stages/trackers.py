"""The curves of a training, also to where a team looks at them: TensorBoard, Weights & Biases, MLflow.

Comes in: figures of a step by name. Goes out: to TensorBoard as event files (what writes them comes with Ray), to the
others through their own libraries, which are installed and set up by those who use them (WANDB_API_KEY,
MLFLOW_TRACKING_URI and so on, on the node of the first training worker).
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from ezxmc_ray.errors import UserError, one_line

#: Seconds that a point waits at most before it is in TensorBoard's file.
FLUSH_S = 1
PROJECT = "ezxmc-ray"
#: The module behind each name of ``student.trackers``.
MODULES = {"tensorboard": "tensorboardX", "wandb": "wandb", "mlflow": "mlflow"}


class Tracker(Protocol):
    """Takes figures, and is closed in the end."""

    def log(self, step: int, figures: Mapping[str, float]) -> None:
        """Figures by name after ``step`` steps."""

    def close(self) -> None:
        """No more figures come."""


class Trackers:
    """Trackers by name, which take the same figures; ``lost``: by name why one took no more of them.

    A server that is gone in the middle costs its curve and not the training.
    """

    def __init__(self, opened: Mapping[str, Tracker]) -> None:
        self._opened = dict(opened)
        self.lost: dict[str, str] = {}

    def log(self, step: int, figures: Mapping[str, float]) -> None:
        """Figures by name after ``step`` steps."""
        self._each(lambda tracker: tracker.log(step, figures))

    def close(self) -> None:
        """No more figures come."""
        self._each(lambda tracker: tracker.close())

    def _each(self, act: Callable[[Tracker], None]) -> None:
        for name, tracker in list(self._opened.items()):
            try:
                act(tracker)
            except Exception as error:  # each library has errors of its own
                self.lost[name] = _cause(error)
                del self._opened[name]


def check_trackers(names: Sequence[str]) -> None:
    """Refuse trackers whose module is not installed here; nothing is imported. Errors: UserError."""
    for name in names:
        if importlib.util.find_spec(MODULES[name]) is None:
            raise _not_installed(name)


def open_trackers(names: Sequence[str], title: str, folder: Path, settings: Mapping[str, Any]) -> Trackers:
    """One tracker a name; ``folder`` takes what they write, ``settings`` what they show of the configuration.

    Errors: UserError for one that is not installed, or does not begin (no key, no server).
    """
    kinds: dict[str, Callable[..., Tracker]] = {
        "tensorboard": _TensorBoard,
        "wandb": _WeightsAndBiases,
        "mlflow": _MLflow,
    }
    opened: dict[str, Tracker] = {}
    for name in names:
        module = _module(name)
        try:
            opened[name] = kinds[name](module, title, folder, settings)
        except Exception as error:  # each library has errors of its own
            Trackers(opened).close()
            raise _refused(name, f"does not begin ({_cause(error)})") from error
    return Trackers(opened)


def _module(name: str) -> Any:
    try:
        return importlib.import_module(MODULES[name])
    except ImportError as error:
        if error.name == MODULES[name] and isinstance(error, ModuleNotFoundError):
            raise _not_installed(name) from error
        raise _refused(name, f"cannot be imported ({_cause(error)})") from error


def _not_installed(name: str) -> UserError:
    return _refused(name, "is not installed", "install it on every node")


def _refused(name: str, why: str, remedy: str = "set it up there") -> UserError:
    return UserError(
        f"student.trackers has {name}, but {MODULES[name]} {why} where the student is trained: {remedy}, or leave "
        f"{name} out."
    )


def _cause(error: Exception) -> str:
    return one_line(error).rstrip(".")


class _TensorBoard:
    def __init__(self, module: Any, title: str, folder: Path, settings: Mapping[str, Any]) -> None:
        # A checkpoint takes the file as it is, and what is still in the writer's queue is lost with the worker.
        self.writer = module.SummaryWriter(str(folder), flush_secs=FLUSH_S)

    def log(self, step: int, figures: Mapping[str, float]) -> None:
        for name, value in figures.items():
            self.writer.add_scalar(name, value, step)

    def close(self) -> None:
        self.writer.close()


class _WeightsAndBiases:
    def __init__(self, module: Any, title: str, folder: Path, settings: Mapping[str, Any]) -> None:
        self.run = module.init(project=PROJECT, name=title, dir=str(folder), config=dict(settings))

    def log(self, step: int, figures: Mapping[str, float]) -> None:
        self.run.log(dict(figures), step=step)

    def close(self) -> None:
        self.run.finish()


class _MLflow:
    def __init__(self, module: Any, title: str, folder: Path, settings: Mapping[str, Any]) -> None:
        self.module = module
        module.set_experiment(PROJECT)
        module.start_run(run_name=title)
        module.log_params(dict(settings))

    def log(self, step: int, figures: Mapping[str, float]) -> None:
        self.module.log_metrics(dict(figures), step=step)

    def close(self) -> None:
        self.module.end_run()
