"""Which labels stay and in which order; by which teacher, scale and threshold a run reranks. No model is loaded."""

from __future__ import annotations

import math
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from ezxmc_ray import layout
from ezxmc_ray.config import TeacherConfig
from ezxmc_ray.errors import UserError
from ezxmc_ray.integrity import signed
from ezxmc_ray.storage import Storage, read_manifest, write_manifest
from ezxmc_ray.tagging.reranking import Reranking, open_reranking, rerank
from ezxmc_ray.verdicts.examples import Reading
from tests.tagging.made_run import SCALE, THRESHOLD, make_judged_run


def reranking(**values: Any) -> Reranking:
    given = {"kind": "fusion", "yes_threshold": 0.0, "candidates": 9, "min_score": -1.0, "top_k": 3} | values
    return Reranking(TeacherConfig(), None, Reading("key", "yes_no", "none"), SCALE, **given)


@pytest.mark.parametrize("kind", ["fusion", "verdict"])
def test_a_label_stays_by_the_yes_and_stands_by_its_worth(kind: str) -> None:
    random = np.random.default_rng(0)
    counts = np.array([0, 5, 9, 1, 0, 9, 9])
    labels = random.permutation(counts.sum()).astype(np.int32)
    # Few values, so that many labels are worth the same.
    verdict, similarity = (random.integers(-3, 4, counts.sum()).astype(np.float32) / 2 for _ in range(2))
    verdict[6:14] = -1.0  # a document without a yes
    found = rerank(counts, labels, similarity, verdict, reranking(kind=kind))
    start, place = 0, 0
    for document, count in enumerate(counts):
        rows = range(start, start + count)
        start += count
        z_verdict = {row: (float(verdict[row]) - 0.2) / 0.8 for row in rows}
        worth = z_verdict
        if kind == "fusion":
            worth = {row: (z + (float(similarity[row]) - 0.3) / 0.4) / math.sqrt(2) for row, z in z_verdict.items()}
        wanted = sorted((row for row in rows if verdict[row] >= 0), key=lambda row: (-np.float32(worth[row]), row))[:3]
        assert found.counts[document] == len(wanted)
        here = slice(place, place := place + len(wanted))
        assert found.labels[here].tolist() == labels[wanted].tolist()
        assert np.allclose(found.scores[here], [worth[row] for row in wanted], atol=1e-6)
        assert found.verdicts[here].tolist() == verdict[wanted].tolist()
        assert found.similarities[here].tolist() == similarity[wanted].tolist()
    assert place == len(found.labels) and {0, 3} < set(found.counts.tolist())


def test_a_run_reranks_by_its_own_teacher_scale_and_threshold(tmp_path: Path) -> None:
    run = make_judged_run(tmp_path / "run", cycles=(4, 2, 0))
    storage = Storage(run)
    how = open_reranking(run)[2]
    assert (how.kind, how.yes_threshold, how.scale) == ("fusion", THRESHOLD, SCALE)
    assert (how.reading.readout, how.reading.calibration, how.again) == ("likelihood", "label_prior", None)
    assert (how.top_k, how.candidates, how.min_score) == (2, 4, -1.0)
    assert (how.teacher.readout, how.teacher.dtype) == ("likelihood", "float32")
    for chosen, offset in ((1, 1), (2, 1)):  # the last cycle has no pairs, so no scale
        student = read_manifest(storage, layout.STUDENT)
        assert student is not None
        write_manifest(storage, layout.STUDENT, replace(student, details=student.details | {"encoder": chosen}))
        assert open_reranking(run)[2].yes_threshold == THRESHOLD + offset


def test_a_run_of_a_version_that_read_teachers_once_is_reranked_by_one_read_out(tmp_path: Path) -> None:
    run = make_judged_run(tmp_path / "run", settings=["teacher.readout=yes_no"])
    file = tmp_path / "run" / layout.CONFIG
    values = yaml.safe_load(file.read_text())
    assert values["teacher"].pop("second_readout") == "auto"
    file.write_bytes(signed(yaml.safe_dump(values)))
    how = open_reranking(run)[2]
    assert (how.reading.readout, how.reading.second, how.again) == ("yes_no", None, None)
    assert [(teacher.readout, key) for teacher, key, _ in how.asked] == [("yes_no", how.reading.key)]


def test_what_may_be_set_is_taken_and_changes_only_what_it_says(tmp_path: Path) -> None:
    run = make_judged_run(tmp_path / "run")
    plain = open_reranking(run)[2]

    def differs(*overrides: str) -> dict[str, Any]:
        how = asdict(open_reranking(run, overrides)[2])
        return {name: value for name, value in how.items() if value != asdict(plain)[name] and name != "teacher"}

    assert differs("teacher.batch_documents=7", "teacher.engine=packed", "teacher.on_weak=fail") == {}
    assert differs("teacher.yes_threshold=-1000") == {"yes_threshold": -1000.0}
    assert differs("student.target=verdict") == {"kind": "verdict"}
    assert differs("student.target=similarity") == {}
    assert differs("predict.top_k=300") == {"top_k": 300, "candidates": 400}  # as many as the similarity decides among
    assert differs("predict.rerank_candidates=7", "predict.min_score=null") == {"candidates": 7, "min_score": -math.inf}
    assert list(differs("teacher.dtype=bfloat16")) == ["reading"]
    assert differs("teacher.dtype=auto") == {}  # as the run was judged


def test_a_precision_is_another_question(tmp_path: Path) -> None:
    run = make_judged_run(tmp_path / "run")
    storage = Storage(run)
    selected = read_manifest(storage, layout.STUDENT)
    assert selected is not None
    fitted = {"precision_thresholds": [one / 100 for one in range(1, 100)]}
    write_manifest(storage, layout.STUDENT, replace(selected, details=selected.details | fitted))
    with pytest.raises(UserError, match=r"^predict\.precision fits a similarity that foretells the teacher's yes"):
        open_reranking(run, ["predict.min_score=null", "predict.precision=0.9"])


def test_a_prompt_that_was_edited_since_is_another_question(tmp_path: Path) -> None:
    run = make_judged_run(tmp_path / "run")
    storage = Storage(run)
    judged = read_manifest(storage, layout.examples(0))
    assert judged is not None
    teacher = judged.details["teacher"] | {"key": "0123456789abcdef"}
    write_manifest(storage, layout.examples(0), replace(judged, details=judged.details | {"teacher": teacher}))
    with pytest.raises(UserError, match="The teacher that it names now is not the one that judged the run"):
        open_reranking(run)
