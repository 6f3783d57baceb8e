"""A folder of tags after its bundle's labels changed. The pool of actors is simulated: one worker in this process."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ezxmc_ray.cluster.pools import Pool
from ezxmc_ray.errors import UserError
from ezxmc_ray.progress import StageProgress
from ezxmc_ray.stages import tag_folder as tag_stage
from ezxmc_ray.stages import update_tags as stage
from ezxmc_ray.stages.tagged_files import TaggedFiles
from ezxmc_ray.storage import Storage
from ezxmc_ray.tagging.changes import add_labels, remove_labels, rename_labels
from ezxmc_ray.tagging.compaction import compact_labels
from ezxmc_ray.tagging.export import export_bundle
from ezxmc_ray.tagging.files import OUTPUTS, read_tags
from ezxmc_ray.tagging.tagger import open_settings
from ezxmc_ray.tagging.updating import Asked
from tests.conftest import Ezxmc
from tests.student.toy import LABELS
from tests.tagging.test_changes import DOCUMENTS, NEW
from tests.tagging.test_changes import write as write_rows

TOP = ["predict.top_k=3"]


@pytest.fixture(autouse=True)
def worked_on(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The files that the simulated pool was given."""
    files: list[str] = []

    def map_items(items: list[dict[str, Any]], worker: type, arguments: tuple[Any, ...], pool: Pool) -> Iterator[Any]:
        if items:
            one = worker(*arguments)
            for item in items:
                files.append(item["file"])
                yield one(item)

    monkeypatch.setattr(tag_stage, "map_items", map_items)
    monkeypatch.setattr(tag_stage, "encoder_pool", lambda gpus_per_actor: Pool(1, 1))
    progress = StageProgress("tag", "documents")
    monkeypatch.setattr(tag_stage, "watched", lambda given: contextlib.nullcontext(progress))
    return files


class Folder:
    """Documents in two files, and the folder of their tags."""

    def __init__(self, place: Path, where: str, ending: str = ".parquet") -> None:
        self.place, self.where, self.ending, self.knobs = place, where, ending, TOP
        self.write("one", DOCUMENTS)
        self.write("two", [*LABELS, "", "poem law"])

    def write(self, name: str, texts: list[str]) -> None:
        (self.place / "in").mkdir(exist_ok=True, parents=True)
        rows = [{"id": f"{name} {number}", "text": text} for number, text in enumerate(texts)]
        write_rows(self.place / f"in/{name}.jsonl", rows)

    def call(self, out: str = "out", knobs: list[str] | None = None) -> tuple[Any, ...]:
        knobs = self.knobs if knobs is None else knobs
        settings = open_settings(self.where, knobs)[1]
        return self.where, knobs, settings, [str(self.place / "in")], f"{self.place / out}/", self.ending

    def tag(self, out: str = "out") -> Any:
        return tag_stage.tag_folder(*self.call(out))

    def update(self, **other: Any) -> tuple[Any, Asked]:
        return stage.update_folder(*self.call(**other))

    def tags(self, out: str = "out") -> dict[str, list[Any]]:
        storage = Storage(str(self.place / out))
        return {name: list(read_tags(storage, f"{name}.jsonl{self.ending}")) for name in ("one", "two")}

    def check(self) -> None:
        """The tags are those that the labels of now give, with the notes that a plain call keeps."""
        shutil.rmtree(self.place / "anew", ignore_errors=True)
        counts = self.tag("anew")
        ours, anew = self.tags(), self.tags("anew")
        for name, rows in anew.items():
            assert [row[:2] for row in ours[name]] == [row[:2] for row in rows]
            for (_, _, scores), (_, _, expected) in zip(ours[name], rows, strict=True):
                assert scores == pytest.approx(expected, abs=1e-5)
        assert self.tag() == counts


def change(where: str, file: Path) -> None:
    """Labels come, go and are called otherwise."""
    add_labels(where, [write_rows(file, NEW)])
    remove_labels(where, [write_rows(file, [{"id": "id salt"}])])
    rename_labels(where, [write_rows(file, [{"id": "id wheel", "text": "garden"}])])


