"""Stage ``prepare``: check what users bring, and write it as shards.

    ezxmc prepare conf.yaml

In: the files that ``prepare.*`` names. Out: documents/shard-NNNNN.parquet, gold/shard-NNNNN.parquet where gold labels
are given, labels.parquet, rejected.parquet. Items: source files, small ones together (pass 1), then shards (pass 2).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from ezxmc_ray import layout
from ezxmc_ray.cluster.session import cluster_cpus, run_task, run_tasks
from ezxmc_ray.config import Config
from ezxmc_ray.context import Context, StageResult
from ezxmc_ray.cycles import check_counts
from ezxmc_ray.documents.fingerprints import combined_fingerprint
from ezxmc_ray.documents.inputs import Inputs, find_inputs
from ezxmc_ray.documents.look import Settled, settle
from ezxmc_ray.documents.parts import CheckedSource, LabelCounts, Part, batches, check_sources, write_labels
from ezxmc_ray.documents.rejected import RejectedSummary, first_of, left_out, stop_message
from ezxmc_ray.documents.shards import (
    Dropped,
    Piece,
    ShardCounts,
    drop_duplicates,
    plan_shards,
    write_rejected,
    write_shard,
)
from ezxmc_ray.documents.told import (
    check_columns_read,
    check_label_columns,
    check_texts,
    check_unknown_gold,
    what_was_read,
)
from ezxmc_ray.errors import UserError
from ezxmc_ray.integrity import written_sizes
from ezxmc_ray.progress import StageProgress, say
from ezxmc_ray.storage import Storage


def prepare(context: Context) -> StageResult:
    """Check and shard the input; returns documents, files (relative to the run) and details of the manifest.

    Errors: UserError for files that are missing or unreadable, for columns that the configuration names and no file
    has, for bad rows unless ``prepare.on_bad_rows=skip`` (rejected.parquet is written all the same), if no label, no
    document, no text or no train document is left, and as cycles.check_counts.
    """
    config, run = context.config, context.storage
    inputs = find_inputs(config.prepare)
    storage = run.below(folder := layout.new_prepare_folder())
    try:
        how = (config.prepare.repeated_labels, config.prepare.list_separator)
        labels: LabelCounts = run_task(write_labels, storage, inputs.labels, *how)
        check_label_columns(config.prepare, inputs, labels)
        settled: Settled = run_task(settle, storage, inputs.documents, config.prepare)
        checked = _check_sources(config, storage, settled, len(inputs.labels))
        check_columns_read(config.prepare, inputs, settled, checked)
        parts = [part for one in checked for part in one.parts]
        limit = config.prepare.limit_documents
        dropped: Dropped = run_task(drop_duplicates, storage, parts, limit)
        plan = plan_shards(parts, dropped.rows, config.prepare.shard_rows, limit)
        tables = [labels.rejected, *(table for one in checked for table in one.rejected), dropped.rejected]
        rejected: RejectedSummary = run_task(write_rejected, storage, tables, parts, plan, limit)
        _check_rejected(config, run.path(layout.REJECTED), inputs, rejected, plan)
        with StageProgress(
            "prepare", "documents", sum(piece.stop - piece.start for shard in plan for piece in shard)
        ) as progress:
            shards = _write_shards(storage, parts, plan, progress.advance)
        check_texts(config.prepare, inputs, checked, sum(one.texts for one in shards))
        check_unknown_gold(config.prepare, checked, shards)
        known = dropped.known
        told = what_was_read(config.prepare, inputs, labels, settled, checked, shards, dropped.united, known)
        told += left_out(rejected)
        of_texts = {"known_test_documents": known.test, "known_held_out_documents": known.held_out}
        details = _details(inputs, labels, rejected, shards) | of_texts | {"read": told}
        _check_train(details)
        check_counts(config, details["train"], details["held_out"], details["labels"], context.trains)
        files = _files(shards, details["gold_documents"])
        written_sizes(storage, files)  # which tasks on other nodes wrote
        # Until here nothing was replaced: input that cannot be used leaves a finished run as it was.
        _put_in_place(run, folder)
    finally:
        if storage.exists(layout.REJECTED):
            run.rename(f"{folder}/{layout.REJECTED}", layout.REJECTED)
        run.remove(folder)
    for sentence in told:
        say(sentence)
    return StageResult(details["documents"], files, details)


def _put_in_place(run: Storage, folder: str) -> None:
    """Move the tables out of ``folder``; each step looks first whether the run is still this command's."""
    run.remove(f"{folder}/{layout.PREPARE_PARTS}")
    for name in (layout.DOCUMENTS, layout.GOLD, layout.LABELS):
        if run.exists(f"{folder}/{name}"):
            run.rename(f"{folder}/{name}", name)
        else:
            run.remove(name)


