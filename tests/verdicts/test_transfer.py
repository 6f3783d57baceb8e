"""Exports and imports: of a teacher, of another name, of people; what is not a file of verdicts."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from ezxmc_ray import hardware
from ezxmc_ray.config import apply_overrides
from ezxmc_ray.errors import UserError
from ezxmc_ray.run_lock import run_lock
from ezxmc_ray.storage import Storage
from ezxmc_ray.tables import EXPORTED_VERDICTS_SCHEMA, content_hash
from ezxmc_ray.teacher.engine import describe, teacher_key
from ezxmc_ray.verdicts.dtypes import with_dtype_by_hand
from ezxmc_ray.verdicts.store import ABSENT, BY_HAND, PRIORS
from ezxmc_ray.verdicts.summary import compact, configured_teacher, summary
from ezxmc_ray.verdicts.transfer import export_verdicts, import_verdicts
from tests.verdicts.judged_run import DESCRIPTION, KEY, LABELS, OLD, PAIRS, Run, by_hand, call, names, score


def test_an_export_imported_into_an_empty_run_of_the_same_data_leaves_nothing_pending(
    make_run: Callable[..., Run], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = make_run(OLD)
    run.judge()
    run.judge_priors()
    total = len(OLD) * PAIRS + LABELS
    file = str(tmp_path / "out" / "verdicts.parquet")
    assert call(capsys, "export", run.path, file) == (0, f"Exported {total} verdicts to {file}\n", "")
    other = make_run(OLD[::-1], "other")
    assert other.pending() == len(OLD) * PAIRS
    status, out, _ = call(capsys, "import", other.path, file)
    assert status == 0
    assert out == (
        f"Imported {total} verdicts of the teacher {KEY}; 0 more in the file were held already and stay as they were\n"
    )
    assert other.pending() == 0
    other.check_scores()
    assert other.store().description() == DESCRIPTION
    cost, told = (summary(one.context)[0] for one in (run, other))
    assert cost["engine seconds"] == 0.5 * len(OLD) / 2  # a batch of two documents
    assert told["engine seconds"] == pytest.approx(cost["engine seconds"], abs=0.01)
    assert told["computed tokens"] == pytest.approx(cost["computed tokens"], abs=10)
    priors = other.store().read(PRIORS)
    assert priors.equals(run.store().read(PRIORS))
    _, out, _ = call(capsys, "import", other.path, file)
    assert f"Imported 0 verdicts of the teacher {KEY}; {total} more" in out
    export_verdicts(other.context, str(tmp_path / "again.parquet"), KEY)
    order = [("document_hash", "ascending"), ("label_hash", "ascending")]
    first, again = (pq.read_table(name).sort_by(order) for name in (file, tmp_path / "again.parquet"))
    assert first.equals(again)


def test_a_run_whose_manifest_of_documents_is_damaged_is_a_sentence(
    make_run: Callable[..., Run], tmp_path: Path
) -> None:
    run = make_run(OLD)
    run.judge()
    export_verdicts(run.context, str(tmp_path / "out.parquet"), None)
    run.storage.write_bytes("documents/manifest.json", b"{")
    for work in (
        lambda: import_verdicts(run.context, str(tmp_path / "out.parquet"), None),
        lambda: export_verdicts(run.context, str(tmp_path / "again.parquet"), None),
        lambda: summary(run.context),
    ):
        with pytest.raises(
            UserError, match=r"documents/manifest\.json is damaged \(not the manifest that was written\)"
        ):
            work()


def test_an_export_replaces_exports_alone(
    make_run: Callable[..., Run], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = make_run(OLD)
    run.judge()
    (tmp_path / "link").symlink_to(tmp_path / "run")
    by_hand(tmp_path / "people.parquet", document_id=["dtext 0"], label_id=["L0"], raw=[1.0])
    (tmp_path / "notes.txt").write_text("mine")
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    for file, why in (
        ("run/labels.parquet", "lies in the run directory under a name that the run writes itself"),
        ("run/verdicts/new.parquet", "lies in the run directory under a name"),
        ("link/gold/shard-00000.parquet", "lies in the run directory under a name"),
        ("people.parquet", "is there and is no export of verdicts, so it is not replaced"),
        ("notes.txt", "is there and is no export of verdicts"),
    ):
        status, _, said = call(capsys, "export", run.path, str(tmp_path / file))
        assert status == 2 and why in said
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before
    for _ in range(2):
        assert call(capsys, "export", run.path, str(tmp_path / "run/export.parquet"))[0] == 0


def test_an_export_names_documents_and_labels_that_the_run_has(make_run: Callable[..., Run], tmp_path: Path) -> None:
    make_run(OLD).judge()
    run = make_run(names(70) + OLD[1:])
    run.judge()
    export_verdicts(run.context, str(tmp_path / "out.parquet"), None)
    table = pq.read_table(tmp_path / "out.parquet")
    assert table.schema == EXPORTED_VERDICTS_SCHEMA
    assert json.loads(table.schema.metadata[b"ezxmc.teacher"]) == DESCRIPTION
    texts = {content_hash("", text): text for text in [*OLD, *names(70)]}
    labels = {content_hash("", f"label {n}"): f"L{n}" for n in range(LABELS)}
    seen = set()
    for row in table.to_pylist():
        text = texts[row["document_hash"]]
        assert row["document_id"] == (None if text == OLD[0] else f"d{text}")
        assert row["label_id"] == labels[row["label_hash"]]
        assert row["raw"] == score(row["document_hash"], row["label_hash"])
        assert (row["prompt_tokens"], row["truncated"]) == (7, False)
        seen.add((text, row["label_id"]))
    assert len(seen) == table.num_rows == 19 * PAIRS


def test_verdicts_on_documents_that_a_run_lacks_wait_for_them(make_run: Callable[..., Run], tmp_path: Path) -> None:
    run = make_run(OLD)
    run.judge()
    export_verdicts(run.context, str(tmp_path / "out.parquet"), None)
    other = make_run(OLD[:5], "other")
    assert import_verdicts(other.context, str(tmp_path / "out.parquet"), None).new == len(OLD) * PAIRS
    assert len(other.store().read(ABSENT)) == (len(OLD) - 5) * PAIRS
    assert make_run(OLD, "other").judge() == []


def test_peoples_verdicts_can_be_the_configured_teachers(
    make_run: Callable[..., Run], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hardware, "cpu_has_bfloat16", lambda: False)
    run = make_run(OLD)
    pairs = [(f"d{text}", f"L{n}") for text in OLD for n in range(PAIRS)]
    file = by_hand(
        tmp_path / "people.parquet",
        document_id=[d for d, _ in pairs],
        label_id=[n for _, n in pairs],
        raw=[hash_bit(*pair) for pair in pairs],
        remark=["seen"] * len(pairs),
    )
    key = teacher_key(replace(run.context.config.teacher, dtype="float32"))
    done = import_verdicts(run.context, file, "configured")
    assert (done.key, done.pairs, done.new) == (key, len(pairs), len(pairs))
    assert run.pending(key) == 0
    run.store(key).write_description(describe(replace(run.context.config.teacher, dtype="float32")))  # as judge does
    monkeypatch.setattr(hardware, "cpu_has_bfloat16", lambda: True)  # a machine of another kind
    for settled in (with_dtype_by_hand(run.storage, run.context.config.teacher), configured_teacher(run.context)):
        assert settled.dtype == "float32"
    assert import_verdicts(run.context, file, "configured").new == 0
    export_verdicts(run.context, str(tmp_path / "out.parquet"), None)
    told = json.loads(pq.read_table(tmp_path / "out.parquet").schema.metadata[b"ezxmc.teacher"])
    assert told["key"] == key and BY_HAND not in told
    (row,) = summary(run.context)
    assert row["model"] == run.context.config.teacher.model
    assert row["pairs"] == len(pairs)
    assert row["share of yes"] == f"{np.mean([hash_bit(*pair) for pair in pairs]):.1%}"


def test_an_export_of_an_older_version_does_not_settle_another_runs_format(
    make_run: Callable[..., Run], tmp_path: Path
) -> None:
    """Which says that some of the verdicts were made by hand: somebody imported them as that run's teacher's."""
    run, file = make_run(OLD), tmp_path / "out.parquet"
    run.judge()
    export_verdicts(run.context, str(file), None)
    table = pq.read_table(file)
    marked = {**table.schema.metadata, b"ezxmc.teacher": json.dumps(DESCRIPTION | {BY_HAND: True})}
    pq.write_table(table.replace_schema_metadata(marked), file)
    other = make_run(OLD, "other")
    assert import_verdicts(other.context, str(file), None).new == len(OLD) * PAIRS
    assert other.store().description() == DESCRIPTION and not other.store().is_by_hand()


def test_a_new_name_is_a_teacher_of_its_own_and_what_is_held_stays(
    make_run: Callable[..., Run], tmp_path: Path
) -> None:
    run = make_run(OLD)
    columns = {"document_id": [f"d{OLD[0]}", f"d{OLD[9]}"], "label_id": ["L1", "L1"]}
    first = by_hand(tmp_path / "a.parquet", **columns, raw=[0.25, 0.5])
    assert import_verdicts(run.context, first, "our.librarians").new == 2
    columns = {"document_id": [f"d{OLD[0]}"] * 3, "label_id": ["L1", "L2", "L2"]}
    second = by_hand(tmp_path / "b.parquet", **columns, raw=[0.75, 0.75, 0.75])
    done = import_verdicts(run.context, second, "our.librarians")
    assert (done.pairs, done.new) == (2, 1)
    store = run.store("our.librarians")
    hashes = [content_hash("", OLD[0])] * 2, [content_hash("", f"label {n}") for n in (1, 2)]
    assert store.lookup("shard-00000", *hashes).tolist() == [0.25, 0.75]
    assert len(store.read("shard-00002")) == 1
    assert [row["teacher"] for row in summary(run.context)] == ["our.librarians"]


def hash_bit(document: str, label: str) -> int:
    """0 or 1, whole numbers as people give them."""
    return hashlib.blake2b(f"{document} {label}".encode()).digest()[0] % 2


def test_an_import_finds_what_is_held_after_documents_have_moved(make_run: Callable[..., Run], tmp_path: Path) -> None:
    make_run(OLD).judge()
    run = make_run(names(101) + OLD)
    columns = {"document_id": [f"d{OLD[3]}", f"d{names(101)[0]}"], "label_id": ["L0", "L0"], "raw": [0.5, 0.5]}
    assert import_verdicts(run.context, by_hand(tmp_path / "a.parquet", **columns), KEY).new == 1
    assert len(run.judge()) == PAIRS - 1


GOOD = {"document_id": [f"d{text}" for text in OLD[:4]], "label_id": ["L0", "L1", "L2", "L3"], "raw": [0.5] * 4}
BAD_FILES: dict[str, tuple[dict[str, Any], str]] = {
    "an unknown document": (
        {"document_id": [f"d{OLD[0]}", "gone", f"d{OLD[1]}", "lost"]},
        "2 rows name a document that the run RUN does not have; the first is row 2 ('gone')",
    ),
    "an unknown label": (
        {"label_id": ["L0", "L1", "X", "L3"]},
        "1 rows name a label that the run RUN does not have; the first is row 3 ('X')",
    ),
    "a score that is no number": (
        {"raw": [0.5, float("nan"), float("inf"), 0.5]},
        "2 rows have a raw score that is no finite number; the first is row 2 (nan)",
    ),
    "no score": ({"raw": [0.5, 0.5, 0.5, None]}, "1 rows have no raw; the first is row 4 (empty)"),
    "a score that is no probability": (
        {"raw": [0.5, 1.5, -0.5, 1.0]},
        "2 rows have a raw score outside [0, 1] (read-out yes_no); the first is row 2 (1.5)",
    ),
    "a pair with two scores": (
        {"document_id": [f"d{OLD[0]}"] * 4, "label_id": ["L0", "L1", "L0", "L1"], "raw": [0.5, 0.25, 0.5, 0.75]},
        "1 rows give a pair another raw score than an earlier row does; the first is row 4 (0.75, but 0.25 in row 2)",
    ),
}


@pytest.mark.parametrize("name", BAD_FILES)
def test_a_bad_import_is_one_sentence_and_imports_nothing(
    make_run: Callable[..., Run], tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    run = make_run(OLD)
    columns, words = BAD_FILES[name]
    file = by_hand(tmp_path / "bad.parquet", **{**GOOD, **columns})
    status, out, err = call(capsys, "import", run.path, file, "--teacher", "people")
    words = words.replace("RUN", run.path)
    end = ": correct them or leave them out; nothing was imported."
    assert (status, out, err) == (2, "", f"ezxmc: {file}: {words}{end}\n")
    assert not (tmp_path / "run" / "verdicts").exists()


TEACHERS = ["[1]", '"x"', '{"key": "../x"}', "{}", '{"key": "zzz", "readout": "bogus"}', "{"]
NONSENSE = [
    *({"ezxmc.teacher": note} for note in TEACHERS),
    *({"ezxmc.teacher": json.dumps(DESCRIPTION), "ezxmc.costs": note} for note in ("[1]", '{"engine_ms": "x"}', "{")),
]


@pytest.mark.parametrize("notes", NONSENSE)
def test_an_export_that_says_nonsense_of_its_teacher_or_costs_is_refused(
    make_run: Callable[..., Run], tmp_path: Path, capsys: pytest.CaptureFixture[str], notes: dict[str, str]
) -> None:
    run = make_run(OLD)
    run.judge()
    export_verdicts(run.context, str(tmp_path / "export.parquet"), None)
    table = pq.read_table(tmp_path / "export.parquet").replace_schema_metadata(notes)
    pq.write_table(table, tmp_path / "edited.parquet")
    status, _, err = call(capsys, "import", run.path, str(tmp_path / "edited.parquet"))
    assert (status, err.count("\n")) == (2, 1)
    assert "edited.parquet cannot be read" in err


def test_a_file_that_cannot_be_imported_says_why(
    make_run: Callable[..., Run], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = make_run(OLD)
    run.judge()
    file = by_hand(tmp_path / "good.parquet", **GOOD)
    export = str(tmp_path / "export.parquet")
    export_verdicts(run.context, export, None)
    (tmp_path / "text.parquet").write_text("no Parquet")
    broken = by_hand(tmp_path / "broken.parquet", **{**GOOD, "raw": ["yes"] * 4})
    without = by_hand(tmp_path / "without.parquet", document_id=["a"], raw=[0.5])
    for argv, words in (
        (["import", file], "does not say whose verdicts it holds: give --teacher configured"),
        (["import", file, "--teacher", "../people"], "'../people' cannot name a teacher"),
        (["import", export, "--teacher", "people"], f"is an export of the teacher {KEY} and goes under its key"),
        (["import", str(tmp_path / "none.parquet")], "There is no file"),
        (["import", str(tmp_path)], "is a directory; name a file"),
        (["import", str(tmp_path / "text.parquet")], "cannot be read"),
        (["import", broken, "--teacher", "people"], "cannot be read"),
        (["import", without, "--teacher", "people"], "has no column 'label_id'"),
        (["export", str(tmp_path)], "is a directory; name a file"),
        (["export", file, "--teacher", "people"], f"holds no verdicts of the teacher people, only those of {KEY}"),
        (["compact", "--teacher", "people"], "holds no verdicts of the teacher people"),
    ):
        status, out, err = call(capsys, argv[0], run.path, *argv[1:])
        assert (status, out) == (2, "")
        assert words in err and err.count("\n") == 1, err
    assert call(capsys, "show", str(tmp_path))[2].startswith(f"ezxmc: {tmp_path} is not a run")


def test_a_run_in_use_is_neither_compacted_nor_imported_into(make_run: Callable[..., Run], tmp_path: Path) -> None:
    run = make_run(OLD)
    run.judge()
    export_verdicts(run.context, str(tmp_path / "out.parquet"), None)
    with run_lock(Storage(run.path)):
        for ask in (
            lambda: compact(run.context),
            lambda: import_verdicts(run.context, str(tmp_path / "out.parquet"), None),
        ):
            with pytest.raises(UserError, match="is in use by another ezxmc command"):
                ask()


def test_a_run_without_verdicts_or_documents(
    make_run: Callable[..., Run], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = make_run(OLD)
    assert call(capsys, "show", run.path) == (0, "The run holds no verdicts yet\n", "")
    assert "holds no verdicts: judge with" in call(capsys, "export", run.path, str(tmp_path / "a.parquet"))[2]
    (tmp_path / "run" / "documents" / "manifest.json").unlink()
    status, _, err = call(capsys, "import", run.path, by_hand(tmp_path / "b.parquet", **GOOD), "--teacher", "people")
    assert (status, err) == (2, f"ezxmc: The run {run.path} has no documents yet: give ezxmc prepare first.\n")


def test_yes_and_no_are_no_log_likelihoods(make_run: Callable[..., Run], tmp_path: Path) -> None:
    """1 would be beyond the surest yes, and 0 the surest: people's no would count as a yes."""
    run = make_run(OLD)
    run.context = replace(run.context, config=apply_overrides(run.context.config, ["teacher.readout=likelihood"]))
    pairs = {"document_id": [f"d{OLD[0]}"] * 2, "label_id": ["L0", "L1"]}
    for raw in ([1.0, 0.0], [-2.0, 0.0]):
        file = by_hand(tmp_path / "people.parquet", **pairs, raw=raw)
        with pytest.raises(
            UserError, match=r"no log likelihood, which is negative .*; for verdicts of 0 and 1 set teach"
        ):
            import_verdicts(run.context, file, "configured")
    assert import_verdicts(run.context, by_hand(tmp_path / "l.parquet", **pairs, raw=[-2, -3]), "configured").new == 2


def test_a_text_that_lies_in_several_shards_is_paid_for_once(make_run: Callable[..., Run], tmp_path: Path) -> None:
    run = make_run(OLD)
    run.judge()
    file = str(tmp_path / "out.parquet")
    export_verdicts(run.context, file, None)
    other = make_run([*OLD, *OLD], "other")
    assert other.context.shards > run.context.shards
    assert import_verdicts(other.context, file, None).new == len(OLD) * PAIRS
    cost, told = (summary(one.context)[0] for one in (run, other))
    assert told["pairs"] == cost["pairs"]
    assert told["engine seconds"] == pytest.approx(cost["engine seconds"], abs=0.01)
    assert other.pending() == 0
