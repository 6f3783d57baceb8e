"""``ezxmc tag``: what reaches the tagger, and what is printed. A fake tagger stands in for a run's."""

from __future__ import annotations

import io
import sys
from typing import Any

import pyarrow as pa
import pytest

from ezxmc_ray.commands import tagging
from ezxmc_ray.tables import PREDICTIONS_SCHEMA
from ezxmc_ray.tagging import files
from ezxmc_ray.tagging.tagger import Tagger
from tests.conftest import Ezxmc


class FakeTagger:
    """Answers each text with its own words as labels, none for "nothing", and says that one text a call was cut."""

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
