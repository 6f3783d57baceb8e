"""A bundle: what a service needs of a run and nothing else, in a directory that ``ezxmc export`` wrote.

    bundle.json                    settings, and size and checksum of every other file; written last
    README.md                      how to use it
    <files>/encoder/               the student, for ONNX Runtime (encoder/onnx_encoder.py)
    <files>/student/               or as sentence-transformers loads it
    <files>/cross_encoder/network/ what ranks first labels anew, in the same form, where the run has predict.rerank
    <files>/index/  lexical/  labels.parquet      as in the run
    <more files>/index/  lexical/  labels.parquet for each change of the labels (changes.py): those that came, alone

Comes in: a directory or a URI. Goes out: storages and settings for :class:`Tagger`. Each folder has a name of its own,
and bundle.json names those that count and the numbers of labels that are removed. So an export over an older one, or a
change, is there as a whole or not at all, whenever it is stopped.
Reading a bundle imports neither Ray nor PyTorch, nor what runs are made by.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import secrets
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from ezxmc_ray import layout
from ezxmc_ray.config import (
    Config,
    EncoderConfig,
    IndexConfig,
    LexicalConfig,
    PredictConfig,
    PrepareConfig,
    apply_overrides,
    fingerprinted_settings,
)
from ezxmc_ray.errors import UserError, one_line
from ezxmc_ray.index.build import ShardInfo
from ezxmc_ray.index.gpu import gpu_dtype
from ezxmc_ray.integrity import checksum_of, checksums_of
from ezxmc_ray.metrics.thresholds import LeastScores, ProbabilityCurve
from ezxmc_ray.storage import Storage
from ezxmc_ray.tagging.cross_encoder import CrossSettings
from ezxmc_ray.tagging.settings import AddedLabels, TagSettings

BUNDLE, README = layout.BUNDLE, "README.md"
#: How the folder of the files begins, what it is called, and the same as a glob: other folders are somebody else's.
FILES, FOLDER, FOLDER_GLOB = layout.FILES, layout.BUNDLE_FOLDER, layout.FILES + "[0-9a-f]" * 16
#: Raise when a bundle is no longer what older versions read. One with a cross-encoder has a version of its own, since
#: these would tag without it, by its thresholds.
VERSION, CROSS_VERSION = 2, 3
#: Where the student lies in the files of a bundle.
ONNX_FOLDER = "encoder"
#: Knobs of ``prepare`` that say how files of documents are read; the others are about the run's own inputs.
READING = ("format", "csv_separator", "id_column", "title_column", "text_column")
#: And how files of labels are read, by who changes them.
READING_LABELS = (
    "label_id_column",
    "label_text_column",
    "label_description_column",
    "label_alternatives_column",
    "label_language",
    "list_separator",
    "repeated_labels",
)
#: Knobs besides that a bundle takes: sections, and single ones.
SECTIONS = ("predict", "cluster")
SPEED = ("encoder.batch_tokens", "index.gpu", "index.gpus_per_actor")
#: How knobs begin that the index was built with, which stay as they are.
FIXED = ("encoder.", "lexical.")
#: Copied from an object store with checks of its own (index/node_files.py).
_CHECKED_WHEN_COPIED = (f"{layout.INDEX}/", f"{layout.LEXICAL}/")


def is_bundle(storage: Storage) -> bool:
    """Whether the directory is a bundle."""
    return storage.exists(BUNDLE)


def was_changed(storage: Storage) -> bool:
    """Whether it is a bundle whose labels were changed since it was exported."""
    try:
        told = storage.read_note(BUNDLE)
    except (FileNotFoundError, ValueError):
        return False
    return bool(told.get("changed") or told.get("added") or told.get("removed"))


@contextmanager
def new_folder(target: Storage) -> Iterator[tuple[str, Storage]]:
    """The name of a new folder of the bundle ``target``, and its files, which go if the block does not end well."""
    folder = f"{FILES}{secrets.token_hex(8)}"
    files = target.below(folder)
    try:
        yield folder, files
    except BaseException:
        files.remove("")
        raise


def describe_files(files: Storage) -> dict[str, dict[str, Any]]:
    """Of each file in a folder of a bundle, by name: its ``bytes`` and its ``checksum`` (storage.checksum)."""
    sizes = files.sizes(recursive=True)
    checksums = checksums_of(files, sizes, lambda task, items: (task(*item) for item in items))
    return {name: {"bytes": size, "checksum": checksums[name]} for name, size in sizes.items()}


def bundle_note(settings: TagSettings, folder: str, files: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """What bundle.json says. ``files``: as :func:`describe_files` has them."""
    return {
        "version": CROSS_VERSION if settings.reranking else VERSION,
        "folder": folder,
        "encoder": dataclasses.asdict(settings.encoder) | {"model": "the student of this bundle"},
        "onnx": settings.onnx,
        "lexical": dataclasses.asdict(settings.lexical),
        "index": {"gpu": settings.gpu_dtype is not None, "gpus_per_actor": settings.gpus_per_actor},
        "predict": _predict_note(settings.predict),
        "least_scores": dataclasses.asdict(settings.least_scores),
        "prepare": {name: getattr(settings.prepare, name) for name in (*READING, *READING_LABELS)},
        "probability": dataclasses.asdict(settings.probability) if settings.probability else None,
        **({"cross_encoder": settings.reranking.note} if settings.reranking else {}),
        "label_fingerprint": settings.label_fingerprint,
        "shards": [dataclasses.asdict(shard) for shard in settings.shards],
        "files": dict(files),
        "added": [],
        "removed": [],
        "changed": False,
    }


def _predict_note(predict: PredictConfig) -> dict[str, Any]:
    """Without a knob that older versions do not know, where it is off."""
    return {name: value for name, value in dataclasses.asdict(predict).items() if name != "rerank" or value}


def added_note(added: AddedLabels, folder: str, files: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """What bundle.json says of labels that were added; ``files`` as in :func:`bundle_note`."""
    return {"folder": folder, **added.note, "files": dict(files)}


def folders_of(note: Mapping[str, Any]) -> list[str]:
    """The folders that count, by what bundle.json says: of the export, and of each change."""
    return [note["folder"], *(one["folder"] for one in note["added"])]


def state_of(storage: Storage) -> str:
    """A name of what the bundle holds now; another one after each export and each change."""
    note = storage.read_note(BUNDLE)
    changed = [note[name] for name in ("added", "removed") if note.get(name)]
    told = hashlib.blake2b(json.dumps(changed, sort_keys=True).encode(), digest_size=8).hexdigest()
    return str(note.get("folder", "")) + (f"+{told}" if changed else "")


def open_bundle(where: str, overrides: Sequence[str] = ()) -> tuple[Storage, TagSettings, list[Storage]]:
    """The files of a bundle, how it tags, and the files of the labels that were added to it.

    ``overrides``: knobs of SECTIONS, READING and SPEED. Errors: UserError for a bundle of another version, for files
    that are damaged, of another bundle or missing, for a knob that the index was built with, and for one that a bundle
    has no use for.
    """
    storage = Storage(where)
    told = read_bundle_note(storage)
    files, *added = (storage.below(folder) for folder in folders_of(told))
    for one, its in zip([files, *added], [told, *told["added"]], strict=True):
        _check_files(one, its["files"])
    config = _configuration(where, told, overrides)
    settings = TagSettings(
        config.encoder,
        config.lexical,
        [ShardInfo(**one) for one in told["shards"]],
        config.predict,
        LeastScores(**told["least_scores"]),
        told["label_fingerprint"],
        None if told["onnx"] else gpu_dtype(config.encoder, config.index),
        ProbabilityCurve.of(told["probability"]),
        ONNX_FOLDER if told["onnx"] else layout.STUDENT,
        told["onnx"],
        config.prepare,
        config.cluster,
        [
            AddedLabels([ShardInfo(**shard) for shard in one["shards"]], one["label_fingerprint"], one["folder"])
            for one in told["added"]
        ],
        told["removed"],
        config.index.gpus_per_actor,
        CrossSettings.of_note(told["cross_encoder"]) if "cross_encoder" in told else None,
    )
    if config.predict.rerank and settings.cross_encoder is None:
        raise UserError(
            f"predict.rerank is {config.predict.rerank}, but the bundle {where} has no cross-encoder: leave it out, or "
            "export a run that was made with it."
        )
    return files, settings, added


def _configuration(where: str, told: Mapping[str, Any], overrides: Sequence[str]) -> Config:
    """The knobs that bundle.json has, and ``overrides``. Errors: UserError as :func:`open_bundle`."""
    made = Config(
        encoder=EncoderConfig(**told["encoder"]),
        lexical=LexicalConfig(**told["lexical"]),
        index=IndexConfig(**told.get("index", {"gpu": not told["onnx"]})),  # of an older version
        predict=PredictConfig(**told["predict"]),
        prepare=PrepareConfig(**told["prepare"]),
    )
    config = apply_overrides(made, list(overrides))
    _check_knobs(overrides)
    if config.index.gpu and told["onnx"]:
        raise UserError(
            f"The encoder of the bundle {where} is for ONNX Runtime, beside which CPUs search the labels: leave out "
            "index.gpu, or export the run with --encoder torch."
        )
    if config.encoder.dtype != made.encoder.dtype:
        raise UserError(
            f"The encoder of the bundle {where} computes in {made.encoder.dtype}, as that of every export: leave out "
            "encoder.dtype."
        )
    for section in ("encoder", "lexical"):
        if fingerprinted_settings(config, section) != fingerprinted_settings(made, section):
            raise UserError(
                f"The index of the bundle {where} was built with other settings of {section}: set them in a run, and "
                "export it again."
            )
    return config


def _check_knobs(overrides: Sequence[str]) -> None:
    """Errors: UserError for a knob that a bundle has no use for."""
    single = [*SPEED, *(f"prepare.{knob}" for knob in READING)]
    for key in (word.partition("=")[0].strip() for word in overrides):
        section, is_fixed = key.partition(".")[0], key.startswith(FIXED) and key != "encoder.model"
        if section not in SECTIONS and key not in single and not is_fixed:
            raise UserError(
                f"{key} is a knob of runs, which a bundle has no use for; it takes those of {' and '.join(SECTIONS)}, "
                f"and {', '.join(single)}."
            )


def read_bundle_note(storage: Storage) -> dict[str, Any]:
    """What bundle.json says. Errors: UserError where it is not there, damaged, or of another version."""
    try:
        told = storage.read_note(BUNDLE)
    except FileNotFoundError as error:
        raise UserError(f"{storage.root} is not a bundle: it has no {BUNDLE}.") from error
    except ValueError as error:
        raise _damaged(storage, BUNDLE, one_line(error, 120)) from error
    if told.get("version") not in (VERSION, CROSS_VERSION):
        raise UserError(
            f"The bundle {storage.root} is of version {told.get('version')}, and this ezxmc reads versions {VERSION} "
            f"and {CROSS_VERSION}: export it again with this version, or install the one that it was made with."
        )
    return told


def _check_files(files: Storage, told: Mapping[str, Mapping[str, Any]]) -> None:
    """Errors: UserError for the first file that is missing or not what was written."""
    if layout.LABELS not in told:
        raise _damaged(files, layout.LABELS, "bundle.json does not list it")
    there = files.sizes(recursive=True)
    for name, one in told.items():
        if name not in there:
            raise _damaged(files, name, "it is missing")
        if there[name] != one["bytes"]:
            raise _damaged(files, name, f"it has {there[name]:,} bytes, {one['bytes']:,} were written")
        is_checked_here = files.is_local or not name.startswith(_CHECKED_WHEN_COPIED)
        if is_checked_here and checksum_of(files, name) != one["checksum"]:
            raise _damaged(files, name, "its content is not what was written")


def _damaged(storage: Storage, name: str, reason: str) -> UserError:
    return UserError(f"The bundle is damaged: {storage.path(name)} ({reason}); export it again (`ezxmc export`).")
