"""The summary of a cycle's examples: what a reader must know of all shards before it reads the first.

Comes in: the tables of the examples, shard by shard, as they are written. Goes out, beside them: counts by shard, how
many documents have each label in their shortlist, and the held-out documents. Tasks work on *groups* of shards, each
with a :class:`SummaryPart`; :func:`write_summary` ends it. Counts have a scope: ``own``, of the cycle's examples; and
after the first cycle ``all``, of those and of the documents that only cycles before it judged (student.past_verdicts).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from ezxmc_ray import layout
from ezxmc_ray.prefetch import at_once
from ezxmc_ray.storage import Storage
from ezxmc_ray.tables import EXAMPLES_SCHEMA, HELD_OUT_SCHEMA, LABEL_DOCUMENTS_SCHEMA, SHARD_COUNTS_SCHEMA, flat

OWN, ALL = "own", "all"
#: Factors of SplitMix64, which makes numbers in a row look drawn (Steele et al. 2014, OOPSLA).
_MIX = (np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB))
#: What counting needs of the examples.
COUNTED = ["row", "held_out", "labels"]
_PART_SCHEMA = pa.schema([("label", pa.int32()), ("documents", pa.int64())])
#: By scope int64 [shards, 3]: the columns of SHARD_COUNTS_SCHEMA.
Counts = dict[str, np.ndarray]


def scopes(cycle: int) -> tuple[str, ...]:
    """The scopes that a cycle's counts have."""
    return (OWN, ALL) if cycle else (OWN,)


class SummaryPart:
    """What one task finds of its shards of the examples of ``cycle``."""

    def __init__(self, storage: Storage, cycle: int) -> None:
        self.storage, self.cycle = storage, cycle
        self._counts: dict[str, list[list[int]]] = {scope: [] for scope in scopes(cycle)}
        self._labels: dict[str, list[np.ndarray]] = {scope: [] for scope in scopes(cycle)}
        self._held_out: list[pa.Table] = []

    def add(self, shard: int, table: pa.Table) -> None:
        """Count ``table``, the examples of ``shard``; it is the shard that follows on the one before."""
        held_out = table.filter(table["held_out"])
        numbers = pa.array(np.full(len(held_out), shard, np.int32))
        columns = [numbers, *(held_out[name] for name in HELD_OUT_SCHEMA.names[1:])]
        self._held_out.append(pa.Table.from_arrays(columns, schema=HELD_OUT_SCHEMA))
        for scope in scopes(self.cycle):
            known = table.select(COUNTED)
            if scope == ALL:
                before = [layout.examples(cycle) for cycle in reversed(range(self.cycle))]
                earlier = [self.storage.read_shard(one, shard, EXAMPLES_SCHEMA, COUNTED) for one in before]
                known = latest(known, earlier)
            trained = usable(known)
            empty = _count(pc.invert(known["held_out"])) - len(trained)
            held_out_ones = _count(pc.and_(known["held_out"], has_shortlist(known)))
            self._counts[scope].append([len(trained), empty, held_out_ones])
            self._labels[scope].append(flat(trained["labels"]))

    def write(self, group: int) -> Counts:
        """Write what is not counts by shard, as group number ``group``; returns those."""
        self.storage.write_table(layout.held_out(self.cycle, group), pa.concat_tables(self._held_out))
        for scope, labels in self._labels.items():
            columns = np.unique(np.concatenate(labels), return_counts=True)
            arrays = [pa.array(one, field.type) for one, field in zip(columns, _PART_SCHEMA, strict=True)]
            self.storage.write_table(_part(self.cycle, scope, group), pa.Table.from_arrays(arrays, schema=_PART_SCHEMA))
        return {scope: np.array(rows, np.int64).reshape(-1, 3) for scope, rows in self._counts.items()}


