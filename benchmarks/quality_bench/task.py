"""What the methods of benchmarks/quality.py have in common: documents, a verdict store, rankings that can be compared.

Comes in: the data (common.data) and a configuration. Goes out: a base, which is a run in which the stage ``prepare``
has been done; rankings of its test documents, one table a method (RANKING); what a run paid its teacher. The verdicts
of all runs of a dataset lie in one store, so that no pair is judged twice, whichever method asks.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from common.data import Data, Row
from ezxmc_ray import curriculum, layout
from ezxmc_ray.config import Config
from ezxmc_ray.context import Context
from ezxmc_ray.evaluation.rankings import padded
from ezxmc_ray.storage import Storage
from ezxmc_ray.student.targets import TargetScale, target_scores
from ezxmc_ray.tables import DOCUMENTS_SCHEMA, EXAMPLES_SCHEMA, RANKINGS_SCHEMA, SHORTLIST_SCHEMA, flat, lengths
from ezxmc_ray.verdicts.second_readout import SecondReadout
from ezxmc_ray.verdicts.summary import summary
from student_bench.task import run_row

#: The ranking of the test documents: a document's id, and label numbers in falling score.
RANKING = pa.schema([("id", pa.string()), ("labels", pa.list_(pa.int32()))])
RANKING_FILE = "ranking.parquet"
DOCUMENTS_FILE = "documents.jsonl"
VERDICTS = "verdicts"


def make_base(config: Config, data: Data) -> dict[str, Any]:
    """The run ``config.run`` with the stage ``prepare`` done, train documents without gold; facts about it."""
    rows = [run_row(row, "train") for row in data.train] + [run_row(row, "test") for row in data.ranked]
    prepare(config, rows)
    known = Context(config, Storage(config.run)).manifest(layout.DOCUMENTS).details
    return {
        "train_documents": known["train"],
        "test_documents": known["test"],
        "labels": known["labels"],
        "rejected_rows": known["rejected"],
        "left_out_test_documents": data.left_out,
    }


def prepare(config: Config, rows: list[Row]) -> None:
    """Do the stage ``prepare`` of the run ``config.run`` with ``rows`` as its documents; sets prepare.documents."""
    storage = Storage(config.run)
    content = "".join(json.dumps(row) + "\n" for row in rows).encode()
    # A file that is written anew counts as another one.
    if not storage.exists(DOCUMENTS_FILE) or storage.read_bytes(DOCUMENTS_FILE) != content:
        storage.write_bytes(DOCUMENTS_FILE, content)
    config.prepare.documents = [storage.path(DOCUMENTS_FILE)]
    curriculum.run_stage(config, "prepare")


def documents_of(run: str, split: str) -> list[Row]:
    """The documents of a split, in the order of the shards: rows with the columns of tables.DOCUMENTS_SCHEMA."""
    storage = Storage(run)
    rows = [
        row
        for name in storage.list("documents", ".parquet")
        for row in storage.read_table(name, DOCUMENTS_SCHEMA).to_pylist()
    ]
    return [row for row in rows if row["split"] == split]


def share_verdicts(run: str, store: str) -> None:
    """Let the run's folder of verdicts be ``store``; a run that has verdicts of its own keeps them."""
    folder = Path(run, VERDICTS)
    if not folder.exists():
        Path(store).mkdir(parents=True, exist_ok=True)
        folder.parent.mkdir(parents=True, exist_ok=True)
        folder.symlink_to(os.path.abspath(store), target_is_directory=True)


def write_ranking(folder: str, ids: list[str], ranked: np.ndarray) -> None:
    """``ranked``: int32 [n, depth], padded with -1."""
    lists = [row[row >= 0] for row in ranked]
    table = pa.Table.from_arrays([pa.array(ids), pa.array(lists, RANKING.field(1).type)], schema=RANKING)
    Storage(folder).write_table(RANKING_FILE, table)


def read_ranking(folder: str, ids: list[str]) -> np.ndarray | None:
    """The ranking that lies in ``folder``, int32 [n, depth]; None if there is none, or one of other documents."""
    storage = Storage(folder)
    if not storage.exists(RANKING_FILE):
        return None
    table = storage.read_table(RANKING_FILE, RANKING)
    return padded(table["labels"]) if table["id"].to_pylist() == ids else None


def encoder_ranking(context: Context, encoder: int) -> tuple[list[str], np.ndarray]:
    """How encoder number ``encoder`` of an evaluated run ranks the test documents: their ids, int32 [n, depth]."""
    ids: list[str] = []
    parts = []
    for shard in range(context.shards):
        table = context.storage.read_shard(f"evaluation/encoder-{encoder}", shard, RANKINGS_SCHEMA)
        documents = context.storage.read_shard("documents", shard, DOCUMENTS_SCHEMA, ["id"])
        ids += documents["id"].take(table["row"]).to_pylist()
        parts.append(table["labels"])
    chunks = [chunk for part in parts for chunk in part.chunks]
    return ids, padded(pa.chunked_array(chunks, RANKINGS_SCHEMA.field(1).type))


