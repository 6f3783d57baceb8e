"""Finding files: what a pattern stands for, in which order, and what is said if it stands for nothing."""

from __future__ import annotations

import os
import pickle
from pathlib import Path

import fsspec
import pytest

from ezxmc_ray.documents.finding import find_sources
from ezxmc_ray.documents.sources import classify, read_lines
from ezxmc_ray.errors import UserError


def _touch(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"{}\n")


def _names(patterns: list[str], wanted_format: str = "auto") -> list[str]:
    return [source.name for source in find_sources(patterns, wanted_format, "prepare.documents")]


def test_files_are_sorted_and_each_is_there_once(tmp_path: Path) -> None:
    _touch(tmp_path, "b.jsonl", "a.jsonl", "c.csv")
    found = _names([f"{tmp_path}/b.jsonl", f"{tmp_path}/*.jsonl", f"{tmp_path}/c.csv"])
    assert found == [f"{tmp_path}/a.jsonl", f"{tmp_path}/b.jsonl", f"{tmp_path}/c.csv"]


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("*.jsonl", ["a.jsonl"]),
        ("**/*.jsonl", ["a.jsonl", "x/b.jsonl", "x/y/c.jsonl"]),
        ("**", ["a.jsonl", "x/b.jsonl", "x/y/c.jsonl", "x/y/d.csv.gz"]),
        ("x/?/[c]*", ["x/y/c.jsonl"]),
        ("x", ["x/b.jsonl", "x/y/c.jsonl", "x/y/d.csv.gz"]),
        ("[1] odd.jsonl", ["[1] odd.jsonl"]),
    ],
)
def test_globs_and_directories(tmp_path: Path, pattern: str, expected: list[str]) -> None:
    files = ["a.jsonl", "x/b.jsonl", "x/y/c.jsonl", "x/y/d.csv.gz", "x/_SUCCESS", "x/.hidden.jsonl", "x/README.md"]
    # In "**" everything is meant, so that a file that is no data would be an error: it is left out of that case.
    _touch(tmp_path, *(["[1] odd.jsonl"] if pattern.startswith("[1]") else files[:4] if pattern == "**" else files))
    assert _names([f"{tmp_path}/{pattern}"]) == [f"{tmp_path}/{name}" for name in expected]


def test_relative_paths_stay_relative_in_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _touch(tmp_path, "data/a.jsonl")
    monkeypatch.chdir(tmp_path)
    source = find_sources(["data/*"], "auto", "prepare.documents")[0]
    assert (source.name, source.path) == ("data/a.jsonl", f"{tmp_path}/data/a.jsonl")


def test_uris_are_read_like_paths(tmp_path: Path) -> None:
    _touch(tmp_path, "a.jsonl", "b.jsonl")
    assert _names([f"file://{tmp_path}/*.jsonl"]) == [f"file://{tmp_path}/a.jsonl", f"file://{tmp_path}/b.jsonl"]


def test_an_object_store_is_read_like_a_disk() -> None:
    with fsspec.filesystem("memory").open("/bucket/deep/a.jsonl", "wb") as file:
        file.write(b"one\ntwo\n")
    source = find_sources(["fsspec+memory:///bucket/*/*.jsonl"], "auto", "prepare.documents")[0]
    assert source.size == 8
    assert list(read_lines(pickle.loads(pickle.dumps(source)))) == [(1, b"one\n"), (2, b"two\n")]


