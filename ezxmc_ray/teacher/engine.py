"""What an engine takes and gives, which engine a configuration means, and the key that its verdicts are stored under.

Comes in: documents with the labels to judge them against (:class:`DocumentPairs`). Goes out: a table of verdicts with
counts (:class:`JudgedBatch`). Three engines keep to this: vLLM (vllm_engine), transformers (transformers_engine,
slow, the reference) and packed (packed_engine, many pairs a forward); all see the very same prompts, made here.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import Any, NamedTuple, Protocol

import numpy as np
import pyarrow as pa

from ezxmc_ray.config import TeacherConfig, fingerprint
from ezxmc_ray.errors import UserError
from ezxmc_ray.hardware import AUTO, machine_dtype
from ezxmc_ray.models import LOAD_ERRORS, hub_place, load_error, resolve_model, weights_fingerprint
from ezxmc_ray.tables import HASH, NO_DOCUMENT, VERDICTS_SCHEMA
from ezxmc_ray.teacher.chat import PLAIN_CUE, gap_after
from ezxmc_ray.teacher.plan import PLAN_VERSION, PromptPlan
from ezxmc_ray.teacher.prompts import PromptTemplate, load_template
from ezxmc_ray.teacher.readout import (
    AnswerTokens,
    answer_tokens,
    head_tokens,
    is_classifier,
    resolve_readout,
    second_teacher,
)


@dataclass(frozen=True)
class DocumentPairs:
    """A document and the labels to judge it against; ``labels`` and ``label_hashes`` are aligned.

    ``descriptions``: aligned too, or empty where no label has one.
    With ``document_hash`` = tables.NO_DOCUMENT the labels' priors are asked for; title and text do not matter then.
    """

    document_hash: bytes
    title: str
    text: str
    label_hashes: tuple[bytes, ...]
    labels: tuple[str, ...]
    descriptions: tuple[str, ...] = ()


class PairPrompt(NamedTuple):
    """One pair's prompt: ``tokens``, of which [label_start, label_stop) are the label."""

    document_hash: bytes
    label_hash: bytes
    tokens: list[int]
    label_start: int
    label_stop: int
    truncated: bool


@dataclass(frozen=True)
class BatchPrompts:
    """Prompts of a batch, a document's pairs in a row, and what was cut (see :class:`JudgedBatch`)."""

    pairs: list[PairPrompt]
    truncated_documents: int
    truncated_labels: int


@dataclass(frozen=True)
class JudgedBatch:
    """What judging a batch gave.

    ``raw``: float32 [pairs], in the order of ``prompts``. ``computed_tokens``: prompt tokens that went through the
    model, by the engine's own count (the rest came from its prefix cache; a pair asked twice counts twice).
    ``seconds``: wall time in the engine.
    """

    prompts: BatchPrompts
    raw: np.ndarray
    computed_tokens: int
    seconds: float

    @property
    def truncated_documents(self) -> int:
        """Documents of the batch that were cut."""
        return self.prompts.truncated_documents

    @property
    def truncated_labels(self) -> int:
        """Pairs whose label was cut."""
        return self.prompts.truncated_labels

    @cached_property
    def prompt_tokens(self) -> int:
        """Tokens of all prompts."""
        return sum(len(pair.tokens) for pair in self.prompts.pairs)

    @cached_property
    def table(self) -> pa.Table:
        """VERDICTS_SCHEMA, a row a pair; made when it is first asked for, by whoever writes it."""
        pairs = self.prompts.pairs
        columns = [
            pa.array([pair.document_hash for pair in pairs], HASH),
            pa.array([pair.label_hash for pair in pairs], HASH),
            pa.array(self.raw),
            pa.array([len(pair.tokens) for pair in pairs], pa.int32()),
            pa.array([pair.truncated for pair in pairs], pa.bool_()),
        ]
        return pa.Table.from_arrays(columns, schema=VERDICTS_SCHEMA)


