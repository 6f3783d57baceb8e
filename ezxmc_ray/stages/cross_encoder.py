"""Stage ``cross_encoder``: train a cross-encoder on the verdicts, and find what its scores are worth (predict.rerank).

    ezxmc cross_encoder conf.yaml

In: student/, the examples of all cycles, documents/. Out: cross_encoder/network/, a directory that CrossEncoder of
sentence-transformers loads, and cross_encoder/held-out-*.parquet, its scores of the held-out documents' shortlists. It
begins with the weights of the chosen student, and is trained as students are, with Ray Train, on the same targets
(student/pair_loop.py). The least score of a label and its chance of a yes are fitted anew by what it says of the
held-out documents, and how it orders these by the teacher's judgment is told beside the similarity. Gold is not read.

A network that is trained has a manifest of its own. While it and the stage's folder stay as they were (step.made_of),
only the last part is done anew, the fit, which ``cross_encoder.weight`` enters; or the scores that are missing.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa

from ezxmc_ray import layout
from ezxmc_ray.cluster.board import report_done, report_phase, watched
from ezxmc_ray.cluster.pools import HELD, Done, WorkItem, encoder_pool, map_files
from ezxmc_ray.cluster.session import run_task, run_tasks
from ezxmc_ray.config import Config, to_dict
from ezxmc_ray.context import Context, StageResult
from ezxmc_ray.cycles import FITTED_DOCUMENTS
from ezxmc_ray.encoder.pairs import pair_config
from ezxmc_ray.encoder.reranker import fit_scale
from ezxmc_ray.index.label_texts import all_texts
from ezxmc_ray.integrity import begun_with, checksums_of, written_sizes
from ezxmc_ray.metrics import MIN_DOCUMENTS
from ezxmc_ray.metrics.thresholds import fit_scores
from ezxmc_ray.progress import StageProgress, say
from ezxmc_ray.stages.select import mean_and_error
from ezxmc_ray.stages.train import ask_a_node, check_workers, train_at
from ezxmc_ray.stages.train_settings import CROSS_PLACE
from ezxmc_ray.storage import Manifest, Storage, write_manifest
from ezxmc_ray.student.cross_training import cross_encoder_training
from ezxmc_ray.student.data import texts_at
from ezxmc_ray.student.summary import draws_of, half_of
from ezxmc_ray.student.targets import TargetScale, compared_by, target_scores
from ezxmc_ray.student.validation import gains_of, graded_ndcg
from ezxmc_ray.tables import CROSS_HELD_OUT_SCHEMA, HELD_OUT_SCHEMA
from ezxmc_ray.tagging.cross_encoder import load_pairs, trained_network
from ezxmc_ray.verdicts.examples import example_groups
from ezxmc_ray.versions import versions


def cross_encoder(context: Context) -> StageResult:
    """Train it and fit what it adds; returns documents seen, files and details of the manifest."""
    config, storage = context.config, context.storage
    student = context.manifest(layout.STUDENT)
    chosen = int(student.details["encoder"])
    groups = len(example_groups(context.shards))
    items: list[WorkItem] = [{"shard": group, "file": layout.cross_held_out(group)} for group in range(groups)]
    trained = _trained_before(context, items) or _train_anew(context, student.commit)
    limit = -(-FITTED_DOCUMENTS // groups)
    with watched(StageProgress("cross-encoder, held-out documents", "documents")) as progress:
        arguments = (storage, config, chosen, context.halves_held_out, limit)
        for done in map_files(storage, items, HeldOutWorker, arguments, encoder_pool()):
            progress.advance(done["documents"], HELD in done)
    judged = context.judged(chosen)
    fitted = run_task(fit_reranking, storage, config, groups, judged.scale, judged.yes_threshold)
    _tell(fitted["held_out"])
    made = {"student": student.commit, "encoder": chosen, "settings": to_dict(config.cross_encoder)}
    files = [*trained.files, *(item["file"] for item in items)]
    return StageResult(trained.rows, files, {**trained.details, **fitted, **made})


def _trained_before(context: Context, items: list[WorkItem]) -> Manifest | None:
    """The manifest of the network that is there, if every byte of it is as it was written; else the scores of
    ``items``, which are of another one, are removed."""
    storage, mark = context.storage, begun_with(context.storage, layout.CROSS_ENCODER)
    found = trained_network(storage, mark)
    if found and checksums_of(storage, found.sizes, run_tasks) == found.checksums:
        there = set(storage.list(layout.CROSS_ENCODER, ".parquet"))
        missing = sum(item["file"] not in there for item in items)
        scores = (
            f"and scores held-out documents anew ({missing} of {len(items)} files)" if missing else "with its scores"
        )
        weight = context.config.cross_encoder.weight
        say(f"cross_encoder: the trained network stays, {scores}; fitted anew by cross_encoder.weight={weight:g}")
        return found
    for item in items:
        storage.remove(item["file"])
    return None


def _train_anew(context: Context, student: str) -> Manifest:
    """Train the network, which begins as the ``student`` (a commit); the manifest that it is given.

    Scores of another network must be gone.
    """
    storage, began = context.storage, time.monotonic()
    mark = begun_with(storage, layout.CROSS_ENCODER) or ""
    learning = dataclasses.replace(context, config=cross_encoder_training(context.config))
    details = train_at(CROSS_PLACE, learning, context.cycles - 1, [student])
    own = layout.manifest(layout.CROSS_NETWORK)
    files = [name for name in storage.list(layout.CROSS_NETWORK, recursive=True) if name != own]
    sizes = written_sizes(storage, files)
    written = (sizes, checksums_of(storage, sizes, run_tasks))
    told = (int(details["documents"]), time.monotonic() - began, files, details, versions(), *written)
    manifest = Manifest("cross_encoder", mark, *told)
    write_manifest(storage, layout.CROSS_NETWORK, manifest)
    return manifest


def check_cross_encoder(config: Config) -> None:
    """Refuse what its training would tell late, or wait for without end. Errors: UserError."""
    check_workers(config)
    ask_a_node("the encoder", _check_pair_tokens, config)


def _check_pair_tokens(config: Config) -> None:
    """Task: students have the base encoder's tokenizer and positions."""
    from ezxmc_ray.encoder.cross_encoder import check_border, check_pair_tokens
    from ezxmc_ray.encoder.encoder import Encoder

    encoder = Encoder.load(config.encoder.model, config.encoder, "cpu")
    check_border(encoder)
    check_pair_tokens(encoder, pair_config(config.encoder, config.cross_encoder))


