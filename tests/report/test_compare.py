"""Comparing runs: what is measured and paired, what it cost, what is a mistake; and the command as a user has it."""

from __future__ import annotations

import random
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ezxmc_ray import cli, metrics
from ezxmc_ray.config import EvaluateConfig
from ezxmc_ray.evaluation.rankings import measure_encoders
from ezxmc_ray.report.compare import Student, compare_runs
from ezxmc_ray.report.compare_page import markdown, page, table_rows
from ezxmc_ray.storage import Manifest, Storage, read_manifest, write_manifest
from tests.report.made_runs import LABEL_COUNT, TRAIN_DOCUMENTS, documents, made_run, ranking

BETTER = (0.2, 0.9)


def compare(capsys: pytest.CaptureFixture[str], *argv: str) -> tuple[Any, str, str]:
    """Status, stdout and stderr of ``ezxmc compare``."""
    with pytest.raises(SystemExit) as caught:
        cli.main(["compare", *argv])
    printed = capsys.readouterr()
    return caught.value.code, printed.out, printed.err


def test_an_entry_has_what_the_runs_own_evaluation_says(tmp_path: Path) -> None:
    root = made_run(tmp_path, overrides=("seed=5",))
    comparison = compare_runs([root])
    own = measure_encoders(Storage(root), ["untrained", "cycle_0"], 2, LABEL_COUNT, EvaluateConfig(), 5)
    untrained, shipped = comparison.entries
    assert (untrained.name, shipped.name, shipped.student.name) == ("untrained encoder", tmp_path.name, "cycle 0")
    for entry, encoder in ((untrained, "untrained"), (shipped, "cycle_0")):
        assert entry.student.values == {name: own["metrics"][encoder][name] for name in metrics.ALL_MEASURES}
        assert entry.student.intervals == own["intervals"][encoder]
        assert len(entry.student.measurement) == own["metrics"][encoder]["documents"]


def test_costs_are_distinct_pairs_engine_seconds_and_training_seconds(tmp_path: Path) -> None:
    comparison = compare_runs([made_run(tmp_path, skills=(0.2, 0.5, 0.7), chosen=0)])
    untrained, shipped = comparison.entries
    # Cycles judge labels 0-4, 1-5 and (for the selection) 2-6 of each train document.
    assert shipped.pairs == 7 * TRAIN_DOCUMENTS
    assert [student.pairs for student in comparison.students[shipped.name]] == [0, 100, 120]
    assert [student.shipped for student in comparison.students[shipped.name]] == [False, True, False]
    assert shipped.teacher_seconds == pytest.approx(100 + 50 + 100 / 3)
    assert shipped.training_seconds == 60.0
    # What was trained before curriculum.cycles was lowered is no part of the run.
    write_manifest(Storage(str(tmp_path)), "cycle-2/student", Manifest("train", "f", 20, 1000.0))
    assert compare_runs([str(tmp_path)]).entries[1].training_seconds == 60.0
    assert (untrained.pairs, untrained.teacher_seconds, untrained.training_seconds) == (0, 0.0, 0.0)


def test_training_seconds_before_a_kill_count(tmp_path: Path) -> None:
    root = made_run(tmp_path)
    # 100 seconds of steps, a kill, then a start of 100 seconds and 200 seconds of steps.
    change(root, "cycle-0/student", seconds=310.0, training_seconds=300.0, start_seconds=100.0)
    assert compare_runs([root]).entries[1].training_seconds == 400.0


def test_the_difference_is_paired_by_document_whatever_the_order_and_the_shards(tmp_path: Path) -> None:
    rows = documents(0)
    mixed = random.Random(1).sample(rows, len(rows))
    first = made_run(tmp_path / "first")
    same = compare_runs([first, made_run(tmp_path / "second", BETTER)]).entries[-1]
    turned = compare_runs([first, made_run(tmp_path / "third", BETTER, rows=mixed, cuts=(10, 40))]).entries[-1]
    assert turned.over_first == same.over_first is not None
    over = same.over_first["P@1"]
    test = sorted((row for row in rows if row["split"] == "test"), key=lambda row: row["id"])
    gold = [np.array([label for label in row["gold"] if label not in row["excluded"]]) for row in test]
    hits = [
        metrics.precision_at_k(np.array([ranking(row, skill) for row in test], np.int32), gold, 1)
        for skill in (0.6, BETTER[1])
    ]
    difference = (hits[1] - hits[0])[~np.isnan(hits[0])]
    assert over["difference"] == pytest.approx(difference.mean(), abs=1e-9)
    expected = metrics.bootstrap_intervals({"difference": difference}, 0)["difference"]
    assert over["interval"] == pytest.approx(expected, abs=1e-9)


