"""Prompt templates: named, versioned YAML files with the slots ``{document}`` and ``{label}``.

Comes in: a name (a file beside this one) or the path of a user's own file. Goes out: a checked
:class:`PromptTemplate`. A template has a form for each read-out that it serves:

- ``yes_no``: ``system`` (optional), ``user`` (with {document} before {label}), ``answer_prefix`` (optional, the first
  words of the answer), ``yes`` and ``no`` (spellings of the two answers), ``examples`` (optional; each ``document``,
  ``label`` and ``answer``, yes or no; they come before the document, so that all documents share them);
- ``likelihood``: ``text``, which ends in {label}.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import yaml

from ezxmc_ray.errors import UserError, one_line

DOCUMENT = "{document}"
LABEL = "{label}"


@dataclass(frozen=True)
class Example:
    """A worked example: ``answer`` is the template's first spelling of yes or of no."""

    document: str
    label: str
    answer: str


@dataclass(frozen=True)
class YesNoForm:
    """The question that the teacher answers with one of two words."""

    user: str
    yes: tuple[str, ...]
    no: tuple[str, ...]
    system: str = ""
    answer_prefix: str = ""
    examples: tuple[Example, ...] = ()


@dataclass(frozen=True)
class LikelihoodForm:
    """A text that ends in the label, whose likelihood is read."""

    text: str


@dataclass(frozen=True)
class PromptTemplate:
    """One template file; a form is None where the file has none for that read-out."""

    name: str
    version: int
    yes_no: YesNoForm | None
    likelihood: LikelihoodForm | None

    @property
    def title(self) -> str:
        """Name and version, as reports show them."""
        return f"{self.name} v{self.version}"


def template_names() -> list[str]:
    """Names of the templates that come with the program."""
    return sorted(item.name[: -len(".yaml")] for item in resources.files(__name__).iterdir() if _is_template(item.name))


def load_template(name_or_path: str) -> PromptTemplate:
    """The template of that name, or the one in that YAML file.

    Errors: UserError for an unknown name (it lists the known ones), a file that is not there or not YAML, and for what
    a file lacks or has wrong.
    """
    if name_or_path in template_names():
        return _parse(resources.files(__name__).joinpath(f"{name_or_path}.yaml").read_text("utf-8"), name_or_path)
    path = Path(name_or_path).expanduser()
    if not path.is_file():
        known = ", ".join(template_names())
        raise UserError(f"There is no prompt template {name_or_path}: take one of {known}, or the path of a YAML file.")
    try:
        return _parse(path.read_text("utf-8"), name_or_path)
    except UnicodeDecodeError as error:
        raise UserError(f"The prompt template {name_or_path} is not UTF-8 text.") from error


def _is_template(name: str) -> bool:
    return name.endswith(".yaml")


def _parse(content: str, where: str) -> PromptTemplate:
    try:
        # BaseLoader leaves every scalar a string: to YAML's other loaders a bare yes or no is a truth value.
        values = yaml.load(content, Loader=yaml.BaseLoader)
    except yaml.YAMLError as error:
        raise UserError(f"The prompt template {where} is not YAML: {one_line(error)}.") from error
    known = {"name": str, "version": str, "yes_no": dict, "likelihood": dict}
    values = _section(values, known, ("name", "version"), where)
    if not values["version"].isdecimal():
        raise UserError(f"The prompt template {where}: version {values['version']!r} is not a whole number.")
    yes_no, likelihood = values.get("yes_no"), values.get("likelihood")
    if yes_no is None and likelihood is None:
        raise UserError(f"The prompt template {where} has neither a yes_no nor a likelihood form: add one.")
    return PromptTemplate(
        name=values["name"],
        version=int(values["version"]),
        yes_no=None if yes_no is None else _yes_no(yes_no, f"{where}, yes_no"),
        likelihood=None if likelihood is None else _likelihood(likelihood, f"{where}, likelihood"),
    )


def _yes_no(values: dict[str, Any], where: str) -> YesNoForm:
    known = {"user": str, "system": str, "answer_prefix": str, "yes": list, "no": list, "examples": list}
    values = _section(values, known, ("user", "yes", "no"), where)
    _check_slots(values["user"], f"{where}, user")
    for key in ("system", "answer_prefix"):
        _check_no_slots(values.get(key, ""), f"{where}, {key}")
    yes, no = _spellings(values["yes"], f"{where}, yes"), _spellings(values["no"], f"{where}, no")
    return YesNoForm(
        user=values["user"],
        yes=yes,
        no=no,
        system=values.get("system", ""),
        answer_prefix=values.get("answer_prefix", ""),
        examples=tuple(
            _example(item, yes, no, f"{where}, example {number}")
            for number, item in enumerate(values.get("examples", []), 1)
        ),
    )


def _likelihood(values: dict[str, Any], where: str) -> LikelihoodForm:
    text = _section(values, {"text": str}, ("text",), where)["text"]
    _check_slots(text, f"{where}, text")
    if not text.endswith(LABEL):
        raise UserError(
            f"The prompt template {where}: the text must end in the slot {LABEL}, whose likelihood is read."
        )
    return LikelihoodForm(text)


def _example(values: Any, yes: tuple[str, ...], no: tuple[str, ...], where: str) -> Example:
    known = {"document": str, "label": str, "answer": str}
    values = _section(values, known, tuple(known), where)
    answer = values["answer"]
    if answer in yes:
        return Example(values["document"], values["label"], yes[0])
    if answer in no:
        return Example(values["document"], values["label"], no[0])
    raise UserError(f"The prompt template {where}: the answer {answer!r} is neither {yes[0]} nor {no[0]}.")


def _spellings(values: list[Any], where: str) -> tuple[str, ...]:
    if not values or not all(isinstance(value, str) and value.strip() for value in values):
        raise UserError(f"The prompt template {where} must be a list of words, such as [yes].")
    return tuple(values)


def _section(values: Any, known: dict[str, Any], needed: tuple[str, ...], where: str) -> dict[str, Any]:
    """``values``, checked to be a mapping with known keys of the right types."""
    if not isinstance(values, dict):
        raise UserError(f"The prompt template {where} must hold keys and values: {', '.join(known)}.")
    for key, value in values.items():
        if key not in known:
            raise UserError(f"The prompt template {where} has an unknown key {key!r}; known are {', '.join(known)}.")
        if not isinstance(value, known[key]):
            raise UserError(f"The prompt template {where}: {key} has the wrong type {type(value).__name__}.")
    for key in needed:
        if key not in values:
            raise UserError(f"The prompt template {where} lacks {key!r}: add it.")
    return values


def _check_slots(text: str, where: str) -> None:
    for slot in re.findall(r"\{\w+\}", text):
        if slot not in (DOCUMENT, LABEL):
            raise UserError(
                f"The prompt template {where} has an unknown slot {slot}; known are {DOCUMENT} and {LABEL}."
            )
    for slot in (DOCUMENT, LABEL):
        if text.count(slot) != 1:
            raise UserError(
                f"The prompt template {where} must hold the slot {slot} once, it does {text.count(slot)} times."
            )
    if text.index(DOCUMENT) > text.index(LABEL):
        raise UserError(
            f"The prompt template {where}: {DOCUMENT} comes after {LABEL}; put it first, so that a document's pairs "
            "share their beginning."
        )


def _check_no_slots(text: str, where: str) -> None:
    for slot in (DOCUMENT, LABEL):
        if slot in text:
            raise UserError(f"The prompt template {where} holds the slot {slot}, which belongs in user.")
