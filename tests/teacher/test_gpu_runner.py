"""The numbers of vLLM's model runner for GPUs, its kernels interpreted on a CPU, against the float32 reference's."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ezxmc_ray.tables import content_hash
from ezxmc_ray.teacher.engine import DocumentPairs
from ezxmc_ray.teacher.transformers_engine import TransformersEngine

from .conftest import config_of

pytestmark = [pytest.mark.slow, pytest.mark.vllm, pytest.mark.timeout(900)]
LABELS = ("text editing", "network scanning", "board games", "works with spreadsheets")
#: Labels of which the cache has a part, and a document whose prefix ends with a block: they must be asked again, whole.
LONG = tuple(f"{'one two three four ' * 9}{end}" for end in ("five", "six"))
DOCUMENTS = [
    ("vim", "Vi IMproved, an almost compatible version of the UNIX editor vi.", LABELS),
    ("nmap", "The network mapper, a utility for exploring a network.", LABELS),
    ("", "word " * 40, LONG),
]


def test_it_gives_the_numbers_of_the_reference(
    small_teacher: str, reference_engines: dict[str, TransformersEngine], one_engine: Any
) -> None:
    config = dataclasses.asdict(config_of(small_teacher, "yes_no")) | {"enforce_eager": True}
    del config["readout"]
    asked = json.dumps({"teacher": config, "documents": DOCUMENTS})
    script = str(Path(__file__).with_name("interpreted_runner.py"))
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    with one_engine():
        done = subprocess.run(
            [sys.executable, script], input=asked, capture_output=True, text=True, timeout=800, env=environment
        )
    assert done.returncode == 0, done.stderr[-3000:]
    told = json.loads(done.stdout.splitlines()[-1])
    assert told["ways"] == {"likelihood": "_LabelRows", "yes_no": "_YesNo"}
    assert told["cached"]["yes_no"] > 100
    batch = [
        DocumentPairs(content_hash(title, text), title, text, tuple(content_hash("", one) for one in labels), labels)
        for title, text, labels in DOCUMENTS
    ]
    for readout, engine in reference_engines.items():
        expected = engine.judge(batch).raw
        assert expected.std() > 0.02
        np.testing.assert_allclose(told["raw"][readout], expected, rtol=0, atol=1e-3)
