"""``ezxmc tag --rerank --output FOLDER/``: tags whose labels the teacher was asked about; no stage of a run.

In: a run, which is read and never written, and files of documents. Out: as tag_folder.py, with the columns of
RERANKED_SCHEMA. Two passes: the student proposes labels (items: files; actors: taggers), the teacher judges them
(items: ranges of documents; actors: the engines of the stage ``judge``). A file's tags are written when its pairs are
judged.

What is on its way lies in FOLDER/.rerank/ (rerank_worker.py). So a killed command goes on: files that were proposed are
kept, and verdicts that were committed are not asked for again. Those that the run holds are taken over from it. New
ones stay in FOLDER: the run may be somebody else's, in use or read-only, and would grow by every document ever tagged.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import chain, count
from typing import Any

from ezxmc_ray import layout
from ezxmc_ray.cluster.board import watched
from ezxmc_ray.cluster.pools import Done, WorkItem, encoder_pool, free_gpus, map_items
from ezxmc_ray.cluster.session import run_task, run_tasks
from ezxmc_ray.cluster.shared_places import check_seen
from ezxmc_ray.config import TeacherConfig
from ezxmc_ray.context import Context
from ezxmc_ray.evaluation.first_pairs import act_on
from ezxmc_ray.progress import StageProgress, say
from ezxmc_ray.stages.judge import compact_priors, engine_pool, item_documents, prior_items, run_engines, start_store
from ezxmc_ray.stages.judge import work_items as items_of
from ezxmc_ray.stages.judge_worker import LABEL_PRIORS, PAIRS
from ezxmc_ray.stages.rerank_worker import (
    CYCLE,
    MAX_SHARDS,
    SHARD_DOCUMENTS,
    ProposeWorker,
    copy_labels,
    pending_pairs,
    proposed_files,
    proposed_note,
    shard_files,
    shards_of,
    take_held,
    take_priors,
    work_folder,
    write_lookup_of_parts,
    write_tags,
)
from ezxmc_ray.stages.tagged_files import FolderTotals, TaggedFiles, is_of, owned_folder, read_notes
from ezxmc_ray.storage import Storage, read_manifest
from ezxmc_ray.tagging.files import TagCounts
from ezxmc_ray.tagging.reranking import WITHOUT_CROSS_ENCODER, Reranking
from ezxmc_ray.tagging.settings import TagSettings
from ezxmc_ray.verdicts.examples import write_label_priors
from ezxmc_ray.verdicts.placement import LOOKUP, placement_of
from ezxmc_ray.verdicts.relocate import FOLDERS_PER_TASK
from ezxmc_ray.verdicts.second_readout import SECOND
from ezxmc_ray.verdicts.shortlist_pairs import plan_priors
from ezxmc_ray.verdicts.store import PRIORS, VerdictStore

#: Seconds between two deliveries of tags while engines work, and files that a task writes the tags of.
DELIVER_EVERY_S, FILES_PER_TASK = 10.0, 64


@dataclass(frozen=True)
class _Job:
    """A command: where the run, the tags (``output``) and the work lie, and how is reranked. ``settings``: of the
    tagger."""

    context: Context
    overrides: list[str]
    settings: TagSettings
    how: Reranking
    output: Storage

    @property
    def run(self) -> Storage:
        return self.context.storage

    @cached_property
    def work(self) -> Storage:
        return work_folder(self.output)


def rerank_folder(
    opened: tuple[Context, TagSettings, Reranking],
    overrides: Sequence[str],
    inputs: Sequence[str],
    folder: str,
    ending: str,
) -> TagCounts:
    """Tag ``inputs`` by the run that ``opened`` (open_reranking) with ``overrides``; Ray has been started.

    Returns what all files together have, those that were done before too. Errors: UserError as tag_folder, for a folder
    that another command reranks into, and for a teacher that gives no finite score.
    """
    context, settings, how = opened
    files = TaggedFiles.find(settings, inputs, folder, ending)
    tagged = files.which_depend_on(["rerank", *how.decided_by])
    with owned_folder(folder) as output:
        job = _Job(context, [*overrides, *WITHOUT_CROSS_ENCODER], settings, how, output)
        done, missing = tagged.done_and_missing(output, output.sizes(recursive=True))
        totals = FolderTotals(dict.fromkeys(files.columns))
        for one in done:
            totals.add(one)
        if missing:
            check_seen("--output", output)
            tagged.note_made_by(output)
            _tell_weakness(job)
            proposed = _propose(job, files.which_depend_on(["candidates", *how.proposed_by]), missing)
            _ask_and_deliver(job, proposed, tagged.made_by, totals)
            _tidy(job)
    return totals.check(settings.prepare, inputs)


def _tell_weakness(job: _Job) -> None:
    """Say it where the run found that its teacher looks like noise. Errors: UserError where teacher.on_weak is fail."""
    judged = read_manifest(job.run, layout.examples(0))
    details = judged.details if judged else {}
    for told in (details, details.get(SECOND) or {}):
        act_on(told.get("first_pairs"), job.how.teacher)


def _propose(job: _Job, files: TaggedFiles, missing: Sequence[WorkItem]) -> list[Done]:
    """The notes of the candidates of the files that are ``missing``; those that were proposed before are kept."""
    work, numbers = job.work, proposed_files(job.work)
    there = set(work.list(layout.DOCUMENTS)) | set(work.list(layout.shortlist(CYCLE)))
    proposed: list[Done] = []
    items: list[WorkItem] = []
    known = [item["file"] for item in missing if item["file"] in numbers]
    notes = dict(zip(known, read_notes(work, [proposed_note(numbers[file], file) for file in known]), strict=True))
    unused = count(max(numbers.values(), default=-1) + 1)
    for item in missing:
        file = item["file"]
        number, told = numbers[file] if file in numbers else next(unused), notes.get(file, {})
        fits = told.get("made_by") == files.made_by and is_of(told, files.sources[int(item["shard"])])
        if fits and there.issuperset(shard_files(told)):
            proposed.append(told)
        else:
            items.append(item | {"first": number})
    with watched(StageProgress("rerank, candidates", "documents")) as progress:
        for told in proposed:
            progress.advance(told["counts"]["documents"], held=True)
        arguments = (job.context.config.run, job.overrides, job.output, files, job.how)
        pool = encoder_pool(job.context.config.index.gpus_per_actor)
        for told in map_items(items, ProposeWorker, arguments, pool):
            proposed.append(told)
            progress.advance(told["counts"]["documents"])
    return sorted(proposed, key=lambda told: int(told["number"]))


def _bring_held(job: _Job, key: str, proposed: Sequence[Done]) -> int:
    """Bring verdicts of the teacher ``key`` on the documents of ``proposed`` to their shards in the work folder.

    That is those that the run holds, and those that are there, for documents that were in other files or at other
    places before. Returns how many they are. Which files this was done for is noted last, so that after a kill it is
    done again.
    """
    work, store = job.work, VerdictStore(job.work, key)
    placed: dict[str, Any] = store.placement() or {}
    names = {str(told["number"]): told["name"] for told in proposed if told["shards"]}
    fresh = [told for told in proposed if placed.get(str(told["number"])) != names.get(str(told["number"]))]
    shards = [shard for told in fresh for shard in shards_of(told)]
    if not shards:
        return 0
    held = VerdictStore(job.run, key)
    in_place = held.placement() == placement_of(job.context.prepared)
    run_task(write_lookup_of_parts, work, shards)
    sources = [(job.run, held.folders(), in_place), (work, store.folders(), False)]
    tasks = [
        (source, work, key, part, shards, by_documents)
        for source, folders, by_documents in sources
        for part in _parts([folder for folder in folders if folder != PRIORS], FOLDERS_PER_TASK)
    ]
    brought = sum(run_tasks(take_held, tasks))
    work.remove(LOOKUP)
    store.write_placement(placed | names)
    return brought


@dataclass(frozen=True)
class _Round:
    """What the ``teacher`` is asked by one read-out, whose scores have the ``key``.

    ``pending``: pairs by shard; ``priors``: labels by themselves; ``brought``: verdicts that were there already.
    """

    teacher: TeacherConfig
    key: str
    pending: dict[int, int]
    priors: int
    brought: int

    @property
    def pairs(self) -> int:
        return sum(self.pending.values())


def _round(job: _Job, proposed: Sequence[Done], teacher: TeacherConfig, key: str, calibration: str) -> _Round:
    work = job.work
    run_task(start_store, work, teacher)
    brought = _bring_held(job, key, proposed)
    shards = [shard for told in proposed for shard in shards_of(told)]
    pending = dict(run_tasks(pending_pairs, [(work, key, shard) for shard in shards]))
    priors = 0
    if calibration == "label_prior":
        run_task(take_priors, job.run, work, key)
        priors = run_task(plan_priors, work, key, CYCLE, shards, [])[0]
    return _Round(teacher, key, pending, priors, brought)


def _ask_and_deliver(job: _Job, proposed: list[Done], made_by: str, totals: FolderTotals) -> None:
    """Let the engines judge what is not held, and write each file's tags when its pairs are judged."""
    with StageProgress("rerank", phase="looking for verdicts that are there"):
        run_task(copy_labels, job.run, job.work, job.settings.label_fingerprint)
        rounds = [_round(job, proposed, *asked) for asked in job.how.asked]
    _say_to_ask(rounds, sum(told["pairs"] for told in proposed))
    free_gpus()
    items = []
    for one in rounds:
        engines = engine_pool(one.teacher).size
        pairs = _pair_items(proposed, one.pending, engines, one.teacher)
        items.append(prior_items(0, one.priors, one.priors, engines) + pairs)
    deliveries = _Deliveries(job, made_by, totals, {told["number"]: told for told in proposed}, list(chain(*items)))
    deliveries.deliver()
    for one, asked in zip(rounds, items, strict=True):
        _ask(job, one, asked, deliveries)
    deliveries.deliver()


