"""``ezxmc export``: a finished run as a bundle (bundle.py), for machines without Ray, vLLM or PyTorch.

Comes in: a run. Goes out: a directory that :meth:`Tagger.load` opens. What was written is loaded and tried before it
counts: the same labels as the run's own tagger, which encodes in float32 for this, as a bundle does.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from ezxmc_ray import layout
from ezxmc_ray.encoder.pairs import pair_config
from ezxmc_ray.errors import UserError
from ezxmc_ray.index.build import ShardInfo
from ezxmc_ray.index.lexical_files import LexicalSource, has_lexical_files, lexical_files, write_lexical_files
from ezxmc_ray.integrity import checked
from ezxmc_ray.leftovers import temporary_folder
from ezxmc_ray.run_lock import LOCK_FILES
from ezxmc_ray.storage import Storage
from ezxmc_ray.tagging.bundle import (
    BUNDLE,
    FOLDER,
    ONNX_FOLDER,
    README,
    bundle_note,
    describe_files,
    new_folder,
    was_changed,
)
from ezxmc_ray.tagging.bundle_lock import bundle_lock, remove_old_folders
from ezxmc_ray.tagging.cross_encoder import CrossSettings
from ezxmc_ray.tagging.known_labels import read_known_labels
from ezxmc_ray.tagging.opening import open_for_tagging
from ezxmc_ray.tagging.settings import TagSettings
from ezxmc_ray.tagging.tagger import Tagger
from ezxmc_ray.version import __version__

ENCODERS = ("onnx", "torch")
#: How far scores of the bundle and of the run may lie apart.
CLOSE = 1e-5
#: What a bundle holds, and what an export that was killed may leave.
_OWN = re.compile(rf"(?P<folder>{FOLDER.pattern})/.*|{'|'.join(map(re.escape, (README, BUNDLE, *LOCK_FILES)))}", re.S)
_WRITTEN_BY = "Written by `ezxmc export`"
#: Labels whose texts are tagged to try a bundle.
TRIED_LABELS = 64


@dataclass(frozen=True)
class Exported:
    """What was written: ``labels``, and ``bytes`` in all."""

    labels: int
    bytes: int


class WrittenLabels(Protocol):
    """Labels that are not the run's, as stages/new_labels.py writes them."""

    @property
    def fingerprint(self) -> str:
        """Of the labels."""

    @property
    def shards(self) -> list[ShardInfo]:
        """Of their index."""


def export_bundle(
    run: str,
    directory: str,
    encoder: str = "onnx",
    write_labels: Callable[[Storage], WrittenLabels] | None = None,
) -> Exported:
    """Write a bundle of ``run`` into ``directory`` (a path or a URI), which is empty, absent, or an older bundle.

    ``encoder``: onnx, or torch: as sentence-transformers loads it, which needs PyTorch where it is used.
    ``write_labels`` writes labels, index and words of its own into a bundle's files; None: the run's. Errors:
    UserError for a run that cannot tag, a directory that holds something else, an encoder that ONNX Runtime does not
    run, and a bundle that does not tag as the run does.
    """
    if encoder not in ENCODERS:
        raise UserError(f"--encoder {encoder} is not one of {', '.join(ENCODERS)}.")
    source, settings = open_for_tagging(run)
    target, keeps_labels = Storage(directory), write_labels is None
    _check_target(target, keeps_labels)  # before the lock leaves its file in what is none of ours
    with bundle_lock(target):
        _check_target(target, keeps_labels)  # who had the lock may have changed the labels
        return _export(source, settings, target, encoder, write_labels)


def _check_target(target: Storage, keeps_labels: bool) -> None:
    """Errors: UserError for a directory that holds something else than a bundle, or, where the export ``keeps_labels``
    of the run, a bundle whose labels were changed."""
    directory, names = target.root, list(target.sizes(recursive=True))
    found = [_OWN.fullmatch(name) for name in names]
    # Others have files of these names too.
    may_be_others = not any(one and one["folder"] for one in found) and {README, BUNDLE}.intersection(names)
    if not all(found) or (may_be_others and not _is_own_readme(target)):
        raise UserError(f"{directory} holds something else than a bundle: name an empty directory, or a new one.")
    if keeps_labels and was_changed(target):
        raise UserError(
            f"The labels of {directory} were changed since it was exported, and this would bring back the run's: give "
            f"--labels the file that `ezxmc labels list {directory} --output FILE` writes, or remove the directory."
        )


def _is_own_readme(target: Storage) -> bool:
    return target.exists(README) and _WRITTEN_BY.encode() in target.read_bytes(README)


def _export(
    source: Storage,
    settings: TagSettings,
    target: Storage,
    encoder: str,
    write_labels: Callable[[Storage], WrittenLabels] | None,
) -> Exported:
    """As :func:`export_bundle`, into a directory that nobody else writes to meanwhile."""
    settings = dataclasses.replace(settings, encoder=dataclasses.replace(settings.encoder, dtype="float32"))
    if encoder == "onnx":  # which needs no GPU, nor PyTorch, by which labels are searched on one
        settings = dataclasses.replace(
            settings, onnx=True, encoder_folder=ONNX_FOLDER, gpu_dtype=None, gpus_per_actor=1
        )
    with new_folder(target) as (folder, files):
        if write_labels is None:
            _copy_labels(source, files, settings)
        else:
            written = write_labels(files)
            read_known_labels(source, settings.label_fingerprint)  # whose vectors it took
            settings = dataclasses.replace(settings, label_fingerprint=written.fingerprint, shards=written.shards)
        _write_encoder(source, files, settings)
        if settings.reranking:
            _write_cross_encoder(source, files, settings, settings.reranking)
        _try(source, files, settings, write_labels is None)
        told = describe_files(files)
        target.write_bytes(README, _readme(files, settings, told).encode())
    target.write_note(BUNDLE, bundle_note(settings, folder, told))
    remove_old_folders(target, [folder])
    return Exported(files.rows(layout.LABELS), _bytes(told))


