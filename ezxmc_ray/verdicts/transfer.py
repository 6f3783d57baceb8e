"""Verdicts out of a run and into one, as one Parquet file. Needs no Ray.

    ezxmc verdicts export RUN FILE [--teacher KEY]
    ezxmc verdicts import RUN FILE [--teacher NAME]

An export (tables.EXPORTED_VERDICTS_SCHEMA) has every pair of one teacher once, and in the schema's metadata as JSON the
teacher's description (``ezxmc.teacher``) and what its pairs cost (``ezxmc.costs``): imported, it goes under that
teacher's key, whatever ids the other run uses, and each pair counts as having cost their mean. A file made by hand has
the columns document_id, label_id and raw; ``--teacher`` says under which key it goes. What a run holds already stays as
it is.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import starmap
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from ezxmc_ray import layout
from ezxmc_ray.context import Context
from ezxmc_ray.credentials import without_credentials
from ezxmc_ray.errors import UserError, one_line
from ezxmc_ray.places import folder_and_name, is_runs_own
from ezxmc_ray.prefetch import at_once
from ezxmc_ray.run_lock import run_lock
from ezxmc_ray.storage import Storage, check_writable
from ezxmc_ray.tables import (
    DOCUMENTS_SCHEMA,
    EXPORTED_VERDICTS_SCHEMA,
    HASH,
    LABELS_SCHEMA,
    NO_DOCUMENT,
    VERDICTS_SCHEMA,
    read_parquet,
)
from ezxmc_ray.teacher.engine import describe
from ezxmc_ray.verdicts.calibration import READOUTS
from ezxmc_ray.verdicts.placement import ShardLookup, each_pair_once
from ezxmc_ray.verdicts.relocate import relocate
from ezxmc_ray.verdicts.second_readout import LIKELIHOOD
from ezxmc_ray.verdicts.store import ABSENT, BY_HAND, FOLDERS_AT_ONCE, PRIORS, VerdictStore, table_keys
from ezxmc_ray.verdicts.summary import CONFIGURED, configured_teacher, held_key, lookup_of

TEACHER = b"ezxmc.teacher"
COSTS = b"ezxmc.costs"
#: Columns of a file made by hand.
COLUMNS_BY_HAND = pa.schema([("document_id", pa.string()), ("label_id", pa.string()), ("raw", pa.float32())])
#: Read-outs whose raw score is a probability.
PROBABILITIES = ("yes_no", "classify")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9.-]*")


@dataclass(frozen=True)
class Imported:
    """What an import did: the key that the verdicts went under, pairs in the file, pairs that the run lacked."""

    key: str
    pairs: int
    new: int


def export_verdicts(context: Context, file: str, teacher: str | None) -> int:
    """Write the verdicts of one teacher (see summary.held_key) to ``file``; returns the pairs, priors included.

    A few folders of the store are held at a time. Errors: UserError for a teacher that the run does not hold, a file
    that cannot be written, one that is the run's own, and one that is there and no export.
    """
    target, name = _location(file)
    store = VerdictStore(context.storage, held_key(context, teacher))
    _check_free(context.storage, target, name, file)
    check_writable(target)
    lookup, labels = lookup_of(context), _label_ids(context.storage)
    description = _shared(store.description() or {}) | {"key": store.key}
    metadata = {TEACHER: json.dumps(description), COSTS: json.dumps(_costs_per_pair(store, lookup))}
    pairs = 0
    with target.open_table(name, EXPORTED_VERDICTS_SCHEMA.with_metadata(metadata)) as sink:
        tables = (table for _, table in each_pair_once(store, lookup))
        for table in at_once(partial(_with_ids, context.storage, lookup, labels), tables, FOLDERS_AT_ONCE):
            sink.write_table(table)
            pairs += len(table)
    return pairs


def _check_free(run: Storage, target: Storage, name: str, file: str) -> None:
    """UserError where an export to ``file`` would replace something else than an earlier export."""
    if is_runs_own(run, target.filesystem, target.path(name)):
        raise UserError(
            f"{without_credentials(file)} lies in the run directory under a name that the run writes itself: name a "
            "file elsewhere."
        )
    if target.exists(name):
        try:
            schema = pq.read_schema(target.path(name), filesystem=target.filesystem)
        except (ValueError, pa.ArrowException, OSError):
            schema = pa.schema([])
        if TEACHER not in (schema.metadata or {}):
            raise UserError(
                f"{without_credentials(file)} is there and is no export of verdicts, so it is not replaced: name "
                "another file, or remove it."
            )


def _costs_per_pair(store: VerdictStore, lookup: ShardLookup) -> dict[str, float]:
    """What the store's batches cost (see VerdictStore.append), a pair."""
    pairs = sum(len(table) for _, table in each_pair_once(store, lookup))
    totals = sum(map(Counter, at_once(store.counts, store.folders(), FOLDERS_AT_ONCE)), Counter[str]())
    return {name: total / pairs for name, total in totals.items()}


