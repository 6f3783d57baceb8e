from __future__ import annotations

import importlib
import json
import struct
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tensorboardX.proto.event_pb2 import Event

from ezxmc_ray.errors import UserError
from ezxmc_ray.student.trackers import check_trackers, open_trackers


def scalars(file: Path) -> list[tuple[int, str, float]]:
    """Step, name and value of every scalar; a record is its length (8 bytes), a checksum (4), data, a checksum (4)."""
    data, found = file.read_bytes(), []
    while data:
        (length,) = struct.unpack("<Q", data[:8])
        event = Event.FromString(data[12 : 12 + length])
        found += [(event.step, value.tag, value.simple_value) for value in event.summary.value]
        data = data[16 + length :]
    return found


def test_tensorboard_gets_every_figure(tmp_path: Path) -> None:
    tracker = open_trackers(["tensorboard"], "mine cycle 0", tmp_path, {})
    tracker.log(1, {"loss": 2.5, "learning_rate": 0.5})
    (file,) = tmp_path.glob("events*")
    # Soon: a checkpoint takes the file as it is, and a worker may be killed at any time.
    deadline = time.monotonic() + 20
    while len(scalars(file)) < 2 and time.monotonic() < deadline:
        time.sleep(0.1)
    assert scalars(file) == [(1, "loss", 2.5), (1, "learning_rate", 0.5)]
    tracker.log(2, {"loss": 1.5})
    tracker.close()
    assert tracker.lost == {}
    assert scalars(file) == [(1, "loss", 2.5), (1, "learning_rate", 0.5), (2, "loss", 1.5)]


@pytest.fixture
def put_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str, str], None]]:
    """``put_module(name, code)``: a module that stands for a tracker's library, until the test ends."""
    put: list[str] = []

    def make(name: str, code: str) -> None:
        (tmp_path / f"{name}.py").write_text(code)
        monkeypatch.syspath_prepend(str(tmp_path))
        monkeypatch.delitem(sys.modules, name, raising=False)
        put.append(name)

    yield make
    for name in put:
        sys.modules.pop(name, None)


@pytest.mark.parametrize("name", ["wandb", "mlflow"])
def test_a_tracker_that_is_not_installed_is_one_sentence(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, name, None)  # as where it is not installed
    for look in (lambda: check_trackers([name]), lambda: open_trackers([name], "mine", tmp_path, {})):
        with pytest.raises(UserError, match=f"student.trackers has {name}, but {name} is not installed"):
            look()


@pytest.mark.parametrize(
    ("code", "told"),
    [
        ("import a_module_that_is_missing", "cannot be imported (No module named 'a_module_that_is_missing')"),
        ("raise TypeError('Descriptors cannot be created.')", "cannot be imported (Descriptors cannot be created)"),
        ("from json import nothing_there", "cannot be imported (cannot import name 'nothing_there' from 'json'"),
        ("def init(**given): raise RuntimeError('no API key.\\nLong advice.')", "does not begin (no API key)"),
    ],
)
def test_a_tracker_that_does_not_begin_is_one_sentence(
    code: str, told: str, tmp_path: Path, put_module: Callable[[str, str], None]
) -> None:
    put_module("wandb", code + "\n")
    with pytest.raises(UserError) as caught:
        open_trackers(["wandb"], "mine", tmp_path, {})
    assert f"student.trackers has wandb, but wandb {told}" in str(caught.value) and "\n" not in str(caught.value)


def test_a_tracker_that_fails_on_the_way_is_left_out_and_the_others_go_on(
    tmp_path: Path, put_module: Callable[[str, str], None]
) -> None:
    code = """
class Run:
    id = "one"
    def log(self, figures, step):
        if step > 1: raise ConnectionError("the server is gone.")
    def finish(self): raise AssertionError("it was left out")
def init(**given): return Run()
"""
    put_module("wandb", code)
    trackers = open_trackers(["wandb", "tensorboard"], "mine", tmp_path / "events", {})
    for step in (1, 2, 3):
        trackers.log(step, {"loss": float(step)})
    trackers.close()
    assert trackers.lost == {"wandb": "the server is gone"}
    (file,) = (tmp_path / "events").glob("events*")
    assert scalars(file) == [(1, "loss", 1.0), (2, "loss", 2.0), (3, "loss", 3.0)]


@pytest.fixture
def mlflow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """MLflow itself, where it is installed: what it asks for and what vLLM does are not to be had together.

    It writes into files below ``tmp_path``.
    """
    pytest.importorskip("mlflow", reason="MLflow is in no lock of ours, since vLLM's dependencies exclude its own")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", (tmp_path / "mlflow").as_uri())
    yield importlib.import_module("mlflow")
    sys.modules["mlflow"].end_run()


