"""A cross-encoder as files for ONNX Runtime: the same scores, and no PyTorch to load it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest

from ezxmc_ray.encoder import onnx_export
from ezxmc_ray.encoder.onnx_encoder import NETWORK, OnnxEncoder, load_onnx_pairs
from ezxmc_ray.encoder.onnx_export import export_onnx_pairs
from ezxmc_ray.errors import UserError
from tests.encoder.pair_models import LABELS, PAIRS, begin, save_tiny_roberta, scores
from tests.encoder.texts import TEXTS, TITLES

pytestmark = pytest.mark.usefixtures("one_thread")

#: What a service has no need of; as tests/tagging/test_bundle.py says.
HEAVY = ("ray", "torch", "transformers", "sentence_transformers", "vllm", "scipy", "sklearn")
PROMPTED = replace(PAIRS, document_prompt="d: ", label_prompt="l: ", long_documents="head_tail")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A RoBERTa: its positions depend on the padding, and it puts two tokens between two texts."""
    return save_tiny_roberta(tmp_path_factory.mktemp("roberta"))


@pytest.fixture(scope="module")
def written(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What is written of its cross-encoder; it takes seconds, so once."""
    folder = tmp_path_factory.mktemp("onnx")
    export_onnx_pairs(begin(model, PROMPTED), folder)
    return folder


@pytest.fixture
def copied(written: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An export that writes the network that is there."""
    monkeypatch.setattr(onnx_export, "_write", lambda module, example, path: shutil.copy(written / NETWORK, path))


def test_onnx_runtime_gives_the_same_scores(model: Path, written: Path) -> None:
    network, lean = begin(model, PROMPTED), load_onnx_pairs(written, PROMPTED)
    assert lean.reader.between == network.pair_reader.between == [2, 2]
    expected, found = scores(network), lean.scores(TITLES, TEXTS, LABELS)
    assert [len(one) for one in found] == [len(own) for own in LABELS] and found[0].dtype == np.float32
    np.testing.assert_allclose(np.concatenate(found), expected, atol=1e-5)
    assert expected.std() > 1e-2


@pytest.mark.usefixtures("copied")
def test_one_in_half_precision_is_written_in_float32(model: Path, tmp_path: Path) -> None:
    """It is held against what it gives in float32, which the network that is there was written of."""
    half = begin(model, replace(PROMPTED, dtype="bfloat16", vector_dtype="float16"))
    scores(half)  # which makes its copy
    export_onnx_pairs(half, tmp_path)


def test_it_is_loaded_and_scores_without_what_runs_are_made_by(written: Path) -> None:
    program = (
        f"import sys\nfor name in {HEAVY}: sys.modules[name] = None\n"
        "import json\nfrom pathlib import Path\nfrom ezxmc_ray.config import EncoderConfig\n"
        "from ezxmc_ray.encoder.onnx_encoder import load_onnx_pairs\n"
        "pairs = load_onnx_pairs(Path(sys.argv[1]), EncoderConfig(**json.loads(sys.argv[2])))\n"
        "print(json.dumps([one.tolist() for one in pairs.scores(*json.loads(sys.argv[3]))]))"
    )
    told = [str(written), json.dumps(asdict(PROMPTED)), json.dumps([TITLES, TEXTS, LABELS])]
    environment = dict(os.environ, OMP_NUM_THREADS="1")
    command = [sys.executable, "-c", program, *told]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    here = load_onnx_pairs(written, PROMPTED).scores(TITLES, TEXTS, LABELS)
    assert [len(one) for one in json.loads(done.stdout)] == [len(own) for own in LABELS]
    np.testing.assert_allclose(np.concatenate(json.loads(done.stdout)), np.concatenate(here), atol=1e-6)


@pytest.mark.usefixtures("copied")
def test_one_that_onnx_runtime_reads_otherwise_is_not_exported(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = OnnxEncoder.forward
    monkeypatch.setattr(OnnxEncoder, "forward", lambda self, groups: real(self, groups) + np.float32(1e-3))
    with pytest.raises(UserError, match=r"its scores in ONNX Runtime lie up to 1\.0e-03 apart\): give --encoder torch"):
        export_onnx_pairs(begin(model, PROMPTED), tmp_path)