def test_messages(tmp_path: Path) -> None:
    _touch(tmp_path, "a.txt", "empty/_SUCCESS")
    cases = {
        f"{tmp_path}/no.jsonl": f"prepare.documents: there is no file {tmp_path}/no.jsonl; give the path",
        f"{tmp_path}/*.csv": f"prepare.documents: there is no file {tmp_path}/*.csv; give the path",
        f"{tmp_path}/empty": f"prepare.documents: the directory {tmp_path}/empty holds no file that ends in .jsonl",
        f"{tmp_path}/no/*/deep": f"prepare.documents: there is no file {tmp_path}/no/*/deep; give the path",
        f"{tmp_path}/a.txt": f"The name of {tmp_path}/a.txt does not end in one of .jsonl, .json, .ndjson, .parquet",
        "bogus://bucket/a.jsonl": "bogus://bucket/a.jsonl cannot be opened: Unrecognized filesystem type",
    }
    for pattern, message in cases.items():
        with pytest.raises(UserError) as raised:
            _names([pattern])
        assert str(raised.value).startswith(message)
    with pytest.raises(UserError, match=r"^prepare\.documents is empty; set it to"):
        _names([])


def test_formats_and_compressions_go_by_the_name() -> None:
    assert classify("a/B.JSONL.GZ") == ("jsonl", "gzip")
    assert classify("a.csv.zst") == ("csv", "zstd")
    assert classify("a.json.bz2") == ("jsonl", "bz2")
    assert classify("a.parquet") == ("parquet", None)
    assert classify("a.txt.gz", "csv") == ("csv", "gzip")
    with pytest.raises(UserError, match=r"a\.parquet\.gz is a compressed Parquet file"):
        classify("a.parquet.gz")
    with pytest.raises(UserError, match="does not end in one of"):
        classify("a.jsonl.xz")


@pytest.mark.parametrize("pattern", ["", "**", "**/*.jsonl", "a/**"])
def test_links_that_lead_back_have_an_end(tmp_path: Path, pattern: str) -> None:
    _touch(tmp_path, "a/1.jsonl", "b/2.jsonl", "b/c/3.jsonl")
    for link, target in {
        "a/up": "..",
        "a/self": "../a",
        "b/a": "../a",
        "a/b": "../b",
        "b/c/top": "../..",
        "x": "x",
    }.items():
        (tmp_path / link).symlink_to(target)
    names = [Path(name).name for name in _names([f"{tmp_path}/{pattern}"])]
    assert sorted(names) == ["1.jsonl", "2.jsonl", "3.jsonl"]


def test_a_linked_file_or_folder_is_read(tmp_path: Path) -> None:
    _touch(tmp_path, "real/1.jsonl", "data/2.jsonl", "one.jsonl")
    (tmp_path / "data/linked").symlink_to("../real")
    (tmp_path / "data/three.jsonl").symlink_to("../one.jsonl")
    expected = [f"{tmp_path}/data/{name}" for name in ("2.jsonl", "linked/1.jsonl", "three.jsonl")]
    assert _names([f"{tmp_path}/data"]) == expected
    assert _names([f"{tmp_path}/data/**"]) == expected


def test_a_file_whose_name_is_not_utf8_is_a_sentence(tmp_path: Path) -> None:
    odd = os.fsencode(tmp_path) + b"/caf\xe9.jsonl"
    Path(os.fsdecode(odd)).write_text("{}\n")
    for pattern in (str(tmp_path), f"{tmp_path}/*.jsonl", os.fsdecode(odd)):
        with pytest.raises(UserError, match=r"cannot be listed: the name of a file there is not UTF-8; rename it\.$"):
            find_sources([pattern], "auto", "--input")


def test_a_file_that_is_named_in_two_ways_is_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.jsonl").write_text("{}\n")
    monkeypatch.chdir(tmp_path)
    patterns = ["a.jsonl", str(tmp_path), f"../{tmp_path.name}/a.jsonl"]
    for order in (patterns, patterns[::-1]):
        assert [one.path for one in find_sources(order, "auto", "--input")] == [str(tmp_path / "a.jsonl")]


@pytest.mark.parametrize("pattern", ["dd", "dd/*", "dd/**", "dd/*.jsonl"])
def test_a_file_and_links_to_it_are_one(tmp_path: Path, pattern: str) -> None:
    _touch(tmp_path, "dd/m.jsonl", "dd/z.jsonl")
    (tmp_path / "dd/latest.jsonl").symlink_to("m.jsonl")
    (tmp_path / "dd/zz.jsonl").symlink_to("latest.jsonl")
    assert _names([f"{tmp_path}/{pattern}"]) == [f"{tmp_path}/dd/m.jsonl", f"{tmp_path}/dd/z.jsonl"]


