"""Bundles on the Hugging Face hub, by their names: what ``Tagger.load("org/name")`` opens (push.py puts them there).

Comes in: a hub id. Goes out: a directory of the hub's local cache. HF_TOKEN, HF_ENDPOINT and HF_HUB_OFFLINE hold.
"""

from __future__ import annotations

from ezxmc_ray.errors import UserError, one_line
from ezxmc_ray.hub import hub_commit
from ezxmc_ray.tagging.bundle import BUNDLE, FILES


def fetch_bundle(hub_id: str) -> str:
    """The directory of the local cache with the bundle ``hub_id``, as it is on the hub now, or as it was last had.

    Errors: UserError where neither has it, or the repository is no bundle.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import EntryNotFoundError

    try:
        hub_commit(hub_id)
        # Of the branch and not of its commit: the cache knows what a branch is where the hub cannot be asked.
        return str(snapshot_download(hub_id, allow_patterns=[BUNDLE, f"{FILES}*/**"]))
    except UserError as error:
        raise UserError(f"{hub_id} is neither a run nor a bundle here. {error}") from error
    except (EntryNotFoundError, OSError, ValueError) as error:
        raise UserError(
            f"The bundle {hub_id} cannot be had from the hub ({one_line(error, 200).rstrip('.')})."
        ) from error