def _label_ids(storage: Storage) -> pa.Table:
    """``id`` and ``content_hash`` of the run's labels; none, if it is not prepared."""
    columns = ["id", "content_hash"]
    if not storage.exists(layout.LABELS):
        return LABELS_SCHEMA.empty_table().select(columns)
    return storage.read_table(layout.LABELS, LABELS_SCHEMA, columns)


def _with_ids(storage: Storage, lookup: ShardLookup, labels: pa.Table, table: pa.Table) -> pa.Table:
    """``table`` (tables.VERDICTS_SCHEMA) as tables.EXPORTED_VERDICTS_SCHEMA; ``labels``: :func:`_label_ids`."""
    ids = np.full(len(table), None, object)
    home = lookup.first(table["document_hash"])
    for shard in np.unique(home[home >= 0]):
        rows = np.flatnonzero(home == shard)
        documents = storage.read_shard(layout.DOCUMENTS, shard, DOCUMENTS_SCHEMA, ["id", "content_hash"])
        hashes = table["document_hash"].take(pa.array(rows))
        ids[rows] = _translated(hashes, documents, "content_hash", "id").to_pylist()
    table = table.append_column("document_id", pa.array(ids, pa.string()))
    table = table.append_column("label_id", _translated(table["label_hash"], labels, "content_hash", "id"))
    return table.select(EXPORTED_VERDICTS_SCHEMA.names)


def _translated(values: pa.ChunkedArray, table: pa.Table, source: str, target: str) -> pa.ChunkedArray:
    """For each of ``values`` the ``target`` of the first row of ``table`` that has it as its ``source``, else null."""
    return table[target].take(pc.index_in(values, value_set=table[source].combine_chunks()))


def import_verdicts(context: Context, file: str, teacher: str | None) -> Imported:
    """Put the verdicts in ``file`` into the run's verdict store; see the module for the two kinds of file.

    ``teacher``, for a file made by hand: ``configured``, a key that the run holds, or a new name, whose scores are then
    taken as probabilities. Verdicts on documents that the run does not have come from exports only; they wait in the
    folder ``absent``. The file is held in memory, and of the documents ids and hashes. Nothing is written unless all
    rows are good: UserError for ids that the run does not have, scores that are not finite or, for a read-out of
    probabilities, not between 0 and 1, and pairs with two scores.
    """
    storage = context.storage
    with run_lock(storage):
        if not storage.exists(layout.manifest(layout.DOCUMENTS)):
            raise UserError(f"The run {storage.root} has no documents yet: give ezxmc prepare first.")
        verdicts, description, costs = _verdicts_in(context, file, teacher)
        is_by_hand = bool(description.get(BY_HAND))
        _check_scores(verdicts["raw"].to_numpy(), description.get("readout"), file, is_by_hand)
        verdicts = _each_once(verdicts, file)
        store = VerdictStore(storage, _checked_name(description.get("key", "")))
        if store.description() is None or (description.get(BY_HAND) and not store.is_by_hand()):
            store.write_description(description)
        relocate(context, store.key, starmap)
        return Imported(store.key, len(verdicts), _place(store, lookup_of(context), verdicts, costs))


