"""``ezxmc tag --output FOLDER/``: many files of documents on a cluster, a file of tags for each; no stage of a run.

In: a run or a bundle, and files of documents. Out: FOLDER/<name of the file>.<format>, beside it the bad rows, and in
FOLDER/.tagged/ a note for each file: it is not tagged again while the note fits it and the tagger. Items: files;
actors: a tagger each. Killed and given again, the command goes on with the files that are not done.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from ezxmc_ray.cluster.board import report_done, report_phase, watched
from ezxmc_ray.cluster.pools import Done, WorkItem, encoder_pool, map_items
from ezxmc_ray.config import Config, fingerprint, fingerprinted_settings
from ezxmc_ray.documents.documents import DocumentSource
from ezxmc_ray.documents.inputs import document_sources
from ezxmc_ray.documents.look import first_columns, with_ids
from ezxmc_ray.documents.sources import common_folders
from ezxmc_ray.errors import UserError
from ezxmc_ray.progress import StageProgress, say
from ezxmc_ray.storage import Storage
from ezxmc_ray.tables import REJECTED_SCHEMA
from ezxmc_ray.tagging.files import TagCounts, check_tagged, open_output, tag_source, write_rejected
from ezxmc_ray.tagging.settings import TagSettings
from ezxmc_ray.tagging.tagger import Tagger

NOTES = ".tagged"


@dataclass(frozen=True)
class _Files:
    """What is to be tagged, the ``names`` of its tags in the folder, and what the tags depend on (``made_by``)."""

    sources: list[DocumentSource]
    names: list[str]
    made_by: str


def tag_folder(
    where: str, overrides: Sequence[str], settings: TagSettings, inputs: Sequence[str], folder: str, ending: str
) -> TagCounts:
    """Tag ``inputs`` with the run or bundle ``where``, whose ``settings`` with ``overrides`` are known; Ray has been
    started. ``ending``: of the files, with its dot.

    Returns what all files together have, those that were done before too. Errors: UserError as tag_files.
    """
    prepare = settings.prepare
    sources = document_sources(prepare, inputs, "--input")
    columns = first_columns(sources)
    storage = Storage(folder)
    _check_apart(folder, inputs)
    made_by = fingerprint([_what_counts(settings), columns])
    files = _Files(with_ids(sources, columns), [f"{name}{ending}" for name in _names(sources)], made_by)
    done, missing = _done(storage, files)
    if done:
        say(f"{len(done):,} of {len(sources):,} files were tagged before and are kept.")
    counts, seen, rejected = TagCounts(), dict.fromkeys(columns), []
    with watched(StageProgress("tag", "documents")) as progress:
        arguments = (where, list(overrides), folder, files)
        tagged = map_items(missing, TagWorker, arguments, encoder_pool())
        for number, one in enumerate(itertools.chain(done, tagged)):
            counts.add(TagCounts(**one["counts"]))
            seen |= dict.fromkeys(one["columns"])
            rejected.append(pa.Table.from_pylist(one["first_rejected"], REJECTED_SCHEMA))
            progress.advance(one["counts"]["documents"], held=number < len(done))
    check_tagged(prepare, inputs, counts, seen, pa.concat_tables(rejected))
    return counts


def _names(sources: Sequence[DocumentSource]) -> list[str]:
    """The paths of the files below the folder that they have in common."""
    paths = [one.source.name.split("/") for one in sources]
    above = common_folders(paths)
    return ["/".join(path[above:]) for path in paths]


def _done(storage: Storage, files: _Files) -> tuple[list[Done], list[WorkItem]]:
    """What the notes say of the files that are done, and an item for each that is not."""
    done: list[Done] = []
    missing: list[WorkItem] = []
    there = storage.sizes(recursive=True)
    others = {name for name in there if name.startswith(f"{NOTES}/")} - set(map(_note, files.names))
    if others:
        say(f"{len(others):,} files of tags are there of documents that are not given this time; they stay.")
    for number, (source, file) in enumerate(zip(files.sources, files.names, strict=True)):
        note = _note(file)
        try:
            told = storage.read_note(note) if note in there and file in there else {}
        except ValueError:  # damaged
            told = {}
        if told and told["source"][0] != source.source.name:
            raise UserError(
                f"{storage.path(file)} holds the tags of {told['source'][0]}, which those of {source.source.name} "
                "would replace: name another folder as --output."
            )
        fits = (told.get("made_by"), told.get("source"), told.get("bytes"))
        if fits == (files.made_by, _state(source), there.get(file)):
            done.append(told)
        else:
            missing.append({"shard": number, "file": file})
    return done, missing


def _note(file: str) -> str:
    return f"{NOTES}/{file}.json"


def _what_counts(settings: TagSettings) -> dict[str, Any]:
    """What tags depend on: not where the work is done, nor how fast."""
    made = Config(encoder=settings.encoder, lexical=settings.lexical)
    told = dataclasses.asdict(dataclasses.replace(settings, cluster=made.cluster))
    return told | {name: fingerprinted_settings(made, name) for name in ("encoder", "lexical")}


def _check_apart(folder: str, inputs: Sequence[str]) -> None:
    """Errors: UserError for a folder among the inputs: the next call would take tags for documents."""
    place = Storage(folder).path().rstrip("/") + "/"
    for one in inputs:
        if "*" not in one and place.startswith(Storage(one).path().rstrip("/") + "/"):
            raise UserError(f"--output {folder} lies in {one}, whose files are tagged: name a folder elsewhere.")


def _state(source: DocumentSource) -> list[Any]:
    return [source.source.name, source.source.size, source.source.mtime_ns]


class TagWorker:
    """Actor: tags files."""

    def __init__(self, where: str, overrides: list[str], folder: str, files: _Files) -> None:
        report_phase("loading the student and the index")
        self.tagger, self.storage, self.files = Tagger.load(where, overrides), Storage(folder), files

    def __call__(self, item: WorkItem) -> Done:
        """Do one item; returns its note."""
        number, file, columns = int(item["shard"]), item["file"], dict[str, None]()
        source = self.files.sources[number]
        self.storage.remove(_note(file))
        done = 0

        def write_and_tell(table: pa.Table) -> None:
            nonlocal done
            write(table)
            done += len(table)
            report_done(file, done)

        with open_output(self.storage, file) as write:
            counts, rejected = tag_source(self.tagger, source, number, write_and_tell, columns)
        write_rejected(self.storage, file, rejected)
        told = {
            "made_by": self.files.made_by,
            "source": _state(source),
            "bytes": self.storage.filesystem.get_file_info(self.storage.path(file)).size,
            "counts": dataclasses.asdict(counts),
            "columns": list(columns),
            "first_rejected": rejected.slice(0, 1).to_pylist(),
        }
        self.storage.write_note(_note(file), told)
        return told
