"""A pair that is asked twice, in a whole run and in ``tag --rerank``: asked once by each read-out, kept over a kill,
counted, and of one verdict. The engines are real, of a tiny network with random weights; Ray is simulated.
"""

from __future__ import annotations

import json
import math
import shutil
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Any
from unittest import mock

import pyarrow.parquet as pq
import pytest
from transformers import AutoModelForCausalLM

from common.simulated_ray import simulated_ray
from ezxmc_ray import cli
from ezxmc_ray.config import TeacherConfig, load_config
from ezxmc_ray.stages import judge, judge_worker
from ezxmc_ray.tables import NO_DOCUMENT
from ezxmc_ray.teacher.engine import load_teacher
from ezxmc_ray.teacher.transformers_engine import TransformersEngine
from tests.teacher.recording import RecordingEngine
from tests.teacher.tiny import save_tiny_llm

Ezxmc = Callable[..., Any]  # conftest.ezxmc
#: Documents of the input: of them taught, held out, and tested.
DOCUMENTS, LABELS, SIZE = 16, ["baking", "chess", "sailing", "medicine", "law"], 3
SETTINGS = [
    "encoder.dtype=float32",
    f"shortlist.size={SIZE}",
    "prepare.held_out_share=0.25",
    "teacher.engine=transformers",
    "teacher.readout=yes_no",
    "teacher.second_readout=likelihood",
    "teacher.dtype=float32",
    "teacher.max_document_tokens=24",
    "teacher.batch_documents=2",
    "student.epochs=1",
    "student.checkpoint_every_s=1000",
]
WORDS = {
    "baking": "bread flour oven",
    "chess": "gambit bishop pawn",
    "sailing": "boat keel mast",
    "medicine": "patient doctor vaccine",
    "law": "court judge lawyer",
}


@pytest.fixture(scope="module")
def tiny_teacher(tmp_path_factory: pytest.TempPathFactory, small_teacher_directory: str) -> str:
    return save_tiny_llm(tmp_path_factory.mktemp("tiny"), small_teacher_directory, AutoModelForCausalLM)


@pytest.fixture(scope="module")
def real_engines(tiny_teacher: str) -> dict[str, TransformersEngine]:
    config = load_config(None, [f"teacher.model={tiny_teacher}", *SETTINGS]).teacher
    return {name: TransformersEngine(load_teacher(of(config, name))) for name in ("yes_no", "likelihood")}


def of(config: TeacherConfig, readout: str) -> TeacherConfig:
    values = vars(config) | {"readout": readout, "second_readout": "none"}
    return TeacherConfig(**values)


Engines = dict[str, RecordingEngine]


@dataclass(frozen=True)
class Run:
    """A finished run, made in two goes; ``arguments``: what comes after ``ezxmc run``. ``before``: what each read-out
    had been asked when the first go was stopped, ``asked``: at the end; ``said``: what each go printed."""

    folder: Path
    arguments: list[str]
    before: dict[str, int]
    asked: dict[str, list[tuple[bytes, bytes]]]
    said: list[str]


@contextmanager
def simulated(real_engines: dict[str, TransformersEngine]) -> Iterator[Engines]:
    """Ray is simulated, and the actor of the stage ``judge`` gets the engine of its read-out."""
    before = signal.getsignal(signal.SIGTERM)
    found = {name: RecordingEngine(engine) for name, engine in real_engines.items()}
    with (
        mock.patch.object(judge_worker, "start_watchdog", lambda: None),
        mock.patch.object(judge_worker, "start_engine", lambda config: found[config.readout]),
        simulated_ray(),
    ):
        yield found
    signal.signal(signal.SIGTERM, before)


def call(*arguments: str) -> tuple[int | str | None, str]:
    """``ezxmc`` in this process; its exit status and what it printed."""
    with redirect_stdout(StringIO()) as said, pytest.raises(SystemExit) as left:
        cli.main(list(arguments))
    return left.value.code, said.getvalue()


