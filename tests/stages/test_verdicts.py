"""The verdict store of whole runs: documents that move, exports, imports, compaction, and the command.

Runs are prepared by the real stage, its tasks one after the other. A fake judge stands in for the teacher: a pair's
score is a hash of its texts' hashes, so that every score that is found can be checked.
"""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import starmap
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from ezxmc_ray import cli, hardware, layout
from ezxmc_ray.config import load_config, to_dict
from ezxmc_ray.errors import UserError
from ezxmc_ray.run_lock import run_lock
from ezxmc_ray.stages import prepare as prepare_stage
from ezxmc_ray.stages.context import Context
from ezxmc_ray.stages.pending import Pending, count_pending
from ezxmc_ray.stages.rehome import rehome, rehome_folder
from ezxmc_ray.stages.verdict_files import export_verdicts, import_verdicts
from ezxmc_ray.stages.verdicts import compact, configured_teacher, held_key, summary
from ezxmc_ray.storage import Manifest, Storage, write_manifest
from ezxmc_ray.tables import EXPORTED_VERDICTS_SCHEMA, NO_DOCUMENT, SHORTLIST_SCHEMA, VERDICTS_SCHEMA, content_hash
from ezxmc_ray.teacher.engine import teacher_key
from ezxmc_ray.teacher.store import ABSENT, PRIORS, VerdictStore

LABELS = 6
PAIRS = LABELS - 1  # a document
ROWS = 4  # documents a shard
KEY = "0123456789abcdef"
DESCRIPTION = {"key": KEY, "model": "org/name", "prompt": "generic v1", "readout": "yes_no"}


def score(document: bytes, label: bytes) -> float:
    """What the fake judge says of a pair: exact in float32, between 0 and 1."""
    return int.from_bytes(hashlib.blake2b(document + label, digest_size=2).digest()) / 65536


def verdicts(pairs: list[tuple[bytes, bytes]]) -> pa.Table:
    documents, labels = zip(*pairs, strict=True)
    columns = [documents, labels, [score(*pair) for pair in pairs], [7] * len(pairs), [False] * len(pairs)]
    return pa.table(
        [pa.array(c, f.type) for c, f in zip(columns, VERDICTS_SCHEMA, strict=True)], schema=VERDICTS_SCHEMA
    )


@dataclass
class Run:
    """A run directory with a prepared input and a shortlist of every label but one for every document."""

    context: Context
    asked: int = 0

    @property
    def storage(self) -> Storage:
        return self.context.storage

    @property
    def path(self) -> str:
        return self.storage.root

    def store(self, key: str = KEY) -> VerdictStore:
        return VerdictStore(self.storage, key)

    def pending(self, key: str = KEY) -> int:
        return sum(count_pending(self.storage, key, 0, shard) for shard in range(self.context.shards))

    def judge(self, key: str = KEY) -> list[str]:
        """Judge what is pending, a batch of two documents at a time; returns the texts that were asked about."""
        rehome(self.context, key, starmap)
        self.store(key).write_description({**DESCRIPTION, "key": key})
        pending = Pending(self.storage, key, 0)
        texts = []
        for shard in range(self.context.shards):
            for start in range(0, ROWS, 2):
                documents = pending.documents(shard, start, start + 2)
                pairs = [(one.document_hash, label) for one in documents for label in one.label_hashes]
                if pairs:
                    cost = {"computed_tokens": 3 * len(pairs), "engine_ms": 500}
                    pending.store.append(layout.shard_name(shard), verdicts(pairs), cost)
                texts += [one.text for one in documents for _ in one.label_hashes]
        return texts

    def judge_priors(self) -> None:
        labels = [content_hash("", f"label {n}") for n in range(LABELS)]
        self.store().append(PRIORS, verdicts([(NO_DOCUMENT, label) for label in labels]))

    def check_scores(self, key: str = KEY) -> None:
        """Every pair of the shortlists has the fake judge's score."""
        pending = Pending(self.storage, key, 0)
        for shard in range(self.context.shards):
            pairs = pending.pairs(shard)
            raw = pending.store.lookup(layout.shard_name(shard), pairs["document_hash"], pairs["label_hash"])
            assert raw.tolist() == list(map(score, pairs["document_hash"], pairs["label_hash"]))


