"""The split that the names of files and folders say, as published data sets have it.

``split=train/part-0.parquet`` (a hive folder) says it whatever the other files are called. ``train-00000.parquet``,
``docs_test.csv`` and ``test/part-0.parquet`` say it only where the files say train and test both: a lone file that
happens to be called test.jsonl is no test set. Where a file's name and its folder contradict each other, those go that
tell train from test by themselves. Comes in: sources. Goes out: a split for each of them, or None; and sentences of
names that say another.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from urllib.parse import unquote

from ezxmc_ray.documents.sources import COMPRESSIONS, Source, common_folders
from ezxmc_ray.documents.values import split_word
from ezxmc_ray.errors import UserError

#: Where a word begins in trainData2: at a capital letter and at a digit.
_BORDER = re.compile(r"(?<=[a-z])(?=[A-Z])|(?<=[A-Za-z])(?=\d)")
#: Words of a name that count its files.
_COUNTING = re.compile(r"\d+|of|part|shard", re.IGNORECASE)
#: What a name says that has words of test and of another split: nobody knows which.
_BOTH = "both"
Said = list[str | None]


def splits_of_files(sources: Sequence[Source], split_column: str) -> list[str | None]:
    """train, test, validation or None for each of ``sources``.

    Errors: UserError for a hive folder of the split column that is none of them, and for names that contradict each
    other where nothing tells which of them is meant.
    """
    hive = [_hive(source, split_column) for source in sources]
    paths = _below_common(sources)
    folders = [next(filter(None, map(split_word, reversed(path[:-1]))), None) for path in paths]
    names = [_named(path[-1], folder) for path, folder in zip(paths, folders, strict=True)]
    ways = [[h or one for h, one in zip(hive, way, strict=True)] for way in (names, folders)]
    by_names, by_folders = [_tells(way) for way in ways]
    if by_names and by_folders:
        _check_agreed(sources, *ways)
    for first, second in [ways[::-1]] if by_folders and not by_names else [ways, ways[::-1]]:
        said = [one or other for one, other in zip(first, second, strict=True)]
        if _tells(said):
            _check_known(sources, said)
            return said
    return hive


def words_of_splits(source: Source) -> set[str]:
    """What the folders and the name of ``source`` say of splits, each by itself."""
    said = [split_word(part.rpartition("=")[2]) for part in source.parts[:-1]]
    return {one for one in [*said, _named(source.parts[-1], None)] if one}


def contradictions(sources: Sequence[Source], splits: Sequence[str | None]) -> list[str]:
    """A sentence for each file that its name or folder calls a test set, or a train set, and that is not taken so."""
    found = []
    for source, path, split in zip(sources, _below_common(sources), splits, strict=True):
        words = [_named(path[-1], None), *map(split_word, path[:-1])]
        if split and any(word and (word == "test") != (split == "test") for word in words):
            found.append(f"{source.name} is taken for {split}, and part of its name or folders says otherwise")
    return found


def _tells(said: Sequence[str | None]) -> bool:
    """Whether there are files of test and of another split."""
    kinds = {one for one in said if one}
    return bool(kinds & {"test", _BOTH}) and bool(kinds - {"test"}) and len(kinds) > 1


def _check_agreed(sources: Sequence[Source], names: Said, folders: Said) -> None:
    for source, name, folder in zip(sources, names, folders, strict=True):
        if name and folder and (name == "test") != (folder == "test"):
            raise _contradicts(source, f"{name} by its name and {folder} by its folder")


def _check_known(sources: Sequence[Source], said: Said) -> None:
    for source, one in zip(sources, said, strict=True):
        if one == _BOTH:
            raise _contradicts(source, "test and another split by its name")


def _contradicts(source: Source, what: str) -> UserError:
    return UserError(
        f"{source.name} is of {what}: rename it, put it into a folder split=train or split=test, or give its rows a "
        "column that prepare.split_column names."
    )


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


def _below_common(sources: Sequence[Source]) -> list[list[str]]:
    """The paths below what all files lie in: folders, and the name last."""
    paths = [source.name.split("/") for source in sources]
    above = common_folders(paths)
    return [path[above:] for path in paths]


def _named(name: str, folder: str | None) -> str | None:
    """What a file's name says: its first or last word, else one between; of two that which ``folder`` says too."""
    for ending in COMPRESSIONS:
        name = name.removesuffix(ending)
    words = re.split(r"[\W_]+", _BORDER.sub("-", name.rpartition(".")[0] or name))
    words = [word for word in words if word and not _COUNTING.fullmatch(word)]
    said = [split_word(word) for word in words]
    meant = {one for one in (said[:1] + said[-1:]) if one} or {one for one in said if one}
    if len(meant) < 2:
        return next(iter(meant), None)
    if folder in meant:
        return folder
    return _BOTH if "test" in meant else "validation"


def other_keys(sources: Sequence[Source], split_column: str) -> list[str]:
    """The keys of hive folders below what all files lie in that say no split; they are read by nobody."""
    folders = dict.fromkeys(folder for path in _below_common(sources) for folder in path[:-1])
    keys = dict.fromkeys(folder.partition("=")[0] for folder in folders if re.fullmatch(r"\w+=.*", folder))
    return [key for key in keys if key.lower() not in ("split", split_column.lower())]
