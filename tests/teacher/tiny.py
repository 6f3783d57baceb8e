"""Networks that cost next to nothing to compute, with a real tokenizer; tokenizers of a few words, of each kind."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import AutoConfig, PreTrainedTokenizerFast

SIZES = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 3, "num_attention_heads": 4, "head_dim": 16}


def save_tiny_llm(folder: Path, like: str, loader: Any, **more: Any) -> str:
    """A network of ``like``'s kind with random weights, and its tokenizer."""
    torch.manual_seed(0)
    for file in Path(like).glob("*"):
        if "token" in file.name or "template" in file.name:
            shutil.copy(file, folder)
    config = AutoConfig.from_pretrained(like, **SIZES, num_key_value_heads=2, initializer_range=0.3, **more)
    loader.from_config(config, dtype=torch.float32).save_pretrained(folder)
    return str(folder)


#: Those that put a space before every text, two ways of it, and one that puts none.
TOKENIZERS = ("byte-level", "metaspace", "prepend")
WORDS = ("Answer", "Music", "No", "Tag", "Text", "Topic", "Yes", "learning", "machine", "no", "title", "yes")


def tiny_tokenizer(kind: str) -> Any:
    """A tokenizer of ``WORDS``, each one token with a space before it and without.

    ``byte-level``: as Qwen's and Llama 3's. The others fall back to bytes, and put a space before the first word of a
    text: ``metaspace`` as transformers reads Llama's, ``prepend``, behind a mark too, as Llama 2's tokenizer.json.
    """
    marks = {"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>"}
    if kind == "byte-level":
        tokenizer = Tokenizer(models.BPE())
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.decoder = decoders.ByteLevel()
        alphabet = pre_tokenizers.ByteLevel.alphabet()
        trainer = trainers.BpeTrainer(vocab_size=1000, initial_alphabet=alphabet, show_progress=False)
        tokenizer.train_from_iterator([f"{word} {word}" for word in WORDS] * 2, trainer)
    else:
        tokenizer = _pieces_of_words()
        tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
        if kind == "metaspace":
            tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
        else:
            tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.add_special_tokens(list(marks.values()))
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **marks)


def _pieces_of_words() -> Tokenizer:
    """Merges that build each word letter by letter, first those of words behind a space."""
    merges: dict[tuple[str, str], None] = {}
    for word in [f"▁{word}" for word in WORDS] + list(WORDS):
        merges |= dict.fromkeys((word[:end], word[end]) for end in range(1, len(word)))
    letters = sorted({"▁", *"".join(WORDS), *":.,<>/|[]"})
    bytes_ = [f"<0x{byte:02X}>" for byte in range(256)]
    pieces = dict.fromkeys(["<unk>", "<s>", "</s>", *bytes_, *letters, *("".join(pair) for pair in merges)])
    vocabulary = {piece: number for number, piece in enumerate(pieces)}
    return Tokenizer(models.BPE(vocabulary, list(merges), unk_token="<unk>", fuse_unk=True, byte_fallback=True))
