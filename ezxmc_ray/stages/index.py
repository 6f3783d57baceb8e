"""Stage ``index``: build the sharded FAISS index over the labels with the chosen encoder's vectors.

    ezxmc index conf.yaml

In: cycle-c/label_vectors/ of the chosen encoder c; of documents, for measuring, some texts. Out: index/shard-NNN.faiss,
one a slice of labels, and a manifest with label ranges, metric, parameters, checksums, and how many of the labels
nearest to documents the index finds. Items: slices of labels. Where labels have several texts (index/label_texts.py),
labels are texts here: ranges and ids are their rows, and what is found of the nearest is found of texts.
"""

from __future__ import annotations

import dataclasses
import math
import resource
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

from ezxmc_ray import layout
from ezxmc_ray.cluster.pools import run_with_encoder
from ezxmc_ray.cluster.session import cluster_cpus, cluster_gpus, node_cpus, run_task, run_tasks
from ezxmc_ray.config import EncoderConfig, IndexConfig
from ezxmc_ray.context import Context, StageResult
from ezxmc_ray.index.build import (
    AUTO,
    EXACT_FACTORY,
    Blocks,
    ShardInfo,
    auto_factory,
    build_from_blocks,
    check_factory,
    is_exact,
    save_shard,
)
from ezxmc_ray.index.label_vectors import find_label_vectors, label_vector_blocks
from ezxmc_ray.index.measure import Nearest, build_auto, choose_cells, merge_nearest, nearest_labels, recall_at
from ezxmc_ray.index.pairs import scores_pairs
from ezxmc_ray.index.search import ShardedIndex
from ezxmc_ray.leftovers import temporary_folder
from ezxmc_ray.progress import StageProgress, say
from ezxmc_ray.stages.shortlist import load_encoder, make_search_files
from ezxmc_ray.storage import Storage
from ezxmc_ray.tables import DOCUMENTS_SCHEMA, rows_of

if TYPE_CHECKING:
    from ezxmc_ray.encoder.encoder import Encoder

#: Documents by which an approximate index is measured, and the most shards that they are taken from. auto chooses by
#: every other one, so that the recall that is told is of documents that it was not chosen by.
QUERIES, QUERY_SHARDS = 1000, 16
#: The recall is told at these depths, and at lexical.candidates.
RECALL_AT = (10, 100)


@dataclass(frozen=True)
class Slice:
    """Labels ``first`` to ``stop``, which become shard number ``number``."""

    number: int
    first: int
    stop: int


@dataclass(frozen=True)
class Built:
    """A shard, and how it was made. ``measured``: probes, refined labels and recall of auto's; else empty.

    ``peak_gib``: the most memory that the task's process has had. ``scores_pairs``: see index/pairs.py.
    """

    info: ShardInfo
    seconds: float
    peak_gib: float
    measured: dict[str, float]
    scores_pairs: bool


def index(context: Context) -> StageResult:
    """Build the index of the chosen encoder; returns rows (labels), files and details of the manifest."""
    config, storage, labels = context.config.index, context.storage, context.prepared.label_texts
    encoder = context.manifest(layout.STUDENT).details["encoder"]
    make_search_files(context, [encoder])
    folder, slices = layout.label_vectors(encoder), slices_of(labels, config.shard_labels)
    vectors = find_label_vectors(storage, folder)
    assert vectors is not None
    unit = "texts of labels" if context.prepared.alternatives else "labels"
    with StageProgress("index", unit, labels) as progress:
        plan, nearest = make_plan(context, folder, slices, vectors.dimension)
        shards: list[Built] = []
        for built in run_tasks(build_one, [(storage, folder, one, plan) for one in slices], _cpus(len(slices))):
            shards.append(built)
            progress.advance(built.info.labels)
    shards.sort(key=lambda shard: shard.info.first_label)
    infos = [shard.info for shard in shards]
    recall: Any = run_task(recall_of, storage, infos, nearest) if nearest else "exact"
    details = {
        "factory": plan.factory,
        "metric": "inner product of unit vectors (cosine)",
        "probes": [shard.measured.get("probes", config.probes) for shard in shards],
        "refined": [shard.measured.get("refined") for shard in shards],
        "compared": list(plan.tried),
        "recall": recall,
        "shards": [dataclasses.asdict(info) for info in infos],
        "build_seconds": max(shard.seconds for shard in shards),
        "peak_gib": max(shard.peak_gib for shard in shards),
        "gpus": cluster_gpus(),
        # What belongs together: `ezxmc tag` refuses a run in which one of them is newer than this index.
        "student": context.manifest(layout.STUDENT).commit,
        "match_settings": context.match_settings,
        "label_fingerprint": context.prepared.label_fingerprint,
    }
    proposes_named = all(shard.scores_pairs for shard in shards)
    if context.config.lexical.weight and context.config.lexical.name_bonus and not proposes_named:
        say(
            f"An index of factory {plan.factory} cannot score single labels: those that a document names count among "
            "the encoder's candidates only; index.factory=auto has no such bound."
        )
    if plan.cells and nearest:
        tell_low_recall(recall[f"at_{nearest.labels.shape[1]}"], config.recall)
    return StageResult(context.prepared.labels, [f"{layout.INDEX}/{info.file}" for info in infos], details)


