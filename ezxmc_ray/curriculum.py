"""The curriculum: goes through the steps of a run in order, tells which are done, or what a run would do.

In: a configuration. Out: the run directory, stage after stage: prepare; for each cycle shortlist, judge, train (from
the second one on after a select that says whether it is worth it); one more shortlist and judge of the held-out
documents with the last student; select; cross_encoder, with predict.rerank; index; predict; evaluate; report.
A step (steps.py) is skipped if its manifest carries the fingerprint of today's inputs and settings; so a killed run
goes on where it was, and a changed setting redoes the stages that depend on it, and no other.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from itertools import count, takewhile
from typing import Any

import yaml

from ezxmc_ray import layout
from ezxmc_ray.checks import check_free, check_names
from ezxmc_ray.config import Config, differences, to_dict
from ezxmc_ray.context import encoder_name, open_context, stored_configuration
from ezxmc_ray.credentials import without_credentials
from ezxmc_ray.cycles import AUTO, MIN_LEARNED, check_counts, compares, numeric_budget, planned_cycles, stopped_at
from ezxmc_ray.documents.inputs import find_inputs
from ezxmc_ray.documents.shards import shards_of
from ezxmc_ray.documents.survey import count_labels, survey
from ezxmc_ray.errors import UserError
from ezxmc_ray.estimate import START_SECONDS, Amounts, encoding_work, estimate, reference_rates, reranking_work
from ezxmc_ray.integrity import clear_damage, in_words, is_signed, signed
from ezxmc_ray.models import hub_place, is_bundled
from ezxmc_ray.progress import say
from ezxmc_ray.ready import check_step, get_ready
from ezxmc_ray.report.shipped import measures, shipped, shipped_name
from ezxmc_ray.run_lock import run_lock
from ezxmc_ray.step import Step
from ezxmc_ray.steps import RunPlan
from ezxmc_ray.storage import Manifest, Storage, check_writable, read_manifest
from ezxmc_ray.tagging.cross_encoder import trained_network
from ezxmc_ray.teacher.readout import resolve_readout, second_teacher
from ezxmc_ray.verdicts.calibration import resolve_calibration


@dataclass(frozen=True)
class RunResult:
    """What a finished run is: ``path``: its directory or URI; ``report_html`` and ``report_json``: paths of its report.

    ``metrics``: measures of the chosen encoder on the test documents, with predict.rerank of its ranking as it was made
    anew, and ``untrained_metrics`` of the base encoder, percent by name (P@1, R@10, …); None where no test document has
    gold labels. ``labels_per_document``: predicted.
    """

    path: str
    report_html: str
    report_json: str
    metrics: dict[str, float] | None
    untrained_metrics: dict[str, float] | None
    labels_per_document: float


def run(config: Config) -> RunResult:
    """Go through all steps; what is done already is not done again.

    Errors: UserError for what the user can mend; what is done by then is kept, and the next call goes on there.
    """
    _go(config, None)
    return _result(config)


def _result(config: Config) -> RunResult:
    storage = Storage(config.run)
    metrics, cycle = _metrics(storage)
    predicted = read_manifest(storage, layout.PREDICTIONS)
    return RunResult(
        config.run,
        storage.path(layout.REPORT_HTML),
        storage.path(layout.REPORT_JSON),
        metrics.get(shipped_name(metrics, cycle)),
        metrics.get(encoder_name(0)),
        float(predicted.details.get("labels_per_document", 0.0)) if predicted else 0.0,
    )


def run_stage(config: Config, stage: str) -> None:
    """Go through the steps of one stage that are due; UserError if a stage that it needs is not done."""
    if stage == "cross_encoder" and not config.predict.rerank:
        raise UserError("predict.rerank is 0, so that the run has no cross-encoder: set it, to 30 for example.")
    _go(config, stage)


def _go(config: Config, stage: str | None) -> None:
    check_names(config)
    storage = Storage(config.run)
    check_free(storage)
    check_writable(storage)
    with ExitStack() as stack:
        stack.enter_context(run_lock(storage))
        plan = RunPlan(config, storage, trains=stage in (None, "train"))
        worked = matched = is_noted = False
        after = ""
        for step in plan.steps():
            if plan.done(step):
                if step.stage == "prepare":
                    plan.check_counts()
                matched = matched or step.stage == stage
                continue
            if stage is not None and step.stage != stage:
                if not matched:
                    raise UserError(
                        f"The stage {stage} needs {step.name}, which is not done in {config.run}: "
                        f"give ezxmc {step.stage} or ezxmc run first."
                    )
                after = f"; next comes {step.name}"
                break
            if worked:
                check_step(plan, step)
            else:
                get_ready(plan, step, stage, stack)
                _clear_damage(plan)
            if not is_noted and (step.stage != "prepare" or not storage.exists(layout.CONFIG)):
                # What is refused up to here, or by prepare, leaves a finished run as it was, its configuration too.
                _note_configuration(config, storage)
                is_noted = True
            plan.execute(step)
            worked = matched = True
        if not is_noted:
            _note_configuration(config, storage)
        _clear_damage(plan)
        what = "complete" if stage is None else f"up to date for {stage}{after}"
        prefix = "" if worked else "Nothing to do: "
        say(f"{prefix}{config.run} is {what}.")
        if stage is None:
            say(_shipped(storage, planned_cycles(config), config.predict.rerank))
            say(f"Report: {storage.path(layout.REPORT_HTML)}")


def _clear_damage(plan: RunPlan) -> None:
    """Remove what a verification found damaged: the steps that it is of make it anew."""
    if aside := clear_damage(plan.storage):
        say(f"Damaged verdicts are set aside, and their pairs asked again where they are wanted: {in_words(aside)}")


def _shipped(storage: Storage, cycles: int, rerank: int = 0) -> str:
    """What a finished run of so many ``cycles`` ships, with the first ``rerank`` labels of a document ranked anew, and
    its worth where test documents have gold labels."""
    metrics, cycle = _metrics(storage)
    return shipped(cycle, cycles, metrics, rerank)


def _metrics(storage: Storage) -> tuple[dict[str, dict[str, float]], int | None]:
    """Measures of each ranking, by its name, and the cycle of the chosen encoder (None: it is the base encoder)."""
    selected, evaluated = read_manifest(storage, layout.STUDENT), read_manifest(storage, layout.EVALUATION)
    chosen = selected.details.get("chosen_cycle") if selected else None
    return measures(evaluated.details) if evaluated else {}, chosen


def _note_configuration(config: Config, storage: Storage) -> None:
    """Write config.yaml, without credentials; if the run was made with another configuration, say what differs."""
    new = without_credentials(to_dict(config))
    try:
        old = to_dict(stored_configuration(storage)) if storage.exists(layout.CONFIG) else None
    except UserError as error:
        say(f"{error} It is written anew.")
        old = None
    if old is not None:
        changed = [line for line in differences(old, new) if not line.startswith("run:")]
        if changed:
            say("The configuration differs from the one this run was made with: " + "; ".join(changed))
        if old == new:
            return
    if storage.exists(layout.CONFIG) and (own := storage.read_bytes(layout.CONFIG)) and not is_signed(own):
        kept = next(name for name in map(layout.own_config, count(1)) if not storage.exists(name))
        storage.rename(layout.CONFIG, kept)
        say(f"What was in {storage.path(layout.CONFIG)} is kept as {kept} beside it.")
    storage.write_bytes(layout.CONFIG, signed(yaml.safe_dump(new, sort_keys=False, allow_unicode=True)))


def dry_run(config: Config) -> dict[str, Any]:
    """What ``run`` would do, and how long it may take; nothing is written and no model is loaded."""
    storage = Storage(config.run)
    plan = RunPlan(config, storage)
    done = _done(plan, plan.done)
    steps_of_all = plan.steps_of(planned_cycles(config))
    manifests = [read_manifest(storage, step.folder) for step in steps_of_all]
    before = _configuration_before(config, storage)
    alike = [one for one in manifests if one and before and _works_alike(one, config, before)]
    measured = {one.stage: rate for one in alike if (rate := _rate(one))}
    is_prepared = bool(done.get("prepare"))
    amounts = _amounts(config, plan if is_prepared else None)
    _check_amounts(config, amounts, is_prepared)
    reference, machine = reference_rates()
    teacher, calibration, questions = _teacher_in_words(config)
    priors = calibration == "label_prior"
    how = (priors, questions, _has_network(plan, done))
    steps = estimate(config, amounts, reference | measured, done, _cycles_known(plan, done), *how)
    others = sum(step["label priors"] or 0 for step in steps)
    stages = {step.stage for step in steps_of_all}
    assumed = [stage for stage in reference if stage in stages and stage not in measured]
    sources = [f"this run's rates ({', '.join(sorted(measured))})"] if measured else []
    if assumed:
        sources.append(f"the rates of {machine} ({', '.join(assumed)})")
    if "judge" in assumed and not is_bundled(config.teacher.model):
        sources[-1] += (
            "; judge is that of the bundled 135M model: a larger one takes longer by its size, a GPU far less"
        )
    return {
        "run": without_credentials(config.run),
        "teacher": teacher,
        "documents": f"{amounts.documents:,}, of them {amounts.train:,} train ({amounts.held_out:,} held out)",
        "labels": f"{amounts.labels:,}" + (f", {amounts.alternatives:,} alternatives" if amounts.alternatives else ""),
        "shards": shards_of(amounts.documents, config.prepare.shard_rows),
        "pairs": _pairs_in_words(config, sum(step["pairs"] or 0 for step in steps)),
        "label_priors": f"about {others:,}",
        "estimated_seconds": f"{sum(step['seconds'] for step in steps):,.0f}",
        "estimated_from": " and ".join(sources),
        "steps": steps,
    }


def _has_network(plan: RunPlan, done: dict[str, bool]) -> bool:
    """Whether the step cross_encoder is due, but its network is trained."""
    if not plan.config.predict.rerank or "select" not in done or "cross_encoder" in done:
        return False
    step = next(one for one in plan.steps_of(0) if one.stage == "cross_encoder")
    return trained_network(plan.storage, step.files_fingerprint()) is not None


def _teacher_in_words(config: Config) -> tuple[str, str, int]:
    """The teacher, its read-outs and dtype, for the user; its calibration, and the questions that a pair asks."""
    teacher = config.teacher
    try:
        readout, calibration = resolve_readout(teacher), resolve_calibration(teacher)
        second = second_teacher(teacher)
    except UserError as error:  # a hub that cannot be asked: the plan is good for all that
        return f"{teacher.model}, which cannot be looked at: {error}", "label_prior", 1
    found = f"{teacher.model}, read-out {readout}, dtype {teacher.dtype}, calibration {calibration}"
    found += f", second read-out {second.readout} (two questions a pair)" if second else ""
    bundled = " (the bundled one, for trying)" if is_bundled(teacher.model) else ""
    return found + bundled, calibration, 2 if second else 1


def _pairs_in_words(config: Config, pairs: int) -> str:
    budget = numeric_budget(config)
    return f"at most {pairs:,}" + (f" of a budget of {budget:,}" if budget else "")


def _configuration_before(config: Config, storage: Storage) -> Config | None:
    """What the run was made with, ``config`` where it is new; None: that cannot be read."""
    try:
        return stored_configuration(storage) if storage.exists(layout.CONFIG) else config
    except UserError:
        return None


def _works_alike(manifest: Manifest, config: Config, before: Config) -> bool:
    """Whether a stage worked with the teacher, or the encoder, that ``config`` names: its rate then says something.

    ``before``: the configuration that the run was made with.
    """
    if manifest.stage != "judge":
        return before.encoder == config.encoder
    told = manifest.details.get("teacher") or {}
    is_same = all(
        told.get(name, getattr(config.teacher, name)) == getattr(config.teacher, name)
        for name in ("max_document_tokens", "quantization")
    )
    model = config.teacher.model
    is_same &= hub_place(told.get("model", model))[0] == hub_place(model)[0]  # of the hub in whatever commit
    return is_same and before.teacher.engine == config.teacher.engine


def _rate(manifest: Manifest) -> float:
    """Units a second of a stage, its start apart; of judge by the engines' own time; 0: unknown."""
    details = manifest.details
    if manifest.stage == "judge":
        return float(details.get("engine_pairs_per_s") or 0.0) * (details.get("engines") or 1)
    if manifest.stage == "cross_encoder":  # whose own seconds are those of the held-out documents too
        return float(details.get("documents_per_s") or 0.0)
    if manifest.stage not in START_SECONDS or not manifest.seconds:
        return 0.0
    units = float(manifest.rows)
    if manifest.stage == "shortlist":
        texts = details.get("label_texts", details.get("labels", 0))
        units = encoding_work(units * details.get("encodings", 1), texts)
    if first := details.get("rerank"):  # of predict; of evaluate, which ranks anew once, beside every encoder's ranking
        units += reranking_work(units / len(details.get("metrics") or [""]), first)
    # A small run is all start: what is left of it then says little, but never nothing.
    seconds = manifest.seconds + details.get("seconds_before", 0.0)
    return units / max(seconds - START_SECONDS[manifest.stage], seconds / 10)


