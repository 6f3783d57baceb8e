"""``ezxmc tag --output FOLDER/``: many files of documents on a cluster, a file of tags for each; no stage of a run.

In: a run or a bundle, and files of documents. Out: FOLDER/<name of the file>.<format>, beside it the bad rows, and in
FOLDER/.tagged/ a note for each file (tagged_files.py). Items: files; actors: a tagger each. Killed and given again, the
command goes on with the files that are not done.
"""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa

from ezxmc_ray.cluster.board import report_done, report_phase, watched
from ezxmc_ray.cluster.pools import Done, WorkItem, encoder_pool, map_items
from ezxmc_ray.progress import StageProgress
from ezxmc_ray.stages.tagged_files import FolderTotals, TaggedFiles, note_done, note_of, told_of
from ezxmc_ray.storage import Storage
from ezxmc_ray.tagging.files import TagCounts, open_output, tag_source, write_rejected
from ezxmc_ray.tagging.settings import TagSettings
from ezxmc_ray.tagging.tagger import Tagger


def tag_folder(
    where: str, overrides: Sequence[str], settings: TagSettings, inputs: Sequence[str], folder: str, ending: str
) -> TagCounts:
    """Tag ``inputs`` with the run or bundle ``where``, whose ``settings`` with ``overrides`` are known; Ray has been
    started. ``ending``: of the files, with its dot.

    Returns what all files together have, those that were done before too. Errors: UserError as tag_files.
    """
    files = TaggedFiles.find(settings, inputs, folder, ending)
    done, missing = files.done_and_missing(Storage(folder))
    totals = FolderTotals(dict.fromkeys(files.columns))
    with watched(StageProgress("tag", "documents")) as progress:
        for one in done:
            totals.add(one)
            progress.advance(one["counts"]["documents"], held=True)
        for one in map_items(missing, TagWorker, (where, list(overrides), folder, files), encoder_pool()):
            totals.add(one)
            progress.advance(one["counts"]["documents"])
    return totals.check(settings.prepare, inputs)


class TagWorker:
    """Actor: tags files."""

    def __init__(self, where: str, overrides: list[str], folder: str, files: TaggedFiles) -> None:
        report_phase("loading the student and the index")
        self.tagger, self.storage, self.files = Tagger.load(where, overrides), Storage(folder), files

    def __call__(self, item: WorkItem) -> Done:
        """Do one item; returns its note."""
        number, file, columns = int(item["shard"]), item["file"], dict[str, None]()
        source = self.files.sources[number]
        self.storage.remove(note_of(file))
        done = 0

        def write_and_tell(table: pa.Table) -> None:
            nonlocal done
            write(table)
            done += len(table)
            report_done(file, done)

        with open_output(self.storage, file) as write:
            counts, rejected = tag_source(self.tagger, source, number, write_and_tell, columns)
        write_rejected(self.storage, file, rejected)
        told = told_of(source, self.files.made_by, counts, list(columns), rejected)
        return note_done(self.storage, file, told)
