"""A tagger that follows its export."""

from __future__ import annotations

import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from ezxmc_ray import layout
from ezxmc_ray.config import apply_overrides, to_dict
from ezxmc_ray.errors import UserError
from ezxmc_ray.hardware import memory_errors
from ezxmc_ray.integrity import signed
from ezxmc_ray.serving.contract import Options, TagRequest
from ezxmc_ray.serving.live import LiveTagger, export_of
from ezxmc_ray.storage import Storage
from tests.tagging.made_run import make_run

from .conftest import FakeTagger

ASKED = TagRequest([""], ["text"], Options(k=1))


class Exports:
    """What lies there now, and what loading it gives."""

    def __init__(self) -> None:
        self.tries = 0
        self.now: str = "first"
        self.fails = False
        self.loaded: list[str] = []

    def live(self) -> LiveTagger:
        return LiveTagger("here", (), self.load, lambda where: self.now)  # type: ignore[arg-type]

    def load(self, where: str, knobs: list[str]) -> FakeTagger:
        self.tries += 1
        if self.fails:
            raise UserError("It is damaged.")
        self.loaded.append(self.now)
        return FakeTagger(bonus=100.0 * len(self.loaded))


def test_another_export_is_taken_over_once() -> None:
    exports = Exports()
    live = exports.live()
    assert not live.reload() and live.tag(ASKED).export == "first"
    exports.now = "second"
    assert live.reload() and not live.reload()
    answer = live.tag(ASKED)
    assert answer.export == live.export == "second" and answer.results[0][0]["score"] == 204.0
    assert exports.loaded == ["first", "second"]


def test_an_export_that_cannot_be_loaded_changes_nothing_and_is_told_once(capsys: pytest.CaptureFixture[str]) -> None:
    exports = Exports()
    live = exports.live()
    exports.now, exports.fails = "second", True
    assert not live.reload() and not live.reload()
    assert live.tag(ASKED).export == "first"
    assert " ".join(capsys.readouterr().out.split()).count("second is not taken over: It is damaged.") == 1
    exports.fails = False
    assert live.reload() and live.tag(ASKED).export == "second"


def test_an_export_that_cannot_be_loaded_is_tried_ever_more_rarely_and_another_at_once() -> None:
    exports = Exports()
    live = exports.live()
    exports.now, exports.fails, tries = "second", True, list[int]()
    for look in range(60):
        before = exports.tries
        live.reload()
        tries += [look] * (exports.tries - before)
    assert tries == [0, 2, 6, 14, 30, 46]
    exports.now = "third"
    for _ in range(3):
        live.reload()
    assert exports.tries == 1 + len(tries) + 2 and "third" in live.failed
    exports.fails = False
    assert not live.reload()  # it is still left alone
    exports.now = "fourth"
    assert live.reload() and live.failed == ""


def test_who_asks_for_another_export_is_told_which_there_is() -> None:
    exports = Exports()
    live = exports.live()
    tagger = live._now.tagger
    assert isinstance(tagger, FakeTagger)
    for export, rows in ((None, 1), ("first", 1), ("second", 0)):
        answer = live.tag(replace(ASKED, options=replace(ASKED.options, export=export)))
        assert (answer.export, len(answer.results), answer.mistake) == ("first", rows, None)
    assert len(tagger.calls) == 2


def test_memory_that_runs_out_is_no_mistake_of_the_client(monkeypatch: pytest.MonkeyPatch) -> None:
    live = Exports().live()
    for error, is_the_servers in ((MemoryError(), True), (UserError("Give fewer labels."), False)):

        def fail(*_: object, error: Exception = error) -> None:
            with memory_errors("here", "take less"):
                raise error

        monkeypatch.setattr(FakeTagger, "tag", fail)
        if is_the_servers:
            with pytest.raises(UserError, match=r"^Memory ran out here: take less\.$"):
                live.tag(ASKED)
        else:
            assert live.tag(ASKED).mistake == "Give fewer labels."


def test_a_run_that_is_being_made_anew_is_none() -> None:
    exports = Exports()
    live = exports.live()
    exports.now = ""
    assert not live.reload() and live.tag(ASKED).export == "first"


def test_it_looks_by_itself_until_it_is_closed() -> None:
    exports = Exports()
    live = exports.live()
    before = threading.active_count()
    live.follow(0.01)
    exports.now = "second"
    until = time.monotonic() + 5
    while live.export != "second":
        assert time.monotonic() < until
        time.sleep(0.01)
    live.close()
    while threading.active_count() > before:
        assert time.monotonic() < until
        time.sleep(0.01)


def test_what_was_begun_with_the_old_export_ends_with_it() -> None:
    exports = Exports()
    live = exports.live()
    old = live._now.tagger
    assert isinstance(old, FakeTagger)
    old.seconds = 0.1
    answers = []
    slow = threading.Thread(target=lambda: answers.append(live.tag(ASKED)))
    slow.start()
    while not old.calls:
        time.sleep(0.001)
    exports.now = "second"
    assert live.reload() and live.tag(ASKED).export == "second"
    slow.join()
    assert [(one.export, one.results[0][0]["score"]) for one in answers] == [("first", 104.0)]


def test_an_export_is_called_by_its_folder(tmp_path: Path) -> None:
    assert export_of(str(tmp_path)) == ""
    Storage(str(tmp_path)).write_note("bundle.json", {"folder": "files-1"})
    assert export_of(str(tmp_path)) == "files-1"


def test_a_run_that_predicts_otherwise_is_another_export(tmp_path: Path) -> None:
    """It is taken over, and never joined with answers of before."""
    config = make_run(tmp_path)
    names = []
    for knobs in ([], ["predict.top_k=2"], ["predict.min_score=0.9"], ["cluster.max_gpus=0"]):
        changed = to_dict(apply_overrides(config, knobs))
        Storage(str(tmp_path)).write_bytes(layout.CONFIG, signed(yaml.safe_dump(changed)))
        names.append(export_of(str(tmp_path)))
    assert len(set(names)) == 3 and names[3] == names[0]
