"""The stage report as a Ray job: write report.json and report.html.

Command::

    ray job submit --working-dir . -- python jobs/report.py conf.yaml run=s3://bucket/runs/name
"""

from __future__ import annotations

import sys

from ezxmc_ray.cli import main

if __name__ == "__main__":
    main(["report", *sys.argv[1:]])
