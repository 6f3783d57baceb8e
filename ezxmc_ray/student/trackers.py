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
    """Takes figures, and is closed in the end.

    ``run``: by what name it goes on with the same curves where training starts again; empty: it needs none.
    """

    run: str

    def log(self, step: int, figures: Mapping[str, float]) -> None:
        """Figures by name after ``step`` steps."""

    def close(self) -> None:
        """No more figures come."""


class Trackers:
    """Trackers by name, which take the same figures; ``lost``: by name why one took no more of them.

    A server that is gone in the middle costs its curve and not the training. ``runs``: by name each one's run, for
    :func:`open_trackers` where training starts again.
    """

    def __init__(self, opened: Mapping[str, Tracker], lost: Mapping[str, str] | None = None) -> None:
        self._opened = dict(opened)
        self.runs = {name: tracker.run for name, tracker in opened.items() if tracker.run}
        self.lost: dict[str, str] = dict(lost or {})

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
            raise UserError(str(_not_installed(name)))


def open_trackers(
    names: Sequence[str],
    title: str,
    folder: Path,
    settings: Mapping[str, Any],
    runs: Mapping[str, str] | None = None,
    lost: Mapping[str, str] | None = None,
) -> Trackers:
    """One tracker a name; ``folder`` takes what they write, ``settings`` what they show of the configuration.

    ``runs``: by name, of a start before this one, to go on with. ``lost``: by name why one was lost before a worker
    died (empty: none was); then one that does not begin again is lost as well, and costs the training nothing.

    Errors: UserError at a command's first start (``lost`` None) for one that is not installed, or does not begin (no
    key, no server).
    """
    kinds: dict[str, Callable[..., Tracker]] = {
        "tensorboard": _TensorBoard,
        "wandb": _WeightsAndBiases,
        "mlflow": _MLflow,
    }
    opened: dict[str, Tracker] = {}
    gone = {name: why for name, why in (lost or {}).items() if name in names}
    for name in names:
        if name in gone:
            continue
        try:
            opened[name] = _begin(kinds[name], name, title, folder, settings, (runs or {}).get(name, ""))
        except _RefusedError as error:
            if lost is None:
                Trackers(opened).close()
                raise UserError(str(error)) from error
            gone[name] = error.why
    return Trackers(opened, gone)


class _RefusedError(Exception):
    def __init__(self, name: str, why: str, remedy: str = "set it up there") -> None:
        super().__init__(
            f"student.trackers has {name}, but {MODULES[name]} {why} where the student is trained: {remedy}, or leave "
            f"{name} out."
        )
        self.why = why


def _begin(
    kind: Callable[..., Tracker], name: str, title: str, folder: Path, settings: Mapping[str, Any], run: str
) -> Tracker:
    module = _module(name)
    try:
        return kind(module, title, folder, settings, run)
    except Exception as error:  # each library has errors of its own
        raise _RefusedError(name, f"does not begin ({_cause(error)})") from error


def _module(name: str) -> Any:
    try:
        return importlib.import_module(MODULES[name])
    except Exception as error:  # what it imports may fail in any way, as protobuf does
        if isinstance(error, ModuleNotFoundError) and error.name == MODULES[name]:
            raise _not_installed(name) from error
        raise _RefusedError(name, f"cannot be imported ({_cause(error)})") from error


def _not_installed(name: str) -> _RefusedError:
    return _RefusedError(name, "is not installed", "install it on every node")


def _cause(error: Exception) -> str:
    return one_line(error).rstrip(".")


class _TensorBoard:
    #: A later start writes a file of its own beside this one's.
    run = ""

    def __init__(self, module: Any, title: str, folder: Path, settings: Mapping[str, Any], run: str) -> None:
        # A checkpoint takes the file as it is, and what is still in the writer's queue is lost with the worker.
        self.writer = module.SummaryWriter(str(folder), flush_secs=FLUSH_S)

    def log(self, step: int, figures: Mapping[str, float]) -> None:
        for name, value in figures.items():
            self.writer.add_scalar(name, value, step)

    def close(self) -> None:
        self.writer.close()


class _WeightsAndBiases:
    """Steps that a killed start had reached are in its run already; W&B takes none twice."""

    def __init__(self, module: Any, title: str, folder: Path, settings: Mapping[str, Any], run: str) -> None:
        again = {"id": run, "resume": "allow"} if run else {}
        self.wandb_run = module.init(project=PROJECT, name=title, dir=str(folder), config=dict(settings), **again)
        self.run = str(self.wandb_run.id)

    def log(self, step: int, figures: Mapping[str, float]) -> None:
        self.wandb_run.log(dict(figures), step=step)

    def close(self) -> None:
        self.wandb_run.finish()


class _MLflow:
    def __init__(self, module: Any, title: str, folder: Path, settings: Mapping[str, Any], run: str) -> None:
        self.module = module
        module.set_experiment(PROJECT)
        self.run = str(module.start_run(**({"run_id": run} if run else {"run_name": title})).info.run_id)
        try:
            if not run:
                module.log_params(dict(settings))  # once: it refuses another value
        except Exception:
            module.end_run(status="FAILED")
            raise

    def log(self, step: int, figures: Mapping[str, float]) -> None:
        self.module.log_metrics(dict(figures), step=step)

    def close(self) -> None:
        self.module.end_run()
