"""What benchmarks and tests read of a run's files, or write there by hand where no stage did."""

from __future__ import annotations

from collections.abc import Iterable

from ezxmc_ray import layout
from ezxmc_ray.storage import Storage
from ezxmc_ray.student.summary import SummaryPart, write_summary
from ezxmc_ray.tables import EXAMPLES_SCHEMA, LABELS_SCHEMA


def label_texts(storage: Storage) -> list[str]:
    """The preferred texts of all labels, by label number."""
    texts: list[str] = storage.read_table(layout.LABELS, LABELS_SCHEMA, ["text"])["text"].to_pylist()
    return texts


def summarize_examples(storage: Storage, cycle: int, groups: Iterable[range]) -> list[str]:
    """Make the summary of examples that are there; its files."""
    parts = []
    for number, shards in enumerate(groups):
        part = SummaryPart(storage, cycle)
        for shard in shards:
            part.add(shard, storage.read_shard(layout.examples(cycle), shard, EXAMPLES_SCHEMA))
        parts.append(part.write(number))
    return write_summary(storage, cycle, parts)
