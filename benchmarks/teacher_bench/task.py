"""What every method of benchmarks/teacher.py judges: the same documents, the same shortlists, one folder.

Comes in: a JSON-lines file of documents and one of labels. Goes out: a folder with the sampled documents, cut to one
length, a run directory in which this project's stages ``prepare`` and ``shortlist`` have been done with them, and a few
other documents to warm up with. Each method runs in a process of its own and reads the folder (:class:`Task`).
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from common.data import in_order, read_rows
from ezxmc_ray import curriculum
from ezxmc_ray.config import Config, load_config, to_dict
from ezxmc_ray.errors import UserError
from ezxmc_ray.storage import Manifest, Storage, read_manifest
from ezxmc_ray.tables import EXAMPLES_SCHEMA, content_hash, flat
from ezxmc_ray.teacher.engine import DocumentPairs
from ezxmc_ray.verdicts.shortlist_pairs import ShortlistPairs

#: Documents that are judged before the clock starts.
WARM_UP_DOCUMENTS = 8
#: The key of a teacher that has judged nothing: to it all pairs of the shortlists are pending.
NO_TEACHER = "none"


@dataclass(frozen=True)
class Sample:
    """``texts``: of the documents that count, then of those to warm up with. The rest says how they came about."""

    texts: list[str]
    read: int
    joined: int
    passed_over: int


@dataclass(frozen=True)
class Task:
    """The folder, and of how many pairs (the first ones) the slow methods and the float32 reference judge."""

    folder: str
    slow_pairs: int
    reference_pairs: int

    @property
    def config(self) -> Config:
        """The configuration of the run in the folder."""
        return load_config(f"{self.folder}/configuration.yaml")

    def shards(self) -> list[list[DocumentPairs]]:
        """The documents with their shortlists, a list a shard of the run."""
        storage = Storage(self.config.run)
        pending = ShortlistPairs(storage, NO_TEACHER, 0)
        rows = [storage.rows(name) for name in self._shortlists()]
        return [pending.documents(shard, 0, count) for shard, count in enumerate(rows)]

    def batches(self) -> list[list[DocumentPairs]]:
        """The documents in the judge stage's batches: of ``teacher.batch_documents``, none across shards."""
        size = self.config.teacher.batch_documents
        return [shard[start : start + size] for shard in self.shards() for start in range(0, len(shard), size)]

    def documents(self, pairs: int = 0) -> list[DocumentPairs]:
        """The documents of all shards, the last one's labels cut so that there are ``pairs`` pairs (0: all)."""
        documents = [document for shard in self.shards() for document in shard]
        return _first_pairs(documents, pairs) if pairs else documents

    def warm_up(self) -> list[DocumentPairs]:
        """Other documents, each with the shortlist of one that counts."""
        texts: list[str] = json.loads(Path(self.folder, "warm_up.json").read_text())
        shortlists = zip(texts, self.documents(), strict=False)
        return [replace(other, document_hash=content_hash("", text), text=text) for text, other in shortlists]

    def raw(self) -> np.ndarray:
        """The raw scores that the judge stage left, float32 [pairs], in the order of ``documents()``."""
        storage = Storage(self.config.run)
        names = [name.replace("shortlist", "examples") for name in self._shortlists()]
        return np.concatenate([flat(storage.read_table(name, EXAMPLES_SCHEMA, ["raw"])["raw"]) for name in names])

    def judge_again(self) -> Manifest:
        """Forget the verdicts of the run, and let the judge stage make them anew; its manifest."""
        storage = Storage(self.config.run)
        storage.remove("verdicts")
        storage.remove("cycle-0/examples")
        curriculum.run_stage(self.config, "judge")
        manifest = read_manifest(storage, "cycle-0/examples")
        assert manifest is not None  # the stage has just written it
        return manifest

    def _shortlists(self) -> list[str]:
        return Storage(self.config.run).list("cycle-0/shortlist", ".parquet")