def test_a_file_has_its_own_name_whatever_is_found_first(tmp_path: Path) -> None:
    _touch(tmp_path, "real/1.jsonl", "real/sub/2.jsonl")
    (tmp_path / "by-link").symlink_to("real")
    (tmp_path / "one.jsonl").symlink_to("real/1.jsonl")
    (tmp_path / "two.jsonl").symlink_to("real/sub/2.jsonl")
    link, folder, real = f"{tmp_path}/one.jsonl", f"{tmp_path}/by-link/*.jsonl", f"{tmp_path}/real/1.jsonl"
    assert _names([link, folder, real]) == [real] == _names([real, folder, link])
    assert _names([link, folder]) == [f"{tmp_path}/by-link/1.jsonl"] == _names([folder, link])
    assert _names([link, f"file://{link}"]) == [link]
    assert _names([link, f"{tmp_path}/two.jsonl"]) == [link, f"{tmp_path}/two.jsonl"]


def test_a_link_that_says_a_split_of_a_file_that_says_none_is_refused(tmp_path: Path) -> None:
    _touch(tmp_path, "all/a.jsonl", "all/b.jsonl")
    for split, name in (("train", "a"), ("test", "b")):
        (tmp_path / split).mkdir()
        (tmp_path / split / f"{name}.jsonl").symlink_to(f"../all/{name}.jsonl")
    with pytest.raises(UserError, match=r"all/b\.jsonl and .*test/b\.jsonl, which are one file, and only one says"):
        _names([str(tmp_path)])
    assert len(_names([f"{tmp_path}/train", f"{tmp_path}/test"])) == 2


@pytest.mark.parametrize(
    "names", [("a.jsonl", "a.jsonl.gz"), ("a.csv.zst", "a.csv"), ("x/a.json.bz2", "x/a.json.gz"), ("a.csv", "a.csv.GZ")]
)
def test_a_file_beside_itself_compressed_is_refused(tmp_path: Path, names: tuple[str, str]) -> None:
    _touch(tmp_path, *names, "y/a.jsonl", "a.ndjson")
    first, second = sorted(f"{tmp_path}/{name}" for name in names)
    for patterns in ([str(tmp_path)], [f"{tmp_path}/**"], [second, first]):
        with pytest.raises(UserError) as raised:
            _names(patterns)
        assert str(raised.value) == (
            f"prepare.documents stands for {first} and {second}, which are the same thing by their names; name or keep "
            "one of them, or rename one if they are not."
        )
    for one in (first, second):
        assert _names([one, f"{tmp_path}/y"]) == sorted([one, f"{tmp_path}/y/a.jsonl"])


def test_what_a_link_stands_beside_is_refused_too(tmp_path: Path) -> None:
    _touch(tmp_path, "a.jsonl.gz", "sub/b.jsonl")
    (tmp_path / "a.jsonl").symlink_to("sub/b.jsonl")
    with pytest.raises(UserError, match=r"a\.jsonl and .*a\.jsonl\.gz, which are the same thing"):
        _names([str(tmp_path)])


def test_an_object_store_has_no_links_and_is_refused_the_same_thing_twice() -> None:
    memory = fsspec.filesystem("memory")
    for name in ("a.jsonl", "b.jsonl", "packed/a.jsonl", "packed/a.jsonl.gz"):
        memory.pipe(f"/once/{name}", b"{}\n")
    there = "fsspec+memory:///once"
    assert [one.rpartition("/")[2] for one in _names([f"{there}/*.jsonl", f"{there}/b.jsonl"])] == [
        "a.jsonl",
        "b.jsonl",
    ]
    with pytest.raises(UserError, match=r"packed/a\.jsonl and .*packed/a\.jsonl\.gz, which are the same thing"):
        _names([there])
