"""The knobs of lexical matching: how words and names of labels count. A section of schema.py's Config."""

from __future__ import annotations

from dataclasses import dataclass, replace

from ezxmc_ray.config.knobs import knob

#: Whose stems Snowball knows (PyStemmer 3).
LANGUAGES = (
    "arabic",
    "armenian",
    "basque",
    "catalan",
    "czech",
    "danish",
    "dutch",
    "english",
    "esperanto",
    "estonian",
    "finnish",
    "french",
    "german",
    "greek",
    "hindi",
    "hungarian",
    "indonesian",
    "irish",
    "italian",
    "lithuanian",
    "nepali",
    "norwegian",
    "persian",
    "polish",
    "portuguese",
    "romanian",
    "russian",
    "serbian",
    "sesotho",
    "spanish",
    "swedish",
    "tamil",
    "turkish",
    "yiddish",
)


@dataclass
class LexicalConfig:
    """How much the words that a document shares with a label count beside the encoder; in every stage that searches."""

    weight: float = knob(
        0.2,
        "similarity = cosine + weight * (share of the label's words that title and text name + name_bonus where its name stands there); 0: the encoder alone",
    )
    student_weight: float | None = knob(
        None, "the same for a student, which has learned words from its teacher and its targets; null: half of weight"
    )
    name_bonus: float = knob(
        0.5,
        "beside the share, of a label whose whole name stands in the title, word after word; half of it in the text; such labels are proposed too; 0: neither",
    )
    language: str = knob(
        "auto",
        "of the names, for word stems (Snowball); auto: told by the small words of labels and documents; none: the first five letters",
        ("auto", "none", *LANGUAGES),
    )
    candidates: int = knob(
        400, "labels that the encoder proposes, beside those that are named; among these the similarity decides"
    )

    def of_encoder(self, number: int) -> LexicalConfig:
        """How words count beside encoder ``number`` of a run (0: the base encoder): its weight is ``weight`` here."""
        if number == 0 or not self.weight:
            return replace(self, student_weight=None)
        weight = self.weight / 2 if self.student_weight is None else self.student_weight
        return replace(self, weight=weight, student_weight=None)