def check_index(config: IndexConfig, dimension: int, labels: int | None) -> None:
    """UserError for an ``index.factory`` that no index of ``labels`` (None: not known) with such vectors can have."""
    if config.factory != AUTO:
        shards = [] if labels is None else slices_of(labels, config.shard_labels)
        check_factory(config.factory, dimension, min((one.stop - one.first for one in shards), default=None))


@dataclass(frozen=True)
class Plan:
    """How every shard is built: by ``factory``, or with ``cells`` as auto does, measured by ``nearest``.

    ``tried``: of each number of cells that auto compared, what it would cost.
    """

    factory: str
    probes: int
    recall: float
    cells: int | None = None
    nearest: Nearest | None = None
    tried: tuple[dict[str, float], ...] = ()


def slices_of(labels: int, shard_labels: int) -> list[Slice]:
    """Slices of ``shard_labels`` at most, none larger than another by more than a label: none is too small to train the
    index that the others have."""
    count = math.ceil(labels / shard_labels)
    bounds = [math.ceil(number * labels / count) for number in range(count + 1)]
    return [Slice(number, first, stop) for number, (first, stop) in enumerate(pairwise(bounds))]


def make_plan(context: Context, folder: str, slices: Sequence[Slice], dimension: int) -> tuple[Plan, Nearest | None]:
    """How the shards are built, and what the recall of an index that is not exact is told by."""
    config, storage = context.config.index, context.storage
    if config.factory == AUTO and is_exact(config, context.prepared.label_texts, cluster_gpus()):
        return Plan(EXACT_FACTORY, config.probes, config.recall), None
    if config.factory != AUTO:
        check_factory(config.factory, dimension)
        return Plan(config.factory, config.probes, config.recall), nearest_to_documents(context, folder, slices)
    chosen_by, told_by = nearest_to_documents(context, folder, slices).halves()
    found = run_task(choose_cells_in, storage, folder, slices[0], chosen_by, config.recall, cpus=_cpus(1))
    cells, tried = found
    return Plan(auto_factory(cells, dimension), 0, config.recall, cells, chosen_by, tuple(tried)), told_by


def choose_cells_in(
    storage: Storage, folder: str, labels: Slice, nearest: Nearest, recall: float
) -> tuple[int, list[dict[str, float]]]:
    """Task: as :func:`choose_cells`, of one slice, which stands for all."""
    blocks = partial(label_vector_blocks, storage, folder, labels.first, labels.stop)
    return choose_cells(blocks, labels.first, labels.stop - labels.first, nearest, recall)


def nearest_to_documents(context: Context, folder: str, slices: Sequence[Slice]) -> Nearest:
    """The labels exactly nearest to some documents, by the vectors in ``folder``."""
    config, storage = context.config, context.storage
    queries = run_with_encoder(embed_queries, storage, config.encoder, context.shards)
    k = min(max(1, config.lexical.candidates), context.prepared.label_texts)
    arguments = [(storage, folder, one, queries, k) for one in slices]
    return Nearest(queries, merge_nearest(list(run_tasks(nearest_in, arguments, _cpus(len(slices)))), k))


