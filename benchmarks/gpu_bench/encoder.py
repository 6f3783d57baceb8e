"""Documents/s of the project's encoder and of SentenceTransformer.encode, the same texts, cut at two lengths.

Goes out: a row a method, with the smallest cosine to the first method's vectors (SentenceTransformer in float32).
"""

from __future__ import annotations

import time
from functools import partial

import numpy as np
import torch

import encode
from ezxmc_ray.config import EncoderConfig
from ezxmc_ray.encoder.encoder import Encoder
from gpu_bench.device import Utilisation, seconds_of
from gpu_bench.plan import Settings
from gpu_bench.report import Report
from gpu_bench.texts import random_texts, words

#: (dtype, texts a batch) of SentenceTransformer, and (dtype, tokens a forward) of the project.
THEIRS = (("float32", 32), ("float32", 256), ("bfloat16", 32), ("bfloat16", 256))
OURS = (("float32", None), ("bfloat16", None), ("bfloat16", 16384), ("bfloat16", 262144))
LENGTHS, TINY_LENGTHS = (128, 256), (16,)
TEXTS, TINY_TEXTS = 16384, 32
#: This share of the texts is encoded before the clock starts.
WARM_UP = 8


def encoder_part(settings: Settings, report: Report) -> None:
    """Both encoders in several settings, and tokenizing alone."""
    texts = random_texts(words(), TINY_TEXTS if settings.tiny else TEXTS, max(LENGTHS) + 10, 1)
    for tokens in TINY_LENGTHS if settings.tiny else LENGTHS:
        reference: list[np.ndarray] = []
        for dtype, batch in THEIRS:
            what = f"SentenceTransformer.encode, {dtype}, batches of {batch}"
            work = partial(_theirs, report, what, texts, tokens, reference, dtype, batch)
            report.attempt(what, work)
        for dtype, budget in OURS:
            what = f"project's Encoder, {dtype}, batch_tokens {budget}"
            config = EncoderConfig(dtype=dtype, max_document_tokens=tokens, batch_tokens=budget)
            report.attempt(what, partial(_ours, report, what, texts, config, reference))
        report.attempt("tokenizing alone", partial(_tokenizing, report, texts, tokens))


def _theirs(
    report: Report, what: str, texts: list[str], tokens: int, reference: list[np.ndarray], dtype: str, batch: int
) -> None:
    method = encode.sentence_transformers(encode.MODEL, getattr(torch, dtype), batch)
    _row(report, what, texts, tokens, method, reference)


def _ours(report: Report, what: str, texts: list[str], config: EncoderConfig, reference: list[np.ndarray]) -> None:
    method = encode.ezxmc(Encoder.load(encode.MODEL, config))
    _row(report, what, texts, config.max_document_tokens, method, reference)


def _row(
    report: Report, what: str, texts: list[str], tokens: int, method: encode.Encode, reference: list[np.ndarray]
) -> None:
    """``reference``: the first method's vectors; empty until there are some."""
    method(texts[: max(16, len(texts) // WARM_UP)], tokens)
    with Utilisation() as used:
        began = time.perf_counter()
        vectors = method(texts, tokens)
        took = time.perf_counter() - began
    if not reference:
        reference.append(vectors)
    least = float(encode.cosine(vectors, reference[0]).min())
    rate = len(texts) / took
    report.row(what, tokens=tokens, documents_per_s=rate, cosine_min=least, gpu_utilisation=used.mean)


def _tokenizing(report: Report, texts: list[str], tokens: int) -> None:
    encoder = Encoder.load(encode.MODEL, EncoderConfig(max_document_tokens=tokens), "cpu")
    took = seconds_of(lambda: encoder.document_tokens(texts), 1, 1)
    report.row("tokenizing alone", tokens=tokens, documents_per_s=len(texts) / took)
