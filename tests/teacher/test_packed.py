"""The packed engine: each pair's number is the one it has alone, whatever stands beside it.

On the real small teacher, and on a tiny network of random weights that is large enough to attend to everything.
"""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

from ezxmc_ray.config import TeacherConfig
from ezxmc_ray.errors import UserError
from ezxmc_ray.tables import NO_DOCUMENT, VERDICTS_SCHEMA, content_hash
from ezxmc_ray.teacher.engine import DocumentPairs, PairPrompt, build_prompts, load_teacher
from ezxmc_ray.teacher.packed_engine import PackedEngine
from ezxmc_ray.teacher.packing import Packed, packs
from ezxmc_ray.teacher.start import start_engine
from ezxmc_ray.teacher.transformers_engine import TransformersEngine
from tests.teacher.tiny import save_tiny_llm

from .conftest import config_of

WORDS = ["star", "orbit", "bread", "oven", "chess", "gambit", "violin", "chord", "soil", "compost", "bank", "loan"]
READOUTS = ("yes_no", "likelihood", "classify")


@pytest.fixture(scope="module")
def tiny_teacher(tmp_path_factory: pytest.TempPathFactory, small_teacher_directory: str) -> str:
    return save_tiny_llm(tmp_path_factory.mktemp("tiny"), small_teacher_directory, AutoModelForCausalLM)


@pytest.fixture(scope="module")
def packed_engines(tiny_teacher: str) -> dict[str, PackedEngine]:
    return {readout: PackedEngine(load_teacher(config_of(tiny_teacher, readout))) for readout in READOUTS}


def drawn(draw: random.Random, documents: int, labels: int) -> list[DocumentPairs]:
    """Documents and labels of random words and lengths; every third is asked for its labels' priors."""
    batch = []
    for number in range(documents):
        text = " ".join(draw.choices(WORDS, k=draw.randrange(0, 60)))
        names = tuple(
            " ".join(draw.choices(WORDS, k=draw.randrange(1, 6))) for _ in range(draw.randrange(1, labels + 1))
        )
        key = NO_DOCUMENT if number % 3 == 2 else content_hash("", f"{number} {text}")
        batch.append(DocumentPairs(key, "", text, tuple(content_hash("", name) for name in names), names))
    return batch


def raw(engine: Any, batch: Sequence[DocumentPairs]) -> np.ndarray:
    return np.asarray(engine.judge(batch).table["raw"])


