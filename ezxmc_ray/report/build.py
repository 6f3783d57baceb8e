"""Gathers what the stages of a run left behind into one dict: the contents of ``report.json``.

Comes in: manifests and ``evaluation/sample.parquet`` of a run directory, and its configuration. Goes out: plain dicts,
lists, texts and finite numbers. Nothing is computed from documents here, and a stage that has not run is named in
``missing`` instead of failing.
"""

from __future__ import annotations

import math
from typing import Any

from ezxmc_ray import layout
from ezxmc_ray.config import Config, knobs, to_dict
from ezxmc_ray.credentials import without_credentials
from ezxmc_ray.cycles import cycles_run, least_lead, planned_cycles, stopped_at
from ezxmc_ray.errors import UserError
from ezxmc_ray.report.shipped import measures, shipped_name
from ezxmc_ray.report.teacher import teacher_part
from ezxmc_ray.storage import Manifest, Storage, read_manifest
from ezxmc_ray.verdicts.costs import pairs_asked

#: The folder that each stage of the whole run leaves its manifest in; see :func:`run_stages`.
RUN_STAGES = {
    "prepare": layout.DOCUMENTS,
    "select": layout.STUDENT,
    "cross_encoder": layout.CROSS_ENCODER,
    "index": layout.INDEX,
    "predict": layout.PREDICTIONS,
    "evaluate": layout.EVALUATION,
}

#: The same for the stages of a cycle, by its number.
CYCLE_STAGES = {"shortlist": layout.shortlist, "judge": layout.examples, "train": layout.cycle_student}

#: Of what was prepared; they change with its content and with nothing else.
FINGERPRINTS = ("document_fingerprint", "label_fingerprint", "gold_fingerprint")

#: What else the stage evaluate measured against gold labels; report.json has it under the same names.
BESIDE_METRICS = ("intervals", "over_untrained", "label_bins", "label_counts")

#: Characters of a document's text that the report shows.
TEXT_CHARACTERS = 600

#: Whole numbers in the stages' details that count nothing.
_SETTINGS = ("chosen_cycle", "top_k", "size", "workers", "engines", "anchor", "rerank")

Manifests = dict[str, Manifest | None]


def build_report(storage: Storage, config: Config) -> dict[str, Any]:
    """The report on the run in ``storage``: docs/report.md has its keys; NaN and infinities become null,
    and credentials in URIs are left out.

    Errors: UserError if the run holds no documents yet.
    """
    stages: Manifests = {name: read_manifest(storage, folder) for name, folder in run_stages(config).items()}
    if stages["prepare"] is None:
        raise UserError(
            f"There is nothing to report on in {storage.root}: it holds no documents; run ezxmc prepare first."
        )
    last = cycles_run(storage, config)
    cycles = [_cycle(storage, number, last) for number in range(last + 1)]
    details = {name: manifest.details if manifest else {} for name, manifest in stages.items()}
    judged = {number: manifest.details for number, cycle in enumerate(cycles) if (manifest := cycle["judge"])}
    chosen = details["select"].get("chosen_cycle")
    report = {
        "title": config.report.title or layout.run_name(config.run),
        "run": storage.root,
        "chosen_cycle": chosen,
        "metrics": _metrics(details["evaluate"], chosen, stages["select"] is not None),
        **{name: details["evaluate"].get(name) for name in BESIDE_METRICS},
        "data": {name: details["prepare"].get(name) for name in FINGERPRINTS},
        "read": details["prepare"].get("read", []),
        "cycles": {"run": last, "planned": planned_cycles(config), "stopped": _stopped(storage, config)},
        "selection": details["select"] or None,
        "cross_encoder": _cross_encoder(details.get("cross_encoder", {}), config),
        "least_score": _least_score(details["predict"], config),
        "teacher": teacher_part(judged, details["evaluate"].get("teacher")),
        "training": {f"cycle_{n}": m.details for n, cycle in enumerate(cycles) if (m := cycle.get("train"))},
        "stages": _timed(stages)
        | {f"cycle_{n}": _timed(cycle) for n, cycle in enumerate(cycles) if any(cycle.values())},
        "counts": _counts(details, cycles),
        "missing": _missing(stages, cycles),
        "versions": _versions([*stages.values(), *(m for cycle in cycles for m in cycle.values())]),
        "config": to_dict(config),
        "changed": _changed(config),
        "sample": _sample(storage, config.report.documents),
    }
    finite: dict[str, Any] = without_credentials(_finite(report))
    return finite


def run_stages(config: Config) -> dict[str, str]:
    """Those of RUN_STAGES that a run of ``config`` has."""
    return {name: folder for name, folder in RUN_STAGES.items() if name != "cross_encoder" or config.predict.rerank}


def _stopped(storage: Storage, config: Config) -> dict[str, Any] | None:
    """What the stop rule ended the cycles by; None where it did not."""
    cycle = stopped_at(storage, config)
    manifest = None if cycle is None else read_manifest(storage, layout.selection(cycle))
    if cycle is None or manifest is None:
        return None
    lead = {"encoder": manifest.details["encoder"], **manifest.details["lead"]}
    return lead | {"min_lead": least_lead(config, cycle)}


