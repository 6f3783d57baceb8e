"""The stage select as a Ray job: choose the best encoder by the verdicts on held-out documents.

The file is not called select.py, since that would stand before the standard library's module of this name.

Command::

    ray job submit --working-dir . -- python jobs/select_student.py conf.yaml run=s3://bucket/runs/name
"""

from __future__ import annotations

import sys

from ezxmc_ray.cli import main

if __name__ == "__main__":
    main(["select", *sys.argv[1:]])
