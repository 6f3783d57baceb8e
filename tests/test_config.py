"""The configuration: what a user writes is what a run gets, and each mistake is one sentence that says what to do."""

from __future__ import annotations

from pathlib import Path

import pytest

from ezxmc_ray.config import (
    Config,
    TeacherConfig,
    apply_overrides,
    fingerprinted_settings,
    from_dict,
    knobs,
    load_config,
    to_dict,
)
from ezxmc_ray.errors import UserError

HERE = "on the command line"


def told(path: str | None, *overrides: str) -> str:
    with pytest.raises(UserError) as caught:
        load_config(path, overrides)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_file_and_then_overrides_are_laid_over_the_defaults(tmp_path: Path) -> None:
    path = tmp_path / "conf.yaml"
    path.write_text("run: runs/mine\nprepare:\n  documents: a.jsonl\nshortlist:\n  size: 20\nteacher:\n", "utf-8")
    config = load_config(str(path), ["shortlist.size=30", "teacher.model=org/name"])
    assert (config.run, config.prepare.documents, config.shortlist.size) == ("runs/mine", ["a.jsonl"], 30)
    assert (config.teacher.model, config.teacher.engine) == ("org/name", "vllm")


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("prepare.documents=a.jsonl", ["a.jsonl"]),
        ("prepare.documents=[a.jsonl, 'b*.csv']", ["a.jsonl", "b*.csv"]),
        ("prepare.documents=", []),
        ("prepare.id_column=007", "007"),
        ("prepare.text_column=on", "on"),
        ("encoder.document_prompt=query: ", "query: "),
        ("encoder.document_prompt=a #1", "a #1"),
        ("encoder.document_prompt='a: b'", "a: b"),
        ("report.title=", ""),
        ("teacher.quantization=null", None),
        ("cluster.address=", None),
        ("predict.min_score=-1", -1.0),
        ("student.learning_rate=5e-5", 5e-5),
        ("teacher.enforce_eager=false", False),
        ("teacher.model=a=b", "a=b"),
        ("seed=${shortlist.size}", 10),
        ("curriculum.pair_budget=auto", "auto"),
        ("curriculum.pair_budget=70000", 70_000),
        ("curriculum.pair_budget='70000'", 70_000),
        ("curriculum.pair_budget=${shortlist.size}", 10),
        ("curriculum.pair_budget=${prepare.csv_separator}", "auto"),
        ("teacher={model: x}", None),
    ],
)
def test_the_value_of_an_override(override: str, expected: object) -> None:
    key = override.partition("=")[0]
    if override == "teacher={model: x}":
        key, expected = "teacher.model", "x"
    value: object = load_config(None, [override])
    for part in key.split("."):
        value = getattr(value, part)
    assert value == expected
    assert type(value) is type(expected)