def test_the_untrained_encoder_is_shown_once_unless_the_runs_have_others(tmp_path: Path) -> None:
    first, second = made_run(tmp_path / "a"), made_run(tmp_path / "b", BETTER)
    other = made_run(tmp_path / "c", (0.3, 0.5))
    names = [entry.name for entry in compare_runs([first, second, other]).entries]
    assert names == ["untrained encoder", "untrained encoder of c", "a", "b", "c"]


def test_a_run_that_ships_the_untrained_encoder_says_so(tmp_path: Path) -> None:
    first, second = made_run(tmp_path / "a"), made_run(tmp_path / "b", chosen=None)
    comparison = compare_runs([first, second])
    untrained, _, shipped = comparison.entries
    assert (shipped.student.name, shipped.pairs) == ("untrained", 6 * TRAIN_DOCUMENTS)
    assert shipped.over_first == untrained.over_first


def test_other_test_documents_are_noted_and_not_paired(tmp_path: Path) -> None:
    first, second = made_run(tmp_path / "a"), made_run(tmp_path / "b", rows=documents(1))
    comparison = compare_runs([first, second])
    assert [entry.over_first is None for entry in comparison.entries] == [False, True, True, True]
    sentence = "b was measured on other test documents, or other gold or excluded labels, than a, so there is no paired"
    assert f"{sentence} difference." in comparison.notes


def test_other_gold_labels_of_the_same_documents_are_not_paired(tmp_path: Path) -> None:
    changed = documents(0)
    changed[-1]["gold"] = [0, 1, 2, 3]
    comparison = compare_runs([made_run(tmp_path / "a"), made_run(tmp_path / "b", rows=changed)])
    assert comparison.entries[-1].over_first is None


def test_other_excluded_labels_of_the_same_documents_are_not_paired(tmp_path: Path) -> None:
    """The same encoder proposes other labels then."""
    changed = documents(0)
    for row in changed:
        row["excluded"] = []
    comparison = compare_runs([made_run(tmp_path / "a"), made_run(tmp_path / "b", rows=changed)])
    assert comparison.entries[-1].over_first is None


def test_held_pairs_another_depth_and_where_labels_were_counted_are_noted(tmp_path: Path) -> None:
    first = made_run(tmp_path / "a", gold="test")
    second = made_run(tmp_path / "b", BETTER, overrides=("evaluate.depth=120",))
    change(second, "cycle-0/examples", pairs_asked=40)
    # What was evaluated counts, not what the configuration has become since.
    change(first, "evaluation", depth=100)
    notes = compare_runs([first, second]).notes
    assert "PSP and PSnDCG: by how often a label is gold in the 40 test documents themselves of a." in notes
    assert "b ranked 120 labels a document, a 100." in notes
    held = "were in its verdict store before, or are of the same texts as others: its teacher seconds leave them out."
    assert f"60 of the 120 pairs of b {held}" in notes


def test_held_pairs_of_a_second_read_out_are_noted(tmp_path: Path) -> None:
    run = made_run(tmp_path / "a")
    change(run, "cycle-0/examples", second_readout={"key": "k"}, second_pairs_asked=70)
    # Cycle 1 was judged by one read-out, so nothing is known of its pairs.
    assert "a had been" not in " ".join(compare_runs([run]).notes)
    change(run, "cycle-1/examples", second_readout={"key": "k"}, second_pairs_asked=20)
    notes = compare_runs([run]).notes
    sentence = (
        "30 of the 120 pairs of a had been asked a second time before, or are of the same texts as others: its teacher "
        "seconds leave them out."
    )
    assert sentence in notes and "in its verdict store" not in " ".join(notes)


def change(root: str, folder: str, seconds: float | None = None, **details: Any) -> None:
    storage = Storage(root)
    manifest = read_manifest(storage, folder)
    assert manifest is not None
    seconds = manifest.seconds if seconds is None else seconds
    write_manifest(storage, folder, replace(manifest, seconds=seconds, details=manifest.details | details))


def test_names_are_as_short_as_tells_the_runs_apart(tmp_path: Path) -> None:
    roots = [made_run(tmp_path / folder / "run") for folder in ("a", "b")]
    assert list(compare_runs(roots).students) == ["a/run", "b/run"]


