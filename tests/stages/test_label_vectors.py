"""The label vectors of a run, by the actor that makes them, without a cluster: what is written is what search needs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from ezxmc_ray import layout
from ezxmc_ray.config import EncoderConfig
from ezxmc_ray.encoder.encoder import Encoder
from ezxmc_ray.index.label_vectors import join_label_vectors, label_vector_blocks, map_label_vectors
from ezxmc_ray.index.search import ShardedIndex
from ezxmc_ray.stages.shortlist import LabelWorker
from ezxmc_ray.storage import Storage
from ezxmc_ray.tables import LABELS_SCHEMA, content_hash

TEXTS = ["astronomy", "baking", "chess", "sailing", "medicine", "music", "gardening", "finance", "law"]


@pytest.mark.parametrize(("dtype", "dimensions"), [("float32", None), ("float16", 48)])
def test_label_vectors_have_the_configured_format_and_are_found_again(
    tmp_path: Path, dtype: str, dimensions: int | None
) -> None:
    config = EncoderConfig(dtype="float32", vector_dtype=dtype, dimensions=dimensions)
    storage = Storage(str(tmp_path))
    rows = [{"id": text, "text": text, "description": "", "content_hash": content_hash("", text)} for text in TEXTS]
    storage.write_table(layout.LABELS, pa.Table.from_pylist(rows, LABELS_SCHEMA))
    worker = LabelWorker(storage, config, None)
    for number, (first, stop) in enumerate([(0, 5), (5, 9)]):
        file = f"cycle-0/label_vectors/shard-{number:05d}.parquet"
        counts = {"labels": stop - first, "truncated": 0, "unreadable": 0, "unused_prompts": 0}
        assert worker({"first": first, "stop": stop, "file": file}) == storage.read_counts(file) == counts
    column = storage.read_table("cycle-0/label_vectors/shard-00000.parquet")["vector"]
    assert column.type == pa.list_({"float32": pa.float32(), "float16": pa.float16()}[dtype], dimensions or 384)

    joined = join_label_vectors(storage, "cycle-0/label_vectors")
    assert (joined.labels, joined.dimension, joined.dtype) == (9, dimensions or 384, dtype)
    assert joined.counts == {"truncated": 0, "unreadable": 0, "unused_prompts": 0}
    vectors = map_label_vectors(storage, "cycle-0/label_vectors")
    expected = Encoder.load(config.model, config).encode_labels(TEXTS).vectors
    assert vectors.dtype == dtype and vectors.shape == (9, dimensions or 384)
    np.testing.assert_allclose(vectors, expected, atol=1e-3 if dtype == "float16" else 1e-6)
    (block,) = label_vector_blocks(storage, "cycle-0/label_vectors", 3, 7)
    np.testing.assert_array_equal(block, vectors[3:7])

    scores, labels = ShardedIndex.from_vectors(vectors).search(vectors, 3)
    exact = vectors.astype(np.float64) @ vectors.astype(np.float64).T
    np.testing.assert_array_equal(labels, np.argsort(-exact, axis=1, kind="stable")[:, :3])
    np.testing.assert_allclose(scores, -np.sort(-exact, axis=1)[:, :3], atol=1e-5)
