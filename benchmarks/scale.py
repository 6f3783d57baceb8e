"""What a run of ten million documents asks of single parts, measured on parts of one; what is simulated says so.

    python benchmarks/scale.py judge --name simulated-judge --data DIRECTORY    does an engine wait for anything?
    python benchmarks/scale.py ceiling --name teacher-ceiling --data DIRECTORY  pairs/s of engines whose model is free
    python benchmarks/scale.py engines --name simulated-engines                sixty-four engines beside the ideal
    python benchmarks/scale.py index --name index --data DIRECTORY              which index, and how fast
    python benchmarks/scale.py growth --name growth --data DIRECTORY            what a document costs as they grow
    python benchmarks/scale.py train --name simulated-train --data DIRECTORY    until a training's first step is done

``PART --help`` lists a part's options.
"""

from __future__ import annotations

import importlib
import sys

PARTS = ("ceiling", "engines", "growth", "index", "judge", "train")


def main() -> int:
    """Run the part that the first argument names; returns its exit status."""
    part = sys.argv[1] if len(sys.argv) > 1 else ""
    if part not in PARTS:
        print(f"error: The first argument must be one of {', '.join(PARTS)}.", file=sys.stderr)
        return 2
    status: int = importlib.import_module(f"scale_bench.{part}").main(sys.argv[2:])
    return status


if __name__ == "__main__":
    sys.exit(main())
