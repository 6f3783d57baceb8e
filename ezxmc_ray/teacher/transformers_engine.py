"""The slow reference engine: transformers, one full forward a pair, the same prompts and read-outs as the fast one.

Comes in: a batch of documents with their labels. Goes out: raw scores in the batch's order. Nothing is shared between
pairs, so the computed tokens are all of the prompts'.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import torch

from ezxmc_ray.config import TeacherConfig
from ezxmc_ray.errors import UserError
from ezxmc_ray.models import LOAD_ERRORS, hub_place
from ezxmc_ray.teacher.engine import (
    BatchPrompts,
    DocumentPairs,
    JudgedBatch,
    PairPrompt,
    TeacherSpec,
    build_prompts,
    dtype_here,
    head_dtype,
    to_judged_batch,
)
from ezxmc_ray.teacher.memory import start_error, teacher_memory
from ezxmc_ray.teacher.readout import mean_log_likelihood, probability_of_yes

#: Prompts a forward; their logits are taken where they are read only.
_PROMPTS_A_FORWARD = 8


class TransformersEngine:
    """See the module's text; errors at the start are UserErrors where the model or memory cause them."""

    def __init__(self, teacher: TeacherSpec, **options: Any) -> None:
        """``options``: of from_pretrained, beside the dtype."""
        from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

        _check_settings(teacher.config)
        loader = AutoModelForSequenceClassification if teacher.classifier else AutoModelForCausalLM
        self.teacher = teacher
        self._device = "cuda" if torch.cuda.is_available() else "cpu"
        dtype = getattr(torch, dtype_here(teacher.config))
        place, revision = hub_place(teacher.resolved)
        try:
            model = loader.from_pretrained(place, revision=revision, dtype=dtype, **options)
            self._model = model.to(self._device).eval()
        except LOAD_ERRORS as error:
            raise start_error(teacher.config, error) from error
        if not teacher.classifier and head_dtype(teacher.config) == "float32":
            self._widen_head()

    def prompts(self, batch: Sequence[DocumentPairs]) -> BatchPrompts:
        """The prompts of a batch."""
        return build_prompts(self.teacher.plan, batch)

    def judge(self, batch: Sequence[DocumentPairs]) -> JudgedBatch:
        """Judge a batch."""
        return next(self.judge_many([batch]))

    def judge_many(self, batches: Iterable[Sequence[DocumentPairs]]) -> Iterator[JudgedBatch]:
        """Judge batch after batch."""
        return self.judge_stream(map(self.prompts, batches))

    def judge_stream(self, coming: Iterable[BatchPrompts | None]) -> Iterator[JudgedBatch]:
        """Judge what comes, one batch after the other."""
        return (self._judged(prompts) for prompts in coming if prompts is not None)

    def _judged(self, prompts: BatchPrompts) -> JudgedBatch:
        started = time.perf_counter()
        raw: list[float] = []
        with teacher_memory(self.teacher.config):
            for start in range(0, len(prompts.pairs), _PROMPTS_A_FORWARD):
                raw += self._scores(prompts.pairs[start : start + _PROMPTS_A_FORWARD])
        computed = sum(len(pair.tokens) for pair in prompts.pairs)
        return to_judged_batch(prompts, raw, computed, time.perf_counter() - started, self.teacher.config)

    def close(self) -> None:
        """Free the model."""
        del self._model

    def _widen_head(self) -> None:
        """Compute the last layer in float32; its weights are copied, since the first layer may share them."""
        head = copy.deepcopy(self._model.get_output_embeddings()).float()
        head.register_forward_pre_hook(lambda _, inputs: tuple(one.float() for one in inputs))
        self._model.set_output_embeddings(head)

    @torch.inference_mode()
    def _scores(self, pairs: list[PairPrompt]) -> list[float]:
        if self.teacher.classifier:
            return self._class_scores(pairs)
        answers = self.teacher.answers
        # Rows that are read, counted from the prompts' common end: the logit of token i stands at position i - 1.
        kept = 1 if answers is not None else max(len(pair.tokens) - pair.label_start for pair in pairs) + 1
        logits = self._logits(pairs, kept)
        if answers is not None:
            rows = logits[:, -1, answers.all].double().tolist()
            return [probability_of_yes(dict(zip(answers.all, row, strict=True)), answers) for row in rows]
        return [_label_score(pair, row) for pair, row in zip(pairs, logits, strict=True)]

    def _class_scores(self, pairs: list[PairPrompt]) -> list[float]:
        """P(relevant) of a classification head, pair by pair: its pooling finds the last token by padding's id."""
        scores = []
        for pair in pairs:
            logits = self._model(input_ids=torch.tensor([pair.tokens], device=self._device)).logits[0].double()
            scores.append(float(chances_of_relevant(logits)))
        return scores

    def _logits(self, pairs: list[PairPrompt], kept: int) -> torch.Tensor:
        """float [pairs, kept, vocabulary]: logits of the last ``kept`` positions, prompts padded on the left."""
        longest = max(len(pair.tokens) for pair in pairs)
        tokens = torch.zeros((len(pairs), longest), dtype=torch.long)
        mask = torch.zeros_like(tokens)
        for row, pair in enumerate(pairs):
            tokens[row, longest - len(pair.tokens) :] = torch.tensor(pair.tokens)
            mask[row, longest - len(pair.tokens) :] = 1
        positions = (mask.cumsum(1) - 1).clamp(min=0)  # a prompt's first token is at position 0, whatever its padding
        arguments: dict[str, Any] = {"input_ids": tokens, "attention_mask": mask, "position_ids": positions}
        moved = {name: value.to(self._device) for name, value in arguments.items()}
        return self._model(**moved, logits_to_keep=kept, use_cache=False).logits


def _check_settings(config: TeacherConfig) -> None:
    """UserError for what vLLM alone does, and this engine and those made from it would leave undone without a word."""
    for key, value, plain in (
        ("quantization", config.quantization, None),
        ("tensor_parallel", config.tensor_parallel, 1),
    ):
        if value != plain:
            raise UserError(
                f"teacher.engine={config.engine} does not do teacher.{key}={value}: set teacher.engine=vllm."
            )


def chances_of_relevant(logits: torch.Tensor) -> torch.Tensor:
    """P(relevant), [...], of a classification head's ``logits`` [..., 1 or 2]; of two classes the last one."""
    return (torch.softmax(logits, -1) if logits.shape[-1] > 1 else torch.sigmoid(logits))[..., -1]


def _label_score(pair: PairPrompt, logits: torch.Tensor) -> float:
    """Mean log probability of the label's tokens; ``logits`` [kept, vocabulary] end at the prompt's last token."""
    label = torch.tensor(pair.tokens[pair.label_start : pair.label_stop], device=logits.device)
    last = pair.label_stop - 1 - len(pair.tokens)  # row, from the end, that predicts the label's last token
    rows = logits[last - len(label) : last] if last else logits[-len(label) :]
    log_probabilities = torch.log_softmax(rows.double(), dim=-1).gather(1, label[:, None])
    return mean_log_likelihood(log_probabilities[:, 0].tolist())
