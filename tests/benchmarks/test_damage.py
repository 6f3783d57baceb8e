"""damage.py tells apart what a command did with a damaged file. The commands are fakes."""

from __future__ import annotations

import faulthandler
import os
import random
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

import damage
from ezxmc_ray import cli


def says_nothing(run: Path) -> None:
    (run / "file").read_bytes()


def names_it(run: Path) -> None:
    (run / "file").read_bytes()
    print("damaged: file")


def does_not_open_it(run: Path) -> None:
    print("done")


def raises(run: Path) -> None:
    raise ValueError("no")


def crashes(run: Path) -> None:
    faulthandler.disable()  # pytest's, which would print all stacks
    os.kill(os.getpid(), signal.SIGSEGV)


@pytest.mark.parametrize(
    ("command", "outcome"),
    [
        (says_nothing, "silent"),
        (names_it, "found"),
        (does_not_open_it, "not_read"),
        (raises, "traceback"),
        (crashes, "crash"),
    ],
)
def test_what_a_command_did_is_told_by_what_it_said_and_opened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: Callable[[Path], None], outcome: str
) -> None:
    def main(words: list[str]) -> None:
        command(Path(words[1]))
        raise SystemExit(0)

    monkeypatch.setattr(cli, "main", main)
    run = tmp_path / "run"
    run.mkdir()
    (run / "file").write_bytes(b"whole")
    (tmp_path / "scratch").mkdir()
    trial = damage.Trial(run, tmp_path / "scratch", [])
    assert trial.outcome("file", b"other", "status", in_a_fork=True) == outcome
    assert (run / "file").read_bytes() == b"whole"


def test_a_file_is_emptied_cut_or_has_one_bit_turned_around(tmp_path: Path) -> None:
    file, draw = tmp_path / "file", random.Random(0)
    file.write_bytes(bytes(100))
    assert [len(damage.damaged(file, how, draw)) for how in damage.DAMAGES] == [0, 50, 100]
    assert sum(byte.bit_count() for byte in damage.damaged(file, "bit", draw)) == 1
