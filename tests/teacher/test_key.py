from __future__ import annotations

import json
from pathlib import Path

import pytest

from ezxmc_ray.config import TeacherConfig
from ezxmc_ray.teacher.engine import describe, head_dtype, pad_tokens, teacher_key
from ezxmc_ray.teacher.readout import resolve_readout
from ezxmc_ray.verdicts.calibration import resolve_calibration


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory that passes for a model as long as nobody loads it."""
    monkeypatch.setenv("EZXMC_CACHE", str(tmp_path / "cache"))
    directory = tmp_path / "model"
    directory.mkdir()
    (directory / "config.json").write_text("{}")
    (directory / "model.safetensors").write_bytes(b"weights")
    return directory


def test_the_key_follows_what_changes_a_verdict_and_nothing_else(model: Path) -> None:
    def key(**values: object) -> str:
        return teacher_key(TeacherConfig(**{"model": str(model), "dtype": "bfloat16", **values}))  # type: ignore[arg-type]

    first = key()
    assert len(first) == 16
    assert int(first, 16) >= 0
    for same in (
        {"engine": "transformers"},
        {"calibration": "label_prior"},
        {"batch_documents": 1, "engines": 4, "block_tokens": 64, "threads": 1, "enforce_eager": False},
    ):
        assert key(**same) == first
    examples = str(model.parent / "examples.yaml")
    Path(examples).write_text("- {document: x, yes: [y]}")
    others = [
        key(readout="likelihood"),
        key(prompt="package"),
        key(dtype="float32"),
        key(quantization="awq"),
        key(max_document_tokens=100),
        key(max_label_tokens=10),
        key(pad_prefix_tokens=16),
        key(head_dtype="model"),
        key(examples=examples),
    ]
    assert len({first, *others}) == len(others) + 1
    (model / "model.safetensors").write_bytes(b"other weights")
    assert key() != first


@pytest.mark.parametrize(
    ("architecture", "meant"), [("BertForSequenceClassification", "classify"), ("LlamaForCausalLM", "yes_no")]
)
def test_auto_goes_by_the_checkpoint_and_has_the_key_of_what_it_means(
    model: Path, architecture: str, meant: str
) -> None:
    (model / "config.json").write_text(json.dumps({"architectures": [architecture]}))
    auto, explicit = (TeacherConfig(model=str(model), dtype="float32", readout=one) for one in ("auto", meant))
    assert resolve_readout(auto) == describe(auto)["readout"] == meant
    assert resolve_calibration(auto) == resolve_calibration(explicit)
    assert teacher_key(auto) == teacher_key(explicit)
    other = TeacherConfig(model=str(model), dtype="float32", readout="likelihood")
    assert resolve_readout(other) == "likelihood" and teacher_key(other) != teacher_key(auto)


def test_the_bundled_teacher_is_read_by_its_likelihood_unless_told_otherwise() -> None:
    assert resolve_readout(TeacherConfig()) == "likelihood"
    assert (head_dtype(TeacherConfig()), pad_tokens(TeacherConfig())) == ("model", 0)
    assert resolve_readout(TeacherConfig(readout="yes_no")) == "yes_no"


def test_the_description_is_json_and_names_the_prompt(model: Path) -> None:
    config = TeacherConfig(model=str(model), prompt="library", dtype="bfloat16")
    found = json.loads(json.dumps(describe(config)))
    assert found["prompt"] == "library v2"
    assert found["model"] == str(model)
    assert found["key"] == teacher_key(config)
    assert (found["readout"], found["dtype"]) == ("yes_no", "bfloat16")


def test_a_key_is_of_one_dtype(model: Path) -> None:
    """A machine's own word for auto, on a driver without the engines' GPUs, would be the key of no verdict."""
    with pytest.raises(ValueError, match=r"dtype that auto stands for"):
        teacher_key(TeacherConfig(model=str(model)))
