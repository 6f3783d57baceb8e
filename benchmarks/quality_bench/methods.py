"""The methods that benchmarks/quality.py compares, each in a process of its own:

    python -m quality_bench.methods JOB OUTPUT

Comes in: a job (student_bench.task.Job), whose base holds the documents and beside whose base lies the verdict store.
Goes out: the ranking of the test documents in the job's run directory (task.RANKING), and OUTPUT, a JSON object with
what the method cost, or ``error``.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from common.run_files import label_texts
from ezxmc_ray import curriculum, layout
from ezxmc_ray.config import from_dict
from ezxmc_ray.context import Context
from ezxmc_ray.encoder.document_text import document_text
from ezxmc_ray.index.label_texts import all_texts
from ezxmc_ray.stages.select import score_encoders
from ezxmc_ray.storage import Storage
from ezxmc_ray.tagging.cross_encoder import CrossSettings, load_reranker
from quality_bench.lexical import bm25, tfidf
from quality_bench.pairs import learn_pairs
from quality_bench.task import (
    VERDICTS,
    documents_of,
    encoder_ranking,
    judged_shortlists,
    paid,
    pairs_by_cycle,
    prepare,
    reranked,
    share_verdicts,
    write_ranking,
)
from quality_bench.topics import propose_by_topics
from student_bench.methods import DEPTH, do_job, ranking, search
from student_bench.task import Job, ranked_documents

Figures = dict[str, Any]


def start_encoder(job: Job) -> Figures:
    """The base encoder ranks, together with the words where the job's lexical.weight is not 0."""
    _write(job, ranking(job, from_dict(job.config).encoder.model))
    return {}


def lexical_bm25(job: Job) -> Figures:
    """BM25 ranks."""
    _write(job, bm25(label_texts(Storage(job.base)), _texts(job, "test"), DEPTH))
    return {}


def lexical_tfidf(job: Job) -> Figures:
    """TF-IDF ranks; its document frequencies are those of the labels and the train documents."""
    labels = label_texts(Storage(job.base))
    _write(job, tfidf(labels, [*labels, *_texts(job, "train")], _texts(job, "test"), DEPTH))
    return {}


def pairs(job: Job) -> Figures:
    """An encoder that learned from the documents alone ranks."""
    folder = from_dict(job.config).run + "/student"
    figures = learn_pairs(job, folder)
    _write(job, ranking(job, folder))
    return figures


def cycles(job: Job) -> Figures:
    """The whole curriculum; the encoder that it chooses ranks. ``encoders``: what each of its encoders needed."""
    config = from_dict(job.config)
    _share(job)
    curriculum.run(config)
    context = Context(config, Storage(config.run))
    count = context.cycles
    selection = context.manifest("student").details
    write_ranking(config.run, *encoder_ranking(context, selection["encoder"]))
    trained = [context.manifest(f"cycle-{cycle}/student").details["training_seconds"] for cycle in range(count)]
    spent = zip([0, *pairs_by_cycle(context, count)], [0.0, *np.cumsum(trained).tolist()], strict=True)
    encoders = [
        {
            "encoder": score["encoder"],
            "pairs": needed,
            "train_seconds": seconds,
            "teacher_ndcg": score["score"],
            "lead": lead_of(context, number) if number else None,
        }
        for number, (score, (needed, seconds)) in enumerate(zip(selection["scores"], spent, strict=True))
    ]
    chosen = {"chosen": selection["chosen"], "encoders": encoders, "train_seconds": sum(trained)}
    return paid(context, count + 1) | chosen


