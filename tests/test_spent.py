"""A step's seconds add up over its starts, also over those that are killed."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from ezxmc_ray import layout, spent
from ezxmc_ray.spent import seconds_spent
from ezxmc_ray.storage import Storage


def test_starts_that_did_not_end_well_add_up(tmp_path: Path) -> None:
    storage, begun = Storage(str(tmp_path)), time.monotonic()
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt), seconds_spent(storage, "predictions", "mark"):
            time.sleep(0.05)
            raise KeyboardInterrupt
    with pytest.raises(KeyboardInterrupt), seconds_spent(storage, "index", "other"):
        raise KeyboardInterrupt
    with seconds_spent(storage, "predictions", "mark") as earlier:
        assert 0.1 <= earlier <= time.monotonic() - begun
    assert set(storage.read_json(layout.SPENT)) == {"index"}
    with seconds_spent(storage, "predictions", "mark") as earlier:
        assert earlier == 0
    with seconds_spent(storage, "index", "changed") as earlier:
        assert earlier == 0
    assert storage.list() == []


def test_a_start_that_is_killed_has_left_a_note(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spent, "NOTE_EVERY_S", 0.02)
    storage = Storage(str(tmp_path))
    with seconds_spent(storage, "predictions", "mark"):
        while not storage.exists(layout.SPENT):
            time.sleep(0.01)
        left = storage.read_bytes(layout.SPENT)
    storage.write_bytes(layout.SPENT, left)  # as a kill -9 in the block would leave it
    with seconds_spent(storage, "predictions", "mark") as earlier:
        assert earlier >= 0.02


@pytest.mark.parametrize("note", [b"", b"[1]", b'{"predictions": 1}', b'{"predictions": {"mark": "mark"}}'])
def test_a_damaged_note_says_nothing(tmp_path: Path, note: bytes) -> None:
    storage = Storage(str(tmp_path))
    storage.write_bytes(layout.SPENT, note)
    with seconds_spent(storage, "predictions", "mark") as earlier:
        assert earlier == 0