def _check_amounts(config: Config, amounts: Amounts, is_prepared: bool) -> None:
    """As the run checks what ``prepare`` has found. Before it the documents are an expectation, so only what is wrong
    whatever their numbers is refused. Errors: UserError."""
    train, held_out = amounts.train, amounts.held_out
    if not is_prepared:
        if config.curriculum.pair_budget == AUTO:
            return
        held_out = max(held_out, int(config.prepare.held_out_share > 0))
        train = max(train, held_out + MIN_LEARNED)
    check_counts(config, train, held_out, amounts.labels)


def _amounts(config: Config, prepared: RunPlan | None) -> Amounts:
    """How much there is to work on: as prepared, else by a look at the input files."""
    inputs = find_inputs(config.prepare)
    seen = survey(inputs, config.prepare, config.teacher.max_document_tokens)
    if prepared is not None:
        known = prepared.context.prepared
        counts = (known.documents, known.train, known.held_out, known.test, known.labels)
        return Amounts(*counts, document_tokens=seen.document_tokens, alternatives=known.alternatives)
    held_out, test = round(seen.train * config.prepare.held_out_share), seen.documents - seen.train
    labels, alternatives = count_labels(inputs, config.prepare)
    return Amounts(seen.documents, seen.train, held_out, test, labels, seen.document_tokens, alternatives)