def test_a_run_of_an_earlier_version_is_compared(tmp_path: Path) -> None:
    root = made_run(tmp_path / "a")
    text = (tmp_path / "a" / "config.yaml").read_text()
    old = text.replace("  propensity_a: 0.55\n", "").replace("encoder:\n", "encoder:\n  batch_size: 64\n")
    (tmp_path / "a" / "config.yaml").write_text(old)
    storage = Storage(root)
    evaluated = read_manifest(storage, "evaluation")
    assert evaluated is not None
    for name in ("student", "commits", "document_fingerprint", "label_fingerprint", "gold_fingerprint"):
        del evaluated.details[name]
    write_manifest(storage, "evaluation", evaluated)
    change(root, "documents", label_fingerprint="another")
    assert (
        compare_runs([root]).entries[-1].student.values
        == compare_runs([made_run(tmp_path / "b")]).entries[-1].student.values
    )


def test_runs_of_no_cycle_and_of_imported_verdicts_are_compared(tmp_path: Path) -> None:
    untrained, imported = made_run(tmp_path / "a", skills=(0.2,), chosen=None), made_run(tmp_path / "b")
    for cycle in (0, 1):
        change(imported, f"cycle-{cycle}/examples", pairs_asked=0, engine_seconds=0.0)
    _, first, second = compare_runs([untrained, imported]).entries
    assert (first.pairs, first.training_seconds) == (5 * TRAIN_DOCUMENTS, 0.0)
    assert (second.pairs, second.teacher_seconds) == (6 * TRAIN_DOCUMENTS, 0.0)


def without(folder: str) -> Any:
    def remove(root: str) -> None:
        shutil.rmtree(Path(root) / folder)

    return remove


def newer(folder: str) -> Any:
    def commit(root: str) -> None:
        storage = Storage(root)
        manifest = read_manifest(storage, folder)
        assert manifest is not None
        write_manifest(storage, folder, replace(manifest, commit="another"))

    return commit


def without_a_shard(root: str) -> None:
    (Path(root) / "cycle-1/examples/shard-00001.parquet").unlink()


def without_configuration(root: str) -> None:
    (Path(root) / "config.yaml").unlink()


NO_RUN = "RUN is not a run: it has no config.yaml; give the directory that `ezxmc run` wrote."
NOT_EVALUATED = "RUN has not been evaluated yet: finish it with `ezxmc run` first."
STALE = (
    "The evaluation of RUN is older than its documents, its labels, its gold labels or its student: bring it up to "
    "date with `ezxmc run`."
)


def redone(folder: str) -> str:
    return (
        f"{folder} of RUN is not there whole, or is newer than the evaluation: bring the run up to date with "
        "`ezxmc run`."
    )


MISTAKES = [
    (without_configuration, NO_RUN),
    (without("evaluation"), NOT_EVALUATED),
    (without("evaluation/encoder-1"), NOT_EVALUATED),
    (without("student"), NOT_EVALUATED),
    (newer("student"), STALE),
    (lambda root: change(root, "documents", document_fingerprint="new"), STALE),
    (lambda root: change(root, "documents", label_fingerprint="new"), STALE),
    (lambda root: change(root, "documents", gold_fingerprint="new"), STALE),
    # Killed while it was judged or trained anew, with student/ and evaluation/ of before.
    (without("cycle-0/examples"), redone("cycle-0/examples")),
    (without("cycle-1/examples"), redone("cycle-1/examples")),
    (without("cycle-0/student"), redone("cycle-0/student")),
    (without_a_shard, redone("cycle-1/examples")),
    (newer("cycle-1/examples"), redone("cycle-1/examples")),
    (newer("cycle-0/student"), redone("cycle-0/student")),
]


@pytest.mark.parametrize(("spoil", "sentence"), MISTAKES)
def test_a_run_that_cannot_be_compared_is_one_sentence_and_status_2(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], spoil: Any, sentence: str
) -> None:
    first, second = made_run(tmp_path / "a"), made_run(tmp_path / "b")
    spoil(second)
    assert compare(capsys, first, second) == (2, "", f"ezxmc: {sentence.replace('RUN', second)}\n")


