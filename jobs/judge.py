"""The stage judge as a Ray job: the teacher judges every pair of the shortlist that has no verdict yet.

Command::

    ray job submit --working-dir . -- python jobs/judge.py conf.yaml run=s3://bucket/runs/name
"""

from __future__ import annotations

import sys

from ezxmc_ray.cli import main

if __name__ == "__main__":
    main(["judge", *sys.argv[1:]])
