"""What the stage ``cross_encoder`` makes of held-out documents: their scores, and what these are worth. No Ray."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch

from common.run_files import summarize_examples
from ezxmc_ray import layout
from ezxmc_ray.config import Config, load_config
from ezxmc_ray.encoder.cross_encoder import CrossEncoder
from ezxmc_ray.encoder.encoder import Encoder
from ezxmc_ray.encoder.pairs import pair_config
from ezxmc_ray.encoder.reranker import RerankScale
from ezxmc_ray.errors import UserError
from ezxmc_ray.metrics.thresholds import fit_scores
from ezxmc_ray.stages import cross_encoder as stage
from ezxmc_ray.stages.cross_encoder import HeldOutWorker, fit_reranking
from ezxmc_ray.storage import Manifest, Storage, checksum, write_manifest
from ezxmc_ray.student.summary import draws_of, half_of
from ezxmc_ray.student.targets import TargetScale
from ezxmc_ray.tables import (
    ALTERNATIVES,
    CROSS_HELD_OUT_SCHEMA,
    DOCUMENTS_SCHEMA,
    EXAMPLES_SCHEMA,
    HELD_OUT_SCHEMA,
    LABELS_WITH_ALTERNATIVES,
    content_hash,
)
from tests.student.toy import LABELS, TOPICS, save_tiny_bert

pytestmark = pytest.mark.usefixtures("one_thread")

SCALE, THRESHOLD = TargetScale(0.0, 1.0, 0.5, 0.3), 0.5
BY_VERDICT = ["student.target=verdict", "shortlist.size=8"]
Lists = list[dict[str, np.ndarray]]


def judged(documents: int = 60, noise: float = 0.0) -> Lists:
    """Documents with shortlists of unlike lengths, one of them empty; a score is ten times the verdict, and a number
    of the document's own; ``noise``: beside it."""
    draw, found = np.random.default_rng(0), list[dict[str, np.ndarray]]()
    for document in range(documents):
        size = 0 if document == 7 else 5 + document % 4
        similarity = -np.sort(-draw.random(size))
        one = {"similarity": similarity, "base_similarity": draw.random(size), "verdict": draw.normal(size=size)}
        score = 10 * one["verdict"] + draw.normal() * 50 + noise * draw.normal(size=size)
        found.append({name: values.astype(np.float32) for name, values in (one | {"score": score}).items()})
    return found


def fit(folder: Path, lists: Lists, groups: int = 2, settings: list[str] = BY_VERDICT) -> dict[str, Any]:
    """What is fitted on ``lists``, in the tables of so many groups of shards."""
    storage = Storage(str(folder))
    rows = [{"shard": 0, "row": row, "labels": list(range(len(one["score"])))} | one for row, one in enumerate(lists)]
    for group, part in enumerate(np.array_split(np.arange(len(rows)), groups)):
        told = pa.Table.from_pylist([rows[number] for number in part], CROSS_HELD_OUT_SCHEMA)
        storage.write_table(layout.cross_held_out(group), told)
    return fit_reranking(storage, load_config(None, settings), groups, SCALE, THRESHOLD)


def slow_ndcg(verdict: np.ndarray, order: np.ndarray, temperature: float) -> float:
    """nDCG@5 of a document's labels by falling ``order``."""
    gains = np.exp(verdict.astype(np.float64) / temperature)
    discounts = 1 / np.log2(np.arange(5) + 2)
    first, best = (np.array(sorted(range(len(gains)), key=lambda n: -by[n]))[:5] for by in (order, gains))
    return float((gains[first] * discounts[: len(first)]).sum() / (gains[best] * discounts[: len(best)]).sum())


