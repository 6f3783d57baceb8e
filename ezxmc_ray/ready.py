"""What a command looks at before it replaces anything of a run: models, the cluster, settings that can never work.

In: the plan of a run, the step that its work begins with, and the stage that was asked for (None: all). Out: Ray is
there; or a UserError, and a finished run is as it was, its configuration too. What needs neither Ray nor a model is
refused before (checks.py).
"""

from __future__ import annotations

from contextlib import ExitStack
from itertools import dropwhile

from ezxmc_ray.checks import check_inputs, check_installed
from ezxmc_ray.config import TeacherConfig
from ezxmc_ray.cycles import planned_cycles
from ezxmc_ray.models import is_bundled, resolve_model
from ezxmc_ray.progress import StageProgress, say
from ezxmc_ray.steps import RunPlan, Step
from ezxmc_ray.teacher.engine import load_teacher
from ezxmc_ray.teacher.readout import resolve_readout


def get_ready(plan: RunPlan, step: Step, stage: str | None, stack: ExitStack) -> None:
    """Check what the work that begins with ``step`` needs, and start Ray until ``stack`` is left. Errors: UserError."""
    config = plan.config
    check_installed(config)
    if step.stage == "prepare":
        check_inputs(config)
    # A model that cannot be had is told now, not after the shortlists of a million documents.
    with StageProgress(f"Run {config.run}", phase="looking at the models"):
        resolve_model(config.encoder.model)
        load_teacher(config.teacher)
    _introduce(config.teacher)
    say(f"Run {config.run}: starting Ray")
    from ezxmc_ray.cluster.session import ray_cluster
    from ezxmc_ray.cluster.shared_places import check_seen

    stack.enter_context(ray_cluster(config.cluster))
    check_seen("run", plan.storage)
    if stage in (None, "judge") and _is_ahead("judge", plan, step):
        plan.settle_teacher()
    if stage in (None, "train") and _is_ahead("train", plan, step):
        from ezxmc_ray.stages.train import check_training

        check_training(config)


def check_step(plan: RunPlan, step: Step) -> None:
    """Refuse a ``predict.precision`` that no score reaches before what is there is replaced. Errors: UserError."""
    if step.stage == "predict" and plan.config.predict.precision is not None:
        from ezxmc_ray.tagging.opening import settings_of

        settings_of(plan.context)


def _is_ahead(stage: str, plan: RunPlan, step: Step) -> bool:
    """Whether ``step`` is one of ``stage``, or a step after it may be."""
    ahead = dropwhile(lambda one: one.name != step.name, plan.steps_of(planned_cycles(plan.config)))
    return any(one.stage == stage for one in ahead)


def _introduce(teacher: TeacherConfig) -> None:
    """One line on the bundled teacher: it is for trying."""
    if not is_bundled(teacher.model):
        return
    readout = resolve_readout(teacher)
    how = f"read as teacher.readout={readout}" + (", which it cannot answer" if readout == "yes_no" else "")
    say(
        f"Teacher: the bundled SmolLM2-135M, for trying, {how}; teacher.model=<hub id or directory> names a better one."
    )
