"""Two read-outs of one teacher as one verdict: their sum on the scale of cycle 0, whichever cycle, whichever tasks."""

from __future__ import annotations

from collections.abc import Callable
from itertools import starmap
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from ezxmc_ray import layout
from ezxmc_ray.config import load_config
from ezxmc_ray.storage import Storage
from ezxmc_ray.student.targets import sums_of
from ezxmc_ray.tables import EXAMPLES_SCHEMA, SHORTLIST_SCHEMA, flat
from ezxmc_ray.verdicts import examples
from ezxmc_ray.verdicts.costs import with_second
from ezxmc_ray.verdicts.examples import Reading, make_examples
from ezxmc_ray.verdicts.second_readout import SECOND, SecondReadout
from ezxmc_ray.verdicts.shortlist_pairs import ShortlistPairs
from ezxmc_ray.verdicts.store import VerdictStore
from tests.verdicts.judged_run import KEY, LABELS, OLD, PAIRS, Run, verdicts

AGAIN, OTHER_DTYPE = "fedcba9876543210", "00000000000000ff"
FIRST = Reading(KEY, "yes_no", "none")


def likelihood(document: bytes, label: bytes) -> float:
    """What the second read-out says: a log likelihood, of another hash than the first one's."""
    return -8.0 * int.from_bytes(label[:1] + document[:1]) / 65536


def ask_again(storage: Storage, cycle: int, shards: int, key: str = AGAIN, leave_out: int = 0) -> None:
    """Append the second scores of a cycle's pairs to the store ``key``, but for the last ``leave_out`` of a shard."""
    store = VerdictStore(storage, key)
    for shard in range(shards):
        pairs = ShortlistPairs(storage, KEY, cycle).pairs(shard)
        both = list(zip(pairs["document_hash"], pairs["label_hash"], strict=True))[: len(pairs["row"]) - leave_out]
        table = {"document_hash": [one for one, _ in both], "label_hash": [one for _, one in both]}
        table |= {"raw": [likelihood(*one) for one in both], "prompt_tokens": [5] * len(both)}
        table |= {"truncated": [False] * len(both)}
        store.append(layout.shard_name(shard), pa.table(table).cast(store.read(layout.shard_name(shard)).schema))


def shortlists(run: Run, cycle: int) -> None:
    """Other labels, in another order, for each cycle."""
    draw = np.random.default_rng(cycle)
    for shard, count in enumerate(run.context.prepared.shard_rows):
        others = {"similarity": [0.5] * PAIRS, "base_similarity": [0.25] * PAIRS}
        rows = [{"row": row, "labels": draw.permutation(LABELS)[:PAIRS].tolist(), **others} for row in range(count)]
        run.storage.write_shard(layout.shortlist(cycle), shard, pa.Table.from_pylist(rows, SHORTLIST_SCHEMA))


@pytest.fixture
def given(make_run: Callable[..., Run]) -> tuple[Run, Any]:
    """A run whose cycle 0 is judged by both read-outs, and what make_examples reads of it."""
    run = make_run(OLD)
    shortlists(run, 0)
    run.judge()
    ask_again(run.storage, 0, run.context.shards)
    teacher = load_config(None, ["teacher.readout=yes_no"]).teacher
    found: dict[str, Any] = {}
    context: Any = SimpleNamespace(
        storage=run.storage,
        shards=run.context.shards,
        teacher=teacher,
        manifest=lambda folder: SimpleNamespace(details=found[folder]),
        found=found,
    )
    return run, context


def columns(run: Run, cycle: int) -> dict[str, np.ndarray]:
    """First raw score, second score and verdict of all pairs of a cycle's examples, by shard and row."""
    raw, second, verdict = [], [], []
    for shard in range(run.context.shards):
        table = run.storage.read_shard(layout.examples(cycle), shard, EXAMPLES_SCHEMA)
        pairs = ShortlistPairs(run.storage, KEY, cycle).pairs(shard)
        raw.append(flat(table["raw"]))
        verdict.append(flat(table["verdict"]))
        second.append([likelihood(*one) for one in zip(pairs["document_hash"], pairs["label_hash"], strict=True)])
    return {"raw": np.concatenate(raw), "second": np.concatenate(second), "verdict": np.concatenate(verdict)}


def logits(raw: np.ndarray) -> np.ndarray:
    clipped = np.clip(raw.astype(np.float64), 1e-6, 1 - 1e-6)
    return np.log(clipped) - np.log1p(-clipped)