def test_scores_that_are_the_verdicts_raise_the_order(tmp_path: Path) -> None:
    lists = judged()
    found = fit(tmp_path, lists, settings=[*BY_VERDICT, "cross_encoder.weight=3"])
    config, scale = load_config(None, BY_VERDICT), RerankScale(found["per_score"], found["anchor"])
    assert found["anchor"] == 8 and found["per_score"] > 0
    spread = [
        np.concatenate([one[name] - one[name].mean() for one in lists if len(one[name])]).std()
        for name in ("similarity", "score")
    ]
    assert found["per_score"] == pytest.approx(3 * spread[0] / spread[1], rel=1e-5)
    values = []
    for one in lists:
        if len(one["score"]):
            orders = (one["similarity"], scale.fuse(one["similarity"], one["score"]))
            values.append([slow_ndcg(one["verdict"], by, config.student.target_temperature) for by in orders])
    before, after = 100 * np.array(values).T
    assert found["held_out"] == {
        "documents": 59,
        "similarity": pytest.approx(before.mean()),
        "reranked": pytest.approx(after.mean()),
        "difference": pytest.approx((after - before).mean()),
        "standard_error": pytest.approx((after - before).std(ddof=1) / np.sqrt(59)),
    }
    assert found["held_out"]["difference"] > 20 and found["held_out"]["reranked"] > 95


def test_thresholds_and_chances_are_of_the_new_scores(tmp_path: Path) -> None:
    lists = judged(noise=5.0)
    found = fit(tmp_path / "one", lists)
    scale = RerankScale(found["per_score"], found["anchor"])
    fused = np.concatenate([scale.fuse(one["similarity"], one["score"]) for one in lists])
    expected = fit_scores(fused, np.concatenate([one["verdict"] for one in lists]) >= THRESHOLD)
    assert {name: found[name] for name in expected} == expected
    assert found["min_score"] in fused.tolist() and expected["probability"] is not None
    assert 0 < expected["probability_error"] < 1 and len(expected["precision_thresholds"]) == 99
    # Of each document a number of its own plays no part, and a similarity that is higher by one is told as such.
    moved = [one | {"score": one["score"] + np.float32(100 * row)} for row, one in enumerate(lists)]
    higher = [one | {"similarity": one["similarity"] + np.float32(1)} for one in lists]
    assert fit(tmp_path / "moved", moved)["min_score"] == pytest.approx(found["min_score"], abs=1e-4)
    assert fit(tmp_path / "higher", higher)["min_score"] == pytest.approx(found["min_score"] + 1, abs=1e-4)


def test_how_documents_are_cut_into_groups_changes_nothing(tmp_path: Path) -> None:
    lists = judged(noise=5.0)
    assert fit(tmp_path / "1", lists, 1) == fit(tmp_path / "5", lists, 5)


def test_the_order_is_judged_by_the_fusion_where_students_learn_it(tmp_path: Path) -> None:
    lists = judged()
    for one in lists:  # a base encoder that says the opposite
        one["base_similarity"] = -5 * one["verdict"]
    kinds = ("verdict", "fusion")
    by_verdict, by_fusion = (fit(tmp_path / kind, lists, settings=[f"student.target={kind}"]) for kind in kinds)
    assert by_verdict["held_out"]["difference"] > 10 and by_fusion["held_out"]["difference"] < -10
    for name in ("per_score", "min_score", "probability"):
        assert by_verdict[name] == by_fusion[name]


def test_without_a_yes_or_without_documents_every_label_is_kept(tmp_path: Path) -> None:
    lists = [one | {"verdict": np.full_like(one["verdict"], -1.0)} for one in judged()]
    none = fit(tmp_path / "no", lists)
    assert none["min_score"] == -1 and none["probability"] is none["precision_thresholds"] is None
    assert none["held_out"]["documents"] == 59 and none["held_out"]["difference"] == 0
    empty = fit(tmp_path / "empty", [])
    assert (empty["min_score"], empty["per_score"]) == (-1, 0)
    assert set(empty["held_out"].values()) == {0} and empty["held_out"].keys() == none["held_out"].keys()
    one = fit(tmp_path / "one", judged(1))
    assert one["held_out"]["documents"] == 1 and one["held_out"]["standard_error"] == 0