@pytest.fixture
def make_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Run]:
    """``make_run(texts, name="run")``: a run with these documents, ids d<text>; an existing one is prepared anew."""
    monkeypatch.setattr(prepare_stage, "run_tasks", starmap)
    monkeypatch.setattr(prepare_stage, "run_task", lambda function, *arguments: function(*arguments))
    teacher = tmp_path / "teacher"
    teacher.mkdir()
    (teacher / "config.json").write_text("{}")  # enough to have a key
    labels = [{"id": f"L{n}", "text": f"label {n}"} for n in range(LABELS)]
    (tmp_path / "labels.jsonl").write_text("".join(json.dumps(one) + "\n" for one in labels))

    def make(texts: list[str], name: str = "run") -> Run:
        ids = [f"d{text}" if text not in texts[:place] else f"again {place}" for place, text in enumerate(texts)]
        documents = [{"id": one, "text": text} for one, text in zip(ids, texts, strict=True)]
        (tmp_path / "documents.jsonl").write_text("".join(json.dumps(one) + "\n" for one in documents))
        config = load_config(
            None,
            [
                f"run={tmp_path / name}",
                f"prepare.documents=[{tmp_path / 'documents.jsonl'}]",
                f"prepare.labels=[{tmp_path / 'labels.jsonl'}]",
                f"prepare.shard_rows={ROWS}",
                f"teacher.model={teacher}",
            ],
        )
        storage = Storage(config.run)
        storage.write_bytes("config.yaml", yaml.safe_dump(to_dict(config)).encode())
        run = Run(Context(config, storage))
        rows, files, details = prepare_stage.prepare(run.context)
        write_manifest(storage, "documents", Manifest("prepare", "f", rows, 1.0, files, details))
        for shard, count in enumerate(details["shard_rows"]):
            shortlist = {"labels": list(range(PAIRS)), "similarity": [0.0] * PAIRS}
            shortlists = [{"row": row, **shortlist} for row in range(count)]
            storage.write_shard("cycle-0/shortlist", shard, pa.Table.from_pylist(shortlists, SHORTLIST_SCHEMA))
        return run

    return make


def names(*numbers: int) -> list[str]:
    return [f"text {number}" for number in numbers]


OLD = names(*range(18))


def call(capsys: pytest.CaptureFixture[str], *argv: str) -> tuple[int, str, str]:
    capsys.readouterr()
    with pytest.raises(SystemExit) as caught:
        cli.main(["verdicts", *argv])
    printed = capsys.readouterr()
    return int(caught.value.code or 0), printed.out, printed.err


# Documents that move.


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

    assert rehome(first.context, KEY, counted) == 0
    assert calls == []
    run = make_run(names(200) + OLD)

    def killed(function: Callable[..., Any], arguments: Any) -> list[Any]:
        if function is rehome_folder:
            rehome_folder(*arguments[0])
            rehome_folder(*arguments[1])
            raise KeyboardInterrupt
        return list(starmap(function, arguments))

    with pytest.raises(KeyboardInterrupt):
        rehome(run.context, KEY, killed)
    assert rehome(run.context, KEY, counted) == 2 * PAIRS  # four documents move, two have moved
    assert calls == ["write_homes", "rehome_folder"]
    assert run.pending() == PAIRS
    assert rehome(run.context, KEY, counted) == 0
    assert len(calls) == 2
    assert not run.storage.exists("verdicts/homes.parquet")


def test_many_changes_do_not_pile_up_copies(make_run: Callable[..., Run]) -> None:
    texts = OLD
    for number in range(6):
        run = make_run(texts)
        run.judge()
        texts = names(300 + number) + texts
    held = sum(run.storage.rows(name) for folder in run.store().folders() for name in run.store().files(folder))
    assert held <= len(texts) * PAIRS * 3  # a document was in three shards at most
    run.check_scores()


# Compaction.


def test_compaction_leaves_a_file_a_folder_and_the_same_answers(
    make_run: Callable[..., Run], capsys: pytest.CaptureFixture[str]
) -> None:
    make_run(OLD).judge()
    run = make_run(names(101) + OLD[:-1])
    run.judge()
    run.judge_priors()
    before = summary(run.context)
    status, out, _ = call(capsys, run.path, "--compact")
    assert (status, out) == (0, f"Made 6 files of {before[0]['files']}\n")
    after = summary(run.context)
    assert before[0] | {"files": 6} == after[0]
    assert run.pending() == 0
    run.check_scores()
    rows = [len(run.store().read(layout.shard_name(shard))) for shard in range(run.context.shards)]
    assert rows[:4] == [ROWS * PAIRS] * 4
    assert rows[4] == (2 + 1) * PAIRS  # two documents, and the one that is in no shard now
    assert make_run(OLD).judge() == []


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


# Export and import.


