"""The Debian packages example, on lists as apt keeps them, and its configuration."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from examples.debian_packages import main, sample
from ezxmc_ray.config import load_config
from ezxmc_ray.teacher.readout import resolve_readout

ROOT = Path(__file__).parents[2]

VOCABULARY = """\
Facet: game
Description: Games and Amusement
 What the game is like

Tag: game::strategy
Description: Strategy

Tag: game::TODO
Description: Need an extra tag


Facet: role
Description: Role

Tag: role::program
Description: Program

Facet: works-with
Status: draft
Description: Works with

Tag: works-with::text
Description: Text
 Plain or marked up

Tag: works-with::audio
Description: Audio
"""

PACKAGES = """\
Package: zed
Version: 1
Description: editor
Description-md5: 1
Tag: role::program,
 works-with::text

Package: chess
Description: board game
Description-md5: 2

Package: only-a-role
Description-md5: 1
Tag: role::program

Package: undescribed
Description-md5: 9
Tag: works-with::text

Package: zed
Version: 2
Description-md5: 2
Tag: works-with::audio
"""

TRANSLATIONS = """\
Package: zed
Description-md5: 1
Description-en: editor for text: fast
 It edits.
 .
  * indented
 Colon: inside

Package: chess
Description-md5: 2
Description-en: board game
 Two players.
"""


@pytest.fixture
def lists(tmp_path: Path) -> Path:
    folder = tmp_path / "kept"
    (folder / "lists").mkdir(parents=True)
    (folder / "debtags").mkdir()
    (folder / "lists" / "mirror_dists_main_binary-amd64_Packages").write_text(PACKAGES)
    (folder / "lists" / "mirror_dists_main_i18n_Translation-en").write_text(TRANSLATIONS)
    (folder / "debtags" / "vocabulary").write_text(VOCABULARY)
    with gzip.open(folder / "debtags" / "tags-current.gz", "wt") as file:
        file.write("chess: game::strategy, game::TODO, unknown::tag\nzed: works-with::text\n")
    return folder


def read(path: Path) -> list[dict[str, Any]]:
    with gzip.open(path, "rt") as lines:
        return [json.loads(line) for line in lines]


def test_descriptions_become_documents_and_tags_become_labels(
    lists: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--lists", str(lists), "--output", str(tmp_path / "out"), "--documents", "all"]) == 0
    documents = read(tmp_path / "out" / "documents.jsonl.gz")
    assert [{name: value for name, value in row.items() if name != "split"} for row in documents] == [
        {"id": "chess", "title": "chess: board game", "text": "Two players.", "labels": ["game::strategy"]},
        {
            "id": "zed",
            "title": "zed: editor for text: fast",
            "text": "It edits.\n\n * indented\nColon: inside",
            "labels": ["works-with::text"],
        },
    ]
    assert {row["split"] for row in documents} <= {"train", "test"}
    assert read(tmp_path / "out" / "labels.jsonl.gz") == [
        {"id": "game::strategy", "text": "Games and Amusement: Strategy"},
        {"id": "works-with::audio", "text": "Works with: Audio"},
        {"id": "works-with::text", "text": "Works with: Text"},
    ]
    printed = capsys.readouterr().out
    assert "2 packages with a description and a tag that a description can tell" in printed
    assert "1 without such a tag, 1 without an English description." in printed
    assert "2 documents" in printed and "1.00 gold labels each; 3 labels." in printed


def test_a_rerun_writes_the_same_bytes(lists: Path, tmp_path: Path) -> None:
    written = []
    for name in ("one", "two"):
        main(["--lists", str(lists), "--output", str(tmp_path / name), "--documents", "all"])
        written.append({path.name: path.read_bytes() for path in (tmp_path / name).iterdir()})
    assert written[0] == written[1]
    assert sorted(written[0]) == ["documents.jsonl.gz", "labels.jsonl.gz"]


def test_a_sample_is_a_quarter_test_and_part_of_every_larger_one() -> None:
    names = [f"package-{number}" for number in range(3000)]
    small, large, everything = sample(names, 400), sample(names, 1200), sample(names, 0)
    assert [sum(split == "test" for split in drawn.values()) for drawn in (small, large)] == [100, 300]
    assert (len(small), len(large), len(everything)) == (400, 1200, 3000)
    assert small.items() <= large.items() <= everything.items()
    assert abs(sum(split == "test" for split in everything.values()) / 3000 - 0.25) < 0.03


def ask_for_too_many(lists: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    return ["--lists", str(lists), "--documents", "5"]


def have_no_apt(lists: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    monkeypatch.setenv("PATH", "")
    return []


def have_no_sources(lists: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    (lists / "lists" / "mirror_dists_main_binary-amd64_Packages").unlink()
    return ["--lists", str(lists)]


@pytest.mark.parametrize(
    ("mistake", "sentence"),
    [
        (ask_for_too_many, "error: There are 2 tagged packages, not 5; ask for fewer with --documents.\n"),
        (
            have_no_apt,
            "error: There is no apt here, which the Debian packages example needs; "
            "use Debian or Ubuntu (a container will do).\n",
        ),
        (
            have_no_sources,
            "error: No package of this machine's apt sources has a description and debtags; add Debian's main.\n",
        ),
    ],
)
def test_what_the_user_can_mend_is_one_sentence_and_status_2(
    mistake: Callable[[Path, pytest.MonkeyPatch], list[str]],
    sentence: str,
    lists: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    arguments = mistake(lists, monkeypatch)
    assert main([*arguments, "--output", str(tmp_path / "out")]) == 2
    assert capsys.readouterr().err == sentence
    assert not (tmp_path / "out").exists()


def test_an_output_below_a_regular_file_is_one_sentence(
    lists: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    output = tmp_path / "file" / "out"
    assert main(["--lists", str(lists), "--output", str(output), "--documents", "all"]) == 2
    assert (
        capsys.readouterr().err == f"error: Cannot use {output}: not a directory; choose another --output or --lists.\n"
    )


def test_the_configuration_is_the_one_that_make_demo_runs() -> None:
    config = load_config(str(ROOT / "examples" / "debian_packages.yaml"))
    assert config.run == "runs/debian-packages"
    assert config.prepare.documents == ["data/debian-packages/documents.jsonl.gz"]
    assert config.prepare.labels == ["data/debian-packages/labels.jsonl.gz"]
    assert (resolve_readout(config.teacher), config.student.target) == ("likelihood", "fusion")
