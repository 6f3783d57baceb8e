"""``ezxmc labels``: what the commands print, and what they refuse."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from ezxmc_ray.context import open_context
from ezxmc_ray.errors import UserError
from ezxmc_ray.run_lock import run_lock
from ezxmc_ray.stages.new_labels import write_new_labels
from ezxmc_ray.storage import Storage
from ezxmc_ray.tagging import changes
from ezxmc_ray.tagging.bundle import BUNDLE, state_of
from ezxmc_ray.tagging.changes import add_labels, listed_labels, remove_labels
from ezxmc_ray.tagging.export import export_bundle
from ezxmc_ray.tagging.tagger import Tagger
from tests.conftest import Ezxmc
from tests.tagging.made_run import make_run
from tests.tagging.test_changes import NEW, ROWS, write


def test_what_cannot_be_done_is_a_sentence_and_changes_nothing(
    run: str, copy: Path, tmp_path: Path, ezxmc: Ezxmc
) -> None:
    where = str(copy)
    before = Storage(where).sizes(recursive=True)
    files = {
        "known": [*NEW, {"id": "<id salt> ", "text": "x"}, {"id": "id wool", "text": "x"}],
        "bad": [*NEW, {"id": "x", "text": ""}, NEW[0]],
        "unknown": [{"id": f"gone {n}", "text": "x"} for n in range(5)],
        "all": [{"id": row["id"], "text": "x"} for row in ROWS],
        "nothing": [],
    }
    paths = {name: write(tmp_path / f"{name}.jsonl", rows) for name, rows in files.items()}
    for command, place, name, sentence in (
        ("add", where, "known", "'<id salt> ', 'id wool' are among the labels of "),
        ("add", where, "bad", "2 bad rows in "),
        ("add", where, "nothing", "There is no label in "),
        ("remove", where, "unknown", f"No label of {where} has the id 'gone 0', 'gone 1', 'gone 2' and 2 more."),
        ("remove", where, "all", f"No label of {where} would be left: keep one at least."),
        ("remove", where, "nothing", "There is no id in "),
        ("rename", where, "unknown", f"No label of {where} has the id 'gone 0', 'gone 1', 'gone 2' and 2 more."),
        ("add", run, "known", f"{run} is a run, whose labels are those of its configuration: export it"),
        ("remove", str(tmp_path / "none"), "all", f"{tmp_path}/none is not a bundle: it has no bundle.json"),
    ):
        done = ezxmc("labels", command, place, paths[name])
        assert done.returncode == 2 and done.stderr.startswith(f"ezxmc: {sentence}"), (command, name, done.stderr)
    assert ezxmc("labels", "list", run).returncode == 2
    assert Storage(where).sizes(recursive=True) == before
    with run_lock(Storage(where)), pytest.raises(UserError, match="another"):
        remove_labels(where, [paths["all"]])


def test_an_export_does_not_bring_back_labels_that_were_changed(run: str, copy: Path, tmp_path: Path) -> None:
    where, listed = str(copy), tmp_path / "listed.jsonl"
    remove_labels(where, [write(tmp_path / "gone.jsonl", [ROWS[0] | {"alternatives": []}])])
    with pytest.raises(UserError, match=r"were changed since it was exported, .* --labels the file that `ezxmc labels"):
        export_bundle(run, where)
    assert len(list(listed_labels(where))) == len(ROWS) - 1
    listed.write_text("".join(json.dumps(row) + "\n" for row in listed_labels(where)))
    context = open_context(run)
    export_bundle(run, where, write_labels=lambda files: write_new_labels(context, files, [str(listed)]))
    assert len(list(listed_labels(where))) == len(ROWS) - 1
    remove_labels(where, [write(tmp_path / "gone.jsonl", [ROWS[1] | {"alternatives": []}])])


def test_alternatives_without_a_column_of_their_own_are_listed_as_rows_of_their_label(
    copy: Path,
) -> None:
    told = [row for row in listed_labels(str(copy)) if "alternatives" in row]
    expected = [(row["id"], text) for row in told for text in (row["text"], *row["alternatives"])]
    storage = Storage(str(copy))
    note = storage.read_note(BUNDLE)
    note["prepare"]["label_alternatives_column"] = ""
    storage.write_note(BUNDLE, note)
    ids = {row["id"] for row in told}
    assert told
    assert [(row["id"], row["text"]) for row in listed_labels(str(copy)) if row["id"] in ids] == expected


def test_labels_whose_ids_are_their_texts_by_column_are_listed_with_both(copy: Path, tmp_path: Path) -> None:
    storage = Storage(str(copy))
    note = storage.read_note(BUNDLE)
    note["prepare"]["label_id_column"] = "text"
    storage.write_note(BUNDLE, note)
    (tmp_path / "more.ttl").write_text(SALT.replace("salt", "sea-salt"))
    add_labels(str(copy), [str(tmp_path / "more.ttl")])
    listed = list(listed_labels(str(copy)))
    assert listed[: len(ROWS)] == ROWS and listed[-1] == {"id": "urn:sea-salt", "text": "sea-salt"}


SAME_COLUMN = ("prepare.label_id_column=name", "prepare.label_text_column=name")
AS_IT_IS = "prepare.label_id_column=id prepare.label_text_column=text"


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ((), ""),
        (SAME_COLUMN, AS_IT_IS),
        (("prepare.format=csv",), "prepare.format=jsonl"),
        (("prepare.format=parquet", *SAME_COLUMN), f"prepare.format=jsonl {AS_IT_IS}"),
        (("prepare.label_text_column='a name'",), ""),
        (("prepare.label_alternatives_column=''",), "prepare.repeated_labels=synonyms"),
    ],
)
def test_a_list_is_read_again_with_the_knobs_that_are_told_with_it(
    tmp_path: Path, ezxmc: Ezxmc, settings: tuple[str, ...], told: str
) -> None:
    run, bundle, again, file = (str(tmp_path / name) for name in ("run", "bundle", "again", "labels.jsonl"))
    make_run(Path(run), settings=settings)
    export_bundle(run, bundle, encoder="torch")
    listed = ezxmc("labels", "list", bundle, "--output", file)
    assert listed.stdout == f"Wrote {len(ROWS)} labels to {file}\n"
    assert (f"beside this list, {told}.\n" in listed.stderr) if told else listed.stderr == ""
    assert ezxmc("labels", "list", bundle).stderr == listed.stderr
    knobs = told.split()
    if told:
        assert ezxmc("export", run, again, "--encoder", "torch", "--labels", file).returncode == 2
    assert ezxmc("export", run, again, "--encoder", "torch", *knobs, "--labels", file).returncode == 0
    assert Tagger.load(again).labels.equals(Tagger.load(bundle).labels)
    renamed = ezxmc("labels", "rename", bundle, file, *knobs)
    assert renamed.returncode == 0, renamed.stderr


def test_knobs_of_an_export_are_of_its_files_of_labels(run: str, tmp_path: Path, ezxmc: Ezxmc) -> None:
    file, place = write(tmp_path / "labels.jsonl", ROWS), str(tmp_path / "bundle")
    for knobs, sentence in (
        (["prepare.format=csv"], "prepare.format=csv says how files of labels are read, and no --labels are given: "),
        (["predict.top_k=3", "--labels", file], "predict.top_k does not say how a file of labels is read; these knobs"),
    ):
        done = ezxmc("export", run, place, *knobs)
        assert done.returncode == 2 and done.stderr.startswith(f"ezxmc: {sentence}"), done.stderr


def test_a_list_is_written_where_it_can_be_read_again_and_not_into_the_bundle(
    copy: Path, tmp_path: Path, ezxmc: Ezxmc
) -> None:
    before = Storage(str(copy)).sizes(recursive=True)
    for output, sentence in (
        (copy / "bundle.json", "lies in the bundle"),
        (tmp_path / "l.csv", "must end in .jsonl or .ndjson"),
        (tmp_path / "l.jsonl.gz", "must end in .jsonl or .ndjson"),
        (copy / "l.jsonl", "lies in the bundle"),
    ):
        done = ezxmc("labels", "list", f"{copy}/", "--output", str(output))
        assert done.returncode == 2 and sentence in done.stderr, done.stderr
        assert Storage(str(copy)).sizes(recursive=True) == before


def test_two_changes_of_one_export_are_two_states(copy: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    shutil.copytree(copy, other)
    first = state_of(Storage(str(copy)))
    remove_labels(str(copy), [write(tmp_path / "0.jsonl", [{"id": ROWS[0]["id"], "text": "x"}])])
    remove_labels(str(other), [write(tmp_path / "1.jsonl", [{"id": ROWS[1]["id"], "text": "x"}])])
    assert len({first, state_of(Storage(str(copy))), state_of(Storage(str(other)))}) == 3


SALT = """@prefix skos: <http://www.w3.org/2004/02/skos/core#> .
<urn:salt> a skos:Concept ; skos:prefLabel "salt"@en, "Salz"@de .
"""


def test_the_commands_say_what_they_did(
    copy: Path, tmp_path: Path, ezxmc: Ezxmc, monkeypatch: pytest.MonkeyPatch
) -> None:
    where = str(copy)
    rows = [*NEW, {"id": "7", "text": "glass zebra"}, {"id": "8", "text": "zebra"}]
    new, ids = write(tmp_path / "new.jsonl", rows), tmp_path / "ids.txt"
    texts = "6 texts were embedded, 1 of which hold nothing that the encoder knows"
    assert ezxmc("labels", "add", where, new).stdout == f"Added 4 labels: {texts}; {where} has 14 labels now\n"
    ids.write_text("id salt\n\n  new 1\r\n")
    assert ezxmc("labels", "remove", where, str(ids)).stdout == f"Removed 2 labels from {where}: 12 are left\n"
    monkeypatch.setattr(changes, "MANY_PARTS", 2)
    told = ezxmc("labels", "rename", where, write(tmp_path / "x.csv", [])).stderr
    assert "no label" in told
    (tmp_path / "x.csv").write_text("id,text\n7,tax\n")
    told = ezxmc("labels", "rename", where, str(tmp_path / "x.csv")).stdout
    assert told.startswith(f"Renamed 1 label: 1 text was embedded; {where} has 12 labels now\nThe bundle has 3 parts")
    lines = [json.loads(line) for line in ezxmc("labels", "list", where).stdout.splitlines()]
    assert lines == list(listed_labels(where)) and lines[-1] == {"id": "7", "text": "tax"}
    assert lines[:2] == [ROWS[0], ROWS[1]] and lines[2] == ROWS[3]
    (tmp_path / "again.ttl").write_text(SALT)
    note, did, _ = ezxmc("labels", "add", where, str(tmp_path / "again.ttl")).stdout.splitlines()
    assert note.startswith("Labels of ") and "are in en, which most of its concepts have (1 of 1;" in note
    assert note.endswith("prepare.label_language sets another.") and did.startswith("Added 1 label: 1 text was")
    assert list(listed_labels(where))[-1] == {"id": "urn:salt", "text": "salt"}
    done = ezxmc("labels", "list", where, "--output", str(tmp_path))
    assert done.returncode == 2 and done.stderr == f"ezxmc: --output {tmp_path} is a directory; name a file.\n"
    ids.write_bytes(b"id wool\n\xff\n")
    assert "1 bad row in" in ezxmc("labels", "remove", where, str(ids)).stderr


def test_columns_are_called_as_the_run_calls_them(copy: Path, tmp_path: Path) -> None:
    storage = Storage(str(copy))
    note = storage.read_note(BUNDLE)
    names = {"label_id_column": "tag", "label_text_column": "name", "label_alternatives_column": "synonyms"}
    storage.write_note(BUNDLE, note | {"prepare": note["prepare"] | names})
    row = {"tag": "new", "name": "river law", "synonyms": ["poem"]}
    add_labels(str(copy), [write(tmp_path / "labels.jsonl", [row])])
    listed = list(listed_labels(str(copy)))
    assert listed[-1] == row and listed[0] == {"tag": "id glass", "name": "glass", "synonyms": ["salt lamp"]}
    remove_labels(str(copy), [write(tmp_path / "all.jsonl", listed[:3])])
    assert list(listed_labels(str(copy))) == listed[3:]
    with pytest.raises(UserError, match="'tag'"):
        remove_labels(str(copy), [write(tmp_path / "ids.jsonl", [{"id": "id wool"}])])
