"""``ezxmc tag --rerank``: what the teacher decides, what is kept, what is refused.

The run is made by hand; the teacher is real. One test is on a real Ray, the others on a simulated one, with an engine
that is loaded once.
"""

from __future__ import annotations

import csv
import json
import pickle
import signal
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from common.simulated_ray import simulated_ray
from ezxmc_ray import layout
from ezxmc_ray.config import load_config
from ezxmc_ray.errors import UserError
from ezxmc_ray.run_lock import run_lock
from ezxmc_ray.stages import judge_worker, rerank_worker
from ezxmc_ray.stages import rerank as stage
from ezxmc_ray.storage import Storage, read_manifest, write_manifest
from ezxmc_ray.tables import HASH, NO_DOCUMENT, VERDICTS_SCHEMA, content_hash
from ezxmc_ray.tagging.tagger import Tagger
from ezxmc_ray.teacher.engine import DocumentPairs, load_teacher
from ezxmc_ray.teacher.transformers_engine import TransformersEngine
from ezxmc_ray.verdicts.store import PRIORS, VerdictStore
from tests.student.toy import LABELS
from tests.tagging.made_run import TEACHER, THRESHOLD, make_judged_run, make_run
from tests.teacher.recording import RecordingEngine

Ezxmc = Callable[..., Any]  # conftest.ezxmc
CANDIDATES = 4
#: What the labels score beside no document, once the reference has been asked.
BY_THEMSELVES: dict[str, float] = {}
TEXTS = ["glass and a wheel", "salt", "cloud music, paint", "an iron lamp"]


