"""Damage: which files of a run are not what was written, and what it was that is wrong with them.

Comes in: a run directory whose manifests have the size and the checksum of every file (storage.py). Goes out: names of
damaged files with a few words each. Sizes are compared by listing folders, which every command does; contents are read
by :func:`verify`, and by :func:`checked` before an encoder is loaded. Files that no manifest lists, such as verdicts,
are Parquet, whose pages have checksums, or JSON.

What a verification found is noted in the run directory, so that the next ``ezxmc run`` makes it anew.
"""

from __future__ import annotations

import io
import json
import secrets
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import yaml

from ezxmc_ray import layout
from ezxmc_ray.errors import UserError, one_line
from ezxmc_ray.storage import Manifest, Storage, checksum, counts_of, damage_error, read_manifest
from ezxmc_ray.tables import VERDICTS_SCHEMA, read_parquet

#: Bytes and files of one task, at most.
TASK_BYTES, TASK_FILES = 64 << 20, 256
#: As cluster.session.run_tasks; itertools.starmap is another, which needs no Ray.
RunTasks = Callable[[Callable[..., Any], Iterable[tuple[Any, ...]]], Iterable[Any]]
#: First line of a file that cannot carry its checksum elsewhere; who edits such a file by hand takes it out.
SIGNATURE = "# Written by ezxmc, with this checksum: "
NO_MANIFEST = "not the manifest that was written"
MISSING = "missing"
OTHER_CHECKSUM = "its content is not what was written"
#: Added to the name of a damaged file of verdicts: they have cost too much to be removed unseen.
SET_ASIDE = ".damaged"


@dataclass(frozen=True)
class Verified:
    """What a verification looked at, and what is ``damaged``: a few words by file.

    ``unchecked``: files without a checksum, of which nothing is known but that they are there.
    """

    files: int
    bytes: int
    unchecked: int
    damaged: dict[str, str]


def written_sizes(storage: Storage, files: Sequence[str]) -> dict[str, int]:
    """Sizes of ``files``, for the manifest of the step that has written them.

    Without rejected.parquet, which a later ``prepare`` writes also where it is refused. Errors: UserError for a file
    that this process does not see.
    """
    there = _sizes_beside(storage, files)
    wanted = [name for name in files if name != layout.REJECTED]
    check_there(storage, wanted, there, "run")
    return {name: there[name] for name in wanted}


def check_there(storage: Storage, written: Sequence[str], there: Container[str], what: str) -> None:
    """Errors: UserError where this process does not see all files that were ``written`` to the place that ``what``
    names, since a node wrote to a disk of its own; ``there``: those that it sees."""
    if lost := [name for name in written if name not in there]:
        raise UserError(
            f"{storage.path(lost[0])} was written and is not there ({len(lost):,} of {len(written):,} files): "
            f"something removed it, or it is on another node's disk, and {what} must be a URI or a path that all nodes "
            "share."
        )


def checksums_of(storage: Storage, sizes: Mapping[str, int], run_tasks: RunTasks) -> dict[str, str]:
    """Checksums of the files of ``sizes`` (see :func:`written_sizes`), by name."""
    tasks = [(storage, names) for names in _groups(sizes)]
    checksums = {name: value for found in run_tasks(_checksums, tasks) for name, value in found.items()}
    return {name: checksums[name] for name in sizes}


def _sizes_beside(storage: Storage, files: Iterable[str]) -> dict[str, int]:
    """Sizes of all files in the folders of ``files``: a request a folder."""
    folders = {name.rpartition("/")[0] for name in files}
    return {name: size for folder in folders for name, size in storage.sizes(folder).items()}


def checksum_of(storage: Storage, name: str) -> str:
    """The checksum (storage.checksum) of the file ``name`` as it is. Errors: FileNotFoundError."""
    with storage.filesystem.open_input_stream(storage.path(name), compression=None) as content:
        return checksum(content)


def _checksums(storage: Storage, names: Sequence[str]) -> dict[str, str]:
    return {name: checksum_of(storage, name) for name in names}


def _groups(sizes: Mapping[str, int]) -> Iterator[list[str]]:
    """The names of ``sizes`` in the tasks' portions."""
    group: list[str] = []
    total = 0
    for name, size in sizes.items():
        if group and (total + size > TASK_BYTES or len(group) == TASK_FILES):
            yield group
            group, total = [], 0
        group.append(name)
        total += size
    if group:
        yield group


def damaged_files(storage: Storage, manifest: Manifest, noted: Mapping[str, str] | None = None) -> dict[str, str]:
    """Files of ``manifest`` that are missing, of another size, or ``noted`` as damaged; no file is opened."""
    there = _sizes_beside(storage, manifest.files)
    found = {name: _wrong_size(manifest, name, there.get(name)) for name in manifest.files}
    found |= {name: what for name, what in (noted or {}).items() if name in found and not found[name]}
    return {name: what for name, what in found.items() if what}