def _place(store: VerdictStore, lookup: ShardLookup, verdicts: pa.Table, costs: dict[str, float]) -> int:
    """Append what the folders of the verdicts' documents lack, at ``costs`` a pair; returns how many pairs."""
    documents = verdicts["document_hash"]
    is_prior = pc.equal(documents, pa.scalar(NO_DOCUMENT, HASH)).to_numpy()
    first = lookup.first(documents)
    by_shard = lookup.rows_by_shard(documents)
    shard_of = {layout.shard_name(shard): shard for shard in by_shard}
    rows_in = {folder: by_shard[shard] for folder, shard in shard_of.items()}
    rows_in[PRIORS] = np.flatnonzero(is_prior)
    rows_in[ABSENT] = np.flatnonzero(~is_prior & (first < 0))
    is_new = np.zeros(len(verdicts), bool)

    def append(folder: str) -> np.ndarray:
        rows = rows_in[folder]
        # A text may lie in several shards, and its verdicts were paid for once.
        is_paid = first[rows] == shard_of[folder] if folder in shard_of else np.ones(len(rows), bool)
        missing = np.zeros(len(rows), bool)
        for some, each in ((is_paid, costs), (~is_paid, None)):
            if some.any():
                missing[some] = store.append_missing(folder, verdicts.take(pa.array(rows[some])), each)
        return missing

    for rows, missing in zip(rows_in.values(), at_once(append, rows_in, FOLDERS_AT_ONCE), strict=True):
        is_new[rows] |= missing
    return int(is_new.sum())


def _location(file: str) -> tuple[Storage, str]:
    """Where ``file`` lies, a path or a URI: its folder and its name."""
    storage, name = folder_and_name(file)
    if not name or storage.is_folder(name):
        raise UserError(f"{without_credentials(file)} is a directory; name a file in it, such as verdicts.parquet.")
    return storage, name


def _verdicts_in(context: Context, file: str, teacher: str | None) -> tuple[pa.Table, dict[str, Any], dict[str, float]]:
    """The rows of either kind of file as tables.VERDICTS_SCHEMA, the description of their teacher, what a pair cost."""
    table, description, costs = _read(file)
    if description is None:
        return _by_ids(context, table, file), _teacher(context, file, teacher), costs
    if teacher is not None:
        raise UserError(
            f"{file} is an export of the teacher {description.get('key')} and goes under its key: leave out --teacher."
        )
    return table, description, costs


def _read(file: str) -> tuple[pa.Table, dict[str, Any] | None, dict[str, float]]:
    """An export as tables.VERDICTS_SCHEMA with its teacher's description and what a pair cost; what is made by hand as
    COLUMNS_BY_HAND, without either."""
    storage, name = _location(file)
    if not storage.exists(name):
        raise UserError(f"There is no file {file} to import; give a Parquet file.")
    try:
        schema = pq.read_schema(storage.path(name), filesystem=storage.filesystem)
        metadata = schema.metadata or {}
        description = _described(json.loads(metadata.get(TEACHER, b"null")))
        costs = _costs(json.loads(metadata.get(COSTS, b"{}")))
        wanted = COLUMNS_BY_HAND if description is None else VERDICTS_SCHEMA
        if missing := [column for column in wanted.names if column not in schema.names]:
            raise UserError(
                f"{file} has no column {missing[0]!r}: import an export of `ezxmc verdicts export`, or a file with the "
                f"columns {', '.join(COLUMNS_BY_HAND.names)}."
            )
        table = read_parquet(storage.path(name), storage.filesystem, wanted.names).select(wanted.names).cast(wanted)
    except (ValueError, pa.ArrowException, OSError) as error:
        raise UserError(f"The verdicts in {file} cannot be read ({one_line(error)}); give a Parquet file.") from error
    for column in wanted.names:
        _refuse(np.flatnonzero(table[column].is_null().to_numpy()), file, f"have no {column}", lambda row: "empty")
    return table, description, costs


def _described(description: Any) -> dict[str, Any] | None:
    """An export's word on its teacher, checked; ValueError for what no export says."""
    if description is None:
        return None
    key = description.get("key") if isinstance(description, dict) else None
    if not isinstance(key, str) or not _NAME.fullmatch(key):
        raise ValueError("its note on the teacher names none")
    if description.get("readout") not in (None, *READOUTS):
        raise ValueError(f"its teacher has the unknown read-out {description['readout']!r}")
    return _shared(description)


def _shared(description: dict[str, Any]) -> dict[str, Any]:
    """``description`` without what is of one run: that its configured teacher's verdicts are partly made by hand."""
    return {name: value for name, value in description.items() if name != BY_HAND}


def _costs(told: Any) -> dict[str, float]:
    """An export's word on what a pair cost, checked; ValueError for what no export says."""
    if not isinstance(told, dict) or not all(isinstance(value, int | float) for value in told.values()):
        raise ValueError("its note on costs holds something else than numbers")
    return told


