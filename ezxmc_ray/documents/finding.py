"""Which files users mean: from paths, globs, directories and URIs to :class:`Source`.

Comes in: patterns. Goes out: a sorted list of sources, each file once, whatever it was called. What is found twice is
not read twice: a file and a link to it are one, and a file beside a compressed one of its name is refused.
"""

from __future__ import annotations

import fnmatch
import os
from collections.abc import Iterator, Mapping, Sequence
from operator import attrgetter
from types import MappingProxyType

from pyarrow import fs

from ezxmc_ray.documents.sources import (
    COMPRESSIONS,
    FORMATS,
    Source,
    classify,
    display_name,
    listed,
    open_location,
    printable,
    real_path,
)
from ezxmc_ray.documents.splits import words_of_splits
from ezxmc_ray.errors import UserError, one_line

#: What publishers call files that tell of the data they lie beside, without .json.
_ABOUT_DATA = {"dataset_info", "dataset_infos", "dataset_dict", "state", "readme", "metadata", "dataset-metadata"}
_ABOUT_DATA |= {"dataset_metadata", "datapackage", "croissant", "package", "schema", "config", "manifest", "license"}
_ABOUT_DATA |= {"citation", "info", "about", "stats", "statistics"}
_MAGIC = frozenset("*?[")
#: What lies beside the files of tables that keep removed rows.
_TABLES = {"_delta_log": "Delta Lake", ".hoodie": "Hudi"}


def find_sources(
    patterns: Sequence[str],
    wanted_format: str,
    key: str,
    csv_separator: str | None = None,
    more_formats: Mapping[str, str] = MappingProxyType({}),
    unread: list[str] | None = None,
) -> list[Source]:
    """The files that ``patterns`` (paths, globs with ``**``, directories, URIs) name, sorted by name, each once.

    A directory stands for the data files below it; hidden ones and those that begin with ``_`` are not data. The names
    of files that are not read go to ``unread``, but for hidden ones and what marks a folder (_SUCCESS).
    ``wanted_format`` is "auto" or a format; ``key`` is the configuration key, for messages; ``more_formats``: endings
    besides FORMATS. UserError for a pattern that matches nothing, for a file whose format its name does not tell, for
    one that is there compressed too, for a directory that is a table of Delta Lake or the like, and as Source.of_file.
    """
    found: list[Source] = []
    for pattern in patterns:
        others: list[str] = []
        matched = list(_match(pattern, wanted_format, others))
        if not matched:
            raise UserError(f"{key}: {_nothing_at(pattern, others)}")
        if unread is not None:
            unread += others
        for filesystem, name, info in matched:
            format_, compression = classify(name, wanted_format, more_formats)
            found.append(Source.of_file(name, filesystem, info, format_, compression, csv_separator))
    if not found:
        raise UserError(f"{key} is empty; set it to the paths, globs or URIs of your files.")
    files = [(source, _file(source)) for source in found]
    _check_packed(files, key)
    _check_splits(files, key)
    return sorted(_each_once(files), key=attrgetter("name"))


def _file(source: Source) -> str:
    """What two names of one file have in common: its path with links resolved; that of an object as it stands."""
    is_local = isinstance(source.filesystem, fs.LocalFileSystem)
    return real_path(source.filesystem, source.path) if is_local else source.name


def _each_once(files: Sequence[tuple[Source, str]]) -> list[Source]:
    """Each file under its own name where it was found by that; else under the first that is no link, else the first.

    ``files``: sources, and the file of each.
    """
    once: dict[str, Source] = {}
    for source, file in sorted(files, key=_links):
        once.setdefault(file, source)
    return list(once.values())


def _links(one: tuple[Source, str]) -> int:
    """0 for a source that has its file's own name, 2 for a link, 1 for what lies in a linked folder."""
    source, file = one
    return 0 if file in (source.path, source.name) else 1 + os.path.islink(source.path)


def _check_splits(files: Sequence[tuple[Source, str]], key: str) -> None:
    """UserError for names of one file that do not say the same split: which of them is kept would decide it."""
    first: dict[str, Source] = {}
    for source, file in files:
        other = first.setdefault(file, source)
        if words_of_splits(source) != words_of_splits(other):
            names = " and ".join(sorted([other.name, source.name]))
            raise UserError(f"{key} stands for {names}, which are one file, and only one says a split: name that one.")


