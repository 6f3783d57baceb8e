"""The steps of a run: what each depends on, which comes next, and whether it is done already.

In: a configuration and a run directory. Out: the steps in their order, and their manifests. A step is done if its
manifest carries the fingerprint of today's inputs and settings. Before a later cycle's train documents are judged, its
encoder is compared with those before it, and the cycles may end: the stop rule (cycles.py).
"""

from __future__ import annotations

import importlib
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from functools import partial
from itertools import starmap
from typing import Any

from ezxmc_ray import layout
from ezxmc_ray.config import Config, fingerprint, fingerprinted_settings
from ezxmc_ray.context import Context, RunTasks, StageResult, judged_dtype
from ezxmc_ray.cycles import check_counts, compares, documents_per_cycle, least_lead, planned_cycles, stops
from ezxmc_ray.documents.inputs import inputs_fingerprint
from ezxmc_ray.hardware import AUTO
from ezxmc_ray.integrity import (
    begun_with,
    checksums_of,
    damaged_files,
    in_words,
    note_begun,
    noted_damage,
    step_damage,
    written_sizes,
)
from ezxmc_ray.models import resolve_model, weights_fingerprint
from ezxmc_ray.progress import StageProgress, say
from ezxmc_ray.spent import seconds_spent
from ezxmc_ray.step import UNITS, Step
from ezxmc_ray.storage import Manifest, Storage, read_manifest, write_manifest
from ezxmc_ray.student.targets import SCALES
from ezxmc_ray.tables import EXAMPLES_SCHEMA, SHORTLIST_SCHEMA, SUMMARY_SCHEMAS
from ezxmc_ray.teacher.engine import keys_of
from ezxmc_ray.verdicts.dtypes import DTYPES, change_of_dtype, held_dtypes, told_dtype_by_hand
from ezxmc_ray.versions import versions

#: Raise when a selection finds more than before.
SELECT_VERSION = 2
#: Bytes of a step's files whose checksums are taken in the command's own process.
READ_HERE_BYTES = 256 << 20


