"""A finished run whose files are damaged: what is told, what is made anew, what is kept.

The stages are fakes that write a file each (fake_stages.py has the others); the steps and manifests are the real ones.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from ezxmc_ray import curriculum, verification
from ezxmc_ray.errors import UserError
from ezxmc_ray.tagging.tagger import Tagger
from tests.curriculum.fake_stages import ENDING, WritingStages, cycle, run, states, storage_of

ONE_CYCLE = ["prepare", *cycle(0), "held-out shortlist 1", "judge 1", *ENDING]


@pytest.fixture
def finished(writing: WritingStages, settings: list[str]) -> WritingStages:
    settings.append("curriculum.min_lead=null")
    run(settings)
    assert writing.took() == ONE_CYCLE
    return writing


def verified(run: str) -> set[str]:
    """What a verification finds damaged; but for the fakes' verdicts, which are empty files."""
    return {name for name in verification.verify(run).damaged if not name.startswith("verdicts/")}


@pytest.mark.parametrize(
    ("file", "stage", "how"),
    [
        ("documents/part-0", "prepare", "emptied"),
        ("cycle-0/shortlist/part-1", "shortlist 0", "removed"),
        ("cycle-0/examples/part-0", "judge 0", "verified"),
        ("cycle-0/student/part-0", "train 0", "emptied"),
        ("predictions/part-0", "predict", "verified"),
    ],
)
def test_what_is_damaged_is_made_anew_and_nothing_else_where_it_comes_out_as_before(
    finished: WritingStages,
    settings: list[str],
    capsys: pytest.CaptureFixture[str],
    file: str,
    stage: str,
    how: str,
) -> None:
    storage = storage_of(settings)
    whole = storage.read_bytes(file)
    if how == "removed":
        storage.remove(file)
    else:
        storage.write_bytes(file, b"" if how == "emptied" else whole[:-1] + b"?")
    if how == "verified":
        assert set(states(settings).values()) == {"done"}  # sizes are as they were
        assert verified(storage.root) == {file}
    assert list(states(settings).values()).count("damaged") == 1
    assert set(verification.known_damage(storage.root)) == {file}
    capsys.readouterr()
    run(settings)
    said = " ".join(capsys.readouterr().out.split())
    assert f"damaged, and made anew: {file}" in said
    assert finished.took() == [stage]
    assert storage.read_bytes(file) == whole
    assert set(states(settings).values()) == {"done"}
    assert verified(storage.root) == set()


def test_what_comes_out_otherwise_makes_later_steps_stale(finished: WritingStages, settings: list[str]) -> None:
    storage_of(settings).write_bytes("student/part-1", b"")
    finished.salt = "another"
    run(settings)
    assert finished.took() == ENDING


@pytest.mark.parametrize("content", [b"", b'{"stage": "predict"', None])
@pytest.mark.parametrize("salt", ["", "another"])
def test_a_manifest_that_is_damaged_is_told_and_its_step_done_anew(
    finished: WritingStages, settings: list[str], capsys: pytest.CaptureFixture[str], content: bytes | None, salt: str
) -> None:
    storage, path = storage_of(settings), "predictions/manifest.json"
    storage.write_bytes(
        path, storage.read_bytes(path).replace(b'"rows": 1', b'"rows": 2') if content is None else content
    )
    assert set(verification.known_damage(storage.root)) == {path} and states(settings)["predict"] == "damaged"
    if salt:  # what is made anew comes out otherwise
        finished.salt = salt
        storage.remove("predictions/part-0")
    capsys.readouterr()
    run(settings)
    assert "predictions/manifest.json is damaged: predict is done anew" in " ".join(capsys.readouterr().out.split())
    assert finished.took() == (["predict", "evaluate", "report"] if salt else ["predict"])
    assert set(states(settings).values()) == {"done"}


def test_a_damaged_manifest_of_the_shortlist_trains_nothing_anew(finished: WritingStages, settings: list[str]) -> None:
    storage_of(settings).write_bytes("cycle-0/shortlist/manifest.json", b"{")
    run(settings)
    assert finished.took() == ["shortlist 0"]


def test_a_note_of_what_was_begun_that_is_damaged_begins_the_step_anew(
    finished: WritingStages, settings: list[str]
) -> None:
    storage = storage_of(settings)
    storage.remove("predictions/manifest.json")
    storage.write_bytes("predictions/.begun.json", b"")
    run(settings)
    assert finished.took()[0] == "predict"


def test_a_damaged_configuration_is_one_sentence_and_a_run_with_the_whole_one_writes_it_anew(
    finished: WritingStages, settings: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    file = Path(storage_of(settings).path("config.yaml"))
    whole = file.read_bytes()
    flipped = whole.replace(b"seed: 0", b"seed: 1")
    assert flipped != whole
    for content in (b"", whole[: len(whole) // 2], flipped, b"\x00\xff", b"[1]", b"[" * 400):
        file.write_bytes(content)
        for ask in (curriculum.status, curriculum.open_run, Tagger.load):
            with pytest.raises(UserError, match=r"config\.yaml, is damaged.*give `ezxmc run`"):
                ask(str(file.parent))
        assert verified(str(file.parent)) == {"config.yaml"}
        run(settings)
        assert "config.yaml, is damaged" in " ".join(capsys.readouterr().out.split())
        assert finished.took() == [] and file.read_bytes() == whole


def test_a_configuration_of_another_version_says_which_file_it_is(finished: WritingStages, settings: list[str]) -> None:
    file = Path(storage_of(settings).path("config.yaml"))
    file.write_text(file.read_text().partition("\n")[2] + "gone: 1\n")
    with pytest.raises(UserError, match=r"config\.yaml, cannot be used: Unknown key gone"):
        curriculum.open_run(str(file.parent))