def test_gold_labels_one_label_set_and_two_runs_are_needed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first, bare = made_run(tmp_path / "a"), made_run(tmp_path / "b", gold="none")
    wide = made_run(tmp_path / "c", labels=LABEL_COUNT + 1)
    lacking = (
        f"{bare} has no gold labels on its test documents, so there is nothing to compare it by: give some documents "
        "those that are right, as ids in the column that prepare.labels_column names."
    )
    assert compare(capsys, first, bare) == (2, "", f"ezxmc: {lacking}\n")
    other = (
        f"The runs {first} and {wide} have different label sets, or in another order (30 and 31 labels), so their "
        "measures cannot be compared; compare runs over the same labels."
    )
    assert compare(capsys, first, wide) == (2, "", f"ezxmc: {other}\n")
    assert compare(capsys, first, f"{first}/") == (2, "", f"ezxmc: {first}/ is given twice; give each run once.\n")
    assert compare(capsys) == (2, "", "ezxmc: Missing argument 'RUN' (see ezxmc compare --help).\n")
    measures = "P@1, P@3, P@5, nDCG@5, R@10, R@100, PSP@1, PSP@3, PSP@5, PSnDCG@3, PSnDCG@5"
    assert compare(capsys, first, "--measure", "P@2") == (2, "", f"ezxmc: --measure P@2 is none of {measures}.\n")
    assert compare(capsys, first, "--html", str(tmp_path)) == (
        2,
        "",
        f"ezxmc: --html {tmp_path} is a directory; name a file in it.\n",
    )
    second, nowhere = made_run(tmp_path / "d"), tmp_path / "nowhere"
    nowhere.symlink_to(tmp_path / "gone" / "far")
    status, _, error = compare(capsys, first, second, "--html", str(nowhere / "c.html"))
    assert (
        status == 2
        and error.startswith("ezxmc: Cannot write ")
        and f"{nowhere}/c.html" in error
        and error.count("\n") == 1
    )


def cell_of(student: Student, measure: str) -> list[str]:
    """The words of a measure's cell."""
    low, high = student.intervals[measure] or (0.0, 0.0)
    return [f"{student.values[measure]:.1f}", f"({low:.1f}", "to", f"{high:.1f})"]


def test_the_command_prints_and_writes_the_comparison(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    roots = [made_run(tmp_path / "plain_one"), made_run(tmp_path / "better", BETTER)]
    files = {option: str(tmp_path / "out" / f"c.{option[2:]}") for option in ("--markdown", "--html")}
    words = [word for option in files.items() for word in option]
    status, out, error = compare(capsys, *roots, "--measure", "R@10", *words)
    assert (status, error) == (0, "")
    comparison = compare_runs(roots)
    better = comparison.entries[-1]
    over = (better.over_first or {})["R@10"]
    value, difference = better.student.values["R@10"], over["difference"]
    low, high = over["interval"]
    assert low > 0
    cell, paired = f"{value:.1f} (", f"{difference:+.1f} ({low:+.1f} to {high:+.1f}) *"
    lines = [line.split() for line in out.splitlines()]
    assert ["untrained", "encoder", "plain_one", "better"] in lines
    assert ["pairs", "judged", "0", "120", "120"] in lines
    assert cell in out and paired in out
    written = (tmp_path / "out" / "c.markdown").read_text("utf-8")
    assert written == markdown(comparison, "R@10")
    assert (tmp_path / "out" / "c.html").read_text("utf-8") == page(comparison, "R@10")
    assert ["better", "cycle", "0", "100", *cell_of(better.student, "R@10"), "yes"] in lines


def test_the_table_loses_nothing_by_long_names_of_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names = [f"{start}-{'a-name-of-many-words-' * 4}end" for start in ("one", "two", "three")]
    roots = [made_run(tmp_path / name, (0.2, skill)) for name, skill in zip(names, (0.7, 0.8, 0.9), strict=True)]
    status, out, _ = compare(capsys, *roots)
    assert status == 0
    comparison = compare_runs(roots)
    lines = [re.split("  +", line.strip()) for line in out.splitlines()]
    for row in table_rows(comparison, comparison.entries):
        assert [cell.strip() for cell in row.values()] in lines
    rule = next(number for number, line in enumerate(out.splitlines()) if "───" in line)
    heading = [line.split()[-len(names) :] for line in out.splitlines()[:rule] if line.strip()]
    assert ["".join(parts) for parts in zip(*heading, strict=True)] == names


def test_names_of_runs_are_taken_as_they_are(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names = ["run[bold]x", "a:smile:b", "$\\frac$", "_old", "untrained encoder", "文書"]
    roots = [made_run(tmp_path / "in" / name, (0.2, 0.5 + place / 15)) for place, name in enumerate(names)]
    status, out, _ = compare(capsys, *roots, "--html", str(tmp_path / "c.html"))
    assert status == 0
    shown = [f"in/{name}" for name in names]  # as one has the name of the untrained encoder's column
    assert [entry.name for entry in compare_runs(roots).entries] == ["untrained encoder", *shown]
    table, _ = out.split("Measures are percent")
    students = [line for line in table.splitlines() if "cycle 0  " in line and line.rstrip().endswith("yes")]
    assert all(name in line for name, line in zip(shown, students, strict=True))
    legend = re.search(r'<ul class="legend">(.*?)</ul>', (tmp_path / "c.html").read_text("utf-8"), re.DOTALL)
    assert legend and re.findall(r"</i>(.*?)</li>", legend[1]) == shown
    lines = re.findall(r'style="border-top: 2px (.*?)">', legend[1])
    assert len(set(lines)) == len(names)
