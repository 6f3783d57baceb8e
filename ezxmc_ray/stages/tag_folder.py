"""``ezxmc tag --output FOLDER/``: many files of documents on a cluster, a file of tags for each; no stage of a run.

In: a run or a bundle, and files of documents. Out: FOLDER/<name of the file>.<format>, beside it the bad rows, and in
FOLDER/.tagged/ a note for each file (tagged_files.py). Items: files; actors: a tagger each. Killed and given again, the
command goes on with the files that are not done.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pyarrow as pa

from ezxmc_ray.cluster.board import report_done, report_phase, watched
from ezxmc_ray.cluster.pools import Done, WorkItem, encoder_pool, map_items
from ezxmc_ray.cluster.shared_places import check_seen
from ezxmc_ray.integrity import check_there
from ezxmc_ray.progress import StageProgress
from ezxmc_ray.stages.tagged_files import FolderTotals, TaggedFiles, note_begun, note_done, owned_folder, told_of
from ezxmc_ray.storage import Storage
from ezxmc_ray.tagging.files import TagColumns, TagCounts, open_output, tag_source, write_rejected
from ezxmc_ray.tagging.settings import TagSettings
from ezxmc_ray.tagging.tagger import Tagger

#: Looks at the counts of a file, and adds to its note.
Finish = Callable[[TagCounts], Done]


def tag_folder(
    where: str, overrides: Sequence[str], settings: TagSettings, inputs: Sequence[str], folder: str, ending: str
) -> TagCounts:
    """Tag ``inputs`` with the run or bundle ``where``, whose ``settings`` with ``overrides`` are known; Ray has been
    started. ``ending``: of the files, with its dot.

    Returns what all files together have, those that were done before too. Errors: UserError as tag_files.
    """
    files = TaggedFiles.find(settings, inputs, folder, ending)
    totals, gpus = FolderTotals(dict.fromkeys(files.columns)), settings.gpus_per_actor
    with owned_folder(folder) as storage:
        done, missing = files.done_and_missing(storage, storage.sizes(recursive=True))
        files.note_made_by(storage)
        for _ in tag_missing(totals, done, missing, gpus, TagWorker, (where, list(overrides), storage, files)):
            pass
    return totals.check(settings.prepare, inputs)


def tag_missing(
    totals: FolderTotals,
    done: Sequence[Done],
    missing: list[WorkItem],
    gpus_per_actor: int,
    worker: type[TagWorker],
    arguments: tuple[Any, ...],
) -> Iterator[Done]:
    """Have the files ``missing`` tagged by actors of ``worker``; their notes. ``totals`` takes up all files.

    ``arguments``: of the worker; the third is the folder's storage. Errors: UserError for a folder that not every node
    sees.
    """
    storage: Storage = arguments[2]
    if missing:
        check_seen("--output", storage)
    with watched(StageProgress("tag", "documents")) as progress:
        for one in done:
            totals.add(one)
            progress.advance(one["counts"]["documents"], held=True)
        for one in map_items(missing, worker, arguments, encoder_pool(gpus_per_actor)) if missing else ():
            totals.add(one)
            progress.advance(one["counts"]["documents"])
            yield one
    if missing:  # a node that came later may have a disk of its own
        check_there(storage, [item["file"] for item in missing], storage.sizes(recursive=True), "--output")


class TagWorker:
    """Actor: tags files."""

    def __init__(self, where: str, overrides: list[str], storage: Storage, files: TaggedFiles) -> None:
        report_phase("loading the student and the index")
        self.tagger, self.storage, self.files = Tagger.load(where, overrides), storage, files
        files.check_same(self.tagger.settings, where)

    def __call__(self, item: WorkItem) -> Done:
        """Do one item; returns its note."""
        return self.tag(item, self.tagger.tag_columns)

    def tag(self, item: WorkItem, tag_columns: TagColumns, finish: Finish = lambda counts: {}) -> Done:
        """Tag an item's file by ``tag_columns``; before it is committed ``finish`` gets the counts,
        and what it returns is in the note too."""
        number, file, columns = int(item["shard"]), item["file"], dict[str, None]()
        source = self.files.sources[number]
        done = 0

        def write_and_tell(table: pa.Table) -> None:
            nonlocal done
            write(table)
            done += len(table)
            report_done(file, done)

        with open_output(self.storage, file) as write:
            counts, rejected = tag_source(tag_columns, source, number, write_and_tell, columns)
            told = finish(counts)
            note_begun(self.storage, file, source)  # in place of that of the tags that are replaced now
        write_rejected(self.storage, file, rejected)
        told |= told_of(source, self.files.made_by, counts, list(columns), rejected)
        return note_done(self.storage, file, told)