def test_scores_that_are_all_alike_change_no_order(tmp_path: Path) -> None:
    lists = [one | {"score": np.full_like(one["score"], 0.1)} for one in judged()]
    found = fit(tmp_path, lists)
    assert found["per_score"] == 0 and found["held_out"]["difference"] == 0
    assert found["min_score"] in np.concatenate([one["similarity"] for one in lists]).tolist()


@pytest.mark.parametrize(("difference", "is_told"), [(-2.1, True), (-1.9, False), (0.0, False), (5.0, False)])
def test_an_order_that_is_worse_beyond_noise_is_told(
    difference: float, is_told: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    monkeypatch.setattr(stage, "say", said.append)
    held_out = {"documents": 1234, "similarity": 70.04, "reranked": 70.04 + difference, "difference": difference}
    stage._tell(held_out | {"standard_error": 2.0})
    assert len(said) == is_told
    if said:
        assert said[0].startswith("By the teacher's judgment of 1,234 held-out documents the cross-encoder makes")
        assert "(nDCG@5 70.0 -> 67.9): predict.rerank=0 tags without it." in said[0]


SHARDS, ROWS = 3, 9


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Config:
    """A run with a cross-encoder by chance; two thirds of the documents are held out, in two groups of shards."""
    folder, draw = tmp_path_factory.mktemp("cross"), np.random.default_rng(0)
    settings = [f"run={folder}/run", f"encoder.model={save_tiny_bert(folder / 'model', 0.0)}"]
    settings += ["encoder.max_document_tokens=16", "encoder.max_label_tokens=8", "encoder.dtype=float32"]
    config = load_config(None, [*settings, "cross_encoder.max_document_tokens=12"])
    storage = Storage(config.run)
    for shard in range(SHARDS):
        documents, examples = [], []
        for row in range(ROWS):
            title = draw.choice(TOPICS) if row % 2 else None
            document = {"id": f"{shard}-{row}", "title": title, "text": " ".join(draw.choice(TOPICS, 2 + 2 * row))}
            kept = {"split": "train", "held_out": row % 3 > 0}
            documents.append(document | kept | {"content_hash": content_hash(title or "", str(document["text"]))})
            labels = draw.permutation(len(LABELS))[: row % 5].tolist()
            lists = {name: draw.random(len(labels)).tolist() for name in ("similarity", "base_similarity", "verdict")}
            examples.append({"row": row, "held_out": row % 3 > 0, "labels": labels, "raw": lists["verdict"], **lists})
        storage.write_shard(layout.DOCUMENTS, shard, pa.Table.from_pylist(documents, DOCUMENTS_SCHEMA))
        for cycle, some in ((0, examples[:1]), (1, examples)):
            storage.write_shard(layout.examples(cycle), shard, pa.Table.from_pylist(some, EXAMPLES_SCHEMA))
    summarize_examples(storage, 1, [range(2), range(2, 3)])
    rows = [{"id": text, "text": text, "description": "", ALTERNATIVES: ["river"]} for text in LABELS]
    rows = [row | {"content_hash": content_hash("", str(row["text"]))} for row in rows]
    storage.write_table(layout.LABELS, pa.Table.from_pylist(rows, LABELS_WITH_ALTERNATIVES))
    encoder = Encoder.load(config.encoder.model, config.encoder, "cpu")
    torch.manual_seed(0)
    CrossEncoder.begin(encoder, pair_config(config.encoder, config.cross_encoder)).save(
        storage.path(layout.CROSS_NETWORK)
    )
    return config


def held_out(config: Config, group: int) -> pa.Table:
    return Storage(config.run).read_table(layout.held_out(1, group), HELD_OUT_SCHEMA)


def scored(config: Config, group: int, is_half: bool = False, limit: int = 100) -> pa.Table:
    """What a worker writes of a group; the count that it returns is its rows'."""
    storage = Storage(config.run)
    item = {"shard": group, "file": layout.cross_held_out(group)}
    done = HeldOutWorker(storage, config, 1, is_half, limit)(item)
    table = storage.read_table(layout.cross_held_out(group), CROSS_HELD_OUT_SCHEMA)
    assert done == {"documents": len(table)}
    return table


def test_held_out_documents_get_the_scores_of_their_shortlists(run: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[tuple[str, int]] = []
    monkeypatch.setattr(stage, "report_done", lambda *one: told.append(one))
    config = pair_config(run.encoder, run.cross_encoder)
    pairs = CrossEncoder.load(f"{run.run}/{layout.CROSS_NETWORK}", config, "cpu").pairs
    for group in range(2):
        table = scored(run, group)
        assert table.select(HELD_OUT_SCHEMA.names).equals(held_out(run, group)) and len(table) == (12, 6)[group]
        for row in table.to_pylist():
            shard = Storage(run.run).read_shard(layout.DOCUMENTS, row["shard"], DOCUMENTS_SCHEMA)
            document = shard.to_pylist()[row["row"]]
            labels = [LABELS[label] for label in row["labels"]]
            (expected,) = pairs.scores([document["title"] or ""], [document["text"]], [labels])
            np.testing.assert_allclose(row["score"], expected, atol=1e-5)
    lengths = [len(scores) for scores in scored(run, 0)["score"].to_pylist()]
    assert min(lengths) == 0 and max(lengths) == 4
    assert told[0] == (layout.cross_held_out(0), sum(lengths) // run.shortlist.size)


def test_no_more_documents_are_looked_at_than_are_wanted_and_no_lucky_ones(run: Config) -> None:
    whole = scored(run, 0)
    for limit in (0, 1, 5, 12):
        table = scored(run, 0, limit=limit)
        kept = np.sort(np.argsort(draws_of(whole), kind="stable")[:limit])
        assert len(table) == limit and table.select(HELD_OUT_SCHEMA.names).equals(held_out(run, 0).take(kept))
        np.testing.assert_allclose(
            np.concatenate([[], *table["score"].to_pylist()]),
            np.concatenate([[], *whole.take(kept)["score"].to_pylist()]),
            atol=1e-5,
        )


def test_of_documents_that_trainings_stopped_by_nothing_is_fitted(run: Config) -> None:
    others, all_of_them = half_of(held_out(run, 0), of_training=False), held_out(run, 0)
    found = scored(run, 0, is_half=True)
    assert found.select(HELD_OUT_SCHEMA.names).equals(others) and 0 < len(others) < len(all_of_them)
    first = scored(run, 0, is_half=True, limit=2)
    assert len(first) == 2 and set(first["row"].to_pylist()) <= set(others["row"].to_pylist())


def test_a_network_that_is_damaged_is_not_asked(run: Config, tmp_path: Path) -> None:
    storage, name = Storage(str(tmp_path)), f"{layout.CROSS_NETWORK}/model.safetensors"
    shutil.copytree(Path(run.run) / layout.CROSS_NETWORK, tmp_path / layout.CROSS_NETWORK)
    storage.write_bytes(layout.LABELS, (Path(run.run) / layout.LABELS).read_bytes())
    with Path(storage.path(name)).open("rb") as content:
        written = {name: checksum(content)}
    write_manifest(storage, layout.CROSS_ENCODER, Manifest("cross_encoder", "", 1, 1.0, [name], {}, checksums=written))
    HeldOutWorker(storage, run, 1, False, 5)
    content_of = bytearray(Path(storage.path(name)).read_bytes())
    content_of[-1] ^= 1
    storage.write_bytes(name, bytes(content_of))
    with pytest.raises(UserError, match=r"model\.safetensors"):
        HeldOutWorker(storage, run, 1, False, 5)