def make_task(task: Task, config: Config, sample: Sample) -> None:
    """Write the folder, and shortlist its documents with the encoder of ``config``; what was there before is gone."""
    storage = Storage(task.folder)
    storage.remove("")
    documents, warm_up = sample.texts[:-WARM_UP_DOCUMENTS], sample.texts[-WARM_UP_DOCUMENTS:]
    rows = [{"id": f"document-{i:05d}", "text": text, "split": "train"} for i, text in enumerate(documents)]
    storage.write_bytes("documents.jsonl", "".join(json.dumps(row) + "\n" for row in rows).encode())
    storage.write_json("warm_up.json", warm_up)
    storage.write_json("task.json", asdict(task))
    config.run = f"{task.folder}/run"
    config.prepare.documents = [f"{task.folder}/documents.jsonl"]
    config.prepare.held_out_share = 0.0
    storage.write_bytes("configuration.yaml", yaml.safe_dump(to_dict(config)).encode())
    curriculum.run_stage(config, "prepare")
    curriculum.run_stage(config, "shortlist")


def read_task(folder: str) -> Task:
    """The task that :func:`make_task` wrote."""
    return Task(**json.loads(Path(folder, "task.json").read_text()))


def sample_documents(path: Path, tokenizer: Any, documents: int, tokens: int) -> Sample:
    """Texts of ``documents`` documents and WARM_UP_DOCUMENTS more, each of exactly ``tokens`` tokens, none twice.

    They are the documents of at least so many tokens whose ids have the least hash. Where these are too few, the
    shorter ones, in the same order, are joined until they are long enough. Errors: UserError if there are too few.
    """
    wanted = documents + WARM_UP_DOCUMENTS
    texts: dict[str, None] = {}
    short: list[str] = []
    read = joined = passed_over = 0
    for text in _by_hash(path):
        if len(texts) == wanted:
            break
        read += 1
        found = _cut(text, tokenizer, tokens)
        if found is None:
            short.append(text)
        passed_over += found == "" or found in texts
        if found:
            texts[found] = None
    for text in _joined(short, tokenizer, tokens):
        if len(texts) == wanted:
            break
        joined += text not in texts
        texts[text] = None
    if len(texts) < wanted:
        raise UserError(
            f"{path} has text for {len(texts)} documents of {tokens} tokens, and {wanted} are needed: "
            "lower --documents or --document-tokens, or give another --data."
        )
    return Sample(list(texts), read, joined, passed_over)


def _by_hash(path: Path) -> list[str]:
    """Title and text of every document, in the order of the hash of its id."""
    rows = in_order(read_rows(path, ("id", "text")))
    return ["\n".join(part for part in (row.get("title"), row["text"]) if part) for row in rows]


def _cut(text: str, tokenizer: Any, tokens: int) -> str | None:
    """The beginning of ``text`` that is ``tokens`` tokens; None: it has fewer; empty: no cut gives exactly so many."""
    encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    if len(encoded["input_ids"]) < tokens:
        return None
    short = text[: encoded["offset_mapping"][tokens - 1][1]]
    return short if len(tokenizer(short, add_special_tokens=False)["input_ids"]) == tokens else ""


def _joined(texts: list[str], tokenizer: Any, tokens: int) -> Iterator[str]:
    """Documents of ``tokens`` tokens, each of so many ``texts`` in a row as it takes."""
    together = ""
    for text in texts:
        together = f"{together}\n\n{text}" if together else text
        found = _cut(together, tokenizer, tokens)
        if found:
            yield found
        if found is not None:
            together = ""


def _first_pairs(documents: list[DocumentPairs], pairs: int) -> list[DocumentPairs]:
    kept = []
    for document in documents:
        size = min(pairs, len(document.labels))
        pairs -= size
        if size:
            aligned = ("label_hashes", "labels", "descriptions")
            kept.append(replace(document, **{name: getattr(document, name)[:size] for name in aligned}))
    return kept
