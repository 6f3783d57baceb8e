"""The packed engine: transformers, all pairs of some documents in one forward, each as it would be alone.

Comes in: batches of documents with their labels. Goes out: raw scores in the batch's order, the numbers of one forward
a pair (see packing). The head that all prompts begin with is computed once, at the start. Of the output layer only the
rows that a read-out asks for are computed, of a yes/no question only the answers' columns. Any causal checkpoint of
Hugging Face will do whose attention takes a mask; the first pairs show whether it does: they are asked alone as well.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ezxmc_ray.errors import UserError
from ezxmc_ray.prefetch import prefetch
from ezxmc_ray.tables import NO_DOCUMENT
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
from ezxmc_ray.teacher.memory import teacher_memory
from ezxmc_ray.teacher.packing import Packed, packs
from ezxmc_ray.teacher.readout import AnswerTokens, mean_log_likelihood
from ezxmc_ray.teacher.transformers_engine import TransformersEngine, chances_of_relevant

#: Tokens of a sequence of several documents. Attention looks at every pair of tokens, masked or not; a matrix product
#: on a CPU is full with a few hundred. Of a document's labels so many more go into one, since its prefix is shared.
_SEQUENCE_TOKENS_CPU, _SEQUENCE_TOKENS_GPU = 512, 2048
_DOCUMENT_TOKENS = 4096
#: Rows of the whole vocabulary's logits at once (likelihood).
_LOGIT_ROWS = 256
#: What is asked packed and alone before anything else, in one sequence.
_PROBE = [
    DocumentPairs(NO_DOCUMENT, "", "", (NO_DOCUMENT,) * 2, ("astronomy", "a label of more words than one")),
    DocumentPairs(
        b"probe", "Stars", "On the motion of the stars.", (NO_DOCUMENT,) * 2, ("music", "history of astronomy")
    ),
]
#: How far the two may differ, in natural logarithms: rounding in float32, and in half precision.
_PROBE_TOLERANCE = {"float32": 0.01, "float16": 0.1, "bfloat16": 0.5}


class PackedEngine(TransformersEngine):
    """See the module's text; errors at the start are UserErrors where model, memory or configuration cause them.

    ``_scores`` is still that of one forward a pair: what the packed scores of the first pairs are held against.
    """

    def __init__(self, teacher: TeacherSpec) -> None:
        super().__init__(teacher, attn_implementation="sdpa")
        self._use_threads()
        _check_attention(self._model.config.get_text_config(), teacher)
        self._reader = _reader(self._model, teacher)
        self._head = teacher.plan.head
        self._cache = self._new_cache()
        self._check_probe()

    def judge_many(self, batches: Iterable[Sequence[DocumentPairs]]) -> Iterator[JudgedBatch]:
        """Judge batch after batch; the next one's prompts are made in a thread while one is judged."""
        return self.judge_stream(prefetch(self.prompts, batches))

    def judge_stream(self, coming: Iterable[BatchPrompts | None]) -> Iterator[JudgedBatch]:
        """Judge what comes, one batch after the other."""
        self._use_threads()
        return super().judge_stream(coming)

    def _judged(self, prompts: BatchPrompts) -> JudgedBatch:
        started = time.perf_counter()
        raw: list[float] = []
        computed = 0
        budget = _SEQUENCE_TOKENS_GPU if self._device == "cuda" else _SEQUENCE_TOKENS_CPU
        with teacher_memory(self.teacher.config):
            for packed in self._packs(prompts.pairs, budget):
                raw += self._packed_scores(packed)
                computed += len(packed.tokens)
        return to_judged_batch(prompts, raw, computed, time.perf_counter() - started, self.teacher.config)

    def close(self) -> None:
        """Free the model."""
        super().close()
        del self._cache, self._reader

    def _widen_head(self) -> None:
        """Only what is read of the last layer is widened, by the reader."""

    def _packs(self, pairs: Sequence[PairPrompt], budget: int) -> Iterator[Packed]:
        of_labels = self.teacher.config.readout == "likelihood"
        return packs(pairs, len(self._head), budget, _DOCUMENT_TOKENS, of_labels)

    def _use_threads(self) -> None:
        """OpenMP's thread count belongs to a thread, and Ray sets it to 1: set it in whichever thread calls."""
        if self._device == "cpu":
            torch.set_num_threads(self.teacher.config.threads or len(os.sched_getaffinity(0)))

    @torch.inference_mode()
    def _new_cache(self) -> Any:
        """Keys and values of the head's tokens, which every sequence begins after."""
        from transformers import DynamicCache

        if not self._head:
            return None
        cache = DynamicCache()
        tokens = torch.tensor([self._head], device=self._device)
        _body(self._model)(input_ids=tokens, past_key_values=cache, use_cache=True)
        return cache

    @torch.inference_mode()
    def _packed_scores(self, packed: Packed) -> list[float]:
        return self._reader.scores(self._hidden(packed), packed)

    def _hidden(self, packed: Packed) -> Tensor:
        """[T, d]: the last layer's output for a sequence, normalized as the output layer takes it."""
        mask = torch.from_numpy(packed.mask(len(self._head))).to(self._device)
        tokens, positions = (torch.from_numpy(one).to(self._device) for one in (packed.tokens, packed.positions))
        hidden: Tensor = _body(self._model)(
            input_ids=tokens[None],
            position_ids=positions[None],
            attention_mask=mask[None, None],
            past_key_values=self._cache,
            use_cache=self._cache is not None,
        ).last_hidden_state[0]
        if self._cache is not None:
            self._cache.crop(-len(packed.tokens))
        return hidden

    def _check_probe(self) -> None:
        """Refuse a checkpoint whose pairs do not come out as they do alone by the checkpoint's own forward."""
        pairs = build_prompts(self.teacher.plan, _PROBE).pairs
        [packed] = self._packs(pairs, _DOCUMENT_TOKENS)
        found, alone = np.array(self._packed_scores(packed)), np.array(self._scores(pairs))
        if self.teacher.config.readout != "likelihood":
            found, alone = (np.log(values) - np.log1p(-values) for values in (found, alone))
        off = float(np.abs(found - alone).max())
        if not off <= _PROBE_TOLERANCE[dtype_here(self.teacher.config)]:
            raise UserError(
                f"The teacher {self.teacher.reference} gives other scores packed than alone (by {off:.2f}, natural "
                "logarithm): set teacher.engine=vllm."
            )


