"""Stage ``shortlist``: embed the labels, embed the documents, and find each document's nearest labels.

    ezxmc shortlist conf.yaml

In: documents/, labels.parquet and an encoder (later cycles: the base encoder too, and its label vectors). Out:
cycle-c/label_vectors/ (one file, joined from a Parquet file a slice of the labels), lexical/ (the labels' words) and
cycle-c/shortlist/ (one file a document shard). Items: slices of labels, then document shards; actors: encoders.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ezxmc_ray import layout
from ezxmc_ray.cluster.board import report_done, report_phase, watched
from ezxmc_ray.cluster.pools import HELD, Done, Times, WorkItem, encoder_pool, look_with_encoder, map_files
from ezxmc_ray.cluster.session import run_task, run_tasks
from ezxmc_ray.config import Config, EncoderConfig, LexicalConfig
from ezxmc_ray.context import Context, StageResult, shard_groups
from ezxmc_ray.cycles import documents_per_cycle, held_out_judged
from ezxmc_ray.errors import UserError
from ezxmc_ray.estimate import encodings
from ezxmc_ray.index.gpu import gpu_dtype
from ezxmc_ray.index.hybrid import HybridSearcher, PairScorer
from ezxmc_ray.index.label_texts import all_texts, read_label_texts
from ezxmc_ray.index.label_vectors import LabelVectors, find_label_vectors, join_label_vectors, map_label_vectors
from ezxmc_ray.index.language import AUTO
from ezxmc_ray.index.lexical import LexicalTable
from ezxmc_ray.index.lexical_files import (
    LexicalSource,
    has_lexical_files,
    lexical_files,
    open_lexical_table,
    write_lexical_files,
)
from ezxmc_ray.index.search import ShardedIndex
from ezxmc_ray.integrity import checked
from ezxmc_ray.progress import StageProgress, say
from ezxmc_ray.storage import Storage
from ezxmc_ray.tables import DOCUMENTS_SCHEMA, SHORTLIST_SCHEMA, label_vectors_schema, rows_of

if TYPE_CHECKING:
    from ezxmc_ray.encoder.encoder import Encoder

#: Texts of labels embedded as one work item.
LABEL_SLICE = 16384
#: How finely the share of documents that a cycle takes is set.
DRAW_BINS = 1 << 16
#: How often a bin is divided: twice by the texts' draws, and once by the ids of copies.
DRAW_DEPTH = 3
#: What is drawn once for all cycles: the held-out documents that encoders are compared by.
HELD_OUT_DRAW = "held out"


def shortlist(context: Context, cycle: int, held_out_only: bool) -> StageResult:
    """Make the shortlists of ``cycle`` (encoder number ``cycle``); returns rows, files and details of the manifest.

    ``held_out_only``: of the held-out documents only, which serve the comparison of encoders.
    """
    config, storage = context.config, context.storage
    folder = layout.shortlist(cycle)
    times = Times()
    vectors = embed_labels(context, cycle, times)
    make_search_files(context, range(cycle + 1))
    share = 0.0 if held_out_only else train_share(context, cycle)
    items: list[WorkItem] = [
        {"shard": shard, "file": layout.shard_file(folder, shard)} for shard in range(context.shards)
    ]
    settings = ShortlistSettings(config, context.encoder_folder(cycle), cycle, share, held_out_share(context))
    documents = truncated = unreadable = 0
    known, pool = context.prepared, encoder_pool(config.index.gpus_per_actor)
    total = held_out_judged(config, known.held_out) + round(share * known.learnable)
    with watched(StageProgress(f"cycle {cycle} shortlist", "documents", total)) as progress:
        for done in map_files(storage, items, ShortlistWorker, (storage, settings), pool, times):
            documents, truncated = documents + done["documents"], truncated + done["truncated"]
            unreadable += done.get("unreadable", 0)
            progress.advance(done["documents"], HELD in done)
    tell_unreadable(config.encoder.model, "documents", unreadable, documents)
    words = lexical_files(storage) if config.lexical.weight and not cycle else []
    files = vectors.files + words + [item["file"] for item in items]
    details = {
        "labels": known.labels,
        "label_texts": known.label_texts,
        "documents": documents,
        "size": config.shortlist.size,
        "truncated_documents": truncated,
        "truncated_labels": vectors.counts["truncated"],
        "unreadable_documents": unreadable,
        "unreadable_labels": vectors.counts.get("unreadable", 0),
        "encodings": encodings(cycle),
        **vars(times),
    }
    return StageResult(documents, files, details)


def check_encoder(config: EncoderConfig) -> int:
    """Load the encoder on a CPU of the cluster, before anything is made; the length of its vectors.

    Errors: UserError as encoder.loading.load_module, for a model or a setting of it that cannot be.
    """
    with watched(StageProgress("Encoder", phase="looking at it")):
        return int(look_with_encoder(_dimension, config))


def _dimension(config: EncoderConfig) -> int:
    from ezxmc_ray.encoder.encoder import Encoder

    return Encoder.load(config.model, config, "cpu").dimension


def embed_labels(context: Context, encoder: int, times: Times) -> LabelVectors:
    """Write cycle-<encoder>/label_vectors/. Errors: UserError where the encoder knows less than half of the labels."""
    storage, texts = context.storage, context.prepared.label_texts
    folder, unit = layout.label_vectors(encoder), "texts of labels" if context.prepared.alternatives else "labels"
    with watched(StageProgress(f"cycle {encoder} label vectors", unit, texts)) as progress:
        vectors = find_label_vectors(storage, folder)
        if vectors is None:
            _embed_slices(context, encoder, times, progress)
            vectors = run_task(join_label_vectors, storage, folder)
        else:
            progress.advance(texts, held=True)
    for slice_file in storage.list(folder, ".parquet"):
        storage.remove(slice_file)
    config = context.config.encoder
    if encoder == 0 and vectors.counts["unused_prompts"] and not (config.document_prompt or config.label_prompt):
        say(
            f"{config.model} comes with prompts of its own (in its config_sentence_transformers.json), which are put "
            "before no text: if it was trained with them, set encoder.document_prompt and encoder.label_prompt."
        )
    tell_unreadable(config.model, unit, vectors.counts.get("unreadable", 0), texts)
    return vectors


def tell_unreadable(model: str, what: str, unreadable: int, of: int) -> None:
    """Say how many ``what`` hold nothing that the encoder's tokenizer knows. Errors: UserError for more than half."""
    if not unreadable:
        return
    told = (
        f"{unreadable:,} of {of:,} {what} hold nothing but signs that the encoder {model} does not know, and have "
        "one and the same vector"
    )
    if 2 * unreadable > of:
        raise UserError(f"{told}: take an encoder.model of their language, such as a multilingual one.")
    say(f"{told}; an encoder.model that knows them would tell them apart.")


