"""``ezxmc push``: an export of a run on the Hugging Face hub, where ``Tagger.load("org/name")`` takes it from.

Comes in: a run and a hub id. Goes out: a repository of the kind "model" with the files of a bundle. HF_TOKEN and
HF_ENDPOINT hold.
"""

from __future__ import annotations

import warnings

from ezxmc_ray.errors import UserError, one_line
from ezxmc_ray.leftovers import temporary_folder
from ezxmc_ray.models import HUB_ID
from ezxmc_ray.tagging.bundle import FILES
from ezxmc_ray.tagging.export import export_bundle


def push_bundle(run: str, hub_id: str, encoder: str = "onnx", public: bool = False) -> str:
    """Put an export of ``run`` into the repository ``hub_id`` in one commit; returns the repository's address.

    The repository is made if there is none, for its owner alone unless ``public``. What an older push left goes with
    the commit. Errors: UserError as export_bundle, and where the hub refuses it or cannot be reached.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError

    check_hub_id(hub_id)
    api = HfApi()
    with temporary_folder() as folder:
        export_bundle(run, str(folder), encoder)
        try:
            address = api.create_repo(hub_id, private=not public, exist_ok=True)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # it takes a table for a data set in the wrong place
                api.upload_folder(
                    repo_id=hub_id,
                    folder_path=folder,
                    commit_message="A tagger, by ezxmc push",
                    delete_patterns=f"{FILES}*/**",
                )
        except (HfHubHTTPError, OSError, ValueError) as error:
            raise UserError(
                f"The bundle cannot be put on the Hugging Face hub as {hub_id} ({one_line(error, 200).rstrip('.')}): "
                "log in with `hf auth login`, or set HF_TOKEN to a token that may write there."
            ) from error
    return str(address)


def check_hub_id(hub_id: str) -> None:
    """Errors: UserError unless ``hub_id`` is of the form org/name."""
    if HUB_ID.fullmatch(hub_id) is None:
        raise UserError(f"{hub_id!r} is no name on the Hugging Face hub: give org/name.")
