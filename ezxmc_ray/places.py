"""Where a file lies that a user names by a path or a URI.

What a URI asks for behind ``?`` (region, endpoint, keys) belongs to the store and not to the file's name.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence

from pyarrow import fs

from ezxmc_ray import layout
from ezxmc_ray.errors import UserError
from ezxmc_ray.storage import Storage

#: Levels of folders in an export of a run that hold files, and in a run, itself included.
_BUNDLE_LEVELS, _RUN_LEVELS = 2, 4


def name_of(place: str) -> str:
    """The last part of the path or URI ``place``; "" where it ends in ``/``."""
    return os.path.split(_divided(place)[0])[1]


def without_query(place: str) -> str:
    """The path or URI ``place`` without what it asks for behind ``?``."""
    return _divided(place)[0]


def folder_and_name(place: str) -> tuple[Storage, str]:
    """The folder of the file at the path or URI ``place``, and its name there. Errors: UserError as of Storage."""
    path, query = _divided(place)
    folder, name = os.path.split(path)
    return Storage((folder or ".") + query), name


def is_runs_own(run: Storage, filesystem: fs.FileSystem, path: str) -> bool:
    """Whether the file at ``path`` of ``filesystem`` lies in the run directory under a name that runs write."""
    # By its kind: the options that a file system was opened with, such as that of one PUT a file, are no place.
    if filesystem.type_name != run.filesystem.type_name:
        return False
    folder, file = (os.path.realpath(one) if run.is_local else one for one in (run.path(), path))
    inside = file.removeprefix(f"{folder.rstrip('/')}/")
    return inside != file and layout.is_written(inside)


def check_apart(option: str, place: str, storage: Storage, name: str) -> None:
    """Refuse a file, ``name`` in ``storage``, that would replace one of a run's own, or of an export's, whichever.

    ``option``, ``place``: how the user named it. Errors: UserError.
    """
    path = storage.path(name)
    parts = (os.path.realpath(path) if storage.is_local else path).split("/")
    for depth in range(1, min(len(parts), _RUN_LEVELS + 1)):
        above, inside = "/".join(parts[:-depth]), parts[-depth:]
        marks = (layout.BUNDLE, layout.CONFIG, layout.manifest(layout.DOCUMENTS))
        is_bundle, has_config, has_documents = _are_there(storage.filesystem, above, marks)
        if has_config and has_documents and layout.is_written("/".join(inside)):
            raise UserError(
                f"{option} {place} lies in the run directory {above} under a name that the run writes itself: name a "
                "file elsewhere."
            )
        is_own = depth == 1 or (depth == _BUNDLE_LEVELS and layout.BUNDLE_FOLDER.fullmatch(inside[0]))
        if is_bundle and is_own and _is_export(storage.filesystem, f"{above}/{layout.BUNDLE}"):
            raise UserError(f"{option} {place} lies in an export, which holds its own files alone: name another place.")


def _is_export(filesystem: fs.FileSystem, file: str) -> bool:
    """Whether the ``bundle.json`` at a path tells of an export: others write files of that name too."""
    try:
        with filesystem.open_input_stream(file) as stream:
            told = json.loads(stream.read())
    except (OSError, ValueError):
        return False
    return isinstance(told, dict) and layout.BUNDLE_FOLDER.fullmatch(str(told.get("folder"))) is not None


def _are_there(filesystem: fs.FileSystem, folder: str, names: Sequence[str]) -> list[bool]:
    """Which files of these ``names`` a folder has; none where one may not look, as outside a prefix of a bucket."""
    try:
        infos = filesystem.get_file_info([f"{folder}/{name}" for name in names])
    except OSError:
        return [False] * len(names)
    return [info.type == fs.FileType.File for info in infos]


def _divided(place: str) -> tuple[str, str]:
    path, mark, query = place.partition("?" if "://" in place else "\0")
    return path, mark + query