def embed_queries(storage: Storage, config: EncoderConfig, shards: int) -> np.ndarray:
    """As :func:`embed_documents`, by the chosen encoder; in an actor with the libraries."""
    return embed_documents(storage, load_encoder(storage, config, layout.STUDENT), shards)


def embed_documents(storage: Storage, encoder: Encoder, shards: int) -> np.ndarray:
    """Vectors of up to QUERIES documents of the run: float32 [q, d]."""
    taken = np.unique(np.linspace(0, shards - 1, QUERY_SHARDS).round().astype(int))
    titles: list[str] = []
    texts: list[str] = []
    for place, shard in enumerate(taken):
        documents = storage.read_shard(layout.DOCUMENTS, int(shard), DOCUMENTS_SCHEMA, ["title", "text"])
        wanted = (QUERIES - len(texts)) // (len(taken) - place)
        rows = np.random.default_rng(int(shard)).permutation(len(documents))[:wanted]
        taken_documents = rows_of(documents, rows)
        titles += taken_documents["title"].to_pylist()
        texts += taken_documents["text"].to_pylist()
    return encoder.encode_documents(titles, texts).vectors.astype(np.float32)


def nearest_in(storage: Storage, folder: str, labels: Slice, queries: np.ndarray, k: int) -> Any:
    """Task: the labels of one slice that are exactly nearest to ``queries``."""
    blocks = label_vector_blocks(storage, folder, labels.first, labels.stop)
    return nearest_labels(blocks, labels.first, queries, min(k, labels.stop - labels.first))


def build_one(storage: Storage, folder: str, labels: Slice, plan: Plan) -> Built:
    """Task: build and commit one shard. Of the label vectors only its own are read, a block at a time."""
    began = time.monotonic()
    blocks = partial(label_vector_blocks, storage, folder, labels.first, labels.stop)
    info, measured, scores = commit_shard(storage, blocks, labels, plan)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1 << 20)
    return Built(info, time.monotonic() - began, peak, measured, scores)


def commit_shard(
    storage: Storage, blocks: Blocks, labels: Slice, plan: Plan
) -> tuple[ShardInfo, dict[str, float], bool]:
    """Build one shard of the vectors that ``blocks`` gives, and commit it: what it is, what auto measured of it, and
    whether it can score single labels."""
    count, measured = labels.stop - labels.first, {}
    if plan.cells is not None:
        assert plan.nearest is not None
        built, probes, refined, found = build_auto(blocks, count, labels.first, plan.cells, plan.nearest, plan.recall)
        measured = {"probes": probes, "refined": refined, "recall": found}
    else:
        built = build_from_blocks(blocks, count, labels.first, plan.factory, plan.probes)
    name = layout.index_shard(labels.number)
    with temporary_folder() as scratch:
        info = save_shard(built, scratch / name, labels.first)
        storage.upload(scratch / name, f"{layout.INDEX}/{name}")
    return info, measured, scores_pairs(built)


def recall_of(storage: Storage, shards: list[ShardInfo], nearest: Nearest) -> dict[str, Any]:
    """Task: the share of the labels exactly nearest to documents that the whole index finds, at several depths."""
    k = nearest.labels.shape[1]
    found = ShardedIndex.load(storage, layout.INDEX, shards).search(nearest.queries, k)[1]
    depths = sorted({depth for depth in (*RECALL_AT, k) if depth <= k})
    return {f"at_{d}": recall_at(found, nearest.labels, d) for d in depths} | {"queries": len(nearest.queries)}


def _cpus(tasks: int) -> float:
    """CPUs of each of so many tasks, so that they have all there are; none has more than a node."""
    return max(1, min(node_cpus(), cluster_cpus() // tasks))


def tell_low_recall(found: float, wanted: float) -> None:
    """Say so if the index finds less than auto was to reach."""
    if found < wanted:
        say(
            f"The index finds {found:.3f} of the labels nearest to documents, less than index.recall={wanted}: these "
            f"labels do not group well; set index.factory={EXACT_FACTORY} for exact search, or another factory."
        )