@pytest.mark.parametrize(
    ("override", "sentence"),
    [
        ("shortlist.size=ten", f"shortlist.size {HERE} is 'ten'; it must be a whole number."),
        ("shortlist.size=1.5", f"shortlist.size {HERE} is 1.5; it must be a whole number."),
        ("shortlist.size=true", f"shortlist.size {HERE} is True; it must be a whole number."),
        ("shortlist.size=", f"shortlist.size {HERE} is empty; it must be a whole number."),
        ("shortlist.size=null", f"shortlist.size {HERE} is null; it must be a whole number."),
        ("shortlist.size=0", f"shortlist.size {HERE} is 0; it must be greater than 0."),
        ("prepare.limit_documents=-1", f"prepare.limit_documents {HERE} is -1; it must not be negative."),
        ("teacher.model=null", f"teacher.model {HERE} is null; it must be a text."),
        ("prepare.documents=null", f"prepare.documents {HERE} is null; it must be a list of texts."),
        ("prepare.documents=[[a]]", f"prepare.documents {HERE} is [['a']]; it must be a list of texts."),
        ("teacher.enforce_eager=maybe", f"teacher.enforce_eager {HERE} is 'maybe'; it must be true or false."),
        ("teacher.enforce_eager=3", f"teacher.enforce_eager {HERE} is 3; it must be true or false."),
        ("predict.min_score=high", f"predict.min_score {HERE} is 'high'; it must be a number or null."),
        ("prepare.test_share=2", f"prepare.test_share {HERE} is 2.0; it is a share and must lie between 0 and 1."),
        (
            "student.warmup_share=1.5",
            f"student.warmup_share {HERE} is 1.5; it is a share and must lie between 0 and 1.",
        ),
        ("student.learning_rate=nan", f"student.learning_rate {HERE} is nan; it must be a finite number."),
        (
            "student.trackers=[tensorboard,wandbs]",
            f"student.trackers {HERE} is 'wandbs'; it must be one of tensorboard, wandb, mlflow (did you mean wandb?).",
        ),
        (
            "student.patience=2",
            "student.patience is 2, but student.validate_every_steps is 0, so nothing is evaluated: set it too.",
        ),
        (
            "evaluate.depth=99",
            "evaluate.depth is 99, but R@100 is measured: set it to 100 at least.",
        ),
        (
            "teacher.engine=vlm",
            f"teacher.engine {HERE} is 'vlm'; it must be one of vllm, packed, transformers (did you mean vllm?).",
        ),
        (
            "curriculum.pair_budget=atuo",
            f"curriculum.pair_budget {HERE} is 'atuo'; it must be a whole number or auto.",
        ),
        ("curriculum.pair_budget=1.5", f"curriculum.pair_budget {HERE} is 1.5; it must be a whole number or auto."),
        ("curriculum.pair_budget=true", f"curriculum.pair_budget {HERE} is True; it must be a whole number or auto."),
        ("curriculum.pair_budget=null", f"curriculum.pair_budget {HERE} is null; it must be a whole number or auto."),
        (
            "curriculum.pair_budget=${teacher.model}",
            f"curriculum.pair_budget {HERE} is {TeacherConfig().model!r}; it must be a whole number or auto.",
        ),
        ("curriculum.pair_budget=-1", f"curriculum.pair_budget {HERE} is -1; it must not be negative."),
        ("shortlist.sise=3", f"Unknown key shortlist.sise {HERE}; did you mean shortlist.size?"),
        ("shortlst.size=3", f"Unknown key shortlst.size {HERE}; did you mean shortlist.size?"),
        ("model=x", f"Unknown key model {HERE}; did you mean encoder.model or teacher.model?"),
        ("shortlistsize=3", f"Unknown key shortlistsize {HERE}; did you mean shortlist.size?"),
        ("teacher.model.name=x", f"Unknown key teacher.model.name {HERE}; did you mean teacher.model?"),
        ("teacher=x", f"teacher {HERE} is a section; set one of its keys, such as teacher.model."),
        (
            "shortlist.size",
            "'shortlist.size' is not an override; write it as key=value, for example teacher.model=org/name.",
        ),
        ("=3", "'=3' is not an override; write it as key=value, for example teacher.model=org/name."),
        ("run=", "run is empty; set it to a directory or an object-store URI, for example run=runs/mine."),
        ("run=${nothing}", f"run {HERE} cannot be resolved: Interpolation key 'nothing' not found."),
        (
            "prepare.documents=[a, '${nothing}']",
            f"prepare.documents {HERE} cannot be resolved: Interpolation key 'nothing' not found.",
        ),
        ("seed=???", f"seed {HERE} is still ???; give it a value."),
        ("seed=[1", "The value of the override 'seed=[1' cannot be read: did not find expected ',' or ']'."),
    ],
)
def test_mistakes_in_overrides(override: str, sentence: str) -> None:
    assert told(None, override) == sentence


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("shortlist:\n  size: ten\n", "shortlist.size in {} is 'ten'; it must be a whole number."),
        ("prepare:\n  documents:\n", "prepare.documents in {} is null; it must be a list of texts."),
        ("prepare:\n  documents: [a, ~]\n", "prepare.documents in {} is ['a', None]; it must be a list of texts."),
        ("prepare: a.jsonl\n", "prepare in {} is a section; set one of its keys, such as prepare.documents."),
        ("prepare:\n  id_column: no\n", "prepare.id_column in {} is False; it must be a text: put it in quotes."),
        ("teachr:\n  model: x\n", "Unknown key teachr.model in {}; did you mean teacher.model?"),
        ("teacher:\n  model:\n    name: x\n", "teacher.model in {} is {{'name': 'x'}}; it must be a text."),
        ("- a\n", "{} holds a list, not the keys and values of a configuration; write them as key: value."),
        (
            "prepare:\n\tdocuments: a\n",
            "{} is not a YAML file: line 2, column 1: found character that cannot start any token.",
        ),
        ("seed: 1\nseed: 2\n", "{} is not a YAML file: line 2, column 1: found duplicate key seed."),
    ],
)
def test_mistakes_in_the_file(tmp_path: Path, text: str, sentence: str) -> None:
    path = tmp_path / "conf.yaml"
    path.write_text(text, "utf-8")
    assert told(str(path)) == sentence.format(path)


def test_a_file_that_is_not_there_or_not_text(tmp_path: Path) -> None:
    missing = tmp_path / "none.yaml"
    assert (
        told(str(missing))
        == f"There is no configuration file {missing}; give the path of a YAML file (`ezxmc --help` has one)."
    )
    (tmp_path / "bytes.yaml").write_bytes(b"run: \xff\xfe")
    assert told(str(tmp_path / "bytes.yaml")).startswith(f"{tmp_path / 'bytes.yaml'} cannot be read as a YAML file: ")


def test_an_override_is_blamed_only_for_its_own_value(tmp_path: Path) -> None:
    path = tmp_path / "conf.yaml"
    path.write_text("shortlist:\n  size: 0\n", "utf-8")
    assert told(str(path), "seed=3") == f"shortlist.size in {path} is 0; it must be greater than 0."
    assert load_config(str(path), ["shortlist.size=4"]).shortlist.size == 4


