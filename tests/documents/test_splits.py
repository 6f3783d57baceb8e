"""The split that names of files and folders say, also where they contradict each other."""

from __future__ import annotations

import pytest

from tests.documents.conftest import Folder


@pytest.mark.parametrize(
    "names",
    [
        {"train1.jsonl": "train", "train2.jsonl": "train", "test1.jsonl": "test"},
        {"labeledTrainData.jsonl": "train", "testData.jsonl": "test"},
        {"eurlex_train_v2.jsonl": "train", "eurlex_test_v2.jsonl": "test", "eurlex_dev_v2.jsonl": "train"},
        {"train/en/a.jsonl": "train", "test/en/a.jsonl": "test", "validate/en/a.jsonl": "train"},
        {"test-00000-of-00001.jsonl": "test", "train-00000-of-00001.jsonl": "train"},
        {"train-part1.jsonl": "train", "train-part2.jsonl": "train", "test.part.1.jsonl": "test"},
        {"dev.jsonl": "train", "devtest.jsonl": "test"},
        {"trn_docs.jsonl": "train", "tst_docs.jsonl": "test"},
        {"train/train-test.jsonl": "train", "test/test.jsonl": "test"},
        {"train/dev.jsonl": "train", "train/a.jsonl": "train", "test/a.jsonl": "test"},
    ],
)
def test_names_that_say_the_split(folder: Folder, names: dict[str, str]) -> None:
    for name in names:
        folder.write(f"d/{name}", [{"id": name, "text": "t"}])
    assert {one: split for one, split, _ in folder.prepare("d", held_out_share=0)} == names


@pytest.mark.parametrize(
    ("names", "odd"),
    [
        # Folders alone tell train from test, then names alone, then both together.
        ({"train/train-a.jsonl": "train", "test/train-b.jsonl": "test"}, "test/train-b.jsonl is taken for test"),
        ({"train.jsonl": "train", "test.jsonl": "test", "test/train-b.jsonl": "train"}, "b.jsonl is taken for train"),
        ({"train.jsonl": "train", "test/train-b.jsonl": "test"}, "train-b.jsonl is taken for test"),
        ({"split=train/test-0.jsonl": "train", "split=test/test-1.jsonl": "test"}, "test-0.jsonl is taken for train"),
    ],
)
def test_contradictions_that_the_other_files_solve_are_said(folder: Folder, names: dict[str, str], odd: str) -> None:
    for name in names:
        folder.write(f"d/{name}", [{"id": name, "text": "t"}])
    assert {one: split for one, split, _ in folder.prepare("d", held_out_share=0)} == names
    told = folder.said[-1]
    assert told.startswith("Warning: ")
    assert f"{odd}, and part of its name or folders says otherwise" in told


@pytest.mark.parametrize(
    ("names", "odd", "what"),
    [
        (["train.jsonl", "dev-test.jsonl"], "dev-test.jsonl", "test and another split by its name"),
        (["train/test-1.jsonl", "train/train-1.jsonl", "test/test-1.jsonl"], "train/test-1.jsonl", "test by its name"),
    ],
)
def test_contradictions_that_nothing_solves_are_refused(folder: Folder, names: list[str], odd: str, what: str) -> None:
    for name in names:
        folder.write(f"d/{name}", [{"id": name, "text": "t"}])
    told = folder.refused("d")
    assert told.startswith(f"…/d/{odd} is of {what}")
    assert told.endswith("or give its rows a column that prepare.split_column names.")


@pytest.mark.parametrize("names", [["dev-test.jsonl"], ["dev-test.jsonl", "more.jsonl"], ["train.jsonl", "dev.jsonl"]])
def test_names_that_do_not_tell_train_from_test_say_nothing(folder: Folder, names: list[str]) -> None:
    for name in names:
        folder.write(f"d/{name}", [{"id": name, "text": "t"}])
    folder.prepare("d", test_share=0, held_out_share=0)
    assert "no file says train or test" in folder.said[1]
