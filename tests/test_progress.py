"""Progress: what it says while nothing is counted, rate and time left, and how often, on a clock of the test's own."""

from __future__ import annotations

import pytest

from ezxmc_ray import progress
from ezxmc_ray.progress import Seen, StageProgress, data_on_stdout, doing, say


class Stage:
    """A progress whose clock and workers' word the test sets; ``run`` ticks once a second, as its thread would."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, total: int | None = 1470) -> None:
        self.now, self.seen = 0.0, Seen()
        self.lines: list[tuple[int, str]] = []
        monkeypatch.setattr(progress, "say", lambda line: self.lines.append((int(self.now), line)))
        monkeypatch.setattr(StageProgress, "_tick_until_the_end", lambda progress: None)
        self.progress = StageProgress("judge", "pairs", total, poll=lambda: self.seen, clock=lambda: self.now)

    def run(self, seconds: int) -> list[tuple[int, str]]:
        """The lines of so many more seconds: when, and what."""
        self.lines.clear()
        for _ in range(seconds):
            self.now += 1
            self.progress.tick()
        return list(self.lines)


@pytest.fixture
def stage(monkeypatch: pytest.MonkeyPatch) -> Stage:
    return Stage(monkeypatch)


def test_what_is_done_before_the_first_count_is_said_within_ten_seconds_and_goes_on(stage: Stage) -> None:
    with stage.progress:
        stage.seen = Seen(phase="waiting for 1 GPU (0 of 1 free)")
        assert stage.run(9) == [(4, "judge: waiting for 1 GPU (0 of 1 free), 3 s")]
        stage.seen = Seen(phase="loading the teacher")
        assert [line for _, line in stage.run(21)] == [
            "judge: loading the teacher, 3 s",
            "judge: loading the teacher, 13 s",
        ]


def test_a_line_comes_every_thirty_seconds_after_the_first_minute_also_when_nothing_moves(stage: Stage) -> None:
    stage.seen = Seen(done=5)
    with stage.progress:
        stage.run(60)
        assert stage.run(90) == [(second, "judge: 5 of 1,470 pairs") for second in (80, 110, 140)]


def test_the_rate_and_the_time_left_are_of_the_work_without_the_start(stage: Stage) -> None:
    with stage.progress:
        stage.run(600)  # the engine starts
        stage.seen = Seen(done=16)
        assert stage.run(1) == []  # a rate needs a second look
        stage.run(9)
        stage.seen = Seen(done=116)
        stage.run(1)
        assert stage.progress.words() == "116 of 1,470 pairs, 10.0 pairs/s, 2:15 left"


def test_time_left_goes_on_between_two_counts(stage: Stage) -> None:
    with stage.progress:
        for done in (10, 20):
            stage.seen = Seen(done=done)
            stage.run(10)
        assert stage.progress.words() == "20 of 1,470 pairs, 1.0 pairs/s, 24:01 left"  # 9 s after it moved


def test_what_an_earlier_command_did_counts_but_has_no_rate(stage: Stage) -> None:
    with stage.progress:
        stage.progress.advance(1000, held=True)
        stage.run(5)
        assert stage.progress.words() == "1,000 of 1,470 pairs were there, starting, 5 s"
        for _ in range(2):
            stage.progress.advance(20)
            stage.run(10)
        assert stage.progress.words() == "1,040 of 1,470 pairs, 2.0 pairs/s, 3:25 left"
        assert stage.progress.done == 1040


def test_a_result_counts_once_where_its_worker_had_told_of_it_before(stage: Stage) -> None:
    with stage.progress:
        stage.seen = Seen(done=64)
        stage.run(1)
        stage.progress.advance(32)  # of the 64
        assert stage.progress.done == 64
        stage.progress.advance(64)
        assert stage.progress.done == 96


def test_no_word_from_the_workers_leaves_what_was_known(stage: Stage) -> None:
    with stage.progress:
        stage.seen = Seen(done=64, phase="judging")
        stage.run(1)
        stage.progress.poll = lambda: None
        stage.run(1)
        assert stage.progress.done == 64


def test_only_the_innermost_progress_is_shown_and_told(monkeypatch: pytest.MonkeyPatch, stage: Stage) -> None:
    outer = StageProgress("cycle 0 judge", clock=lambda: stage.now)
    with outer:
        doing("start store")
        with stage.progress:
            doing("loading the teacher")
            stage.now += 20
            outer.tick()
            assert stage.run(1) == [(21, "judge: loading the teacher, 21 s")]
        stage.lines.clear()
        outer.tick()
        assert stage.lines == [(21, "cycle 0 judge: start store, 21 s")]
    doing("nothing is shown any more")


def test_a_terminal_shows_the_phase_and_then_the_count(monkeypatch: pytest.MonkeyPatch, stage: Stage) -> None:
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    with progress.console.capture(), stage.progress:
        assert stage.progress._bar is not None
        (task,) = stage.progress._bar.tasks
        stage.seen = Seen(phase="loading the teacher")
        stage.run(12)
        assert (task.completed, task.fields["words"]) == (0, "loading the teacher, 11 s")
        stage.seen = Seen(done=32)
        stage.run(1)
        assert (task.completed, task.total, task.fields["words"]) == (32, 1470, "32 of 1,470 pairs")
        assert stage.lines == []


def test_what_is_told_goes_to_stderr_where_stdout_holds_data(capsys: pytest.CaptureFixture[str]) -> None:
    with data_on_stdout():
        say("The hub cannot be reached.")
        with data_on_stdout(False):
            say("Nor the mirror.")
    with data_on_stdout(False):
        say("All is well.")
    assert capsys.readouterr() == ("All is well.\n", "The hub cannot be reached.\nNor the mirror.\n")


def test_what_was_waited_for_is_over_where_nobody_tells_of_it_and_not_before(stage: Stage) -> None:
    with stage.progress:
        doing("waiting for 1 GPU (0 of 1 free)")  # by the driver itself, which has no workers yet
        assert stage.run(20)[-1] == (13, "judge: waiting for 1 GPU (0 of 1 free), 13 s")
        doing("looking at the shortlists")
        stage.seen = Seen(phase="waiting for 4 GPUs (0 of 4 free)")
        stage.run(10)
        stage.seen = Seen(done=5)
        stage.run(1)
        assert stage.progress.words() == "5 of 1,470 pairs"