def step_damage(storage: Storage, folder: str, noted: Mapping[str, str]) -> dict[str, str]:
    """As :func:`damaged_files`, of the step that wrote ``folder``; its manifest, if that is damaged; nothing if there
    is none."""
    manifest, path = read_manifest(storage, folder), layout.manifest(folder)
    if manifest is None:
        return {path: NO_MANIFEST} if storage.exists(path) else {}
    return damaged_files(storage, manifest, noted)


def _wrong_size(manifest: Manifest, name: str, size: int | None) -> str:
    if size is None:
        return MISSING
    written = manifest.sizes.get(name, size)
    return "" if size == written else f"{size:,} bytes, {written:,} were written"


def in_words(damaged: Mapping[str, str], most: int = 3) -> str:
    """The first few of the damaged files, for a sentence."""
    shown = "; ".join(f"{name} ({what})" for name, what in list(damaged.items())[:most])
    return shown + (f"; and {len(damaged) - most:,} more" if len(damaged) > most else "")


@contextmanager
def checked(storage: Storage, folder: str, written_by: str = "") -> Iterator[Path]:
    """As ``storage.local(folder)``, of a folder whose manifest has checksums: every file is held against its own.

    ``written_by``: the folder around it with the manifest, where it has none itself.

    Errors: UserError for what is damaged.
    """
    manifest = read_manifest(storage, folder)
    if manifest is None and written_by:
        manifest = read_manifest(storage, written_by)
    with storage.local(folder) as path:
        for name, written in (manifest.checksums if manifest else {}).items():
            file = path / name.removeprefix(f"{folder}/")
            if not name.startswith(f"{folder}/"):
                continue
            if not file.is_file():
                raise damage_error(storage.path(name), "it is missing")
            with file.open("rb") as content:
                if checksum(content) != written:
                    raise damage_error(storage.path(name), OTHER_CHECKSUM)
        yield path


def verify(storage: Storage, run_tasks: RunTasks) -> Verified:
    """Read everything in the run directory and hold it against what was written down of it.

    Files of others that lie there are counted as unchecked: of what they should hold nothing is known.
    """
    there = storage.sizes(recursive=True)
    damaged: dict[str, str] = {}
    checksums: dict[str, str] = {}
    for path in (name for name in there if name.endswith(f"/{layout.MANIFEST}") and layout.is_written(name)):
        manifest = read_manifest(storage, path.rpartition("/")[0])
        if manifest is None:
            damaged[path] = NO_MANIFEST
            continue
        wrong = {name: _wrong_size(manifest, name, there.get(name)) for name in manifest.files}
        damaged |= {name: what for name, what in wrong.items() if what}
        checksums |= manifest.checksums
    to_read = {name: size for name, size in there.items() if name not in damaged and _is_readable(name, checksums)}
    tasks = [(storage, [(name, checksums.get(name)) for name in names]) for names in _groups(to_read)]
    for found in run_tasks(_read, tasks):
        unseen = [name for name, what in found.items() if what == MISSING]  # on another node, but here it was listed
        read_here = _read(storage, [(name, checksums.get(name)) for name in unseen])
        damaged |= {name: what for name, what in found.items() if what != MISSING} | read_here
    of_ezxmc = {name for name in there if not name.rpartition("/")[2].startswith(".") and SET_ASIDE not in name}
    unchecked = len(of_ezxmc - to_read.keys() - damaged.keys())
    return Verified(len(of_ezxmc), sum(there[name] for name in of_ezxmc), unchecked, dict(sorted(damaged.items())))


def _is_readable(name: str, checksums: Mapping[str, str]) -> bool:
    return name in checksums or (layout.is_written(name) and name.endswith((".parquet", ".json", layout.CONFIG)))


def _read(storage: Storage, items: Sequence[tuple[str, str | None]]) -> dict[str, str]:
    """Task: read files, and say what is wrong with them. ``items``: names, and checksums where they are known."""
    found = {}
    for name, written in items:
        try:
            if written is not None:
                right = _checksums(storage, [name])[name] == written
            elif name.endswith(".parquet"):
                right = _is_table(storage, name)
            elif name.endswith(layout.CONFIG):
                right = is_as_written(storage.read_bytes(name)) and _mapping(storage.read_bytes(name)) is not None
            else:
                right = _is_note(storage, name)
        except FileNotFoundError:
            found[name] = MISSING
        except (pa.ArrowException, OSError, ValueError) as error:
            found[name] = one_line(error, 120)
        else:
            found |= {} if right else {name: OTHER_CHECKSUM}
    return found


def _is_table(storage: Storage, name: str) -> bool:
    """Whether a Parquet file that no manifest lists can be read; of verdicts, whether it holds what these do."""
    table = read_parquet(storage.path(name), storage.filesystem)
    counts_of(table.schema)
    wanted = VERDICTS_SCHEMA if name.startswith(f"{layout.VERDICTS}/") else pa.schema([])
    return all(name in table.column_names and table.schema.field(name) == wanted.field(name) for name in wanted.names)