def _embed_slices(context: Context, encoder: int, times: Times, progress: StageProgress) -> None:
    """Write the slices of cycle-<encoder>/label_vectors/ that are not there yet."""
    texts, folder = context.prepared.label_texts, layout.label_vectors(encoder)
    items: list[WorkItem] = [
        {"first": first, "stop": min(texts, first + LABEL_SLICE), "file": layout.label_vector_slice(folder, number)}
        for number, first in enumerate(range(0, texts, LABEL_SLICE))
    ]
    arguments = (context.storage, context.config.encoder, context.encoder_folder(encoder))
    for done in map_files(context.storage, items, LabelWorker, arguments, encoder_pool(), times):
        progress.advance(done["labels"], HELD in done)


def make_search_files(context: Context, encoders: Iterable[int]) -> None:
    """Make what searching by ``encoders`` maps, where it is not there: the labels' words, and joined label vectors.

    The latter is the case in a run of an older version, whose label vectors lie in slices.
    """
    storage, known, lexical = context.storage, context.prepared, context.config.lexical
    source = LexicalSource(known.label_fingerprint, lexical.language, known.document_fingerprint)
    if lexical.weight and not has_lexical_files(storage, source):
        language = run_task(write_lexical_files, storage, source)
        if lexical.language == AUTO:
            say(f"Labels' names are compared by word stems of this language: {language} (lexical.language sets it).")
    for encoder in encoders:
        if find_label_vectors(storage, layout.label_vectors(encoder)) is None:
            run_task(join_label_vectors, storage, layout.label_vectors(encoder))


def train_share(context: Context, cycle: int) -> float:
    """The draw below which the train documents (held-out ones apart) lie that ``cycle`` takes."""
    known = context.prepared
    wanted = documents_per_cycle(context.config, *known.counts, cycle)
    if wanted >= known.learnable:
        return 1.0
    return _edge(context, str(cycle), False, wanted)


def held_out_share(context: Context) -> float:
    """The draw below which the held-out documents lie that are shortlisted in every cycle."""
    held_out = context.prepared.held_out
    wanted = held_out_judged(context.config, held_out)
    return 1.0 if wanted >= held_out else _edge(context, HELD_OUT_DRAW, True, wanted)


