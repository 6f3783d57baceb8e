"""Where everything of a run lies, as paths relative to the run directory. Nothing else spells one out.

A stage writes one folder and, last of all, the manifest in it. Per-document tables are sharded as the documents are:
shard 12 of any of them belongs to shard 12 of the documents. Encoder number ``c`` makes the shortlists of cycle ``c``:
encoder 0 is the base encoder, encoder ``c`` the student of cycle ``c - 1``.
"""

from __future__ import annotations

import re
import secrets

CONFIG = "config.yaml"
#: Of a stage's folder: what it holds, what it was begun with. What the last verification found damaged in the run.
MANIFEST, BEGUN, DAMAGE = "manifest.json", ".begun.json", ".damaged.json"
#: What unfinished steps have taken so far.
SPENT = ".spent.json"
DOCUMENTS, GOLD, LABELS, REJECTED = "documents", "gold", "labels.parquet", "rejected.parquet"
#: What ``prepare`` holds of its sources, where it makes its new tables, until it is done.
PREPARE_PARTS = "documents/.parts"
#: The words of the labels, for who searches.
LEXICAL = "lexical"
VERDICTS = "verdicts"
#: Beside a teacher's verdicts: which teacher it is, and the placement of documents that their folders fit.
TEACHER_NOTE, PLACEMENT_NOTE = "teacher.json", "placement.json"
#: The chosen student, the index over its label vectors, what both say of every document, what that is worth.
STUDENT, INDEX, PREDICTIONS, EVALUATION, REPORT = "student", "index", "predictions", "evaluation", "report"
#: What orders the chosen student's first labels anew (predict.rerank): the network, and what was found of it.
CROSS_ENCODER, CROSS_NETWORK = "cross_encoder", "cross_encoder/network"
MODEL_CARD = "student/README.md"
#: How the files of held-out documents beside a cycle's examples begin.
HELD_OUT = "held-out-"
EVALUATION_SAMPLE = "evaluation/sample.parquet"
#: How many documents each label is gold for, while rankings are measured.
LABEL_COUNTS = "evaluation/label_counts.parquet"
REPORT_JSON, REPORT_HTML = "report.json", "report.html"
#: What an export of a run is known by, and its folder there (tagging/bundle.py).
BUNDLE, FILES = "bundle.json", "files-"
BUNDLE_FOLDER = re.compile(rf"{FILES}[0-9a-f]{{16}}")
#: Who works on the run.
OWNER = ".owner.json"
#: In a folder of label vectors: all of them as one array, and the note of what it is.
VECTORS, VECTORS_NOTE = "vectors.npy", "vectors.json"
#: How the folders begin that a training keeps its checkpoints in until it is done.
TRAINING = "training-"
_MADE = {STUDENT, CROSS_ENCODER, INDEX, PREDICTIONS, EVALUATION, REPORT}
_REPLACED = {DOCUMENTS, GOLD, LABELS, REJECTED, LEXICAL} | _MADE
_WRITTEN = _REPLACED | {CONFIG, VERDICTS, REPORT_JSON, REPORT_HTML, DAMAGE, SPENT, OWNER}
_CYCLE = re.compile(r"cycle-\d+")
_PREPARE = re.compile(r"\.prepare(-[0-9a-f]{16})?")


def new_prepare_folder() -> str:
    """Where one ``prepare`` makes its new tables: under a name that no other command's have."""
    return f".prepare-{secrets.token_hex(8)}"


def is_prepare_folder(name: str) -> bool:
    """Whether the folder ``name`` of the run directory is of a ``prepare``, of an older version too."""
    return bool(_PREPARE.fullmatch(name))


def own_config(number: int) -> str:
    """What a run keeps a config.yaml of the user's own as, the ``number``-th from 1."""
    return f"config.own-{number}.yaml"


def is_replaced(name: str) -> bool:
    """Whether stages replace the file or folder ``name`` of the run directory, or what lies around it."""
    top = name.partition("/")[0]
    return top in _REPLACED or bool(_CYCLE.fullmatch(top))


def is_written(name: str) -> bool:
    """Whether the file or folder ``name`` of the run directory is one that runs write; others are the user's."""
    top = name.partition("/")[0]
    return is_replaced(name) or top in _WRITTEN or is_prepare_folder(top)


