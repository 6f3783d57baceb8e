"""One part of benchmarks/gpu.py in a process of its own:

    python -m gpu_bench.parts PART FOLDER OUTPUT

Comes in: the folder with the settings (plan.Settings). Goes out: OUTPUT, what report.Report writes. A part imports what
it needs itself, so that a library that is missing costs no other part.
"""

from __future__ import annotations

import importlib
import os
import sys
import traceback
from pathlib import Path
from typing import Any

from gpu_bench.plan import Settings, read_settings
from gpu_bench.report import Report, told

#: By the kind of a part, which is its name up to the first hyphen: module and function.
KINDS = {
    "device": ("device", "device_part"),
    "teacher": ("teacher", "teacher_part"),
    "packed": ("packed", "packed_part"),
    "compiled": ("compiled", "compiled_part"),
    "transformers": ("compiled", "transformers_part"),
    "encoder": ("encoder", "encoder_part"),
    "search": ("search", "search_part"),
    "student": ("student", "student_part"),
    "run": ("whole", "whole_run_part"),
}
#: Nothing is looked up on a network, and vLLM's engine lies in the process that measures it.
ENVIRONMENT = {
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
    "VLLM_NO_USAGE_STATS": "1",
    "DO_NOT_TRACK": "1",
    "TOKENIZERS_PARALLELISM": "true",
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
}


def main() -> int:
    """Run the part that the command line names; returns the exit status, 1 where it failed."""
    part, folder, output = sys.argv[1:]
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    return run_part(part, read_settings(folder), Report(Path(output)))


def run_part(part: str, settings: Settings, report: Report) -> int:
    """Run ``part`` in this process; an error is noted in ``report``, and the status is 1 then."""
    kind, _, model = part.partition("-")
    try:
        module, function = KINDS[kind]
        work: Any = getattr(importlib.import_module(f"gpu_bench.{module}"), function)
        work(settings, report, *([model] if model else []))
    except Exception as error:
        traceback.print_exc()
        report.note(error=told(error))
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
