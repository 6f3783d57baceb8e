"""The parts of benchmarks/student.py that need no model: reading its files, and its figures."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import student
from common.data import Files, find_files, read_data, read_verdicts, simulated_verdicts
from ezxmc_ray.errors import UserError
from student_bench.figures import cosines_of, encoding, perfect, quality, scaling, training

LABELS = ["a", "b", "c"]


def write_lines(path: Path, rows: list[dict[str, Any]]) -> Path:
    content = "".join(json.dumps(row) + "\n" for row in rows).encode()
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    return path


def document(name: str, split: str, labels: list[str]) -> dict[str, Any]:
    return {"id": name, "title": f"title {name}", "text": f"text {name}", "labels": labels, "split": split}


def verdict(name: str, labels: list[str], p_yes: list[float]) -> dict[str, Any]:
    return {"id": name, "label_ids": labels, "p_yes": p_yes}


@pytest.fixture
def files(tmp_path: Path) -> Files:
    rows = [document(f"train{number}", "train", ["a"]) for number in range(4)]
    rows += [document("gold", "test", ["a", "b"]), document("none", "test", []), document("other", "test", ["a", "z"])]
    write_lines(tmp_path / "documents.jsonl.gz", rows)
    write_lines(tmp_path / "labels.jsonl", [{"id": label, "text": label} for label in LABELS])
    write_lines(
        tmp_path / "verdicts.jsonl", [verdict("train2", ["b", "a"], [0.9, 0.2]), verdict("train3", ["c"], [0.5])]
    )
    return find_files(str(tmp_path), "labels.jsonl", "verdicts.jsonl", None, "test")


def ids(rows: list[dict[str, Any]]) -> list[str]:
    return [row["id"] for row in rows]


def test_documents_are_ranked_only_if_all_their_gold_labels_are_there(files: Files) -> None:
    data = read_data(files, 0, 0)
    assert set(ids(data.train)) == {"train0", "train1", "train2", "train3"}
    assert ids(data.ranked) == ["gold"]
    assert data.left_out == 2
    assert data.verdicts == {"train2": {"b": 0.9, "a": 0.2}, "train3": {"c": 0.5}}


def test_a_limit_takes_judged_documents_first_and_drops_the_verdicts_of_the_others(files: Files) -> None:
    assert set(ids(read_data(files, 3, 0).train)) > {"train2", "train3"}
    assert len(read_data(files, 1, 0).verdicts) == 1


def test_ranked_documents_with_the_text_of_a_train_document_are_counted(files: Files) -> None:
    rows = [json.loads(line) for line in gzip.decompress(files.documents.read_bytes()).splitlines()]
    write_lines(files.documents, [*rows, document("train0", "test", ["a"]) | {"id": "again"}])
    data = read_data(files, 0, 0)
    assert (len(data.ranked), data.repeated) == (2, 1)


def test_the_order_does_not_depend_on_the_file_s(files: Files) -> None:
    before = ids(read_data(files, 0, 0).train)
    lines = gzip.decompress(files.documents.read_bytes()).splitlines(keepends=True)
    files.documents.write_bytes(gzip.compress(b"".join(reversed(lines))))
    assert ids(read_data(files, 0, 0).train) == before


def test_documents_of_another_file_are_ranked_only_if_the_data_does_not_hold_them(files: Files, tmp_path: Path) -> None:
    rows = [document("train0", "dev", ["a"]), document("gold", "dev", ["a"]), document("new", "dev", ["c"])]
    rows.append(document("train1", "dev", ["a"]) | {"id": "under another id"})
    others = write_lines(tmp_path / "others.jsonl", [*rows, document("x", "test", ["a"])])
    given = Files(files.documents, files.labels, files.verdicts, others, "dev")
    assert ids(read_data(given, 0, 0).ranked) == ["new"]


def test_what_is_not_there_is_told(files: Files, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="--data or EZXMC_DATA"):
        find_files(None, "labels.jsonl", None, None, "test")
    with pytest.raises(UserError, match=r"no file .*nothing\.jsonl: give another one by --verdicts"):
        find_files(str(tmp_path), "labels.jsonl", "nothing.jsonl", None, "test")
    with pytest.raises(UserError, match="no documents of the split dev with gold labels"):
        read_data(Files(files.documents, files.labels, None, files.documents, "dev"), 0, 0)


@pytest.mark.parametrize(
    ("rows", "sentence"),
    [
        ([verdict("train1", ["a"], [0.1, 0.2])], "line 1: label_ids must be different labels"),
        ([verdict("train1", ["a", "a"], [0.1, 0.2])], "line 1: label_ids must be different labels"),
        ([verdict("train1", ["a"], [0.1]), verdict("train1", ["b"], [0.1])], "line 2: the document train1 was there"),
        ([{"id": "train1", "label_ids": []}], "line 1: there is no field 'p_yes'"),
        ([verdict("gold", ["a"], [0.1])], "judges 1 documents that are no train documents"),
        ([verdict("train1", ["q"], [0.1])], "judges 1 labels that .* does not have, such as q"),
    ],
)
def test_verdicts_that_do_not_fit_are_refused(files: Files, rows: list[dict[str, Any]], sentence: str) -> None:
    assert files.verdicts is not None
    write_lines(files.verdicts, rows)
    with pytest.raises(UserError, match=sentence):
        read_data(files, 0, 0)


def test_a_broken_line_is_named(tmp_path: Path) -> None:
    file = tmp_path / "verdicts.jsonl"
    file.write_text(json.dumps(verdict("d", ["a"], [0.5])) + "\n{")
    with pytest.raises(UserError, match="line 2: this is not JSON"):
        read_verdicts(file)


def test_a_perfect_teacher_says_yes_to_gold_and_adds_what_the_shortlist_lacks() -> None:
    verdicts = simulated_verdicts({"d": ["a", "b"], "e": ["c"]}, {"d": ["b", "c"], "e": []})
    assert verdicts == {"d": {"a": 0.0, "b": 1.0, "c": 1.0}, "e": {"c": 0.0}}


def timing(documents: int, seconds: float) -> dict[str, Any]:
    return {"documents": documents, "seconds": seconds, "steps": 4}


def test_training_ratios_are_medians_within_a_round_and_the_first_comparison_is_the_headline() -> None:
    def some(seconds: float) -> dict[str, Any]:
        return {"ezxmc": timing(100, seconds), "st_mnrl": timing(100, 2 * seconds), "st_cached_mnrl": {"error": "no"}}

    rounds = [some(1.0), some(10.0), some(4.0)]
    part = training({("float32", "one"): rounds, ("float32", "shortlist"): [{"ezxmc": timing(50, 1.0)}]})
    assert part.figures["train_documents_per_s"] == {"ezxmc": 25.0, "st_mnrl": 12.5, "st_cached_mnrl": None}
    assert part.figures["train_ratios"] == {"ezxmc": 1.0, "st_mnrl": 2.0, "st_cached_mnrl": None}
    assert part.figures["training"]["float32, whole shortlist"]["documents_per_s"] == {"ezxmc": 50.0}
    assert [row["method"] for row in part.rows] == ["ezxmc", "st_mnrl", "st_cached_mnrl", "ezxmc"]
    assert "st_cached_mnrl could not run here: no." in part.notes
    assert part.figures["train_ratios_with_dropout"] is None


def test_with_dropout_in_both_is_a_comparison_of_its_own() -> None:
    times = {"ezxmc": 1.0, "st_mnrl": 2.0, "st_cached_mnrl": 3.0, "ezxmc_dropout": 2.0}
    part = training({("float32", "one"): [{name: timing(100, seconds) for name, seconds in times.items()}]})
    assert part.figures["train_ratios"]["st_cached_mnrl"] == 3.0
    assert part.figures["train_ratios_with_dropout"] == {"st_mnrl": 1.0, "st_cached_mnrl": 1.5, "ezxmc_dropout": 1.0}
    assert [row["with dropout in both by"] for row in part.rows] == [None, 1.0, 1.5, 1.0]


def test_encoding_is_compared_in_its_own_precision_and_in_float32() -> None:
    one, two = timing(100, 1.0) | {"dtype": "bfloat16"}, timing(100, 2.0) | {"dtype": "float32"}
    rounds = [{"ezxmc": one, "ezxmc_float32": two, "sentence_transformers": timing(100, 3.0) | {"dtype": "float32"}}]
    part = encoding(rounds, (0.9995, 0.9999))
    assert part.figures["encode_documents_per_s"]["ezxmc"] == 100.0
    assert (part.figures["encode_ratio"], part.figures["encode_ratio_float32"]) == (3.0, 1.5)
    assert part.figures["encode_cosine"] == {"min": 0.9995, "mean": 0.9999}
    assert [row["dtype"] for row in part.rows] == ["bfloat16", "float32", "float32"]


def measured(precision: float) -> dict[str, Any]:
    return {"P@1": precision, "P@5": 20.0, "R@10": 50.0, "R@100": 80.0, "steps": 3, "seconds": 1.0}


FACTS = {
    "train_documents": 10,
    "ranked_documents": 5,
    "labels": 3,
    "pairs": 100,
    "share_yes": 0.25,
    "rejected_rows": 1,
    "repeated_documents": 2,
    "held_out_documents": 0,
}


def test_quality_is_the_mean_over_seeds_with_a_row_for_each() -> None:
    part = quality({"untrained": [measured(50.0)], "ezxmc": [measured(56.0), measured(58.0)]}, FACTS)
    assert part.figures["quality"]["ezxmc"]["P@1"] == 57.0
    assert [(row["method"], row.get("seed"), row["P@1"]) for row in part.rows] == [
        ("untrained", None, 50.0),
        ("ezxmc", "0", 56.0),
        ("ezxmc", "1", 58.0),
        ("ezxmc", "mean", 57.0),
    ]
    assert part.notes[1:] == [
        "1 documents were left out by the stage prepare.",
        "2 of the ranked documents have the very text of a train document.",
    ]


def test_the_perfect_teacher_is_called_simulated_wherever_it_shows() -> None:
    part = perfect({"untrained": [measured(50.0)], "ezxmc": [measured(59.5)]}, FACTS)
    assert part.figures["perfect"]["simulated"] is True
    assert part.figures["perfect"]["gain_P@1"] == 9.5
    assert all(row["teacher"] == "simulated" for row in part.rows)
    assert "simulated" in part.title and "Simulated" in part.notes[0]


def test_scaling_is_the_ratio_within_a_round() -> None:
    one, two = timing(100, 10.0) | {"start_seconds": 5.0}, timing(100, 8.0) | {"start_seconds": 9.0}
    part = scaling([{"1": one, "2": two}], 2)
    assert part.figures["scaling"] == {"documents_per_s": {"1": 10.0, "2": 12.5}, "ratio": 1.25}
    assert "The machine has 2 cores" in part.notes[0]


def test_cosines_are_the_rows_own() -> None:
    least, middle = cosines_of(np.array([[1.0, 0.0], [0.0, 2.0]]), np.array([[3.0, 0.0], [1.0, 1.0]]))
    assert least == pytest.approx(np.sqrt(0.5))
    assert middle == pytest.approx((1 + np.sqrt(0.5)) / 2)


def test_a_title_tells_of_the_simulation_only_where_there_is_one() -> None:
    assert "simulated" not in student.title(["speed", "quality"])
    assert "simulated" in student.title(["speed", "perfect"])
