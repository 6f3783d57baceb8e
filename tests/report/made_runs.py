"""Small finished runs, made up with the project's own tables and manifests: documents, gold, rankings, examples."""

from __future__ import annotations

import hashlib
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import yaml

from ezxmc_ray import layout
from ezxmc_ray.config import load_config, to_dict
from ezxmc_ray.storage import Manifest, Storage, write_manifest
from ezxmc_ray.tables import DOCUMENTS_SCHEMA, EXAMPLES_SCHEMA, GOLD_SCHEMA, LABELS_SCHEMA, RANKINGS_SCHEMA

LABEL_COUNT, TEST_DOCUMENTS, TRAIN_DOCUMENTS = 30, 40, 20


def documents(seed: int) -> list[dict[str, Any]]:
    """Documents of both splits with gold labels: of a train document one label, of a test one 0 to 3, one excluded."""
    generator = np.random.default_rng(seed)
    rows = []
    for number in range(TRAIN_DOCUMENTS + TEST_DOCUMENTS):
        is_test = number >= TRAIN_DOCUMENTS
        size = int(generator.integers(0, 4)) if is_test else 1
        rows.append(
            {
                "id": f"document-{seed}-{number}",
                "title": "",
                "text": f"text {number}",
                "split": "test" if is_test else "train",
                "held_out": False,
                "content_hash": hashlib.blake2b(f"{seed} {number}".encode(), digest_size=16).digest(),
                "excluded": [LABEL_COUNT - 1] if is_test else [],
                "gold": sorted(generator.permutation(LABEL_COUNT)[:size].tolist()),
            }
        )
    return rows


def ranking(document: dict[str, Any], skill: float) -> list[int]:
    """Twelve labels; each gold one comes first with the probability ``skill``, by the document's own chance."""
    generator = np.random.default_rng(list(document["content_hash"]))
    score = generator.random(LABEL_COUNT)
    for label in document["gold"]:
        score[label] += float(generator.random() < skill)
    score[document["excluded"]] = -1
    return np.argsort(-score)[:12].tolist()


def made_run(
    root: Path,
    skills: tuple[float, ...] = (0.2, 0.6),
    chosen: int | None = 0,
    rows: list[dict[str, Any]] | None = None,
    cuts: tuple[int, ...] = (30,),
    labels: int = LABEL_COUNT,
    gold: str = "all",
    overrides: tuple[str, ...] = (),
    reranked: float | None = None,
) -> str:
    """A run whose encoder number n puts gold first with the probability ``skills[n]``; returns its directory.

    ``reranked``: that of a cross-encoder, if there is one.
    ``rows``: documents(0) unless given; ``cuts``: where a new shard begins; ``gold``: all, test or none of it is given.
    Cycle n judges labels n to n + 4 of every train document, so each cycle after the first adds a pair to each.
    """
    storage = Storage(str(root))
    rows = documents(0) if rows is None else rows
    bounds = [0, *cuts, len(rows)]
    shards = [rows[start:stop] for start, stop in pairwise(bounds)]
    config = load_config(None, [f"run={root}", f"curriculum.cycles={len(skills) - 1}", *overrides])
    storage.write_bytes("config.yaml", yaml.safe_dump(to_dict(config)).encode())
    texts = [{"id": f"label-{n}", "text": f"label {n}", "description": ""} for n in range(labels)]
    storage.write_table("labels.parquet", pa.Table.from_pylist(texts, LABELS_SCHEMA))
    rankings = skills if reranked is None else (*skills, reranked)
    for number, shard in enumerate(shards):
        _write_shard(storage, layout.shard_name(number), shard, rankings, gold)
    _write_manifests(storage, skills, chosen, len(shards), labels, gold, reranked is not None)
    return str(root)


def _write_shard(storage: Storage, name: str, rows: list[dict[str, Any]], skills: tuple[float, ...], gold: str) -> None:
    given = {"all": ("train", "test"), "test": ("test",), "none": ()}[gold]
    truth = [row["gold"] if row["split"] in given else None for row in rows]
    storage.write_table(f"documents/{name}.parquet", pa.Table.from_pylist(rows, DOCUMENTS_SCHEMA))
    storage.write_table(f"gold/{name}.parquet", pa.table({"labels": pa.array(truth, GOLD_SCHEMA.field(0).type)}))
    train = [place for place, row in enumerate(rows) if row["split"] == "train"]
    test = [place for place, row in enumerate(rows) if row["split"] == "test"]
    for encoder, skill in enumerate(skills):
        ranked = [{"row": place, "labels": ranking(rows[place], skill)} for place in test]
        storage.write_table(
            f"evaluation/encoder-{encoder}/{name}.parquet", pa.Table.from_pylist(ranked, RANKINGS_SCHEMA)
        )
        judged = [{"row": place, "labels": list(range(encoder, encoder + 5))} for place in train]
        storage.write_table(f"cycle-{encoder}/examples/{name}.parquet", pa.Table.from_pylist(judged, EXAMPLES_SCHEMA))


def _write_manifests(
    storage: Storage,
    skills: tuple[float, ...],
    chosen: int | None,
    shards: int,
    labels: int,
    gold: str,
    is_reranked: bool,
) -> None:
    fingerprints: dict[str, str | None] = dict.fromkeys(
        ("document_fingerprint", "label_fingerprint", "gold_fingerprint"), "f"
    )
    fingerprints |= {"gold_fingerprint": None} if gold == "none" else {}
    prepared = {"labels": labels, "shards": shards} | fingerprints
    student = Manifest("select", "f", 5, 1.0, details={"chosen_cycle": chosen})
    cycles: dict[str, Manifest] = {}
    for cycle in range(len(skills)):
        asked = 5 * TRAIN_DOCUMENTS if cycle == 0 else TRAIN_DOCUMENTS
        told = {"pairs_asked": asked, "engine_seconds": 100.0 / (cycle + 1)}
        files = [layout.shard_file(layout.examples(cycle), shard) for shard in range(shards)]
        cycles[layout.examples(cycle)] = Manifest("judge", "f", 100, 120.0, files, told)
        if cycle < len(skills) - 1:
            cycles[layout.cycle_student(cycle)] = Manifest("train", "f", 20, 30.0)
    names = ["untrained", *(f"cycle_{n}" for n in range(len(skills) - 1))]
    if is_reranked:
        names.append("reranked")
        cycles[layout.CROSS_ENCODER] = Manifest("cross_encoder", "f", 80, 300.0)
    evaluated = {
        "metrics": None if gold == "none" else {name: {} for name in names},
        "documents": 0 if gold == "none" else TEST_DOCUMENTS,
        "student": student.commit,
        "commits": {folder: manifest.commit for folder, manifest in cycles.items()},
    } | fingerprints
    files = [layout.shard_file(layout.ranking(n), shard) for n in range(len(names)) for shard in range(shards)]
    manifests = cycles | {
        "documents": Manifest("prepare", "f", 60, 1.0, details=prepared),
        "student": student,
        "evaluation": Manifest("evaluate", "f", 40, 1.0, files, evaluated),
    }
    for folder, manifest in manifests.items():
        write_manifest(storage, folder, manifest)
