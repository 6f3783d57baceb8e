"""The Hugging Face hub: whether a model can be had there, told within seconds.

Comes in: a hub id. Goes out: the commit that it stands for, and its config.json; one sentence where neither the hub nor
its local cache has the model. transformers by itself tries every file of a hub that cannot be reached six times: half a
minute where the name does not resolve, minutes where nothing answers.
"""

from __future__ import annotations

import functools
import json
import os
import threading
import time
from typing import Any

from ezxmc_ray.errors import UserError, one_line
from ezxmc_ray.progress import say

#: The hub's name may resolve to many addresses, each of which would be waited for: so all of them together, too.
ADDRESS_S, PATIENCE_S = 5.0, 6.0
#: Seconds before each further try where the hub is busy, as it says to many processes that start together.
AGAIN_S = (1.0, 3.0)
#: What it says then, or what stands before it: too many requests, bad gateway, not available, no answer in time.
BUSY = (429, 502, 503, 504)
#: Of these files a model has one of the first two, and a bundle of a tagger (tagging/bundle.py) the last.
_FILES = ("config.json", "modules.json", "bundle.json")


@functools.cache
def hub_commit(hub_id: str, cached_commit: str = "", revision: str = "") -> str:
    """The commit that ``hub_id`` stands for: asked of the hub once a process, else of the local cache; "": unknown.

    ``revision``: a commit, branch or tag that is meant; "": the main branch. ``cached_commit``: the one that the cache
    must have where it is asked; "": that of ``revision``. Where the hub cannot be reached and the cache has the model,
    this process and what it starts work offline from here on. HF_HUB_OFFLINE and HF_ENDPOINT hold. Errors: UserError if
    neither has it, or the hub is too busy to say.
    """
    from huggingface_hub import errors

    cached_commit = cached_commit or revision
    try:
        return str(_ask_again(hub_id, revision).sha or "")
    except errors.RevisionNotFoundError as error:
        if not (cached := _cached_commit(hub_id, cached_commit)):
            raise UserError(
                f"The Hugging Face hub's model {hub_id} has no {revision}: give a commit, branch or tag that it "
                f"has, or {hub_id} alone."
            ) from error
        return cached
    except (errors.RepositoryNotFoundError, errors.GatedRepoError) as error:
        if not (cached := _cached_commit(hub_id, cached_commit)):
            raise UserError(
                f"The Hugging Face hub has no model {hub_id} for you (and there is no such directory here): check its "
                "name; for a private or gated one, log in with `hf auth login`."
            ) from error
        _tell_cached(hub_id, cached, cached_commit, error)
        return cached
    except errors.HfHubHTTPError as error:
        cached = _cached_commit(hub_id, cached_commit)
        if not cached and _is_busy(error):  # a run is not to take an unknown commit for another one
            raise UserError(
                f"The Hugging Face hub does not say which commit of {hub_id} it has ({_reason(error)}), and it is not "
                "in the local cache: try again in a minute, or give a directory."
            ) from error
        if cached:
            _tell_cached(hub_id, cached, cached_commit, error)
        return cached  # of a mirror that does not tell "": loading will show
    except Exception as error:  # of the library that speaks HTTP, which is another in every generation of the hub's
        if not (cached := _cached_commit(hub_id, cached_commit)):
            raise UserError(
                f"The model {hub_id} is no directory here, not in the local cache, and could not be had from the "
                f"Hugging Face hub ({_reason(error)}); check its name and the network, or give a directory or "
                "package:NAME/PATH."
            ) from error
        if not isinstance(error, errors.OfflineModeIsEnabled):
            say(f"The Hugging Face hub cannot be reached ({_reason(error)}): models are taken from its local cache.")
            _work_offline()
        return cached


@functools.cache
def hub_config(hub_id: str, revision: str | None = None) -> dict[str, Any]:
    """The model's config.json, asked for once a process; empty where it has none. Errors: as :func:`hub_commit`."""
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    hub_commit(hub_id, revision=revision or "")
    try:
        with open(hf_hub_download(hub_id, "config.json", revision=revision), encoding="utf-8") as file:
            found: dict[str, Any] = json.load(file)
            return found
    except EntryNotFoundError as error:
        if isinstance(error, LocalEntryNotFoundError):  # the hub did not answer for it
            raise
        return {}


def _ask_again(hub_id: str, revision: str) -> Any:
    """As :func:`_ask`; of a hub that is busy a few times."""
    from huggingface_hub.errors import HfHubHTTPError

    for seconds in AGAIN_S:
        try:
            return _ask(hub_id, revision)
        except HfHubHTTPError as error:
            if not _is_busy(error):
                raise
            time.sleep(seconds)
    return _ask(hub_id, revision)


def _is_busy(error: Any) -> bool:
    """Whether the hub's answer may be another one in a while."""
    return error.response is not None and error.response.status_code in BUSY


def _ask(hub_id: str, revision: str) -> Any:
    """The hub's answer, waited for so long and no longer: looking up its address has no time limit of its own."""
    from huggingface_hub import model_info

    answer: list[Any] = []

    def ask() -> None:
        try:
            answer.append(model_info(hub_id, revision=revision or None, timeout=ADDRESS_S))
        except Exception as error:  # handed to the caller, who tells them apart
            answer.append(error)

    asking = threading.Thread(target=ask, daemon=True)
    asking.start()
    asking.join(PATIENCE_S)
    if not answer:
        raise TimeoutError(f"no answer within {PATIENCE_S:.0f} s")
    if isinstance(answer[0], Exception):
        raise answer[0]
    return answer[0]


def _cached_commit(hub_id: str, commit: str) -> str:
    """The commit in the local cache, or ``commit`` if it is there; empty if the model, or bundle, is not."""
    from huggingface_hub import try_to_load_from_cache

    cached = (try_to_load_from_cache(hub_id, name, revision=commit or None) for name in _FILES)
    # …/snapshots/<commit>/config.json
    return next((os.path.basename(os.path.dirname(path)) for path in cached if isinstance(path, str)), "")


def _tell_cached(hub_id: str, commit: str, wanted: str, error: BaseException) -> None:
    """Say that ``commit`` of the cache is taken, unless it was ``wanted``: the hub may have a newer one."""
    if not wanted:
        say(
            f"The Hugging Face hub does not give {hub_id} ({_reason(error)}): it is taken from the local cache, commit "
            f"{commit[:12]}, which may be older."
        )


def _work_offline() -> None:
    from huggingface_hub import constants

    os.environ["HF_HUB_OFFLINE"] = "1"
    constants.HF_HUB_OFFLINE = True


def _reason(error: BaseException) -> str:
    from huggingface_hub.errors import OfflineModeIsEnabled

    if isinstance(error, OfflineModeIsEnabled):
        return "HF_HUB_OFFLINE is set, or it could not be reached before"
    return one_line(error).rstrip(".") or type(error).__name__
