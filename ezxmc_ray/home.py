"""A home directory and a user's name, where the machine has none: a container under some number of a user (OpenShift).

Libraries ask for both without need (caches of Hugging Face, torch and vLLM, Ray's session). Comes in: the environment.
Goes out: the environment with what is missing, for this process and those that it starts.
"""

from __future__ import annotations

import getpass
import os
import tempfile
from pathlib import Path

from ezxmc_ray.errors import UserError


def settle_home() -> None:
    """Set HOME and LOGNAME where nothing says what they are. Errors: UserError where no place is to be had."""
    try:
        Path.home()
    except RuntimeError:
        os.environ["HOME"] = str(_own_folder())
    try:
        getpass.getuser()
    except (KeyError, OSError):
        os.environ["LOGNAME"] = f"user-{os.getuid()}"


def _own_folder() -> Path:
    """A folder for temporary files that is this user's alone."""
    folder = Path(tempfile.gettempdir()) / f"ezxmc-home-{os.getuid()}"
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        is_own = folder.stat().st_uid == os.getuid() and not folder.is_symlink()
    except OSError as error:
        raise UserError(
            f"There is no home directory, and {folder} cannot be made ({error.strerror}): set HOME."
        ) from error
    if not is_own:
        raise UserError(f"There is no home directory, and {folder} is another user's: set HOME.")
    return folder