def test_a_configuration_survives_its_plain_form() -> None:
    config = load_config(
        None, ["encoder.document_prompt='\\${x}: '", "prepare.documents=[a, b]", "predict.min_score=0.5"]
    )
    assert config.encoder.document_prompt == "${x}: "
    assert from_dict(to_dict(config)) == config
    with pytest.raises(UserError, match=r"^seed in the stored configuration is 'x'; it must be a whole number\.$"):
        from_dict(to_dict(config) | {"seed": "x"})


def test_overrides_of_a_configuration_leave_it_as_it_is() -> None:
    config = load_config(None, ["seed=3"])
    assert apply_overrides(config, ["predict.top_k=2"]).predict.top_k == 2
    assert apply_overrides(config, ["predict.top_k=2"]).seed == 3
    assert config.predict.top_k == 10
    with pytest.raises(UserError, match=r"^Unknown key topk on the command line; did you mean .*top_k\?$"):
        apply_overrides(config, ["topk=2"])


def test_looks_that_stop_nothing_are_no_part_of_what_a_training_is() -> None:
    plain = fingerprinted_settings(load_config(None), "student")
    looked = ["student.validate_every_steps=5", "student.validation_documents=9"]
    assert fingerprinted_settings(load_config(None, looked), "student") == plain
    patient = fingerprinted_settings(load_config(None, [*looked, "student.patience=2"]), "student")
    assert (patient["validate_every_steps"], patient["validation_documents"]) == (5, 9)


def test_looks_at_held_out_documents_where_there_are_to_be_none_are_refused() -> None:
    sentence = told(None, "student.validate_every_steps=5", "prepare.held_out_share=0")
    assert sentence.startswith(
        "student.validate_every_steps is 5, but prepare.held_out_share is 0, so there are no held-"
    )


def test_a_share_that_holds_out_every_document_is_refused_unless_it_is_stored() -> None:
    said = told(None, "prepare.held_out_share=1")
    assert (
        said == f"prepare.held_out_share {HERE} is 1, so no train document would be left to learn from: set it lower."
    )
    config = Config()
    config.prepare.held_out_share = 1.0
    assert from_dict(to_dict(config)).prepare.held_out_share == 1


def test_of_two_least_scores_none_is_ignored_without_a_word() -> None:
    both = ["predict.min_score=0.3", "predict.precision=0.9"]
    said = told(None, *both)
    assert said == (
        f"predict.min_score {HERE} is 0.3 and predict.precision {HERE} is 0.9, but each gives the least score of a "
        "prediction: give one of them, and set the other to null (predict.min_score=null for a precision)."
    )
    made = load_config(None, both[:1])
    with pytest.raises(
        UserError, match=r"^predict\.min_score in the stored configuration is 0\.3 and predict\.precision"
    ):
        apply_overrides(made, both[1:])
    assert apply_overrides(made, ["predict.min_score=null", *both[1:]]).predict.precision == 0.9
    made.predict.precision = 0.9  # as an older version stored it, by which a run can still be read
    assert apply_overrides(from_dict(to_dict(made)), ["predict.top_k=2"]).predict.min_score == 0.3


EXTREMES = {"int": (-(10**6), 2**64), "float": (-1e308, 1e308)}


def test_every_number_has_finite_bounds() -> None:
    for knob in knobs():
        for value in EXTREMES.get(knob.type.split()[0], ()):
            assert knob.bounds.broken_by(value), f"{knob.key}={value}"
    for override in ("seed=18446744073709551616", "lexical.weight=1e308", "index.probes=10000000000"):
        assert "; it must be at most " in told(None, override)


def test_every_knob_is_explained_and_its_default_is_allowed() -> None:
    load_config(None)
    for knob in knobs():
        assert len(knob.help) > 5
        defaults = knob.default if isinstance(knob.default, list) else [knob.default]
        assert not knob.choices or set(defaults) <= set(knob.choices)


@pytest.mark.parametrize(
    ("overrides", "weights"),
    [
        ([], [0.2, 0.1, 0.1]),
        (["lexical.weight=0.5"], [0.5, 0.25, 0.25]),
        (["lexical.student_weight=0.3"], [0.2, 0.3, 0.3]),
        (["lexical.student_weight=0"], [0.2, 0.0, 0.0]),
        (["lexical.weight=0", "lexical.student_weight=0.3"], [0.0, 0.0, 0.0]),
    ],
)
def test_words_weigh_half_beside_a_student_or_what_is_asked_for(overrides: list[str], weights: list[float]) -> None:
    lexical = load_config(None, overrides).lexical
    found = [lexical.of_encoder(number) for number in range(3)]
    assert [one.weight for one in found] == weights
    assert all(one.of_encoder(1).name_bonus == lexical.name_bonus and one.student_weight is None for one in found)
