"""Many files tagged into a folder, what is done kept. The pool of actors is simulated: one worker in this process."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from ezxmc_ray.cluster.pools import Pool
from ezxmc_ray.errors import UserError
from ezxmc_ray.progress import StageProgress
from ezxmc_ray.stages import tag_folder as stage
from ezxmc_ray.stages.tagged_files import what_counts
from ezxmc_ray.storage import CHECKSUM
from ezxmc_ray.tagging.files import TagCounts
from ezxmc_ray.tagging.tagger import Tagger, open_settings
from tests.student.toy import LABELS


@pytest.fixture
def worked_on(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The files that the simulated pool was given; it stops before one that is called STOP."""
    files: list[str] = []

    def map_items(items: list[dict[str, Any]], worker: type, arguments: tuple[Any, ...], pool: Pool) -> Iterator[Any]:
        for item in items:
            if "STOP" in item["file"]:
                raise KeyboardInterrupt
            files.append(item["file"])
            yield worker(*arguments)(item)

    monkeypatch.setattr(stage, "map_items", map_items)
    monkeypatch.setattr(stage, "encoder_pool", lambda gpus_per_actor: Pool(1, 1, gpus_per_actor))
    monkeypatch.setattr(stage, "watched", lambda progress: contextlib.nullcontext(StageProgress("tag", "documents")))
    return files


def tag_folder(where: str, overrides: list[str], *call: Any) -> TagCounts:
    return stage.tag_folder(where, overrides, open_settings(where, overrides)[1], *call)


def write(path: Path, *texts: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps({"id": f"{path.stem} {text}", "text": text}) + "\n" for text in texts))


def test_each_file_has_its_tags_and_what_is_done_is_kept(bundle: Path, tmp_path: Path, worked_on: list[str]) -> None:
    write(tmp_path / "in/a/one.jsonl", *LABELS[:3])
    write(tmp_path / "in/b/one.jsonl", *LABELS[3:5], "")
    write(tmp_path / "in/b/STOP.jsonl", *LABELS[5:])
    out = tmp_path / "out"
    call = (str(bundle), ["predict.top_k=2"], [str(tmp_path / "in")], f"{out}/", ".parquet")
    with pytest.raises(KeyboardInterrupt):
        tag_folder(*call)
    assert worked_on == ["a/one.jsonl.parquet"]
    (tmp_path / "in/b/STOP.jsonl").rename(tmp_path / "in/b/two.jsonl")
    counts = tag_folder(*call)
    assert worked_on == ["a/one.jsonl.parquet", "b/one.jsonl.parquet", "b/two.jsonl.parquet"]
    assert (counts.documents, counts.labels, counts.rejected) == (10, 20, 1)
    tagger = Tagger.load(str(bundle), ["predict.top_k=2"])
    found = pq.read_table(out / "b/one.jsonl.parquet")
    assert found["id"].to_pylist() == [f"one {text}" for text in LABELS[3:5]]
    assert found["label_texts"].to_pylist() == [[one.text for one in row] for row in tagger.tag(LABELS[3:5])]
    assert pq.read_table(out / "b/one.jsonl.parquet.rejected.parquet").num_rows == 1

    assert tag_folder(*call) == counts and len(worked_on) == 3
    write(tmp_path / "in/a/one.jsonl", *LABELS[:2])
    (out / "b/two.jsonl.parquet").write_bytes(b"cut off")
    note = out / ".tagged/b/one.jsonl.parquet.json"
    note.write_text(note.read_text().replace('"rejected": 1', '"rejected": 0'))
    assert tag_folder(*call).documents == 9
    assert sorted(worked_on[3:]) == ["a/one.jsonl.parquet", "b/one.jsonl.parquet", "b/two.jsonl.parquet"]
    tag_folder(call[0], ["predict.top_k=1"], *call[2:])
    assert len(worked_on) == 9


