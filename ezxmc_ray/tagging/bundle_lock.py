"""One writer a bundle, or a folder of tags, and what earlier ones left."""

from __future__ import annotations

from collections.abc import Container, Iterator
from contextlib import contextmanager

from ezxmc_ray.run_lock import LOCK_FILES, run_lock
from ezxmc_ray.storage import Storage
from ezxmc_ray.tagging.bundle import FOLDER, folders_of, read_bundle_note


@contextmanager
def bundle_lock(target: Storage) -> Iterator[None]:
    """Hold the bundle or folder for the length of the block. Errors: UserError if another process holds it."""
    with run_lock(target):
        try:
            yield
        finally:
            for name in LOCK_FILES if target.guard is None else ():  # they say on which machine it was
                target.remove(name)


@contextmanager
def owned_bundle(target: Storage) -> Iterator[None]:
    """As :func:`bundle_lock`, of a bundle that is there, without the folders that killed commands left in it."""
    with bundle_lock(target):
        remove_old_folders(target, folders_of(read_bundle_note(target)))
        yield


def remove_old_folders(target: Storage, named: Container[str]) -> None:
    """Remove the folders of files that are not ``named``: of exports before, and of commands that were killed."""
    for folder in target.folders():
        if FOLDER.fullmatch(folder) and folder not in named:
            target.remove(folder)