def reranked_cycles(job: Job) -> Figures:
    """The curriculum with a cross-encoder, up to its training; it ranks the chosen encoder's first labels anew.

    ``pairs_per_s``: as it ranked the test documents. ``held_out``: its order by the teacher (stages/cross_encoder.py).
    """
    config = from_dict(job.config)
    _share(job)
    cycle = ("shortlist", "judge", "train")
    for stage in ("prepare", *cycle * config.curriculum.cycles, *cycle[:2], "select", "cross_encoder"):
        curriculum.run_stage(config, stage)
    context = Context(config, Storage(config.run))
    selected, trained = (context.manifest(folder).details for folder in (layout.STUDENT, layout.CROSS_ENCODER))
    encoder = f"{config.run}/{layout.STUDENT}" if selected["encoder"] else config.encoder.model
    similarity, labels = search(job, encoder)
    how = CrossSettings.of(trained)
    reranker = load_reranker(context.storage, config.encoder, how, all_texts(context.storage).combine_chunks())
    titles, bodies, _ = ranked_documents(job.base)
    began, first = time.perf_counter(), config.predict.rerank
    found = reranker.rerank(titles, bodies, similarity, labels, first).labels
    seconds = time.perf_counter() - began
    _write(job, found)
    count = context.cycles
    told = {name: trained[name] for name in ("held_out", "per_score", "steps")}
    return {
        **paid(context, count + 1),
        **told,
        "chosen": selected["chosen"],
        "train_seconds": trained["training_seconds"],
        "pairs_per_s": len(titles) * min(first, labels.shape[1]) / seconds,
    }


def lead_of(context: Context, encoder: int) -> Figures:
    """How far an encoder leads the best one before it, by the teacher on the held-out documents (stages/select.py)."""
    scales = [context.judged(number).own_scale for number in range(encoder + 1)]
    lead: Figures = score_encoders(context.storage, context.config, context.shards, scales)["lead"]
    return lead


def llm_rerank(job: Job) -> Figures:
    """The teacher judges the base encoder's shortlists of the test documents; they are ranked by its verdicts."""
    return _judge_test_documents(job, "verdict")


def llm_fusion(job: Job) -> Figures:
    """As llm_rerank, but ranked by what a student learns: the verdict and the similarity. How good is the target?"""
    return _judge_test_documents(job, "fusion")


def icxml(job: Job) -> Figures:
    """As llm_rerank, of the labels nearest to topics that the teacher writes of each document (topics.py)."""
    return _judge_test_documents(job, "verdict", propose_by_topics)


def _judge_test_documents(job: Job, target: str, propose: Callable[[Context], Figures] = lambda context: {}) -> Figures:
    """In a run of their own, in which they are the train documents, and which ends after cycle 0's judge stage.

    ``propose`` may put other labels into the shortlists.
    """
    config = from_dict(job.config)
    _share(job)
    test = documents_of(job.base, "test")
    prepare(config, [{name: row[name] for name in ("id", "title", "text")} | {"split": "train"} for row in test])
    curriculum.run_stage(config, "shortlist")
    context = Context(config, Storage(config.run))
    proposed = propose(context)
    curriculum.run_stage(config, "judge")
    judged = judged_shortlists(context, target)
    start = ranking(job, config.encoder.model)
    ranked = [reranked(row, *judged[document["id"]]) for row, document in zip(start, test, strict=True)]
    _write(job, np.stack(ranked))
    return paid(context, 1) | proposed


def _share(job: Job) -> None:
    share_verdicts(from_dict(job.config).run, str(Path(job.base).parent / VERDICTS))


def _write(job: Job, found: np.ndarray) -> None:
    """Write the ranking ``found`` (int32 [n, depth]) of the base's test documents."""
    write_ranking(from_dict(job.config).run, [row["id"] for row in documents_of(job.base, "test")], found)


def _texts(job: Job, split: str) -> list[str]:
    return [document_text(row["title"] or "", row["text"]) for row in documents_of(job.base, split)]


METHODS: dict[str, Callable[[Job], Figures]] = {
    "untrained": start_encoder,
    "bm25": lexical_bm25,
    "tfidf": lexical_tfidf,
    "words": start_encoder,
    "larger_words": start_encoder,
    "title": pairs,
    "segments": pairs,
    "lmtx": cycles,
    "lmtx_words": start_encoder,
    "icxml": icxml,
    "llm_rerank": llm_rerank,
    "llm_fusion": llm_fusion,
    "ezxmc_once": cycles,
    "ezxmc": cycles,
    "ezxmc_reranked": reranked_cycles,
}


if __name__ == "__main__":
    do_job(METHODS)