def _ask(job: _Job, one: _Round, items: list[WorkItem], deliveries: _Deliveries) -> None:
    """Let the engines do the ``items`` of a round."""
    progress = StageProgress("rerank", "pairs", one.pairs + one.priors)
    work = (job.work, one.teacher, one.key, CYCLE)
    _say_asked(run_engines(work, engine_pool(one.teacher), items, progress, deliveries.note))


def _say_to_ask(rounds: Sequence[_Round], pairs: int) -> None:
    """What the teacher will be asked; ``pairs``: candidates of all documents."""
    if brought := sum(one.brought for one in rounds):
        say(f"{brought:,} verdicts on these documents are there already.")
    first, *others = rounds
    held = pairs - first.pairs
    if not sum(one.pairs + one.priors for one in rounds):
        say(f"The teacher is asked nothing: {pairs:,} of {pairs:,} pairs are answered already.")
        return
    say(
        f"The teacher {first.teacher.model} is asked about {first.pairs:,} pairs of a document and a label"
        + "".join(f", a second time about {one.pairs:,} (by its {one.teacher.readout})" for one in others)
        + (f", and about {first.priors:,} labels by themselves" if first.priors else "")
        + (f"; the other {held:,} of {pairs:,} pairs are answered already." if held else ".")
    )


