"""The shortlists of quality.py's method icxml: what was written is parted, and stands for the labels nearest to it."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa

from ezxmc_ray.integrity import damaged_files
from ezxmc_ray.storage import Manifest, Storage, read_manifest, write_manifest
from ezxmc_ray.tables import DOCUMENTS_SCHEMA, SHORTLIST_SCHEMA
from quality_bench import topics
from quality_bench.topics import nearest_labels, propose_by_topics, split_topics
from tests.benchmarks.conftest import document

#: By text: its similarity to the labels 0 to 4.
SIMILARITIES = {
    "pdf": [0.9, 0.8, 0.1, 0.0, 0.2],
    "svg": [0.85, 0.1, 0.7, 0.6, 0.0],
}


def search(texts: list[str], k: int) -> tuple[np.ndarray, np.ndarray]:
    scores = np.array([SIMILARITIES[text] for text in texts], np.float32).reshape(-1, 5)
    labels = np.argsort(-scores, axis=1, kind="stable")[:, :k].astype(np.int32)
    return np.take_along_axis(scores, labels, axis=1), labels


def test_what_was_written_is_parted_into_topics() -> None:
    assert split_topics('pdf; convert PDF;\n- "vector graphics"; pdf;; .') == ["pdf", "convert PDF", "vector graphics"]
    assert split_topics("1. games, 2D\n2) 3D") == ["games", "2D", "3D"]
    assert split_topics(" ;\n") == []


def test_each_topic_gives_its_nearest_label_in_turn() -> None:
    both, one, none = nearest_labels([["svg", "pdf"], ["svg"], []], search, 3)
    assert both is not None and one is not None and none is None
    assert both[0].tolist() == [0, 1, 2]  # 0 of both; then the second of svg, 2, and of pdf, 1
    np.testing.assert_allclose(both[1], [0.9, 0.8, 0.7])  # a label's is that to its nearest topic
    assert one[0].tolist() == [0, 2, 3]


def test_shortlists_are_of_the_topics_and_what_was_written_is_not_asked_again(tmp_path: Path, monkeypatch: Any) -> None:
    """Of five documents two are judged; of one of these nothing was written."""
    storage = Storage(str(tmp_path))
    documents = pa.Table.from_pylist([document(number) for number in range(5)], DOCUMENTS_SCHEMA)
    storage.write_shard("documents", 0, documents)
    own = {"labels": [4, 3], "similarity": [0.5, 0.4], "base_similarity": [0.5, 0.4]}
    rows = [{"row": row, **own} for row in (1, 3)]
    storage.write_shard("cycle-0/shortlist", 0, pa.Table.from_pylist(rows, SHORTLIST_SCHEMA), {"documents": 2})
    files = ["cycle-0/shortlist/shard-00000.parquet"]
    write_manifest(storage, "cycle-0/shortlist", Manifest("shortlist", "f", 2, 0.0, files, sizes={files[0]: 1}))
    storage.write_json(topics.TOPICS_FILE, {"topics": ["pdf", "", "pdf", "pdf; svg", "svg"]})
    monkeypatch.setattr(topics, "_search", lambda context: search)
    context: Any = SimpleNamespace(
        storage=storage, shards=1, config=SimpleNamespace(shortlist=SimpleNamespace(size=2), teacher=None)
    )
    assert propose_by_topics(context) == {"topics": 1.0, "without_topics": 1}
    first, second = storage.read_shard("cycle-0/shortlist", 0, SHORTLIST_SCHEMA).to_pylist()
    assert first["row"] == 1 and first["labels"] == own["labels"]
    assert second["row"] == 3 and second["labels"] == [0, 1]  # of pdf, which is first, and has 0 before svg
    np.testing.assert_allclose(second["similarity"], [0.9, 0.8])
    assert second["similarity"] == second["base_similarity"]
    assert storage.read_counts(files[0]) == {"documents": 2}
    manifest = read_manifest(storage, "cycle-0/shortlist")
    assert manifest is not None and not damaged_files(storage, manifest)  # else the stage counts as not done
