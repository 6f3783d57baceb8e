"""The report's pictures as inline SVG: histogram of the verdicts and loss curves.

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

#: Drawn with these colours, which are then exchanged for variables of the page's style sheet.
_INK, _FAINT, _LINES = "#010203", "#010204", ("#010205", "#010206", "#010207", "#010208", "#010209")
_VARIABLES = {_INK: "var(--ink)", _FAINT: "var(--faint)"} | {c: f"var(--line-{i})" for i, c in enumerate(_LINES)}


def verdict_histogram(histogram: dict[str, Any], threshold: float | None, readout: str) -> str:
    """Bars of ``histogram`` (edges, counts); ``threshold`` above which a verdict counts as yes is a dashed line."""
    figure, axes = _figure()
    edges, counts = histogram["edges"], histogram["counts"]
    widths = [right - left for left, right in pairwise(edges)]
    axes.bar(edges[:-1], counts, widths, align="edge", color=_LINES[0], edgecolor="none")
    if threshold is not None and edges[0] <= threshold <= edges[-1]:
        axes.axvline(threshold, color=_INK, linestyle="--", linewidth=1)
        axes.annotate("yes from here", (threshold, 1), xycoords=("data", "axes fraction"), xytext=(4, -10),
                      textcoords="offset points", color=_INK, fontsize=9)  # fmt: skip
    axes.set_xlabel("P(yes)" if readout == "yes_no" else "verdict")
    axes.set_ylabel("pairs")
    return _svg(figure, "histogram")


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
