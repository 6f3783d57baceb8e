"""``ezxmc serve``: mistakes are one sentence, before anything is loaded; it ends in order at SIGTERM."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from ezxmc_ray.commands import serving
from ezxmc_ray.errors import UserError
from ezxmc_ray.serving import live as live_module
from ezxmc_ray.serving.server import listen
from ezxmc_ray.serving.settings import ServeSettings

from .conftest import FakeTagger, live

Ezxmc = Callable[..., Any]  # conftest.ezxmc
MISTAKES = {
    "not an override": (["run", "faster"], "'faster' is not an override (a.b=c)."),
    "no port": (["run", "--port", "70000"], "--port 70000 is no port"),
    "no replica": (["run", "--replicas", "0"], "--replicas 0 makes no sense: give 1 or more."),
    "no batch": (["run", "--max-batch-size", "0"], "--max-batch-size 0 makes no sense"),
    "a negative wait": (["run", "--batch-wait-ms", "-1"], "--batch-wait-ms -1.0 makes no sense"),
    "NaN": (["run", "--batch-wait-ms", "nan"], "--batch-wait-ms nan makes no sense"),
    "no seconds between looks": (["run", "--reload-s", "0"], "--reload-s 0.0 makes no sense: give more than 0."),
    "two of one": (["run", "--in-process", "--replicas", "2", "--port", "0"], "--in-process is one replica, not 2"),
    "no such run for Ray": (["run", "--port", "0"], "run"),
    "no such run": (["run", "--in-process", "--port", "0"], "run"),
    "a host that is none": (["run", "--host", "256.0.0.1"], "Nothing can listen at 256.0.0.1, port 8000"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_one_sentence(ezxmc: Ezxmc, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    words, sentence = MISTAKES[name]
    done = ezxmc("serve", *words)
    assert done.returncode == 2 and done.stderr.count("\n") == 1 and sentence in done.stderr, done.stderr


@pytest.mark.parametrize("token", ["", " ", "two words", "é"])
def test_a_token_that_no_client_can_give_is_refused(ezxmc: Ezxmc, token: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EZXMC_SERVE_TOKEN", token)
    done = ezxmc("serve", "run")
    assert done.returncode == 2 and "EZXMC_SERVE_TOKEN is empty, or has characters" in done.stderr


def test_it_serves_until_sigterm_and_ends_with_status_0(ezxmc: Ezxmc, monkeypatch: pytest.MonkeyPatch) -> None:
    with listen(ServeSettings(port=0)) as listener:
        port = listener.getsockname()[1]
    monkeypatch.setattr(live_module, "LiveTagger", lambda run, knobs: live(FakeTagger()))
    monkeypatch.setenv("EZXMC_SERVE_TOKEN", "secret")
    answers: list[int] = []

    def ask() -> None:
        until = time.monotonic() + 20
        while not answers and time.monotonic() < until:
            try:
                headers = {"authorization": "Bearer secret"}
                answer = httpx.post(f"http://127.0.0.1:{port}/v1/tag", json={"texts": ["a"]}, headers=headers)
                answers.append(answer.status_code)
            except httpx.TransportError:
                time.sleep(0.05)
        os.kill(os.getpid(), signal.SIGTERM)

    client = threading.Thread(target=ask)
    client.start()
    done = ezxmc("serve", "run", "--in-process", "--port", str(port))
    client.join()
    assert answers == [200] and done.returncode == 0, done.stderr
    assert done.stdout == f"Serving run at http://127.0.0.1:{port}/ (Ctrl-C or SIGTERM ends it in order)\n"
    assert "secret" not in done.stdout + done.stderr


def test_replicas_are_called_by_the_port_that_was_free(ezxmc: Ezxmc, monkeypatch: pytest.MonkeyPatch) -> None:
    """So that a server that is started again with it takes over what one with --port 0 left."""
    taken: list[int] = []

    def replicas(run: str, knobs: list[str], settings: ServeSettings, in_process: bool) -> None:
        with pytest.raises(UserError, match=f"Nothing can listen at .*, port {settings.port} "):
            listen(settings)
        taken.append(settings.port)
        raise UserError("Enough.")

    monkeypatch.setattr(serving, "_replicas", replicas)
    assert "Enough." in ezxmc("serve", "run", "--port", "0").stderr and taken[0] > 0
