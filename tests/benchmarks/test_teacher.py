"""The parts of benchmarks/teacher.py that need no engine: its sample, its ideal, its figures."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from transformers import AutoTokenizer

import teacher
from ezxmc_ray.config import TeacherConfig
from ezxmc_ray.errors import UserError
from ezxmc_ray.models import resolve_model
from ezxmc_ray.teacher.engine import DocumentPairs, build_prompts, load_teacher
from teacher_bench.figures import agreement_of, summary, tokens_of
from teacher_bench.task import WARM_UP_DOCUMENTS, sample_documents

WORDS = [f"word{number}" for number in range(19)]


@pytest.fixture(scope="session")
def tokenizer(small_teacher: str) -> Any:
    return AutoTokenizer.from_pretrained(resolve_model(small_teacher))


def write_documents(path: Path, words: list[int]) -> Path:
    """Documents of so many words, no two alike."""
    texts = [" ".join(WORDS[(i + j * (i + 1)) % len(WORDS)] for j in range(count)) for i, count in enumerate(words)]
    rows = [{"id": f"d{i}", "title": f"Document {i}", "text": text} for i, text in enumerate(texts)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def count(tokenizer: Any, text: str) -> int:
    return len(tokenizer(text, add_special_tokens=False)["input_ids"])


def test_the_stage_is_asked_what_the_other_methods_are_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["teacher.py", "--name", "x", "--teacher", "org/name"])
    asked = teacher.configure(teacher.parse(), tmp_path).teacher
    assert (asked.readout, asked.calibration, asked.second_readout) == ("yes_no", "none", "none")


def test_sample_is_cut_to_the_token_and_does_not_depend_on_the_order_of_the_file(
    tmp_path: Path, tokenizer: Any
) -> None:
    path = write_documents(tmp_path / "a.jsonl", [60] * 40)
    sample = sample_documents(path, tokenizer, 5, 50)
    assert [count(tokenizer, text) for text in sample.texts] == [50] * (5 + WARM_UP_DOCUMENTS)
    assert len(set(sample.texts)) == 5 + WARM_UP_DOCUMENTS
    assert sample.joined == 0
    turned = tmp_path / "b.jsonl"
    turned.write_text("\n".join(reversed(path.read_text().splitlines())))
    assert sample_documents(turned, tokenizer, 5, 50).texts == sample.texts


def test_short_documents_are_joined_and_counted(tmp_path: Path, tokenizer: Any) -> None:
    path = write_documents(tmp_path / "a.jsonl", [60] * 6 + [10] * 200)
    sample = sample_documents(path, tokenizer, 10, 50)
    assert [count(tokenizer, text) for text in sample.texts] == [50] * (10 + WARM_UP_DOCUMENTS)
    assert sample.joined == 10 + WARM_UP_DOCUMENTS - 6
    with pytest.raises(UserError, match="lower --documents or --document-tokens"):
        sample_documents(path, tokenizer, 1000, 50)


def test_a_text_is_not_taken_twice(tmp_path: Path, tokenizer: Any) -> None:
    path = write_documents(tmp_path / "a.jsonl", [60] * 30)
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    path.write_text("".join(json.dumps(row | {"id": f"{row['id']}{copy}"}) + "\n" for copy in "ab" for row in rows))
    assert len(set(sample_documents(path, tokenizer, 20, 50).texts)) == 20 + WARM_UP_DOCUMENTS


def test_ideal_counts_each_beginning_once(small_teacher: str) -> None:
    config = TeacherConfig(model=small_teacher, prompt="package", pad_prefix_tokens=32)
    documents = [
        DocumentPairs(bytes([i]) * 16, "", text, (b"0" * 16, b"1" * 16, b"2" * 16), ("games", "mail", "a web server"))
        for i, text in enumerate(("a game of chess", "reads mail", "serves pages over the network to browsers"))
    ]
    tokens = tokens_of(config, documents)
    pairs = build_prompts(
        load_teacher(TeacherConfig(model=small_teacher, prompt="package", pad_prefix_tokens=0)).plan, documents
    ).pairs
    beginnings = {tuple(pair.tokens[: n + 1]) for pair in pairs for n in range(pair.label_start)}
    assert tokens["ideal"] == len(beginnings) + sum(len(pair.tokens) - pair.label_start for pair in pairs)
    assert 0 < tokens["padding"] < 3 * 32
    assert tokens["prompts"] == sum(len(pair.tokens) for pair in pairs) + 3 * tokens["padding"]


def test_agreement_counts_decisions_at_the_fitted_threshold() -> None:
    raw = np.array([0.01, 0.02, 0.03, 0.97, 0.98, 0.99], np.float32)
    exact = np.array([0.01, 0.9, 0.03, 0.97])
    found = agreement_of(raw, exact)
    assert 0.03 < found["threshold"] < 0.97
    assert found["decision_agreement"] == 0.75
    assert found["share_within_tolerance"] == 0.75
    assert found["largest_difference"] == pytest.approx(0.88)
    assert found["reference_pairs"] == 4


def timing(pairs: int, seconds: float, computed: int | None) -> dict[str, Any]:
    return {
        "pairs": pairs,
        "seconds": seconds,
        "computed_tokens": computed,
        "unreadable": 0,
        "details": {"busy_share": 0.9},
    }


def test_ratios_are_medians_within_a_round_and_a_method_that_cannot_run_is_null() -> None:
    rounds = [
        {
            "published": timing(10, 10.0, 3000),
            "ray_data_llm": {"error": "no GPU"},
            "ezxmc": timing(100, seconds, 5000),
            "bare": timing(100, seconds * 0.9, 5000),
        }
        for seconds in (10.0, 20.0, 50.0)
    ]
    agreement = agreement_of(np.array([0.1, 0.9], np.float32), np.array([0.1, 0.9]))
    result = summary(rounds, {"prompts": 30000, "ideal": 4000, "padding": 100}, agreement)
    assert result["pairs_per_s"] == {"published": 1.0, "ray_data_llm": None, "ezxmc": 5.0}
    assert result["ratios"]["published"] == 5.0
    assert result["ratios"]["ray_data_llm"] is None
    assert result["token_ratios"]["published"] == 6.0
    assert result["tokens_over_ideal"] == 1.25
    assert result["stage_over_bare"] == pytest.approx(0.9)
    assert result["could_not_run"] == {"ray_data_llm": "no GPU"}
    assert any("no GPU" in note for note in result["notes"])