def _check_sources(config: Config, storage: Storage, settled: Settled, labels: int) -> list[CheckedSource]:
    """Pass 1, the results in the order of the sources; no batch is begun after a source that alone reaches the limit.

    ``labels``: files of labels, which were read before.
    """
    checked: list[CheckedSource] = []

    def arguments() -> Iterator[tuple[Any, ...]]:
        for batch in batches(settled.sources, labels, cluster_cpus()):
            if any(one.full for one in checked):
                return
            yield storage, batch, config.prepare, config.seed, settled.separator

    for some in run_tasks(check_sources, arguments()):
        checked += some
    return sorted(checked, key=lambda one: one.number)


def _check_train(details: dict[str, Any]) -> None:
    """Raise a UserError if there is no train document, which the teacher is asked about."""
    if not details["train"]:
        raise UserError(
            f"None of the {details['documents']} documents is for training; lower prepare.test_share, or mark "
            "documents as train in the split column."
        )


def _check_rejected(
    config: Config, where: str, inputs: Inputs, rejected: RejectedSummary, plan: Sequence[Sequence[Piece]]
) -> None:
    if rejected.rows and config.prepare.on_bad_rows == "fail":
        raise UserError(stop_message(rejected, inputs.sources, where))
    if not plan:
        files = first_of([one.source.name for one in inputs.documents])
        why = (
            f"all {rejected.rows:,} rows are bad, see {where}"
            if rejected.rows
            else "there is no row (a header is none)"
        )
        raise UserError(f"There is no document in {files}: {why}.")


def _write_shards(
    storage: Storage, parts: Sequence[Part], plan: Sequence[Sequence[Piece]], report: Callable[[int], None]
) -> list[ShardCounts]:
    """Pass 2; the counts in the order of the shards."""
    with_gold = any(part.gold for part in parts)
    shards: list[ShardCounts] = []
    for one in run_tasks(write_shard, ((storage, number, pieces, with_gold) for number, pieces in enumerate(plan))):
        shards.append(one)
        report(one.rows)
    if not any(one.gold for one in shards):
        storage.remove(layout.GOLD)
    return sorted(shards, key=lambda one: one.shard)


def _files(shards: Sequence[ShardCounts], gold: int) -> list[str]:
    folders = [layout.DOCUMENTS, layout.GOLD] if gold else [layout.DOCUMENTS]
    tables = [f"{folder}/{layout.shard_name(one.shard)}.parquet" for folder in folders for one in shards]
    return [*tables, layout.LABELS, layout.REJECTED]


def _details(
    inputs: Inputs, labels: LabelCounts, rejected: RejectedSummary, shards: Sequence[ShardCounts]
) -> dict[str, Any]:
    gold = sum(one.gold for one in shards)
    return {
        "documents": sum(one.rows for one in shards),
        "train": sum(one.train for one in shards),
        "held_out": sum(one.held_out for one in shards),
        "test": sum(one.test for one in shards),
        "labels": labels.labels,
        "duplicate_label_texts": labels.duplicate_texts,
        "labels_with_alternatives": labels.with_alternatives,
        "alternatives": labels.alternatives,
        "rejected": rejected.rows,
        "rejected_by_reason": rejected.by_reason,
        "documents_with_title": sum(one.titles for one in shards),
        "documents_with_text": sum(one.texts for one in shards),
        "gold_documents": gold,
        "documents_with_gold": sum(one.labelled for one in shards),
        "gold_labels": sum(one.gold_labels for one in shards),
        "dropped_gold_labels": sum(one.unknown_gold for one in shards),
        "shards": len(shards),
        "shard_rows": [one.rows for one in shards],
        "sources": inputs.sources,
        "filtered_pairs": sum(one.excluded for one in shards),
        "document_fingerprint": combined_fingerprint(one.document_fingerprint for one in shards),
        "label_fingerprint": labels.fingerprint,
        "gold_fingerprint": combined_fingerprint(one.gold_fingerprint for one in shards) if gold else None,
    }
