"""``ezxmc push``: an export of a run on the Hugging Face hub, where ``Tagger.load("org/name")`` takes it from.

Comes in: a run, or a bundle, and a hub id. Goes out: a repository of the kind "model" with the files of a bundle.
HF_TOKEN and HF_ENDPOINT hold.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ezxmc_ray.errors import UserError, one_line
from ezxmc_ray.leftovers import temporary_folder
from ezxmc_ray.models import HUB_ID
from ezxmc_ray.storage import Storage
from ezxmc_ray.tagging.bundle import BUNDLE, FILES, README, is_bundle, open_bundle
from ezxmc_ray.tagging.bundle_lock import owned_bundle
from ezxmc_ray.tagging.export import export_bundle


def push_bundle(run: str, hub_id: str, encoder: str = "onnx", public: bool = False) -> str:
    """Put an export of ``run`` into the repository ``hub_id`` in one commit; returns the repository's address.

    A bundle goes there as it is, whatever ``encoder`` says. The repository is made if there is none, for its owner
    alone unless ``public``. What an older push left goes with the commit. Errors: UserError as export_bundle, for a
    bundle that is damaged or in use, and where the hub refuses it or cannot be reached.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError

    check_hub_id(hub_id)
    api = HfApi()
    with _bundle_of(run, encoder) as folder:
        try:
            address = api.create_repo(hub_id, private=not public, exist_ok=True)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # it takes a table for a data set in the wrong place
                api.upload_folder(
                    repo_id=hub_id,
                    folder_path=folder,
                    commit_message="A tagger, by ezxmc push",
                    allow_patterns=[README, BUNDLE, f"{FILES}*/**"],
                    delete_patterns=f"{FILES}*/**",
                )
        except (HfHubHTTPError, OSError, ValueError) as error:
            raise UserError(
                f"The bundle cannot be put on the Hugging Face hub as {hub_id} ({one_line(error, 200).rstrip('.')}): "
                "log in with `hf auth login`, or set HF_TOKEN to a token that may write there."
            ) from error
    return str(address)


@contextmanager
def _bundle_of(run: str, encoder: str) -> Iterator[Path]:
    """An export of ``run``, or ``run`` itself where it is a bundle, which is whole."""
    storage = Storage(run)
    if is_bundle(storage):
        with owned_bundle(storage):
            open_bundle(run)
            with storage.local("") as folder:
                yield folder
        return
    with temporary_folder() as folder:
        export_bundle(run, str(folder), encoder)
        yield folder


def check_hub_id(hub_id: str) -> None:
    """Errors: UserError unless ``hub_id`` is of the form org/name."""
    if HUB_ID.fullmatch(hub_id) is None:
        raise UserError(f"{hub_id!r} is no name on the Hugging Face hub: give org/name.")
