"""Stage ``select``: choose the encoder to ship, by the teacher's judgement of the held-out documents, never by gold.

    ezxmc select conf.yaml

In: the examples of every cycle (held-out documents; each encoder's own shortlist, all judged) and the encoders. Out:
student/, a copy of the chosen encoder: the start encoder if no cycle was better. Inside the curriculum the same
comparison says whether the newest encoder is worth another cycle (cycles.py has the rule): cycle-c/selection/.

How: for each held-out document, the labels that any encoder shortlisted form a pool. A label's gain is the share that
the target gives it in the pool: softmax(target / target_temperature); the target is the verdict alone for
student.target=verdict, else its fusion with the start encoder's similarity. An encoder's score is the mean nDCG@5 of
its own order under those gains. The same pool and the same gains for every encoder; only the order differs.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from ezxmc_ray.config import Config
from ezxmc_ray.cycles import stops
from ezxmc_ray.index.words import LabelWords
from ezxmc_ray.progress import StageProgress, say
from ezxmc_ray.stages.cluster import run_task
from ezxmc_ray.stages.context import DOCUMENTS, Context, encoder_name, shard_path
from ezxmc_ray.stages.shortlist import label_texts, load_encoder, read_label_vectors
from ezxmc_ray.storage import Storage, copy_into
from ezxmc_ray.student.targets import TargetScale, target_scores
from ezxmc_ray.student.validation import SCORED_AT, gains_of, graded_ndcg
from ezxmc_ray.tables import DOCUMENTS as DOCUMENTS_SCHEMA
from ezxmc_ray.tables import EXAMPLES
from ezxmc_ray.teacher.calibration import fit_min_score

FOLDER = "student"
#: What a judge manifest counts of the engines' work, and what adds up where a cycle is judged in two parts.
ADDED_UP = (
    "pairs_asked",
    "prior_pairs_asked",
    "prompt_tokens",
    "computed_tokens",
    "truncated_documents",
    "truncated_labels",
    "engine_start_seconds",
    "engine_seconds",
    "worker_seconds",
    "map_seconds",
)


def select(context: Context) -> tuple[int, list[str], dict[str, Any]]:
    """Choose and copy the student; returns rows (held-out documents), files and details of the manifest."""
    config, storage = context.config, context.storage
    encoders = context.cycles + 1
    judged = [context.manifest(f"cycle-{number}/examples") for number in range(encoders)]
    outcome = _compare(context, encoders, "select")
    scores = outcome["scores"]
    # Nothing to select by: the last student is shipped, and the manifest says that nothing was compared.
    chosen = int(np.argmax([one["score"] for one in scores])) if outcome["documents"] else encoders - 1
    run_task(ship, storage, config, context.encoder_folder(chosen))
    threshold = run_task(fit_threshold, storage, chosen, context.shards, judged[chosen].details["yes_threshold"])
    details = {
        "encoder": chosen,
        "chosen": encoder_name(chosen),
        "chosen_cycle": chosen - 1 if chosen else None,
        "compared_by": f"nDCG@{SCORED_AT} under the teacher's judgement of the held-out documents",
        "scores": scores,
        "documents": outcome["documents"],
        "min_score": threshold,
        "pairs": {
            "budget": config.curriculum.pair_budget or None,
            "judged": sum(one.rows for one in judged),
            "asked": sum(one.details["pairs_asked"] for one in judged),
        },
    }
    files = [name for name in storage.list(FOLDER, recursive=True) if name != f"{FOLDER}/manifest.json"]
    return outcome["documents"], files, details


def compare_newest(context: Context, cycle: int) -> tuple[int, list[str], dict[str, Any]]:
    """Compare the encoders 0 to ``cycle``, before the cycle's train documents are judged; as :func:`select` returns.

    ``asked``: what the engines did in the cycle so far; :func:`with_asked` adds it to what they do afterwards.
    """
    judged = context.manifest(f"cycle-{cycle}/examples").details
    outcome = _compare(context, cycle + 1, f"cycle {cycle} select")
    lead = outcome["lead"]
    if stops(lead, context.config.curriculum.least_lead):
        say(
            f"The cycles end: {encoder_name(cycle)} leads {lead['over']} by {lead['difference']:.2f} points (standard "
            f"error {lead['standard_error']:.2f}) by the teacher's judgement, see curriculum.least_lead."
        )
    asked = {name: judged[name] for name in ADDED_UP}
    return outcome["documents"], [], {**outcome, "encoder": encoder_name(cycle), "asked": asked}


def with_asked(details: dict[str, Any], asked: dict[str, Any]) -> dict[str, Any]:
    """``details`` of a judge manifest with what was ``asked`` in the same cycle for its selection added up."""
    added = {name: details[name] + asked[name] for name in ADDED_UP}
    pairs = added["pairs_asked"] + added["prior_pairs_asked"]
    return {
        **details,
        **added,
        "pairs_held": max(0, details["pairs_held"] - asked["pairs_asked"]),
        "engine_pairs_per_s": pairs / added["engine_seconds"] if added["engine_seconds"] else None,
    }


def _compare(context: Context, encoders: int, name: str) -> dict[str, Any]:
    scale = TargetScale(**context.manifest("cycle-0/examples").details["scale"])
    with StageProgress(name, "documents", int(context.documents.details["held_out"])) as progress:
        outcome: dict[str, Any] = run_task(
            score_encoders, context.storage, context.config, context.shards, encoders, scale
        )
        progress.advance(outcome["documents"])
    return outcome


def ship(storage: Storage, config: Config, folder: str | None) -> None:
    """Task: make student/ a SentenceTransformer directory of the chosen encoder."""
    encoder = load_encoder(storage, config.encoder, folder)
    with tempfile.TemporaryDirectory(prefix="ezxmc-") as scratch:
        encoder.save(scratch)
        copy_into(storage, Path(scratch), FOLDER)


def score_encoders(storage: Storage, config: Config, shards: int, encoders: int, scale: TargetScale) -> dict[str, Any]:
    """Task: the mean nDCG@5 of every encoder over the held-out documents, standard errors, and paired differences.

    ``scale``: that of cycle 0's verdicts. ``lead``: of the last encoder over the best one before it.
    """
    kind = "verdict" if config.student.target == "verdict" else "fusion"
    similarity = _StartSimilarity(storage, config)
    values: list[list[float]] = []
    for shard in range(shards):
        for row, lists in _held_out_lists(storage, encoders, shard):
            pool = sorted({int(label) for labels, _ in lists for label in labels})
            if not pool:
                continue
            verdicts = {
                int(label): float(v) for labels, scores in lists for label, v in zip(labels, scores, strict=True)
            }
            target = target_scores(
                np.array([verdicts[label] for label in pool], np.float32), similarity.of(shard, row, pool), kind, scale
            )
            gain = dict(zip(pool, gains_of(target, config.student.target_temperature), strict=True))
            all_gains = list(gain.values())
            values.append([graded_ndcg([gain[int(label)] for label in labels], all_gains) for labels, _ in lists])
    return summarise(np.array(values, dtype=np.float64).reshape(-1, encoders))


def summarise(table: np.ndarray) -> dict[str, Any]:
    """Scores of the encoders, and the last one's lead, in percent; ``table``: nDCG@5, float64 [documents, encoders]."""
    newest = table.shape[1] - 1
    best = int(np.argmax(table[:, :newest].mean(axis=0))) if newest and len(table) else 0
    difference, error = _mean(table[:, newest] - table[:, best])
    lead = {"over": encoder_name(best), "difference": difference, "standard_error": error, "documents": len(table)}
    return {
        "documents": len(table),
        "scores": [_summary(table, number) for number in range(newest + 1)],
        "lead": lead,
    }


