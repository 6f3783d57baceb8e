"""The second prompt: what a few documents are judged with once more, to see how much the verdicts depend on the prompt.

With worked examples of the user's own it is the same prompt without them (with those of the template where it has
some), so that the audit says whether they help; otherwise the template ``generic``, or a paraphrase of it where that is
the prompt already.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from ezxmc_ray.config import TeacherConfig
from ezxmc_ray.tables import WITHOUT_EXAMPLES
from ezxmc_ray.teacher.prompts import load_template

PLAIN, PARAPHRASE = "generic", "paraphrase"


@dataclass(frozen=True)
class SecondPrompt:
    """``config``: the teacher with the second prompt; ``what``: what is different, in words for the report."""

    config: TeacherConfig
    what: str


def second_prompt(config: TeacherConfig) -> SecondPrompt:
    """The second prompt of a teacher."""
    if config.examples is not None:
        without = "the template's own worked examples" if load_template(config.prompt).examples else WITHOUT_EXAMPLES
        return SecondPrompt(replace(config, examples=None), without)
    other = PARAPHRASE if load_template(config.prompt).name == PLAIN else PLAIN
    return SecondPrompt(replace(config, prompt=other), f"the prompt {load_template(other).title}")