class Engine(Protocol):
    """A teacher that is loaded and ready."""

    def prompts(self, batch: Sequence[DocumentPairs]) -> BatchPrompts:
        """The prompts of ``batch``; may be called in another thread while the engine judges."""
        ...

    def judge(self, batch: Sequence[DocumentPairs]) -> JudgedBatch:
        """Judge every pair of ``batch``; documents stay together, so that a document's prefix is computed once."""
        ...

    def judge_many(self, batches: Iterable[Sequence[DocumentPairs]]) -> Iterator[JudgedBatch]:
        """Judge batch after batch, in their order; the next one's prompts are made while one is judged."""
        ...

    def judge_stream(self, coming: Iterable[BatchPrompts | None]) -> Iterator[JudgedBatch]:
        """Judge what comes, in its order. None: nothing has come yet, and the engine goes on with what it holds."""
        ...

    def close(self) -> None:
        """Free what the engine holds; it judges no more."""
        ...


@dataclass(frozen=True)
class TeacherSpec:
    """What every engine starts from: where the model is, its prompts, and (all but likelihood) its answers' tokens.

    ``classifier``: the checkpoint has a classification head of its own; ``architecture``: its class. The read-out of
    ``config`` is resolved.
    """

    reference: str
    resolved: str
    config: TeacherConfig
    plan: PromptPlan
    answers: AnswerTokens | None
    architecture: str
    classifier: bool


def load_teacher(config: TeacherConfig) -> TeacherSpec:
    """Tokenizer, prompts and answers of the configured teacher; its weights are not loaded."""
    from transformers import AutoConfig, AutoTokenizer

    config = replace(config, readout=resolve_readout(config))
    template = load_template(config.prompt, config.examples)
    resolved = resolve_model(config.model)
    place, revision = hub_place(resolved)
    try:
        model = AutoConfig.from_pretrained(place, revision=revision)
        # mistral_format: transformers would prefer Mistral's own kind of tokenizer, which renders no chat template.
        tokenizer = AutoTokenizer.from_pretrained(place, revision=revision, mistral_format=False)
    except LOAD_ERRORS as error:
        raise load_error(config.model, error) from error
    _check_tokenizer(tokenizer, config.model)
    architecture = (model.architectures or [""])[0]
    classifier = is_classifier(architecture)
    if classifier:
        _check_classifier(model.num_labels, tokenizer, config)
    elif config.readout == "classify" and config.engine == "vllm":
        _check_convertible(model, architecture, config.model)
    plan = PromptPlan(
        tokenizer,
        template,
        config.readout,
        config.max_document_tokens,
        config.max_label_tokens,
        _context_tokens(model),
        pad_tokens(config),
    )
    answers = _answers(tokenizer, template, config.readout, plan)
    return TeacherSpec(config.model, resolved, config, plan, answers, architecture, classifier)


def _check_tokenizer(tokenizer: Any, model: str) -> None:
    """Prompts are joined from tokens, and no user's text becomes a control token: fast tokenizers can do both."""
    if not getattr(tokenizer, "is_fast", False):
        raise UserError(
            f"The teacher {model} has no fast tokenizer ({type(tokenizer).__name__}): take a checkpoint with a "
            "tokenizer.json."
        )
    if str(getattr(tokenizer, "vocab_file", None)).endswith("tekken.json"):
        raise UserError(
            f"The teacher {model} has Mistral's own tokenizer only (tekken.json), without a chat template: take a "
            "checkpoint with a tokenizer.json and a chat template."
        )