def _teacher(context: Context, file: str, teacher: str | None) -> dict[str, Any]:
    """Description of the teacher whose verdicts a file made by hand is to hold."""
    if teacher is None:
        raise UserError(
            f"{file} does not say whose verdicts it holds: give --teacher {CONFIGURED}, for the teacher that the run "
            "is configured with, or --teacher and a name."
        )
    if teacher == CONFIGURED:
        return describe(configured_teacher(context)) | {BY_HAND: True}
    known = VerdictStore(context.storage, _checked_name(teacher)).description()
    return known or {"key": teacher, "model": None, "prompt": None, "readout": "yes_no"}


def _checked_name(name: str) -> str:
    if not _NAME.fullmatch(name):
        raise UserError(f"{name!r} cannot name a teacher: take letters, digits, dots and hyphens.")
    return name


def _by_ids(context: Context, given: pa.Table, file: str) -> pa.Table:
    """``given`` (COLUMNS_BY_HAND) as tables.VERDICTS_SCHEMA, without tokens."""
    storage = context.storage
    shards = [layout.shard_file(layout.DOCUMENTS, shard) for shard in range(context.shards)]
    documents = pa.concat_tables(
        at_once(lambda name: storage.read_table(name, DOCUMENTS_SCHEMA, ["id", "content_hash"]), shards)
    )
    labels = _label_ids(storage)
    hashes = [
        _hashes(given["document_id"], documents, file, f"name a document that the run {storage.root} does not have"),
        _hashes(given["label_id"], labels, file, f"name a label that the run {storage.root} does not have"),
    ]
    tokens, truncated = pa.array(np.zeros(len(given), np.int32)), pa.array(np.zeros(len(given), bool))
    return pa.Table.from_arrays([*hashes, given["raw"], tokens, truncated], schema=VERDICTS_SCHEMA)


def _hashes(ids: pa.ChunkedArray, table: pa.Table, file: str, mistake: str) -> pa.ChunkedArray:
    """The content hashes that ``table`` has for ``ids``; UserError where it has none."""
    hashes = _translated(ids, table, "id", "content_hash")
    _refuse(np.flatnonzero(hashes.is_null().to_numpy()), file, mistake, lambda row: repr(ids[row].as_py()))
    return hashes


def _check_scores(raw: np.ndarray, readout: str | None, file: str, is_by_hand: bool) -> None:
    """UserError for scores, float32 [n], that the read-out cannot give; of those made by hand also for yes and no (1
    and 0) where it gives log likelihoods, of which 0 is the highest."""
    _refuse(np.flatnonzero(~np.isfinite(raw)), file, "have a raw score that is no finite number", lambda row: raw[row])
    if readout in PROBABILITIES:
        outside = np.flatnonzero((raw < 0) | (raw > 1))
        _refuse(outside, file, f"have a raw score outside [0, 1] (read-out {readout})", lambda row: raw[row])
    elif readout == LIKELIHOOD:
        what = "have a raw score that is no log likelihood, which is negative (read-out likelihood"
        remedy = "; for verdicts of 0 and 1 set teacher.readout=yes_no)" if is_by_hand else ")"
        _refuse(np.flatnonzero(raw >= 0 if is_by_hand else raw > 0), file, what + remedy, lambda row: raw[row])


def _each_once(verdicts: pa.Table, file: str) -> pa.Table:
    """Each pair's first row, ordered by key; UserError for a pair with two scores."""
    raw = verdicts["raw"].to_numpy()
    _, first, which = np.unique(table_keys(verdicts), return_index=True, return_inverse=True)
    earlier = first[which]
    _refuse(
        np.flatnonzero(raw != raw[earlier]),
        file,
        "give a pair another raw score than an earlier row does",
        lambda row: f"{raw[row]}, but {raw[earlier[row]]} in row {earlier[row] + 1}",
    )
    return verdicts.take(pa.array(first))


def _refuse(rows: np.ndarray, file: str, mistake: str, show: Callable[[int], Any]) -> None:
    """UserError that counts ``rows`` (numbers from 0), says what is wrong with them, and shows the first."""
    if len(rows):
        raise UserError(
            f"{file}: {len(rows):,} rows {mistake}; the first is row {rows[0] + 1} ({show(int(rows[0]))}): correct "
            "them or leave them out; nothing was imported."
        )