def _cycle(storage: Storage, number: int, cycles: int) -> Manifests:
    """The manifests of encoder ``number``; the last one is only judged for the selection, nothing is trained on it.

    ``select`` is there where the stop rule compared it.
    """
    names = [name for name in CYCLE_STAGES if name != "train" or number < cycles]
    found = {name: read_manifest(storage, CYCLE_STAGES[name](number)) for name in names}
    compared = read_manifest(storage, layout.selection(number))
    return found | ({"select": compared} if compared else {})


def _metrics(evaluated: dict[str, Any], chosen: int | None, selected: bool) -> dict[str, Any] | None:
    """The measures of each ranking and of the one that is shipped; None where no document has gold labels."""
    metrics = measures(evaluated)
    if not metrics:
        return None
    return metrics | {"chosen": metrics.get(shipped_name(metrics, chosen)) if selected else None}


def _cross_encoder(trained: dict[str, Any], config: Config) -> dict[str, Any] | None:
    """How many labels are ranked anew, by which weight, and what the stage cross_encoder found; None: it found nothing,
    or the run has none."""
    return {"rerank": config.predict.rerank, "weight": config.cross_encoder.weight, **trained} if trained else None


def _least_score(predicted: dict[str, Any], config: Config) -> dict[str, Any] | None:
    """The least score that documents were tagged by, and what it was fitted for; None before the stage predict."""
    if not predicted:
        return None
    is_given = predicted["min_score_is"] == "given"
    precision = None if is_given else config.predict.precision
    return {"min_score": predicted["min_score"], "min_score_is": predicted["min_score_is"], "precision": precision}


def _timed(manifests: Manifests) -> dict[str, dict[str, Any]]:
    return {name: _time(manifest) for name, manifest in manifests.items() if manifest is not None}


def _time(manifest: Manifest) -> dict[str, Any]:
    # A cycle that begins with the stop rule judges its held-out documents first, as a step of its own.
    rows, seconds = _rows(manifest), manifest.seconds + manifest.details.get("seconds_before", 0.0)
    return {"seconds": seconds, "rows": rows, "rows_per_s": rows / seconds if seconds else None}


def _rows(manifest: Manifest) -> int:
    """What a stage worked on in its seconds: its rows; for judge the pairs it asked, since held ones cost no time."""
    asked = pairs_asked(manifest.details) if manifest.stage == "judge" else None
    return manifest.rows if asked is None else asked


def _counts(details: dict[str, dict[str, Any]], cycles: list[Manifests]) -> dict[str, Any]:
    """Every count in the stages' details (whole numbers, and counts by reason), so that nothing dropped is lost."""
    counts: dict[str, Any] = {"prepare": _whole(details["prepare"])}
    for number, cycle in enumerate(cycles):
        counts[f"cycle_{number}"] = {stage: _whole(m.details) for stage, m in cycle.items() if m is not None}
    counts |= {stage: _whole(values) for stage, values in details.items() if stage != "prepare"}
    return {name: values for name, values in counts.items() if values}


def _whole(details: dict[str, Any]) -> dict[str, Any]:
    """The entries of ``details`` that count something."""
    whole = {name: value for name, value in details.items() if isinstance(value, int) and not isinstance(value, bool)}
    found = {name: value for name, value in whole.items() if name not in _SETTINGS}
    return found | {name: value for name, value in details.items() if name.endswith("_by_reason")}


def _missing(stages: Manifests, cycles: list[Manifests]) -> list[str]:
    """One plain sentence for each stage that has left no manifest."""
    absent = [(f"The stage {name}", RUN_STAGES[name]) for name, manifest in stages.items() if manifest is None]
    for number, cycle in enumerate(cycles):
        names = [name for name, manifest in cycle.items() if manifest is None]
        absent += [(f"The stage {name} of cycle {number}", CYCLE_STAGES[name](number)) for name in names]
    return [
        f"{stage} has not been finished ({layout.manifest(folder)} is not there), so its results are not shown."
        for stage, folder in absent
    ]


def _versions(manifests: list[Manifest | None]) -> dict[str, str]:
    """Version of each package; stages that ran with different ones are all named."""
    found: dict[str, list[str]] = {}
    for manifest in manifests:
        for name, version in (manifest.versions if manifest else {}).items():
            if version not in found.setdefault(name, []):
                found[name].append(version)
    return {name: ", ".join(found[name]) for name in sorted(found)}


def _changed(config: Config) -> dict[str, Any]:
    """The knobs that differ from their defaults, by dotted key."""
    values: dict[str, Any] = {}
    for knob in knobs():
        value: Any = config
        for part in knob.key.split("."):
            value = getattr(value, part)
        if value != knob.default:
            values[knob.key] = value
    return values


def _sample(storage: Storage, documents: int) -> list[dict[str, Any]]:
    """The first ``documents`` of the sample that the stage evaluate drew, their texts cut to what is shown."""
    if not storage.exists(layout.EVALUATION_SAMPLE):
        return []
    rows: list[dict[str, Any]] = storage.read_table(layout.EVALUATION_SAMPLE).slice(0, documents).to_pylist()
    for row in rows:
        text = row.get("text") or ""
        row["text"] = text if len(text) <= TEXT_CHARACTERS else text[:TEXT_CHARACTERS] + "…"
        if row.get("is_gold") is None:  # no gold labels, or a run of an earlier version, which has the texts alone
            row["is_gold"] = [one in (row["gold"] or []) for one in row["predicted"]]
            row["is_predicted"] = [one in row["predicted"] for one in row["gold"] or []]
    return rows


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
