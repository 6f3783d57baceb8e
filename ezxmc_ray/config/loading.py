"""A configuration from one YAML file and overrides of the form ``a.b=c``, by OmegaConf, and its checks.

What comes in: a YAML file and a list of overrides. What goes out: a resolved :class:`Config`. Unknown keys, wrong
types and values out of bounds are UserErrors that name the key, and for a key the nearest known one.
"""

from __future__ import annotations

import copy
import dataclasses
import difflib
import functools
import hashlib
import json
import math
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import MarkedYAMLError

from ezxmc_ray.config.knobs import Knob
from ezxmc_ray.config.schema import Config, StudentConfig, knobs
from ezxmc_ray.errors import UserError, one_line

#: Where the values of a run or a bundle come from.
STORED = "in the stored configuration"
#: The deepest rank that any of metrics.MEASURES looks at.
DEEPEST_RANK = 100


def load_config(path: str | None, overrides: Sequence[str] = ()) -> Config:
    """Read ``path`` (YAML; None: defaults only), apply ``overrides`` (``a.b=c``), and check keys, types and values.

    Errors: UserError for a file that is not there or not YAML, an unknown key, a value of the wrong type, a value
    that is not among the allowed ones, or a number out of range.
    """
    layers = [(f"in {path}", _read_yaml(path))] if path is not None else []
    return _merge(layers + _from_command_line(overrides))


def to_dict(config: Any) -> dict[str, Any]:
    """``config`` (or one section of it) as plain dicts, lists and scalars."""
    return dataclasses.asdict(config)


def from_dict(values: dict[str, Any]) -> Config:
    """The inverse of :func:`to_dict`, for tasks on other machines; the values are checked again."""
    return _merge([_stored(values)])


def apply_overrides(config: Config, overrides: Sequence[str]) -> Config:
    """A copy of ``config`` with ``overrides`` (``a.b=c``) applied; errors as in :func:`load_config`."""
    return _merge([_stored(to_dict(config)), *_from_command_line(overrides)])