class RunPlan:
    """The steps of one configuration on one run directory."""

    def __init__(self, config: Config, storage: Storage, trains: bool = True) -> None:
        self.config, self.storage = config, storage
        self.context = Context(config, storage, trains)
        self.noted_damage = noted_damage(storage)

    def steps(self, is_done: Callable[[Step], bool] | None = None) -> Iterator[Step]:
        """The steps of the run, in order; each is to be done before the next is asked for. ``is_done``: :meth:`done`.

        Which one comes next may depend on it: a cycle after the first begins with its held-out documents only, and
        where the stop rule (cycles.py) then finds its encoder not worth the teacher's work on the others, the run ends
        its cycles as if fewer had been planned.
        """
        is_done = is_done or self.done
        planned = planned_cycles(self.config)
        yield self._prepare()
        for cycle in range(planned + 1):
            ends = cycle == planned
            if compares(self.config, cycle):
                selection = self._cycle_select(cycle)
                if not is_done(selection):
                    yield from self._held_out(cycle, is_done)
                yield selection
                ends = stops(self.context.manifest(selection.folder).details["lead"], least_lead(self.config, cycle))
            if ends:
                yield from self._held_out(cycle, is_done)
                break
            yield from self._judging(cycle)
            yield self._train(cycle)
        yield from self._ending()

    def steps_of(self, cycles: int) -> list[Step]:
        """Every step of a run of so many cycles, in order, none of them looked at."""
        steps = [self._prepare()]
        for cycle in range(cycles + 1):
            steps += [self._cycle_select(cycle)] if compares(self.config, cycle) else []
            steps += [*self._judging(cycle), self._train(cycle)]
        return [*steps[:-1], *self._ending()]

    def _judging(self, cycle: int) -> list[Step]:
        """Shortlist and judge the documents of ``cycle``; of the last one, that trains nothing, the held-out ones."""
        last = cycle == planned_cycles(self.config)
        return [self._shortlist(cycle, held_out_only=last), self._judge(cycle, compares(self.config, cycle))]

    def _held_out(self, cycle: int, is_done: Callable[[Step], bool]) -> list[Step]:
        """Shortlist and judge the held-out documents of ``cycle``; what has been done on all of them serves as well."""
        if self.is_whole(cycle, is_done):
            return self._everything(cycle)
        return [self._shortlist(cycle, held_out_only=True), self._judge(cycle, False)]

    def _everything(self, cycle: int) -> list[Step]:
        return [self._shortlist(cycle, held_out_only=False), self._judge(cycle, compared=True)]

    def is_whole(self, cycle: int, is_done: Callable[[Step], bool]) -> bool:
        """Whether all documents of ``cycle``, not the held-out ones alone, have been judged."""
        return all(is_done(step) for step in self._everything(cycle))

    def _ending(self) -> list[Step]:
        reranked = [self._cross_encoder()] if self.config.predict.rerank else []
        return [self._select(), *reranked, self._index(), self._predict(), self._evaluate(), self._report()]

    def check_counts(self) -> None:
        """As cycles.check_counts; ``prepare`` must be done."""
        check_counts(self.config, *self.context.prepared.counts, self.context.trains)

    def _settings(self, section: str) -> dict[str, Any]:
        return fingerprinted_settings(self.config, section)

    def _commit(self, folder: str) -> str:
        return self.context.manifest(folder).commit

    def _content(self) -> list[Any]:
        """What is in documents and labels, gold apart."""
        known = self.context.prepared
        return [known.document_fingerprint, known.label_fingerprint, known.shard_rows]

    def _documents_per_cycle(self, cycle: int) -> int:
        return documents_per_cycle(self.config, *self.context.prepared.counts, cycle)

    def settle_teacher(self) -> None:
        """Find out which dtype the judging to come takes where teacher.dtype is auto; Ray must be there.

        What has been judged stays in its dtype, on whatever machine the run goes on; so do verdicts made by hand.
        """
        from ezxmc_ray.cluster import teacher_dtype

        machines = teacher_dtype.of_cluster(self.config.teacher).dtype
        teacher = told_dtype_by_hand(self.storage, self.context.config.teacher, machines)
        self.context = replace(self.context, config=replace(self.context.config, teacher=teacher))

    def _teacher(self, *folders: str) -> list[Any]:
        """The keys and the settings of the teacher of the step in the first of ``folders``.

        With teacher.dtype=auto in the dtype that the first of them that is done was done in, else in the one for the
        judging to come. Where that is not settled nothing is done either, and which dtype stands in does not matter.
        """
        teacher = self.context.teacher
        if self.config.teacher.dtype == AUTO:
            done_in = (judged_dtype(self.storage, folder) for folder in folders)
            dtype = next(filter(None, done_in), teacher.dtype)
            teacher = replace(teacher, dtype=DTYPES[0] if dtype == AUTO else dtype)
        settings = fingerprinted_settings(replace(self.config, teacher=teacher), "teacher")
        del settings["second_readout"]  # which is in the keys; so what older versions judged, by one, is not stale
        return [*keys_of(teacher), settings]

    def _tell_change_of_dtype(self, cycle: int) -> None:
        """Say that ``cycle`` is judged in another dtype than the run's verdicts so far, if auto leads to that."""
        dtype = self.context.teacher.dtype
        if self.config.teacher.dtype != AUTO:
            return
        before = {judged_dtype(self.storage, layout.examples(number)) for number in range(cycle)} - {None, dtype}
        held = held_dtypes(self.storage, self.config.teacher)
        if others := [one for one in held if one in before or (dtype not in held)]:
            say(change_of_dtype(cycle, others, dtype))

    def _target(self) -> list[Any]:
        """What a label is worth when encoders are compared."""
        return [self.config.student.target, self.config.student.target_temperature]

    def _matching(self, encoder: int) -> list[Any]:
        """What shortlists by encoder ``encoder`` depend on, the texts apart."""
        return [self._encoder(encoder), self.context.counting_for(encoder, self.context.match_settings)]

    def _encoder(self, encoder: int) -> str:
        folder = self.context.encoder_folder(encoder)
        return self._commit(folder) if folder else weights_fingerprint(resolve_model(self.config.encoder.model))

    def label_vectors_mark(self, encoder: int) -> str:
        """What the label vectors of encoder ``encoder`` are made of; ``prepare`` must be done."""
        labels = self.context.prepared.label_fingerprint
        return fingerprint([labels, self._encoder(encoder), self.context.encoder_settings])

    def _run(self, stage: str, *arguments: int) -> StageResult:
        """Run a stage; a cycle's have its number as the first of ``arguments``."""
        # A stage's libraries are loaded when it has work, so that a finished run says so at once.
        module, function = ("select", "compare_newest") if stage == "compare" else (stage, stage)
        run: Callable[..., StageResult] = getattr(importlib.import_module(f"ezxmc_ray.stages.{module}"), function)
        return run(self.context, *arguments)

    def _prepare(self) -> Step:
        def inputs() -> list[Any]:
            return [inputs_fingerprint(self.config.prepare, self.config.seed)]

        return Step("prepare", "prepare", layout.DOCUMENTS, inputs, lambda: self._run("prepare"))

    def _shortlist(self, cycle: int, held_out_only: bool) -> Step:
        def inputs() -> list[Any]:
            settings = self._settings("shortlist") | {"documents_per_cycle": self._documents_per_cycle(cycle)}
            drawn = [cycle, held_out_only, self.config.seed]
            return [*self._content(), *self._matching(cycle), settings, *drawn, SHORTLIST_SCHEMA.names]

        def run() -> StageResult:
            # The held-out documents' shortlists and then the others' are made of the same label vectors.
            self._keep_only(layout.label_vectors(cycle), self.label_vectors_mark(cycle))
            found = self._run("shortlist", cycle, held_out_only)
            before = {} if held_out_only else self._shortlisted_before(cycle)
            return replace(found, details=found.details | before)

        return Step(f"cycle {cycle} shortlist", "shortlist", layout.shortlist(cycle), inputs, run)

    def _shortlisted_before(self, cycle: int) -> dict[str, float]:
        """Seconds that a cycle which begins with its held-out documents took for their shortlists and the labels."""
        selection = read_manifest(self.storage, layout.selection(cycle)) if compares(self.config, cycle) else None
        return {"seconds_before": selection.details.get("shortlist_seconds", 0.0)} if selection else {}

    def _judge(self, cycle: int, compared: bool) -> Step:
        """``compared``: the cycle's held-out documents have been judged before the others."""

        def run() -> StageResult:
            self._tell_change_of_dtype(cycle)
            judged = self._run("judge", cycle)
            if compared:
                from ezxmc_ray.stages.select import with_asked

                asked = self.context.manifest(layout.selection(cycle)).details["asked"]
                return replace(judged, details=with_asked(judged.details, asked))
            return judged

        def inputs() -> list[Any]:
            written = [EXAMPLES_SCHEMA.names, SCALES, *(schema.names for schema in SUMMARY_SCHEMAS)]
            return [self._commit(layout.shortlist(cycle)), *self._teacher(folder), *written]

        folder = layout.examples(cycle)
        return Step(f"cycle {cycle} judge", "judge", folder, inputs, run)

    def _cycle_select(self, cycle: int) -> Step:
        """Its inputs are what the held-out shortlists are made of, not their commits: other ones take their place."""

        def inputs() -> list[Any]:
            before = [self._commit(layout.examples(number)) for number in range(cycle)]
            settings = self._settings("shortlist") | {"documents_per_cycle": 0}  # the held-out ones always come along
            shortlists = [*self._content(), *self._matching(cycle), settings]
            teacher = self._teacher(folder, layout.examples(cycle))
            return ["cycle", before, shortlists, teacher, self._target(), SHORTLIST_SCHEMA.names, EXAMPLES_SCHEMA.names]

        def run() -> StageResult:
            compared = self._run("compare", cycle)
            # Its held-out documents' verdicts, which those of all the cycle's documents take the place of.
            dtype = judged_dtype(self.storage, layout.examples(cycle))
            shortlist, is_part = self.context.manifest(layout.shortlist(cycle)), not self.is_whole(cycle, self.done)
            taken = {"shortlist_seconds": shortlist.seconds} if is_part else {}
            return replace(compared, details=compared.details | {"teacher": {"dtype": dtype}} | taken)

        folder = layout.selection(cycle)
        return Step(f"cycle {cycle} select", "select", folder, inputs, run)

    def _train(self, cycle: int) -> Step:
        def inputs() -> list[Any]:
            made_of = [self._commit(layout.examples(cycle)), self._encoder(0)]
            settings = [self._settings("student"), self.context.encoder_settings, self.config.seed]
            return [*made_of, *settings, *(["halves"] if self.context.halves_held_out else [])]

        def tidy() -> None:
            self._remove_trainings(layout.cycle_folder(cycle))

        folder = layout.cycle_student(cycle)
        return Step(f"cycle {cycle} train", "train", folder, inputs, lambda: self._run("train", cycle), tidy)

    def _remove_trainings(self, folder: str) -> None:
        from ezxmc_ray.stages.train import remove_trainings

        remove_trainings(self.storage, folder)

    def _select(self) -> Step:
        def inputs() -> list[Any]:
            cycles = range(self.context.cycles + 1)
            return [[self._commit(layout.examples(cycle)) for cycle in cycles], self._target(), SELECT_VERSION]

        return Step("select", "select", layout.STUDENT, inputs, lambda: self._run("select"))

    def _cross_encoder(self) -> Step:
        own = self._settings("cross_encoder")
        of_files = {name: value for name, value in own.items() if name != "weight"}  # which is fitted by them

        def inputs(own: dict[str, Any]) -> list[Any]:
            examples = [self._commit(layout.examples(cycle)) for cycle in range(self.context.cycles + 1)]
            settings = [self._settings("student"), own, self.context.encoder_settings]
            judged = [self._target(), self.config.shortlist.size, self.config.seed, SELECT_VERSION]
            return [self._commit(layout.STUDENT), examples, *settings, judged]

        def tidy() -> None:
            self._remove_trainings(layout.CROSS_ENCODER)

        does = partial(inputs, own), partial(self._run, "cross_encoder"), tidy, partial(inputs, of_files)
        return Step("cross_encoder", "cross_encoder", layout.CROSS_ENCODER, *does)

    def _index(self) -> Step:
        def inputs() -> list[Any]:
            return [self._commit(layout.STUDENT), self._settings("index")]

        return Step("index", "index", layout.INDEX, inputs, lambda: self._run("index"))

    def _predict(self) -> Step:
        def inputs() -> list[Any]:
            made_by = [self._commit(layout.STUDENT), self._commit(layout.INDEX)]
            reranked = [self._commit(layout.CROSS_ENCODER)] if self.config.predict.rerank else []
            return [*made_by, *reranked, self._settings("predict"), self._content()]

        return Step("predict", "predict", layout.PREDICTIONS, inputs, lambda: self._run("predict"))

    def _evaluate(self) -> Step:
        def inputs() -> list[Any]:
            made_by = [self._commit(layout.STUDENT), self._commit(layout.PREDICTIONS)]
            settings = [self._settings("evaluate"), self.config.report.documents]
            return [self.context.prepared.gold_fingerprint, *made_by, *settings]

        return Step("evaluate", "evaluate", layout.EVALUATION, inputs, lambda: self._run("evaluate"))

    def _report(self) -> Step:
        def inputs() -> list[Any]:
            shown = [self._settings("report"), self._settings("curriculum")]
            return [self._commit(layout.DOCUMENTS), self._commit(layout.EVALUATION), *shown]

        return Step("report", "report", layout.REPORT, inputs, lambda: self._run("report"))

    def execute(self, step: Step) -> Manifest:
        """Run one step and commit its manifest, whose seconds are those of all starts of the step.

        What is damaged of a step that is done is made anew, and the rest kept. An execution is named by what went in
        and what came out: one that gives the files that were there before makes no later step stale, also where only
        the later steps know what these were, since it is the manifest that is damaged.
        """
        began = time.monotonic()
        before, damaged = read_manifest(self.storage, step.folder), self.damage(step)
        if before is None and self.storage.exists(layout.manifest(step.folder)):
            say(f"{self.storage.path(layout.manifest(step.folder))} is damaged: {step.name} is done anew.")
        if step.stage != "prepare":  # which replaces its output only when the new one is whole
            # The manifest last: without it nothing would tell that a file is damaged.
            self._remove([*damaged, layout.manifest(step.folder)])
        # Without the old manifest, whose teacher's dtype is of no account any more.
        mark = step.fingerprint()
        files_mark = step.files_fingerprint() if step.made_of else mark
        is_kept = step.stage != "prepare" and self._keep_only(step.folder, files_mark)
        is_repair = before is not None and before.fingerprint == mark and bool(damaged)
        if is_repair:
            say(f"{step.name}: damaged, and made anew: {in_words(damaged)}")
            self._remove(damaged if step.stage == "prepare" else [])
        with seconds_spent(self.storage, step.folder, files_mark) as earlier_s, StageProgress(step.name):
            done = step.run()
        sizes = written_sizes(self.storage, done.files)
        checksums = checksums_of(self.storage, sizes, self._run_tasks(sum(sizes.values())))
        if before is not None and (is_repair or is_kept):
            earlier_s += before.seconds
        seconds, used = earlier_s + time.monotonic() - began, versions()
        commit = fingerprint([mark, checksums])
        if before is not None and is_repair and checksums == before.checksums:
            commit = before.commit  # that of an older version was drawn
        told = (done.rows, seconds, done.files, done.details, used, sizes, checksums, commit)
        manifest = Manifest(step.stage, mark, *told)
        write_manifest(self.storage, step.folder, manifest)
        step.tidy()
        say(f"{step.name}: {done.rows:,} {UNITS[step.stage]} in {manifest.seconds:,.1f} s")
        return manifest

    def _run_tasks(self, read_bytes: int) -> RunTasks:
        """Ray's tasks where there is much to read."""
        if read_bytes <= READ_HERE_BYTES:
            return starmap
        from ezxmc_ray.cluster.session import run_tasks

        return run_tasks

    def _remove(self, names: Iterable[str]) -> None:
        for name in names:
            self.storage.remove(name)

    def _keep_only(self, folder: str, mark: str) -> bool:
        """Remove what ``folder`` holds unless it was begun with the same fingerprint: then its files are still good.

        Returns whether they are kept.
        """
        if is_other := begun_with(self.storage, folder) != mark:
            self.storage.remove(folder)
            note_begun(self.storage, folder, mark)
        return not is_other

    def damage(self, step: Step) -> dict[str, str]:
        """Files of ``step`` that are missing, of another size than they had, or were found damaged by a verification,
        with a few words each; its manifest, if that is damaged; nothing if there is none."""
        return step_damage(self.storage, step.folder, self.noted_damage)

    def done(self, step: Step) -> bool:
        """Whether ``step`` needs no work: fingerprint as noted, files whole; the steps before it must be done."""
        manifest = read_manifest(self.storage, step.folder)
        if manifest is None or damaged_files(self.storage, manifest, self.noted_damage):
            return False
        return manifest.fingerprint == step.fingerprint()