@pytest.mark.parametrize("readout", ["yes_no", "likelihood"])
def test_real_pairs_have_the_numbers_of_one_forward_a_pair(
    reference_engines: dict[str, TransformersEngine], small_teacher: str, readout: str
) -> None:
    batch = drawn(random.Random(1), 2, 2)
    expected = raw(reference_engines[readout], batch)
    assert expected.std() > 0.01
    packed = PackedEngine(load_teacher(config_of(small_teacher, readout)))
    np.testing.assert_allclose(raw(packed, batch), expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize("readout", READOUTS)
def test_packed_pairs_have_the_numbers_of_one_forward_a_pair(
    packed_engines: dict[str, PackedEngine], tiny_teacher: str, readout: str
) -> None:
    batch = drawn(random.Random(1), 12, 6)
    expected = raw(TransformersEngine(load_teacher(config_of(tiny_teacher, readout))), batch)
    assert expected.std() > 0.01
    np.testing.assert_allclose(raw(packed_engines[readout], batch), expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize("readout", ["yes_no", "likelihood"])
@pytest.mark.parametrize("seed", range(3))
def test_a_score_depends_neither_on_the_labels_beside_it_nor_on_the_batch(
    packed_engines: dict[str, PackedEngine], readout: str, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    draw = random.Random(seed)
    engine, batch = packed_engines[readout], drawn(draw, 4, 6)
    together = raw(engine, batch)
    alone = np.concatenate([raw(engine, [document]) for document in batch])
    np.testing.assert_allclose(together, alone, rtol=0, atol=1e-4)
    order = [draw.sample(range(len(document.labels)), len(document.labels)) for document in batch]
    turned = [
        replace(
            document,
            labels=tuple(document.labels[i] for i in places),
            label_hashes=tuple(document.label_hashes[i] for i in places),
        )
        for document, places in zip(batch, order, strict=True)
    ]
    starts = np.cumsum([0, *(len(places) for places in order)])
    placed = np.concatenate([start + np.array(places) for start, places in zip(starts, order, strict=False)])
    np.testing.assert_allclose(raw(engine, turned), together[placed], rtol=0, atol=1e-4)
    for limit in ("_SEQUENCE_TOKENS_CPU", "_DOCUMENT_TOKENS"):
        monkeypatch.setattr(f"ezxmc_ray.teacher.packed_engine.{limit}", draw.choice([1, 60, 150]))
    np.testing.assert_allclose(raw(engine, batch), together, rtol=0, atol=1e-4)


def test_what_prompts_share_is_computed_once(packed_engines: dict[str, PackedEngine]) -> None:
    labels = ("astronomy", "the history of music")
    batch = [DocumentPairs(content_hash("", text), "", text, (NO_DOCUMENT,) * 2, labels) for text in ("Stars", "Bread")]
    for readout, engine in packed_engines.items():
        judged = engine.judge(batch)
        assert judged.table.schema == VERDICTS_SCHEMA
        prompts = build_prompts(engine.teacher.plan, batch).pairs
        head = len(engine.teacher.plan.head)
        prefixes = sum(pair.label_start - head for pair in prompts[::2])
        last = 1 if readout == "likelihood" else 0  # the logit that predicts a label's last token stands before it
        assert judged.computed_tokens == prefixes + sum(len(pair.tokens) - pair.label_start - last for pair in prompts)
        assert judged.prompt_tokens == sum(len(pair.tokens) for pair in prompts)


def prompt(document: bytes, prefix: list[int], label: list[int], tail: list[int]) -> PairPrompt:
    start = len(prefix)
    return PairPrompt(document, document, [*prefix, *label, *tail], start, start + len(label), False)


def test_a_token_sees_the_head_its_documents_prefix_and_its_own_label() -> None:
    """Against a loop over the definition, head of two tokens."""
    pairs = [prompt(b"a", [9, 9, 1, 2], label, [7]) for label in ([3], [4, 5])] + [prompt(b"b", [9, 9, 6], [8], [7])]
    [packed] = packs(pairs, 2, 100, 100)
    assert packed.tokens.tolist() == [1, 2, 3, 7, 4, 5, 7, 6, 8, 7]
    assert packed.positions.tolist() == [2, 3, 4, 5, 4, 5, 6, 2, 3, 4]
    assert (packed.prefix_ends.tolist(), packed.starts.tolist(), packed.ends.tolist()) == (
        [1, 1, 7],
        [2, 4, 8],
        [3, 6, 9],
    )
    groups = ["p", "p", "x", "x", "y", "y", "y", "q", "z", "z"]
    seen = {"p": "p", "x": "px", "y": "py", "q": "q", "z": "qz"}
    expected = [[True, True, *(k <= q and groups[k] in seen[groups[q]] for k in range(10))] for q in range(10)]
    assert packed.mask(2).tolist() == expected


def test_a_document_is_divided_only_where_it_must_be() -> None:
    pairs = [prompt(b"a", [1, 2, 3], [4] * size, []) for size in (2, 2, 3)] + [prompt(b"b", [1, 2], [5], [])]
    for budget, sizes in ((100, [13]), (10, [10, 3]), (7, [7, 6, 3]), (5, [5, 5, 6, 3]), (1, [5, 5, 6, 3])):
        found = list(packs(pairs, 0, budget, budget))
        assert [len(one.tokens) for one in found] == sizes
        assert [pair for one in found for pair in one.pairs] == pairs
    assert [len(one.tokens) for one in packs(pairs, 0, 1, 100)] == [10, 3]
    assert list(packs([], 0, 10, 10)) == []


def test_a_classification_head_is_read(tmp_path: Path, small_teacher_directory: str) -> None:
    model = save_tiny_llm(
        tmp_path, small_teacher_directory, AutoModelForSequenceClassification, num_labels=1, pad_token_id=0
    )
    teacher = load_teacher(config_of(model, "classify"))
    assert teacher.classifier
    batch = drawn(random.Random(3), 3, 3)
    expected = raw(TransformersEngine(teacher), batch)
    assert expected.std() > 0.01
    np.testing.assert_allclose(raw(PackedEngine(teacher), batch), expected, rtol=0, atol=1e-4)


def test_a_teacher_whose_pairs_see_each_other_is_refused(tiny_teacher: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        Packed, "mask", lambda self, head: np.tri(len(self.tokens), head + len(self.tokens), head, bool)
    )
    with pytest.raises(UserError, match=r"other scores packed than alone .*: set teacher\.engine=vllm"):
        PackedEngine(load_teacher(config_of(tiny_teacher, "yes_no")))


@pytest.mark.parametrize(
    ("settings", "architecture", "said"),
    [
        ({"quantization": "awq"}, {}, r"engine=packed does not do teacher\.quantization=awq"),
        ({"tensor_parallel": 2}, {}, r"engine=packed does not do teacher\.tensor_parallel=2"),
        ({"quantization": "awq", "engine": "transformers"}, {}, r"engine=transformers does not do .*quantization=awq"),
        ({"tensor_parallel": 2, "engine": "transformers"}, {}, r"engine=transformers does not do .*parallel=2"),
        ({}, {"model_type": "mistral", "sliding_window": 16}, "does not look at all tokens of a prompt"),
    ],
)
def test_what_it_cannot_do_is_one_sentence(
    tiny_teacher: str, tmp_path: Path, settings: dict[str, Any], architecture: dict[str, Any], said: str
) -> None:
    for file in Path(tiny_teacher).iterdir():
        (tmp_path / file.name).symlink_to(file)
    config = json.loads((tmp_path / "config.json").read_text()) | architecture
    (tmp_path / "config.json").unlink()
    (tmp_path / "config.json").write_text(json.dumps(config))
    plain = {"readout": "yes_no", "dtype": "float32", "engine": "packed"}
    wanted = TeacherConfig(model=str(tmp_path), **(plain | settings))
    with pytest.raises(UserError, match=said):
        start_engine(wanted)