def test_mlflow_goes_on_with_its_run_where_a_training_starts_again(mlflow: Any, tmp_path: Path) -> None:
    settings = {"epochs": 2.0, "workers": 2, "trackers": ["mlflow"]}
    first = open_trackers(["mlflow"], "mine cycle 0", tmp_path, settings)
    first.log(1, {"loss": 2.5})
    first.log(2, {"loss": 2.0})
    mlflow.end_run(status="KILLED")  # as a worker that dies leaves it, in a process of its own
    known = json.loads(json.dumps(first.runs))
    again = open_trackers(["mlflow"], "mine cycle 0", tmp_path, {**settings, "workers": 1}, known, {})
    again.log(2, {"loss": 2.0})
    again.log(3, {"loss": 1.5, "learning_rate": 0.5})
    again.close()
    assert first.lost == again.lost == {} and again.runs == first.runs
    client = mlflow.MlflowClient()
    experiment = client.get_experiment_by_name("ezxmc-ray")
    (run,) = client.search_runs([experiment.experiment_id])
    assert run.info.run_id == first.runs["mlflow"] and run.info.run_name == "mine cycle 0"
    assert run.data.params == {"epochs": "2.0", "workers": "2", "trackers": "['mlflow']"}
    points = {(one.step, one.value) for one in client.get_metric_history(run.info.run_id, "loss")}
    assert points == {(1, 2.5), (2, 2.0), (3, 1.5)} and run.data.metrics["learning_rate"] == 0.5


SIMULATED_MLFLOW = """
from types import SimpleNamespace
runs, now = {}, []
def set_experiment(name): assert name == "ezxmc-ray"
def start_run(run_id=None, run_name=None):
    if run_id is None:
        run_id = f"run-{len(runs)}"
        runs[run_id] = {"name": run_name, "points": []}
    now[:] = [runs[run_id]]
    return SimpleNamespace(info=SimpleNamespace(run_id=run_id))
def log_params(params):
    if now[0].setdefault("params", params) != params: raise ValueError("Changing param values is not allowed")
def log_metrics(figures, step): now[0]["points"].append((step, figures))
def end_run(): now.clear()
"""


def test_a_simulated_mlflow_gets_one_run_of_a_training_that_starts_again(
    tmp_path: Path, put_module: Callable[[str, str], None]
) -> None:
    put_module("mlflow", SIMULATED_MLFLOW)
    first = open_trackers(["mlflow"], "mine cycle 0", tmp_path, {"workers": 2})
    first.log(1, {"loss": 2.5})
    again = open_trackers(["mlflow"], "mine cycle 0", tmp_path, {"workers": 1}, first.runs, {})
    again.log(2, {"loss": 2.0})
    again.close()
    other = open_trackers(["mlflow"], "mine cycle 1", tmp_path, {"workers": 1})
    runs = sys.modules["mlflow"].runs
    assert first.lost == again.lost == {} and other.runs == {"mlflow": "run-1"}
    points = [(1, {"loss": 2.5}), (2, {"loss": 2.0})]
    assert runs["run-0"] == {"name": "mine cycle 0", "params": {"workers": 2}, "points": points}


WANDB = """
calls = []
class Run:
    def __init__(self, given):
        if given.get("id") == "gone": raise ConnectionError("the server is gone.")
        calls.append(given)
        self.id = given.get("id", "one")
    def log(self, figures, step): calls.append((step, figures))
    def finish(self): pass
def init(**given): return Run(given)
"""


def test_a_tracker_that_is_gone_when_a_training_starts_again_is_lost_and_the_training_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, put_module: Callable[[str, str], None]
) -> None:
    put_module("wandb", WANDB)
    monkeypatch.setitem(sys.modules, "mlflow", None)  # as where it is not installed: on another node, say
    names, events = ["mlflow", "tensorboard", "wandb"], tmp_path / "events"
    trackers = open_trackers(names, "mine", events, {}, {"wandb": "gone"}, {})
    trackers.log(4, {"loss": 1.0})
    trackers.close()
    assert trackers.lost == {"mlflow": "is not installed", "wandb": "does not begin (the server is gone)"}
    (file,) = events.glob("events*")
    assert scalars(file) == [(4, "loss", 1.0)]
    # A new command is told, and may go on with the run.
    with pytest.raises(
        UserError, match=r"but wandb does not begin \(the server is gone\) where the student is trained"
    ):
        open_trackers(["wandb"], "mine", events, {}, {"wandb": "gone"})
    # One that was lost before stays so, with the cause it had then; the other goes on with its own run.
    runs, lost = {"wandb": "mine", "mlflow": "other"}, {"mlflow": "no more room", "tensorboard": "taken out since"}
    trackers = open_trackers(["mlflow", "wandb"], "mine", events, {}, runs, lost)
    trackers.log(5, {"loss": 0.5})
    calls = sys.modules["wandb"].calls
    assert trackers.lost == {"mlflow": "no more room"} and trackers.runs == {"wandb": "mine"}
    assert (calls[0]["id"], calls[0]["resume"]) == ("mine", "allow") and calls[1:] == [(5, {"loss": 0.5})]
