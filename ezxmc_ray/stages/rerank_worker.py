"""What ``ezxmc tag --rerank`` does on the cluster beside judging: actors that propose labels, tasks that bring held
verdicts and write the tags. The order of things is in rerank.py.

The work folder, FOLDER/.rerank/, is laid out as a run of one cycle, so that the actors of stage ``judge`` work on it:

    documents/  cycle-0/shortlist/     texts and candidates, while their file is not done; a file's shards have numbers
                                       of their own, file number * MAX_SHARDS and on
    labels.parquet                     the run's, while the command runs
    verdicts/<teacher key>/            what the teacher said, and what the run held of it; stays
    proposed/<file number>/            a note for each file whose candidates are there
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Sequence
from pathlib import PurePosixPath

import numpy as np
import pyarrow as pa

from ezxmc_ray import layout
from ezxmc_ray.cluster.board import report_done, report_phase
from ezxmc_ray.cluster.pools import Done, WorkItem
from ezxmc_ray.documents.documents import DocumentSource
from ezxmc_ray.documents.rejected import RejectedRows
from ezxmc_ray.stages.tagged_files import PROPOSED, WORK, TaggedFiles, note_begun, note_done, told_of
from ezxmc_ray.storage import Storage
from ezxmc_ray.tables import (
    DOCUMENTS_SCHEMA,
    HASH,
    LABELS_SCHEMA,
    RERANKED_SCHEMA,
    SHORTLIST_SCHEMA,
    content_hash,
    flat,
    lengths,
    list_columns,
)
from ezxmc_ray.tagging.files import TagCounts, document_batches, open_output, rejected_rows, write_rejected
from ezxmc_ray.tagging.known_labels import read_known_labels
from ezxmc_ray.tagging.reranking import Reranked, Reranking, rerank
from ezxmc_ray.tagging.tagger import Ranked, Tagger
from ezxmc_ray.verdicts.examples import read_label_priors, verdicts_of
from ezxmc_ray.verdicts.placement import LOOKUP, ShardLookup
from ezxmc_ray.verdicts.shortlist_pairs import ShortlistPairs, count_pending
from ezxmc_ray.verdicts.store import PRIORS, VerdictStore, hash_bytes

#: Documents of a shard of the work folder, and shards that a file may have.
SHARD_DOCUMENTS, MAX_SHARDS = 4096, 100_000
CYCLE = 0
_TEXTS = ["id", "title", "text", "content_hash"]
_CANDIDATES = ["row", "labels", "similarity"]


def work_folder(output: Storage) -> Storage:
    """Where a folder of tags keeps what reranking needs."""
    return output.below(WORK)


def proposed_note(number: int, file: str) -> str:
    """The note of the candidates of ``file``, which has this number in the work folder."""
    return f"{PROPOSED}/{number:05d}/{file}.json"


def proposed_files(work: Storage) -> dict[str, int]:
    """The numbers of the files that were ever proposed."""
    notes = (PurePosixPath(name).parts for name in work.list(PROPOSED, ".json", recursive=True))
    return {"/".join(parts[2:]).removesuffix(".json"): int(parts[1]) for parts in notes}


def shards_of(told: Done) -> list[int]:
    """The shards of a file, by the note of its candidates."""
    return [told["number"] * MAX_SHARDS + part for part in range(told["shards"])]


def shard_files(told: Done) -> list[str]:
    """The files of these shards, verdicts apart."""
    folders = (layout.DOCUMENTS, layout.shortlist(CYCLE))
    return [layout.shard_file(folder, shard) for shard in shards_of(told) for folder in folders]


class ProposeWorker:
    """Actor: the labels of files of documents that the teacher is to be asked about."""

    def __init__(self, where: str, overrides: list[str], output: Storage, files: TaggedFiles, how: Reranking) -> None:
        report_phase("loading the student and the index")
        self.tagger, self.files, self.how = Tagger.load(where, overrides), files, how
        self.output, self.work = output, work_folder(output)
        files.check_same(self.tagger.settings, where)

    def __call__(self, item: WorkItem) -> Done:
        """Do one item, a file; returns the note of its candidates."""
        place, file, number = int(item["shard"]), item["file"], int(item["first"])
        source, note = self.files.sources[place], proposed_note(number, file)
        note_begun(self.output, file, source)
        self.work.remove(note)
        counts, columns, bad = TagCounts(), dict[str, None](), RejectedRows(source.source.name, place)
        shards = pairs = 0
        for table in _shards(self._proposals(source, bad, columns, counts)):
            shard = number * MAX_SHARDS + shards
            self.work.write_shard(layout.DOCUMENTS, shard, table.select(_TEXTS))
            row = pa.array(np.arange(len(table), dtype=np.int32))
            self.work.write_shard(layout.shortlist(CYCLE), shard, table.add_column(0, "row", row).select(_CANDIDATES))
            shards, pairs = shards + 1, pairs + int(lengths(table["labels"]).sum())
            report_done(file, counts.documents)
        counts.rejected, rejected = len(bad), rejected_rows(bad)
        write_rejected(self.output, file, rejected)
        told = told_of(source, self.files.made_by, counts, list(columns), rejected)
        told |= {"file": file, "number": number, "shards": shards, "pairs": pairs, "name": uuid.uuid4().hex}
        self.work.write_note(note, told)
        return told

    def _proposals(
        self, source: DocumentSource, bad: RejectedRows, columns: dict[str, None], counts: TagCounts
    ) -> Iterator[pa.Table]:
        """Texts and candidates of the documents of ``source``, a batch at a time; ``counts`` grow with them."""
        for ids, titles, texts in document_batches(source, bad, columns):
            ranked = self.tagger.rank(titles, texts, self.how.candidates, self.how.min_score)
            counts.add(TagCounts(len(ids), without_text=texts.count(""), truncated=ranked.truncated))
            hashes = pa.array(map(content_hash, titles, texts), HASH)
            yield pa.table(dict(zip(_TEXTS, (ids, titles, texts, hashes), strict=True)) | _candidates(ranked))


def _candidates(ranked: Ranked) -> dict[str, pa.ListArray]:
    values = (pa.array(one[ranked.passing]) for one in (ranked.labels, ranked.scores))
    return dict(zip(("labels", "similarity"), list_columns(ranked.counts, *values), strict=True))


def _shards(batches: Iterator[pa.Table]) -> Iterator[pa.Table]:
    """``batches`` in tables of SHARD_DOCUMENTS rows, the last one apart."""
    held: list[pa.Table] = []
    for batch in batches:
        held.append(batch)
        while sum(map(len, held)) >= SHARD_DOCUMENTS:
            table = pa.concat_tables(held)
            yield table.slice(0, SHARD_DOCUMENTS)
            held = [table.slice(SHARD_DOCUMENTS)]
    if rest := [one for one in held if len(one)]:
        yield pa.concat_tables(rest)


def copy_labels(run: Storage, work: Storage, fingerprint: str) -> None:
    """Task: the run's labels for the work folder, which the candidates are numbers of. Errors: UserError where they
    are others by now."""
    work.write_table(layout.LABELS, read_known_labels(run, fingerprint).select(LABELS_SCHEMA.names))


def write_lookup_of_parts(work: Storage, shards: Sequence[int]) -> None:
    """Task: note which of ``shards`` hold which document, by their places in that list."""
    hashes = [
        hash_bytes(work.read_shard(layout.DOCUMENTS, shard, DOCUMENTS_SCHEMA, ["content_hash"])["content_hash"])
        for shard in shards
    ]
    places = np.repeat(np.arange(len(shards), dtype=np.int32), list(map(len, hashes)))
    ShardLookup(np.concatenate(hashes), places).save(work, LOOKUP)


def take_held(
    source: Storage, work: Storage, key: str, folders: Sequence[str], shards: Sequence[int], by_documents: bool
) -> int:
    """Task: bring verdicts in ``folders`` of the store of ``source`` on documents of the lookup to their ``shards``.

    ``by_documents``: a folder whose shard of documents in ``source`` has none of them is not read. Returns the verdicts
    that were brought.
    """
    lookup, held = ShardLookup.load(work, LOOKUP), VerdictStore(source, key)
    tables = []
    for folder in folders:
        documents = f"{layout.DOCUMENTS}/{folder}.parquet"
        if by_documents and source.exists(documents):
            hashes = source.read_table(documents, DOCUMENTS_SCHEMA, ["content_hash"])["content_hash"]
            if (lookup.first(hashes) < 0).all():
                continue
        table = held.read(folder)
        tables.append(table.filter(pa.array(lookup.first(table["document_hash"]) >= 0)))
    if not tables:
        return 0
    found, store = pa.concat_tables(tables), VerdictStore(work, key)
    by_place = lookup.rows_by_shard(found["document_hash"]).items()
    return sum(
        int(store.append_missing(layout.shard_name(shards[place]), found.take(pa.array(rows))).sum())
        for place, rows in by_place
    )


def take_priors(run: Storage, work: Storage, key: str) -> None:
    """Task: bring what the run's labels score by themselves."""
    held = VerdictStore(run, key)
    if held.files(PRIORS):
        VerdictStore(work, key).append_missing(PRIORS, held.read(PRIORS))


