"""The stage prepare as a Ray job: read, check, split and shard documents and labels.

Command::

    ray job submit --working-dir . -- python jobs/prepare.py conf.yaml run=s3://bucket/runs/name
"""

from __future__ import annotations

import sys

from ezxmc_ray.cli import main

if __name__ == "__main__":
    main(["prepare", *sys.argv[1:]])