@pytest.mark.parametrize("ending", OUTPUTS)
def test_a_folder_is_as_if_it_were_tagged_anew(copy: Path, tmp_path: Path, ending: str, worked_on: list[str]) -> None:
    folder = Folder(tmp_path, str(copy), ending)
    counts = folder.tag()
    change(folder.where, tmp_path / "labels.jsonl")
    folder.write("three", ["poem law"])  # was never tagged
    del worked_on[:]
    now, asked = folder.update()
    assert sorted(worked_on) == [f"{name}.jsonl{ending}" for name in ("one", "three", "two")]
    assert now.documents == counts.documents + 1 == asked.all + asked.new + asked.none
    assert 0 < asked.all < now.documents and asked.new > 0
    assert (now.truncated, now.rejected, now.without_text) == (counts.truncated, 1, counts.without_text)
    folder.check()
    del worked_on[:]
    assert folder.update() == (now, Asked()) and not worked_on
    add_labels(folder.where, [write_rows(tmp_path / "labels.jsonl", [{"id": "new 3", "text": "law poem"}])])
    assert folder.update()[1].new > 0
    folder.check()


@pytest.mark.parametrize("writes", range(8))
def test_a_kill_at_any_write_leaves_whole_files(
    copy: Path, tmp_path: Path, writes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Simulated: the command ends before it has written once more. Given again, it ends as it would have."""
    folder = Folder(tmp_path, str(copy))
    folder.tag()
    old = folder.tags()
    change(folder.where, tmp_path / "labels.jsonl")
    folder.tag("anew")
    anew, real, begun, done = folder.tags("anew"), Storage._commit, list[str](), list[str]()

    @contextlib.contextmanager
    def simulated_kill(storage: Storage, relative: str) -> Iterator[str]:
        if not relative.startswith((".probe", ".owner")):
            if len(begun) == writes:
                raise KeyboardInterrupt
            begun.append(relative)
        with real(storage, relative) as temporary:
            yield temporary
        done.append(relative)

    with monkeypatch.context() as patch:
        patch.setattr(Storage, "_commit", simulated_kill)
        with contextlib.suppress(KeyboardInterrupt):
            folder.update()
    names = ["one.jsonl.parquet", "two.jsonl.parquet"]
    written = [name for one in names for name in (one, *[f".tagged/{one}.json"] * 2)]
    written.insert(5, "two.jsonl.parquet.rejected.parquet")
    assert begun[1:] == written[: len(begun[1:])] and len(begun) == min(writes, 8)
    labels = {name: [row[:2] for row in rows] for name, rows in folder.tags().items()}
    for name, file in zip(("one", "two"), names, strict=True):
        assert labels[name] == [row[:2] for row in (anew if file in done else old)[name]] and old[name] != anew[name]
    folder.update()
    folder.check()


def test_what_cannot_be_brought_up_to_date_is_refused(run: str, copy: Path, tmp_path: Path) -> None:
    folder, labels = Folder(tmp_path, str(copy)), tmp_path / "labels.jsonl"
    with pytest.raises(UserError, match=r"out/ has no tags of these documents in files that end in \.parquet: n"):
        folder.update()
    assert not (tmp_path / "out").exists()
    folder.tag()
    before = Storage(str(tmp_path / "out")).sizes(recursive=True)
    with pytest.raises(UserError, match=r"one\.jsonl\.parquet was made with other settings \(predict.top_k: 3 -> 2\)"):
        folder.update(knobs=["predict.top_k=2"])
    with pytest.raises(UserError, match=r"other settings \(min_score: -1.0 -> 0.5, predict.min_score: -1.0 -> 0.5\)"):
        folder.update(knobs=[*TOP, "predict.min_score=0.5"])
    export_bundle(run, str(tmp_path / "torch"), "torch")
    folder.where = str(tmp_path / "torch")
    with pytest.raises(UserError, match=r"other settings \(encoder_folder: 'encoder' -> 'student', "):
        folder.update()
    folder.where = str(copy)
    change(folder.where, labels)
    compact_labels(folder.where)
    with pytest.raises(UserError, match=r"of another export, or of one whose parts were made one since"):
        folder.update()
    assert Storage(str(tmp_path / "out")).sizes(recursive=True) == before
    shutil.rmtree(tmp_path / "out/.tagged-by")  # as folders are that earlier versions wrote
    with pytest.raises(UserError, match=r"It is not noted which labels there were when .*one.jsonl.parquet was made"):
        folder.update()


def test_other_documents_under_the_same_name_are_noticed(copy: Path, tmp_path: Path) -> None:
    folder, labels = Folder(tmp_path, str(copy)), tmp_path / "labels.jsonl"
    folder.tag()
    change(folder.where, labels)
    storage = Storage(str(tmp_path / "out"))
    for note in (".tagged/one.jsonl.parquet.json", ".tagged/two.jsonl.parquet.json"):  # as after a kill before the last
        storage.write_note(note, {"source": storage.read_note(note)["source"][:1]})
    assert folder.update()[1].all == len(DOCUMENTS) + len(LABELS) + 1
    folder.write("one", DOCUMENTS[::-1])  # a file that changed is tagged by all labels
    assert folder.update()[1].all >= len(DOCUMENTS)
    folder.check()
    add_labels(folder.where, [write_rows(labels, [{"id": "new 3", "text": "law poem"}])])
    one, two = (storage.read_note(f".tagged/{name}.jsonl.parquet.json") for name in ("one", "two"))
    shutil.copy(tmp_path / "out/two.jsonl.parquet", tmp_path / "out/one.jsonl.parquet")
    same = {name: two[name] for name in ("bytes", "tags")}
    storage.write_note(".tagged/one.jsonl.parquet.json", one | same)
    with pytest.raises(UserError, match="where the document 'one 0' comes, the tags have 'two 0': tag them anew"):
        folder.update()


def test_tags_that_a_teacher_judged_are_refused(copy: Path, tmp_path: Path) -> None:
    """Simulated: notes as stages/rerank.py writes them."""
    folder, storage = Folder(tmp_path, str(copy)), Storage(str(tmp_path / "out"))
    folder.tag()
    files = TaggedFiles.find(*folder.call()[2:]).which_depend_on(["rerank", "key"])
    files.note_made_by(storage)
    for note in (".tagged/one.jsonl.parquet.json", ".tagged/two.jsonl.parquet.json"):
        storage.write_note(note, storage.read_note(note) | {"made_by": files.made_by})
    with pytest.raises(UserError, match=r"The labels in .*one\.jsonl\.parquet are those that a teacher said yes to"):
        folder.update()


def test_labels_that_change_while_the_command_begins_are_noticed(copy: Path, tmp_path: Path) -> None:
    folder = Folder(tmp_path, str(copy))
    call = folder.call()
    change(folder.where, tmp_path / "labels.jsonl")
    with pytest.raises(UserError, match=r"copy was changed since the command began: give it again"):
        tag_stage.tag_folder(*call)


def test_the_command_says_what_it_needs(run: str, copy: Path, tmp_path: Path, ezxmc: Ezxmc) -> None:
    documents = write_rows(tmp_path / "a.jsonl", [{"id": "1", "text": "law"}])
    for words, sentence in (
        (["--output", "out/"], "--new-labels brings the tags in a folder up to date, which hold no texts"),
        (["--input", documents, "--output", "out.parquet"], "give the folder by --output FOLDER/"),
        (["--input", documents, "--output", "out/", "--rerank"], "--rerank the teacher too: give one of them"),
    ):
        done = ezxmc("tag", str(copy), "--new-labels", *words)
        assert done.returncode == 2 and sentence in done.stderr
    done = ezxmc("tag", run, "--new-labels", "--input", documents, "--output", f"{tmp_path}/out/")
    assert done.returncode == 2 and "is a run, whose labels are those of its configuration" in done.stderr


@pytest.mark.parametrize("ending", OUTPUTS)
def test_tags_that_are_damaged_are_made_anew(copy: Path, tmp_path: Path, ending: str) -> None:
    folder = Folder(tmp_path, str(copy), ending)
    folder.tag()
    add_labels(folder.where, [write_rows(tmp_path / "labels.jsonl", NEW)])
    tags = tmp_path / f"out/one.jsonl{ending}"
    whole, notes = tags.read_bytes(), tmp_path / "out/.tagged"
    note = (notes / f"one.jsonl{ending}.json").read_bytes()
    for place in range(0, len(whole), len(whole) // 12):
        damaged = bytearray(whole)
        damaged[place] ^= 1
        tags.write_bytes(damaged)
        (notes / f"one.jsonl{ending}.json").write_bytes(note)
        _, asked = folder.update()
        assert asked.all >= len(DOCUMENTS)
        folder.check()


def test_the_same_changes_in_another_order_are_other_labels(copy: Path, tmp_path: Path) -> None:
    """Words weigh by what was there when labels came, so scores of then are not those of now."""
    folder, backup = Folder(tmp_path, str(copy)), tmp_path / "backup"
    new, gone = (tmp_path / name for name in ("new.jsonl", "gone.jsonl"))
    write_rows(new, NEW)
    write_rows(gone, [{"id": "id wheel"}])
    shutil.copytree(copy, backup)
    add_labels(folder.where, [str(new)])
    folder.tag()
    shutil.rmtree(copy)
    shutil.copytree(backup, copy)
    remove_labels(folder.where, [str(gone)])
    add_labels(folder.where, [str(new)])
    with pytest.raises(UserError, match="are of another export"):
        folder.update()
    folder.tag()
    folder.check()
