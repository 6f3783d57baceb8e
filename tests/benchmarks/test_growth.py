"""What a stage asks of the storage does not grow with the documents: files and requests a shard, counted, not timed."""

from __future__ import annotations

import signal
import sys
from itertools import pairwise
from typing import Any

import pytest

from common.simulated_ray import TasksHere
from scale_bench.growth import summary
from scale_bench.growth_run import JOIN, STAGES, grow, middle, recombined_labels, write_inputs

ENCODERS = 2
SHARD_ROWS = 64
SIZES = tuple(shards * SHARD_ROWS for shards in (2, 4, 6))
KNOBS = [f"prepare.shard_rows={SHARD_ROWS}", "shortlist.size=3", "student.max_document_tokens=16"]
ROWS = [{"title": f"title {n}", "text": f"words of text {n} and more of them"} for n in range(50)]


@pytest.fixture(scope="module")
def sizes(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    labels = recombined_labels([{"id": str(n), "text": f"label {n}"} for n in range(60)], 80)
    # Of the report, which reads a fixed number of documents, only pictures take time.
    found, before, interval = [], signal.getsignal(signal.SIGTERM), sys.getswitchinterval()
    for documents in SIZES:
        folder = tmp_path_factory.mktemp("growth")
        write_inputs(folder / "input", ROWS, labels, documents)
        found.append(grow(folder, TasksHere(), KNOBS, "report"))
    signal.signal(signal.SIGTERM, before)
    sys.setswitchinterval(interval)
    return found


def more(sizes: list[dict[str, Any]], what: str) -> list[dict[str, float]]:
    """By stage, how many files or requests each shard costs that a size has and the one before had not."""
    return [
        {
            name: (large["stages"][name][what] - small["stages"][name][what]) / (large["shards"] - small["shards"])
            for name in large["stages"]
        }
        for small, large in pairwise(sizes)
    ]


def test_the_sizes_are_those_asked_for(sizes: list[dict[str, Any]]) -> None:
    assert [(size["documents"], size["labels"]) for size in sizes] == [(documents, 80) for documents in SIZES]
    assert [size["shards"] for size in sizes] == [2, 4, 6]
    assert {*sizes[0]["stages"]} == {*STAGES.values(), JOIN} - {"report"}


def test_each_shard_more_leaves_the_same_files(sizes: list[dict[str, Any]]) -> None:
    first, then = more(sizes, "files")
    assert first == then
    assert first == {
        "prepare": 2,  # documents and gold
        "shortlist": 1,
        "judge": 3,  # of the shard's pairs, and those of the items before that were not the shard's last
        "train": 0,
        "predict": 1,
        "evaluate": ENCODERS,  # a ranking by each
        "join_examples": 2,  # examples, and the held-out documents of up to 256 groups of shards
    }


def test_each_shard_more_costs_the_same_requests(sizes: list[dict[str, Any]]) -> None:
    """Of a square, the shards after the fourth would cost more than those before it."""
    first, then = more(sizes, "requests")
    assert first.pop("prepare") <= 12 and then.pop("prepare") <= 12
    assert {name: pytest.approx(requests, rel=0.1) for name, requests in first.items()} == then
    assert then["train"] <= 10 and then["shortlist"] <= 6 and then["predict"] <= 6
    assert then["join_examples"] <= 64 and then["judge"] <= 135 and then["evaluate"] <= 60 * ENCODERS


def test_the_summary_is_beyond_the_start(sizes: list[dict[str, Any]]) -> None:
    """Requests as measured; the seconds are made up, since of so few documents they may be nothing but noise."""
    made_up = ({"task_cpu_s": seconds, "driver_cpu_s": 0.5} for seconds in (1.0, 2.0, 6.0))
    sizes = [
        size | {"stages": size["stages"] | {"predict": size["stages"]["predict"] | cost}}
        for size, cost in zip(sizes, made_up, strict=True)
    ]
    start, *larger = sizes
    found = summary(start, larger)
    costs = [size["stages"]["predict"] for size in sizes]
    one = found["growth"]["predict"]
    assert one["requests_per_shard"][str(SIZES[2])] == costs[2]["requests"] / 6
    assert one["requests_per_more_shard"][str(SIZES[2])] == (costs[2]["requests"] - costs[1]["requests"]) / 2
    work_s = [cost["task_cpu_s"] + cost["driver_cpu_s"] for cost in costs]
    each = [1000 * (work_s[place] - work_s[0]) / (SIZES[place] - SIZES[0]) for place in (1, 2)]
    assert list(one["cpu_ms_per_document"].values()) == pytest.approx(each)
    assert one["growth"] == pytest.approx(each[1] / each[0])
    assert [row["documents"] for row in found["rows"]] == [*SIZES[1:]] * len(start["stages"])


def test_a_stage_that_does_not_depend_on_the_documents_has_no_growth() -> None:
    cost = {"task_cpu_s": 1.0, "start_cpu_s": 0.0, "driver_cpu_s": 0.0, "requests": 1, "files": 0, "driver_mib": 1.0}
    size = {"documents": 10, "shards": 1, "stages": {"report": cost | {"trained": 0}}}
    larger = [size | {"documents": documents, "shards": documents // 10} for documents in (100, 1000)]
    assert summary(size, larger)["growth"]["report"]["growth"] is None


def test_training_is_measured_by_what_it_was_trained_on() -> None:
    cost = {"task_cpu_s": 3.0, "start_cpu_s": 2.0, "driver_cpu_s": 1.0, "requests": 1, "files": 0, "driver_mib": 1.0}
    start, size = ({"documents": n, "shards": n, "stages": {"train": cost | {"trained": 50}}} for n in (1, 1000))
    [row] = summary(start, [size])["rows"]
    assert (row["cpu_ms_per_document"], row["cpu_s"]) == (60, 6)


def test_of_several_runs_the_middle_one_counts_by_stage() -> None:
    runs = [
        {"stages": {name: {"task_cpu_s": cpu, "driver_cpu_s": 0.0} for name, cpu in one.items()}}
        for one in ({"prepare": 2.0, "judge": 9.0}, {"prepare": 1.0, "judge": 4.0}, {"prepare": 7.0, "judge": 3.0})
    ]
    stages = middle(runs)["stages"]
    assert (stages["prepare"]["task_cpu_s"], stages["judge"]["task_cpu_s"]) == (2.0, 4.0)
