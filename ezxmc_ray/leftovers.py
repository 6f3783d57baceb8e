"""Temporary files that a kill left, in a run directory and in the folder for such: removed by the next owner.

A file that is being written lies beside its target under a name that says by whom (:func:`temporary_name`). Only file
systems have such files; on an object store a file is one put. What a process makes for itself, in $TMPDIR or /tmp, has
such a name too (:func:`temporary_folder`). What a living process made stays.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import socket
import tempfile
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil

#: Seconds after which a file that another machine's process was writing is taken for left behind.
LEFT_AFTER_S = 3600.0
#: Seconds for which a log stays whose process has ended: somebody may want to read it.
LOG_KEPT_S = 86_400.0
#: With the machine and the process: a user's own backup.tmp-20250101 is none of ours.
_NAME = re.compile(r".+\.tmp-(?P<host>[0-9a-f]{8})-(?P<pid>\d+)-[0-9a-f]{8}")
_TEMPORARY = re.compile(r"ezxmc-(?:ray-)?(?P<host>[0-9a-f]{8})-(?P<pid>\d+)-.+")


def temporary_name(path: str) -> str:
    """A name beside ``path`` that is used once, and says on which machine and by which process."""
    return f"{path}.tmp-{_host()}-{os.getpid()}-{uuid.uuid4().hex[:8]}"


def is_temporary(path: str) -> bool:
    """Whether the file has a name of :func:`temporary_name`."""
    return bool(_NAME.fullmatch(os.path.basename(path)))


@contextmanager
def temporary_folder() -> Iterator[Path]:
    """A folder of this machine for as long as the block runs."""
    with tempfile.TemporaryDirectory(prefix=temporary_prefix("ezxmc")) as folder:
        yield Path(folder)


def temporary_prefix(what: str) -> str:
    """How the name of this process's temporary file or folder begins, of ``what`` kind (ezxmc, ezxmc-ray)."""
    return f"{what}-{_host()}-{os.getpid()}-"


def remove_temporary_folders() -> int:
    """Remove what ended processes left in the folder for temporary files; of logs the old ones. Returns how many."""
    removed = 0
    for place in Path(tempfile.gettempdir()).glob("ezxmc-*"):
        found = _TEMPORARY.fullmatch(place.name)
        if found and found["host"] == _host() and not _is_owned(place, found["host"], found["pid"]):
            with suppress(OSError):
                if place.is_dir():
                    shutil.rmtree(place)
                elif time.time() - place.stat().st_mtime > LOG_KEPT_S:
                    place.unlink()
                removed += not place.exists()
    return removed


def remove_leftovers(folder: Path) -> int:
    """Remove the temporary files and folders below ``folder`` that no living process owns; returns how many."""
    removed = 0
    for place, folders, names in os.walk(folder):
        for name in [*folders, *names]:
            found, path = _NAME.fullmatch(name), Path(place) / name
            if found and not _is_owned(path, found["host"], found["pid"]):
                with suppress(OSError):
                    shutil.rmtree(path) if path.is_dir() else path.unlink()
                    removed += 1
    return removed


def _is_owned(file: Path, host: str, pid: str) -> bool:
    try:
        written = file.stat().st_mtime
    except OSError:  # gone by now
        return True
    if host == _host():
        with suppress(psutil.NoSuchProcess):
            # A process that began after the file was written last has the number of the one that wrote it.
            return psutil.Process(int(pid)).create_time() <= written + 1
        return False
    return abs(time.time() - written) < LEFT_AFTER_S


def _host() -> str:
    return hashlib.blake2b(socket.gethostname().encode(), digest_size=4).hexdigest()
