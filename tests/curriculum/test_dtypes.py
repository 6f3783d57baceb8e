"""A run that goes on where the hardware has another number format.

The stages are fakes (fake_stages.py); tests/stages/test_stop_rule.py has a real run.
"""

from __future__ import annotations

from dataclasses import replace

import pytest

from ezxmc_ray.cluster import session as cluster
from ezxmc_ray.cluster import teacher_dtype
from ezxmc_ray.errors import UserError
from ezxmc_ray.storage import read_manifest
from ezxmc_ray.verdicts.store import BY_HAND, VerdictStore, teacher_keys
from tests.curriculum.fake_stages import (
    WHOLE,
    FakeStages,
    machine,
    run,
    run_until_killed,
    states,
    storage_of,
)


@pytest.mark.parametrize("first", [True, False])
def test_a_finished_run_stays_finished_on_a_machine_of_another_dtype(
    stages: FakeStages,
    settings: list[str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    first: bool,
) -> None:
    machine(monkeypatch, has_bfloat16=first)
    run(settings)
    stages.took()
    machine(monkeypatch, has_bfloat16=not first)
    monkeypatch.setattr(cluster, "ray_cluster", None)  # Ray is not asked for
    assert set(states(settings).values()) == {"done"}
    run(settings)
    assert stages.took() == [] and "Nothing to do" in capsys.readouterr().out
    run(settings, f"teacher.dtype={'bfloat16' if first else 'float32'}")  # which is what auto was
    assert stages.took() == []


def test_another_dtype_by_name_judges_anew(
    stages: FakeStages, settings: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    run(settings)
    stages.took()
    run(settings, "teacher.dtype=float32")
    assert stages.took() == [call for call in WHOLE if call not in ("prepare", "shortlist 0")]
    assert "teacher.dtype=auto" not in capsys.readouterr().out  # it was asked for


def test_a_run_that_goes_on_on_a_machine_of_another_dtype_says_so_and_keeps_what_is_judged(
    stages: FakeStages, settings: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run_until_killed(stages, "train 1", settings)
    judged = [call for call in stages.took() if call != "train 1"]
    stages.dies_at = ""
    assert "teacher.dtype=auto" not in capsys.readouterr().out
    machine(monkeypatch, has_bfloat16=False)
    run(settings)
    assert [*judged, *stages.took()] == WHOLE
    told = [line for line in capsys.readouterr().out.splitlines() if "teacher.dtype=auto" in line]
    assert told[0].endswith(
        "The verdicts of this run are in bfloat16, but teacher.dtype=auto is float32 on this machine: cycle 2 asks for "
        "its pairs in float32, and takes none of those; teacher.dtype=bfloat16 keeps to them."
    )
    assert dtypes_of(settings) == ["bfloat16", "bfloat16", "float32", "float32"]
    machine(monkeypatch, has_bfloat16=True)
    run(settings)
    assert stages.took() == []


def test_a_change_of_dtype_is_told_by_every_start_that_asks_in_another_one(
    stages: FakeStages, settings: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Also where some verdicts in the new dtype are held by then."""
    run_until_killed(stages, "train 1", settings)
    machine(monkeypatch, has_bfloat16=False)
    stages.dies_at = "judge 2"
    for _ in range(2):
        capsys.readouterr()
        with pytest.raises(KeyboardInterrupt):
            run(settings)
        assert "The verdicts of this run are in bfloat16" in capsys.readouterr().out


def test_a_comparison_stays_where_its_cycle_is_judged_in_another_dtype(
    stages: FakeStages, settings: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    machine(monkeypatch, has_bfloat16=False)
    for stages.dies_at in ("shortlist 1", "judge 1"):  # of all documents of cycle 1, whose held-out ones were compared
        with pytest.raises(KeyboardInterrupt):
            run(settings)
    assert stages.took()[-1] == "judge 1"
    machine(monkeypatch, has_bfloat16=True)
    stages.dies_at = ""
    run(settings)
    assert stages.took() == WHOLE[WHOLE.index("compare 1") + 2 :]


def test_a_comparison_of_what_was_judged_in_another_dtype_is_done_once(
    stages: FakeStages, settings: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    run(settings, "curriculum.min_lead=null")  # no encoder is compared
    stages.took()
    machine(monkeypatch, has_bfloat16=False)
    run(settings)
    assert {call.split()[0] for call in stages.took()} == {"compare", "report"}
    run(settings)
    assert stages.took() == []


def test_what_is_judged_anew_has_the_machines_dtype_and_not_that_of_the_verdicts_before(
    stages: FakeStages, settings: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    run(settings)
    machine(monkeypatch, has_bfloat16=False)
    run(settings, "teacher.prompt=package")
    assert dtypes_of(settings) == ["float32"] * 4
    stages.took()
    run(settings, "teacher.prompt=package")
    assert stages.took() == []


def test_a_half_judged_cycle_goes_on_in_its_old_dtype_only_if_that_is_set(
    stages: FakeStages, settings: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run_until_killed(stages, "judge 0", settings)
    machine(monkeypatch, has_bfloat16=False)
    with pytest.raises(KeyboardInterrupt):
        run(settings)
    assert "cycle 0 asks for its pairs in float32" in capsys.readouterr().out
    stages.dies_at = ""
    run(settings, "teacher.dtype=bfloat16")
    assert "teacher.dtype=auto" not in capsys.readouterr().out.replace("'auto'", "")
    assert dtypes_of(settings) == ["bfloat16"] * 4


def test_verdicts_made_by_hand_are_used_on_a_machine_of_another_dtype(
    stages: FakeStages, settings: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As they are imported on a head node without a GPU, before anything is judged."""
    run_until_killed(stages, "judge 0", settings, "teacher.dtype=float32")
    (key,) = teacher_keys(storage_of(settings))
    VerdictStore(storage_of(settings), key).write_description({"key": key, BY_HAND: True})
    stages.dies_at = ""
    run(settings)
    assert dtypes_of(settings) == ["float32"] * 4
    told = capsys.readouterr().out
    assert "made by hand were imported for this teacher in float32" in told and "takes none of those" not in told
    stages.took()
    run(settings)
    assert stages.took() == []


@pytest.mark.parametrize(
    ("by_hand", "machines", "quantization", "why"),
    [
        ("bfloat16", "float16", None, "which the GPUs of this cluster do not compute"),
        ("float32", "bfloat16", "fp8", "in which a quantized teacher is not computed"),
    ],
)
def test_verdicts_made_by_hand_in_a_format_that_the_cluster_lacks_are_told_before_anything_is_asked(
    stages: FakeStages,
    settings: list[str],
    monkeypatch: pytest.MonkeyPatch,
    by_hand: str,
    machines: str,
    quantization: str | None,
    why: str,
) -> None:
    """As they are imported on a head node without a GPU, where the workers are T4s or the teacher is quantized."""
    if quantization:
        settings = [*settings, f"teacher.quantization={quantization}"]
    run_until_killed(stages, "judge 0", settings, f"teacher.dtype={by_hand}")
    (key,) = teacher_keys(storage_of(settings))
    VerdictStore(storage_of(settings), key).write_description({"key": key, BY_HAND: True})
    stages.dies_at = ""
    stages.took()
    monkeypatch.setattr(teacher_dtype, "of_cluster", lambda config: replace(config, dtype=machines))
    with pytest.raises(UserError, match=rf"in {by_hand}, {why}: set teacher\.dtype={machines} in the configuration"):
        run(settings)
    assert stages.took() == [] and dtypes_of(settings) == []
    run(settings, f"teacher.dtype={machines}")
    assert dtypes_of(settings) == [machines] * 4


def dtypes_of(settings: list[str]) -> list[str]:
    """In which dtype each cycle was judged."""
    found = [read_manifest(storage_of(settings), f"cycle-{number}/examples") for number in range(4)]
    return [manifest.details["teacher"]["dtype"] for manifest in found if manifest]
