"""The stage index as a Ray job: build the sharded FAISS index over the labels.

Command::

    ray job submit --working-dir . -- python jobs/index.py conf.yaml run=s3://bucket/runs/name
"""

from __future__ import annotations

import sys

from ezxmc_ray.cli import main

if __name__ == "__main__":
    main(["index", *sys.argv[1:]])