def _mean(values: np.ndarray) -> tuple[float, float]:
    """Mean of ``values`` (float64 [documents], shares) and its standard error, in percent; of none: zeros."""
    if not len(values):
        return 0.0, 0.0
    return 100 * float(values.mean()), 100 * float(values.std() / np.sqrt(max(1, len(values) - 1)))


def _summary(table: np.ndarray, encoder: int) -> dict[str, Any]:
    """Mean score of one encoder in percent, standard error, and the paired difference to the start encoder."""
    if not len(table):
        return {"encoder": encoder_name(encoder), "score": 0.0, "documents": 0}
    score, error = _mean(table[:, encoder])
    difference, difference_error = _mean(table[:, encoder] - table[:, 0])
    return {
        "encoder": encoder_name(encoder),
        "score": score,
        "standard_error": error,
        "difference": difference,
        "difference_standard_error": difference_error,
        "documents": len(table),
    }


def _held_out_lists(
    storage: Storage, encoders: int, shard: int
) -> Iterator[tuple[int, list[tuple[np.ndarray, np.ndarray]]]]:
    """For each held-out document that every encoder has a shortlist of: its row, and (labels, verdicts) by encoder."""
    found: list[dict[int, tuple[np.ndarray, np.ndarray]]] = []
    for encoder in range(encoders):
        table = storage.read_table(shard_path(f"cycle-{encoder}/examples", shard), EXAMPLES)
        table = table.filter(table["held_out"])
        rows = zip(table["row"].to_pylist(), table["labels"], table["verdict"], strict=True)
        found.append({row: (labels.values.to_numpy(), verdicts.values.to_numpy()) for row, labels, verdicts in rows})
    for row in sorted(found[0]):
        if all(row in one for one in found):
            yield row, [one[row] for one in found]