class _Answers:
    """P(yes) from the answers' columns of the output layer: of a language model's, or of a classification head."""

    def __init__(self, model: Any, answers: AnswerTokens | None, dtype: torch.dtype | None) -> None:
        layer: nn.Linear = model.get_output_embeddings() if answers else model.score
        columns = answers.all if answers else slice(None)
        self._weight = layer.weight[columns].to(dtype or layer.weight.dtype)
        self._bias = None if layer.bias is None else layer.bias[columns].to(self._weight.dtype)
        self._yes = len(answers.yes) if answers else 0
        self._finish = _finisher(model.config.get_text_config())

    def scores(self, hidden: Tensor, packed: Packed) -> list[float]:
        rows = hidden[torch.from_numpy(packed.ends).to(hidden.device)].to(self._weight.dtype)
        return self._chances(self._finish(nn.functional.linear(rows, self._weight, self._bias)))

    def _chances(self, logits: Tensor) -> list[float]:
        """P(yes) of [pairs, columns]: the answers', or a head's one or two classes, the relevant one last."""
        logits = logits.double()
        if self._yes:
            return torch.softmax(logits, -1)[:, : self._yes].sum(1).tolist()
        return chances_of_relevant(logits).tolist()


class _Likelihood:
    """Mean log P(label token), natural logarithm, over the whole vocabulary."""

    def __init__(self, model: Any, dtype: torch.dtype | None) -> None:
        self._layer: nn.Linear = model.get_output_embeddings()
        self._dtype = dtype
        self._finish = _finisher(model.config.get_text_config())

    def scores(self, hidden: Tensor, packed: Packed) -> list[float]:
        rows, tokens, counts = [], [], []
        for pair, before, first in zip(packed.pairs, packed.prefix_ends, packed.starts, strict=True):
            count = pair.label_stop - pair.label_start
            rows += [int(before), *range(first, first + count - 1)]  # each predicts the token behind it
            tokens += pair.tokens[pair.label_start : pair.label_stop]
            counts.append(count)
        found = self._log_probabilities(hidden[torch.tensor(rows, device=hidden.device)], torch.tensor(tokens))
        return [mean_log_likelihood(part.tolist()) for part in np.split(found, np.cumsum(counts)[:-1])]

    def _log_probabilities(self, rows: Tensor, tokens: Tensor) -> np.ndarray:
        """float64 [n]: log P of each token by its row, a part of the rows at a time."""
        found = []
        for start in range(0, len(rows), _LOGIT_ROWS):
            part, wanted = rows[start : start + _LOGIT_ROWS], tokens[start : start + _LOGIT_ROWS].to(rows.device)
            logits = self._finish(self._logits(part)).float()
            chosen = logits.gather(1, wanted[:, None])[:, 0].double() - torch.logsumexp(logits, -1).double()
            found.append(chosen.cpu().numpy())
        return np.concatenate(found)

    def _logits(self, rows: Tensor) -> Tensor:
        if self._dtype is None:
            return self._layer(rows)
        bias = None if self._layer.bias is None else self._layer.bias.to(self._dtype)
        return nn.functional.linear(rows.to(self._dtype), self._layer.weight.to(self._dtype), bias)


def _reader(model: Any, teacher: TeacherSpec) -> _Answers | _Likelihood:
    wide = not teacher.classifier and head_dtype(teacher.config) == "float32"
    dtype = torch.float32 if wide else None
    if teacher.config.readout == "likelihood":
        return _Likelihood(model, dtype)
    return _Answers(model, None if teacher.classifier else teacher.answers, dtype)


def _finisher(config: Any) -> Any:
    """What some families do to logits behind the output layer: Granite divides, Cohere multiplies, Gemma 2 caps."""
    factor = (getattr(config, "logit_scale", None) or 1.0) / (getattr(config, "logits_scaling", None) or 1.0)
    cap = getattr(config, "final_logit_softcapping", None)

    def finish(logits: Tensor) -> Tensor:
        logits = logits * factor if factor != 1.0 else logits
        return torch.tanh(logits / cap) * cap if cap else logits

    return finish


def _body(model: Any) -> Any:
    """The network without its output layer."""
    return getattr(model, model.base_model_prefix)


def _check_attention(config: Any, teacher: TeacherSpec) -> None:
    """Refuse what sees only the tokens of a window that is shorter than the prompts, and layers without attention."""
    layers = set(getattr(config, "layer_types", None) or ())
    window = getattr(config, "sliding_window", None) or 0
    slides = "sliding_attention" in layers or (not layers and window and getattr(config, "use_sliding_window", True))
    if layers - {"full_attention", "sliding_attention"} or (slides and window < teacher.plan.max_prompt_tokens):
        raise UserError(
            f"The teacher {teacher.reference} does not look at all tokens of a prompt "
            f"({', '.join(sorted(layers)) or 'sliding window'}), which teacher.engine=packed needs: set "
            "teacher.engine=vllm."
        )
