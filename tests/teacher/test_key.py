from __future__ import annotations

import json
from pathlib import Path

import pytest

from ezxmc_ray.config import TeacherConfig
from ezxmc_ray.errors import UserError
from ezxmc_ray.teacher.engine import describe, head_dtype, keys_of, pad_tokens, teacher_key
from ezxmc_ray.teacher.readout import resolve_readout, second_teacher
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


def test_a_pair_is_asked_a_second_time_where_model_and_prompt_can(model: Path, tmp_path: Path) -> None:
    def config(**values: object) -> TeacherConfig:
        return TeacherConfig(**{"model": str(model), "dtype": "float32", **values})  # type: ignore[arg-type]

    second = second_teacher(config())
    assert second is not None
    assert (second.readout, second.calibration, second_teacher(second)) == ("likelihood", "none", None)
    assert keys_of(config()) == [teacher_key(config()), teacher_key(config(readout="likelihood"))]
    assert second_teacher(config(second_readout="none")) is None
    prompt, no_yes, some_yes = tmp_path / "prompt.yaml", tmp_path / "no.yaml", tmp_path / "yes.yaml"
    form = "name: mine\nversion: 1\nyes_no: {user: '{document} {label}', yes: [y], no: [n]}"
    prompt.write_text(form)
    no_yes.write_text("[{document: a, no: [b]}]")
    some_yes.write_text("[{document: a, yes: [b]}]")
    assert second_teacher(config(examples=str(some_yes))) is not None
    lacking = {
        "that is what the teacher is read by first": {"readout": "likelihood"},
        "the prompt mine has no likelihood form": {"prompt": str(prompt)},
        "no worked example of the prompt generic has a label that fits": {"examples": str(no_yes)},
    }
    (model / "config.json").write_text(json.dumps({"architectures": ["LlamaForCausalLM"]}))
    for why, values in lacking.items():
        assert second_teacher(config(**values)) is None
        with pytest.raises(
            UserError, match=f"second_readout is likelihood, but {why}: set teacher.second_readout=none"
        ):
            second_teacher(config(**values, second_readout="likelihood"))
    (model / "config.json").write_text(json.dumps({"architectures": ["LlamaForSequenceClassification"]}))
    assert second_teacher(config()) is None
    with pytest.raises(UserError, match="has a classification head and gives no likelihood"):
        second_teacher(config(second_readout="likelihood"))
    assert second_teacher(TeacherConfig()) is None  # the bundled one


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