def test_a_file_without_rows_has_tags_without_rows_and_is_told(
    bundle: Path, tmp_path: Path, worked_on: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    monkeypatch.setattr("ezxmc_ray.tagging.files.say", said.append)
    monkeypatch.setattr("ezxmc_ray.stages.tagged_files.say", said.append)
    write(tmp_path / "in/a.jsonl", LABELS[0])
    write(tmp_path / "in/b.jsonl")
    write(tmp_path / "in/c.txt")
    call = (str(bundle), ["predict.top_k=1"], [str(tmp_path / "in")], f"{tmp_path}/out/", ".parquet")
    for _ in range(2):  # the second time both are done
        assert tag_folder(*call).documents == 1
        assert said[0].startswith("Files of the directories that are not read: c.txt (1 in all)")
        assert said[-1].startswith(f"Warning: 1 file holds no row: {tmp_path}/in/b.jsonl; if")
        said.clear()
    assert worked_on == ["a.jsonl.parquet", "b.jsonl.parquet"]
    assert pq.read_table(tmp_path / "out/b.jsonl.parquet").num_rows == 0


def test_tags_of_other_files_are_not_replaced(bundle: Path, tmp_path: Path, worked_on: list[str]) -> None:
    for day in "12":
        write(tmp_path / f"day-{day}/part.jsonl", LABELS[int(day)])
    out = tmp_path / "out"
    tag_folder(str(bundle), [], [str(tmp_path / "day-1")], f"{out}/", ".jsonl")
    with pytest.raises(
        UserError, match=r"holds the tags of .*day-1/part.jsonl, which those of .*day-2/part.jsonl would"
    ):
        tag_folder(str(bundle), [], [str(tmp_path / "day-2")], f"{out}/", ".jsonl")
    with pytest.raises(UserError, match=r"--output .* lies in .*, whose files are tagged: name a folder elsewhere"):
        tag_folder(str(bundle), [], [str(tmp_path / "day-1")], f"{tmp_path}/day-1/tags/", ".jsonl")
    more = ["cluster.wait_s=7", "encoder.batch_tokens=512"]  # what makes no other tags
    tag_folder(str(bundle), more, [str(tmp_path / "day-1")], f"{out}/", ".jsonl")
    assert worked_on == ["part.jsonl.jsonl"]


def test_tags_on_a_disk_of_another_node_are_not_said_to_be_there(
    bundle: Path, tmp_path: Path, worked_on: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / "in/a.jsonl", *LABELS[:2])
    write(tmp_path / "in/b.jsonl", *LABELS[2:4])
    out, asked, work = tmp_path / "out", list[tuple[str, str]](), vars(stage)["map_items"]

    def elsewhere(*call: Any) -> Iterator[Any]:
        for done in work(*call):
            (out / worked_on[-1]).rename(tmp_path / f"disk-of-{worked_on[-1]}")
            yield done

    monkeypatch.setattr(stage, "check_seen", lambda what, storage: asked.append((what, storage.path())))
    monkeypatch.setattr(stage, "map_items", elsewhere)
    with pytest.raises(UserError, match=r"out/a\.jsonl\.csv was written and is not there \(2 of 2 files\)"):
        tag_folder(str(bundle), [], [str(tmp_path / "in")], f"{out}/", ".csv")
    assert asked == [("--output", str(out))]


def test_files_of_which_none_can_be_used_are_refused(bundle: Path, tmp_path: Path, worked_on: list[str]) -> None:
    write(tmp_path / "in/one.jsonl", "", " ")
    with pytest.raises(UserError, match=r"There is no usable document in .*one\.jsonl"):
        tag_folder(str(bundle), [], [str(tmp_path / "in")], str(tmp_path / "out"), ".csv")
    with pytest.raises(UserError, match="--input: there is no file"):
        tag_folder(str(bundle), [], [str(tmp_path / "gone")], str(tmp_path / "out"), ".csv")


def test_a_file_whose_texts_have_another_name_than_the_others_is_told(
    bundle: Path, tmp_path: Path, worked_on: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    for name in "ab":
        write(tmp_path / f"in/{name}.jsonl", *LABELS[:3])
    for name in "dc":
        (tmp_path / f"in/{name}.jsonl").write_text(json.dumps({"id": name, "title": "t", "body": "long"}) + "\n")
    call = (str(bundle), [], [str(tmp_path / "in")], f"{tmp_path}/out/", ".parquet")
    told = (
        f"Warning: {tmp_path}/in/c.jsonl has body instead of 'text', which alone prepare.text_column names: give the "
        "column one name in all rows and files."
    )
    for _ in range(2):  # also where all of it was done before
        tag_folder(*call)
        assert told in " ".join(capsys.readouterr().out.split())
    assert len(worked_on) == 4


def test_tags_stay_in_their_folder_however_the_files_are_named(
    bundle: Path, tmp_path: Path, worked_on: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Names that lead up and out of here, or are absolute, are those of the same files."""
    write(tmp_path / "here/new.jsonl", *LABELS[:2])
    write(tmp_path / "archive/old.jsonl", *LABELS[2:4])
    monkeypatch.chdir(tmp_path / "here")
    inputs = ["../archive/old.jsonl", "new.jsonl"]
    assert tag_folder(str(bundle), [], inputs, "tags/", ".parquet").documents == 4
    made = {str(file.relative_to(tmp_path)) for file in tmp_path.rglob("*.parquet") if file.is_file()}
    assert made == {"here/tags/archive/old.jsonl.parquet", "here/tags/here/new.jsonl.parquet"}
    assert tag_folder(str(bundle), [], inputs, "tags/", ".parquet").documents == 4 and len(worked_on) == 2
    both = [*inputs, str(tmp_path / "archive")]
    assert tag_folder(str(bundle), [], both, "other/", ".parquet").documents == 4 and len(worked_on) == 4
    absolute = [str(tmp_path / "archive"), str(tmp_path / "here/new.jsonl")]
    assert tag_folder(str(bundle), [], absolute, "tags/", ".parquet").documents == 4 and len(worked_on) == 4


def test_ids_that_another_call_would_give_are_given_anew(bundle: Path, tmp_path: Path, worked_on: list[str]) -> None:
    """Rows without ids are called by their number, and by their file where there are several."""
    call = (str(bundle), ["predict.top_k=1"], [f"{tmp_path}/in"], f"{tmp_path}/out/", ".csv")
    (tmp_path / "in").mkdir()
    (tmp_path / "in/a.csv").write_text(f"text\n{LABELS[0]}\n")
    tag_folder(*call)
    assert (tmp_path / "out/a.csv.csv").read_text().splitlines()[1].startswith("0,")
    (tmp_path / "in/b.csv").write_text(f"text\n{LABELS[1]}\n")
    tag_folder(*call)
    assert worked_on == ["a.csv.csv", "a.csv.csv", "b.csv.csv"]
    ids = [(tmp_path / f"out/{name}.csv.csv").read_text().splitlines()[1].partition(",")[0] for name in "ab"]
    assert ids == ["a-0", "b-0"]
    assert tag_folder(*call).documents == 2 and len(worked_on) == 3


def test_the_folder_is_not_among_the_inputs_by_another_name(bundle: Path, tmp_path: Path, worked_on: list[str]) -> None:
    write(tmp_path / "in/one.jsonl", LABELS[0])
    (tmp_path / "link").symlink_to(tmp_path / "in")
    with pytest.raises(UserError, match=r"link/tags/ lies in .*/in, whose files are tagged"):
        tag_folder(str(bundle), [], [f"{tmp_path}/in"], f"{tmp_path}/link/tags/", ".parquet")


def test_actors_get_the_gpus_that_the_labels_need(run: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pools: list[Pool] = []
    monkeypatch.setattr(stage, "encoder_pool", lambda gpus_per_actor: Pool(1, 1, gpus_per_actor))
    monkeypatch.setattr(stage, "watched", lambda progress: contextlib.nullcontext(StageProgress("tag", "documents")))

    def map_items(items: list[Any], worker: type, arguments: tuple[Any, ...], pool: Pool) -> Iterator[Any]:
        pools.append(pool)
        raise KeyboardInterrupt

    monkeypatch.setattr(stage, "map_items", map_items)
    write(tmp_path / "in/one.jsonl", LABELS[0])
    with pytest.raises(KeyboardInterrupt):
        tag_folder(run, ["index.gpus_per_actor=2"], [f"{tmp_path}/in"], f"{tmp_path}/out/", ".csv")
    assert [pool.gpus for pool in pools] == [2]


def test_what_tags_depend_on_is_what_it_was(run: str, bundle: Path) -> None:
    """A knob that says where and how fast work is done is not to have millions of documents tagged anew."""
    assert what_counts(open_settings(run, ["index.gpu=false"])[1]) == what_counts(open_settings(run)[1])
    told = what_counts(open_settings(str(bundle))[1])
    assert told["cluster"] == {"address": None, "cpus": 0, "wait_s": 3600, "object_store_mib": 256}
    assert set(told) == {
        *("encoder", "lexical", "shards", "predict", "least_scores", "label_fingerprint", "gpu_dtype", "probability"),
        *("encoder_folder", "onnx", "prepare", "cluster", "added", "removed", "min_score"),
    }


def test_a_file_of_the_same_name_in_another_directory_is_another(
    bundle: Path, tmp_path: Path, worked_on: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """By size and time it may be the same: copies keep both."""
    for place, text in (("one", LABELS[0]), ("two", LABELS[0][::-1])):
        write(tmp_path / place / "day/a.jsonl", text)
        os.utime(tmp_path / place / "day/a.jsonl", (1_700_000_000, 1_700_000_000))
    call = (str(bundle), [], ["day/a.jsonl"], f"{tmp_path}/out/", ".jsonl")
    monkeypatch.chdir(tmp_path / "one")
    assert tag_folder(*call).documents == 1
    monkeypatch.chdir(tmp_path / "two")
    with pytest.raises(UserError, match=r"the tags of .*/one/day/a\.jsonl, which those of .*/two/day/a\.jsonl would"):
        tag_folder(*call)
    tag_folder(str(bundle), [], [f"{tmp_path}/one/day/a.jsonl"], *call[3:])
    assert worked_on == ["a.jsonl.jsonl"]  # kept: it is the file
    note = tmp_path / "out/.tagged/a.jsonl.jsonl.json"
    told = json.loads(note.read_text())
    del told["place"], told[CHECKSUM]
    note.write_text(json.dumps(told))  # as an older version noted it
    monkeypatch.chdir(tmp_path / "one")
    assert tag_folder(*call).documents == 1 and len(worked_on) == 1


def test_tags_of_files_that_have_moved_and_of_a_link_that_leads_elsewhere_now_are_made_anew(
    bundle: Path, tmp_path: Path, worked_on: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / "one/day/a.jsonl", LABELS[0])
    write(tmp_path / "next/a.jsonl", LABELS[1], LABELS[2])
    call = (str(bundle), [], ["day/a.jsonl"], f"{tmp_path}/out/", ".jsonl")
    monkeypatch.chdir(tmp_path / "one")
    tag_folder(*call)
    (tmp_path / "one").rename(tmp_path / "moved")
    monkeypatch.chdir(tmp_path / "moved")
    assert tag_folder(*call).documents == 1 and worked_on == ["a.jsonl.jsonl"]  # the same file: kept
    (tmp_path / "moved/link").symlink_to("day")
    call = (*call[:2], ["link/a.jsonl"], f"{tmp_path}/others/", ".jsonl")
    assert tag_folder(*call).documents == 1
    (tmp_path / "moved/link").unlink()
    (tmp_path / "moved/link").symlink_to(tmp_path / "next")
    assert tag_folder(*call).documents == 2 and len(worked_on) == 3


def test_a_folder_of_an_export_or_a_run_takes_no_tags(copy: Path, run: str, tmp_path: Path) -> None:
    write(tmp_path / "a.jsonl", LABELS[0])
    own = next(one for one in copy.iterdir() if one.is_dir())
    places = {copy: "in an export", own: "in an export", Path(run) / "predictions": "in the run directory"}
    for folder, why in places.items():
        with pytest.raises(UserError, match=rf"--output .* lies {why}"):
            tag_folder(str(copy), [], [f"{tmp_path}/a.jsonl"], f"{folder}/", ".jsonl")
