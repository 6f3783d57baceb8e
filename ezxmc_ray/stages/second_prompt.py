"""A second prompt's verdicts on a few documents of cycle 0: how much do the verdicts depend on the wording?

In: cycle-0/shortlist/, cycle-0/examples/, both teachers' verdict stores. Out: work items for the stage judge;
cycle-0/second_prompt.parquet; how far the two prompts agree, for the manifest. Gold labels are not looked at here.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pyarrow as pa

from ezxmc_ray import layout
from ezxmc_ray.config import TeacherConfig
from ezxmc_ray.stages.context import Context
from ezxmc_ray.stages.examples import label_scores
from ezxmc_ray.stages.pending import Pending
from ezxmc_ray.stages.pools import Item
from ezxmc_ray.storage import Storage
from ezxmc_ray.tables import EXAMPLES_SCHEMA, SECOND_PROMPT_SCHEMA
from ezxmc_ray.teacher.audit import agreement
from ezxmc_ray.teacher.calibration import calibrate, resolve_calibration
from ezxmc_ray.teacher.engine import DocumentPairs, teacher_key
from ezxmc_ray.teacher.prompts.second import SecondPrompt, second_prompt


def second_of(config: TeacherConfig, cycle: int) -> SecondPrompt | None:
    """The second prompt that ``cycle`` asks; None for no one."""
    return second_prompt(config) if cycle == 0 and config.second_prompt_documents else None


def second_items(context: Context, kind: str) -> list[Item]:
    """Task: work items of the documents that are judged twice, the first rows of every shard; none if all is held."""
    storage, config = context.storage, context.teacher
    pending = Pending(storage, teacher_key(second_prompt(config).config), 0)
    items = []
    for shard, rows in spread_rows(storage, context.shards, config.second_prompt_documents):
        if len(pending.of_shard(shard, 0, rows)) or second_priors(pending, config, shard, 0, rows):
            items.append({"kind": kind, "shard": shard, "start": 0, "stop": rows})
    return items


def second_priors(pending: Pending, config: TeacherConfig, shard: int, start: int, stop: int) -> list[DocumentPairs]:
    """The priors that the second prompt's calibration needs for shortlist rows ``start`` to ``stop`` and lacks."""
    if resolve_calibration(config) != "label_prior":
        return []
    return pending.priors(pa.array(sorted(set(pending.pairs(shard, start, stop)["label"])), pa.int32()))


def spread_rows(storage: Storage, shards: int, wanted: int) -> list[tuple[int, int]]:
    """(shard, rows from its first on), ``wanted`` rows in all or as many as there are, spread over the shards."""
    rows = {shard: storage.rows(layout.shard_file(layout.shortlist(0), shard)) for shard in range(shards)}
    filled = [shard for shard, count in rows.items() if count]
    # Shards at even distances, the same number of rows of each; what is short is taken from the ones that have more.
    some = filled[:: max(1, len(filled) // max(1, wanted))][:wanted]
    taken: Counter[int] = Counter()
    while sum(taken.values()) < wanted and (open_shards := [shard for shard in some if taken[shard] < rows[shard]]):
        taken.update(open_shards[: wanted - sum(taken.values())])
    return sorted(taken.items())


def join_second(context: Context, threshold: float) -> dict[str, Any]:
    """Task: write cycle-0/second_prompt.parquet and compare it with the examples; cycle 0's are made by now.

    ``threshold``: from which verdict of the first prompt on a pair is a yes. As many pairs count as yes by the second
    prompt, those with its highest verdicts.
    """
    storage, config = context.storage, context.teacher
    second = second_prompt(config)
    # The means that the calibration batch takes away are the first prompt's: no others are known for a few documents.
    calibration = "none" if resolve_calibration(config) == "batch" else resolve_calibration(config)
    pending = Pending(storage, teacher_key(second.config), 0)
    rows: list[dict[str, Any]] = []
    first: list[np.ndarray] = []
    for shard, count in spread_rows(storage, context.shards, config.second_prompt_documents):
        pairs = pending.pairs(shard, 0, count)
        raw = pending.raw(shard, pairs)
        verdict = calibrate(raw, label_scores(pending, pairs, calibration), config.readout, calibration)
        examples = storage.read_shard(layout.examples(0), shard, EXAMPLES_SCHEMA).slice(0, count)
        ends = np.cumsum([len(labels) for labels in examples["labels"].to_pylist()])
        first += [np.array(one, dtype=np.float32) for one in examples["verdict"].to_pylist()]
        for row, labels, values in zip(
            examples["row"].to_pylist(), examples["labels"].to_pylist(), np.split(verdict, ends[:-1]), strict=True
        ):
            rows.append({"row": row, "shard": shard, "labels": labels, "verdict": values.tolist()})
    storage.write_table(layout.SECOND_PROMPT, pa.Table.from_pylist(rows, schema=SECOND_PROMPT_SCHEMA))
    other = [np.array(row["verdict"], dtype=np.float32) for row in rows]
    return {"what": second.what, **agreement(first, other, threshold)}
