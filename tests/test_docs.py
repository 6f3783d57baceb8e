"""README and docs: as short as a front door should be, every link leads somewhere, the picture is its script's."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from ezxmc_ray.config import PrepareConfig
from ezxmc_ray.documents.inputs import document_sources, label_sources
from ezxmc_ray.documents.labels import read_labels
from ezxmc_ray.documents.lists import ListReader
from ezxmc_ray.documents.readers import read_rows
from tools import picture

ROOT = Path(__file__).parents[1]
PAGES = sorted(path.relative_to(ROOT) for path in [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])
LINK = re.compile(r"\]\(([^)\s]+)\)")


def anchors(page: Path) -> set[str]:
    """The names by which GitHub links to the headings of ``page``."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_the_readme_is_a_front_door() -> None:
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 150


def test_what_the_tour_names_is_in_the_file_that_it_names() -> None:
    named = re.findall(r"\]\((\S+\.py)\)((?:,?\s(?:and |or )?`\w+`)+)", (ROOT / "docs/tour.md").read_text("utf-8"))
    assert len(named) > 60
    missing = []
    for file, names in named:
        code = (ROOT / "docs" / file).read_text("utf-8")
        for name in re.findall(r"\w+", names.replace(" and ", " ").replace(" or ", " ")):
            if not re.search(rf"^ *(?:def|class) {name}\b|^{name}\b.* = ", code, re.MULTILINE):
                missing.append((file, name))
    assert missing == []


@pytest.mark.parametrize("page", PAGES, ids=str)
def test_every_link_leads_to_a_file_or_a_heading(page: Path) -> None:
    for link in LINK.findall((ROOT / page).read_text(encoding="utf-8")):
        target, _, anchor = link.partition("#")
        if "://" in target:
            continue
        file = (ROOT / page).parent / target if target else ROOT / page
        assert file.exists(), f"{page} links to {link}"
        assert not anchor or anchor in anchors(file), f"{page} links to {link}"


def test_the_picture_is_what_its_script_writes() -> None:
    assert picture.PICTURE.read_text(encoding="utf-8") == picture.picture(), "run python tools/picture.py"


def test_the_forms_that_the_page_on_data_shows_are_read(tmp_path: Path) -> None:
    page = (ROOT / "docs/data.md").read_text(encoding="utf-8")
    blocks = {
        heading: re.findall(r"```\w+\n(.*?)```", part, re.DOTALL)
        for heading, part in re.findall(r"^### (.+?)\n(.*?)(?=^##|\Z)", page, re.MULTILINE | re.DOTALL)
    }
    shown = {"d.jsonl": blocks["JSON lines"][0], "l.jsonl": blocks["JSON lines"][1], "d.json": blocks["JSON arrays"][0]}
    shown |= {"d.csv": blocks["CSV"][0], "v.ttl": blocks["Vocabularies"][0], "v.tsv": blocks["Vocabularies"][1]}
    shown |= {"v.txt": blocks["Vocabularies"][2], "lists.csv": blocks["Lists in a cell"][0]}
    found = {}
    for name, content in shown.items():
        (tmp_path / name).write_text(content, encoding="utf-8", newline="")
        labels = name[0] in "lv"
        prepare = PrepareConfig(documents=[f"{tmp_path}/{name}"], labels=[f"{tmp_path}/{name}"])
        source = (label_sources(prepare) if labels else document_sources(prepare, prepare.documents, "--input"))[0]
        found[name] = [row.values or {"reason": row.reason} for row in read_rows(source.source, source.columns, ())]
    (tmp_path / "objects.jsonl").write_text(blocks["JSON lines"][2], encoding="utf-8")
    objects = document_sources(PrepareConfig(labels_column="subjects.uri"), [f"{tmp_path}/objects.jsonl"], "")[0]
    rows = read_rows(objects.source, objects.columns, ())
    assert [row.values and row.values["subjects.uri"] for row in rows] == [["x11", "gtk"]]
    alternatives = {"sea": ["Ocean", "The deep, salty water"]}
    forms = {"l.jsonl": alternatives, "l.csv": alternatives, "s.csv": {"sea": ["Ocean"]}}
    for (name, expected), content in zip(forms.items(), blocks["Alternatives of a label"], strict=True):
        (tmp_path / name).write_text(content, encoding="utf-8", newline="")
        labels_read = read_labels(label_sources(PrepareConfig(labels=[f"{tmp_path}/{name}"])), "synonyms")
        ids = labels_read.table["id"].to_pylist()
        assert {ids[number]: texts for number, texts in labels_read.alternatives.items()} == expected
        assert labels_read.table["text"].to_pylist() == ["Sea", "Bees"]
    assert found["v.ttl"][0]["alternatives"] == ["Astronmy", "Star science"]
    texts = {name: [row["text"] for row in rows] for name, rows in found.items() if name != "lists.csv"}
    assert texts.pop("d.csv") == ["It manages windows;\nall of them.", "It plays music."]
    assert texts.pop("d.json") == texts.pop("d.jsonl") == ["It manages windows.", "It plays music."]
    assert texts.pop("v.txt") == ["Astronomy", "Botany", "Chemistry"] == [*texts.pop("v.tsv"), "Chemistry"]
    assert texts == {"l.jsonl": ["X Window System", "Sound"], "v.ttl": ["Astronomy"]}
    numbers = {"Home, garden": 0, "Toys": 1}
    gold = [ListReader(numbers.get, "labels", None).read(row["labels"], 1) for row in found["lists.csv"]]
    assert [one and one.numbers for one in gold] == [[0], [0, 1], [0, 1]]
