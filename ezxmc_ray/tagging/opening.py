"""Opening a run for tagging: only if what it tags with is whole and belongs together.

Comes in: a run directory. Goes out: its storage, and :class:`TagSettings`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial

from ezxmc_ray import layout
from ezxmc_ray.config import differences, to_dict
from ezxmc_ray.context import Context, open_context
from ezxmc_ray.errors import UserError
from ezxmc_ray.index.build import ShardInfo
from ezxmc_ray.index.gpu import gpu_dtype
from ezxmc_ray.integrity import in_words, noted_damage, step_damage
from ezxmc_ray.metrics.thresholds import LeastScores, ProbabilityCurve
from ezxmc_ray.storage import Storage, read_manifest
from ezxmc_ray.tagging.cross_encoder import CrossSettings
from ezxmc_ray.tagging.settings import TagSettings


def open_for_tagging(run: str, overrides: Sequence[str] = ()) -> tuple[Storage, TagSettings]:
    """The run, with ``overrides`` of its own configuration. Errors: UserError as :func:`checked_settings`."""
    context = open_context(run, overrides)
    return context.storage, checked_settings(context)


def settings_of(context: Context) -> TagSettings:
    """Of a run whose index is built."""
    config, selected = context.config, context.manifest(layout.STUDENT).details
    return TagSettings(
        config.encoder,
        config.lexical.of_encoder(selected["encoder"]),
        [ShardInfo(**shard) for shard in context.manifest(layout.INDEX).details["shards"]],
        config.predict,
        LeastScores.of(selected),
        context.prepared.label_fingerprint,
        gpu_dtype(config.encoder, config.index),
        ProbabilityCurve.of(selected.get("probability")),
        prepare=config.prepare,
        cluster=config.cluster,
        gpus_per_actor=config.index.gpus_per_actor,
        cross_encoder=cross_settings(context),
    )


def cross_settings(context: Context) -> CrossSettings | None:
    """Of the run's cross-encoder; None: it has none that fits its student."""
    storage = context.storage
    student, trained = (read_manifest(storage, folder) for folder in (layout.STUDENT, layout.CROSS_ENCODER))
    if trained is None or student is None or trained.details["student"] != student.commit:
        return None
    return CrossSettings.of(trained.details)


def _check_cross_encoder(context: Context) -> None:
    """Errors: UserError for a run that has none of its student, or one that was made with other settings."""
    found, config = cross_settings(context), context.config
    if found is None:
        raise UserError(
            f"predict.rerank is {config.predict.rerank}, and the run {config.run} has no cross-encoder of its student: "
            "`ezxmc run` with that knob trains one, and predict.rerank=0 tags without."
        )
    if found.config != config.cross_encoder:
        other = differences(to_dict(found.config), to_dict(config.cross_encoder), "cross_encoder.")
        is_fitted = replace(found.config, weight=config.cross_encoder.weight) == config.cross_encoder
        does = "fits it anew, without a training" if is_fitted else "trains another one"
        raise UserError(
            f"The cross-encoder of {config.run} was made with other settings ({', '.join(other)}): leave them out, or "
            f"give `ezxmc run` with them, which {does}."
        )


def checked_settings(context: Context) -> TagSettings:
    """As :func:`settings_of`. Errors: UserError for a run that is damaged, or whose index is missing or too old."""
    storage = context.storage
    folders = [layout.DOCUMENTS, layout.shortlist(0), layout.STUDENT, layout.INDEX]
    folders += [layout.CROSS_ENCODER] if context.config.predict.rerank else []
    whole = (f"{name}/" for name in (layout.LEXICAL, layout.STUDENT, layout.CROSS_NETWORK, layout.INDEX))
    read = (*whole, *map(layout.manifest, folders[:2]), layout.LABELS)
    noted = noted_damage(storage)
    damaged = {name: what for folder in folders for name, what in step_damage(storage, folder, noted).items()}
    if wrong := {name: what for name, what in damaged.items() if name.startswith(read)}:
        raise UserError(
            f"The run {context.config.run} cannot tag, it is damaged: {in_words(wrong)}; `ezxmc run` makes that anew."
        )
    index = read_manifest(storage, layout.INDEX)
    built = index.details if index else {}
    student, documents = (read_manifest(storage, one) for one in (layout.STUDENT, layout.DOCUMENTS))
    if student and documents:
        counting = partial(context.counting_for, student.details.get("encoder", 1))
        built = built | {"match_settings": counting(built.get("match_settings", {}))}
        expected = {
            "student": student.commit,
            "label_fingerprint": documents.details["label_fingerprint"],
            "match_settings": counting(context.match_settings),
        }
    if not (student and documents) or any(built.get(name) != value for name, value in expected.items()):
        run = context.config.run
        raise UserError(
            f"The index of {run} is missing, or older than its labels, its student or its encoder and lexical "
            f"settings: finish it with `ezxmc run` (ezxmc status {run} shows what is due)."
        )
    if context.config.predict.rerank:
        _check_cross_encoder(context)
    # Not what ``prepare`` says by now: the labels are held against this where they are read.
    return replace(settings_of(context), label_fingerprint=built["label_fingerprint"])
