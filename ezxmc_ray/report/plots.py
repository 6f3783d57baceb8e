"""The report's pictures as inline SVG: histogram of the verdicts, share of yes by rank, calibration and loss curves.

Comes in: plain lists of numbers from report.json. Goes out: ``<svg>`` elements whose colours are the page's CSS
variables, so that they follow the reader's light or dark scheme. No display and no network are needed.
"""

from __future__ import annotations

import io
from itertools import pairwise
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

#: Drawn with these colours, which are then exchanged for variables of the page's style sheet.
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
    figure, axes = _figure()
    for number, (name, details) in enumerate(training.items()):
        curve = [point for point in details.get("loss_curve") or [] if point.get("loss") is not None]
        steps, losses = [point["step"] for point in curve], [point["loss"] for point in curve]
        marker = "o" if len(curve) < 3 else None
        axes.plot(steps, losses, color=_LINES[number % len(_LINES)], label=name.replace("_", " "), marker=marker)
    axes.set_xlabel("step")
    axes.set_ylabel("loss")
    if len(training) > 1:
        axes.legend(frameon=False, labelcolor=_INK, fontsize=9)
    return _svg(figure, "loss")


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
    for colour, variable in _VARIABLES.items():
        text = text.replace(colour, variable)
    return text.replace('id="', f'id="{name}-').replace('"#', f'"#{name}-').replace("url(#", f"url(#{name}-")
