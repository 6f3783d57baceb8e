from __future__ import annotations

from pathlib import Path

import pytest

from ezxmc_ray.errors import UserError
from ezxmc_ray.teacher.prompts import Example, load_template, template_names

GOOD = """
name: mine
version: 3
yes_no:
  user: "Is it so? {document} / {label}"
  yes: [yes, sure]
  no: [no]
  examples:
    - {document: A text, label: a label, answer: yes}
    - {document: A text, label: another, answer: no}
"""


def written(tmp_path: Path, content: str) -> str:
    (tmp_path / "mine.yaml").write_text(content)
    return str(tmp_path / "mine.yaml")


def test_the_templates_that_come_along_serve_both_readouts() -> None:
    assert template_names() == ["generic", "library", "package"]
    for name in template_names():
        template = load_template(name)
        assert template.name == name
        assert template.yes_no is not None
        assert template.likelihood is not None


def test_a_file_of_the_users_own(tmp_path: Path) -> None:
    template = load_template(written(tmp_path, GOOD))
    assert template.title == "mine v3"
    assert template.likelihood is None
    assert template.yes_no is not None
    assert template.yes_no.yes == ("yes", "sure")
    assert template.yes_no.examples == (Example("A text", "a label", "yes"), Example("A text", "another", "no"))


def test_an_unknown_name_lists_the_known_ones() -> None:
    with pytest.raises(UserError, match="take one of generic, library, package, or the path of a YAML file"):
        load_template("librray")


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("{label}", "it", "yes_no, user must hold the slot {label} once, it does 0 times"),
        ("{document} / {label}", "{label} / {document}", "{document} comes after {label}"),
        ("{document} /", "{document} {text} /", "unknown slot {text}"),
        ("  no: [no]\n", "", "yes_no lacks 'no'"),
        ("[no]", "[]", "must be a list of words"),
        ("answer: no", "answer: perhaps", "example 2: the answer 'perhaps' is neither yes nor no"),
        ("version: 3", "version: three", "is not a whole number"),
        ("  user:", "  question: x\n  user:", "unknown key 'question'"),
        ("yes_no:", "yes_no: [", "is not YAML"),
        ("{document} / {label}", "{document} {label} {label}", "must hold the slot {label} once, it does 2 times"),
    ],
)
def test_what_a_file_lacks_is_told(tmp_path: Path, old: str, new: str, told: str) -> None:
    assert old in GOOD
    with pytest.raises(UserError) as caught:
        load_template(written(tmp_path, GOOD.replace(old, new)))
    assert told in str(caught.value)
    assert "mine.yaml" in str(caught.value)


def test_the_likelihood_form_ends_in_the_label(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"the text must end in the slot .label., whose"):
        load_template(written(tmp_path, 'name: a\nversion: 1\nlikelihood: {text: "{document} {label}."}'))
