"""Verdicts go where their documents are, and many small files become few."""

from __future__ import annotations

from collections.abc import Callable
from itertools import starmap
from pathlib import Path
from typing import Any

import pytest

from ezxmc_ray import layout
from ezxmc_ray.verdicts.relocate import relocate, relocate_folders
from ezxmc_ray.verdicts.summary import summary
from tests.verdicts.judged_run import KEY, OLD, PAIRS, ROWS, Run, call, names


def test_only_pairs_of_new_documents_are_pending_when_all_shards_have_shifted(make_run: Callable[..., Run]) -> None:
    assert len(make_run(OLD).judge()) == len(OLD) * PAIRS
    new = names(101, 102, 103)
    run = make_run([new[0], *OLD[:5], new[1], *OLD[5:], new[2]])
    assert run.pending() > len(new) * PAIRS  # what would be asked without bringing verdicts home
    assert sorted(run.judge()) == sorted(new * PAIRS)
    assert run.pending() == 0
    run.check_scores()


def test_a_document_that_comes_back_is_not_judged_again(make_run: Callable[..., Run]) -> None:
    make_run(OLD).judge()
    assert make_run(OLD[:3]).judge() == []
    assert make_run(names(50) + OLD).judge() == names(50) * PAIRS


def test_a_text_in_several_shards_has_its_verdicts_in_each(make_run: Callable[..., Run]) -> None:
    make_run(OLD).judge()
    run = make_run([*OLD, OLD[0], *names(60, 61, 62), OLD[0]])
    assert sorted(run.judge()) == sorted(names(60, 61, 62) * PAIRS)
    run.check_scores()


def test_rehoming_is_done_once_a_layout_and_again_after_a_kill(make_run: Callable[..., Run]) -> None:
    first = make_run(OLD)
    first.judge()
    calls: list[str] = []

    def counted(function: Callable[..., Any], arguments: Any) -> list[Any]:
        calls.append(function.__name__)
        return list(starmap(function, arguments))

    assert relocate(first.context, KEY, counted) == 0
    assert calls == []
    run = make_run(names(200) + OLD)

    def killed(function: Callable[..., Any], arguments: Any) -> list[Any]:
        if function is relocate_folders:
            storage, key, folders = arguments[0]
            relocate_folders(storage, key, folders[:2])
            raise KeyboardInterrupt
        return list(starmap(function, arguments))

    with pytest.raises(KeyboardInterrupt):
        relocate(run.context, KEY, killed)
    assert relocate(run.context, KEY, counted) == 2 * PAIRS  # four documents move, two have moved
    assert calls == ["write_lookup", "relocate_folders"]
    assert run.pending() == PAIRS
    assert relocate(run.context, KEY, counted) == 0
    assert len(calls) == 2
    assert not run.storage.exists(".shard_lookup.parquet")


def test_many_changes_do_not_pile_up_copies(make_run: Callable[..., Run]) -> None:
    texts = OLD
    for number in range(6):
        run = make_run(texts)
        run.judge()
        texts = names(300 + number) + texts
    held = sum(run.storage.rows(name) for folder in run.store().folders() for name in run.store().files(folder))
    assert held <= len(texts) * PAIRS * 3  # a document was in three shards at most
    run.check_scores()


def test_a_broken_note_on_the_layout_only_brings_verdicts_home_again(make_run: Callable[..., Run]) -> None:
    run = make_run(OLD)
    run.judge()
    for name in ("placement", "teacher"):
        (Path(run.path) / "verdicts" / KEY / f"{name}.json").write_text("{")
    assert run.pending() == 0
    assert run.judge() == []
    assert summary(run.context)[0]["pairs"] == len(OLD) * PAIRS


def test_compaction_leaves_a_file_a_folder_and_the_same_answers(
    make_run: Callable[..., Run], capsys: pytest.CaptureFixture[str]
) -> None:
    make_run(OLD).judge()
    run = make_run(names(101) + OLD[:-1])
    run.judge()
    run.judge_priors()
    before = summary(run.context)
    status, out, _ = call(capsys, "compact", run.path)
    assert (status, out) == (0, f"Made 6 files of {before[0]['files']}\n")
    after = summary(run.context)
    assert before[0] | {"files": 6} == after[0]
    assert run.pending() == 0
    run.check_scores()
    rows = [len(run.store().read(layout.shard_name(shard))) for shard in range(run.context.shards)]
    assert rows[:4] == [ROWS * PAIRS] * 4
    assert rows[4] == (2 + 1) * PAIRS  # two documents, and the one that is in no shard now
    assert make_run(OLD).judge() == []
