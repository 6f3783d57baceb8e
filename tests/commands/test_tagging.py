"""``ezxmc tag``: what reaches the tagger, and what is printed. A fake tagger stands in for a run's."""

from __future__ import annotations

import contextlib
import io
import sys
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pytest

from ezxmc_ray.commands import tagging
from ezxmc_ray.config import ClusterConfig
from ezxmc_ray.tables import PREDICTIONS_SCHEMA
from ezxmc_ray.tagging import files
from ezxmc_ray.tagging.tagger import Tagger
from ezxmc_ray.tagging.updating import Asked
from tests.conftest import Ezxmc


class FakeTagger:
    """Answers each text with its own words as labels, none for "nothing", and says that one text a call was cut."""

    settings = SimpleNamespace(reranking=None, cut_at="encoder.max_document_tokens")

    def tag_columns(self, ids: list[str], titles: list[str], texts: list[str]) -> tuple[pa.Table, int]:
        words = [[] if text == "nothing" else text.split() for text in texts]
        scores = [[1 / (n + 1) for n in range(len(found))] for found in words]
        columns = [ids, [[f"id:{w}" for w in found] for found in words], words, scores]
        arrays = [pa.array(column, field.type) for column, field in zip(columns, PREDICTIONS_SCHEMA, strict=True)]
        return pa.Table.from_arrays(arrays, schema=PREDICTIONS_SCHEMA), 1

    def __enter__(self) -> FakeTagger:
        return self

    def __exit__(self, *error: object) -> None:
        pass


