"""Stage ``report``: put what the other stages' manifests hold into report.json, report.html and the model card.

    ezxmc report conf.yaml

In: every manifest of the run and evaluation/sample.parquet. Out: report.json, report.html,
student/README.md (the model card: here, since the stage select does not know the measures yet).
"""

from __future__ import annotations

from ezxmc_ray.context import Context, StageResult
from ezxmc_ray.report.build import build_report
from ezxmc_ray.report.model_card import write_model_card
from ezxmc_ray.report.page import write_report


def report(context: Context) -> StageResult:
    """Write the report; returns rows (documents shown), files and details of the manifest."""
    built = build_report(context.storage, context.config)
    files = [*write_report(context.storage, built), *write_model_card(context.storage, built)]
    return StageResult(len(built.get("sample") or []), files, {})