def _tell(held_out: dict[str, Any]) -> None:
    """Say so where the teacher's judgment finds the new order worse beyond noise."""
    if held_out["documents"] >= MIN_DOCUMENTS and held_out["difference"] < -held_out["standard_error"]:
        say(
            f"By the teacher's judgment of {held_out['documents']:,} held-out documents the cross-encoder makes their "
            f"order worse (nDCG@5 {held_out['similarity']:.1f} -> {held_out['reranked']:.1f}): predict.rerank=0 tags "
            "without it."
        )


class HeldOutWorker:
    """Actor: what the cross-encoder says of the held-out documents of a group of shards, of ``limit`` of them at most.

    ``chosen``: the encoder whose shortlists they are; ``is_half``: cycles.halves_held_out.
    """

    def __init__(self, storage: Storage, config: Config, chosen: int, is_half: bool, limit: int) -> None:
        self.storage, self.chosen, self.is_half, self.limit = storage, chosen, is_half, limit
        self.size = config.shortlist.size
        report_phase("loading the cross-encoder")
        self.pairs = load_pairs(storage, config.encoder, config.cross_encoder)
        self.label_texts = all_texts(storage)

    def __call__(self, item: WorkItem) -> Done:
        """Do one item; returns its counts."""
        table = self.storage.read_table(layout.held_out(self.chosen, int(item["shard"])), HELD_OUT_SCHEMA)
        table = half_of(table, of_training=False) if self.is_half else table
        table = table.take(np.sort(np.argsort(draws_of(table), kind="stable")[: self.limit]))
        documents = texts_at(self.storage, *(table[name].to_numpy() for name in ("shard", "row")))
        titles, texts = ([one[place] for one in documents] for place in (0, 1))
        labels = [self.label_texts.take(one.values).to_pylist() for one in table["labels"]]
        self.pairs.count_documents(partial(report_done, item["file"]), self.size)
        found = self.pairs.scores(titles, texts, labels)
        scores = pa.array(found, pa.list_(pa.float32()))
        columns = [*(table[name] for name in CROSS_HELD_OUT_SCHEMA.names[:-1]), scores]
        counts = {"documents": len(table)}
        self.storage.write_table(item["file"], pa.table(columns, schema=CROSS_HELD_OUT_SCHEMA), counts)
        return counts


def fit_reranking(
    storage: Storage, config: Config, groups: int, scale: TargetScale, yes_threshold: float
) -> dict[str, Any]:
    """Task: what the cross-encoder's scores are worth, by the held-out documents.

    ``per_score``, ``anchor``: as RerankScale; ``min_score``, ``precision_thresholds``, ``probability`` and its error:
    as the selection's, of the new scores; ``held_out``: mean nDCG@5 by the teacher's judgment of the order that the
    similarity gives the shortlists, and of the new one, 0 to 100, with the paired difference and its standard error.
    """
    tables = [storage.read_table(layout.cross_held_out(group), CROSS_HELD_OUT_SCHEMA) for group in range(groups)]
    table = pa.concat_tables(tables)
    names = ("similarity", "verdict", "score", "base_similarity")
    columns = [[one.values.to_numpy().astype(np.float32) for one in table[name]] for name in names]
    lists = [one for one in zip(*columns, strict=True) if len(one[0])]
    how = fit_scale(
        [(similarity, score) for similarity, _, score, _ in lists], config.cross_encoder.weight, config.shortlist.size
    )
    fused = [how.fuse(similarity, score) for similarity, _, score, _ in lists]
    scores, verdicts = (np.concatenate([np.zeros(0, np.float32), *some]) for some in (fused, [one[1] for one in lists]))
    fitted = fit_scores(scores, verdicts >= yes_threshold)
    target = compared_by(config.student.target)
    temperature = config.student.target_temperature
    orders = [
        _ndcgs(target_scores(verdict, base, target, scale), (similarity, new), temperature)
        for (similarity, verdict, _, base), new in zip(lists, fused, strict=True)
    ]
    return {**dataclasses.asdict(how), **fitted, "held_out": _compared(orders)}


def _ndcgs(target: np.ndarray, orders: tuple[np.ndarray, np.ndarray], temperature: float) -> tuple[float, float]:
    """nDCG@5, 0 to 1, of a document's shortlist by two scores, under the gains of ``target`` (float32 [k] each)."""
    gains = gains_of(np.nan_to_num(target, nan=-np.inf), temperature)
    first, second = (gains[np.argsort(-one, kind="stable")].tolist() for one in orders)
    return graded_ndcg(first, gains.tolist()), graded_ndcg(second, gains.tolist())


def _compared(orders: Sequence[tuple[float, float]]) -> dict[str, Any]:
    before, after = np.array(orders, np.float64).reshape(-1, 2).T
    difference, error = mean_and_error(after - before)
    return {
        "documents": len(orders),
        "similarity": mean_and_error(before)[0],
        "reranked": mean_and_error(after)[0],
        "difference": difference,
        "standard_error": error,
    }