def reranked(ranking: np.ndarray, labels: np.ndarray, verdict: np.ndarray) -> np.ndarray:
    """``ranking`` (int32 [depth]) with the judged ``labels`` first, by falling verdict, the others after them.

    ``labels`` int32 [k] in falling similarity, which decides between equal verdicts; ``verdict`` float32 [k], NaN: not
    judged, which counts as the least.
    """
    order = np.argsort(-np.where(np.isnan(verdict), -np.inf, verdict), kind="stable")
    first = labels[order]
    return np.concatenate([first, ranking[~np.isin(ranking, first)]])[: len(ranking)]


def judged_shortlists(context: Context, target: str = "verdict") -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """By document id the labels of its shortlist of cycle 0, int32 [k], and what student.target=``target`` makes of
    their calibrated verdicts, standardized, float32 [k]."""
    found = {}
    scale = TargetScale(**context.manifest("cycle-0/examples").details["scale"])
    for shard in range(context.shards):
        examples = context.storage.read_shard("cycle-0/examples", shard, EXAMPLES_SCHEMA)
        documents = context.storage.read_shard("documents", shard, DOCUMENTS_SCHEMA, ["id"])
        ids = documents["id"].take(examples["row"]).to_pylist()
        columns = [examples[name] for name in ("labels", "verdict", "base_similarity")]
        for name, labels, *scores in zip(ids, *columns, strict=True):
            verdict, similarity = (one.values.to_numpy(zero_copy_only=False) for one in scores)
            found[name] = (np.asarray(labels.values), target_scores(verdict, similarity, target, scale))
    return found


def pairs_by_cycle(context: Context, cycles: int) -> list[int]:
    """How many distinct pairs the shortlists of the cycles 0 to ``c`` hold, for each c below ``cycles``."""
    width = context.prepared.labels
    seen = np.zeros(0, np.int64)
    counts = []
    for cycle in range(cycles):
        tables = [
            context.storage.read_shard(f"cycle-{cycle}/shortlist", s, SHORTLIST_SCHEMA) for s in range(context.shards)
        ]
        pairs = [_pair_numbers(table, shard, width) for shard, table in enumerate(tables)]
        seen = np.union1d(seen, np.concatenate(pairs))
        counts.append(len(seen))
    return counts


def _pair_numbers(shortlists: pa.Table, shard: int, labels: int) -> np.ndarray:
    """A number for each pair of a shard's shortlists, int64."""
    rows = np.repeat(shortlists["row"].to_numpy().astype(np.int64), lengths(shortlists["labels"]))
    document = (shard << 32) + rows
    return np.asarray(document * labels + flat(shortlists["labels"]))


def paid(context: Context, cycles: int) -> dict[str, Any]:
    """What the judge stages of the cycles below ``cycles`` needed, and what of it was asked in this run.

    ``pairs``: distinct ones, whoever paid for them; ``second``: of these, asked a second time; ``priors``: labels that
    were judged beside no document, for the calibration;
    ``teacher_seconds``: of the engine, for all of these at the rate of the whole verdict store (None: unknown).
    """
    judged = [context.manifest(f"cycle-{cycle}/examples").details for cycle in range(cycles)]
    teacher = judged[0]["teacher"]
    pairs = pairs_by_cycle(context, cycles)[-1]
    priors = len(_shortlisted(context, cycles)) if teacher["calibration"] == "label_prior" else 0
    second = SecondReadout.of_manifest(judged[0])
    keys = [teacher["key"], *([second.key] if second else [])]
    held = [summary(context, key)[0] for key in keys]
    known = sum(one["pairs"] + one["priors"] for one in held)
    seconds = sum(one["engine seconds"] for one in held)
    return {
        "pairs": pairs,
        "priors": priors,
        "second": pairs if second else 0,
        "pairs_asked": sum(one["pairs_asked"] for one in judged),
        "priors_asked": sum(one["prior_pairs_asked"] for one in judged),
        "second_asked": sum(one.get("second_pairs_asked") or 0 for one in judged),
        "teacher_seconds": (len(keys) * pairs + priors) * seconds / known if seconds else None,
        "seconds_asked": sum(one["engine_seconds"] for one in judged),
        "prompt": teacher["prompt"],
        "readout": teacher["readout"],
        "calibration": teacher["calibration"],
    }


def _shortlisted(context: Context, cycles: int) -> np.ndarray:
    """Numbers of the labels in any shortlist of the cycles below ``cycles``."""
    names = [
        layout.shard_file(f"cycle-{cycle}/shortlist", shard)
        for cycle in range(cycles)
        for shard in range(context.shards)
    ]
    return np.unique(
        np.concatenate([flat(context.storage.read_table(name, SHORTLIST_SCHEMA)["labels"]) for name in names])
    )
