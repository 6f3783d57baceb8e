"""Where a file lies that a user names by a path or a URI.

What a URI asks for behind ``?`` (region, endpoint, keys) belongs to the store and not to the file's name.
"""

from __future__ import annotations

import os

from pyarrow import fs

from ezxmc_ray import layout
from ezxmc_ray.storage import Storage


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


def _divided(place: str) -> tuple[str, str]:
    path, mark, query = place.partition("?" if "://" in place else "\0")
    return path, mark + query