def _copy_labels(source: Storage, files: Storage, settings: TagSettings) -> None:
    """Copy index and words, and last the labels. Errors: UserError where those are others by now."""
    for shard in settings.shards:
        _copy_file(source, files, f"{layout.INDEX}/{shard.file}")
    if settings.lexical.weight:
        made_of = LexicalSource(settings.label_fingerprint, settings.lexical.language)
        if not has_lexical_files(source, made_of):  # they were removed
            write_lexical_files(source, made_of)
        for name in lexical_files(source):
            _copy_file(source, files, name)
    files.write_bytes(layout.LABELS, source.read_bytes(layout.LABELS))
    read_known_labels(files, settings.label_fingerprint)


def _write_encoder(source: Storage, files: Storage, settings: TagSettings) -> None:
    with checked(source, layout.STUDENT) as student:
        if settings.onnx:
            from ezxmc_ray.encoder.encoder import Encoder
            from ezxmc_ray.encoder.onnx_export import export_onnx

            with temporary_folder() as written:
                export_onnx(Encoder.load(str(student), settings.encoder, "cpu"), written)
                files.upload(written, ONNX_FOLDER)
        else:
            _upload(files, student, layout.STUDENT)


def _upload(files: Storage, network: Path, target: str) -> None:
    """Copy the directory ``network`` of a run to ``target``, without what a stage notes in it."""
    for one in sorted(path for path in network.rglob("*") if path.is_file() and not path.name.startswith(".")):
        if one.name != layout.MANIFEST:
            files.upload(one, f"{target}/{one.relative_to(network).as_posix()}")


def _write_cross_encoder(source: Storage, files: Storage, settings: TagSettings, how: CrossSettings) -> None:
    with checked(source, layout.CROSS_NETWORK, layout.CROSS_ENCODER) as network:
        if not settings.onnx:
            _upload(files, network, layout.CROSS_NETWORK)
            return
        from ezxmc_ray.encoder.cross_encoder import CrossEncoder
        from ezxmc_ray.encoder.onnx_export import export_onnx_pairs

        with temporary_folder() as written:
            export_onnx_pairs(
                CrossEncoder.load(str(network), pair_config(settings.encoder, how.config), "cpu"), written
            )
            files.upload(written, layout.CROSS_NETWORK)


def _copy_file(source: Storage, files: Storage, name: str) -> None:
    with source.local(name) as path:
        files.upload(Path(path), name)


def _try(source: Storage, files: Storage, settings: TagSettings, has_labels_of_run: bool) -> None:
    """Errors: UserError where the bundle's tagger gives other scores than the run's, if their labels are the same."""
    bundle = Tagger(files, settings)
    if not has_labels_of_run:
        return
    run = Tagger(source, dataclasses.replace(settings, onnx=False, encoder_folder=layout.STUDENT, gpu_dtype=None))
    texts = run.label_texts.slice(0, TRIED_LABELS).to_pylist()
    ours, theirs = (one.rank([""] * len(texts), texts, min_score=-np.inf) for one in (run, bundle))
    there = np.isfinite(ours.scores)
    apart = np.abs(ours.scores[there] - theirs.scores[there]).max(initial=0.0)
    # Labels of one score, but for rounding, may change places.
    if not (np.array_equal(there, np.isfinite(theirs.scores)) and apart <= CLOSE):
        raise UserError(f"The bundle gives other scores than the run (up to {apart:.1e} apart): give --encoder torch.")


def _bytes(told: Mapping[str, Mapping[str, Any]]) -> int:
    return sum(one["bytes"] for one in told.values())


def _readme(files: Storage, settings: TagSettings, told: Mapping[str, Mapping[str, Any]]) -> str:
    labels, size = files.rows(layout.LABELS), _bytes(told)
    return f"""\
---
library_name: ezxmc-ray
tags: [ezxmc-ray, multi-label-classification, tagging]
---

# A tagger

{_WRITTEN_BY} (ezxmc-ray {__version__}): an encoder, an index of {labels:,} labels and the labels' words{
        ", and a cross-encoder that ranks the first labels anew" if settings.reranking else ""
    },
{size / 1e6:,.0f} MB. Labels may have come and gone since: `ezxmc labels list DIRECTORY` shows those that there are.
It needs neither the LLM that taught it, nor Ray{", nor PyTorch" if settings.onnx else ""}.

    pip install 'ezxmc-ray[{"tag" if settings.onnx else "run"}]'

```python
from ezxmc_ray import Tagger

tagger = Tagger.load("this directory")
for label in tagger.tag(["a text"], k=5)[0]:
    print(label.score, label.text, label.label_id)
```

`ezxmc tag DIRECTORY --input documents.jsonl --output tags.jsonl` tags files. `bundle.json` has a checksum of every
file; a damaged one is named when the tagger is loaded.
"""
