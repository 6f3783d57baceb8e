"""What the methods of benchmarks/quality.py share: rankings, shortlists, the verdict store; and its command line."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

import quality
from common.data import Files
from ezxmc_ray.config import Config, load_config
from ezxmc_ray.context import Context
from ezxmc_ray.errors import UserError
from ezxmc_ray.storage import Manifest, Storage, write_manifest
from ezxmc_ray.tables import DOCUMENTS_SCHEMA, EXAMPLES_SCHEMA, RANKINGS_SCHEMA, SHORTLIST_SCHEMA, content_hash
from ezxmc_ray.verdicts.store import VerdictStore
from quality_bench.bench import SETTINGS, Bench, take_verdicts
from quality_bench.figures import METHODS
from quality_bench.methods import METHODS as BUILT
from quality_bench.task import (
    encoder_ranking,
    judged_shortlists,
    pairs_by_cycle,
    read_ranking,
    reranked,
    share_verdicts,
    write_ranking,
)


@pytest.fixture
def context(tmp_path: Path) -> Context:
    """Two shards of three documents each, with what the helpers read of a run; no stage made it."""
    storage = Storage(str(tmp_path))
    for shard in range(2):
        ids = [f"{shard}{row}" for row in range(3)]
        documents = [
            {"id": i, "title": "", "text": i, "split": "test", "held_out": False, "content_hash": content_hash("", i)}
            for i in ids
        ]
        storage.write_table(f"documents/shard-0000{shard}.parquet", pa.Table.from_pylist(documents, DOCUMENTS_SCHEMA))
    counts = {"documents": 6, "train": 0, "held_out": 0, "test": 6, "labels": 10, "shards": 2, "shard_rows": [3, 3]}
    details = counts | dict.fromkeys(("document_fingerprint", "label_fingerprint", "gold_fingerprint"), "f")
    write_manifest(storage, "documents", Manifest("prepare", "", 6, 0.0, [], details))
    return Context(Config(), storage)


def write(context: Context, folder: str, shard: int, rows: list[dict[str, object]], schema: pa.Schema) -> None:
    context.storage.write_table(f"{folder}/shard-0000{shard}.parquet", pa.Table.from_pylist(rows, schema))


def test_a_ranking_is_read_back_only_for_the_same_documents(tmp_path: Path) -> None:
    ranked = np.array([[3, 1, -1], [2, 0, 1]], np.int32)
    assert read_ranking(str(tmp_path), ["a", "b"]) is None
    write_ranking(str(tmp_path), ["a", "b"], ranked)
    np.testing.assert_array_equal(read_ranking(str(tmp_path), ["a", "b"]), ranked)
    assert read_ranking(str(tmp_path), ["b", "a"]) is None


def test_an_encoder_s_ranking_has_the_ids_of_its_rows(context: Context) -> None:
    write(
        context, "evaluation/encoder-1", 0, [{"row": 0, "labels": [4]}, {"row": 2, "labels": [5, 6]}], RANKINGS_SCHEMA
    )
    write(context, "evaluation/encoder-1", 1, [{"row": 1, "labels": [7]}], RANKINGS_SCHEMA)
    ids, ranked = encoder_ranking(context, 1)
    assert ids == ["00", "02", "11"]
    np.testing.assert_array_equal(ranked, [[4, -1], [5, 6], [7, -1]])


def test_verdicts_order_the_shortlist_and_similarity_the_rest() -> None:
    ranking = np.array([5, 3, 9, 1, 7], np.int32)
    labels, verdict = np.array([5, 3, 9], np.int32), np.array([0.2, 0.9, 0.2], np.float32)
    np.testing.assert_array_equal(reranked(ranking, labels, verdict), [3, 5, 9, 1, 7])
    unjudged = np.array([np.nan, 0.1, 0.0], np.float32)
    np.testing.assert_array_equal(reranked(ranking, labels, unjudged), [3, 9, 5, 1, 7])
    outside = np.array([8, 5], np.int32)
    np.testing.assert_array_equal(reranked(ranking, outside, np.ones(2, np.float32)), [8, 5, 3, 9, 1])


def test_judged_shortlists_are_found_by_document(context: Context) -> None:
    def example(row: int, labels: list[int], verdict: list[float]) -> dict[str, object]:
        lists = {"labels": labels, "similarity": verdict, "raw": verdict, "verdict": verdict}
        return {"row": row, "held_out": False, "base_similarity": [1.0] * len(labels), **lists}

    write(context, "cycle-0/examples", 0, [example(2, [1, 4], [0.5, 0.25])], EXAMPLES_SCHEMA)
    write(context, "cycle-0/examples", 1, [example(0, [3], [1.0]), example(1, [], [])], EXAMPLES_SCHEMA)
    scale = {"verdict_mean": 0.0, "verdict_std": 2.0, "similarity_mean": 0.0, "similarity_std": 0.5}
    judged = Manifest("judge", "", 3, 0.0, [], {"scale": scale})
    write_manifest(context.storage, "cycle-0/examples", judged)
    found = {
        name: (labels.tolist(), verdict.tolist()) for name, (labels, verdict) in judged_shortlists(context).items()
    }
    assert found == {"02": ([1, 4], [0.25, 0.125]), "10": ([3], [0.5]), "11": ([], [])}
    fused = judged_shortlists(context, "fusion")["02"][1]
    np.testing.assert_allclose(fused, (np.array([0.25, 0.125]) + 2.0) / np.sqrt(2))


def test_a_pair_that_several_cycles_have_counts_once(context: Context) -> None:
    for cycle, lists in enumerate(([[1, 2], [1]], [[2, 3], [1]], [[1], [2]])):
        for shard, labels in enumerate(lists):
            rows: list[dict[str, object]] = [{"row": 1, "labels": labels, "similarity": [0.0] * len(labels)}]
            write(context, f"cycle-{cycle}/shortlist", shard, rows, SHORTLIST_SCHEMA)
    assert pairs_by_cycle(context, 3) == [3, 4, 5]


def test_runs_write_their_verdicts_into_one_store(tmp_path: Path) -> None:
    runs = [Storage(str(tmp_path / name)) for name in ("one", "two")]
    for run in runs:
        share_verdicts(run.root, str(tmp_path / "verdicts"))
        share_verdicts(run.root, str(tmp_path / "verdicts"))
    runs[0].write_json("verdicts/key/teacher.json", {"key": "key"})
    assert runs[1].folders("verdicts") == ["verdicts/key"]
    assert runs[1].read_json("verdicts/key/teacher.json") == {"key": "key"}


def test_verdicts_that_are_taken_over_are_sorted_into_shards_anew(tmp_path: Path) -> None:
    store = VerdictStore(Storage(str(tmp_path / "run")), "key")
    store.write_description({"key": "key"})
    store.write_placement({"document_fingerprint": "of other documents"})
    take_verdicts(tmp_path / "run", tmp_path / "store")
    assert Storage(str(tmp_path)).list("store", recursive=True) == ["store/key/teacher.json"]
    with pytest.raises(UserError, match="holds no verdicts"):
        take_verdicts(tmp_path / "nothing", tmp_path / "store")


def test_every_method_is_built_and_its_settings_are_knobs() -> None:
    assert tuple(BUILT) == METHODS
    for settings in SETTINGS.values():
        load_config(None, settings)


def bench(tmp_path: Path, *overrides: str) -> Bench:
    given = argparse.Namespace(runs=tmp_path, name="n", cycles=3, larger="models/large")
    files = Files(
        tmp_path / "set" / "documents.jsonl.gz", tmp_path / "labels.jsonl.gz", None, tmp_path / "none", "test"
    )
    return Bench(given, load_config(None, list(overrides)), files, {"train_documents": 10, "labels": 5})


def test_the_recipe_takes_the_own_yes_of_an_llm_that_has_one(tmp_path: Path) -> None:
    for readout, threshold in (("yes_no", 0.0), ("likelihood", None)):
        one = bench(tmp_path, f"teacher.readout={readout}")
        assert one.configure(one.identity("lmtx", 0)).teacher.yes_threshold == threshold


def test_the_recipe_with_words_ranks_with_the_student_of_the_recipe(tmp_path: Path) -> None:
    one = bench(tmp_path)
    published = one.configure(one.identity("lmtx", 1), 0.5)
    words = one.configure(one.identity("lmtx_words", 1), 0.5)
    assert words.encoder.model == f"{published.run}/student" and words.run != published.run
    assert (published.lexical.weight, words.lexical.weight) == (0, Config().lexical.weight)


def test_a_larger_encoder_ranks_with_the_words_under_its_own_name(tmp_path: Path) -> None:
    one = bench(tmp_path)
    row = one.identity("larger_words", 0)
    assert (row["student"], row["teacher"], row["seed"]) == ("models/large", None, None)
    config = one.configure(row)
    assert config.encoder.model == "models/large" and config.lexical.weight == Config().lexical.weight
    assert Path(config.run).name == "larger_words-models-large"


def test_a_larger_encoder_is_left_out_of_all_methods_where_none_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    command = ["quality.py", "--name", "n", "--data", "d"]
    monkeypatch.setattr(sys, "argv", [*command, "--larger", "m"])
    assert quality.parse().methods == list(METHODS)
    monkeypatch.setattr(sys, "argv", command)
    assert quality.parse().methods == [name for name in METHODS if name != "larger_words"]
    monkeypatch.setattr(sys, "argv", [*command, "--methods", "larger_words"])
    with pytest.raises(SystemExit, match="2"):
        quality.parse()


def test_shares_are_numbers_between_0_and_1() -> None:
    assert quality.shares("1/4,0.5") == [0.25, 0.5]
    for text in ("1", "0", "a", "1/0"):
        with pytest.raises(argparse.ArgumentTypeError):
            quality.shares(text)


def test_missing_data_is_one_sentence_and_status_2(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["quality.py", "--name", "n", "--data", str(tmp_path), "--runs", str(tmp_path)])
    assert quality.main() == 2
    assert f"error: There is no file {tmp_path}/documents.jsonl.gz" in capsys.readouterr().err
    monkeypatch.delenv("EZXMC_DATA", raising=False)
    monkeypatch.setattr(sys, "argv", ["quality.py", "--name", "n", "--runs", str(tmp_path)])
    assert quality.main() == 2
    assert "--data or EZXMC_DATA" in capsys.readouterr().err


def test_a_method_that_was_done_alike_is_taken_over_only_where_that_is_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = list[str]()

    def run_module(module: str, words: list[str], output: Path, log: Path) -> dict[str, Any]:
        calls.append(module)
        answer = {"error": "no"} if len(calls) == 4 else {"pairs": len(calls)}
        output.write_text(json.dumps(answer))
        return answer

    monkeypatch.setattr("quality_bench.bench.run_module", run_module)
    one, other = bench(tmp_path), bench(tmp_path, "student.epochs=3")
    row = one.identity("ezxmc", 0)
    one.given.resume = True
    assert one.do(row)["pairs"] == one.do(row)["pairs"] == 1
    one.given.resume = False
    assert one.do(row)["pairs"] == 2
    other.given.resume = True
    assert other.do(row)["pairs"] == other.do(row)["pairs"] == 3  # of other knobs
    one.given.resume = True
    with pytest.raises(UserError, match="failed"):
        one.do(row)
    assert one.do(row)["pairs"] == 5  # what failed is not taken over