@pytest.fixture(scope="module")
def real_engine() -> TransformersEngine:
    return TransformersEngine(load_teacher(load_config(None, TEACHER).teacher))


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A finished run whose cycle 0 was judged, as its manifest says; not to be changed."""
    return make_judged_run(tmp_path_factory.mktemp("rerank") / "run")


@pytest.fixture
def engine(real_engine: TransformersEngine, monkeypatch: pytest.MonkeyPatch) -> Iterator[RecordingEngine]:
    """Ray is simulated, and the actor of the stage ``judge`` gets this engine."""
    before, recording = signal.getsignal(signal.SIGTERM), RecordingEngine(real_engine)
    monkeypatch.setattr(judge_worker, "start_watchdog", lambda: None)
    monkeypatch.setattr(judge_worker, "start_engine", lambda config: recording)
    with simulated_ray():
        yield recording
    signal.signal(signal.SIGTERM, before)


def write(path: Path, *texts: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps({"id": f"{path.stem} {text}", "text": text}) + "\n" for text in texts))


def command(run: str, folder: Path, *more: str) -> list[str]:
    return ["tag", run, "--rerank", "--input", str(folder / "in"), "--output", f"{folder}/out/", *more]


def expected(run: str, engine: TransformersEngine, text: str) -> list[tuple[str, float, float, float]]:
    """(label, score, similarity, verdict) of a text, by the engine itself."""
    tagger = Tagger.load(run)
    ranked = tagger.rank([""], [text], CANDIDATES, -1.0)
    labels = [tagger.label_texts[number].as_py() for number in ranked.labels[0]]
    hashes = tuple(content_hash("", label) for label in labels)
    pairs = DocumentPairs(content_hash("", text), "", text, hashes, tuple(labels))
    if not BY_THEMSELVES:
        hashes = tuple(content_hash("", label) for label in LABELS)
        said = engine.judge([DocumentPairs(NO_DOCUMENT, "", "", hashes, tuple(LABELS))]).raw.tolist()
        BY_THEMSELVES.update(zip(LABELS, said, strict=True))
    found = []
    for label, similarity, raw in zip(labels, ranked.scores[0].tolist(), engine.judge([pairs]).raw, strict=True):
        verdict = float(raw) - BY_THEMSELVES[label]
        worth = ((verdict - 0.2) / 0.8 + (similarity - 0.3) / 0.4) / 2**0.5
        found.append((label, worth, similarity, verdict))
    return sorted((one for one in found if one[3] >= THRESHOLD), key=lambda one: -one[1])[:2]


def rows_of(table: Sequence[dict[str, Any]]) -> list[list[tuple[str, float, float, float]]]:
    names = ("label_texts", "scores", "similarities", "verdicts")
    return [list(zip(*(row[name] for name in names), strict=True)) for row in table]


def check(found: list[Any], wanted: list[Any]) -> None:
    assert [[label for label, *_ in row] for row in found] == [[label for label, *_ in row] for row in wanted]
    for row, right in zip(found, wanted, strict=True):
        assert np.allclose([one[1:] for one in row] or [0], [one[1:] for one in right] or [0], atol=1e-4)


@pytest.mark.slow  # processes that start: half a minute of CPU
def test_on_a_cluster_the_teacher_decides(
    run: str, real_engine: TransformersEngine, tmp_path: Path, ezxmc: Ezxmc, joins_ray: None
) -> None:
    write(tmp_path / "in/one.jsonl", *TEXTS[:3], "")
    write(tmp_path / "in/two.jsonl", *TEXTS[3:])
    before = {path: path.stat().st_mtime_ns for path in Path(run).rglob("*")}
    done = ezxmc(*command(run, tmp_path, "teacher.threads=1"))
    assert done.returncode == 0, done.stderr
    assert {path: path.stat().st_mtime_ns for path in Path(run).rglob("*")} == before
    tables = [pq.read_table(tmp_path / f"out/{name}.jsonl.parquet") for name in ("one", "two")]
    names = ["id", "label_ids", "label_texts", "scores", "similarities", "verdicts"]
    assert [table.column_names for table in tables] == [names, names]
    table = pa.concat_tables(tables).to_pylist()
    assert [row["id"] for row in table] == [f"one {text}" for text in TEXTS[:3]] + [f"two {text}" for text in TEXTS[3:]]
    assert all(row["label_ids"] == [f"id {text}" for text in row["label_texts"]] for row in table)
    wanted = [expected(run, real_engine, text) for text in TEXTS]
    check(rows_of(table), wanted)
    assert {len(row) for row in wanted} == {0, 1, 2}  # many labels got a no
    assert pq.read_table(tmp_path / "out/one.jsonl.parquet.rejected.parquet").num_rows == 1
    for said in (
        "is asked about 16 pairs of a document and a label, and about ",
        "The teacher judged 16 pairs and ",
        "1 bad rows were left out",
    ):
        assert said in done.stdout
    assert not (tmp_path / "out/.rerank/documents").exists()


def test_killed_in_either_pass_nothing_is_asked_or_done_twice(
    run: str, engine: RecordingEngine, tmp_path: Path, ezxmc: Ezxmc, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / "in/a/one.jsonl", TEXTS[0])
    write(tmp_path / "in/b/two.jsonl", *TEXTS[1:])
    for module in (stage, rerank_worker):  # the second file has two shards
        monkeypatch.setattr(module, "SHARD_DOCUMENTS", 2)
    monkeypatch.setattr(stage, "DELIVER_EVERY_S", 1e9)  # not before the stop, however slow the machine is
    proposed: list[str] = []
    plain = vars(stage)["map_items"]

    def stops_before_two(items: list[Any], *others: Any) -> Iterator[Any]:
        for item in items:
            if "two" in item["file"] and not proposed[1:]:
                raise KeyboardInterrupt
            proposed.append(item["file"])
            yield from plain([item], *pickle.loads(pickle.dumps(others)))

    monkeypatch.setattr(stage, "map_items", stops_before_two)
    assert ezxmc(*command(run, tmp_path)).returncode == 130
    assert not engine.asked and not list(tmp_path.glob("out/*/*.parquet"))
    proposed.append("from now on all")
    engine.stop = 4  # batches: the labels by themselves, and three documents
    assert ezxmc(*command(run, tmp_path)).returncode == 130
    assert proposed[2:] == ["b/two.jsonl.parquet"] and len(engine.pairs) == 3 * CANDIDATES
    engine.stop = 1 << 30
    done = ezxmc(*command(run, tmp_path))
    assert done.returncode == 0, done.stderr
    assert (
        "is asked about 4 pairs of a document and a label; the other 12 of 16 pairs are answered already."
        in done.stdout
    )
    assert len(proposed) == 3 and len(engine.asked) == len(set(engine.asked)) > len(engine.pairs) == 4 * CANDIDATES
    tags = [pq.read_table(tmp_path / f"out/{name}.jsonl.parquet") for name in ("a/one", "b/two")]
    check(rows_of(pa.concat_tables(tags).to_pylist()), [expected(run, engine.engine, text) for text in TEXTS])
    again = ezxmc(*command(run, tmp_path))
    assert "2 of 2 files were tagged before and are kept." in again.stdout and len(proposed) == 3
    assert again.stdout.splitlines()[-1] == done.stdout.splitlines()[-1]


def test_verdicts_that_are_there_are_used_whatever_file_a_document_is_in(
    run: str, engine: RecordingEngine, tmp_path: Path, ezxmc: Ezxmc
) -> None:
    held_run = make_judged_run(tmp_path / "run")
    storage = Storage(held_run)
    held = dict.fromkeys(LABELS[:2], 9.0) | {LABELS[2]: -99.0}
    pairs = [(content_hash("", TEXTS[0]), content_hash("", label), raw) for label, raw in held.items()]
    pairs += [(content_hash("", f"other {number}"), content_hash("", LABELS[0]), 1.0) for number in range(3)]
    table = [pa.array(one, VERDICTS_SCHEMA.field(at).type) for at, one in enumerate(zip(*pairs, strict=True))]
    table += [pa.array([7] * 6, pa.int32()), pa.array([False] * 6)]
    [key] = {json.loads((tmp_path / "run/cycle-0/examples/manifest.json").read_text())["details"]["teacher"]["key"]}
    store = VerdictStore(storage, key)
    store.append("shard-00003", pa.Table.from_arrays(table, schema=VERDICTS_SCHEMA))
    # A folder whose documents are others is not read, as one notices if it could not be.
    store.write_placement({"document_fingerprint": "", "shard_rows": []})
    storage.write_bytes(f"verdicts/{key}/shard-00004/{'0' * 32}.parquet", b"no table")
    for shard, text in ((3, TEXTS[0]), (4, "another")):
        storage.write_shard(
            layout.DOCUMENTS, shard, pa.table({"content_hash": pa.array([content_hash("", text)], HASH)})
        )
    write(tmp_path / "in/one.jsonl", TEXTS[1], TEXTS[0])
    everything = "predict.rerank_candidates=10"
    done = ezxmc(*command(held_run, tmp_path, everything))
    assert done.returncode == 0, done.stderr
    assert "is asked about 17 pairs" in done.stdout and "the other 3 of 20 pairs" in done.stdout
    assert not {(document, label) for document, label, _ in pairs} & set(engine.asked)
    verdicts = rows_of(pq.read_table(tmp_path / "out/one.jsonl.parquet").to_pylist())[1]
    assert {label for label, *_ in verdicts} == set(LABELS[:2]) and all(one[3] > 9 for one in verdicts)

    # In another file, at another place, and by another threshold: all are in the folder.
    asked = len(engine.asked)
    write(tmp_path / "in/two.jsonl", TEXTS[0], TEXTS[1])
    (tmp_path / "in/one.jsonl").unlink()
    done = ezxmc(*command(held_run, tmp_path, everything, "teacher.yes_threshold=-1000", "predict.top_k=10"))
    assert done.returncode == 0 and "The teacher is asked nothing: 20 of 20 pairs are answered" in done.stdout
    assert len(engine.asked) == asked
    first = rows_of(pq.read_table(tmp_path / "out/two.jsonl.parquet").to_pylist())[0]
    assert len(first) == 10 and min(first, key=lambda one: one[3])[0] == LABELS[2]


def test_the_formats_and_documents_without_candidates(
    run: str, engine: RecordingEngine, tmp_path: Path, ezxmc: Ezxmc
) -> None:
    write(tmp_path / "in/one.jsonl", TEXTS[0], "unknown words alone")
    nothing = ezxmc(*command(run, tmp_path, "predict.min_score=50"))
    assert nothing.returncode == 0 and not engine.asked
    assert "2 documents have no label that the teacher says yes to." in nothing.stdout
    assert pq.read_table(tmp_path / "out/one.jsonl.parquet")["label_ids"].to_pylist() == [[], []]
    for ending in ("parquet", "jsonl", "csv"):
        done = ezxmc(*command(run, tmp_path, "teacher.yes_threshold=-1000", "--format", ending))
        assert done.returncode == 0, done.stderr
    assert len(engine.pairs) == len(set(engine.pairs)) == 2 * CANDIDATES
    table = pq.read_table(tmp_path / "out/one.jsonl.parquet").to_pylist()
    assert [len(row["verdicts"]) for row in table] == [2, 2]
    lines = [json.loads(line) for line in (tmp_path / "out/one.jsonl.jsonl").read_text().splitlines()]
    with (tmp_path / "out/one.jsonl.csv").open() as file:
        cells = [
            {name: value if name == "id" else json.loads(value) for name, value in row.items()}
            for row in csv.DictReader(file)
        ]
    assert lines == cells and [list(row) for row in lines] == [list(table[0])] * 2
    check(rows_of(lines), rows_of(table))


def test_a_teacher_that_looked_like_noise_is_told_of_or_refused(
    engine: RecordingEngine, tmp_path: Path, ezxmc: Ezxmc
) -> None:
    weak_run, sentence = make_judged_run(tmp_path / "run"), "The teacher looks like noise."
    storage = Storage(weak_run)
    judged = read_manifest(storage, layout.examples(0))
    assert judged is not None
    details = judged.details | {"first_pairs": {"sentence": sentence}}
    write_manifest(storage, layout.examples(0), replace(judged, details=details))
    write(tmp_path / "in/one.jsonl", TEXTS[0])
    refused = ezxmc(*command(weak_run, tmp_path, "teacher.on_weak=fail"))
    assert refused.returncode == 2 and sentence.rstrip(".") in refused.stderr and not engine.asked
    done = ezxmc(*command(weak_run, tmp_path))
    assert done.returncode == 0 and sentence in done.stdout


def test_a_folder_that_a_node_does_not_see_is_refused_before_anything_is_proposed(
    run: str, engine: RecordingEngine, tmp_path: Path, ezxmc: Ezxmc, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(what: str, storage: Storage) -> None:
        raise UserError(f"{what} is {storage.path()}.")

    write(tmp_path / "in/one.jsonl", TEXTS[0])
    monkeypatch.setattr(stage, "check_seen", refuse)
    refused = ezxmc(*command(run, tmp_path))
    assert refused.returncode == 2 and f"--output is {tmp_path}/out" in refused.stderr
    assert not engine.asked and not list((tmp_path / "out").rglob("*.parquet"))


def test_another_command_on_the_folder_is_refused(
    run: str, engine: RecordingEngine, tmp_path: Path, ezxmc: Ezxmc
) -> None:
    write(tmp_path / "in/one.jsonl", TEXTS[0])
    with run_lock(Storage(str(tmp_path / "out"))):
        refused = ezxmc(*command(run, tmp_path))
    assert refused.returncode == 2 and "is in use by another ezxmc command" in refused.stderr


REFUSED = {
    "no files": ([], "--rerank asks an LLM about every document, which is for batches: give files by --input"),
    "a file as output": (["--input", "in", "--output", "tags.parquet"], "--rerank asks an LLM about every document"),
    "another prompt": (["teacher.prompt=package"], "teacher.prompt changes what the teacher is asked"),
    "another calibration": (["teacher.calibration=none"], "teacher.calibration changes what the teacher is asked"),
    "another model": (["teacher.model={run}/student"], "is not the one that judged the run"),
    "too many candidates": (
        ["predict.rerank_candidates=5000"],
        "predict.rerank_candidates is 5000, but",
    ),
}


@pytest.mark.parametrize("words", REFUSED.values(), ids=REFUSED.keys())
def test_what_would_be_another_question_is_refused(
    run: str, tmp_path: Path, ezxmc: Ezxmc, words: tuple[list[str], str]
) -> None:
    more, sentence = words
    batch = [] if not more or "--input" in more else ["--input", str(tmp_path), "--output", f"{tmp_path}/out/"]
    done = ezxmc("tag", run, "--rerank", *batch, *(one.format(run=run) for one in more))
    assert done.returncode == 2 and sentence in done.stderr and done.stderr.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_what_has_no_teacher_is_refused(run: str, tmp_path: Path, ezxmc: Ezxmc) -> None:
    bundle, unjudged = tmp_path / "bundle", tmp_path / "unjudged"
    bundle.mkdir()
    (bundle / "bundle.json").write_text("{}")
    make_run(unjudged, settings=TEACHER)
    sentences = dict.fromkeys(("org/name", str(bundle)), "is no run here: give the directory or URI of the run")
    for where, sentence in (sentences | {str(unjudged): "has no verdicts, by whose scale --rerank could"}).items():
        done = ezxmc("tag", where, "--rerank", "--input", str(tmp_path), "--output", f"{tmp_path}/out/")
        assert done.returncode == 2 and sentence in done.stderr


def test_labels_that_come_from_the_run_count_by_themselves_as_it_says(
    run: str, engine: RecordingEngine, tmp_path: Path, ezxmc: Ezxmc
) -> None:
    held_run = make_judged_run(tmp_path / "run")
    key = json.loads((tmp_path / "run/cycle-0/examples/manifest.json").read_text())["details"]["teacher"]["key"]
    rows = [(NO_DOCUMENT, content_hash("", label), -100.0, 7, False) for label in LABELS]
    columns = [pa.array(one, field.type) for one, field in zip(zip(*rows, strict=True), VERDICTS_SCHEMA, strict=True)]
    VerdictStore(Storage(held_run), key).append(PRIORS, pa.Table.from_arrays(columns, schema=VERDICTS_SCHEMA))
    write(tmp_path / "in/one.jsonl", TEXTS[0])
    assert ezxmc(*command(held_run, tmp_path)).returncode == 0
    assert len(engine.asked) == len(engine.pairs) == CANDIDATES
    assert min(pq.read_table(tmp_path / "out/one.jsonl.parquet")["verdicts"].to_pylist()[0]) > 50


def test_ids_that_another_call_would_give_are_given_anew(
    run: str, tmp_path: Path, engine: RecordingEngine, ezxmc: Ezxmc
) -> None:
    """Rows without ids are called by their number, and by their file where there are several."""
    for name, ids in (("a", ["0"]), ("b", ["a-0", "b-0"])):
        (tmp_path / "in").mkdir(exist_ok=True)
        (tmp_path / f"in/{name}.csv").write_text(f"text\n{TEXTS[0]}\n")
        done = ezxmc(*command(run, tmp_path))
        assert done.returncode == 0, done.stderr
        files = sorted((tmp_path / "out").glob("?.csv.parquet"))
        assert [one for file in files for one in pq.read_table(file)["id"].to_pylist()] == ids
