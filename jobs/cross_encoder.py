"""The stage cross_encoder as a Ray job: it trains what ranks first labels anew, and fits what that adds.

Command::

    ray job submit --working-dir . -- python jobs/cross_encoder.py conf.yaml predict.rerank=30 run=s3://bucket/runs/name
"""

from __future__ import annotations

import sys

from ezxmc_ray.cli import main

if __name__ == "__main__":
    main(["cross_encoder", *sys.argv[1:]])