def _stored(values: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    return STORED, {key: literal(value) for key, value in _leaves(values)}


def _from_command_line(overrides: Sequence[str]) -> list[tuple[str, dict[str, Any]]]:
    return [("on the command line", _read_override(override)) for override in overrides]


def literal(value: Any) -> Any:
    """``value`` with every ``${`` in its texts escaped, so that OmegaConf reads it back as it is."""
    if isinstance(value, list):
        return [literal(item) for item in value]
    return value.replace("${", "\\${") if isinstance(value, str) else value


def fingerprinted_settings(config: Config, section: str) -> dict[str, Any]:
    """The knobs of ``section`` that change what a stage writes, not only how fast it is; fingerprints are made of them.

    A run that was stopped may go on with other knobs of performance. Nor do evaluations from which no patience
    follows count: they are as if left at their defaults.
    """
    values: dict[str, Any] = to_dict(getattr(config, section))
    if section == "lexical" and not config.lexical.weight:
        return {"weight": 0.0}
    if section == "student" and not config.student.patience:
        values |= {key: getattr(StudentConfig, key) for key in ("validate_every_steps", "validation_documents")}
    if section == "predict" and not config.predict.rerank:
        del values["rerank"]  # so that runs of older versions are not stale
    return {key: value for key, value in values.items() if f"{section}.{key}" in _fixed()}


def fingerprint(value: Any) -> str:
    """A short hash (16 hex digits) of anything that is JSON, the same on every machine."""
    return hashlib.blake2b(json.dumps(value, sort_keys=True).encode(), digest_size=8).hexdigest()


def differences(old: dict[str, Any], new: dict[str, Any], prefix: str = "") -> list[str]:
    """``key: old -> new`` for every leaf in which two configurations (as dicts) differ."""
    found: list[str] = []
    for key in sorted(old.keys() | new.keys()):
        before, after = old.get(key), new.get(key)
        if isinstance(before, dict) and isinstance(after, dict):
            found += differences(before, after, f"{prefix}{key}.")
        elif before != after:
            found.append(f"{prefix}{key}: {before!r} -> {after!r}")
    return found


def _read_yaml(path: str) -> dict[str, Any]:
    """The values in a file by dotted key; interpolations are kept as they are written."""
    if not Path(path).is_file():
        raise UserError(
            f"There is no configuration file {path}; give the path of a YAML file (`ezxmc --help` has one)."
        )
    try:
        loaded = OmegaConf.load(path)
    except MarkedYAMLError as error:
        mark = error.problem_mark
        where = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
        raise UserError(f"{path} is not a YAML file: {where}{error.problem or error.context}.") from error
    except Exception as error:  # other classes of yaml and omegaconf, UnicodeDecodeError, OSError
        raise UserError(f"{path} cannot be read as a YAML file: {one_line(error)}.") from error
    if not OmegaConf.is_dict(loaded):
        raise UserError(f"{path} holds a list, not the keys and values of a configuration; write them as key: value.")
    return dict(_leaves(OmegaConf.to_container(loaded)))


def _read_override(override: str) -> dict[str, Any]:
    """The value of ``key=value`` by dotted key; a text is taken as it stands unless it is in quotes."""
    key, equals, text = override.partition("=")
    key = key.strip()
    if not equals or not key:
        raise UserError(f"{override!r} is not an override; write it as key=value, for example teacher.model=org/name.")
    opening = {"s": ("'", '"'), "l": ("'", '"', "[", "{")}.get(_types().get(key, "")[:1])
    word = text.strip()
    if not word or (opening and not word.startswith(opening) and word not in ("null", "~")):
        return {key: text if word else ""}
    try:
        value = OmegaConf.to_container(OmegaConf.from_dotlist([f"value={text}"]))["value"]  # type: ignore[call-overload, index]
    except Exception as error:  # yaml's and omegaconf's own classes
        problem = getattr(error, "problem", None) or one_line(error)
        raise UserError(f"The value of the override {override!r} cannot be read: {problem}.") from error
    return dict(_leaves({key: value}))


def _merge(layers: Sequence[tuple[str, dict[str, Any]]]) -> Config:
    """The defaults under ``layers`` (where they come from, values by dotted key), the last one on top."""
    merged, defaults, types = copy.deepcopy(_tree()), _defaults(), _types()
    places: dict[str, str] = {}
    changed: set[str] = set()
    for place, values in layers:
        for key, value in values.items():
            _check_key(key, value, place)
            if key not in types:
                continue  # an empty section
            places[key] = place
            if key not in changed and type(value) is type(defaults[key]) and value == defaults[key]:
                continue  # as most of a stored configuration is
            changed.add(key)
            try:
                OmegaConf.update(merged, key, _fitting(key, types[key], value, place))
            except OmegaConfBaseException as error:
                raise _wrong_type(key, types[key], value, place) from error
    config = Config()
    for key in filter(changed.__contains__, types):  # the others have their defaults
        try:
            value = OmegaConf.select(merged, key, throw_on_missing=True)
            value = OmegaConf.to_object(value) if OmegaConf.is_list(value) else value
        except OmegaConfBaseException as error:
            raise UserError(f"{key} {places[key]} cannot be resolved: {one_line(error).rstrip('.')}.") from error
        if types[key] == NUMBER_OR_AUTO:
            value = _number_or_auto(key, value, places[key])
        _set(config, key, value)
    _check_values(config, places)
    return config


@functools.cache
def _tree() -> DictConfig:
    """The defaults, of which copies are made: OmegaConf takes five times as long to make it of the dataclasses."""
    return OmegaConf.structured(Config)


@functools.cache
def _defaults() -> dict[str, Any]:
    return dict(_leaves(to_dict(Config())))


@functools.cache
def _fixed() -> frozenset[str]:
    """Knobs that are no knobs of performance."""
    return frozenset(knob.key for knob in knobs() if not knob.performance)


@functools.cache
def _types() -> dict[str, str]:
    return {knob.key: knob.type for knob in knobs()}


def _set(config: Config, key: str, value: Any) -> None:
    *sections, name = key.split(".")
    target: Any = config
    for section in sections:
        target = getattr(target, section)
    setattr(target, name, value)


def _check_key(key: str, value: Any, place: str) -> None:
    """Raise a UserError unless ``key`` is a knob, or a section that is left empty."""
    if key in _types():
        return
    known = list(_types())
    below = [name for name in known if name.startswith(key + ".")]
    if below and value not in (None, {}):
        raise UserError(f"{key} {place} is a section; set one of its keys, such as {below[0]}.")
    if not below:
        raise UserError(f"Unknown key {key} {place}; did you mean {_nearest(key, known)}?")


def _nearest(key: str, known: Sequence[str]) -> str:
    """The known keys of the same last name if the key has only that ("size": "shortlist.size"), else the nearest."""
    same = [name for name in known if name.rpartition(".")[2] == key]
    return " or ".join(same or difflib.get_close_matches(key, known, 1, 0.0))


def _leaves(values: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """(dotted key, value) of nested dicts; a dict that stands where a knob is stays whole."""
    types = _types()
    for name, value in values.items():
        key = f"{prefix}{name}"
        if isinstance(value, dict) and value and key not in types:
            yield from _leaves(value, f"{key}.")
        else:
            yield key, value


NUMBER_OR_AUTO = "int | str"
_KINDS = {
    "str": "a text",
    "str | None": "a text or null",
    "int": "a whole number",
    "int | None": "a whole number or null",
    NUMBER_OR_AUTO: "a whole number or auto",
    "float": "a number",
    "float | None": "a number or null",
    "bool": "true or false",
    "list[str]": "a list of texts",
}


def _fitting(key: str, kind: str, value: Any, place: str) -> Any:
    """``value`` as the knob takes it: one text is a list of one; what OmegaConf would convert silently is an error."""
    if value == "???":
        raise UserError(f"{key} {place} is still ???; give it a value.")
    if value == "" and kind.endswith("None"):
        return None
    if kind == "list[str]" and isinstance(value, str):
        return [value] if value else []
    items = value if isinstance(value, list) else [value]
    if kind == NUMBER_OR_AUTO:
        return value  # which is looked at when references are resolved
    if "str" in kind and any(isinstance(item, bool | int | float | bytes) for item in items):
        raise UserError(f"{key} {place} is {value!r}; it must be {_KINDS[kind]}: put it in quotes.")
    if (kind == "list[str]") != isinstance(value, list) or any(isinstance(item, list | dict) for item in items):
        raise _wrong_type(key, kind, value, place)
    number_for_bool = kind == "bool" and isinstance(value, int | float) and not isinstance(value, bool)
    if number_for_bool or (kind.startswith(("float", "int |")) and isinstance(value, bool)):
        raise _wrong_type(key, kind, value, place)
    return value


def _number_or_auto(key: str, value: Any, place: str) -> int | str:
    """``value``, a text of digits as the number that it says, since OmegaConf leaves it a text here."""
    if isinstance(value, str) and re.fullmatch(r"[+-]?\d{1,18}", value.strip()):
        return int(value)
    if value != "auto" and (isinstance(value, bool) or not isinstance(value, int)):
        raise _wrong_type(key, NUMBER_OR_AUTO, value, place)
    found: int | str = value
    return found


def _wrong_type(key: str, kind: str, value: Any, place: str) -> UserError:
    shown = "null" if value is None else "empty" if value == "" else repr(value)
    return UserError(f"{key} {place} is {shown}; it must be {_KINDS[kind]}.")


def _check_values(config: Config, places: dict[str, str]) -> None:
    values = dict(_leaves(to_dict(config)))
    for knob in knobs():
        _check_value(knob, values[knob.key], f"{knob.key} {places.get(knob.key, '')}".strip())
    _check_held_out(config, places)
    _check_evaluations(config)
    _check_depths(config)
    _check_least_score(config, places)
    if not config.run.strip():
        raise UserError("run is empty; set it to a directory or an object-store URI, for example run=runs/mine.")


def _check_value(knob: Knob, value: Any, what: str) -> None:
    """UserError for a value that is none of the knob's choices, or out of its bounds; ``what``: key and place."""
    for item in value if isinstance(value, list) else [value]:
        if knob.choices and item not in knob.choices:
            nearest = difflib.get_close_matches(str(item), knob.choices, 1)
            hint = f" (did you mean {nearest[0]}?)" if nearest else ""
            raise UserError(f"{what} is {item!r}; it must be one of {', '.join(knob.choices)}{hint}.")
    if not isinstance(value, int | float) or isinstance(value, bool):
        return
    if not math.isfinite(value):
        raise UserError(f"{what} is {value}; it must be a finite number.")
    if broken := knob.bounds.broken_by(value):
        raise UserError(f"{what} is {value}; {broken}.")


def _check_held_out(config: Config, places: dict[str, str]) -> None:
    """UserError where every train document would be held out; a configuration that is stored so can be read."""
    place = places.get("prepare.held_out_share")
    if config.prepare.held_out_share == 1 and place != STORED:
        raise UserError(
            f"prepare.held_out_share {place} is 1, so no train document would be left to learn from: set it lower."
        )


def _check_evaluations(config: Config) -> None:
    """UserError where the evaluations during a training lack what they need."""
    if config.student.patience and not config.student.validate_every_steps:
        raise UserError(
            f"student.patience is {config.student.patience}, but student.validate_every_steps is 0, so nothing is "
            "evaluated: set it too."
        )
    if config.student.validate_every_steps and not config.prepare.held_out_share:
        raise UserError(
            f"student.validate_every_steps is {config.student.validate_every_steps}, but prepare.held_out_share is 0, "
            "so there are no held-out documents to evaluate on: raise the share, or set student.validate_every_steps "
            "and student.patience to 0."
        )


def _check_depths(config: Config) -> None:
    """UserError where more labels are wanted than are ranked."""
    if config.evaluate.depth < DEEPEST_RANK:
        raise UserError(
            f"evaluate.depth is {config.evaluate.depth}, but R@{DEEPEST_RANK} is measured: set it to {DEEPEST_RANK} at "
            "least."
        )
    ranked = {"shortlist.size": config.shortlist.size, "predict.top_k": config.predict.top_k}
    ranked |= {"evaluate.depth": config.evaluate.depth, "predict.rerank": config.predict.rerank}
    ranked |= {"predict.rerank_candidates": config.predict.rerank_candidates or 0}
    for key, depth in ranked.items():
        if config.lexical.weight and depth > config.lexical.candidates:
            raise UserError(
                f"{key} is {depth}, but the similarity decides among lexical.candidates={config.lexical.candidates} "
                "labels only: set that to as many at least."
            )


def _check_least_score(config: Config, places: dict[str, str]) -> None:
    """UserError where two knobs give the least score of a prediction; what an older version stored so can be read."""
    given = {key: getattr(config.predict, key) for key in ("min_score", "precision")}
    if None not in given.values() and any(places.get(f"predict.{key}") != STORED for key in given):
        said = " and ".join(f"predict.{key} {places[f'predict.{key}']} is {value}" for key, value in given.items())
        raise UserError(
            f"{said}, but each gives the least score of a prediction: give one of them, and set the other to null "
            "(predict.min_score=null for a precision)."
        )