def _check_classifier(classes: int, tokenizer: Any, config: TeacherConfig) -> None:
    """Refuse another read-out than the checkpoint's own, heads of which no class is known to mean relevant, and
    cross-encoders, which read two texts and no prompt.

    Such a checkpoint's tokenizer closes each of two texts with a token (BERT's kinds); an LLM's closes none.
    """
    if config.readout != "classify":
        raise UserError(f"The teacher {config.model} has a classification head: set teacher.readout=classify.")
    if classes > 2:
        raise UserError(
            f"The teacher {config.model} has a classification head of {classes} classes (num_labels in its "
            "config.json), and which of them means that a label fits is not known: take a reranker with one class or "
            "two, or an instruct LLM without such a head."
        )
    alone, pair = (len(tokenizer("a", other)["input_ids"]) for other in (None, "a"))
    if pair - alone > 1 and tokenizer("a")["input_ids"][-1] in tokenizer.all_special_ids:
        raise UserError(
            f"The teacher {config.model} is a cross-encoder, which reads a pair of texts and no prompt: take an "
            "instruct LLM, or a reranker that is made of one (such as Qwen3-Reranker)."
        )


def _check_convertible(config: Any, architecture: str, model: str) -> None:
    """vLLM makes a head of two rows of an output layer; of a model that also reads images it was never seen right.

    ``config``: what the config.json of ``model`` says. What reads images or sound has a part of its own for that.
    """
    others = any(getattr(config, part, None) is not None for part in ("vision_config", "audio_config"))
    if others or architecture.endswith("ForConditionalGeneration"):
        raise UserError(
            f"teacher.readout=classify makes a head of a plain LLM's output layer on vLLM, and the teacher {model} is "
            f"of another kind ({architecture or 'its config.json names no architecture'}): set teacher.readout=yes_no, "
            "which asks the same question."
        )


def _answers(tokenizer: Any, template: PromptTemplate, readout: str, plan: PromptPlan) -> AnswerTokens | None:
    form = template.yes_no
    if readout == "likelihood" or form is None:
        return None
    answers = answer_tokens(tokenizer, form)
    if readout == "yes_no":
        return answers
    # After a chat template's marks the answer begins a line; after a word there is a space.
    cue = form.answer_prefix or ("" if tokenizer.chat_template else PLAIN_CUE)
    return head_tokens(answers, tokenizer, form, plan.end, gap_after(cue))


def teacher_key(config: TeacherConfig) -> str:
    """16 hex digits over everything that changes a raw verdict: weights, dtype, quantization, prompt, read-out, cuts.

    Neither the engine and its speed nor the calibration, which is made from raw verdicts, are in it. ValueError for
    the dtype auto, which machines resolve differently: a key is of one format (see cluster/teacher_dtype.py).
    """
    if config.dtype == AUTO:
        raise ValueError("a teacher key needs the dtype that auto stands for")
    readout = resolve_readout(config)
    return _key(
        weights_fingerprint(resolve_model(config.model)),
        config.dtype,
        head_dtype(config),
        config.quantization or "",
        readout,
        fingerprint(asked_form(load_template(config.prompt, config.examples), readout)),
        config.max_document_tokens,
        config.max_label_tokens,
        pad_tokens(config),
    )


def keys_of(config: TeacherConfig) -> list[str]:
    """The key of a teacher, and of the same as it is asked a second time, where it is. Errors: as both have them."""
    return [teacher_key(one) for one in (config, second_teacher(config)) if one is not None]


def head_dtype(config: TeacherConfig) -> str:
    """The dtype of the last layer that ``config.head_dtype`` means, float32 or model.

    The likelihood takes the model's: vLLM on a CPU makes a float32 copy of the layer for every prompt whose label it
    reads, which costs more than the rest of the prompt.
    """
    if config.head_dtype != "auto":
        return config.head_dtype
    return "model" if resolve_readout(config) == "likelihood" else "float32"


def dtype_here(config: TeacherConfig) -> str:
    """The dtype that ``config.dtype`` means where this process computes."""
    return machine_dtype() if config.dtype == AUTO else config.dtype


def pad_tokens(config: TeacherConfig) -> int:
    """The padding that ``config.pad_prefix_tokens`` means, in tokens; 0: none.

    Of 300 Debian packages SmolLM2's likelihood minus the label's prior had AUC 0.79 without padding, 0.72 and 0.59 with
    line breaks after and before the document: prior and document are not padded alike.
    """
    if config.pad_prefix_tokens is not None:
        return config.pad_prefix_tokens
    return 0 if resolve_readout(config) == "likelihood" else 32


