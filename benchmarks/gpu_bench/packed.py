"""The packed engine: pairs/s and tokens computed over the ideal; with real weights beside vLLM on the same prompts.

Comes in: the name of a teacher. Goes out: rows by engine, length of the documents and labels a document; how far the
scores of both engines are from float32's, one forward a pair, and from each other. The documents with which a row
begins are those of the same row of another engine, and of ``project's defaults`` of the part ``teacher``.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any
from unittest import mock

import numpy as np
import torch

from ezxmc_ray.config import TeacherConfig
from ezxmc_ray.teacher import packed_engine
from ezxmc_ray.teacher.engine import DocumentPairs
from gpu_bench import models, speed
from gpu_bench.device import on_gpu
from gpu_bench.models import LABELS_PER_DOCUMENT, REAL
from gpu_bench.plan import Settings
from gpu_bench.report import Report
from gpu_bench.teacher import DEFAULTS_SEED, SECONDS, TINY_SECONDS
from teacher_bench.figures import agreement_of

#: (tokens of a document, labels), beside the usual 250 and 10. SmolLM2 reads 8,192 tokens.
WORKS, TINY_WORKS = ((32, 10), (250, 1), (250, 100), (2000, 10)), ((16, 3),)
WORK_SECONDS = 3.0
#: Tokens of a sequence of several documents, beside the engine's own number.
BUDGETS, TINY_BUDGETS = (1024, 4096, 8192), (128,)
BUDGET = "_SEQUENCE_TOKENS_GPU" if on_gpu() else "_SEQUENCE_TOKENS_CPU"
#: Documents of ten labels over which scores are compared.
COMPARED, TINY_COMPARED = 50, 2
SEED = 300


def packed_part(settings: Settings, report: Report, name: str) -> None:
    """A shape with random weights: the packed engine alone. Real weights: the packed engine and vLLM."""
    base = replace(models.teacher_config(settings, name), engine="packed")
    report.note(model=name, random_weights=name != REAL, document_tokens=base.max_document_tokens)
    count = TINY_COMPARED if settings.tiny else COMPARED
    bench = _Bench(settings, report, speed.sample_of(base, count, SEED - 1))
    if name != REAL:
        engine, started = models.start(base, name)
        report.note(start_seconds=started, weights_per_token=models.weights_per_token(engine.teacher.resolved))
        bench.usual(engine, base)
        bench.budgets(engine, base)
        return
    for kind in ("packed", "vllm"):
        report.attempt(kind, partial(bench.real, replace(base, engine=kind)))
    report.attempt("float32", lambda: bench.reference(base))
    bench.compare()


@dataclass
class _Bench:
    """``scores``: by engine P(yes), float [pairs], of ``compared``."""

    settings: Settings
    report: Report
    compared: list[DocumentPairs]
    scores: dict[str, np.ndarray] = field(default_factory=dict)

    def real(self, config: TeacherConfig) -> None:
        """All that one engine is asked with real weights."""
        works = TINY_WORKS if self.settings.tiny else WORKS
        longest = max(config.max_document_tokens, *(tokens for tokens, _ in works))
        engine, started = models.start(replace(config, max_document_tokens=longest), REAL)
        self.report.note(**{f"{config.engine}_start_seconds": started})
        try:
            self.usual(engine, config)
            self._score(engine, config, config.engine)
            seconds = TINY_SECONDS if self.settings.tiny else WORK_SECONDS
            for number, (tokens, labels) in enumerate(works):
                work = replace(config, max_document_tokens=tokens)
                ask = partial(self._row, config.engine, engine, work, seconds, SEED + number, labels)
                self.report.attempt(f"{config.engine}, {tokens} tokens, {labels} labels", ask)
            if config.engine == "packed":
                self.budgets(engine, config)
        finally:
            models.stop(engine)

    def usual(self, engine: Any, config: TeacherConfig) -> None:
        """The documents that every engine judges."""
        self._row(config.engine, engine, config, TINY_SECONDS if self.settings.tiny else SECONDS, DEFAULTS_SEED)

    def budgets(self, engine: Any, config: TeacherConfig) -> None:
        """The same documents in shorter and longer sequences."""
        seconds = TINY_SECONDS if self.settings.tiny else WORK_SECONDS
        for tokens in TINY_BUDGETS if self.settings.tiny else BUDGETS:
            what = f"packed, sequences of {tokens:,} tokens"
            with mock.patch.object(packed_engine, BUDGET, tokens):
                self.report.attempt(what, partial(self._row, what, engine, config, seconds, DEFAULTS_SEED))

    def reference(self, base: TeacherConfig) -> None:
        """A forward a pair in float32."""
        config = replace(base, engine="transformers", dtype="float32")
        engine, _ = models.start(config, REAL)
        self._score(engine, config, "float32")
        models.stop(engine)

    def compare(self) -> None:
        """A row for each two of the three that gave scores."""
        for one, other in (("packed", "float32"), ("vllm", "float32"), ("packed", "vllm")):
            if one in self.scores and other in self.scores:
                found = agreement_of(self.scores[one], self.scores[other])
                found["compared_pairs"] = found.pop("reference_pairs")
                self.report.row(f"scores of {one} beside {other}", **found)

    def _score(self, engine: Any, config: TeacherConfig, name: str) -> None:
        speed.configure(engine, config)
        self.scores[name] = np.asarray(engine.judge(self.compared).raw, np.float64)

    def _row(
        self,
        what: str,
        engine: Any,
        config: TeacherConfig,
        seconds: float,
        seed: int,
        labels: int = LABELS_PER_DOCUMENT,
    ) -> None:
        """Speed; tokens over the ideal for a sample of other documents; the memory that PyTorch had at its highest."""
        if on_gpu():
            torch.cuda.reset_peak_memory_stats()
        found = speed.judge_for(engine, config, seconds, seed, labels)
        count = speed.TINY_SAMPLE if self.settings.tiny else speed.SAMPLE
        over = speed.tokens_over_ideal(engine, config, speed.sample_of(config, count, seed + 1000, labels))
        memory = torch.cuda.max_memory_allocated() / 2**30 if on_gpu() else None
        self.report.row(what, **found, tokens_over_ideal=over, most_memory_gib=memory)
