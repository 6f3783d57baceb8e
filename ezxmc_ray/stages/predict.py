"""Stage ``predict``: tag every document with the chosen encoder and the index, without the LLM.

    ezxmc predict conf.yaml

In: documents/, student/, index/. Out: predictions/, one Parquet file a document shard. Items: document shards; actors:
an encoder with the whole index.
"""

from __future__ import annotations

from functools import partial

from ezxmc_ray import layout
from ezxmc_ray.cluster.board import report_done, report_phase, watched
from ezxmc_ray.cluster.pools import HELD, Done, Times, WorkItem, encoder_pool, map_files
from ezxmc_ray.cluster.session import cluster_gpus
from ezxmc_ray.context import Context, StageResult
from ezxmc_ray.index.build import AUTO, EXACT_FACTORY
from ezxmc_ray.progress import StageProgress, say
from ezxmc_ray.stages.shortlist import make_search_files
from ezxmc_ray.storage import Storage
from ezxmc_ray.tables import DOCUMENTS_SCHEMA, lengths
from ezxmc_ray.tagging.opening import settings_of
from ezxmc_ray.tagging.settings import TagSettings
from ezxmc_ray.tagging.tagger import Tagger

#: Those of exact indexes, of older versions and given ones too.
EXACT_FACTORIES = (EXACT_FACTORY, "IDMap2,Flat", "Flat")


def predict(context: Context) -> StageResult:
    """Tag all documents; returns rows, files and details of the manifest."""
    config = context.config
    make_search_files(context, [])
    settings = settings_of(context)
    items: list[WorkItem] = [
        {"shard": shard, "file": layout.shard_file(layout.PREDICTIONS, shard)} for shard in range(context.shards)
    ]
    total = dict.fromkeys(("documents", "labels", "empty", "truncated", "searched_by_gpu"), 0)
    times, by_cpus = Times(), 0
    with watched(StageProgress("predict", "documents", context.prepared.documents)) as progress:
        arguments, pool = (context.storage, settings), encoder_pool(config.index.gpus_per_actor)
        for done in map_files(context.storage, items, PredictWorker, arguments, pool, times):
            total = {key: value + done.get(key, 0) for key, value in total.items()}
            progress.advance(done["documents"], HELD in done)
            if HELD not in done:  # what was there already may have been made elsewhere
                by_cpus += done["documents"] - done["searched_by_gpu"]
    if cluster_gpus() and config.index.gpu and by_cpus:
        say(why_cpus_search(context.manifest(layout.INDEX).details["factory"], config.index.factory))
    details = {
        "top_k": config.predict.top_k,
        "min_score": settings.min_score,
        "min_score_is": "fitted" if config.predict.min_score is None else "given",
        "labels_per_document": total["labels"] / max(1, total["documents"]),
        "documents_without_labels": total["empty"],
        "truncated_documents": total["truncated"],
        "searched_by_gpu": total["searched_by_gpu"],
        **({"rerank": config.predict.rerank} if settings.reranking else {}),
        **vars(times),
    }
    return StageResult(total["documents"], [item["file"] for item in items], details)


def why_cpus_search(factory: str, asked: str) -> str:
    """Why CPUs search an index of ``factory`` though there are GPUs, and what to do; ``asked``: index.factory."""
    if factory in EXACT_FACTORIES:
        return "CPUs search the labels: PyTorch sees no GPU in Ray's processes; see if it is built for CUDA."
    remedy = "auto makes an exact one where there are GPUs, which they search."
    if asked == AUTO:  # with GPUs it would have made that
        remedy = f"auto made it without GPUs; index.factory={EXACT_FACTORY} makes an exact one, which they search."
    what = f"The index ({factory}) has no form for GPUs, or FAISS is not built for them: CPUs search it."
    return f"{what} index.factory={remedy}"


class PredictWorker:
    """Actor: tags document shards."""

    def __init__(self, storage: Storage, settings: TagSettings) -> None:
        self.storage = storage
        report_phase("loading the student and the index")
        self.tagger = Tagger(storage, settings)

    def __call__(self, item: WorkItem) -> Done:
        """Do one item; returns its counts."""
        shard = int(item["shard"])
        documents = self.storage.read_shard(layout.DOCUMENTS, shard, DOCUMENTS_SCHEMA)
        columns = [documents[name].to_pylist() for name in ("id", "title", "text", "excluded")]
        self._tell(item["file"])
        table, truncated = self.tagger.tag_columns(*columns)
        labels = lengths(table["label_ids"])
        counts = {
            "documents": len(table),
            "labels": int(labels.sum()),
            "empty": int((labels == 0).sum()),
            "truncated": truncated,
            "searched_by_gpu": len(table) * self.tagger.searcher.is_on_gpus,
        }
        self.storage.write_table(item["file"], table, counts)
        return counts

    def _tell(self, file: str) -> None:
        """Have the documents of ``file`` counted where they take longest."""
        reranker, first = self.tagger.reranker, self.tagger.settings.predict.rerank
        if reranker is None:
            self.tagger.encoder.on_part = partial(report_done, file)
        else:
            reranker.network.count_documents(partial(report_done, file), reranker.depth(first))
