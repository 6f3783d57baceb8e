"""Is the demo's student better than the encoder it started from? Several seeds, the demo's own configuration.

    python benchmarks/demo.py --name demo-smollm2
    python benchmarks/demo.py --name demo-qwen-0.5b --teacher DIRECTORY teacher.readout=yes_no

Each seed is a run of its own (``ezxmc run examples/debian_packages.yaml seed=S``): other held-out documents, another
order of training. Verdicts are kept by content, so that the teacher is paid for once: each run starts from the
verdicts of the one before. Figures are those of report.json on the test documents, which are the same for all seeds.
On 2 cores about 25 minutes with the bundled teacher.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from common import ROOT, publish

MEASURES = ("P@1", "P@5", "nDCG@5", "R@10", "R@100")


def main() -> None:
    """Run the seeds and publish."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--name", required=True, help="of the result file")
    parser.add_argument("--teacher", help="hub id or directory; without it the bundled one")
    parser.add_argument("--seeds", type=int, default=3, help="how many, from 0")
    parser.add_argument("--runs", type=Path, default=ROOT / "runs" / "benchmark", help="where the runs go")
    parser.add_argument("overrides", nargs="*", help="a.b=c")
    given = parser.parse_args()
    teacher = [f"teacher.model={given.teacher}"] if given.teacher else []
    reports, verdicts = [], None
    seeds = list(range(given.seeds))
    for seed in seeds:
        run = given.runs / given.name / f"seed-{seed}"
        if verdicts and not (run / "verdicts").exists():
            shutil.copytree(verdicts, run / "verdicts")
        reports.append(ezxmc_run(run, [f"seed={seed}", *teacher, *given.overrides]))
        verdicts = run / "verdicts"
    publish(
        given.name,
        f"Demo (Debian packages): {Path(reports[0]['teacher']['model']).name}",
        summary(reports, seeds),
    )


def ezxmc_run(run: Path, overrides: list[str]) -> dict[str, Any]:
    """One run; its report."""
    ezxmc = Path(sys.executable).with_name("ezxmc")
    configuration = ROOT / "examples" / "debian_packages.yaml"
    subprocess.run([ezxmc, "run", configuration, f"run={run}", *overrides], check=True, cwd=ROOT)
    report: dict[str, Any] = json.loads((run / "report.json").read_text())
    return report


def summary(reports: list[dict[str, Any]], seeds: list[int]) -> dict[str, Any]:
    """A row a seed and their mean, for the untrained encoder and the student of the last cycle."""
    rows: list[dict[str, Any]] = []
    encoders = [name for name in reports[0]["metrics"] if name != "chosen"]
    for encoder in encoders:
        for seed, report in zip(seeds, reports, strict=True):
            if encoder == "untrained" and seed != seeds[0]:
                continue  # the same for every seed
            chosen = report["chosen_cycle"]
            shipped = encoder == ("untrained" if chosen is None else f"cycle_{chosen}")
            metrics = report["metrics"][encoder]
            rows.append(
                {"encoder": encoder, "seed": seed, **{m: metrics[m] for m in MEASURES}, "shipped": str(shipped)}
            )
        if encoder != "untrained":
            mean = {m: sum(r["metrics"][encoder][m] for r in reports) / len(reports) for m in MEASURES}
            rows.append({"encoder": encoder, "seed": "mean", **mean})
    teacher, untrained = reports[0]["teacher"], reports[0]["metrics"]["untrained"]
    judged = reports[0]["stages"]["cycle_0"]["judge"]
    return {
        "rows": rows,
        "notes": [
            f"{untrained['documents']} test documents; {teacher['pairs']:,} pairs, read-out {teacher['readout']}.",
            f"AUC within a document: teacher {teacher['auc']:.3f}, similarity {teacher['similarity_auc']:.3f}, "
            f"fusion {teacher['fusion_auc']:.3f}.",
            f"First judge stage: {judged['rows']:,} pairs in {judged['seconds']:,.0f} s.",
            teacher["sentence"],
        ],
    }


if __name__ == "__main__":
    main()
