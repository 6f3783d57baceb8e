"""Runs compared as a Ray job, where only the cluster reaches their directories: quality, cost, differences.

Command::

    ray job submit --working-dir . -- python jobs/compare.py s3://bucket/runs/a s3://bucket/runs/b --html s3://bucket/c.html
"""

from __future__ import annotations

import sys

from ezxmc_ray.cli import main

if __name__ == "__main__":
    main(["compare", *sys.argv[1:]])
