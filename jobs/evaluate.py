"""The stage evaluate as a Ray job: measure encoders and predictions on the test documents.

Command::

    ray job submit --working-dir . -- python jobs/evaluate.py conf.yaml run=s3://bucket/runs/name
"""

from __future__ import annotations

import sys

from ezxmc_ray.cli import main

if __name__ == "__main__":
    main(["evaluate", *sys.argv[1:]])
