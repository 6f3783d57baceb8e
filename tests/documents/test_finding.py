"""Whether a pattern would find a file, told without looking: held against what it finds."""

from __future__ import annotations

from pathlib import Path

import pytest
from pyarrow import fs

from ezxmc_ray.documents.finding import _below, find_sources, is_glob, would_find
from ezxmc_ray.errors import UserError

FILES = ["a.jsonl", "in/a.jsonl", "in/b.csv", "in/deep/a.jsonl", "in/deep/er/b.csv", "in/.h/a.jsonl", "in/_u/a.jsonl"]
FILES += ["in/_a.jsonl", "in/.a.jsonl", "in2/a.jsonl", "in2/deep/b.csv"]
PATTERNS = ["*", "*.jsonl", "in/*", "in/*.jsonl", "in*/*.jsonl", "in?/**", "**", "**/*", "**/*.csv", "in/**", "in/**/*"]
PATTERNS += [
    "in/**/a.jsonl",
    "in/**/**/*.csv",
    "in/*/**",
    "in/*/a.jsonl",
    "in/.*",
    "in/.*/*",
    "in/_*",
    "**/_*/*",
    "i[n]/*",
]
PATTERNS += ["**/deep", "*/deep/*", "in/**/er/*", "none*/*", "link*/*.csv", "link/*", "link/**"]


@pytest.mark.parametrize("pattern", PATTERNS)
def test_a_pattern_would_find_what_it_finds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pattern: str) -> None:
    for name in FILES:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("{}\n")
    monkeypatch.chdir(tmp_path)
    if pattern.startswith("link/"):
        (tmp_path / "link").symlink_to("in")
    try:
        found = {str(Path(one.path).resolve()) for one in find_sources([pattern], "auto", "--input")}
    except UserError:  # there is none
        found = set()
    for one in (pattern, str(tmp_path / pattern)):
        assert {str(tmp_path / name) for name in FILES if would_find(one, str(tmp_path / name))} == found


def test_what_has_no_wildcard_is_no_pattern() -> None:
    assert not is_glob("in/a.jsonl") and not would_find("in", str(Path("in/a.jsonl").absolute()))
    assert would_find("/*/a.csv", "/in/a.csv") and would_find("/**", "/a.csv") and not would_find("/x*/**", "/a.csv")


def test_files_that_begin_with_an_underscore_are_named_and_marks_of_folders_are_not(tmp_path: Path) -> None:
    names = ["a.jsonl", "_b.jsonl", "_new/c.jsonl", "_new/d.txt", "_SUCCESS", "in/_committed_12", ".hidden.jsonl"]
    for name in [*names, "_new/.h.jsonl"]:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("{}\n")
    unread: list[str] = []
    for place in (str(tmp_path), f"file://{tmp_path}"):
        unread.clear()
        assert [one.path for one in find_sources([place], "auto", "--input", unread=unread)] == [f"{tmp_path}/a.jsonl"]
        found = sorted(one.rpartition(f"{tmp_path}/")[2] for one in unread)
        assert found == ["_b.jsonl", "_new/c.jsonl", "_new/d.txt"]


@pytest.mark.parametrize(("mark", "kind"), [("_delta_log/0.json", "Delta Lake"), (".hoodie/x.commit", "Hudi")])
def test_a_table_that_keeps_removed_rows_is_refused(tmp_path: Path, mark: str, kind: str) -> None:
    for name in ("in/t/part-0.jsonl", f"in/t/{mark}"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("{}\n")
    with pytest.raises(UserError, match=rf"{tmp_path}/in/t is a table of {kind}, whose files hold rows that are no"):
        find_sources([f"{tmp_path}/in"], "auto", "--input")
    assert len(find_sources([f"{tmp_path}/in/t/*.jsonl"], "auto", "--input")) == 1  # who names them has looked
    (tmp_path / "in/t").rename(tmp_path / "in/_old")  # of which nothing is read
    (tmp_path / "in/a.jsonl").write_text("{}\n")
    assert len(find_sources([f"{tmp_path}/in"], "auto", "--input")) == 1


def test_a_link_into_a_folder_that_is_not_read_is_followed(tmp_path: Path) -> None:
    (tmp_path / "_releases/v3").mkdir(parents=True)
    (tmp_path / "_releases/v3/a.jsonl").write_text("{}\n")
    (tmp_path / "current").symlink_to("_releases/v3")
    [found] = find_sources([str(tmp_path)], "auto", "--input")
    assert found.path == f"{tmp_path}/current/a.jsonl"


def test_an_object_stores_folders_are_told_apart_alike() -> None:
    """By paths alone, where one request lists all of them."""
    kept = ["a.jsonl", "_b.jsonl", "_old/t/_delta_log/0.json", ".trash/_delta_log/0.json", "in/c.jsonl"]
    store = SimulatedStore([*kept])
    found = [one.path.removeprefix("bucket/") for one in _below(store, "bucket", set())]
    assert found == ["a.jsonl", "_b.jsonl", "_old/t/_delta_log/0.json", "in/c.jsonl"]
    with pytest.raises(UserError, match="bucket/in/t is a table of Delta Lake"):
        list(_below(SimulatedStore([*kept, "in/t/_delta_log/0.json"]), "bucket", set()))


class SimulatedStore:
    """The listing of an object store."""

    def __init__(self, names: list[str]) -> None:
        self.names = names

    def get_file_info(self, selector: fs.FileSelector) -> list[fs.FileInfo]:
        assert selector.recursive
        return [fs.FileInfo(f"{selector.base_dir}/{name}", fs.FileType.File) for name in self.names]