def run_name(run: str) -> str:
    """The last part of the directory or URI ``run``, by which reports call it."""
    place = run.partition("?")[0] if "://" in run else run
    return place.rstrip("/").rpartition("/")[2]


def cycle_folder(cycle: int) -> str:
    """What belongs to one cycle."""
    return f"cycle-{cycle}"


def label_vectors(encoder: int) -> str:
    """The folder of the vectors of all labels by encoder number ``encoder``."""
    return f"cycle-{encoder}/label_vectors"


def label_vector_slice(folder: str, number: int) -> str:
    """The file of one slice of label vectors, until all are one array in ``folder``."""
    return f"{folder}/shard-{number:05d}.parquet"


def index_shard(number: int) -> str:
    """The file of one slice of labels in the folder of an index."""
    return f"shard-{number:03d}.faiss"


def shortlist(cycle: int) -> str:
    """The folder of a cycle's shortlists."""
    return f"cycle-{cycle}/shortlist"


def examples(cycle: int) -> str:
    """The folder of a cycle's shortlists joined with their verdicts."""
    return f"cycle-{cycle}/examples"


def summary(cycle: int) -> str:
    """The folder of what a reader of a cycle's examples must know before it reads the first."""
    return f"cycle-{cycle}/examples/summary"


def shard_counts(cycle: int, scope: str) -> str:
    """The file of how many documents of each shard are trained on in a cycle; scope: student/summary.py."""
    return f"{summary(cycle)}/{scope}-shards.parquet"


def label_documents(cycle: int, scope: str) -> str:
    """The file of how many documents that are trained on in a cycle have each label in their shortlist."""
    return f"{summary(cycle)}/{scope}-labels.parquet"


def held_out(cycle: int, group: int) -> str:
    """The file of the held-out documents of a group of shards of a cycle's examples."""
    return f"{summary(cycle)}/{HELD_OUT}{group:05d}.parquet"


def label_document_parts(cycle: int) -> str:
    """The folder of the parts of :func:`label_documents`, a file a group of shards, while examples are joined."""
    return f"cycle-{cycle}/label_documents"


def pending_priors(cycle: int) -> str:
    """The file of the labels whose priors a cycle asks for, while it does."""
    return f"cycle-{cycle}/pending_priors.parquet"


def label_priors(cycle: int) -> str:
    """The file of what every label scores by itself, by label number, while a cycle's examples are joined."""
    return f"cycle-{cycle}/label_priors.parquet"


def selection(cycle: int) -> str:
    """The folder of the comparison of encoder ``cycle`` with those before it (the stop rule)."""
    return f"cycle-{cycle}/selection"


def cycle_student(cycle: int) -> str:
    """The folder of the student that a cycle trained."""
    return f"cycle-{cycle}/student"


def training_outcome(folder: str, training: str) -> str:
    """The file of what is known of the training in ``folder`` named ``training``, once it is done."""
    return f"{folder}/{training}.json"


def training_batch(folder: str, training: str) -> str:
    """The file beside the checkpoints of the training named ``training`` with the documents of its steps."""
    return f"{folder}/{training}/batch.json"


def tensorboard(folder: str) -> str:
    """The folder of the event files of the training in ``folder``."""
    return f"{folder}/tensorboard"


def cross_held_out(group: int) -> str:
    """The file of the cross-encoder's scores of the held-out documents of a group of shards."""
    return f"{CROSS_ENCODER}/{HELD_OUT}{group:05d}.parquet"


def ranking(encoder: int) -> str:
    """The folder of encoder number ``encoder``'s ranking of the test documents."""
    return f"evaluation/encoder-{encoder}"


def manifest(folder: str) -> str:
    """The manifest of the stage that writes ``folder``."""
    return f"{folder}/{MANIFEST}"


def begun(folder: str) -> str:
    """The fingerprint that the stage which writes ``folder`` was begun with."""
    return f"{folder}/{BEGUN}"


def shard_name(shard: int) -> str:
    """File stem of document shard number ``shard``: shard-00012."""
    return f"shard-{shard:05d}"


def shard_file(folder: str, shard: int) -> str:
    """The Parquet file of document shard ``shard`` in ``folder``."""
    return f"{folder}/{shard_name(shard)}.parquet"
