"""What a run's verdict store holds, teacher by teacher, and the command that shows it."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from ezxmc_ray import hardware
from ezxmc_ray.errors import UserError
from ezxmc_ray.storage import Manifest, write_manifest
from ezxmc_ray.teacher.engine import teacher_key
from ezxmc_ray.verdicts.summary import configured_teacher, held_key, summary
from ezxmc_ray.verdicts.transfer import import_verdicts
from tests.verdicts.judged_run import KEY, LABELS, OLD, PAIRS, Run, by_hand, call, names, verdicts


@pytest.mark.parametrize("there", [True, False])
def test_the_configured_teacher_is_the_one_of_the_runs_verdicts_on_every_machine(
    make_run: Callable[..., Run], monkeypatch: pytest.MonkeyPatch, there: bool
) -> None:
    """With teacher.dtype=auto, which is another dtype where a run is looked at than where it was judged."""
    monkeypatch.setattr(hardware, "cpu_has_bfloat16", lambda: there)
    run = make_run(OLD)
    config, own = run.context.config.teacher, "bfloat16" if there else "float32"
    keys = {dtype: teacher_key(replace(config, dtype=dtype)) for dtype in ("bfloat16", "float16", "float32")}
    assert configured_teacher(run.context).dtype == own  # of a run that holds no verdicts
    run.judge(keys["float16"])
    assert configured_teacher(run.context).dtype == "float16"
    assert held_key(run.context, "configured") == keys["float16"]
    run.judge(keys["float32"])
    with pytest.raises(UserError, match=r"in float16 and float32: set teacher\.dtype in its"):
        held_key(run.context, "configured")
    for dtype in ("float16", "float32"):
        details = {"teacher": {"dtype": dtype, "key": keys[dtype]}}
        write_manifest(run.context.storage, "cycle-0/examples", Manifest("judge", "", 1, 1.0, [], details))
        assert configured_teacher(run.context).dtype == dtype


def test_the_table_shows_every_teacher_with_each_pair_once(
    make_run: Callable[..., Run], capsys: pytest.CaptureFixture[str]
) -> None:
    make_run(OLD).judge()
    run = make_run(names(101) + OLD)
    run.judge()
    run.judge_priors()
    run.store("fedcba").append("shard-00000", verdicts([(bytes([n]) * 16, bytes(16)) for n in range(1, 4)]))
    for cycle, (pairs, share) in enumerate([(300, 0.25), (100, 0.5)]):
        judged = Manifest("judge", "f", pairs, 1.0, details={"teacher": {"key": KEY}, "share_yes": share})
        write_manifest(run.storage, f"cycle-{cycle}/examples", judged)
    own, other = summary(run.context)
    pairs = 19 * PAIRS
    assert own == {
        "teacher": KEY,
        "model": "org/name",
        "prompt": "generic v1",
        "readout": "yes_no",
        "pairs": pairs,
        "priors": LABELS,
        "share of yes": "31.2%",
        "engine seconds": 5.0,
        "prompt tokens": 7 * (pairs + LABELS),
        "computed tokens": 3 * pairs,
        "files": own["files"],
    }
    assert own["files"] == len(list(Path(run.path, "verdicts", KEY).rglob("*.parquet")))
    assert (other["teacher"], other["pairs"], other["model"], other["share of yes"]) == ("fedcba", 3, None, None)
    lines = [line.split() for line in call(capsys, "show", run.path)[1].splitlines()]
    assert ["teacher", KEY, "fedcba"] in lines
    assert ["model", "org/name", "–"] in lines
    assert ["pairs", "95", "3"] in lines
    assert ["share", "of", "yes", "31.2%", "–"] in lines
    assert ["engine", "seconds", "5.0", "0.0"] in lines


def test_the_share_of_yes_of_another_teacher_is_by_the_split_of_its_scores(
    make_run: Callable[..., Run], tmp_path: Path
) -> None:
    run = make_run(OLD)
    raw = [0.01] * 12 + [0.98] * 6
    columns = {"document_id": [f"d{text}" for text in OLD], "label_id": ["L0"] * 18, "raw": raw}
    import_verdicts(run.context, by_hand(tmp_path / "people.parquet", **columns), "people")
    assert summary(run.context)[0]["share of yes"] == "33.3%"


def test_the_command_needs_no_ray(make_run: Callable[..., Run]) -> None:
    run = make_run(OLD)
    run.judge()
    code = (
        "import sys; from ezxmc_ray import cli\n"
        f"try: cli.main(['verdicts', 'show', {run.path!r}])\n"
        "except SystemExit as done: assert done.code == 0\n"
        "assert not {'ray', 'torch', 'vllm'} & set(sys.modules), set(sys.modules) & {'ray', 'torch', 'vllm'}"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr


def test_a_note_with_a_readout_that_there_is_none_of_says_nothing(make_run: Callable[..., Run]) -> None:
    run = make_run(OLD)
    run.judge()
    run.store().write_description({"key": KEY, "readout": "1219d15c"})
    assert run.store().description() is None
    (row,) = summary(run.context)
    assert row["pairs"] == len(OLD) * PAIRS and row["model"] is None