def read_configuration(storage: Storage) -> dict[str, Any]:
    """The values in the run's config.yaml. Errors: UserError for one that is damaged."""
    content = storage.read_bytes(layout.CONFIG)
    values = _mapping(content) if is_as_written(content) else None
    if values is None:
        raise UserError(
            f"The configuration of the run, {storage.path(layout.CONFIG)}, is damaged, or was edited below its "
            "checksum: give `ezxmc run` with the configuration that the run was made with, which writes it anew (or "
            "take its first line out)."
        )
    return values


def _mapping(content: bytes) -> dict[str, Any] | None:
    try:
        values = yaml.safe_load(content)
    except (yaml.YAMLError, ValueError, RecursionError):
        return None
    return values if isinstance(values, dict) else None


def note_begun(storage: Storage, folder: str, fingerprint: str) -> None:
    """Note that the stage that writes ``folder`` is begun; with a number drawn for it, since another run may have the
    same fingerprint."""
    storage.write_note(layout.begun(folder), {"fingerprint": fingerprint, "number": secrets.randbits(63)})


def begun_with(storage: Storage, folder: str) -> str | None:
    """The fingerprint with which the stage that writes ``folder`` was begun; None if it was not, or that is damaged."""
    told = _begun(storage, folder).get("fingerprint")
    return told if isinstance(told, str) else None


def begun_number(storage: Storage, folder: str) -> int | None:
    """The number that was drawn when the stage was begun; None as :func:`begun_with`, and of an older version."""
    told = _begun(storage, folder).get("number")
    return told if isinstance(told, int) else None


def _begun(storage: Storage, folder: str) -> dict[str, Any]:
    name = layout.begun(folder)
    try:
        told = storage.read_json(name) if storage.exists(name) else {}
        # Older versions noted the fingerprint alone.
        return storage.read_note(name) if isinstance(told, dict) and told else {"fingerprint": told}
    except ValueError:
        return {}


def _is_note(storage: Storage, name: str) -> bool:
    """Whether a JSON file that no manifest lists is as it was written, as far as that can be told."""
    told = json.loads(storage.read_bytes(name))
    if isinstance(told, dict):
        return bool(storage.read_note(name)) or not told
    folder, _, last = name.rpartition("/")
    manifest = read_manifest(storage, folder) if last == layout.BEGUN else None
    return manifest is None or told == manifest.fingerprint  # of an older version


def note_damage(storage: Storage, damaged: Mapping[str, str]) -> None:
    """Note what is damaged for the next ``ezxmc run``; nothing is damaged: the note goes."""
    if damaged:
        storage.write_json(layout.DAMAGE, dict(damaged))
    else:
        storage.remove(layout.DAMAGE)


def noted_damage(storage: Storage) -> dict[str, str]:
    """What :func:`note_damage` noted."""
    try:
        noted = storage.read_json(layout.DAMAGE) if storage.exists(layout.DAMAGE) else {}
    except ValueError:
        return {}
    return {str(name): str(what) for name, what in noted.items()} if isinstance(noted, dict) else {}


def clear_damage(storage: Storage) -> dict[str, str]:
    """Remove the files that are noted as damaged, and the note; verdicts are set aside. Returns the latter.

    So a step that lists one of them is not done any more, and the pairs of such verdicts are asked again.
    """
    noted, aside = noted_damage(storage), {}
    there = storage.sizes(recursive=True) if noted else {}
    for name, what in noted.items():
        if name not in there or name == layout.CONFIG or not layout.is_written(name):
            continue
        if name.startswith(f"{layout.VERDICTS}/") and name.endswith(".parquet"):
            storage.rename(name, f"{name}{SET_ASIDE}")
            aside[name] = what
        else:
            storage.remove(name)
    storage.remove(layout.DAMAGE)
    return aside


def signed(text: str) -> bytes:
    """``text`` (YAML) below a comment with its checksum, by which :func:`is_as_written` tells damage."""
    return f"{SIGNATURE}{checksum(io.BytesIO(text.encode()))}\n{text}".encode()


def is_signed(content: bytes) -> bool:
    """Whether ``content`` begins as :func:`signed` begins, damage apart; a comment of the user's is no signature."""
    first, half = content.partition(b"\n")[0], len(SIGNATURE) // 2
    return SIGNATURE[:half].encode() in first or SIGNATURE[half:].encode() in first


def is_as_written(content: bytes) -> bool:
    """Whether ``content`` is what :func:`signed` made of some text; what was never signed counts as such."""
    first, _, text = content.partition(b"\n")
    if not is_signed(content):
        return bool(content)
    return first.decode(errors="replace") == f"{SIGNATURE}{checksum(io.BytesIO(text))}"
