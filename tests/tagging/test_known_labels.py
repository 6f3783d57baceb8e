"""Labels that ``prepare`` replaces while a command reads the run are noticed: no label gets the id of another."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest

from ezxmc_ray import layout
from ezxmc_ray.context import open_context
from ezxmc_ray.errors import UserError
from ezxmc_ray.stages.new_labels import write_new_labels
from ezxmc_ray.stages.rerank_worker import ProposeWorker, copy_labels
from ezxmc_ray.stages.tagged_files import TaggedFiles, what_counts
from ezxmc_ray.storage import Storage, read_manifest, write_manifest
from ezxmc_ray.tagging import export, opening, tagger
from ezxmc_ray.tagging.export import export_bundle
from ezxmc_ray.tagging.opening import open_for_tagging
from ezxmc_ray.tagging.tagger import Tagger

OTHERS = r"run/labels\.parquet holds other labels than those that the index was built of"


@pytest.fixture
def mine(run: str, tmp_path: Path) -> Storage:
    """A run, to be changed."""
    shutil.copytree(run, tmp_path / "run")
    return Storage(str(tmp_path / "run"))


def prepare(mine: Storage) -> None:
    """What a prepare puts in place, simulated: the same labels but for the first, which is the last one now."""
    labels = mine.read_table(layout.LABELS)
    mine.write_table(layout.LABELS, labels.take([*range(1, len(labels)), 0]))
    manifest = read_manifest(mine, layout.DOCUMENTS)
    assert manifest is not None
    manifest.details["label_fingerprint"] = "of the new order"
    write_manifest(mine, layout.DOCUMENTS, manifest)


def before(monkeypatch: pytest.MonkeyPatch, module: Any, name: str, then: Callable[[], None]) -> None:
    """Have something happen the first time that a function is called."""
    real, happened = getattr(module, name), list[bool]()

    def call(*arguments: Any) -> Any:
        if not happened:
            happened.append(True)
            then()
        return real(*arguments)

    monkeypatch.setattr(module, name, call)


@pytest.mark.parametrize(
    ("module", "name"), [(tagger, "load_encoder"), (tagger, "_load_searcher"), (opening, "settings_of")]
)
def test_a_tagger_that_is_being_loaded(mine: Storage, monkeypatch: pytest.MonkeyPatch, module: Any, name: str) -> None:
    Tagger.load(mine.root)
    before(monkeypatch, module, name, lambda: prepare(mine))
    with pytest.raises(UserError, match=OTHERS):
        Tagger.load(mine.root)


def test_only_what_is_needed_is_read(mine: Storage, bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Descriptions may be many times as large as the rest: those of a run are read to be hashed, one column a time."""
    read, real = list[list[str] | None](), Storage.read_table

    def read_table(files: Storage, name: str, schema: Any = None, columns: Any = None) -> Any:
        table = real(files, name, schema, columns)
        if name == layout.LABELS:
            read.append(columns)
        return table

    monkeypatch.setattr(Storage, "read_table", read_table)
    Tagger.load(str(bundle))
    assert read[-1] == ["id", "text"] and not any(columns is None or "description" in columns for columns in read)
    read.clear()
    Tagger.load(mine.root)
    assert read[-4:] == [["id"], ["text"], ["description"], ["alternatives"]]


@pytest.mark.parametrize("lexical", [True, False])
def test_an_export(mine: Storage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lexical: bool) -> None:
    before(monkeypatch, export, "lexical_files" if lexical else "_copy_labels", lambda: prepare(mine))
    with pytest.raises(UserError, match=r"labels\.parquet holds other labels"):
        export_bundle(mine.root, str(tmp_path / "bundle"), "torch")
    assert not Storage(str(tmp_path / "bundle")).sizes(recursive=True)


def test_an_export_with_other_labels(mine: Storage, tmp_path: Path) -> None:
    (tmp_path / "labels.csv").write_text("id,text\nnew,river law\nid salt,salt\n")
    context = open_context(mine.root)

    def write(files: Storage) -> Any:
        prepare(mine)
        return write_new_labels(context, files, [str(tmp_path / "labels.csv")])

    with pytest.raises(UserError, match=OTHERS):
        export_bundle(mine.root, str(tmp_path / "bundle"), "torch", write)


def test_labels_that_are_proposed_are_those_that_the_command_began_with(mine: Storage, tmp_path: Path) -> None:
    began = TaggedFiles([], [], [what_counts(open_for_tagging(mine.root, ["predict.top_k=1"])[1])], [])
    with pytest.raises(UserError, match=r"run was changed since the command began: give it again"):
        ProposeWorker(mine.root, [], Storage(str(tmp_path / "out")), began, cast(Any, None))


def test_labels_that_the_teacher_is_asked_about_are_those_that_were_proposed(mine: Storage, tmp_path: Path) -> None:
    fingerprint, work = open_for_tagging(mine.root)[1].label_fingerprint, Storage(str(tmp_path / "work"))
    copy_labels(mine, work, fingerprint)
    copied = work.read_bytes(layout.LABELS)
    prepare(mine)
    with pytest.raises(UserError, match=OTHERS):
        copy_labels(mine, work, fingerprint)
    assert work.read_bytes(layout.LABELS) == copied
