"""A folder of tags: one command at a time writes to it, and to files of its own. The pool of actors is simulated."""

from __future__ import annotations

import json
import threading
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ezxmc_ray.errors import UserError
from ezxmc_ray.leftovers import temporary_name
from ezxmc_ray.stages import tag_folder as stage
from ezxmc_ray.stages import tagged_files
from ezxmc_ray.stages.update_tags import update_folder
from ezxmc_ray.storage import Storage
from ezxmc_ray.tagging.files import tag_files
from ezxmc_ray.tagging.tagger import Tagger, open_settings
from tests.student.toy import LABELS
from tests.tagging.test_folder import tag_folder, worked_on, write

__all__ = ["worked_on"]  # a fixture


def lines(path: Path, *rows: dict[str, str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def test_ids_that_come_late_are_not_thrown_away(bundle: Path, tmp_path: Path, worked_on: list[str]) -> None:
    """Whether there are any is told by the first eight files."""
    for number in range(8):
        lines(tmp_path / f"in/{number}.jsonl", {"text": LABELS[number]})
    lines(tmp_path / "in/8.jsonl", {"id": "mine", "text": LABELS[8]})
    mixed = r"Some files of --input have a column 'id' and others have none: give all of them ids, or set prepare\.id_c"
    call = (str(bundle), [], [f"{tmp_path}/in"], f"{tmp_path}/out/", ".jsonl")
    for _ in range(2):
        with pytest.raises(UserError, match=mixed):
            tag_folder(*call)
        assert not (tmp_path / "out/8.jsonl.jsonl").exists()
    with pytest.raises(UserError, match=mixed):
        tag_files(Tagger.load(str(bundle)), [f"{tmp_path}/in"], f"{tmp_path}/tags.jsonl")
    assert not (tmp_path / "tags.jsonl").exists()
    lines(tmp_path / "in/8.jsonl", {"text": LABELS[8]})
    assert tag_folder(*call).documents == 9 and worked_on.count("0.jsonl.jsonl") == 1


def test_a_second_command_on_a_folder_is_refused(
    bundle: Path, tmp_path: Path, worked_on: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / "in/a.jsonl", LABELS[0])
    write(tmp_path / "in/b.jsonl", LABELS[1])
    call = (str(bundle), [], [f"{tmp_path}/in"], f"{tmp_path}/out/", ".jsonl")
    work = vars(stage)["map_items"]

    def map_items(items: list[dict[str, str]], *others: object) -> object:
        with pytest.raises(UserError, match=r"out/ is in use by another ezxmc command \(process \d+ on .*\); wait"):
            tag_folder(*call)
        yield from work(items[:1], *others)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(stage, "map_items", map_items)
        tag_folder(*call)
    assert tag_folder(*call).documents == 2 and worked_on == ["a.jsonl.jsonl", "b.jsonl.jsonl"]
    assert {path.name for path in (tmp_path / "out").iterdir()} == {*worked_on, ".tagged", ".tagged-by"}


def test_a_file_that_is_not_ours_is_not_replaced(bundle: Path, tmp_path: Path, worked_on: list[str]) -> None:
    write(tmp_path / "in/a.jsonl", LABELS[0])
    (tmp_path / "out").mkdir()
    (tmp_path / "out/a.jsonl.csv").write_text("mine")
    call = (str(bundle), [], [f"{tmp_path}/in"], f"{tmp_path}/out/", ".csv")
    with pytest.raises(UserError, match=r"out/a\.jsonl\.csv is there, and would be replaced, though no note says that"):
        tag_folder(*call)
    assert (tmp_path / "out/a.jsonl.csv").read_text() == "mine" and not worked_on
    (tmp_path / "out/a.jsonl.csv").unlink()
    tag_folder(*call)
    (tmp_path / "out/.tagged/a.jsonl.csv.json").write_text("{")
    assert tag_folder(*call).documents == 1
    for name in "bc":
        write(tmp_path / f"in/{name}.jsonl", LABELS[1])
        (tmp_path / f"out/{name}.jsonl.csv.rejected.parquet").write_text("mine")
    with pytest.raises(
        UserError, match=r"out/b\.jsonl\.csv\.rejected\.parquet is there, .* \(files like it: 2\): move"
    ):
        tag_folder(*call)
    assert (tmp_path / "out/c.jsonl.csv.rejected.parquet").read_text() == "mine" and len(worked_on) == 2


def test_a_file_of_an_older_version_that_was_stopped_is_known_again(
    bundle: Path, tmp_path: Path, worked_on: list[str]
) -> None:
    """It removed the note of a file's tags when it began to replace them; --rerank left that of the candidates."""
    write(tmp_path / "in/a/one.jsonl", LABELS[0])
    write(tmp_path / "in/b/two.jsonl", LABELS[1])
    call = (str(bundle), [], [f"{tmp_path}/in"], f"{tmp_path}/out/", ".csv")
    tag_folder(*call)
    notes = tmp_path / "out/.tagged/a/one.jsonl.csv.json", tmp_path / "out/.rerank/proposed/00003/a/one.jsonl.csv.json"
    notes[1].parent.mkdir(parents=True)
    notes[0].rename(notes[1])
    told = json.loads(notes[1].read_text())
    notes[1].write_text(json.dumps({key: value for key, value in told.items() if key not in ("bytes", "tags")}))
    assert tag_folder(*call).documents == 2
    assert worked_on == ["a/one.jsonl.csv", "b/two.jsonl.csv", "a/one.jsonl.csv"]
    assert notes[0].exists()


def test_a_folder_is_listed_once_before_and_once_after(
    bundle: Path, tmp_path: Path, worked_on: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / "in/a.jsonl", LABELS[0])
    call = (str(bundle), [], [f"{tmp_path}/in"], f"{tmp_path}/out/", ".csv")
    tag_folder(*call)
    real, listed = Storage.sizes, list[str]()

    def sizes(self: Storage, relative: str = "", recursive: bool = False) -> dict[str, int]:
        if self.path() == str(tmp_path / "out") and recursive:
            listed.append(self.path(relative))
        return real(self, relative, recursive)

    monkeypatch.setattr(Storage, "sizes", sizes)
    settings = open_settings(str(bundle), [])[1]
    update_folder(str(bundle), [], settings, *call[2:])
    assert len(listed) == 1  # all is done
    write(tmp_path / "in/a.jsonl", LABELS[1])
    update_folder(str(bundle), [], settings, *call[2:])
    assert len(listed) == 3 and len(worked_on) == 2


@pytest.mark.parametrize("name", ["write_rejected", "note_done"])
def test_a_command_that_was_killed_knows_its_file_again(
    bundle: Path, tmp_path: Path, worked_on: list[str], monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """Before the note of its tags was there."""
    write(tmp_path / "in/a.jsonl", LABELS[0])
    call = (str(bundle), [], [f"{tmp_path}/in"], f"{tmp_path}/out/", ".csv")

    def stop(*arguments: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(stage, name, stop)
        tag_folder(*call)
    assert (tmp_path / "out/a.jsonl.csv").exists()
    write(tmp_path / "other/a.jsonl", LABELS[0])
    with pytest.raises(UserError, match=r"holds the tags of .*in/a\.jsonl, which those of .*other/a\.jsonl would"):
        tag_folder(*call[:2], [f"{tmp_path}/other"], *call[3:])
    assert tag_folder(*call).documents == 1 and worked_on == ["a.jsonl.csv"] * 2
    assert tag_folder(*call).documents == 1 and len(worked_on) == 2


@pytest.fixture
def in_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory, with a file of documents, in/a.jsonl."""
    write(tmp_path / "in/a.jsonl", LABELS[0])
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("pattern", "out", "ending"),
    [
        ("in/*.jsonl", "in/", ".jsonl"),
        ("**/*.jsonl", "tags/", ".jsonl"),
        ("in/**", "in/tags/", ".parquet"),
        ("in/*", "in/tags/", ".csv"),  # a folder by its name, and so what is below it
        ("in*/**/*.jsonl", "in1/tags/", ".jsonl"),
        ("in/a.json[l]*", "link/", ".parquet"),
        ("in/**/*.*", "in/", ".csv"),
    ],
)
def test_tags_are_not_among_what_a_pattern_names(
    bundle: Path, worked_on: list[str], in_folder: Path, pattern: str, out: str, ending: str
) -> None:
    (in_folder / "link").symlink_to(in_folder / "in")
    for one in (pattern, str(in_folder / pattern)):
        with pytest.raises(UserError, match=rf"--output {out} is to hold a.jsonl{ending}, which .* names too, so the "):
            tag_folder(str(bundle), [], [one], out, ending)
    assert not worked_on


def test_bad_rows_are_not_among_what_a_pattern_names(bundle: Path, tmp_path: Path, worked_on: list[str]) -> None:
    (tmp_path / "in").mkdir()
    pq.write_table(pa.table({"id": ["a"], "text": [LABELS[0]]}), tmp_path / "in/a.parquet")
    with pytest.raises(UserError, match=r"is to hold a\.parquet\.csv\.rejected\.parquet, which .* names too"):
        tag_folder(str(bundle), [], [f"{tmp_path}/in/*.parquet"], f"{tmp_path}/in/", ".csv")
    assert not worked_on


@pytest.mark.parametrize(
    ("pattern", "out", "ending"),
    [
        ("**/*.jsonl", "tags/", ".parquet"),
        ("in/*.jsonl", "in/", ".parquet"),
        ("in/*.jsonl", "in/tags/", ".jsonl"),
        ("in/**", ".tags/", ".jsonl"),
        ("in/**", "in/.tags/", ".jsonl"),  # which no pattern without its dot finds
    ],
)
def test_tags_that_a_pattern_does_not_name_are_fine(
    bundle: Path, worked_on: list[str], in_folder: Path, pattern: str, out: str, ending: str
) -> None:
    for _ in range(2):
        assert tag_folder(str(bundle), [], [pattern], out, ending).documents == 1
    assert worked_on == [f"a.jsonl{ending}"]


def test_a_folder_beside_what_a_pattern_names_is_fine(bundle: Path, tmp_path: Path, worked_on: list[str]) -> None:
    write(tmp_path / "in/a.jsonl", LABELS[0])
    tag_folder(str(bundle), [], [f"{tmp_path}/in/*.jsonl"], f"{tmp_path}/in/tags/", ".parquet")
    tag_folder(str(bundle), [], [f"{tmp_path}/in/a.jsonl"], f"{tmp_path}/in/", ".parquet")
    assert len(worked_on) == 2


def test_a_new_file_with_other_columns_has_only_itself_tagged(
    bundle: Path, tmp_path: Path, worked_on: list[str]
) -> None:
    call = (str(bundle), [], [f"{tmp_path}/in"], f"{tmp_path}/out/", ".csv")
    lines(tmp_path / "in/2.jsonl", {"id": "2", "title": "", "text": LABELS[2]})
    tag_folder(*call)
    lines(tmp_path / "in/1.jsonl", {"text": LABELS[1], "id": "1", "note": "x"})
    assert tag_folder(*call).documents == 2
    assert worked_on == ["2.jsonl.csv", "1.jsonl.csv"]


def test_notes_are_read_at_once(
    bundle: Path, tmp_path: Path, worked_on: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(4):
        write(tmp_path / f"in/{number}.jsonl", LABELS[number])
    call = (str(bundle), [], [f"{tmp_path}/in"], f"{tmp_path}/out/", ".csv")
    tag_folder(*call)
    both, real = threading.Barrier(2, timeout=10), tagged_files.read_note

    def read_note(storage: Storage, note: str) -> dict[str, object]:
        both.wait()
        return real(storage, note)

    monkeypatch.setattr(tagged_files, "read_note", read_note)
    assert tag_folder(*call).documents == 4 and len(worked_on) == 4


def test_a_file_whose_name_is_like_a_temporary_one_is_tagged(
    bundle: Path, tmp_path: Path, worked_on: list[str]
) -> None:
    write(tmp_path / "in/x.tmp-1.jsonl", LABELS[0])
    write(tmp_path / "in/y.tmp-2/a.jsonl", LABELS[1])
    call = (str(bundle), [], [f"{tmp_path}/in"], f"{tmp_path}/out/", ".csv")
    for _ in range(2):
        assert tag_folder(*call).documents == 2
    assert len(worked_on) == 2
    Path(temporary_name(str(tmp_path / "out/x.csv"))).write_text("half")
    files = Storage(str(tmp_path / "out")).sizes(recursive=True)
    assert sorted(name for name in files if not name.startswith(".")) == ["x.tmp-1.jsonl.csv", "y.tmp-2/a.jsonl.csv"]