@pytest.fixture
def tagged_with(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
    """What the tagger was loaded with and what files it was to tag, in order; nothing is loaded."""
    calls: list[tuple[Any, ...]] = []

    def load(where: str, overrides: list[str]) -> FakeTagger:
        calls.append(("load", where, overrides))
        return FakeTagger()

    def tag_files(tagger: FakeTagger, inputs: list[str], output: str) -> files.TagCounts:
        calls.append(("tag_files", inputs, output))
        return files.TagCounts(documents=2, labels=3, truncated=1)

    monkeypatch.setattr(Tagger, "load", load)
    monkeypatch.setattr(files, "tag_files", tag_files)
    return calls


def test_a_folder_of_tags_goes_to_the_cluster(ezxmc: Ezxmc, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[Any, ...]] = []
    monkeypatch.setattr(tagging, "_tag_folder", lambda *arguments: calls.append(arguments))
    words = ("tag", "runs/mine", "--input", "a.jsonl", "predict.top_k=3", "--output", "tags/", "--format", "csv")
    assert ezxmc(*words).returncode == 0
    assert calls == [("runs/mine", ["predict.top_k=3"], ["a.jsonl"], "tags/", "csv")]


def test_a_package_that_is_not_there_is_named(ezxmc: Ezxmc, monkeypatch: pytest.MonkeyPatch) -> None:
    def load(where: str, overrides: list[str]) -> None:
        raise ModuleNotFoundError("No module named 'torch'", name="torch")

    monkeypatch.setattr(Tagger, "load", load)
    done = ezxmc("tag", "runs/mine")
    assert done.returncode == 2
    assert done.stderr.startswith("ezxmc: The package torch is not installed, which this command needs")


def test_tag_takes_several_files_and_overrides(ezxmc: Ezxmc, tagged_with: list[tuple[Any, ...]]) -> None:
    words = ("--input", "a.jsonl", "b.jsonl", "predict.top_k=3", "--input", "c.csv", "--output", "out.parquet")
    done = ezxmc("tag", "runs/mine", *words)
    assert tagged_with == [
        ("load", "runs/mine", ["predict.top_k=3"]),
        ("tag_files", ["a.jsonl", "c.csv", "b.jsonl"], "out.parquet"),
    ]
    assert (done.returncode, done.stdout) == (
        0,
        "Tagged 2 documents with 3 labels: out.parquet\n1 documents were cut at encoder.max_document_tokens.\n",
    )


def test_tag_without_input_reads_one_text_a_line(
    ezxmc: Ezxmc, tagged_with: list[tuple[Any, ...]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO("red wine\n\n  nothing\n"))
    done = ezxmc("tag", "runs/mine", "predict.top_k=3")
    assert tagged_with == [("load", "runs/mine", ["predict.top_k=3"])]
    assert (done.returncode, done.stdout) == (
        0,
        "red wine\n  1.000\tred\t(id:red)\n  0.500\twine\t(id:wine)\n\n"
        "nothing\n  no label is similar enough (predict.min_score)\n\n",
    )
    assert done.stderr == "1 texts were cut at encoder.max_document_tokens.\n"


def test_where_a_cross_encoder_ranks_it_takes_part_in_what_no_label_has(
    ezxmc: Ezxmc, tagged_with: list[tuple[Any, ...]], monkeypatch: pytest.MonkeyPatch
) -> None:
    told = SimpleNamespace(reranking="a cross-encoder", cut_at="cross_encoder.max_document_tokens")
    monkeypatch.setattr(FakeTagger, "settings", told)
    monkeypatch.setattr(sys, "stdin", io.StringIO("nothing\n"))
    done = ezxmc("tag", "runs/mine")
    assert done.stdout == (
        "nothing\n  no label scores high enough, by similarity and cross-encoder together (predict.min_score)\n\n"
    )
    assert done.stderr == "1 texts were cut at cross_encoder.max_document_tokens.\n"
    done = ezxmc("tag", "runs/mine", "--input", "a.jsonl")
    assert done.stdout.endswith("\n1 documents were cut at cross_encoder.max_document_tokens.\n")


@pytest.mark.parametrize("way", [[], ["--new-labels"]])
def test_a_bundle_of_the_hub_tags_on_a_cluster(ezxmc: Ezxmc, monkeypatch: pytest.MonkeyPatch, way: list[str]) -> None:
    """Its name is no path, and each actor has it from the hub."""
    places: list[tuple[str, str]] = []
    monkeypatch.setattr("ezxmc_ray.checks.check_shared", lambda config, what, place: places.append((what, place)))
    settings = SimpleNamespace(cluster=ClusterConfig(), reranking=None, cut_at="encoder.max_document_tokens")
    monkeypatch.setattr("ezxmc_ray.tagging.tagger.open_settings", lambda run, knobs: (None, settings, []))
    monkeypatch.setattr("ezxmc_ray.cluster.session.ray_cluster", lambda cluster: contextlib.nullcontext())
    counts = files.TagCounts(documents=2, rejected=1)
    monkeypatch.setattr("ezxmc_ray.stages.tag_folder.tag_folder", lambda *call: counts)
    monkeypatch.setattr("ezxmc_ray.stages.update_tags.update_folder", lambda *call: (counts, Asked()))
    done = ezxmc("tag", "org/tagger", "--input", "a.jsonl", "--output", "s3://b/tags/", *way)
    assert (done.returncode, done.stderr) == (0, "")
    assert places == [("--output", "s3://b/tags/")]
    assert "1 bad rows were left out; s3://b/tags/*.rejected.parquet say which and why." in done.stdout


def test_another_format_is_refused_by_its_own_name(ezxmc: Ezxmc) -> None:
    for way in ([], ["--new-labels"], ["--rerank"]):
        done = ezxmc("tag", "org/tagger", "--input", "a.jsonl", "--output", "tags/", "--format", "xlsx", *way)
        assert (done.returncode, done.stderr) == (2, "ezxmc: --format xlsx must be one of parquet, jsonl, csv.\n")


def test_a_format_for_a_file_that_says_its_own_is_refused(ezxmc: Ezxmc) -> None:
    for output in ("t.jsonl", "-", "s3://b/t.jsonl?region=x.csv"):
        done = ezxmc("tag", "org/tagger", "--input", "a.jsonl", "--output", output, "--format", "csv")
        assert (done.returncode, done.stderr) == (
            2,
            "ezxmc: --format csv is for the files in a folder (--output FOLDER/); that of a file is told by its name "
            "(.parquet, .jsonl or .csv), and the standard output has JSON lines.\n",
        )
