"""What a knob of the configuration is: a field of a dataclass that carries its explanation, its choices, its bounds."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

#: What a number may be at most where its knob says nothing else: what 32 bits hold, and what no sum runs over from.
MAX_INT, MAX_FLOAT = 2**31 - 1, 1e6


@dataclass(frozen=True)
class Bounds:
    """What a number may be: ``least`` and more, more than ``above``, ``most`` and less; None: no such bound."""

    least: float | None = 0
    above: float | None = None
    most: float | None = None

    def broken_by(self, value: float) -> str | None:
        """What is wrong with ``value``, as the end of a sentence; None if it is within."""
        if (self.least, self.most) == (0, 1) and not 0 <= value <= 1:
            return "it is a share and must lie between 0 and 1"
        if self.above is not None and value <= self.above:
            return f"it must be greater than {self.above:,}"
        if self.least is not None and value < self.least:
            return "it must not be negative" if self.least == 0 else f"it must be at least {self.least:,}"
        most = self.most or (MAX_INT if isinstance(value, int) else MAX_FLOAT)
        return f"it must be at most {most:,}" if value > most else None


def knob(
    default: Any,
    explanation: str,
    choices: Sequence[str] = (),
    *,
    least: float | None = 0,
    above: float | None = None,
    most: float | None = None,
    performance: bool = False,
) -> Any:
    """A field of a section: its default, what it does, the values that it may have.

    ``least``, ``above``, ``most``: see :class:`Bounds`. ``performance``: it changes how fast a stage is or what it
    tells of itself, not what it writes for the next one, so a run that was stopped may go on with another value; or no
    stage of a run reads it. (Of the models the weights count, not where they lie.)
    """
    metadata: dict[str, Any] = {"help": explanation, "choices": tuple(choices), "bounds": Bounds(least, above, most)}
    metadata["performance"] = performance
    if isinstance(default, list | dict):
        return field(default_factory=lambda: type(default)(default), metadata=metadata)
    return field(default=default, metadata=metadata)


@dataclass(frozen=True)
class Knob:
    """One leaf of the configuration: dotted key, type as written, default, explanation, allowed values, bounds."""

    key: str
    type: str
    default: Any
    help: str
    choices: tuple[str, ...]
    bounds: Bounds
    performance: bool


def knobs_of(section: Any, prefix: str = "") -> Iterator[Knob]:
    """Every knob of ``section`` (a config dataclass), in the order of the file."""
    for item in dataclasses.fields(section):
        default = item.default_factory() if callable(item.default_factory) else item.default
        if dataclasses.is_dataclass(default):
            yield from knobs_of(type(default), f"{prefix}{item.name}.")
        else:
            known = item.metadata
            yield Knob(
                prefix + item.name,
                str(item.type),
                default,
                known["help"],
                known["choices"],
                known["bounds"],
                known["performance"],
            )
