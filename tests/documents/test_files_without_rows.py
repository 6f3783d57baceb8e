"""A file without rows is told of, or refused where it was cut off: it holds less than somebody thinks. So does a
directory of files that are not there yet, or that are not read."""

from __future__ import annotations

import gzip
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from ezxmc_ray.config import Config, PrepareConfig
from ezxmc_ray.documents.label_files import read_label_files, read_label_ids
from ezxmc_ray.documents.xmc import find_xmc_sources
from ezxmc_ray.errors import UserError
from tests.documents.conftest import LABELS, Folder

END = "; if rows were to be there, write or copy them anew"


@pytest.mark.parametrize("ending", [".gz", ".zst", ".bz2"])
def test_a_compressed_file_of_no_bytes_was_cut_off(folder: Folder, ending: str) -> None:
    folder.write("d/p-0.jsonl", [{"id": "p", "text": "x"}])
    folder.write(f"d/p-1.jsonl{ending}", b"")
    kind = {".gz": "gzip", ".zst": "zstd", ".bz2": "bz2"}[ending]
    told = f"has 0 bytes, which no file in {kind} has: it was cut off; write or copy it anew, or remove it."
    assert folder.refused("d") == f"…/d/p-1.jsonl{ending} {told}"
    labels = folder.write(f"l.csv{ending}", b"")
    assert folder.refused("d/p-0.jsonl", labels=[f"{folder.path}/labels.jsonl", labels]) == f"…/l.csv{ending} {told}"
    for name in ("lbl.json", "trn.json"):
        folder.write(f"x/{name}", json.dumps({"uid": "1", "title": "a", "content": "b", "target_ind": [0]}))
    folder.write(f"x/filter_labels_train.txt{ending}", b"")
    with pytest.raises(UserError, match=rf"x/filter_labels_train\.txt\{ending} has 0 bytes"):
        find_xmc_sources(str(folder.path / "x"))


def test_files_of_documents_without_rows_are_told(folder: Folder) -> None:
    folder.write("d/a.jsonl", [{"id": "p", "text": "x"}])
    folder.write("d/b.csv", "id,text\n")
    folder.prepare("d", test_share=0, held_out_share=0)
    assert folder.said[2:] == [f"Warning: 1 file holds no row: {folder.path}/d/b.csv{END}"]
    folder.write("d/c.json", "[]")
    folder.write("d/e.parquet", pa.table({"id": pa.array([], pa.string()), "text": pa.array([], pa.string())}))
    folder.write("d/f.jsonl", " \n\n")
    folder.write("d/g.jsonl.gz", gzip.compress(b""))
    folder.write("d/h.csv", b"")
    folder.write("d/i.jsonl", b"{\n")  # a bad row, which is told as such
    folder.prepare("d", test_share=0, held_out_share=0, on_bad_rows="skip")
    first = ", ".join(f"{folder.path}/d/{name}" for name in ("b.csv", "c.json", "e.parquet"))
    assert folder.said[2] == f"Warning: 6 files hold no row: {first}, …{END}"
    assert folder.said[3].startswith("Warning: 1 bad row is left out (broken JSON 1), the first ")
    assert folder.details["read"] == folder.said


def test_files_behind_the_last_document_that_is_wanted_are_not_told(folder: Folder) -> None:
    """Whether they are read depends on who is quicker."""
    folder.write("d/a.jsonl", b"")
    folder.write("d/b.jsonl", [{"id": str(number), "text": f"x {number}"} for number in range(9)])
    folder.write("d/c.jsonl", b"")
    folder.prepare("d", test_share=0, held_out_share=0, limit_documents=3)
    assert folder.said[2:] == [f"Warning: 1 file holds no row: {folder.path}/d/a.jsonl{END}"]


