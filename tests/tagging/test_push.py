"""What `ezxmc push` leaves alone: repositories of something else, changed labels. The hub is simulated."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest

from ezxmc_ray.errors import UserError
from ezxmc_ray.tagging import push
from ezxmc_ray.tagging.changes import remove_labels
from ezxmc_ray.tagging.push import push_bundle
from tests.tagging.test_hub_bundle import SimulatedHub, simulated_hub

__all__ = ["simulated_hub"]  # a fixture


def test_a_repository_of_something_else_stays_as_it_is(run: str, simulated_hub: type[SimulatedHub]) -> None:
    theirs = {".gitattributes": b"", "README.md": b"a model card"}
    simulated_hub.made.append(True)
    simulated_hub.files.update(theirs)
    simulated_hub.past["0" * 40] = simulated_hub.files
    for name in ("README.md", "data.csv"):
        theirs[name] = simulated_hub.files[name] = b"---\nlicense: mit\n---\na model card\n---\n"
        with pytest.raises(
            UserError, match=rf"hub holds something else than a bundle \({name}\): name another one, or r"
        ):
            push_bundle(run, "org/tagger", "torch")
    simulated_hub.files.pop("data.csv")
    theirs.pop("data.csv")
    assert simulated_hub.files == theirs
    simulated_hub.files.pop("README.md")  # an empty one, as the hub makes it
    push_bundle(run, "org/tagger", "torch")
    assert "bundle.json" in simulated_hub.files


@pytest.mark.parametrize("card", [b"", b"---\r\nlicense: mit\r\ntags:\r\n- x\r\n---\r\n\r\n"])
def test_a_repository_that_the_hub_made_with_a_licence_is_new(
    bundle: Path, simulated_hub: type[SimulatedHub], monkeypatch: pytest.MonkeyPatch, card: bytes
) -> None:
    told = list[str]()
    monkeypatch.setattr(push, "say", told.append)
    simulated_hub.made.append(True)
    simulated_hub.files.update({".gitattributes": b"", "README.md": card, "LICENSE": b"MIT"})
    simulated_hub.past["0" * 40] = dict(simulated_hub.files)
    push_bundle(str(bundle), "org/tagger")
    assert {"bundle.json", "LICENSE"} < set(simulated_hub.files) and simulated_hub.files["README.md"] != card
    assert told == [
        "Note: the README.md of org/tagger, which has settings only, is replaced: give its licence there anew."
    ]


def test_folders_of_others_stay_in_a_repository(bundle: Path, simulated_hub: type[SimulatedHub]) -> None:
    push_bundle(str(bundle), "org/tagger")
    simulated_hub.files["files-of-mine/data.csv"] = b"mine"
    simulated_hub.files["files-00000000000000ff/labels.parquet"] = b"of an older push"
    push_bundle(str(bundle), "org/tagger")
    assert "files-of-mine/data.csv" in simulated_hub.files
    assert "files-00000000000000ff/labels.parquet" not in simulated_hub.files


def test_labels_that_were_changed_are_not_brought_back(
    run: str, bundle: Path, tmp_path: Path, simulated_hub: type[SimulatedHub]
) -> None:
    shutil.copytree(bundle, tmp_path / "copy")
    (tmp_path / "gone.txt").write_text("id salt\n")
    remove_labels(str(tmp_path / "copy"), [str(tmp_path / "gone.txt")])
    push_bundle(str(tmp_path / "copy"), "org/tagger")
    before = dict(simulated_hub.files)
    with pytest.raises(UserError, match=r"labels of org/tagger on the Hugging Face hub were changed since"):
        push_bundle(run, "org/tagger", "torch")
    assert simulated_hub.files == before
    push_bundle(str(bundle), "org/tagger")  # which says what is to be there
    assert simulated_hub.files != before


@pytest.mark.parametrize(
    ("private", "public", "said"), [(False, False, True), (True, False, False), (False, True, False)]
)
def test_it_is_said_where_all_see_what_is_pushed(
    bundle: Path,
    simulated_hub: type[SimulatedHub],
    monkeypatch: pytest.MonkeyPatch,
    private: bool,
    public: bool,
    said: bool,
) -> None:
    real, told = huggingface_hub.HfApi.model_info, list[str]()

    def model_info(self: Any, *arguments: Any, **named: Any) -> Any:
        there = real(self, *arguments, **named)
        there.private = private
        return there

    push_bundle(str(bundle), "org/tagger")
    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", model_info)
    monkeypatch.setattr(push, "say", told.append)
    push_bundle(str(bundle), "org/tagger", public=public)
    assert told == ["Note: the repository org/tagger is there already and is public: all see what is pushed."] * said
