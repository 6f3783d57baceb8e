"""The stage predict as a Ray job: tag the documents with the chosen student and the index.

Command::

    ray job submit --working-dir . -- python jobs/predict.py conf.yaml run=s3://bucket/runs/name
"""

from __future__ import annotations

import sys

from ezxmc_ray.cli import main

if __name__ == "__main__":
    main(["predict", *sys.argv[1:]])