class _StartSimilarity:
    """The start encoder's similarity between held-out documents and any labels: part of the training target."""

    def __init__(self, storage: Storage, config: Config) -> None:
        self.storage = storage
        self.encoder = load_encoder(storage, config.encoder, None)
        self.labels = read_label_vectors(storage, "cycle-0/label_vectors")
        self.weight = config.words.weight
        self.words = LabelWords(label_texts(storage)) if self.weight else None
        self._shard, self._documents = -1, {0: ("", "", np.zeros(0, np.float32))}

    def of(self, shard: int, row: int, labels: list[int]) -> np.ndarray:
        """Similarity (index/match.py) of the document in ``row`` and ``labels``: float32 [len(labels)]."""
        if shard != self._shard:
            documents = self.storage.read_table(shard_path(DOCUMENTS, shard), DOCUMENTS_SCHEMA)
            rows = np.flatnonzero(documents["held_out"].to_numpy())
            held_out = documents.take(rows)
            titles, texts = held_out["title"].to_pylist(), held_out["text"].to_pylist()
            vectors = self.encoder.encode_documents(titles, texts).vectors.astype(np.float32)
            self._shard = shard
            self._documents = dict(zip(rows.tolist(), zip(titles, texts, vectors, strict=True), strict=True))
        title, text, vector = self._documents[row]
        cosine = self.labels[labels].astype(np.float32) @ vector
        if self.words is None:
            return cosine
        return cosine + np.float32(self.weight) * self.words.shares([title], [text], np.array([labels]))[0]


def fit_threshold(storage: Storage, chosen: int, shards: int, yes_threshold: float) -> float:
    """Task: the similarity above which the chosen encoder's labels are most like the teacher's yes (F1, held-out)."""
    similarity: list[np.ndarray] = []
    verdicts: list[np.ndarray] = []
    for shard in range(shards):
        table = storage.read_table(shard_path(f"cycle-{chosen}/examples", shard), EXAMPLES)
        table = table.filter(table["held_out"])
        similarity.append(np.asarray(table["similarity"].combine_chunks().flatten()))
        verdicts.append(np.asarray(table["verdict"].combine_chunks().flatten()))
    scores = np.concatenate(similarity) if similarity else np.zeros(0, np.float32)
    if not len(scores):
        return -1.0
    return float(fit_min_score(scores, np.concatenate(verdicts) >= yes_threshold))
