"""``ezxmc push``: an export of a run on the Hugging Face hub, where ``Tagger.load("org/name")`` takes it from.

Comes in: a run, or a bundle, and a hub id. Goes out: a repository of the kind "model" with the files of a bundle.
HF_TOKEN and HF_ENDPOINT hold.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator, Set
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from ezxmc_ray.documents.sources import listed
from ezxmc_ray.errors import UserError, one_line
from ezxmc_ray.leftovers import temporary_folder
from ezxmc_ray.models import HUB_ID
from ezxmc_ray.progress import say
from ezxmc_ray.storage import Storage
from ezxmc_ray.tagging.bundle import BUNDLE, FOLDER_GLOB, README, is_bundle, open_bundle, was_changed
from ezxmc_ray.tagging.bundle_lock import owned_bundle
from ezxmc_ray.tagging.export import export_bundle

if TYPE_CHECKING:
    from huggingface_hub import HfApi

#: What the hub puts into a new repository.
_GIT, _LICENSE = ".gitattributes", "LICENSE"
#: A model card without a text: settings between lines of ---, or nothing.
_FRONT_MATTER = re.compile(r"\s*(---[ \t]*\n(?:(?!---).*\n)*---\s*)?")


def push_bundle(run: str, hub_id: str, encoder: str = "onnx", public: bool = False) -> str:
    """Put an export of ``run`` into the repository ``hub_id`` in one commit; returns the repository's address.

    A bundle goes there as it is, whatever ``encoder`` says. The repository is made if there is none, for its owner
    alone unless ``public``. What an older push left goes with the commit. Errors: UserError as export_bundle, for a
    bundle that is damaged or in use, for a repository that holds something else, for a run where the labels of what the
    repository holds were changed, and where the hub refuses it or cannot be reached.
    """
    from huggingface_hub import HfApi

    check_hub_id(hub_id)
    api = HfApi()
    with _told_by_the_hub(hub_id):
        _check_repository(api, hub_id, is_bundle(Storage(run)), public)
    with _bundle_of(run, encoder) as folder, _told_by_the_hub(hub_id), warnings.catch_warnings():
        address = api.create_repo(hub_id, private=not public, exist_ok=True)
        warnings.simplefilter("ignore")  # it takes a table for a data set in the wrong place
        api.upload_folder(
            repo_id=hub_id,
            folder_path=folder,
            commit_message="A tagger, by ezxmc push",
            allow_patterns=[README, BUNDLE, f"{FOLDER_GLOB}/**"],
            delete_patterns=f"{FOLDER_GLOB}/**",
        )
    return str(address)


@contextmanager
def _told_by_the_hub(hub_id: str) -> Iterator[None]:
    """While the hub is asked: its errors as a UserError."""
    from huggingface_hub.errors import HfHubHTTPError

    try:
        yield
    except (HfHubHTTPError, OSError, ValueError) as error:
        raise UserError(
            f"The bundle cannot be put on the Hugging Face hub as {hub_id} ({one_line(error, 200).rstrip('.')}): "
            "log in with `hf auth login`, or set HF_TOKEN to a token that may write there."
        ) from error


def _check_repository(api: HfApi, hub_id: str, as_it_is: bool, public: bool) -> None:
    """Look at a repository that is there. It is said where all see it and ``public`` was not asked for.

    ``as_it_is``: what is pushed is a bundle and not a run. Errors: UserError as :func:`push_bundle`, and those of
    huggingface_hub.
    """
    from huggingface_hub.errors import RepositoryNotFoundError

    try:
        there = api.model_info(hub_id)
    except RepositoryNotFoundError:
        return
    names = {one.rfilename for one in there.siblings or ()} - {_GIT}
    if BUNDLE not in names:
        _check_new(api, hub_id, names, there.sha)
    elif not as_it_is and _was_changed_on_hub(api, hub_id, there.sha):
        raise UserError(
            f"The labels of {hub_id} on the Hugging Face hub were changed since they were exported, and this would "
            "bring back the run's: export the run to a directory, with --labels if it is to have others, and push that."
        )
    if there.private is False and not public:
        say(f"Note: the repository {hub_id} is there already and is public: all see what is pushed.")


def _check_new(api: HfApi, hub_id: str, names: Set[str], commit: str | None) -> None:
    """Errors: UserError for a repository whose files ``names`` are more than what the hub puts into a new one."""
    others, is_new = names - {README, _LICENSE}, True
    if README in names and not others:
        card = Path(api.hf_hub_download(hub_id, README, revision=commit)).read_text(encoding="utf-8", errors="replace")
        is_new = _FRONT_MATTER.fullmatch(card) is not None
    if others or not is_new:
        raise UserError(
            f"The repository {hub_id} on the Hugging Face hub holds something else than a bundle "
            f"({listed(sorted(others or {README}))}): name another one, or remove that there."
        )
    if README in names:
        say(f"Note: the {README} of {hub_id}, which has settings only, is replaced: give its licence there anew.")


def _was_changed_on_hub(api: HfApi, hub_id: str, commit: str | None) -> bool:
    note = Path(api.hf_hub_download(hub_id, BUNDLE, revision=commit))
    return was_changed(Storage(str(note.parent)))


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
