"""README and docs: as short as a front door should be, every link leads somewhere, the picture is its script's."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

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
