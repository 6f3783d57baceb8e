"""The split that the names of files and folders say, as published data sets have it.

``split=train/part-0.parquet`` (a hive folder) says it whatever the other files are called. ``train-00000.parquet``,
``docs_test.csv`` and ``test/part-0.parquet`` say it only where the files say train and test both: a lone file that
happens to be called test.jsonl is no test set. Comes in: sources. Goes out: a split for each of them, or None.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from urllib.parse import unquote

from ezxmc_ray.documents.sources import COMPRESSIONS, Source, common_folders
from ezxmc_ray.documents.values import SPLIT_WORDS, split_word
from ezxmc_ray.errors import UserError

_WORDS = f"({'|'.join(sorted(SPLIT_WORDS, key=len, reverse=True))})"
_FIRST = re.compile(rf"{_WORDS}(?![^\W_])", re.IGNORECASE)
_LAST = re.compile(rf".*[-_.]{_WORDS}", re.IGNORECASE)


def splits_of_files(sources: Sequence[Source], split_column: str) -> list[str | None]:
    """train, test, validation or None for each of ``sources``.

    Errors: UserError for a hive folder of the split column that is none of them.
    """
    hive = [_hive(source, split_column) for source in sources]
    paths = [source.name.split("/") for source in sources]
    above = common_folders(paths)
    named = [_named(path[above:]) for path in paths]
    said = {one for one in (h or n for h, n in zip(hive, named, strict=True)) if one}
    if "test" not in said or said == {"test"}:
        named = [None] * len(named)
    return [h or n for h, n in zip(hive, named, strict=True)]


def _hive(source: Source, split_column: str) -> str | None:
    """What a folder key=value of the path says, where the key is the split column or split."""
    for folder in source.name.split("/")[:-1]:
        key, equals, value = folder.partition("=")
        if equals and key.lower() in ("split", split_column.lower()):
            word = split_word(unquote(value))
            if word is None:
                raise UserError(
                    f"{source.name} lies in a folder {folder}, which must be {key}=train, {key}=test or "
                    f"{key}=validation; rename it, or name other files in prepare.documents."
                )
            return word
    return None


def _named(path: Sequence[str]) -> str | None:
    """What a file's name, else that of its folder, says; ``path``: below what all files lie in."""
    *folders, stem = path
    for ending in COMPRESSIONS:
        stem = stem.removesuffix(ending)
    stem = stem.rpartition(".")[0] or stem
    found = _FIRST.match(stem) or _LAST.fullmatch(stem)
    return split_word(found[1]) if found else split_word(folders[-1]) if folders else None


def other_keys(sources: Sequence[Source], split_column: str) -> list[str]:
    """The keys of hive folders below what all files lie in that say no split; they are read by nobody."""
    paths = [source.name.split("/") for source in sources]
    above = common_folders(paths)
    folders = dict.fromkeys(folder for path in paths for folder in path[above:-1])
    keys = dict.fromkeys(folder.partition("=")[0] for folder in folders if re.fullmatch(r"\w+=.*", folder))
    return [key for key in keys if key.lower() not in ("split", split_column.lower())]