def test_files_of_labels_without_rows_are_told(folder: Folder) -> None:
    folder.write("d.jsonl", [{"id": "p", "text": "x"}])
    folder.write("l/a.jsonl", LABELS)
    folder.write("l/b.csv", "id,text\n")
    more = folder.write("more.ttl", "@prefix skos: <http://www.w3.org/2004/02/skos/core#> .\n")
    folder.prepare("d.jsonl", labels=[f"{folder.path}/l", more], test_share=0, held_out_share=0)
    assert folder.said[2:] == [f"Warning: 2 files hold no row: {folder.path}/l/b.csv, {more}{END}"]


def test_an_empty_file_of_pairs_is_told(folder: Folder, sequential_prepare: Callable[..., Any]) -> None:
    row = {"uid": "1", "title": "a", "content": "b", "target_ind": [0]}
    for name in ("lbl.json", "trn.json"):
        folder.write(f"x/{name}", json.dumps(row))
    file = folder.write("x/filter_labels_train.txt", b"")
    where = str(folder.path / "x")
    sequential_prepare(Config(prepare=PrepareConfig(xmc_directory=where, test_share=0, held_out_share=0)))
    assert f"Warning: 1 file holds no row: {file}{END}" in folder.said


def test_files_of_ids_without_one_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("bees\n")
    (tmp_path / "b.txt").write_text("\n")
    files = [str(tmp_path / name) for name in ("a.txt", "b.txt")]
    with pytest.raises(UserError, match=rf"^There is no id in {files[1]}; give one a line"):
        read_label_ids(PrepareConfig(), files)
    assert read_label_ids(PrepareConfig(), files[:1]) == ["bees"]


@pytest.mark.parametrize("named", ["d", "d/*.jsonl", "**/*.jsonl", "d/b.jsonl"])
def test_a_link_to_what_is_not_there_is_refused(folder: Folder, named: str) -> None:
    """As git-annex and DVC have it in a clone, until the files are fetched."""
    folder.write("d/a.jsonl", [{"id": "p", "text": "x"}])
    (folder.path / "d/b.jsonl").symlink_to("/gone/b.jsonl")
    assert folder.refused(named) == (
        "…/d/b.jsonl is a link to /gone/b.jsonl, which is not there: fetch it (git annex get, dvc pull), or remove the "
        "link."
    )


def test_links_and_pipes_that_are_no_data_are_named_as_not_read(folder: Folder) -> None:
    folder.write("d/a.jsonl", [{"id": "p", "text": "x"}])
    (folder.path / "d/more").symlink_to("/gone/more")
    (folder.path / "d/.hidden.jsonl").symlink_to("/gone/more")
    os.mkfifo(folder.path / "d/c.jsonl")
    folder.prepare("d", test_share=0, held_out_share=0)
    assert folder.said[2].startswith("Files of the directories that are not read: c.jsonl, more (2 in all)")
    folder.prepare("d/*.jsonl", test_share=0, held_out_share=0)
    assert folder.said[2].startswith("Files of the directories that are not read: c.jsonl (1 in all)")


@pytest.mark.parametrize(
    "content", [b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\n", b"/annex/objects/S"]
)
@pytest.mark.parametrize("name", ["documents.txt", "documents.csv", "documents.jsonl", "documents.json"])
def test_a_pointer_is_no_file_of_documents(folder: Folder, name: str, content: bytes) -> None:
    folder.write(name, content)
    told = "only points to the file that it stands for: fetch that (git lfs pull, git annex get)."
    assert folder.refused(name) == f"…/{name} {told}"


def test_files_of_labels_that_a_command_does_not_read_are_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "l").mkdir()
    (tmp_path / "l/a.csv").write_text("id,text\nbees,Bees\n")
    (tmp_path / "l/b.txt").write_text("Taxes\n")
    told = "Files of the directories that are not read: b.txt (1 in all)"
    assert read_label_files(PrepareConfig(), [str(tmp_path / "l")]).notes[-1].startswith(told)
    assert read_label_ids(PrepareConfig(), [str(tmp_path / "l")]) == ["bees"]
    assert told in " ".join(capsys.readouterr().out.split())
