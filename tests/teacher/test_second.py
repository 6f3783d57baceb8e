"""Which second prompt a teacher is audited with."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from ezxmc_ray.config import TeacherConfig
from ezxmc_ray.teacher.prompts.second import second_prompt

EXAMPLES = "- {document: x, yes: [y]}"
TEMPLATE = "name: mine\nversion: 1\nyes_no: {user: '{document} {label}', yes: [yes], no: [no]}\n"


def test_the_second_prompt_is_another_one(tmp_path: Path) -> None:
    (tmp_path / "examples.yaml").write_text(EXAMPLES)
    (tmp_path / "mine.yaml").write_text(TEMPLATE)
    plain = TeacherConfig()
    given = replace(plain, examples=str(tmp_path / "examples.yaml"))
    mine = replace(plain, prompt=str(tmp_path / "mine.yaml"))
    assert second_prompt(plain).config.prompt == "paraphrase"
    assert second_prompt(mine).config.prompt == "generic"
    assert second_prompt(given).config == plain
    assert second_prompt(given).what == "without the worked examples"


def test_a_templates_own_examples_stay(tmp_path: Path) -> None:
    (tmp_path / "examples.yaml").write_text(EXAMPLES)
    (tmp_path / "mine.yaml").write_text(TEMPLATE + "examples: [{document: a, yes: [b]}]\n")
    config = TeacherConfig(prompt=str(tmp_path / "mine.yaml"), examples=str(tmp_path / "examples.yaml"))
    assert second_prompt(config).what == "the template's own worked examples"