def pending_pairs(work: Storage, key: str, shard: int) -> tuple[int, int]:
    """Task: ``shard``, and how many of its pairs are to be asked."""
    return shard, count_pending(work, key, CYCLE, [shard])


def write_tags(work: Storage, output: Storage, files: Sequence[Done], made_by: str, how: Reranking) -> list[Done]:
    """Task: write the tags of ``files`` (notes of their candidates), all of whose pairs are judged.

    Returns the notes of the tags. Texts and candidates go from the work folder.
    """
    labels = work.read_table(layout.LABELS, LABELS_SCHEMA, ["id", "text"])
    ids, texts = (labels[name].combine_chunks() for name in ("id", "text"))
    pairs, priors = ShortlistPairs(work, how.reading.key, CYCLE), read_label_priors(work, how.reading, CYCLE)
    done = []
    for told in files:
        counts, file = TagCounts(**told["counts"]), told["file"]
        with open_output(output, file, RERANKED_SCHEMA) as write:
            for shard in shards_of(told):
                found = _rerank_shard(pairs, priors, shard, how)
                documents = work.read_shard(layout.DOCUMENTS, shard, DOCUMENTS_SCHEMA, ["id"])
                write(_table(documents["id"], found, ids, texts))
                counts.add(TagCounts(labels=len(found.labels), without_labels=int((found.counts == 0).sum())))
        names = ("source", "place", "id_prefix", "row_ids", "columns", "first_rejected")
        kept: Done = {name: told[name] for name in names if name in told}
        done.append(note_done(output, file, {"made_by": made_by, "counts": vars(counts), **kept}))
        for name in shard_files(told):
            work.remove(name)
    return done


def _rerank_shard(pairs: ShortlistPairs, priors: np.ndarray | None, shard: int, how: Reranking) -> Reranked:
    _, verdict = verdicts_of(pairs, priors, shard, how.reading)
    rows = pairs.storage.read_shard(layout.shortlist(CYCLE), shard, SHORTLIST_SCHEMA, _CANDIDATES)
    labels = flat(rows["labels"])
    return rerank(lengths(rows["labels"]), labels, flat(rows["similarity"]), verdict, how)


def _table(documents: pa.ChunkedArray, found: Reranked, ids: pa.Array, texts: pa.Array) -> pa.Table:
    """RERANKED_SCHEMA; ``ids`` and ``texts``: of all labels, by number."""
    numbers = pa.array(found.labels, pa.int32())
    scores = (pa.array(one, pa.float32()) for one in (found.scores, found.similarities, found.verdicts))
    lists = list_columns(found.counts, ids.take(numbers), texts.take(numbers), *scores)
    return pa.Table.from_arrays([documents.combine_chunks(), *lists], schema=RERANKED_SCHEMA)