def _edge(context: Context, what: str, held_out: bool, wanted: int) -> float:
    """The draw of ``what`` below which ``wanted`` documents lie, or a few fewer.

    So that they are no more than wanted, it is the last of DRAW_BINS + 1 edges below which there are not too many; of
    the bin above it, while that holds several documents, the same again. Two bins deep these are copies of one text.
    The driver is brought the counts of groups of shards, of which there are as many as context.MAX_GROUPS at most.
    """
    groups = shard_groups(context.shards)
    low, high, taken = 0.0, 1.0, 0
    for _ in range(DRAW_DEPTH):
        bins = (what, held_out, low, high)
        found = sum(run_tasks(count_draws, [(context.storage, context.config.seed, group, *bins) for group in groups]))
        below = taken + np.cumsum(found)
        edge = int(np.searchsorted(below, wanted, side="right"))
        taken = int(below[edge - 1]) if edge else taken
        width = (high - low) / DRAW_BINS
        low, high = low + edge * width, low + (edge + 1) * width
        if edge == DRAW_BINS or found[edge] < 2:
            break
    return low


def count_draws(
    storage: Storage, seed: int, shards: range, what: str, held_out: bool, low: float, high: float
) -> np.ndarray:
    """Task: how many draws of ``what`` of the documents of ``shards`` fall into each bin, int64 [DRAW_BINS].

    Those of the train documents, ``held_out`` or not; the bins divide the draws from ``low`` to ``high`` evenly.
    """
    columns, counts = ["split", "held_out", "content_hash", "id"], np.zeros(DRAW_BINS, np.int64)
    for shard in shards:
        documents = storage.read_shard(layout.DOCUMENTS, shard, DOCUMENTS_SCHEMA, columns)
        held = documents["held_out"] if held_out else pc.invert(documents["held_out"])
        drawn = documents.filter(pc.and_(pc.equal(documents["split"], "train"), held))
        counts += np.histogram(_draws(seed, what, drawn), DRAW_BINS, (low, high))[0]
    return counts


def load_encoder(storage: Storage, config: EncoderConfig, folder: str | None) -> Encoder:
    """The base encoder (``folder`` None) or the one that lies in ``folder`` of the run."""
    report_phase("loading the encoder")
    # Seconds of imports, which only processes with an encoder are to pay.
    from ezxmc_ray.encoder.encoder import Encoder

    if folder is None:
        return Encoder.load(config.model, config)
    with checked(storage, folder) as path:
        return Encoder.load(str(path), config)


def exact_index(storage: Storage, encoder: int, gpu_dtype: str | None) -> ShardedIndex:
    """Exact search over the label vectors of ``encoder``; ``gpu_dtype``: see :class:`ShardedIndex`."""
    vectors = map_label_vectors(storage, layout.label_vectors(encoder))
    return ShardedIndex.from_vectors(vectors, gpu_dtype=gpu_dtype, texts=read_label_texts(storage))


def lexical_table(storage: Storage, config: LexicalConfig) -> LexicalTable | None:
    """The words of all labels; None where they do not count."""
    return open_lexical_table(storage, language=config.language) if config.weight else None


def hybrid_searcher(
    index: ShardedIndex, table: LexicalTable | None, config: LexicalConfig, encoder: int
) -> HybridSearcher:
    """Search by ``index``, of the label vectors of ``encoder``, and the words, as far as they count beside it."""
    own = config.of_encoder(encoder)
    return HybridSearcher(index, table if own.weight else None, own)


class LabelWorker:
    """Actor: embeds slices of the labels' texts."""

    def __init__(self, storage: Storage, config: EncoderConfig, folder: str | None) -> None:
        self.storage = storage
        self.encoder = load_encoder(storage, config, folder)
        self.texts = all_texts(storage)

    def __call__(self, item: WorkItem) -> Done:
        """Do one item; returns its counts."""
        first, stop = int(item["first"]), int(item["stop"])
        self.encoder.on_part = partial(report_done, item["file"])
        encoded = self.encoder.encode_labels(self.texts.slice(first, stop - first).to_pylist())
        vectors = pa.FixedSizeListArray.from_arrays(encoded.vectors.reshape(-1), self.encoder.dimension)
        columns = [pa.array(np.arange(first, stop, dtype=np.int32)), vectors]
        schema = label_vectors_schema(self.encoder.dimension, self.encoder.config.vector_dtype)
        table = pa.Table.from_arrays(columns, schema=schema)
        counts = {
            "labels": stop - first,
            "truncated": encoded.truncated,
            "unreadable": encoded.unreadable,
            "unused_prompts": len(self.encoder.unused_prompts),
        }
        self.storage.write_table(item["file"], table, counts)
        return counts