@pytest.fixture(scope="module")
def run(
    real_engines: dict[str, TransformersEngine], tiny_teacher: str, tmp_path_factory: pytest.TempPathFactory
) -> Run:
    """Documents about one label each; stopped in the second read-out's second batch, and given again."""
    folder = tmp_path_factory.mktemp("second")
    rows = [
        {"id": str(number), "text": f"A text {number} of {WORDS[topic]}.", "labels": [topic]}
        | {"split": "test" if number % 4 == 0 else "train"}
        for number in range(DOCUMENTS)
        for topic in [LABELS[number % len(LABELS)]]
    ]
    (folder / "documents.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "labels.jsonl").write_text("".join(json.dumps({"id": one, "text": one}) + "\n" for one in LABELS))
    (folder / "conf.yaml").write_text("seed: 0\n")
    inputs = [f"prepare.documents=[{folder}/documents.jsonl]", f"prepare.labels=[{folder}/labels.jsonl]"]
    arguments = [f"{folder}/conf.yaml", f"run={folder}/run", f"teacher.model={tiny_teacher}", *inputs, *SETTINGS]
    with simulated(real_engines) as engines:
        engines["likelihood"].stop = 2
        stopped, first_said = call("run", *arguments)
        assert stopped == 130
        before = {name: len(engine.asked) for name, engine in engines.items()}
        assert not (folder / "run/cycle-0/examples/manifest.json").exists()
        engines["likelihood"].stop = 1 << 30
        done, then_said = call("run", *arguments)
        assert done == 0
        asked = {name: engine.asked for name, engine in engines.items()}
        return Run(folder, arguments, before, asked, [first_said, then_said])


@pytest.fixture
def engines(real_engines: dict[str, TransformersEngine]) -> Iterator[Engines]:
    """For what is done with the run afterwards."""
    with simulated(real_engines) as found:
        yield found


def judged(run: Run, cycle: int = 0) -> dict[str, Any]:
    file = run.folder / f"run/cycle-{cycle}/examples/manifest.json"
    found: dict[str, Any] = json.loads(file.read_text())["details"]
    return found


def of_documents(asked: list[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
    return [pair for pair in asked if pair[0] != NO_DOCUMENT]


def pairs_of(run: Path) -> int:
    """Distinct pairs of all shortlists of a run with one shard."""
    found = set()
    for file in run.glob("cycle-*/shortlist/shard-00000.parquet"):
        for row in pq.read_table(file).to_pylist():
            found |= {(row["row"], label) for label in row["labels"]}
    return len(found)


def test_each_pair_is_asked_once_by_each_read_out_also_over_a_stop(run: Run) -> None:
    assert all(run.before.values())
    for asked in run.asked.values():
        assert len(asked) == len(set(asked)) and len(of_documents(asked)) == pairs_of(run.folder / "run")
    first, second = run.asked["yes_no"], run.asked["likelihood"]
    assert second == of_documents(second)  # its verdict is not minus the label's prior
    assert len(first) > len(of_documents(first))


def test_manifest_and_report_count_both(run: Run) -> None:
    told, found = judged(run), judged(run)["second_readout"]
    assert told["second_pairs_asked"] == told["pairs_asked"] == told["pairs"]
    assert told["teacher"]["readout"] == "yes_no" and found["readout"] == "likelihood"
    assert told["teacher"]["key"] != found["key"]
    assert judged(run, 1)["second_readout"] == found | {"first_pairs": None}
    assert len(list((run.folder / "run/verdicts").iterdir())) == 2
    report = json.loads((run.folder / "run/report.json").read_text())["teacher"]
    asked = [one["second_pairs_asked"] for one in (told, judged(run, 1))]
    assert report["second_pairs_asked"] == sum(asked) and report["second_readout"]["key"] == found["key"]
    assert "yes_no + likelihood" in (run.folder / "run/report.html").read_text()


@pytest.mark.usefixtures("one_thread")
def test_reranking_asks_twice_as_the_run_did(run: Run, engines: Engines, tmp_path: Path, ezxmc: Ezxmc) -> None:
    (tmp_path / "new.jsonl").write_text(json.dumps({"id": "new", "text": "A boat in court, with bread."}) + "\n")
    command = ["tag", f"{run.folder}/run", "--rerank", "--input", f"{tmp_path}/new.jsonl", "--output"]
    command += [f"{tmp_path}/out/", f"predict.rerank_candidates={len(LABELS)}", "predict.top_k=5"]
    command += ["predict.min_score=null", "teacher.yes_threshold=-1000"]
    engines["likelihood"].stop = 0
    assert ezxmc(*command).returncode == 130
    engines["likelihood"].stop = 1 << 30
    done = ezxmc(*command)
    assert done.returncode == 0, done.stderr
    assert "about 0 pairs of a document and a label, a second time about 5 (by its likelihood)" in done.stdout
    assert len(of_documents(engines["yes_no"].asked)) == len(engines["likelihood"].asked) == 5

    [row] = pq.read_table(tmp_path / "out/new.jsonl.parquet").to_pylist()
    store, scale, wanted = tmp_path / "out/.rerank/verdicts", judged(run)["second_readout"], []
    priors, likelihoods = scores_of(store, "yes_no", "priors"), scores_of(store, "likelihood")
    for label, value in scores_of(store, "yes_no").items():
        first = logit(value) - logit(priors[label])
        wanted.append(first + (likelihoods[label] - scale["mean"]) * scale["factor"])
    assert sorted(row["verdicts"]) == pytest.approx(sorted(wanted), abs=1e-3)
    # A teacher that would be read once is another question.
    refused = ezxmc(*command, "teacher.second_readout=none")
    assert refused.returncode == 2 and "teacher.second_readout changes what the teacher is asked" in refused.stderr


def logit(value: float) -> float:
    return math.log(value / (1 - value))


def scores_of(store: Path, readout: str, kind: str = "shard") -> dict[bytes, float]:
    """Raw scores by label, of the teacher with that read-out, whose folder's files have a name of that ``kind``."""
    [folder] = [one.parent for one in store.glob("*/teacher.json") if json.loads(one.read_text())["readout"] == readout]
    rows = [row for file in folder.glob(f"{kind}*/*.parquet") for row in pq.read_table(file).to_pylist()]
    return {row["label_hash"]: row["raw"] for row in rows}


def verdicts(run: Run, ezxmc: Ezxmc, *overrides: str) -> list[float]:
    """Those of cycle 0 after it was judged with ``overrides``."""
    assert ezxmc("judge", *run.arguments, *overrides).returncode == 0
    table = pq.read_table(run.folder / "run/cycle-0/examples/shard-00000.parquet")
    return [value for values in table["verdict"].to_pylist() for value in values]


@pytest.mark.usefixtures("one_thread")
def test_read_once_and_twice_again_nobody_is_asked(run: Run, engines: Engines, ezxmc: Ezxmc) -> None:
    """From here on the run is judged anew."""
    both = verdicts(run, ezxmc)
    alone = verdicts(run, ezxmc, "teacher.second_readout=none")
    assert judged(run)["second_readout"] is None
    assert max(abs(one - other) for one, other in zip(both, alone, strict=True)) > 0.1
    assert verdicts(run, ezxmc) == both
    assert not engines["yes_no"].asked and not engines["likelihood"].asked


@pytest.mark.usefixtures("one_thread")
def test_that_held_pairs_are_asked_again_is_said_before_they_are(
    run: Run, engines: Engines, ezxmc: Ezxmc, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in a run of an older version, or with verdicts of one read-out that were imported."""
    said: list[tuple[str, int]] = []
    monkeypatch.setattr(judge, "say", lambda text: said.append((text, len(engines["likelihood"].asked))))
    both, pairs = verdicts(run, ezxmc), judged(run)["pairs"]
    store = run.folder / "run/verdicts" / judged(run)["second_readout"]["key"]
    verdicts(run, ezxmc, "teacher.second_readout=none")
    shutil.rmtree(store)
    assert not said and not engines["likelihood"].asked
    assert verdicts(run, ezxmc) == both
    [(sentence, asked_before)] = said
    assert sentence == (
        f"{pairs} pairs of cycle 0 that the run holds verdicts of are asked a second time, by likelihood; "
        "teacher.second_readout=none leaves that out."
    )
    assert asked_before == 0 and len(engines["likelihood"].asked) == pairs and not engines["yes_no"].asked
    # A run that was stopped in its second read-out, and given again, says nothing of the kind.
    assert not any("asked a second time" in one for one in run.said)
