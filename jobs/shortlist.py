"""The stage shortlist as a Ray job: embed labels and documents, and find the nearest labels of each document.

Command::

    ray job submit --working-dir . -- python jobs/shortlist.py conf.yaml run=s3://bucket/runs/name
"""

from __future__ import annotations

import sys

from ezxmc_ray.cli import main

if __name__ == "__main__":
    main(["shortlist", *sys.argv[1:]])
