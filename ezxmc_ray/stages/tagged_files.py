"""Files of documents, the files of tags that a folder has of them, and which of these are done; what both ways of
tagging into a folder share (tag_folder.py, rerank.py).

In: files of documents, a folder, which one command at a time writes to. Out: notes in FOLDER/.tagged/, one a file: it
is not tagged again while its note fits the file and what the tags depend on. FOLDER/.tagged-by/ has that in full: which
labels there were, and the settings. While tags are made their note says of which file.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from itertools import chain
from typing import Any

import pyarrow as pa
from pyarrow import fs

from ezxmc_ray.cluster.pools import Done, WorkItem
from ezxmc_ray.config import Config, PrepareConfig, fingerprint, fingerprinted_settings
from ezxmc_ray.documents.documents import DocumentSource
from ezxmc_ray.documents.finding import is_glob, would_find
from ezxmc_ray.documents.inputs import documents_and_unread
from ezxmc_ray.documents.look import first_columns, with_ids
from ezxmc_ray.documents.sources import Source, common_folders, open_location, real_path
from ezxmc_ray.documents.told import unread_files
from ezxmc_ray.errors import UserError
from ezxmc_ray.integrity import checksum_of
from ezxmc_ray.places import check_apart
from ezxmc_ray.prefetch import at_once
from ezxmc_ray.progress import StageProgress, say
from ezxmc_ray.storage import Storage
from ezxmc_ray.tables import REJECTED_SCHEMA
from ezxmc_ray.tagging.bundle_lock import bundle_lock
from ezxmc_ray.tagging.files import TagCounts, check_tagged, rejected_name, tell_divided
from ezxmc_ray.tagging.settings import TagSettings

NOTES = ".tagged"
#: Where notes lie of what tags depend on, by its fingerprint: told once, and not with each file.
MADE_BY = ".tagged-by"
#: The work folder of --rerank, and where in it a note lies of each file that it proposed labels of.
WORK, PROPOSED = ".rerank", "proposed"


@dataclass(frozen=True)
class TaggedFiles:
    """What is to be tagged, the ``names`` of its tags in the folder, and what the tags depend on (JSON).

    ``columns``: of the first file, by which all are read.
    """

    sources: list[DocumentSource]
    names: list[str]
    depends_on: list[Any]
    columns: list[str]

    @cached_property
    def made_by(self) -> str:
        """The fingerprint of what the tags depend on."""
        return fingerprint(self.depends_on)

    def check_same(self, settings: TagSettings, where: str) -> None:
        """Errors: UserError unless the ``settings`` of the tagger ``where`` are those that the command began with."""
        if fingerprint(what_counts(settings)) != fingerprint(self.depends_on[0]):
            raise UserError(f"{where} was changed since the command began: give it again.")

    def which_depend_on(self, more: Sequence[Any]) -> TaggedFiles:
        """The same files with what depends on ``more`` besides."""
        return replace(self, depends_on=[*self.depends_on, *more])

    @classmethod
    def find(cls, settings: TagSettings, inputs: Sequence[str], folder: str, ending: str) -> TaggedFiles:
        """Of ``inputs`` (paths, globs or URIs), with tags in ``folder`` whose names end in ``ending``.

        Errors: UserError as document_sources, and for a folder among the inputs.
        """
        sources, unread = documents_and_unread(settings.prepare, inputs, "--input")
        for told in unread_files(unread):
            say(f"{told}.")
        columns = list(first_columns(sources))
        names = [f"{name}{ending}" for name in _names(sources)]
        _check_apart(folder, inputs, names)
        return cls(with_ids(sources, columns), names, [what_counts(settings)], columns)

    def note_made_by(self, storage: Storage) -> None:
        """Note in ``storage`` what the tags depend on; before the first of them is written."""
        note = _made_by_note(self.made_by)
        if not storage.exists(note):
            storage.write_note(note, {"depends_on": self.depends_on})

    def done_and_missing(self, storage: Storage, there: Mapping[str, int]) -> tuple[list[Done], list[WorkItem]]:
        """What the notes in ``storage`` say of the files that are done, and an item for each that is not; with
        ``made_by`` where its documents, as they are, have tags that depended on something else.

        ``there``: what the folder holds (``storage.sizes``, recursive).

        Errors: UserError for tags there of other documents, and for files that no note is of, which would be replaced.
        """
        done: list[Done] = []
        missing: list[WorkItem] = []
        _tell_others(there, self.names)
        known = _known(there, self.names)
        _check_ours(storage, there, [file for file in self.names if file not in known])
        files = [file for file in self.names if file in there]
        notes = dict(zip(files, read_notes(storage, [known[file] for file in files]), strict=True))
        for number, (source, file) in enumerate(zip(self.sources, self.names, strict=True)):
            told = notes.get(file, {})
            if told and not _is_same(told, source.source):
                names = told["source"][0], source.source.name
                if names[0] == names[1]:  # given in two directories
                    names = told["place"], source.source.path
                raise UserError(
                    f"{storage.path(file)} holds the tags of {names[0]}, which those of {names[1]} would replace: name "
                    "another folder as --output."
                )
            fits = is_of(told, source) and told.get("bytes") == there.get(file)
            if fits and told["made_by"] == self.made_by:
                done.append(told)
            else:
                item: WorkItem = {"shard": number, "file": file}
                missing.append(item | {"made_by": told["made_by"]} if fits else item)
        if done:
            say(f"{len(done):,} of {len(self.sources):,} files were tagged before and are kept.")
        return done, missing


@dataclass
class FolderTotals:
    """What the files of a call add up to: counts, columns, the first bad row of each, those ``without`` rows;
    ``alike``: a file with each list of columns."""

    columns: dict[str, None]
    alike: dict[tuple[str, ...], str] = field(default_factory=dict)
    counts: TagCounts = field(default_factory=TagCounts)
    rejected: list[pa.Table] = field(default_factory=list)
    without: list[str] = field(default_factory=list)

    def add(self, told: Done) -> None:
        """Add a file's note."""
        counts = TagCounts(**told["counts"])
        self.counts.add(counts)
        self.without += [told["source"][0]] if counts.is_rowless else []
        self.columns |= dict.fromkeys(told["columns"])
        file, columns = told["source"][0], tuple(told["columns"])
        self.alike[columns] = min(file, self.alike.get(columns, file))
        self.rejected.append(pa.Table.from_pylist(told["first_rejected"], REJECTED_SCHEMA))

    def check(self, prepare: PrepareConfig, inputs: Sequence[str]) -> TagCounts:
        """The counts. Errors: UserError as check_tagged."""
        rejected = pa.concat_tables(self.rejected)
        check_tagged(prepare, inputs, self.counts, self.columns, rejected, sorted(self.without))
        tell_divided(prepare, dict(sorted(self.alike.items(), key=lambda one: one[1])))
        return self.counts


