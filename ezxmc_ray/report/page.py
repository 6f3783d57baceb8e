"""Writes ``report.json`` and ``report.html``, which needs no network and no script.

Comes in: the dict of build_report. Goes out: two files at the root of the run directory. All texts from documents and
labels are escaped by the template engine.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from typing import Any

from jinja2 import Environment
from markupsafe import Markup

from ezxmc_ray import layout
from ezxmc_ray.context import RERANKED
from ezxmc_ray.metrics import BIN_MEASURES, MEASURES, PROPENSITY_MEASURES
from ezxmc_ray.report import plots
from ezxmc_ray.report.build import RUN_STAGES
from ezxmc_ray.report.shipped import chosen_name, shipped, shipped_name
from ezxmc_ray.report.templates import templates
from ezxmc_ray.storage import Storage

#: Counts whose names begin so tell of something left out or cut and are shown; report.json has the others too.
LEFT_OUT_PREFIXES = (
    "rejected",
    "truncated",
    "unreadable",
    "skipped",
    "dropped",
    "filtered",
    "duplicate",
    "documents_without",
)

#: What these counts mean; another one is shown by its name.
LEFT_OUT = {
    "rejected": "rows rejected (rejected.parquet names each)",
    "duplicate_label_texts": "labels whose text another label has too",
    "dropped_gold_labels": "gold labels that are not among the labels",
    "filtered_pairs": "pairs filtered (a document that is its own label)",
    "truncated_documents": "documents cut to the token limit",
    "truncated_readings": "documents cut to the token limit, each once an epoch",
    "truncated_labels": "labels cut to the token limit",
    "unreadable_documents": "documents of which the encoder knows nothing",
    "unreadable_labels": "labels of which the encoder knows nothing",
    "skipped_documents": "documents skipped",
    "documents_without_labels": "documents that got no label",
}


def write_report(storage: Storage, report: dict[str, Any]) -> list[str]:
    """Commit ``report`` as report.json and report.html; returns the names of both files."""
    storage.write_json(layout.REPORT_JSON, report)
    storage.write_bytes(layout.REPORT_HTML, render(report).encode())
    return [layout.REPORT_JSON, layout.REPORT_HTML]


def render(report: dict[str, Any]) -> str:
    """The page for ``report``, a whole HTML document."""
    cross = report["cross_encoder"]
    return (
        environment()
        .get_template("template.html.j2")
        .render(
            report=report,
            headline=_headline(report),
            metric_rows=_metric_rows(report, list(MEASURES)),
            propensity_rows=_metric_rows(report, list(PROPENSITY_MEASURES)),
            bin_measures=BIN_MEASURES,
            bin_names=_bin_names(report),
            counted=_counted(report),
            stage_rows=_stage_rows(report),
            left_out=_left_out(report),
            histogram=_histogram(report),
            by_rank=_by_rank(report),
            calibration=_calibration(report),
            trainings=report["training"] | ({"cross_encoder": cross} if cross else {}),
            losses=_curves(report, "loss_curve", plots.loss_curves),
            cross_losses=Markup(plots.cross_encoder_loss(cross)) if cross and cross.get("loss_curve") else None,
            held_out=_curves(report, "validation_curve", plots.held_out_curves),
        )
    )


def environment() -> Environment:
    """The templates of this package, with the filters that write numbers as the report has them."""
    found = templates(autoescape=True)
    found.filters |= {"number": _number, "duration": _duration, "named": _named, "json": _json}
    found.filters |= {"percent": _percent, "interval": _interval, "signed": _signed, "ends": _ends}
    return found


def _headline(report: dict[str, Any]) -> str:
    """What came out, in one or two sentences."""
    if report["selection"] is None:
        return "The run is not finished: no encoder has been chosen yet."
    rerank = (report["cross_encoder"] or {}).get("rerank", 0)
    return shipped(report["chosen_cycle"], report["cycles"]["run"], report["metrics"] or {}, rerank)


def _metric_rows(report: dict[str, Any], measures: list[str]) -> dict[str, Any] | None:
    """Those of ``measures`` that were taken, and a row a ranking: name, ``badge`` (chosen, shipped), a cell a measure.

    None without metrics, or where a run of an earlier version took none of the measures.
    """
    encoders = {name: values for name, values in (report["metrics"] or {}).items() if name != "chosen"}
    names = [name for name in measures if name in next(iter(encoders.values()), {})]
    if not names:
        return None
    badges = {chosen_name(report["chosen_cycle"]): "chosen", RERANKED: "shipped"} if report["selection"] else {}
    rows = [
        {
            "name": _ranking_name(report, encoder),
            "badge": badges.get(encoder),
            "cells": [_measure_cell(report, encoder, name) for name in names],
            "documents": values["documents"],
        }
        for encoder, values in encoders.items()
    ]
    shown = encoders.get(shipped_name(encoders, report["chosen_cycle"])) or next(iter(encoders.values()))
    intervals = report["intervals"] or {}
    has_intervals = any(interval for measured in intervals.values() for interval in measured.values())
    error = None if intervals else _standard_error(shown)
    is_few = bool(intervals) and not has_intervals
    return {"names": names, "rows": rows, "has_intervals": has_intervals, "is_few": is_few, "error": error}


def _ranking_name(report: dict[str, Any], name: str) -> str:
    cross = report["cross_encoder"]
    return f"cross-encoder ranks the first {cross['rerank']}" if cross and name == RERANKED else _named(name)


def _measure_cell(report: dict[str, Any], encoder: str, name: str) -> dict[str, Any]:
    """One measure of one encoder: its value, its interval, its difference to the untrained one, and ``direction``.

    The direction, up or down, goes by the paired interval: there is none under 10 documents, and then no direction.
    In a run of an earlier version, which took none, it goes by whether the difference would be seen.
    """
    metrics, value = report["metrics"], report["metrics"][encoder].get(name)
    base = None if encoder == "untrained" else metrics.get("untrained", {}).get(name)
    difference = None if base is None or value is None else value - base
    over = (report["over_untrained"] or {}).get(encoder, {}).get(name)
    low, high = (over["interval"] or (0.0, 0.0)) if over else (difference or 0.0,) * 2
    least = 0 if over else 0.05
    return {
        "value": value,
        "interval": (report["intervals"] or {}).get(encoder, {}).get(name),
        "difference": difference,
        "direction": "up" if low > least else "down" if high < -least else None,
    }


def _bin_names(report: dict[str, Any]) -> list[str]:
    """What the table by label frequency compares: the untrained encoder, the chosen one, and what is made of its
    ranking."""
    bins = report["label_bins"] or [{"encoders": {}}]
    shown = ("untrained", chosen_name(report["chosen_cycle"]), RERANKED)
    return [name for name in bins[0]["encoders"] if name in shown]


def _counted(report: dict[str, Any]) -> str | None:
    """The documents that the labels' frequencies were counted on."""
    counted = report["label_counts"]
    if not counted:
        return None
    if counted["counted_from"] == "train":
        return f"the {counted['documents']:,} train documents with gold labels (which training does not see)"
    return f"the {counted['documents']:,} test documents themselves, since no train document has gold labels"


