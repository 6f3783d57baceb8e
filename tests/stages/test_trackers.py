from __future__ import annotations

import struct
import sys
import time
from pathlib import Path

import pytest
from tensorboardX.proto.event_pb2 import Event

from ezxmc_ray.errors import UserError
from ezxmc_ray.stages.trackers import check_trackers, open_trackers


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
        ("from json import nothing_there", "cannot be imported (cannot import name 'nothing_there' from 'json'"),
        ("def init(**given): raise RuntimeError('no API key.\\nLong advice.')", "does not begin (no API key)"),
    ],
)
def test_a_tracker_that_does_not_begin_is_one_sentence(
    code: str, told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "wandb.py").write_text(code + "\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "wandb", raising=False)
    with pytest.raises(UserError) as caught:
        open_trackers(["wandb"], "mine", tmp_path, {})
    sys.modules.pop("wandb", None)
    assert f"student.trackers has wandb, but wandb {told}" in str(caught.value) and "\n" not in str(caught.value)


def test_a_tracker_that_fails_on_the_way_is_left_out_and_the_others_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = """
class Run:
    def log(self, figures, step):
        if step > 1: raise ConnectionError("the server is gone.")
    def finish(self): raise AssertionError("it was left out")
def init(**given): return Run()
"""
    (tmp_path / "wandb.py").write_text(code)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "wandb", raising=False)
    trackers = open_trackers(["wandb", "tensorboard"], "mine", tmp_path / "events", {})
    sys.modules.pop("wandb", None)
    for step in (1, 2, 3):
        trackers.log(step, {"loss": float(step)})
    trackers.close()
    assert trackers.lost == {"wandb": "the server is gone"}
    (file,) = (tmp_path / "events").glob("events*")
    assert scalars(file) == [(1, "loss", 1.0), (2, "loss", 2.0), (3, "loss", 3.0)]
