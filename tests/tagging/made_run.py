"""A finished run made by hand, with real vectors of a tiny network: what tagging reads of one, and nothing else."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import yaml

from ezxmc_ray import layout
from ezxmc_ray.config import Config, load_config, to_dict
from ezxmc_ray.context import Context
from ezxmc_ray.documents.parts import label_fingerprint
from ezxmc_ray.encoder.encoder import Encoder
from ezxmc_ray.index.build import build_shard, save_shard
from ezxmc_ray.index.label_texts import all_texts
from ezxmc_ray.index.label_vectors import join_label_vectors
from ezxmc_ray.index.lexical_files import LexicalSource, write_lexical_files
from ezxmc_ray.integrity import signed
from ezxmc_ray.storage import Manifest, Storage, checksum, write_manifest
from ezxmc_ray.student.targets import TargetScale
from ezxmc_ray.tables import LABELS_SCHEMA, LABELS_WITH_ALTERNATIVES, content_hash, label_vectors_schema
from ezxmc_ray.teacher.engine import teacher_key
from ezxmc_ray.teacher.readout import resolve_readout
from tests.student.toy import LABELS, save_tiny_bert

ALTERNATIVES = [["salt lamp"], [], ["wheel of bread", "cloud"]]
SETTINGS = [
    "encoder.dtype=float32",
    "encoder.max_document_tokens=16",
    "encoder.max_label_tokens=16",
    "predict.top_k=4",
    "predict.min_score=-1",
]


def make_run(folder: Path, factory: str = "IDMap,Flat", shard_labels: int = 6, settings: Sequence[str] = ()) -> Config:
    """A run in ``folder`` with the labels of the toy; the first three have alternatives."""
    storage = Storage(str(folder))
    config = load_config(None, [f"run={folder}", f"encoder.model={folder}/student", *SETTINGS, *settings])
    rows = [
        {"id": f"id {text}", "text": text, "description": "", "content_hash": content_hash("", text)}
        | {"alternatives": ALTERNATIVES[number] if number < len(ALTERNATIVES) else []}
        for number, text in enumerate(LABELS)
    ]
    assert LABELS_WITH_ALTERNATIVES.names[: len(LABELS_SCHEMA)] == LABELS_SCHEMA.names
    table = pa.Table.from_pylist(rows, LABELS_WITH_ALTERNATIVES)
    storage.write_table(layout.LABELS, table)
    called = label_fingerprint(table)
    save_tiny_bert(folder / layout.STUDENT, 0.0)
    encoder = Encoder.load(str(folder / layout.STUDENT), config.encoder)
    encoder.save(folder / layout.STUDENT)
    vectors = encoder.encode_labels(all_texts(storage).to_pylist()).vectors
    _write_vectors(storage, vectors)
    infos = []
    for number, first in enumerate(range(0, len(vectors), shard_labels)):
        index = build_shard(vectors[first : first + shard_labels], first, factory)
        infos.append(save_shard(index, folder / layout.INDEX / f"shard-{number:03d}.faiss", first))
    write_lexical_files(storage, LexicalSource(called))
    counts = dict.fromkeys(("documents", "train", "held_out", "test", "shards"), 0)
    prepared = counts | {"labels": len(LABELS), "shard_rows": [], "document_fingerprint": "", "gold_fingerprint": None}
    _finish(storage, layout.DOCUMENTS, [layout.LABELS], prepared | {"label_fingerprint": called})
    _finish(storage, layout.shortlist(0), storage.list(layout.LEXICAL), {})
    _finish(storage, layout.STUDENT, storage.list(layout.STUDENT, recursive=True), {"encoder": 0, "min_score": -1.0})
    built: dict[str, Any] = {"student": f"commit of {layout.STUDENT}", "label_fingerprint": called}
    built |= {"match_settings": Context(config, storage).match_settings}
    files = [f"{layout.INDEX}/{one.file}" for one in infos]
    _finish(storage, layout.INDEX, files, built | {"shards": [dataclasses.asdict(one) for one in infos]})
    storage.write_bytes(layout.CONFIG, signed(yaml.safe_dump(to_dict(config))))
    return config


#: The teacher of a judged run, and what its manifest says of the verdicts.
TEACHER = ["teacher.engine=transformers", "teacher.dtype=float32", "teacher.batch_documents=1", "predict.top_k=2"]
THRESHOLD, SCALE = 1.45, TargetScale(0.2, 0.8, 0.3, 0.4)


def make_judged_run(folder: Path, cycles: Sequence[int] = (4,), settings: Sequence[str] = ()) -> str:
    """As :func:`make_run`, with a manifest of each cycle's judging, of so many pairs, by the bundled teacher's key.

    As a version left it that read every teacher once.
    """
    config = make_run(folder, settings=[*TEACHER, *settings])
    readout = resolve_readout(config.teacher)
    key = teacher_key(config.teacher)
    teacher = {"key": key, "dtype": "float32", "readout": readout, "calibration": "label_prior"}
    scales = {"scale": dataclasses.asdict(SCALE), "own_scale": dataclasses.asdict(SCALE)}
    for cycle, pairs in enumerate(cycles):
        details = {"teacher": teacher, "yes_threshold": THRESHOLD + cycle, **scales}
        manifest = Manifest("judge", "print", pairs, 1.0, [], details)
        write_manifest(Storage(str(folder)), layout.examples(cycle), manifest)
    return str(folder)


def _write_vectors(storage: Storage, vectors: np.ndarray) -> None:
    columns = [pa.array(np.arange(len(vectors), dtype=np.int32))]
    columns.append(pa.FixedSizeListArray.from_arrays(vectors.reshape(-1), vectors.shape[1]))
    table = pa.Table.from_arrays(columns, schema=label_vectors_schema(vectors.shape[1], "float32"))
    storage.write_table(f"{layout.label_vectors(0)}/shard-00000.parquet", table)
    join_label_vectors(storage, layout.label_vectors(0))


def _finish(storage: Storage, folder: str, files: list[str], details: dict[str, object]) -> None:
    sizes = {name: Path(storage.path(name)).stat().st_size for name in files}
    checksums = {}
    for name in files:
        with Path(storage.path(name)).open("rb") as content:
            checksums[name] = checksum(content)
    told = {"sizes": sizes, "checksums": checksums, "commit": f"commit of {folder}"}
    write_manifest(storage, folder, Manifest(folder, "print", len(files), 1.0, files, details, **told))  # type: ignore[arg-type]