@dataclass(frozen=True)
class ShortlistSettings:
    """What a worker is told: the encoder of ``cycle``, and the shares of the documents below which a draw is taken."""

    config: Config
    encoder_folder: str | None
    cycle: int
    train_share: float
    held_out_share: float


class ShortlistWorker:
    """Actor: embeds documents and searches the labels for them.

    In later cycles the base encoder embeds them too: of the labels found, the student learns its similarity, since
    that of a student holds verdicts already, and with them its own errors (docs/experiments.md has the measurement).
    """

    def __init__(self, storage: Storage, settings: ShortlistSettings) -> None:
        self.storage, self.settings, self.cycle = storage, settings, settings.cycle
        config, lexical = settings.config.encoder, settings.config.lexical
        self.encoder = load_encoder(storage, config, settings.encoder_folder)
        table = lexical_table(storage, lexical)
        on_gpu = gpu_dtype(config, settings.config.index)
        self.searcher = hybrid_searcher(exact_index(storage, self.cycle, on_gpu), table, lexical, self.cycle)
        self.base: tuple[Encoder, PairScorer] | None = None
        if self.cycle:
            vectors = map_label_vectors(storage, layout.label_vectors(0))
            similarity = PairScorer(vectors, table, lexical, read_label_texts(storage))
            self.base = load_encoder(storage, config, None), similarity

    def __call__(self, item: WorkItem) -> Done:
        """Do one item; returns its counts."""
        shard = int(item["shard"])
        documents = self.storage.read_shard(layout.DOCUMENTS, shard, DOCUMENTS_SCHEMA)
        rows = self._wanted_rows(documents)
        wanted = rows_of(documents, rows)
        titles, texts, excluded = (wanted[name].to_pylist() for name in ("title", "text", "excluded"))
        self.encoder.on_part = partial(report_done, item["file"])
        encoded = self.encoder.encode_documents(titles, texts)
        scores, labels = self.searcher.search(
            encoded.vectors, titles, texts, self.settings.config.shortlist.size, excluded
        )
        by_base = scores
        if self.base is not None:
            encoder, similarity = self.base
            by_base = similarity(encoder.encode_documents(titles, texts).vectors, titles, texts, labels)
        columns = [
            pa.array([row[numbers >= 0] for row, numbers in zip(part, labels, strict=True)], field.type)
            for part, field in zip((labels, scores, by_base), list(SHORTLIST_SCHEMA)[1:], strict=True)
        ]
        table = pa.table([pa.array(rows, pa.int32()), *columns], schema=SHORTLIST_SCHEMA)
        counts = {"documents": len(rows), "truncated": encoded.truncated, "unreadable": encoded.unreadable}
        self.storage.write_table(item["file"], table, counts)
        return counts

    def _wanted_rows(self, documents: pa.Table) -> np.ndarray:
        """Rows of this shard whose shortlists this cycle needs, int32, rising."""
        held_out = documents["held_out"].to_numpy()
        train = pc.equal(documents["split"], "train").to_numpy()
        compared = held_out & self._drawn(documents, HELD_OUT_DRAW, self.settings.held_out_share)
        learned = train & ~held_out & self._drawn(documents, str(self.cycle), self.settings.train_share)
        return np.flatnonzero(compared | learned).astype(np.int32)

    def _drawn(self, documents: pa.Table, what: str, share: float) -> np.ndarray:
        """Which documents lie below ``share`` in the draw of ``what``, bool [documents]."""
        if share in (0.0, 1.0):
            return np.full(len(documents), bool(share))
        return _draws(self.settings.config.seed, what, documents) < share


def _draws(seed: int, what: str, documents: pa.Table) -> np.ndarray:
    """A number in [0, 1) for each of ``documents``, float64, that depends on nothing but the arguments.

    Its first 32 bits are by the text, the others by the id: so copies of a text are told apart, and no others.
    """
    prefix = f"{seed}/{what}/".encode()
    keys, ids = documents["content_hash"].to_pylist(), documents["id"].to_pylist()
    digests = [_digest(prefix + key)[:4] + _digest(prefix + id.encode())[:4] for key, id in zip(keys, ids, strict=True)]
    return np.frombuffer(b"".join(digests), ">u8").astype(np.float64) / 2**64


def _digest(content: bytes) -> bytes:
    return hashlib.blake2b(content, digest_size=8).digest()
