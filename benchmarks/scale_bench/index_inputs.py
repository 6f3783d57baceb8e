"""Label vectors of any number, like real ones, and document vectors to ask with.

Comes in: real label texts and documents. Goes out, in a folder: ``labels-N/`` with the vectors as a run has them,
``tuning.npy`` and ``queries.npy`` (500 documents each), ``nearest-N.npy`` (the 400 labels exactly nearest to each of
the latter). What is there already is kept.

The first labels are real ones, by the encoder. Half of the others are mixtures (flat Dirichlet weights) of a real label
and two of its 200 nearest, half of two labels by chance, as a compound label lies. The first are easier for cells than
real labels are, the second harder. ``geometry`` says what both together are: a tenth of the real labels, filled up to
all by such mixtures, beside all the real ones.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import faiss
import numpy as np

from common.data import in_order, read_rows
from ezxmc_ray.config import EncoderConfig
from ezxmc_ray.encoder.encoder import Encoder
from ezxmc_ray.errors import UserError
from ezxmc_ray.index.exact import ExactShard
from ezxmc_ray.index.label_vectors import LabelVectors, label_vector_blocks
from ezxmc_ray.index.measure import Nearest, nearest_labels, reach_of
from ezxmc_ray.index.node_files import array_file
from ezxmc_ray.storage import Storage

QUERIES, K = 500, 400
#: Mixtures: those near a real label are of it and some of its nearest; whose nearest are looked for.
NEAR, PARTS, ANCHORS = 200, 3, 5_000
BLOCK = 65_536


@dataclass(frozen=True)
class Inputs:
    """``geometry``: see the module; ``note``: what was made, for a reader of the result."""

    geometry: dict[str, dict[str, float]]
    note: str


def make_inputs(data: Path, folder: Path, sizes: list[int], model: str) -> Inputs:
    """Make what is not in ``folder`` yet. Errors: UserError for data that is not there."""
    folder.mkdir(parents=True, exist_ok=True)
    storage = Storage(str(folder))
    _encode(data, folder, model)
    real, queries = np.load(folder / "real.npy"), np.load(folder / "queries.npy")
    for size in sizes:
        if not (folder / f"labels-{size}" / "vectors.json").exists():
            write_labels(storage, f"labels-{size}", blocks_of(real, size), (size, real.shape[1]))
        if not (folder / f"nearest-{size}.npy").exists():
            found = nearest_labels(label_vector_blocks(storage, f"labels-{size}", 0, size), 0, queries, K)[1]
            np.save(folder / f"nearest-{size}.npy", found)
    if not storage.exists("geometry.json"):
        storage.write_json("geometry.json", geometry_of(real, queries))
    note = (
        f"{len(real):,} real labels ({data.name}, {model.split('/')[0].removeprefix('package:')}); beyond these "
        "mixtures: half of a label and two of its 200 nearest, half of two labels by chance."
    )
    return Inputs(storage.read_json("geometry.json"), note)


def _encode(data: Path, folder: Path, model: str) -> None:
    """Vectors of all different label texts, in an order by chance, and of 1,000 documents."""
    if (folder / "tuning.npy").exists():
        return
    for name in ("labels.jsonl.gz", "documents.jsonl.gz"):
        if not (data / name).is_file():
            raise UserError(f"There is no file {data / name}: give another directory by --data.")
    encoder = Encoder.load(model, EncoderConfig())
    texts = sorted({row["text"] for row in read_rows(data / "labels.jsonl.gz", ("text",))})
    documents = in_order(read_rows(data / "documents.jsonl.gz", ("id", "title", "text")))[: 2 * QUERIES]
    vectors = encoder.encode_documents(
        [d["title"] or "" for d in documents], [d["text"] or "" for d in documents]
    ).vectors
    labels = encoder.encode_labels(
        [texts[number] for number in np.random.default_rng(0).permutation(len(texts))]
    ).vectors
    for name, array in (("real", labels), ("queries", vectors[:QUERIES]), ("tuning", vectors[QUERIES:])):
        np.save(folder / f"{name}.npy", array)


def blocks_of(real: np.ndarray, size: int, seed: int = 0) -> Iterator[np.ndarray]:
    """``size`` label vectors, block by block: float32 [m, d], unit rows; real ones first."""
    draw = np.random.default_rng(seed)
    yield real[:size]
    missing = size - len(real)
    if missing <= 0:
        return
    anchors = draw.permutation(len(real))[:ANCHORS]
    nearest = ExactShard(real).search(real[anchors], min(NEAR + 1, len(real)))[1]
    while missing > 0:
        count = min(missing, BLOCK)
        yield np.concatenate([_near(real, anchors, nearest, count - count // 2, draw), _far(real, count // 2, draw)])
        missing -= count


def _near(
    real: np.ndarray, anchors: np.ndarray, nearest: np.ndarray, count: int, draw: np.random.Generator
) -> np.ndarray:
    """Mixtures of a label and some of those nearest to it."""
    at = draw.integers(0, len(anchors), count)
    weights = draw.dirichlet([1.0] * PARTS, count).astype(np.float32)
    mixed = weights[:, :1] * real[anchors[at]]
    for part in range(1, PARTS):
        mixed += weights[:, part : part + 1] * real[nearest[at, draw.integers(1, nearest.shape[1], count)]]
    return _unit(mixed)


def _far(real: np.ndarray, count: int, draw: np.random.Generator) -> np.ndarray:
    """Mixtures of two labels by chance."""
    weight = draw.uniform(0.3, 0.7, (count, 1)).astype(np.float32)
    one, other = draw.integers(0, len(real), (2, count))
    return _unit(weight * real[one] + (1 - weight) * real[other])


def _unit(rows: np.ndarray) -> np.ndarray:
    return np.asarray(rows / np.linalg.norm(rows, axis=1, keepdims=True), np.float32)


def write_labels(storage: Storage, folder: str, blocks: Iterator[np.ndarray], shape: tuple[int, int]) -> None:
    """As join_label_vectors writes them; ``blocks``: float32, together of ``shape``, of which one is held at a time."""
    with array_file(storage, f"{folder}/vectors.npy", shape, np.float32) as sink:
        for block in blocks:
            sink.write(np.ascontiguousarray(block))
    note = LabelVectors(sink.note(f"{folder}/vectors.npy"), *shape, "float32", {})
    storage.write_json(f"{folder}/vectors.json", dataclasses.asdict(note))


def geometry_of(real: np.ndarray, queries: np.ndarray) -> dict[str, Any]:
    """Of all real labels, and of a tenth of them filled up by mixtures: see :func:`_share_in_cells`."""
    mixed = np.concatenate(list(blocks_of(real[: len(real) // 10], len(real))))
    return {"real": _shares(real, queries), "a tenth real, mixed": _shares(mixed, queries)}


def _shares(labels: np.ndarray, queries: np.ndarray) -> dict[str, float]:
    """Mean cosine of the nearest and the 400th, and the share of the 400 in a tenth and two fifths of the cells."""
    scores, found = ExactShard(labels).search(queries, K)
    cells = round(len(labels) ** 0.5)
    clustering = faiss.Kmeans(labels.shape[1], cells, niter=10, spherical=True, max_points_per_centroid=64, seed=1)
    clustering.train(labels)
    cell_of = clustering.index.search(labels, 1)[1][:, 0]
    order = clustering.index.search(queries, cells)[1]
    reach = reach_of(order, cell_of, np.bincount(cell_of, minlength=cells), 0, Nearest(queries, found))
    return {
        "cosine_1": float(scores[:, 0].mean()),
        "cosine_400": float(scores[:, -1].mean()),
        "R@400 in 10 % of the cells": float(reach.met[cells // 10 - 1]),
        "R@400 in 40 % of the cells": float(reach.met[cells * 2 // 5 - 1]),
    }
