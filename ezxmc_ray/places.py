"""Where a file lies that a user names by a path or a URI.

What a URI asks for behind ``?`` (region, endpoint, keys) belongs to the store and not to the file's name.
"""

from __future__ import annotations

import os

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


def _divided(place: str) -> tuple[str, str]:
    path, mark, query = place.partition("?" if "://" in place else "\0")
    return path, mark + query
