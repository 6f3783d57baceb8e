"""Prompt templates: named, versioned YAML files with the slots ``{document}`` and ``{label}``.

Comes in: a name (a file beside this one) or the path of a user's own file. Goes out: a checked
:class:`PromptTemplate`. A template has a form for each read-out that it serves:

- ``yes_no`` (and ``classify``): ``system`` (optional), ``user`` (with {document} before {label}), ``answer_prefix``
  (optional, the first words of the answer, which a space follows unless they end in one), ``yes`` and ``no``
  (spellings of the two answers);
- ``likelihood``: ``text``, which ends in {label}.

``described_label``, optional, says how a label with a description fills {label}: "{label} ({description})" if it is
not there.

Worked examples, optional, are a list of documents, each with the labels that fit (``yes``) and some that do not
(``no``). They stand in a template under ``examples``, or in a file of their own (``teacher.examples``), which takes
their place. They come before the document, so that all documents share their computation. A yes/no prompt shows each
example's labels in turn, a yes before a no; a likelihood prompt shows the labels that fit.
"""

from __future__ import annotations

import functools
import json
import re
from dataclasses import dataclass, replace
from importlib import resources
from itertools import zip_longest
from pathlib import Path
from typing import Any

import yaml

from ezxmc_ray.errors import UserError, one_line

DOCUMENT = "{document}"
LABEL = "{label}"
DESCRIPTION = "{description}"
MAX_VERSION_DIGITS = 9


@dataclass(frozen=True)
class Example:
    """A worked example: a document, labels that fit it and labels that do not."""

    document: str
    yes: tuple[str, ...]
    no: tuple[str, ...]

    @property
    def answers(self) -> list[tuple[str, bool]]:
        """Its labels and whether they fit: a fitting one, one that does not, and so on."""
        pairs = zip_longest(((label, True) for label in self.yes), ((label, False) for label in self.no))
        return [answer for pair in pairs for answer in pair if answer is not None]


@dataclass(frozen=True)
class YesNoForm:
    """The question that the teacher answers with one of two words."""

    user: str
    yes: tuple[str, ...]
    no: tuple[str, ...]
    system: str = ""
    answer_prefix: str = ""


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
    examples: tuple[Example, ...] = ()
    described_label: str = f"{LABEL} ({DESCRIPTION})"

    @property
    def title(self) -> str:
        """Name and version, as reports show them."""
        return f"{self.name} v{self.version}"

    @property
    def has_likelihood_examples(self) -> bool:
        """Whether a likelihood prompt can show its worked examples: there are none, or some have a yes."""
        return not self.examples or any(example.yes for example in self.examples)


def fill(text: str, values: dict[str, str]) -> str:
    """``text`` with all slots filled at once, so that a document that contains {label} stays as it is."""
    return re.sub("|".join(map(re.escape, values)), lambda match: values[match[0]], text)


def template_names() -> list[str]:
    """Names of the templates that come with the program."""
    return sorted(item.name[: -len(".yaml")] for item in resources.files(__name__).iterdir() if _is_template(item.name))


def load_template(name_or_path: str, examples: str | None = None) -> PromptTemplate:
    """The template of that name, or the one in that YAML file; with the worked examples of the file ``examples``.

    Errors: UserError for an unknown name (it lists the known ones), a file that is not there or not YAML, and for what
    a file lacks or has wrong.
    """
    if name_or_path in template_names():
        content = resources.files(__name__).joinpath(f"{name_or_path}.yaml").read_text("utf-8")
    else:
        known = f"take one of {', '.join(template_names())}, or the path of a YAML file"
        content = _read(name_or_path, f"There is no prompt template {name_or_path}: {known}.")
    template = _parse(content, f"prompt template {name_or_path}")
    if examples is None:
        return template
    where = f"file of worked examples {examples}"
    values = _yaml(_read(examples, f"There is no {where} (teacher.examples): give the path of a YAML file."), where)
    return replace(template, examples=_examples(values, where))


def _read(path: str, missing: str) -> str:
    file = Path(path).expanduser()
    if not file.is_file():
        raise UserError(missing)
    try:
        return file.read_text("utf-8")
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8 text: save it as such.") from error


def _is_template(name: str) -> bool:
    return name.endswith(".yaml")


def _yaml(content: str, where: str) -> Any:
    try:
        # BaseLoader leaves every scalar a string: to YAML's other loaders a bare yes or no is a truth value.
        values = yaml.load(content, Loader=yaml.BaseLoader)
        json.dumps(values, ensure_ascii=False).encode()  # half a character ("\\ud800") is no text
    except RecursionError as error:
        raise UserError(
            f"The {where} is nested too deeply: write keys, lists and texts as the templates do."
        ) from error
    except (yaml.YAMLError, TypeError, ValueError) as error:
        raise UserError(f"The {where} is not YAML: {one_line(error)}.") from error
    return values