def test_an_export_imported_into_an_empty_run_of_the_same_data_leaves_nothing_pending(
    make_run: Callable[..., Run], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = make_run(OLD)
    run.judge()
    run.judge_priors()
    total = len(OLD) * PAIRS + LABELS
    file = str(tmp_path / "out" / "verdicts.parquet")
    assert call(capsys, run.path, "--export", file) == (0, f"Exported {total} verdicts to {file}\n", "")
    other = make_run(OLD[::-1], "other")
    assert other.pending() == len(OLD) * PAIRS
    status, out, _ = call(capsys, other.path, "--import", file)
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
    _, out, _ = call(capsys, other.path, "--import", file)
    assert f"Imported 0 verdicts of the teacher {KEY}; {total} more" in out
    export_verdicts(other.context, str(tmp_path / "again.parquet"), KEY)
    order = [("document_hash", "ascending"), ("label_hash", "ascending")]
    first, again = (pq.read_table(name).sort_by(order) for name in (file, tmp_path / "again.parquet"))
    assert first.equals(again)


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


def by_hand(path: Path, **columns: list[Any]) -> str:
    pq.write_table(pa.table(columns), path)
    return str(path)


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
    (row,) = summary(run.context)
    assert row["model"] == run.context.config.teacher.model
    assert row["pairs"] == len(pairs)
    assert row["share of yes"] == f"{np.mean([hash_bit(*pair) for pair in pairs]):.1%}"


@pytest.mark.parametrize("there", [True, False])
def test_the_configured_teacher_is_the_one_of_the_runs_verdicts_on_every_machine(
    make_run: Callable[..., Run], monkeypatch: pytest.MonkeyPatch, there: bool
) -> None:
    """With teacher.dtype=auto, which is another dtype where a run is looked at than where it was judged."""
    monkeypatch.setattr(hardware, "cpu_has_bfloat16", lambda: there)
    run = make_run(OLD)
    config, own = run.context.config.teacher, "bfloat16" if there else "float32"
    keys = {dtype: teacher_key(replace(config, dtype=dtype)) for dtype in ("bfloat16", "float16", "float32")}
    assert configured_teacher(run.context).dtype == own  # of a run that holds no verdicts
    run.judge(keys["float16"])
    assert configured_teacher(run.context).dtype == "float16"
    assert held_key(run.context, "configured") == keys["float16"]
    run.judge(keys["float32"])
    with pytest.raises(UserError, match=r"in float16 and float32: set teacher\.dtype in its"):
        held_key(run.context, "configured")
    for dtype in ("float16", "float32"):
        details = {"teacher": {"dtype": dtype, "key": keys[dtype]}}
        write_manifest(run.context.storage, "cycle-0/examples", Manifest("judge", "", 1, 1.0, [], details))
        assert configured_teacher(run.context).dtype == dtype


def hash_bit(document: str, label: str) -> int:
    """0 or 1, whole numbers as people give them."""
    return hashlib.blake2b(f"{document} {label}".encode()).digest()[0] % 2


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


def test_an_import_finds_what_is_held_after_documents_have_moved(make_run: Callable[..., Run], tmp_path: Path) -> None:
    make_run(OLD).judge()
    run = make_run(names(101) + OLD)
    columns = {"document_id": [f"d{OLD[3]}", f"d{names(101)[0]}"], "label_id": ["L0", "L0"], "raw": [0.5, 0.5]}
    assert import_verdicts(run.context, by_hand(tmp_path / "a.parquet", **columns), KEY).new == 1
    assert len(run.judge()) == PAIRS - 1


GOOD = {"document_id": [f"d{text}" for text in OLD[:4]], "label_id": ["L0", "L1", "L2", "L3"], "raw": [0.5] * 4}
BAD_FILES = {
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
    status, out, err = call(capsys, run.path, "--import", file, "--teacher", "people")
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
    status, _, err = call(capsys, run.path, "--import", str(tmp_path / "edited.parquet"))
    assert (status, err.count("\n")) == (2, 1)
    assert "edited.parquet cannot be read" in err


def test_a_broken_note_on_the_layout_only_brings_verdicts_home_again(make_run: Callable[..., Run]) -> None:
    run = make_run(OLD)
    run.judge()
    for name in ("layout", "teacher"):
        (Path(run.path) / "verdicts" / KEY / f"{name}.json").write_text("{")
    assert run.pending() == 0
    assert run.judge() == []
    assert summary(run.context)[0]["pairs"] == len(OLD) * PAIRS


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
        (["--import", file], "does not say whose verdicts it holds: give --teacher configured"),
        (["--import", file, "--teacher", "../people"], "'../people' cannot name a teacher"),
        (["--import", export, "--teacher", "people"], f"is an export of the teacher {KEY} and goes under its key"),
        (["--import", str(tmp_path / "none.parquet")], "There is no file"),
        (["--import", str(tmp_path)], "is a directory; name a file"),
        (["--import", str(tmp_path / "text.parquet")], "cannot be read"),
        (["--import", broken, "--teacher", "people"], "cannot be read"),
        (["--import", without, "--teacher", "people"], "has no column 'label_id'"),
        (["--import", file, "--export", file], "one of --export, --import and --compact"),
        (["--export", str(tmp_path)], "is a directory; name a file"),
        (["--export", file, "--teacher", "people"], f"holds no verdicts of the teacher people, only those of {KEY}"),
        (["--compact", "--teacher", "people"], "holds no verdicts of the teacher people"),
    ):
        status, out, err = call(capsys, run.path, *argv)
        assert (status, out) == (2, "")
        assert words in err and err.count("\n") == 1, err
    assert call(capsys, str(tmp_path))[2].startswith(f"ezxmc: {tmp_path} is not a run")


def test_a_run_without_verdicts_or_documents(
    make_run: Callable[..., Run], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = make_run(OLD)
    assert call(capsys, run.path) == (0, "The run holds no verdicts yet\n", "")
    assert "holds no verdicts: judge with" in call(capsys, run.path, "--export", str(tmp_path / "a.parquet"))[2]
    (tmp_path / "run" / "documents" / "manifest.json").unlink()
    status, _, err = call(capsys, run.path, "--import", by_hand(tmp_path / "b.parquet", **GOOD), "--teacher", "people")
    assert (status, err) == (2, f"ezxmc: The run {run.path} has no documents yet: give ezxmc prepare first.\n")


# The table.


def test_the_table_shows_every_teacher_with_each_pair_once(
    make_run: Callable[..., Run], capsys: pytest.CaptureFixture[str]
) -> None:
    make_run(OLD).judge()
    run = make_run(names(101) + OLD)
    run.judge()
    run.judge_priors()
    run.store("fedcba").append("shard-00000", verdicts([(bytes([n]) * 16, bytes(16)) for n in range(1, 4)]))
    for cycle, (pairs, share) in enumerate([(300, 0.25), (100, 0.5)]):
        judged = Manifest("judge", "f", pairs, 1.0, details={"teacher": {"key": KEY}, "share_yes": share})
        write_manifest(run.storage, f"cycle-{cycle}/examples", judged)
    own, other = summary(run.context)
    pairs = 19 * PAIRS
    assert own == {
        "teacher": KEY,
        "model": "org/name",
        "prompt": "generic v1",
        "readout": "yes_no",
        "pairs": pairs,
        "priors": LABELS,
        "share of yes": "31.2%",
        "engine seconds": 5.0,
        "prompt tokens": 7 * (pairs + LABELS),
        "computed tokens": 3 * pairs,
        "files": own["files"],
    }
    assert own["files"] == len(list(Path(run.path, "verdicts", KEY).rglob("*.parquet")))
    assert (other["teacher"], other["pairs"], other["model"], other["share of yes"]) == ("fedcba", 3, None, None)
    lines = [line.split() for line in call(capsys, run.path)[1].splitlines()]
    assert ["teacher", KEY, "fedcba"] in lines
    assert ["model", "org/name", "–"] in lines
    assert ["pairs", "95", "3"] in lines
    assert ["share", "of", "yes", "31.2%", "–"] in lines
    assert ["engine", "seconds", "5.0", "0.0"] in lines


def test_the_share_of_yes_of_another_teacher_is_by_the_split_of_its_scores(
    make_run: Callable[..., Run], tmp_path: Path
) -> None:
    run = make_run(OLD)
    raw = [0.01] * 12 + [0.98] * 6
    columns = {"document_id": [f"d{text}" for text in OLD], "label_id": ["L0"] * 18, "raw": raw}
    import_verdicts(run.context, by_hand(tmp_path / "people.parquet", **columns), "people")
    assert summary(run.context)[0]["share of yes"] == "33.3%"


def test_the_command_needs_no_ray(make_run: Callable[..., Run]) -> None:
    run = make_run(OLD)
    run.judge()
    code = (
        "import sys; from ezxmc_ray import cli\n"
        f"try: cli.main(['verdicts', {run.path!r}])\n"
        "except SystemExit as done: assert done.code == 0\n"
        "assert not {'ray', 'torch', 'vllm'} & set(sys.modules), set(sys.modules) & {'ray', 'torch', 'vllm'}"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