def _check_packed(files: Sequence[tuple[Source, str]], key: str) -> None:
    """UserError for two files of a folder whose names are one but for a compression: each row would be read twice."""
    first: dict[str, tuple[Source, str]] = {}
    for source, file in files:
        path = "/".join(source.parts)
        plain = os.path.splitext(path)[0] if source.compression else path
        other, its_file = first.setdefault(plain, (source, file))
        if its_file != file:
            names = " and ".join(sorted([other.name, source.name]))
            raise UserError(
                f"{key} stands for {names}, which are the same thing by their names; name or keep one of them, or "
                "rename one if they are not."
            )


def _nothing_at(pattern: str, others: Sequence[str]) -> str:
    """``others``: files that are there, and are no data by their names."""
    filesystem, path = open_location(pattern)
    if filesystem.get_file_info(path).type != fs.FileType.Directory:
        return f"there is no file {pattern}; give the path, glob or URI of files that exist."
    there = f" (there are {listed([name.rpartition('/')[2] for name in others])})" if others else ""
    return (
        f"the directory {pattern} holds no file that ends in {', '.join(FORMATS)}{there}; name the files, or "
        "convert them."
    )


def _match(pattern: str, wanted_format: str, unread: list[str]) -> Iterator[tuple[fs.FileSystem, str, fs.FileInfo]]:
    filesystem, path = open_location(pattern)
    try:
        info = filesystem.get_file_info(path)
        if info.type == fs.FileType.NotFound and _MAGIC & set(path):
            parts = path.split("/")
            first = next(i for i, part in enumerate(parts) if _MAGIC & set(part))
            infos = list(_glob(filesystem, "/".join(parts[:first]) or "/", parts[first:]))
        else:
            infos = [info]
        for info in infos:
            is_folder = info.type == fs.FileType.Directory
            for file in _below(filesystem, info.path, set()) if is_folder else [info]:
                name = display_name(pattern, file.path)
                if is_folder and not _is_data(file.path[len(info.path) :].strip("/"), wanted_format):
                    unread += [] if _is_mark(file.base_name) else [name]
                elif file.type != fs.FileType.File:
                    _check_link(filesystem, file, name)
                    unread.append(name)
                else:
                    yield filesystem, name, file
    except OSError as error:
        raise UserError(f"{pattern} cannot be listed: {one_line(error)}.") from error
    except UnicodeError as error:
        raise UserError(
            f"{printable(pattern)} cannot be listed: the name of a file there is not UTF-8; rename it."
        ) from error


def _check_link(filesystem: fs.FileSystem, file: fs.FileInfo, name: str) -> None:
    """UserError for a link to what is not there, as git-annex and DVC leave them until the files are fetched."""
    if not isinstance(filesystem, fs.LocalFileSystem) or not os.path.islink(file.path):
        return
    try:
        os.stat(file.path)
    except FileNotFoundError as error:
        raise UserError(
            f"{name} is a link to {os.readlink(file.path)}, which is not there: fetch it (git annex get, dvc pull), or "
            "remove the link."
        ) from error
    except OSError:  # it leads to itself
        return


def _glob(
    filesystem: fs.FileSystem, folder: str, patterns: list[str], been: set[str] | None = None
) -> Iterator[fs.FileInfo]:
    """Files and directories below ``folder`` whose path matches ``patterns``, one a level; ``**`` is any depth.

    ``been``: what ``**`` has gone through, so that links which lead back have an end.
    """
    head, rest = patterns[0], patterns[1:]
    if head == "**":
        been = set() if been is None else been
        if _has_been(filesystem, folder, been):
            return
        if rest:
            yield from _glob(filesystem, folder, rest)
    for info in _listed(filesystem, folder):
        if info.base_name.startswith(".") and not head.startswith("."):
            continue
        is_folder = info.type == fs.FileType.Directory
        if head == "**":
            if is_folder:
                yield from _glob(filesystem, info.path, patterns, been)
            elif not rest:
                yield info
        elif fnmatch.fnmatchcase(info.base_name, head):
            if not rest:
                yield info
            elif is_folder:
                yield from _glob(filesystem, info.path, rest)


def is_glob(pattern: str) -> bool:
    """Whether there is a wildcard in ``pattern``."""
    return bool(_MAGIC & set(pattern))


def would_find(pattern: str, path: str) -> bool:
    """Whether ``pattern``, where it is a glob, would find a data file at ``path`` (as open_location has it), were it
    there; below the pattern's first wildcard links are not followed."""
    filesystem, whole = open_location(pattern)
    parts = whole.split("/")
    first = next((i for i, part in enumerate(parts) if _MAGIC & set(part)), None)
    if first is None:
        return False
    above = "/".join(parts[:first])
    for folder in {above, real_path(filesystem, above or "/").rstrip("/")}:
        if path.startswith(f"{folder}/") or not folder:
            below = path[len(folder) :].strip("/").split("/")
            if any(
                _is_named(below[:end], parts[first:]) and not any(part.startswith((".", "_")) for part in below[end:])
                for end in range(1, len(below) + 1)  # of the file, or of a folder that it lies in
            ):
                return True
    return False


