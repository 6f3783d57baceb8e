"""Temporary files that a kill left in a run directory: removed by the next owner, but for those of a living process.

A file that is being written lies beside its target under a name that says by whom (:func:`temporary_name`). Only file
systems have such files; on an object store a file is one put.
"""

from __future__ import annotations

import hashlib
import os
import re
import socket
import time
import uuid
from contextlib import suppress
from pathlib import Path

import psutil

#: Seconds after which a file that another machine's process was writing, or nobody knows who, is taken for left behind.
LEFT_AFTER_S = 3600.0
_NAME = re.compile(r".+\.tmp-(?:(?P<host>[0-9a-f]{8})-(?P<pid>\d+)-)?[0-9a-f]{8}")


def temporary_name(path: str) -> str:
    """A name beside ``path`` that is used once, and says on which machine and by which process."""
    return f"{path}.tmp-{_host()}-{os.getpid()}-{uuid.uuid4().hex[:8]}"


def remove_leftovers(folder: Path) -> int:
    """Remove the temporary files below ``folder`` that no living process owns; returns how many."""
    removed = 0
    for place, _, names in os.walk(folder):
        for name in names:
            found = _NAME.fullmatch(name)
            if found and not _is_owned(Path(place) / name, found["host"], found["pid"]):
                with suppress(OSError):
                    (Path(place) / name).unlink()
                    removed += 1
    return removed


def _is_owned(file: Path, host: str | None, pid: str | None) -> bool:
    try:
        written = file.stat().st_mtime
    except OSError:  # gone by now
        return True
    if host == _host() and pid is not None:
        with suppress(psutil.NoSuchProcess):
            # A process that began after the file was written last has the number of the one that wrote it.
            return psutil.Process(int(pid)).create_time() <= written + 1
        return False
    return abs(time.time() - written) < LEFT_AFTER_S


def _host() -> str:
    return hashlib.blake2b(socket.gethostname().encode(), digest_size=4).hexdigest()
