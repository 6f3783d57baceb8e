"""The stage train as a Ray job: the student learns from the verdicts.

Command::

    ray job submit --working-dir . -- python jobs/train.py conf.yaml run=s3://bucket/runs/name
"""

from __future__ import annotations

import sys

from ezxmc_ray.cli import main

if __name__ == "__main__":
    main(["train", *sys.argv[1:]])
