"""Bundles on the Hugging Face hub, by their names: what ``Tagger.load("org/name")`` opens (push.py puts them there).

Comes in: a hub id, or one with a commit (org/name@<40 hex digits>), so that many processes have the same bundle while
another one is pushed. Goes out: a directory of the hub's local cache. HF_TOKEN, HF_ENDPOINT and HF_HUB_OFFLINE hold.
"""

from __future__ import annotations

import re
from pathlib import Path

from ezxmc_ray.errors import UserError, one_line
from ezxmc_ray.hub import hub_commit
from ezxmc_ray.models import HUB_ID, is_hub_id
from ezxmc_ray.tagging.bundle import BUNDLE, FOLDER_GLOB

_WITH_COMMIT = re.compile(rf"{HUB_ID.pattern}@[0-9a-f]{{40}}")


def is_on_hub(where: str) -> bool:
    """Whether ``where`` names a bundle on the hub: a hub id, alone or with a commit, that is no path here."""
    return is_hub_id(where) or (_WITH_COMMIT.fullmatch(where) is not None and not Path(where).exists())


def with_commit(hub_id: str, fetched: str) -> str:
    """``hub_id`` with the commit of ``fetched``, which fetch_bundle gave for it."""
    named = f"{hub_id}@{Path(fetched).name}"  # …/snapshots/<commit>
    return named if _WITH_COMMIT.fullmatch(named) else hub_id  # of a mirror whose commits have other names


def fetch_bundle(where: str) -> str:
    """The directory of the local cache with the bundle ``where`` (is_on_hub): of its commit; of a hub id alone as it is
    on the hub now, or as it was last had.

    Errors: UserError where neither has it, or the repository is no bundle.
    """
    hub_id, _, commit = where.partition("@")
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import EntryNotFoundError

    try:
        hub_commit(hub_id, commit)
    except UserError as error:
        raise UserError(f"{hub_id} is neither a run nor a bundle here. {error}") from error
    try:
        # Without one of the branch: the cache knows what a branch is where the hub cannot be asked.
        return str(snapshot_download(hub_id, revision=commit or None, allow_patterns=[BUNDLE, f"{FOLDER_GLOB}/**"]))
    except (EntryNotFoundError, OSError, ValueError) as error:
        raise UserError(
            f"The bundle {hub_id} cannot be had from the hub ({one_line(error, 200).rstrip('.')})."
        ) from error
