"""What does it cost to change the labels of a bundle of a million?

    python benchmarks/labels.py [labels=1000000] [changed=1000] [folder=DIRECTORY]

A bundle is made in ``folder`` (a temporary one by default; 2 GB): the bundled MiniLM in ONNX, labels of three words of
its vocabulary, and an index of the kind that ``index.factory=auto`` takes, over random unit vectors, which are
simulated ones and not those of the texts. Then `ezxmc labels add`, `rename` and `remove`, each as a process of its own.
Before, between and after them a tagger is loaded, and tags texts one by one; its first, which reads the files, is not
counted.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from common.publish import ROOT, publish
from ezxmc_ray import layout
from ezxmc_ray.config import Config
from ezxmc_ray.documents.parts import label_fingerprint
from ezxmc_ray.encoder.encoder import Encoder
from ezxmc_ray.encoder.onnx_export import export_onnx
from ezxmc_ray.index.build import auto_factory, build_from_blocks, save_shard
from ezxmc_ray.index.lexical_files import LexicalSource, write_lexical_files
from ezxmc_ray.metrics.thresholds import LeastScores
from ezxmc_ray.storage import Storage
from ezxmc_ray.tables import LABELS_SCHEMA, content_hash
from ezxmc_ray.tagging.bundle import BUNDLE, FILES, ONNX_FOLDER, bundle_note, describe_files
from ezxmc_ray.tagging.settings import TagSettings

BLOCK, TEXTS = 65_536, 40
PROGRAM = f"""
import json, sys, time
began = time.perf_counter()
from ezxmc_ray import Tagger
tagger = Tagger.load(sys.argv[1])
loaded = time.perf_counter()
names = tagger.labels["text"]
texts = [", ".join(names[step * i % len(names)].as_py() for step in (1, 7, 31)) for i in range({TEXTS})]
tagger.tag(texts[:1])
alone = []
for text in texts:
    start = time.perf_counter()
    tagger.tag([text])
    alone.append(time.perf_counter() - start)
print(json.dumps({{"labels": len(names), "load_s": round(loaded - began, 2),
    "text_ms": round(1000 * sorted(alone)[len(alone) // 2], 1)}}))
"""


def make_bundle(folder: Path, labels: int) -> list[str]:
    """Write it; returns the words that its labels are made of."""
    config = Config()
    encoder = Encoder.load(config.encoder.model, config.encoder, "cpu")
    words = sorted(word for word in encoder.reader.tokenizer.get_vocab() if word.isalpha() and len(word) > 3)
    target = Storage(str(folder))
    files = target.below(f"{FILES}{0:016x}")
    Path(files.path(ONNX_FOLDER)).mkdir(parents=True)
    export_onnx(encoder, Path(files.path(ONNX_FOLDER)))
    random = np.random.default_rng(0)
    texts = [" ".join(words[one] for one in row) for row in random.integers(0, len(words), (labels, 3))]
    columns = [
        [f"l{number}" for number in range(labels)],
        texts,
        [""] * labels,
        [content_hash("", one) for one in texts],
    ]
    arrays = [pa.array(column, field.type) for column, field in zip(columns, LABELS_SCHEMA, strict=True)]
    table = pa.Table.from_arrays(arrays, schema=LABELS_SCHEMA)
    files.write_table(layout.LABELS, table)
    write_lexical_files(files, LexicalSource(label_fingerprint(table), "english"))

    def simulated_vectors() -> Iterator[np.ndarray]:
        drawn = np.random.default_rng(1)
        for start in range(0, labels, BLOCK):
            block = drawn.standard_normal((min(BLOCK, labels - start), encoder.dimension), np.float32)
            yield block / np.linalg.norm(block, axis=1, keepdims=True)

    factory = auto_factory(round(labels**0.5), encoder.dimension)
    index = build_from_blocks(simulated_vectors, labels, 0, factory)
    shards = [save_shard(index, Path(files.path(layout.INDEX)) / "shard-000.faiss", 0)]
    settings = TagSettings(
        config.encoder,
        config.lexical,
        shards,
        config.predict,
        LeastScores(-1.0, None),
        label_fingerprint(table),
        onnx=True,
    )
    target.write_note(BUNDLE, bundle_note(settings, f"{FILES}{0:016x}", describe_files(files)))
    return words


def tagging(folder: Path) -> dict[str, Any]:
    """What PROGRAM measures."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(folder)], check=True, capture_output=True, text=True, cwd=ROOT
    )
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def main(labels: str = "1000000", changed: str = "1000", folder: str = "") -> None:
    """Measure and publish."""
    with tempfile.TemporaryDirectory(dir=folder or None) as scratch:
        bundle, file = Path(scratch) / "bundle", Path(scratch) / "labels.jsonl"
        began = time.perf_counter()
        words = make_bundle(bundle, int(labels))
        rows: list[dict[str, Any]] = [
            {"after": "made anew", "command_s": round(time.perf_counter() - began, 1), **tagging(bundle)}
        ]
        print(rows[-1], flush=True)
        random = np.random.default_rng(2)
        for command, prefix in (("add", "n"), ("rename", "l"), ("remove", "n")):
            texts = [" ".join(words[one] for one in row) for row in random.integers(0, len(words), (int(changed), 3))]
            file.write_text(
                "".join(json.dumps({"id": f"{prefix}{n}", "text": text}) + "\n" for n, text in enumerate(texts))
            )
            began = time.perf_counter()
            call = [sys.executable, "-m", "ezxmc_ray.cli", "labels", command, str(bundle), str(file)]
            subprocess.run(call, check=True, cwd=ROOT)
            seconds = round(time.perf_counter() - began, 1)
            rows.append({"after": f"labels {command}", "command_s": seconds, **tagging(bundle)})
            print(rows[-1], flush=True)
    notes = [
        f"{int(labels):,} labels, {int(changed):,} changed a command; simulated vectors; whole processes, once each; a "
        f"median of {TEXTS} texts."
    ]
    publish("labels", "A changing label set", {"rows": rows, "notes": notes})


if __name__ == "__main__":
    main(**dict(word.split("=", 1) for word in sys.argv[1:]))