def open_run(run: str) -> RunPlan:
    """The plan of a run that exists already, with its own configuration."""
    context = open_context(run)
    return RunPlan(context.config, context.storage)


def status(run: str) -> list[dict[str, Any]]:
    """For every step of a run: its name, rows, seconds, and its state.

    That is done, missing, damaged, stale, or ``not run``: of a cycle that the stop rule left out.
    """
    plan = open_run(run)
    is_done = partial(_done_or_unreadable, plan)
    done = _done(plan, is_done)
    wanted = {step.name for step in plan.steps_of(_cycles_known(plan, done))}
    rows: list[dict[str, Any]] = []
    for step in plan.steps_of(planned_cycles(plan.config)):
        manifest = read_manifest(plan.storage, step.folder)
        if step.name not in wanted:
            state, manifest = "not run", None
        elif step.name in done:
            state = "done"
        else:
            state = "damaged" if plan.damage(step) else "stale" if manifest else "missing"
        rows.append(
            {
                "step": step.name,
                "state": state,
                "rows": manifest.rows if manifest else None,
                "seconds": manifest.seconds if manifest else None,
            }
        )
    return rows


def _done(plan: RunPlan, is_done: Callable[[Step], bool]) -> dict[str, bool]:
    """The steps that are done, up to the first that is not, by name.

    A cycle that waits for the stop rule has judged its held-out documents alone, so its judging is still to be done.
    """
    done = {step.name: True for step in takewhile(is_done, plan.steps(is_done))}
    for cycle in range(planned_cycles(plan.config)):
        waits = compares(plan.config, cycle) and f"cycle {cycle} select" not in done
        if waits and _judging(cycle)[0] in done and not plan.is_whole(cycle, is_done):
            done = {name: True for name in done if name not in _judging(cycle)}
    return done


def _judging(cycle: int) -> tuple[str, str]:
    return f"cycle {cycle} shortlist", f"cycle {cycle} judge"


def _cycles_known(plan: RunPlan, done: dict[str, bool]) -> int:
    """Cycles that the run has, as far as is known: the stop rule's word counts where its step is ``done``."""
    stopped = stopped_at(plan.storage, plan.config)
    if stopped is not None and done.get(f"cycle {stopped} select"):
        return stopped
    return planned_cycles(plan.config)


def _done_or_unreadable(plan: RunPlan, step: Step) -> bool:
    """As ``done``; inputs that are not on this machine (another's paths) count as unchanged."""
    if read_manifest(plan.storage, step.folder) is None or plan.damage(step):
        return False
    try:
        return plan.done(step)
    except UserError:
        return True
