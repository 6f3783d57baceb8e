"""vLLM's model runner of GPUs on a CPU, its Triton kernels interpreted: raw scores of what comes on standard input.

PyPI's CPU build of vLLM has two model runners. The one that GPUs take from 0.32 on (V2) wants Triton, whose wheel
computes on GPUs only but can interpret its kernels in Python. So its numbers are had here, and not its speed. In: JSON
with the ``teacher`` (TeacherConfig's knobs) and ``documents`` ([title, text, labels]). Out: a line of JSON.
"""

from __future__ import annotations

import json
import os
import sys
from types import SimpleNamespace
from typing import Any

os.environ.update(TRITON_INTERPRET="1", VLLM_USE_V2_MODEL_RUNNER="1")


def main() -> None:
    """Judge by both read-outs; ``ways``: how each asked, ``raw``: its scores, ``cached``: tokens that it did not
    compute."""
    import triton.backends

    class Driver:
        @staticmethod
        def is_active() -> bool:
            return True

    # vLLM asks for a backend of this name; the interpreter needs none.
    triton.backends.backends["cpu"] = SimpleNamespace(driver=Driver, compiler=None)
    from ezxmc_ray.config import TeacherConfig
    from ezxmc_ray.tables import content_hash
    from ezxmc_ray.teacher.engine import DocumentPairs, load_teacher
    from ezxmc_ray.teacher.vllm_engine import VllmEngine

    asked = json.loads(sys.stdin.read())
    batch = [
        DocumentPairs(
            content_hash(title, text), title, text, tuple(content_hash("", one) for one in labels), tuple(labels)
        )
        for title, text, labels in asked["documents"]
    ]
    teachers = [load_teacher(TeacherConfig(**asked["teacher"], readout=one)) for one in ("likelihood", "yes_no")]
    engine = VllmEngine(teachers[0], teachers[1:])
    told: dict[str, Any] = {"ways": {}, "raw": {}, "cached": {}}
    for teacher in teachers:
        one, readout = VllmEngine(teacher, llm=engine.llm), teacher.config.readout
        judged = one.judge(batch)
        told["ways"][readout] = type(one._requests).__name__
        told["raw"][readout] = judged.raw.tolist()
        told["cached"][readout] = judged.prompt_tokens - judged.computed_tokens
    print(json.dumps(told), flush=True)
    engine.close()


if __name__ == "__main__":
    main()