@contextmanager
def owned_folder(folder: str) -> Iterator[Storage]:
    """A folder of tags, for this command alone: two would each note what the other wrote.

    Errors: UserError where another command writes to it, where nothing can be written, and as check_apart.
    """
    storage = Storage(folder)
    check_apart("--output", folder, storage, "tags")
    with bundle_lock(storage):
        yield storage


def told_of(
    source: DocumentSource, made_by: str, counts: TagCounts, columns: Sequence[str], rejected: pa.Table
) -> Done:
    """What a note says of the file ``source`` and what was made of it; ``rejected``: its bad rows (REJECTED_SCHEMA)."""
    return {
        "made_by": made_by,
        "source": state_of(source),
        "place": source.source.path,
        **_ids_of(source),
        "counts": dataclasses.asdict(counts),
        "columns": list(columns),
        "first_rejected": rejected.slice(0, 1).to_pylist(),
    }


def note_done(storage: Storage, file: str, told: Done) -> Done:
    """Commit the note of the tags ``file``: ``told``, their size and checksum. Returns what it says."""
    size = storage.filesystem.get_file_info(storage.path(file)).size
    told = told | {"bytes": size, "tags": checksum_of(storage, file)}
    storage.write_note(note_of(file), told)
    return told


def is_whole(storage: Storage, file: str, note: Done) -> bool:
    """Whether the tags ``file`` are those that ``note`` is of."""
    return bool(note) and note.get("tags") == checksum_of(storage, file)


def note_begun(storage: Storage, file: str, source: DocumentSource) -> None:
    """Commit, in place of the note of the tags ``file``, that they are being made of ``source``: they are not done, and
    are ours."""
    storage.write_note(note_of(file), {"source": [source.source.name], "place": source.source.path})


def read_notes(storage: Storage, notes: Sequence[str]) -> list[Done]:
    """:func:`read_note` of each, a few asked at once."""
    with StageProgress("tag", "notes", len(notes), phase="reading the notes of what is done") as progress:
        told = []
        for one in at_once(partial(read_note, storage), notes):
            told.append(one)
            progress.advance(1)
    return told


def read_note(storage: Storage, note: str) -> Done:
    """What a note says; nothing where it is not there, or damaged."""
    try:
        return storage.read_note(note)
    except (FileNotFoundError, ValueError):
        return {}


def depended_on(storage: Storage, made_by: str) -> list[Any] | None:
    """What tags depended on, by its fingerprint (TaggedFiles.depends_on); None where it was not noted."""
    try:
        return list(storage.read_note(_made_by_note(made_by))["depends_on"])
    except (FileNotFoundError, ValueError):
        return None


def _made_by_note(made_by: str) -> str:
    return f"{MADE_BY}/{made_by}.json"


