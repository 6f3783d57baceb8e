"""What is refused before Ray is started: inputs that lack what the configuration names."""

from __future__ import annotations

from pathlib import Path

import pytest
from pyarrow import fs

from ezxmc_ray import layout
from ezxmc_ray.checks import check_apart, check_free, check_inputs, check_shared
from ezxmc_ray.config import ClusterConfig, Config, PrepareConfig
from ezxmc_ray.documents.documents import DocumentSource
from ezxmc_ray.documents.inputs import Inputs, find_inputs
from ezxmc_ray.documents.sources import Source
from ezxmc_ray.errors import UserError
from ezxmc_ray.integrity import signed
from ezxmc_ray.storage import Storage


def _check(folder: Path, documents: str, **knobs: str) -> None:
    (folder / "documents.csv").write_text(documents)
    (folder / "labels.csv").write_text("id,text\na,A\n")
    paths = {"documents": [f"{folder}/documents.csv"], "labels": [f"{folder}/labels.csv"]}
    check_inputs(Config(prepare=PrepareConfig(**(paths | knobs))))


def test_rows_without_ids_are_no_mistake(tmp_path: Path) -> None:
    _check(tmp_path, "text\none\n")
    with pytest.raises(UserError, match=r"has a column .key. \(prepare.id_column\)"):
        _check(tmp_path, "text\none\n", id_column="key")


def test_a_named_column_that_is_not_there_is_told_before_ray_starts(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"No file of prepare.documents has a column 'tags' \(prepare.labels_column\)"):
        _check(tmp_path, "id,text\n1,one\n", labels_column="tags")
    with pytest.raises(UserError, match="has no column 'name'"):
        _check(tmp_path, "id,text\n1,one\n", label_text_column="name")


def test_a_vocabulary_is_not_read_twice(tmp_path: Path) -> None:
    (tmp_path / "v.ttl").write_text("this is no Turtle; only prepare reads it")
    _check(tmp_path, "id,text\n1,one\n", labels=[f"{tmp_path}/v.ttl"])  # type: ignore[arg-type]


def _apart(run: Path, documents: Path, labels: Path) -> None:
    for file in (documents, labels):
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("id,text\na,A\n")
    config = Config(run=str(run), prepare=PrepareConfig(documents=[str(documents)], labels=[str(labels)]))
    check_apart(config, find_inputs(config.prepare))


def test_inputs_where_the_run_writes_are_refused_before_they_are_replaced(tmp_path: Path) -> None:
    run, outside = tmp_path / "run", tmp_path / "in.csv"
    _apart(run, run / "input" / "documents.csv", outside)
    _apart(run, outside, run / "my-labels.csv")
    with pytest.raises(UserError, match=r"documents\.csv lies in the run directory under a name that the run writes"):
        _apart(run, run / "documents" / "documents.csv", outside)
    with pytest.raises(UserError, match=r"labels\.csv lies in the run directory"):
        _apart(run, outside, run / "cycle-0" / "labels.csv")
    (tmp_path / "link").symlink_to(run)
    with pytest.raises(UserError, match=r"documents\.csv lies in the run directory"):
        _apart(tmp_path / "link", run / "documents" / "documents.csv", outside)


def test_inputs_on_an_object_store_are_refused_whatever_it_was_opened_with(tmp_path: Path) -> None:
    """No request: the run's S3 file system has an option of ours, and that of the inputs has not."""
    source = Source("d.jsonl", "bucket/run/documents/d.jsonl", fs.S3FileSystem(region="us-east-1"), "jsonl", None, 0, 0)
    inputs = Inputs([], [DocumentSource(source, "id", "title", "text", "labels", "split", ())])
    config = Config(run="s3://bucket/run?region=us-east-1")
    with pytest.raises(UserError, match="lies in the run directory"):
        check_apart(config, inputs)
    check_apart(Config(run="s3://bucket/other?region=us-east-1"), inputs)


def test_a_directory_with_folders_that_a_run_would_replace_is_refused(tmp_path: Path) -> None:
    storage = Storage(str(tmp_path))
    check_free(storage)
    storage.write_bytes("verdicts/key/teacher.json", b"{}")  # taken over from another run
    storage.write_bytes("config.yaml", b"run: .\n")
    storage.write_bytes("data/documents/a.csv", b"mine")
    check_free(storage)
    storage.write_bytes("rejected.parquet", b"of a first prepare that was refused")
    check_free(storage)
    storage.write_bytes("student/model.bin", b"mine")
    with pytest.raises(UserError, match="was not made by ezxmc, and holds student, which a run would replace"):
        check_free(storage)
    storage.write_bytes("config.yaml", signed("run: .\n"))
    check_free(storage)
    storage.write_bytes("config.yaml", b"run: .\n")  # whose first line somebody took out
    storage.write_json(layout.manifest("student"), {})
    check_free(storage)


def test_the_address_of_rays_client_is_refused_with_what_works(monkeypatch: pytest.MonkeyPatch) -> None:
    for address in ("host:6379", "[::1]:6379", "auto", "local", "platform://name"):
        check_shared(ClusterConfig(address=address), "run", "s3://bucket/run")
    with pytest.raises(UserError, match=r"^cluster\.address is 'ray://host:10001', of Ray's client, .* `ray job "):
        check_shared(ClusterConfig(address="ray://host:10001"), "run", "s3://bucket/run")
    monkeypatch.setenv("RAY_ADDRESS", "ray://host:10001")
    with pytest.raises(UserError, match=r"^RAY_ADDRESS is 'ray://host:10001', "):
        check_shared(ClusterConfig(), "run", "s3://bucket/run")
    with pytest.raises(UserError, match="give host:port, auto, or local for one on this machine"):
        check_shared(ClusterConfig(address="here"), "run", "s3://bucket/run")
