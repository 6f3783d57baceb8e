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
  - {document: A text, yes: [a label, a second], no: [another]}
"""
OWN = """
- document: "One: text"
  yes: [fits]
- document: Two
  no: [does not, neither]
"""


def written(tmp_path: Path, content: str, name: str = "mine.yaml") -> str:
    (tmp_path / name).write_text(content)
    return str(tmp_path / name)


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
    assert template.examples == (Example("A text", ("a label", "a second"), ("another",)),)
    assert template.examples[0].answers == [("a label", True), ("another", False), ("a second", True)]


def test_examples_of_a_file_of_their_own_take_the_templates_place(tmp_path: Path) -> None:
    template = load_template(written(tmp_path, GOOD), written(tmp_path, OWN, "examples.yaml"))
    assert template.examples == (Example("One: text", ("fits",), ()), Example("Two", (), ("does not", "neither")))
    assert load_template("generic", written(tmp_path, OWN, "examples.yaml")).examples == template.examples


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (None, "There is no file of worked examples"),
        ("document: x", "must hold a list of examples"),
        ("[]", "has an empty list of examples"),
        ("- document: x", "example 1 has no label"),
        ("- {document: x, yes: fits}", "example 1: yes has the wrong type str"),
        ("- {document: x, yes: ['']}", "example 1, yes must be a list of texts"),
        ("- {text: x, yes: [a]}", "unknown key 'text'"),
        ("- [", "is not YAML"),
    ],
)
def test_what_a_file_of_examples_lacks_is_told(tmp_path: Path, content: str | None, told: str) -> None:
    path = str(tmp_path / "examples.yaml")
    if content is not None:
        written(tmp_path, content, "examples.yaml")
    with pytest.raises(UserError) as caught:
        load_template("generic", path)
    assert told in str(caught.value)
    assert "examples.yaml" in str(caught.value)


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
        ("no: [no]", "no: []", "yes_no, no must be a list of texts"),
        ("no: [another]", "no: [another], answer: no", "example 1 has an unknown key 'answer'"),
        ("version: 3", "version: 3\ndescribed_label: '{label}'", "described_label must hold the slots"),
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


@pytest.mark.parametrize("content", ["[" * 3000, "- " * 3000, '["\\ud800"]', "- {document: a, yes: [b], no: [*c]}"])
def test_a_file_of_examples_that_no_parser_takes_is_a_sentence(tmp_path: Path, content: str) -> None:
    (tmp_path / "examples.yaml").write_text(content)
    with pytest.raises(UserError, match=r"is nested too deeply|is not YAML"):
        load_template("generic", str(tmp_path / "examples.yaml"))


def test_a_version_of_thousands_of_digits_is_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "t.yaml").write_text(
        f"name: n\nversion: {'9' * 5000}\nlikelihood: {{text: '{{document}} {{label}}'}}\n"
    )
    with pytest.raises(UserError, match=r"version '9{18}' is not a whole number of at most 9 digits"):
        load_template(str(tmp_path / "t.yaml"))
