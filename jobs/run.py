"""Every stage of a run, from the documents to the report, as a Ray job.

Command::

    ray job submit --working-dir . -- python jobs/run.py conf.yaml run=s3://bucket/runs/name
"""

from __future__ import annotations

import sys

from ezxmc_ray.cli import main

if __name__ == "__main__":
    main(["run", *sys.argv[1:]])