@functools.lru_cache(16)  # every fingerprint of a step that judges asks for it
def _parse(content: str, where: str) -> PromptTemplate:
    known = {
        "name": str,
        "version": str,
        "yes_no": dict,
        "likelihood": dict,
        "examples": list,
        "described_label": str,
    }
    values = _section(_yaml(content, where), known, ("name", "version"), where)
    if not values["version"].isdecimal() or len(values["version"]) > MAX_VERSION_DIGITS:
        shown = values["version"][: 2 * MAX_VERSION_DIGITS]
        raise UserError(f"The {where}: version {shown!r} is not a whole number of at most {MAX_VERSION_DIGITS} digits.")
    yes_no, likelihood = values.get("yes_no"), values.get("likelihood")
    described = values.get("described_label", PromptTemplate.described_label)
    if LABEL not in described or DESCRIPTION not in described:
        raise UserError(f"The {where}: described_label must hold the slots {LABEL} and {DESCRIPTION}.")
    if yes_no is None and likelihood is None:
        raise UserError(f"The {where} has neither a yes_no nor a likelihood form: add one.")
    return PromptTemplate(
        name=values["name"],
        version=int(values["version"]),
        yes_no=None if yes_no is None else _yes_no(yes_no, f"{where}, yes_no"),
        likelihood=None if likelihood is None else _likelihood(likelihood, f"{where}, likelihood"),
        examples=_examples(values["examples"], where) if "examples" in values else (),
        described_label=described,
    )


def _yes_no(values: dict[str, Any], where: str) -> YesNoForm:
    known = {"user": str, "system": str, "answer_prefix": str, "yes": list, "no": list}
    values = _section(values, known, ("user", "yes", "no"), where)
    _check_slots(values["user"], f"{where}, user")
    for key in ("system", "answer_prefix"):
        _check_no_slots(values.get(key, ""), f"{where}, {key}")
    return YesNoForm(
        user=values["user"],
        yes=_words(values["yes"], f"{where}, yes"),
        no=_words(values["no"], f"{where}, no"),
        system=values.get("system", ""),
        answer_prefix=values.get("answer_prefix", ""),
    )


def _likelihood(values: dict[str, Any], where: str) -> LikelihoodForm:
    text = _section(values, {"text": str}, ("text",), where)["text"]
    _check_slots(text, f"{where}, text")
    if not text.endswith(LABEL):
        raise UserError(f"The {where}: the text must end in the slot {LABEL}, whose likelihood is read.")
    return LikelihoodForm(text)


def _examples(values: Any, where: str) -> tuple[Example, ...]:
    if not isinstance(values, list):
        raise UserError(f"The {where} must hold a list of examples, each with document, yes and no.")
    if not values:
        raise UserError(f"The {where} has an empty list of examples: write some, or leave it out.")
    return tuple(_example(value, f"{where}, example {number}") for number, value in enumerate(values, 1))


def _example(values: Any, where: str) -> Example:
    values = _section(values, {"document": str, "yes": list, "no": list}, ("document",), where)
    yes, no = (tuple(_words(values[key], f"{where}, {key}")) if key in values else () for key in ("yes", "no"))
    if not yes and not no:
        raise UserError(f"The {where} has no label: list some that fit under yes, and some that do not under no.")
    return Example(values["document"], yes, no)


def _words(values: list[Any], where: str) -> tuple[str, ...]:
    if not values or not all(isinstance(value, str) and value.strip() for value in values):
        raise UserError(f"The {where} must be a list of texts, such as [one, another].")
    return tuple(values)


def _section(values: Any, known: dict[str, Any], needed: tuple[str, ...], where: str) -> dict[str, Any]:
    """``values``, checked to be a mapping with known keys of the right types."""
    if not isinstance(values, dict):
        raise UserError(f"The {where} must hold keys and values: {', '.join(known)}.")
    for key, value in values.items():
        if key not in known:
            raise UserError(f"The {where} has an unknown key {key!r}; known are {', '.join(known)}.")
        if not isinstance(value, known[key]):
            raise UserError(f"The {where}: {key} has the wrong type {type(value).__name__}.")
    for key in needed:
        if key not in values:
            raise UserError(f"The {where} lacks {key!r}: add it.")
    return values


def _check_slots(text: str, where: str) -> None:
    for slot in re.findall(r"\{\w+\}", text):
        if slot not in (DOCUMENT, LABEL):
            raise UserError(f"The {where} has an unknown slot {slot}; known are {DOCUMENT} and {LABEL}.")
    for slot in (DOCUMENT, LABEL):
        if text.count(slot) != 1:
            raise UserError(f"The {where} must hold the slot {slot} once, it does {text.count(slot)} times.")
    if text.index(DOCUMENT) > text.index(LABEL):
        raise UserError(
            f"The {where}: {DOCUMENT} comes after {LABEL}; put it first, so that a document's pairs "
            "share their beginning."
        )


def _check_no_slots(text: str, where: str) -> None:
    for slot in (DOCUMENT, LABEL):
        if slot in text:
            raise UserError(f"The {where} holds the slot {slot}, which belongs in user.")
