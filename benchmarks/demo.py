"""Is the demo's student better than the encoder it started from, and from how many judged documents? Several seeds.

    python benchmarks/demo.py --name demo-smollm2 --judged 300,200,150,100
    python benchmarks/demo.py --name demo-qwen-0.5b --teacher DIRECTORY

Each row is a run of its own (``ezxmc run examples/debian_packages.yaml seed=S``): other documents drawn and held out,
another order of training. Verdicts are kept by content, so that the teacher is paid for once: each run starts from the
verdicts of the one before, the one with most documents first. Figures are those of report.json on the test documents,
which are the same for all. On 2 cores with AVX-512 BF16 about two minutes a run.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from common.publish import ROOT, publish

MEASURES = ("P@1", "P@5", "nDCG@5", "R@10", "R@100")
#: Measures whose difference to the untrained encoder is shown with its paired interval.
COMPARED = ("P@1", "R@10")


def main() -> None:
    """Run the seeds and publish."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--name", required=True, help="of the result file")
    parser.add_argument("--teacher", help="hub id or directory; without it the bundled one")
    parser.add_argument("--judged", default="", help="train documents judged, several with commas")
    parser.add_argument("--seeds", type=int, default=3, help="how many, from 0")
    parser.add_argument("--runs", type=Path, default=ROOT / "runs" / "benchmark", help="where the runs go")
    parser.add_argument("overrides", nargs="*", help="a.b=c")
    given = parser.parse_args()
    teacher = [f"teacher.model={given.teacher}"] if given.teacher else []
    reports: dict[tuple[str, int], dict[str, Any]] = {}
    verdicts: Path | None = None
    for judged in given.judged.split(","):
        count = [f"shortlist.documents_per_cycle={judged}"] if judged else []
        for seed in range(given.seeds):
            run = given.runs / given.name / f"seed-{seed}{judged and f'-judged-{judged}'}"
            if verdicts and not (run / "verdicts").exists():
                shutil.copytree(verdicts, run / "verdicts")
            reports[judged, seed] = ezxmc_run(run, [f"seed={seed}", *teacher, *count, *given.overrides])
            verdicts = run / "verdicts"
    model = Path(next(iter(reports.values()))["teacher"]["model"]).name
    publish(given.name, f"Demo (Debian packages): {model}", summary(reports))


def ezxmc_run(run: Path, overrides: list[str]) -> dict[str, Any]:
    """One run; its report."""
    ezxmc = Path(sys.executable).with_name("ezxmc")
    configuration = ROOT / "examples" / "debian_packages.yaml"
    subprocess.run([ezxmc, "run", configuration, f"run={run}", *overrides], check=True, cwd=ROOT)
    report: dict[str, Any] = json.loads((run / "report.json").read_text())
    return report


def summary(reports: dict[tuple[str, int], dict[str, Any]]) -> dict[str, Any]:
    """A row for the untrained encoder, and for each count of judged documents one a seed and their mean."""
    first = next(iter(reports.values()))
    rows = [{"judged": 0, "encoder": "untrained", "seed": "", **_measures(first["metrics"]["untrained"])}]
    for judged in dict.fromkeys(judged for judged, _ in reports):
        of_count = {seed: report for (count, seed), report in reports.items() if count == judged}
        students = [row for seed, report in of_count.items() for row in _students(report, seed)]
        rows += students
        for encoder in dict.fromkeys(row["encoder"] for row in students):
            same = [row for row in students if row["encoder"] == encoder]
            mean = {name: sum(row[name] for row in same) / len(same) for name in MEASURES}
            rows.append({"judged": same[0]["judged"], "encoder": encoder, "seed": "mean", **mean})
    teacher, untrained = first["teacher"], first["metrics"]["untrained"]
    judge = first["stages"]["cycle_0"]["judge"]
    # Of a run that held its verdicts already they tell nothing.
    seconds = f"Its first judge stage: {judge['rows']:,} pairs in {judge['seconds']:,.0f} s, engine start included."
    return {
        "rows": rows,
        "notes": [
            f"{untrained['documents']} test documents; read-out {teacher['readout']}.",
            f"First run: {teacher['pairs']:,} pairs; AUC within a document: teacher {teacher['auc']:.3f}, similarity "
            f"{teacher['similarity_auc']:.3f}, fusion {teacher['fusion_auc']:.3f}.",
            *([seconds] if judge["rows"] else []),
        ],
    }


def _students(report: dict[str, Any], seed: int) -> list[dict[str, Any]]:
    """A row for each student of a run: its measures, the paired differences to the untrained encoder, if it ships."""
    rows = []
    for encoder, metrics in report["metrics"].items():
        if encoder in ("untrained", "chosen", "reranked"):
            continue
        row = {"judged": report["stages"]["cycle_0"]["train"]["rows"], "encoder": encoder, "seed": seed}
        row |= _measures(metrics)
        for name in COMPARED:
            difference = report["over_untrained"][encoder][name]
            low, high = difference["interval"]
            row[f"{name} over untrained"] = f"{difference['difference']:+.1f} ({low:.1f} to {high:.1f})"
        rows.append(row | {"shipped": str(report["chosen_cycle"] == int(encoder.removeprefix("cycle_")))})
    return rows


def _measures(metrics: dict[str, Any]) -> dict[str, float]:
    return {name: metrics[name] for name in MEASURES}


if __name__ == "__main__":
    main()
