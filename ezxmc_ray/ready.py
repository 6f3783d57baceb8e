"""What a command looks at before it replaces anything of a run: models, the cluster, settings that can never work.

In: the plan of a run, the step that its work begins with, and the stage that was asked for (None: all). Out: Ray is
there; or a UserError, and a finished run is as it was, its configuration too. What needs neither Ray nor a model is
refused before (checks.py).
"""

from __future__ import annotations

from contextlib import ExitStack
from itertools import dropwhile

from ezxmc_ray import layout
from ezxmc_ray.checks import check_inputs, check_installed
from ezxmc_ray.config import TeacherConfig
from ezxmc_ray.context import with_commits
from ezxmc_ray.cycles import planned_cycles
from ezxmc_ray.index.label_vectors import LabelVectors, find_label_vectors
from ezxmc_ray.integrity import begun_with
from ezxmc_ray.metrics.thresholds import LeastScores
from ezxmc_ray.models import is_bundled, resolve_model
from ezxmc_ray.progress import StageProgress, say
from ezxmc_ray.step import Step
from ezxmc_ray.steps import RunPlan
from ezxmc_ray.storage import read_manifest
from ezxmc_ray.tagging.cross_encoder import trained_network
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
        plan.context = with_commits(plan.context)
        resolve_model(plan.context.config.encoder.model)
        load_teacher(plan.context.config.teacher)
    _introduce(config.teacher)
    say(f"Run {config.run}: starting Ray")
    from ezxmc_ray.cluster.session import ray_cluster
    from ezxmc_ray.cluster.shared_places import check_seen

    stack.enter_context(ray_cluster(config.cluster))
    check_seen("run", plan.storage)
    steps = dropwhile(lambda one: one.name != step.name, plan.steps_of(planned_cycles(config)))
    ahead = {one.stage for one in steps if stage in (None, one.stage)}
    if "judge" in ahead:
        plan.settle_teacher()
    if "train" in ahead:
        from ezxmc_ray.stages.train import check_training

        check_training(plan.context.config)
    is_trained = step.stage == "cross_encoder" and trained_network(plan.storage, step.files_fingerprint())
    if "cross_encoder" in ahead and not is_trained:
        from ezxmc_ray.stages.cross_encoder import check_cross_encoder

        check_cross_encoder(plan.context.config)
    _check_settings(plan, step, ahead)


def _check_settings(plan: RunPlan, step: Step, ahead: set[str]) -> None:
    """Refuse settings by which one of the stages ``ahead`` can never work, as far as is known where ``step`` begins."""
    check_step(plan, step)
    if step.stage == "index":
        if "predict" in ahead:
            _check_predict(plan)
        return
    vectors = _vectors_of_today(plan)
    if vectors is not None:
        dimension = vectors.dimension
    elif "shortlist" in ahead:
        from ezxmc_ray.stages.shortlist import check_encoder

        dimension = check_encoder(plan.context.config.encoder)
    else:
        return
    if "index" in ahead:
        _check_index(plan, dimension, labels_are_known=step.stage != "prepare")


def check_step(plan: RunPlan, step: Step) -> None:
    """Refuse settings by which ``step`` can never work, before what is there of it is replaced. Errors: UserError."""
    if step.stage == "predict":
        _check_predict(plan)
    vectors = find_label_vectors(plan.storage, layout.label_vectors(0)) if step.stage == "index" else None
    if vectors is not None:
        _check_index(plan, vectors.dimension)


def _vectors_of_today(plan: RunPlan) -> LabelVectors | None:
    """Label vectors that the encoder has made with today's settings: so it can be loaded with them. None: none."""
    folder = layout.label_vectors(0)
    if read_manifest(plan.storage, layout.DOCUMENTS) is None:
        return None
    is_of_today = begun_with(plan.storage, folder) == plan.label_vectors_mark(0)
    return find_label_vectors(plan.storage, folder) if is_of_today else None


def _check_index(plan: RunPlan, dimension: int, labels_are_known: bool = True) -> None:
    """Refuse an ``index.factory`` that does not fit the labels and their vectors. Errors: UserError."""
    from ezxmc_ray.stages.index import check_index

    check_index(plan.config.index, dimension, plan.context.prepared.label_texts if labels_are_known else None)


def _check_predict(plan: RunPlan) -> None:
    """Refuse a ``predict.precision`` that no score reaches; what fits the scores must be done. Errors: UserError."""
    predict = plan.config.predict
    if predict.precision is not None:
        fitted = plan.context.manifest(layout.CROSS_ENCODER if predict.rerank else layout.STUDENT).details
        LeastScores.of(fitted).choose(predict.min_score, predict.precision)


def _introduce(teacher: TeacherConfig) -> None:
    """One line on the bundled teacher: it is for trying."""
    if not is_bundled(teacher.model):
        return
    readout = resolve_readout(teacher)
    how = f"read as teacher.readout={readout}" + (", which it cannot answer" if readout == "yes_no" else "")
    say(
        f"Teacher: the bundled SmolLM2-135M, for trying, {how}; teacher.model=<hub id or directory> names a better one."
    )
