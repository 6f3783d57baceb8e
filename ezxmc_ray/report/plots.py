"""The report's pictures as inline SVG: histogram of the verdicts, share of yes by rank, calibration and curves of
training; and the picture of a comparison, quality over pairs.

Comes in: plain lists of numbers from report.json. Goes out: ``<svg>`` elements whose colors are the page's CSS
variables, so that they follow the reader's light or dark scheme. No display and no network are needed.
"""

from __future__ import annotations

import io
from itertools import pairwise
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, StrMethodFormatter

#: Drawn with these colors, which are then exchanged for variables of the page's style sheet.
_INK, _FAINT, _LINES = "#010203", "#010204", ("#010205", "#010206", "#010207", "#010208", "#010209")
_VARIABLES = {_INK: "var(--ink)", _FAINT: "var(--faint)"} | {c: f"var(--line-{i})" for i, c in enumerate(_LINES)}


def verdict_histogram(histogram: dict[str, Any], threshold: float | None) -> str:
    """Bars of ``histogram`` (edges, counts); ``threshold`` above which a verdict counts as yes is a dashed line."""
    figure, axes = _figure()
    edges, counts = histogram["edges"], histogram["counts"]
    widths = [right - left for left, right in pairwise(edges)]
    axes.bar(edges[:-1], counts, widths, align="edge", color=_LINES[0], edgecolor="none")
    if threshold is not None and edges[0] <= threshold <= edges[-1]:
        axes.axvline(threshold, color=_INK, linestyle="--", linewidth=1)
        axes.annotate("yes from here", (threshold, 1), xycoords=("data", "axes fraction"), xytext=(4, -10),
                      textcoords="offset points", color=_INK, fontsize=9)  # fmt: skip
    axes.set_xlabel("verdict")
    axes.set_ylabel("pairs")
    return _svg(figure, "histogram")


def share_yes_by_rank(shares: list[float]) -> str:
    """A bar a rank, the nearest label's first: share of yes (0 to 1, drawn in percent)."""
    figure, axes = _figure()
    axes.bar(range(1, len(shares) + 1), [100 * share for share in shares], color=_LINES[0], edgecolor="none")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlabel("rank in the shortlist")
    axes.set_ylabel("yes, %")
    return _svg(figure, "rank")


def calibration_curve(curve: list[dict[str, Any]]) -> str:
    """Share of gold in each group of pairs, over its mean P(yes), with the line where both are equal.

    Without P(yes) (a read-out that is no probability) it is drawn over the mean verdict, and there is no such line.
    """
    figure, axes = _figure()
    name = "verdict" if curve[0]["p_yes"] is None else "p_yes"
    values, shares = [group[name] for group in curve], [group["share_gold"] for group in curve]
    if name == "p_yes":
        ends = [min(values), max(values)]
        axes.plot(ends, ends, color=_INK, linestyle="--", linewidth=1)
        axes.annotate("P(yes) = share of gold", (ends[1], ends[1]), xytext=(-4, 4), textcoords="offset points",
                      ha="right", color=_INK, fontsize=9)  # fmt: skip
    axes.plot(values, shares, color=_LINES[0], marker="o")
    axes.set_xlabel("verdict" if name == "verdict" else "P(yes)")
    axes.set_ylabel("share of gold")
    return _svg(figure, "calibration")


def loss_curves(training: dict[str, Any]) -> str:
    """One line a cycle: loss over steps."""
    return _by_step(training, "loss_curve", "loss", "loss")


def held_out_curves(training: dict[str, Any]) -> str:
    """One line a cycle: nDCG@5 of the held-out shortlists, by the teacher's judgment, over steps."""
    return _by_step(training, "validation_curve", "score", "nDCG@5, held out")


def cross_encoder_loss(details: dict[str, Any]) -> str:
    """The loss of the cross-encoder over steps, which is on a scale of its own."""
    return _by_step({"cross-encoder": details}, "loss_curve", "loss", "loss", "cross-encoder-loss")


def _by_step(training: dict[str, Any], curve_name: str, value: str, label: str, picture: str = "") -> str:
    figure, axes = _figure()
    for number, (name, details) in enumerate(training.items()):
        curve = [point for point in details.get(curve_name) or [] if point.get(value) is not None]
        steps, values = [point["step"] for point in curve], [point[value] for point in curve]
        marker = "o" if len(curve) < 3 else None
        axes.plot(steps, values, color=_line(number)[0], label=name.replace("_", " "), marker=marker)
    axes.set_xlabel("step")
    axes.set_ylabel(label)
    if len(training) > 1:
        axes.legend(frameon=False, labelcolor=_INK, fontsize=9)
    return _svg(figure, picture or value)


def quality_over_pairs(runs: list[list[dict[str, Any]]], measure: str) -> str:
    """One line a run: ``value`` of ``measure`` over ``pairs`` judged, a point a student with its ``interval``.

    The student that a run ships (``shipped``) is a filled point. The legend is the page's: :func:`line_of`.
    """
    figure, axes = _figure()
    most = max((point["pairs"] for points in runs for point in points), default=0)
    for number, points in enumerate(runs):
        color, style = _line(number)
        # Side by side, since runs are often compared at equal pairs.
        places = [point["pairs"] + 0.008 * most * (number - (len(runs) - 1) / 2) for point in points]
        axes.plot(places, [point["value"] for point in points], color=color, linestyle=style, linewidth=1)
        for place, point in zip(places, points, strict=True):
            low, high = point["interval"] or (point["value"], point["value"])
            axes.plot([place, place], [low, high], color=color, linewidth=1, alpha=0.6)
            face = color if point["shipped"] else "none"
            axes.plot(place, point["value"], color=color, marker="o", markerfacecolor=face, linestyle="none")
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
    axes.set_xlabel("pairs judged by the teacher")
    axes.set_ylabel(f"{measure}, %")
    return _svg(figure, "pairs")


def line_of(number: int) -> tuple[str, str]:
    """Color and style, as CSS has them, of the line of run ``number`` in :func:`quality_over_pairs`."""
    color, style = _line(number)
    return _VARIABLES[color], style


def _line(number: int) -> tuple[str, str]:
    return _LINES[number % len(_LINES)], ("solid", "dashed", "dotted")[number // len(_LINES) % 3]


def _figure() -> tuple[Figure, Axes]:
    figure = Figure(figsize=(6.4, 2.6), layout="constrained")
    axes = figure.add_subplot()
    axes.set_facecolor("none")
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(_FAINT)
    axes.tick_params(colors=_INK, labelsize=10, length=3)
    axes.xaxis.label.set_color(_INK)
    axes.yaxis.label.set_color(_INK)
    axes.yaxis.grid(True, color=_FAINT, linewidth=0.5, alpha=0.5)
    axes.set_axisbelow(True)
    return figure, axes


def _svg(figure: Figure, name: str) -> str:
    """``figure`` as an SVG element with real text; ``name`` keeps its ids apart from other pictures on the page."""
    sink = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": f"ezxmc-{name}"}):
        figure.savefig(sink, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    text = sink.getvalue()
    text = text[text.index("<svg") :]
    for color, variable in _VARIABLES.items():
        text = text.replace(color, variable)
    return text.replace('id="', f'id="{name}-').replace('"#', f'"#{name}-').replace("url(#", f"url(#{name}-")