def _standard_error(values: dict[str, Any]) -> float | None:
    """Of P@1, in points: each document is a hit or not, so it follows from the share and the count."""
    share = values.get("P@1")
    return None if share is None else math.sqrt(share * (100 - share) / values["documents"])


def _stage_rows(report: dict[str, Any]) -> list[dict[str, Any]]:
    """Every finished stage in the order of the run, with its share of the longest one's time for the bar."""
    stages = report["stages"]
    cycles = [name for name in stages if name.startswith("cycle_")]
    order = [("prepare", stages.get("prepare"))]
    order += [(f"{_named(cycle)}: {stage}", timed) for cycle in cycles for stage, timed in stages[cycle].items()]
    order += [(_named(stage), stages.get(stage)) for stage in RUN_STAGES if stage != "prepare"]
    rows = [{"name": name, **timed} for name, timed in order if timed]
    longest = max((row["seconds"] for row in rows), default=0) or 1
    return [row | {"bar": 100 * row["seconds"] / longest} for row in rows]


def _left_out(report: dict[str, Any]) -> list[tuple[str, str, int]]:
    """(stage, what was dropped or cut, how many) for everything that a stage counted, zeros included."""
    found: list[tuple[str, str, int]] = []
    for name, counts in report["counts"].items():
        nested = counts.items() if name.startswith("cycle_") else [("", counts)]
        for stage, values in nested:
            where = f"{_named(name)}: {stage}" if stage else _named(name)
            for key, value in values.items():
                if isinstance(value, dict):
                    found += [(where, f"of these: {reason}", count) for reason, count in value.items()]
                elif key.startswith(LEFT_OUT_PREFIXES):
                    found.append((where, LEFT_OUT.get(key, _named(key)), value))
    return found


def _histogram(report: dict[str, Any]) -> Markup | None:
    teacher = report["teacher"] or {}
    histogram = teacher.get("histogram") or {}
    if not histogram.get("counts"):
        return None
    return Markup(plots.verdict_histogram(histogram, teacher.get("yes_threshold")))


def _by_rank(report: dict[str, Any]) -> Markup | None:
    shares = (report["teacher"] or {}).get("share_yes_by_rank")
    return Markup(plots.share_yes_by_rank(shares)) if shares else None


def _calibration(report: dict[str, Any]) -> Markup | None:
    curve = (report["teacher"] or {}).get("calibration_curve")
    return Markup(plots.calibration_curve(curve)) if curve else None


def _curves(report: dict[str, Any], name: str, plot: Callable[[dict[str, Any]], str]) -> Markup | None:
    training = {cycle: details for cycle, details in report["training"].items() if details.get(name)}
    return Markup(plot(training)) if training else None


def _number(value: Any, digits: int = 0) -> str:
    """1234.5 -> 1,234 (or with ``digits`` decimals); None -> a dash."""
    return "–" if value is None else f"{value:,.{digits}f}"


def _percent(share: float | None, digits: int = 1) -> str:
    """0.1234 -> 12.3 %; None -> a dash."""
    return "–" if share is None else f"{100 * share:.{digits}f} %"


def _signed(value: float | None) -> str:
    """0.0123 -> +0.012; None -> a dash."""
    return "–" if value is None else f"{value:+.3f}"


def _interval(ends: list[float] | None) -> str:
    """[0.79, 0.83] -> 0.790 to 0.830; None -> a dash."""
    return "–" if ends is None else "{:.3f} to {:.3f}".format(*ends)


def _ends(ends: list[float]) -> str:
    """[49.81, 54.95] -> 49.8 to 55.0, of measures in percent."""
    return "{:.1f} to {:.1f}".format(*ends)


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def _duration(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s"


def _named(name: str) -> str:
    """cycle_0 -> cycle 0, as people read it; cross_encoder has a word of its own."""
    return "cross-encoder" if name == "cross_encoder" else name.replace("_", " ")
