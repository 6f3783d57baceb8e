"""A small run for the benchmarks that break runs: made-up documents on twelve topics, real small models.

Comes in: a folder. Goes out: its documents, labels and configuration, and the command line that makes the run.
"""

from __future__ import annotations

import json
import random
import sys
from pathlib import Path

import yaml

EZXMC = str(Path(sys.executable).with_name("ezxmc"))
TOPICS = {
    "astronomy": "telescope star galaxy orbit comet planet nebula",
    "baking": "bread flour oven yeast dough cake sugar",
    "chess": "opening gambit bishop checkmate pawn endgame",
    "finance": "bank interest loan stock dividend",
    "football": "goal striker league stadium referee",
    "gardening": "soil seeds tomato compost greenhouse",
    "geology": "rock mineral volcano sediment fault",
    "law": "court judge contract statute lawyer",
    "medicine": "patient doctor therapy vaccine hospital",
    "music": "violin orchestra melody chord concert",
    "photography": "camera lens aperture portrait exposure",
    "sailing": "boat wind keel harbour mast anchor",
}
#: One training worker, whose steps do not depend on who comes first; the engine and so on are for the caller to set.
SETTINGS = {
    "encoder": {"dtype": "float32"},
    "shortlist": {"size": 4},
    "teacher": {"readout": "likelihood", "dtype": "float32", "batch_documents": 8, "max_document_tokens": 48},
    "student": {"workers": 1, "epochs": 2, "batch_size": 8, "checkpoint_every_s": 0.5, "trackers": ["tensorboard"]},
}


def write_small_run(folder: Path, documents: int, seed: int = 0) -> Path:
    """Write the inputs of a run of so many documents, a quarter of them test documents; the configuration's path."""
    draw = random.Random(seed)
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "documents.jsonl").open("w") as out:
        for number in range(documents):
            topics = draw.sample(sorted(TOPICS), 2)
            words = [word for topic in topics for word in draw.sample(TOPICS[topic].split(), 3)]
            one = {
                "id": f"d{number}",
                "title": f"About {words[0]} and {words[3]}",
                "text": "A text that speaks of " + ", ".join(words) + ".",
                "labels": topics,
                "split": "test" if number % 4 == 0 else "train",
            }
            out.write(json.dumps(one) + "\n")
        out.write(json.dumps({"id": "without text"}) + "\n")  # so that rejected.parquet has a row
    (folder / "labels.jsonl").write_text("".join(json.dumps({"id": one, "text": one}) + "\n" for one in TOPICS))
    inputs = {name: [str(folder / f"{name}.jsonl")] for name in ("documents", "labels")}
    prepare = {**inputs, "held_out_share": 0.25, "on_bad_rows": "skip"}
    settings = {"run": str(folder / "run"), "prepare": prepare, **SETTINGS}
    configuration = folder / "conf.yaml"
    configuration.write_text(yaml.safe_dump(settings, sort_keys=False))
    return configuration
