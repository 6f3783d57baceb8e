"""The model card: README.md in the student's directory, as the Hugging Face hub and SentenceTransformer read it.

Comes in: the dict of build_report. Goes out: one Markdown file with a YAML header. It says what the run knows; what
only the user knows (the license) it asks for.
"""

from __future__ import annotations

import html
from collections.abc import Mapping
from typing import Any

import yaml
from markupsafe import Markup

from ezxmc_ray import layout
from ezxmc_ray.config import LexicalConfig
from ezxmc_ray.metrics import MEASURES
from ezxmc_ray.models import hub_place, is_of_hub
from ezxmc_ray.report.shipped import chosen_name, shipped_name
from ezxmc_ray.report.templates import templates
from ezxmc_ray.shown import shown
from ezxmc_ray.storage import Storage

TAGS = ["sentence-transformers", "sentence-similarity", "feature-extraction", "ezxmc-ray"]
#: Versions that someone who loads the student may want to know.
PACKAGES = ("ezxmc-ray", "sentence-transformers", "transformers", "torch", "python")


def write_model_card(storage: Storage, report: Mapping[str, Any]) -> list[str]:
    """Commit the card of the student that ``report`` is about; returns the name of its file."""
    storage.write_bytes(layout.MODEL_CARD, model_card(report).encode())
    return [layout.MODEL_CARD]


def model_card(report: Mapping[str, Any]) -> str:
    """The card's text; ``report``: of a run whose student has been chosen."""
    return (
        templates(keep_trailing_newline=True, finalize=_as_text)
        .get_template("model_card.md.j2")
        .render(
            report=report,
            header=Markup(_header(report["config"]["encoder"]["model"])),
            config=report["config"],
            counts=report["counts"]["prepare"],
            teacher=report["teacher"] or {},
            selection=report["selection"],
            cross=report["cross_encoder"],
            chosen=chosen_name(report["chosen_cycle"]),
            words=_words(report),
            trained_on=_trained_on(report),
            learning_rates=_learning_rates(report),
            metric_rows=_metric_rows(report),
            versions={name: report["versions"][name] for name in PACKAGES if name in report["versions"]},
        )
    )


def _as_text(value: Any) -> Any:
    """A name or a sentence in Markdown, where raw HTML is HTML and a stroke ends a cell; numbers stay as they are."""
    if isinstance(value, Markup) or not isinstance(value, str):
        return value
    return shown(" ".join(html.escape(value, quote=False).split("\n"))).replace("|", "\\|")


def _words(report: Mapping[str, Any]) -> LexicalConfig:
    """How words count beside the encoder that is shipped."""
    cycle = report["chosen_cycle"]
    return LexicalConfig(**report["config"]["lexical"]).of_encoder(0 if cycle is None else cycle + 1)


def _trained_on(report: Mapping[str, Any]) -> int | None:
    """How many documents the encoder that is shipped was trained on; None: an earlier version did not count them.

    A training of less than an epoch does not read all its examples.
    """
    if report["chosen_cycle"] is None:
        return 0
    training = report["training"].get(chosen_name(report["chosen_cycle"]), {})
    examples: int | None = training.get("examples")
    return None if examples is None else min(examples, training.get("documents", examples))


def _learning_rates(report: Mapping[str, Any]) -> list[float]:
    """The learning rate that the encoder that is shipped was trained with, by the documents of its steps; where that
    is the untrained one, those of all trainings. Empty: an earlier version did not say."""
    trainings, cycle = report["training"], report["chosen_cycle"]
    told = [trainings.get(chosen_name(cycle), {})] if cycle is not None else trainings.values()
    return sorted({one["learning_rate"] for one in told if one.get("learning_rate") is not None})


def _header(model: str) -> str:
    """The card's YAML; ``base_model`` only where the hub knows the model by this name."""
    known = {"library_name": "sentence-transformers", "pipeline_tag": "sentence-similarity", "tags": TAGS}
    if is_of_hub(model):
        known["base_model"] = hub_place(model)[0]
    return yaml.safe_dump(known, sort_keys=False).rstrip()


def _metric_rows(report: Mapping[str, Any]) -> list[dict[str, Any]]:
    """A row for each measure that was taken: value and 95 % interval of what is shipped, values of the chosen encoder
    alone and of the untrained one."""
    metrics, intervals, cycle = report["metrics"] or {}, report["intervals"] or {}, report["chosen_cycle"]
    after = metrics.get("chosen") or {}
    others = {"alone": metrics.get(chosen_name(cycle)) or {}, "untrained": metrics.get("untrained") or {}}
    ends = intervals.get(shipped_name(metrics, cycle)) or {}
    return [
        {"name": name, "value": after[name], "interval": ends.get(name)}
        | {other: values.get(name) for other, values in others.items()}
        for name in MEASURES
        if after.get(name) is not None
    ]