def note_of(file: str) -> str:
    """The note of the tags ``file``."""
    return f"{NOTES}/{file}.json"


def is_of(told: Done, source: DocumentSource) -> bool:
    """Whether what a note says was made of the file as it is, with the ids that its documents have now."""
    is_as_it_was = told.get("source", [])[1:] == state_of(source)[1:]
    return is_as_it_was and all(told.get(name, ids) == ids for name, ids in _ids_of(source).items())


def _ids_of(source: DocumentSource) -> dict[str, Any]:
    """How the documents of a file come by their ids; other files may change it."""
    return {"id_prefix": source.id_prefix, "row_ids": source.row_ids}


def _is_same(told: Done, source: Source) -> bool:
    """Whether a note is of the file, whatever either command called it and whichever directory it was given in.

    A file of the same name is another one where the first is still there; else it has moved.
    """
    name = told["source"][0]
    place = told.get("place", open_location(name)[1])
    if source.path == place or real_path(source.filesystem, source.path) == real_path(source.filesystem, place):
        return True
    if "place" not in told:  # of an older version, which noted no more
        return bool(name == source.name)
    return bool(name == source.name) and source.filesystem.get_file_info(place).type == fs.FileType.NotFound


def state_of(source: DocumentSource) -> list[Any]:
    """Name, size and time of a file of documents."""
    return [source.source.name, source.source.size, source.source.mtime_ns]


def _names(sources: Sequence[DocumentSource]) -> list[str]:
    """The paths of the files below the folder that they have in common."""
    paths = [one.source.parts for one in sources]
    above = common_folders(paths)
    return ["/".join(path[above:]) for path in paths]


def what_counts(settings: TagSettings) -> dict[str, Any]:
    """What tags by these settings depend on: not where the work is done, nor how fast."""
    made = Config(encoder=settings.encoder, lexical=settings.lexical, predict=settings.predict)
    searches = None if settings.onnx else settings.encoder.vector_dtype  # on GPUs or not
    told = dataclasses.asdict(dataclasses.replace(settings, cluster=Config().cluster, gpu_dtype=searches))
    del told["gpus_per_actor"], told["cluster"]["max_gpus"]  # which older notes lack
    if settings.reranking is None:
        del told["cross_encoder"]
    return told | {name: fingerprinted_settings(made, name) for name in ("encoder", "lexical", "predict")}


def _known(there: Collection[str], names: Sequence[str]) -> dict[str, str]:
    """By name of those that were made here: a note that is ``there`` and says so. Of the tags, or of what --rerank
    proposed, since older versions removed a file's note before they replaced its tags."""
    work = f"{WORK}/{PROPOSED}/"
    proposed = {one.split("/", 3)[3].removesuffix(".json"): one for one in there if one.startswith(work)}
    return proposed | {file: note for file in names if (note := note_of(file)) in there}


def _check_ours(storage: Storage, there: Collection[str], unknown: Sequence[str]) -> None:
    """Errors: UserError where files of the names ``unknown``, or of the bad rows beside them, are ``there``."""
    if others := [one for file in unknown for one in (file, rejected_name(file)) if one in there]:
        raise UserError(
            f"{storage.path(others[0])} is there, and would be replaced, though no note says that `ezxmc tag` made it "
            f"(files like it: {len(others):,}): move them away, or name another folder as --output."
        )


def _tell_others(there: Collection[str], names: Sequence[str]) -> None:
    """Say how many of the files that are ``there`` are tags, and not among ``names``."""
    noted = (name[len(NOTES) + 1 :].removesuffix(".json") for name in there if name.startswith(f"{NOTES}/"))
    others = set(noted).intersection(there) - set(names)
    if others:
        say(f"{len(others):,} files of tags are there of documents that are not given this time; they stay.")


def _check_apart(folder: str, inputs: Sequence[str], names: Sequence[str]) -> None:
    """Errors: UserError for a folder where the tags ``names``, or the bad rows beside them, would be among the inputs:
    the next call would take them for documents."""
    place = _place(folder)
    among = next((one for one in inputs if place.startswith(_place(one))), None)
    if among:
        raise UserError(f"--output {folder} lies in {among}, whose files are tagged: name a folder elsewhere.")
    places = {place, open_location(folder)[1].rstrip("/") + "/"}
    for pattern in filter(is_glob, inputs):
        for name in chain.from_iterable((one, rejected_name(one)) for one in names):
            if any(would_find(pattern, one + name) for one in places):
                raise UserError(
                    f"--output {folder} is to hold {name}, which {pattern} names too, so the next call would take tags "
                    "for documents: name a folder elsewhere."
                )


def _place(location: str) -> str:
    """A folder as a path that ends in /, links resolved."""
    return real_path(*open_location(location)).rstrip("/") + "/"