def write_summary(storage: Storage, cycle: int, parts: Sequence[Counts]) -> list[str]:
    """Task: end the summary, of what all groups, in their order, have counted; the names of all its files."""
    files = [layout.held_out(cycle, group) for group in range(len(parts))]
    for scope in scopes(cycle):
        counts = np.concatenate([part[scope] for part in parts])
        documents = np.zeros(0, np.int64)
        names = [_part(cycle, scope, group) for group in range(len(parts))]
        for table in _tables(storage, names, _PART_SCHEMA):
            labels = table["label"].to_numpy()  # rising
            if len(labels) and labels[-1] >= len(documents):
                documents = np.pad(documents, (0, labels[-1] + 1 - len(documents)))
            documents[labels] += table["documents"].to_numpy()
        shards = pa.Table.from_arrays([pa.array(one) for one in counts.T], schema=SHARD_COUNTS_SCHEMA)
        by_label = pa.Table.from_arrays([pa.array(documents)], schema=LABEL_DOCUMENTS_SCHEMA)
        storage.write_table(layout.shard_counts(cycle, scope), shards)
        storage.write_table(layout.label_documents(cycle, scope), by_label)
        files += [layout.shard_counts(cycle, scope), layout.label_documents(cycle, scope)]
    storage.remove(layout.label_document_parts(cycle))
    return files


def read_shard_counts(storage: Storage, cycle: int, scope: str) -> dict[str, np.ndarray]:
    """The columns of SHARD_COUNTS_SCHEMA, int64 [shards] each."""
    table = storage.read_table(layout.shard_counts(cycle, scope), SHARD_COUNTS_SCHEMA)
    return {name: table[name].to_numpy() for name in table.column_names}


def read_label_documents(storage: Storage, cycle: int, scope: str, labels: int) -> np.ndarray:
    """How many documents that are trained on have each label in their shortlist: int64 [labels]."""
    found = storage.read_table(layout.label_documents(cycle, scope), LABEL_DOCUMENTS_SCHEMA)["documents"].to_numpy()
    return np.pad(found, (0, labels - len(found)))


def held_out_files(storage: Storage, cycle: int) -> list[str]:
    """The files of the held-out documents of ``cycle``, in the order of the shards."""
    return [name for name in storage.list(layout.summary(cycle), ".parquet") if layout.HELD_OUT in name]


def read_held_out(storage: Storage, files: Sequence[str], columns: list[str] | None = None) -> Iterator[pa.Table]:
    """The tables of some of :func:`held_out_files`, as HELD_OUT_SCHEMA has them; ``columns``: of these alone."""
    return _tables(storage, files, HELD_OUT_SCHEMA, columns)


def half_of(held_out: pa.Table, of_training: bool) -> pa.Table:
    """Of ``held_out`` (HELD_OUT_SCHEMA) the half that trainings stop by, or the half that is left to the selection.

    The draw of a document's place says which: it is the same in every cycle, and knows no order of the input.
    """
    return held_out.filter(pa.array((draws_of(held_out) >> np.uint64(63)).astype(bool) == of_training))


def draws_of(held_out: pa.Table) -> NDArray[np.uint64]:
    """A number for each of ``held_out`` (HELD_OUT_SCHEMA), uint64 [documents]: a mix of its shard and row."""
    shard, row = (held_out[name].to_numpy().astype(np.uint64) for name in ("shard", "row"))
    place = (shard << np.uint64(32)) | row
    for factor in _MIX:
        place = (place ^ (place >> np.uint64(30))) * factor
    return place


def latest(newest: pa.Table, earlier: Iterable[pa.Table]) -> pa.Table:
    """The rows of ``newest``, and those of other documents in ``earlier``, whose first one has the later verdicts."""
    found = newest
    for table in earlier:
        known = pc.is_in(table["row"], value_set=found["row"].combine_chunks())
        found = pa.concat_tables([found, table.filter(pc.invert(known))])
    return found


def has_shortlist(table: pa.Table) -> pa.ChunkedArray:
    """Of each example whether there is a label in its shortlist."""
    return pc.greater(pc.fill_null(pc.list_value_length(table["labels"]), 0), 0)


def usable(table: pa.Table) -> pa.Table:
    """The examples that are trained on and have a shortlist."""
    return table.filter(pc.and_(pc.invert(table["held_out"]), has_shortlist(table)))


def _count(rows: pa.ChunkedArray) -> int:
    return pc.sum(rows).as_py() or 0


def _part(cycle: int, scope: str, group: int) -> str:
    return f"{layout.label_document_parts(cycle)}/{scope}-{group:05d}.parquet"


def _tables(
    storage: Storage, names: Sequence[str], schema: pa.Schema, columns: list[str] | None = None
) -> Iterator[pa.Table]:
    """The tables of ``names``, in order, some read at once."""
    return at_once(lambda name: storage.read_table(name, schema, columns), names)