def describe(config: TeacherConfig) -> dict[str, Any]:
    """The teacher in words, for manifests, the verdict store and the report."""
    template = load_template(config.prompt, config.examples)
    return {
        "model": config.model,
        "key": teacher_key(config),
        "readout": resolve_readout(config),
        "prompt": template.title,
        "examples": len(template.examples),
        "dtype": config.dtype,
        "quantization": config.quantization,
        "max_document_tokens": config.max_document_tokens,
        "max_label_tokens": config.max_label_tokens,
    }


def build_prompts(plan: PromptPlan, batch: Sequence[DocumentPairs]) -> BatchPrompts:
    """Every pair's prompt, in the order of ``batch``; all documents are tokenized in one go, and all labels."""
    texts = [(one.title, one.text) for one in batch if one.document_hash != NO_DOCUMENT]
    prefixes = iter(plan.prefixes(texts))
    prior_prefix = plan.prior_prefix(), False
    suffixes = iter(plan.suffixes([label for document in batch for label in _described_labels(document)]))
    pairs: list[PairPrompt] = []
    truncated_documents = truncated_labels = 0
    for document in batch:
        prefix, cut = prior_prefix if document.document_hash == NO_DOCUMENT else next(prefixes)
        truncated_documents += cut
        start = len(prefix)
        # The labels come first: zip looks at them before it would take a suffix of the next document.
        for label_hash, end in zip(document.label_hashes, suffixes, strict=False):
            truncated_labels += end.truncated
            stop = start + end.label_tokens
            is_cut = cut or end.truncated
            pairs.append(PairPrompt(document.document_hash, label_hash, prefix + end.tokens, start, stop, is_cut))
    return BatchPrompts(pairs, truncated_documents, truncated_labels)


def _described_labels(document: DocumentPairs) -> Iterable[tuple[str, str]]:
    """Text and description of each label. Errors: ValueError where the document's lists are of unequal lengths."""
    if len(document.labels) != len(document.label_hashes):
        raise ValueError("labels and label_hashes are not aligned")
    return zip(document.labels, document.descriptions or ("",) * len(document.labels), strict=True)


def to_judged_batch(
    prompts: BatchPrompts,
    raw: Sequence[float] | np.ndarray,
    computed_tokens: int,
    seconds: float,
    config: TeacherConfig,
) -> JudgedBatch:
    """An engine's scores, aligned with ``prompts.pairs``. Errors: UserError for NaN scores."""
    scores = np.asarray(raw, dtype=np.float32)
    if broken := int((~np.isfinite(scores)).sum()):
        raise UserError(
            f"The teacher {config.model} gave {broken} of {len(scores)} pairs no finite score in {dtype_here(config)}: "
            "set teacher.dtype=float32, or take another teacher."
        )
    return JudgedBatch(prompts, scores, computed_tokens, seconds)


def _context_tokens(model_config: Any) -> int:
    """Tokens that the model can attend to, by its configuration (models without a limit: 1,048,576)."""
    text = model_config.get_text_config()
    found = getattr(text, "max_position_embeddings", None) or getattr(text, "n_positions", None)
    return int(found or 1 << 20)


def asked_form(template: PromptTemplate, readout: str) -> dict[str, Any]:
    """The part of a template that the read-out uses. Errors: UserError if it has none."""
    form = template.likelihood if readout == "likelihood" else template.yes_no
    if form is None:
        raise UserError(
            f"The prompt {template.name} has no {readout} form: set teacher.readout or another teacher.prompt."
        )
    examples = [asdict(example) for example in template.examples]
    about = {"name": template.name, "version": template.version, "described_label": template.described_label}
    return {**about, "form": asdict(form), "examples": examples}


def _key(*parts: str | int) -> str:
    return fingerprint([PLAN_VERSION, *parts])