def _is_named(names: Sequence[str], patterns: Sequence[str]) -> bool:
    """Whether :func:`_glob` finds by ``patterns`` what lies at ``names``, a level each."""
    if not patterns or not names:
        return not patterns and not names
    head, *rest = patterns
    if head == "**" and rest and _is_named(names, rest):
        return True
    if names[0].startswith(".") and not head.startswith("."):
        return False
    if head == "**":
        return _is_named(names[1:], patterns) or (not rest and len(names) == 1)
    return fnmatch.fnmatchcase(names[0], head) and _is_named(names[1:], rest)


def _listed(filesystem: fs.FileSystem, folder: str) -> list[fs.FileInfo]:
    """What is in a folder, by name; links last, so that what they lead to is met under its own name first.

    A link to what is not there, which Arrow leaves out, is among them as not found.
    """
    infos = filesystem.get_file_info(fs.FileSelector(folder, allow_not_found=True))
    local = isinstance(filesystem, fs.LocalFileSystem)
    if local and os.path.isdir(folder):
        there = {info.base_name for info in infos}
        others = (f"{folder.rstrip('/')}/{one}" for one in os.listdir(folder) if one not in there)
        infos += [fs.FileInfo(one, fs.FileType.NotFound) for one in others]
    return sorted(infos, key=lambda info: (local and os.path.islink(info.path), info.path))


def _has_been(filesystem: fs.FileSystem, folder: str, been: set[str]) -> bool:
    """Whether a local ``folder``, links resolved, is in ``been``; it is from now on."""
    if not isinstance(filesystem, fs.LocalFileSystem):
        return False
    real = os.path.realpath(folder)
    known = real in been
    been.add(real)
    return known


def _is_data(name: str, wanted_format: str) -> bool:
    """Whether a file of a directory is read, by its ``name`` and those of the folders within that it lies in."""
    *folders, name = name.lower().split("/")
    if any(part.startswith("_") for part in [*folders, name]):
        return False
    whole, ending = os.path.splitext(name)
    stem, ending = os.path.splitext(whole if ending in COMPRESSIONS else name)
    if ending == ".json" and stem in _ABOUT_DATA:
        return False
    return wanted_format != "auto" or ending in FORMATS


def _below(filesystem: fs.FileSystem, folder: str, been: set[str]) -> Iterator[fs.FileInfo]:
    """All files below ``folder`` but hidden ones, and what lies in a hidden folder.

    Errors: UserError for a table whose files hold rows that are no longer in it.
    """
    if not isinstance(filesystem, fs.LocalFileSystem):  # one request for the whole of it
        for info in filesystem.get_file_info(fs.FileSelector(folder, recursive=True)):
            below = info.path[len(folder.rstrip("/")) + 1 :].split("/")
            _check_no_table(folder, below)
            if not any(part.startswith(".") for part in below):
                yield info
    elif not _has_been(filesystem, folder, been):
        apart: list[str] = []
        for info in _listed(filesystem, folder):
            _check_no_table(folder, [info.base_name])
            if info.base_name.startswith("."):
                continue
            if info.type != fs.FileType.Directory:
                yield info
            elif info.base_name.startswith("_"):
                apart.append(info.path)
            else:
                yield from _below(filesystem, info.path, been)
        for place in apart:
            yield from _only_named(place)


def _only_named(folder: str) -> Iterator[fs.FileInfo]:
    """What lies in a local folder of which no file is read: nothing there is opened, followed, or a reason to stop."""
    for place, _, names in os.walk(folder):
        yield from (fs.FileInfo(f"{place}/{name}", fs.FileType.File) for name in names if not name.startswith("."))


def _check_no_table(folder: str, below: Sequence[str]) -> None:
    """UserError where what lies ``below`` a ``folder``, by its names, says that this is a table of other software."""
    for name, kind in _TABLES.items():
        if name not in below:
            continue
        above = below[: below.index(name)]
        if not any(part.startswith((".", "_")) for part in above):  # else nothing there is read
            raise UserError(
                f"{'/'.join([folder.rstrip('/'), *above])} is a table of {kind}, whose files hold rows that are no "
                "longer in it: write the table as it is now to Parquet files, and name these."
            )


def _is_mark(name: str) -> bool:
    """Whether a file says something of its folder (_SUCCESS, _metadata, _committed_123), and no data, by its name."""
    return name.startswith("_") and not _is_data(name.lstrip("_"), "auto")