def _pair_items(
    proposed: Sequence[Done], pending: dict[int, int], engines: int, teacher: TeacherConfig
) -> list[WorkItem]:
    """Ranges of the documents of the shards that have ``pending`` pairs, file after file."""
    size = item_documents(sum(told["counts"]["documents"] for told in proposed), engines, teacher)
    items: list[WorkItem] = []
    for told in proposed:
        left = told["counts"]["documents"]
        for shard in shards_of(told):
            rows = min(left, SHARD_DOCUMENTS)
            left -= rows
            items += items_of(PAIRS, 0, rows, size, shard) if pending[shard] else []
    return items


def _say_asked(did: dict[str, Any]) -> None:
    """What the engines did (engine_details), in words; nothing where they had nothing to do."""
    if not did["pairs_asked"] + did["prior_pairs_asked"]:
        return
    priors = f" and {did['prior_pairs_asked']:,} labels by themselves" if did["prior_pairs_asked"] else ""
    say(
        f"The teacher judged {did['pairs_asked']:,} pairs{priors} in {did['map_seconds']:,.0f} s (engines: "
        f"{did['engines']}, {did['engine_pairs_per_s']:,.1f} pairs/s each), and computed {did['computed_tokens']:,} of "
        f"{did['prompt_tokens']:,} prompt tokens."
    )
    if did["truncated_documents"]:
        say(f"{did['truncated_documents']:,} documents were cut at teacher.max_document_tokens.")


def _tidy(job: _Job) -> None:
    """Remove what only a command on its way needs; verdicts and the files' numbers stay."""
    for _, key, calibration in job.how.asked:
        if calibration == "label_prior":
            run_task(compact_priors, job.work, key)
    for name in (layout.DOCUMENTS, layout.cycle_folder(CYCLE), layout.LABELS):
        job.work.remove(name)


@dataclass
class _Deliveries:
    """Writes the tags of files whose pairs are judged, now and then while the engines work.

    ``waiting``: notes of candidates by the file's number; ``items``: what the engines are to do.
    """

    job: _Job
    made_by: str
    totals: FolderTotals
    waiting: dict[int, Done]
    items: Sequence[WorkItem]
    since: float = field(default_factory=time.monotonic)

    def __post_init__(self) -> None:
        self._open = Counter(_file_of(item) for item in self.items)
        self._has_priors = self.job.how.reading.calibration != "label_prior"

    def note(self, item: WorkItem) -> None:
        """An item is done."""
        self._open[_file_of(item)] -= 1
        if time.monotonic() - self.since >= DELIVER_EVERY_S:
            self.deliver()

    def deliver(self) -> None:
        """Write the tags of all files that can be."""
        self.since = time.monotonic()
        ready = [told for number, told in self.waiting.items() if not self._open[number]]
        if self._open[None] or not ready:
            return
        work, how = self.job.work, self.job.how
        # No CPUs: the engines have them all where there is no GPU.
        if not self._has_priors:
            run_task(write_label_priors, work, how.reading.key, CYCLE, cpus=0)
            self._has_priors = True
        tasks = [(work, self.job.output, part, self.made_by, how) for part in _parts(ready, FILES_PER_TASK)]
        for done in run_tasks(write_tags, tasks, cpus=0):
            for one in done:
                self.totals.add(one)
        for told in ready:
            del self.waiting[told["number"]]


def _file_of(item: WorkItem) -> int | None:
    """The number of the file that an item is of; None: of all, label priors."""
    return None if item["kind"] == LABEL_PRIORS else int(item["shard"]) // MAX_SHARDS


def _parts(values: Sequence[Any], size: int) -> Iterator[list[Any]]:
    for start in range(0, len(values), size):
        yield list(values[start : start + size])