@pytest.mark.parametrize("tasks", [1, 3])
def test_both_weigh_the_same_on_the_first_ones_scale(
    given: tuple[Run, Any], monkeypatch: pytest.MonkeyPatch, tasks: int
) -> None:
    run, context = given
    monkeypatch.setattr(examples, "MAX_TASKS", tasks)
    made = make_examples(context, 0, FIRST, starmap, AGAIN)
    assert made.rows == PAIRS * len(OLD)
    all_of = columns(run, 0)
    first, second = logits(all_of["raw"]), all_of["second"]
    assert all_of["verdict"] == pytest.approx(first + (second - second.mean()) * first.std() / second.std(), abs=1e-4)
    told = made.details[SECOND]
    assert (told["key"], told["readout"]) == (AGAIN, "likelihood")
    assert (told["mean"], told["factor"]) == pytest.approx((second.mean(), first.std() / second.std()), rel=1e-5)
    # The target's scale, the histogram and the yes are of the sum.
    assert made.details["scale"]["verdict_std"] == pytest.approx(all_of["verdict"].std(), rel=1e-4)
    share = (all_of["verdict"] >= made.details["yes_threshold"]).mean()
    assert made.details["share_yes"] == pytest.approx(share) and 0.1 < share < 0.9


def test_the_order_in_which_tasks_end_changes_nothing(given: tuple[Run, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(examples, "MAX_TASKS", 5)
    told = make_examples(given[1], 0, FIRST, starmap, AGAIN).details[SECOND]
    backwards = make_examples(given[1], 0, FIRST, lambda f, tasks: list(starmap(f, tasks))[::-1], AGAIN)
    assert backwards.details[SECOND] == told


def test_later_cycles_and_another_dtype_keep_the_scale_of_cycle_0(given: tuple[Run, Any]) -> None:
    run, context = given
    context.found[layout.examples(0)] = make_examples(context, 0, FIRST, starmap, AGAIN).details
    shortlists(run, 1)
    assert all(ShortlistPairs(run.storage, KEY, 1).of_shard(shard).size for shard in range(4))
    for shard in range(run.context.shards):
        pairs = ShortlistPairs(run.storage, KEY, 1).pairs(shard)
        both = list(zip(pairs["document_hash"], pairs["label_hash"], strict=True))
        run.store().append_missing(layout.shard_name(shard), verdicts(both))
    ask_again(run.storage, 1, run.context.shards, OTHER_DTYPE)
    made = make_examples(context, 1, FIRST, starmap, OTHER_DTYPE)
    scale = context.found[layout.examples(0)][SECOND]
    assert made.details[SECOND] == scale | {"key": OTHER_DTYPE}
    all_of = columns(run, 1)
    wanted = logits(all_of["raw"]) + (all_of["second"] - scale["mean"]) * scale["factor"]
    assert all_of["verdict"] == pytest.approx(wanted, abs=1e-4)
    assert all_of["second"].mean() != pytest.approx(scale["mean"], rel=1e-3)  # a scale of its own would be another


def test_a_pair_without_its_second_score_ends_the_join(given: tuple[Run, Any]) -> None:
    run, context = given
    run.storage.remove(f"verdicts/{AGAIN}")
    ask_again(run.storage, 0, run.context.shards, leave_out=1)
    with pytest.raises(RuntimeError, match="1 pairs of shard-00000 have no raw score after judging"):
        make_examples(context, 0, FIRST, starmap, AGAIN)


def test_a_second_read_out_that_says_the_same_of_all_changes_no_order() -> None:
    verdict, raw = np.linspace(-3, 3, 7).astype(np.float32), np.full(7, -2.5, np.float32)
    second = SecondReadout.of_sums("key", "likelihood", sums_of(verdict, raw))
    assert second.add_to(verdict, raw) == pytest.approx(verdict, abs=1e-6)
    assert np.isnan(second.add_to(verdict, np.full(7, np.nan, np.float32))).all()


def test_a_manifest_of_a_teacher_that_is_read_once_has_none() -> None:
    assert SecondReadout.of_manifest({}) is None and SecondReadout.of_manifest({SECOND: None}) is None
    told = {"key": "a", "readout": "likelihood", "mean": -1.5, "factor": 2.0, "first_pairs": None}
    assert SecondReadout.of_manifest({SECOND: told}) == SecondReadout("a", "likelihood", -1.5, 2.0)


def counts(engine_seconds: float, worker_seconds: float, busy: float | None) -> dict[str, Any]:
    """What a judge stage says of one read-out: of all starts the engines' seconds, of the last the actors' and so."""
    names = ("pairs_asked", "prior_pairs_asked", "prompt_tokens", "computed_tokens", "map_seconds")
    told: dict[str, Any] = dict.fromkeys(names, 100) | {"engine_start_seconds": 5.0, "engines": 1}
    return told | {"engine_seconds": engine_seconds, "worker_seconds": worker_seconds, "busy_share": busy}


def test_engines_are_busy_for_no_more_than_their_time_also_where_a_start_had_done_much() -> None:
    assert with_second(counts(80.0, 100.0, 0.8), counts(20.0, 50.0, 0.4))["busy_share"] == pytest.approx(100 / 150)
    # Stopped in the second: of the first, whose engines were not started again, it is not known any more.
    assert with_second(counts(80.0, 0.0, None), counts(20.0, 25.0, 0.8))["busy_share"] == pytest.approx(0.8)
    assert with_second(counts(0.0, 0.0, None), counts(0.0, 0.0, None))["busy_share"] is None
