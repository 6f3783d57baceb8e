"""Data sets of the Extreme Classification Repository, in the layouts that are about.

JSON: ``trn.json``, ``tst.json``, ``lbl.json`` with ``uid, title, content, target_ind``. Text: one document a line
(``train_raw_texts.txt`` …), one label a line (``output-items.txt`` …) and the gold labels in ``Y.trn.npz`` and
``Y.tst.npz`` (scipy) or in ``trn_X_Y.txt`` and ``tst_X_Y.txt`` (see gold_matrix.py). All count labels by their row in
the label file, and may name pairs of a document and a label that are the same thing (``filter_labels_test.txt``:
"document row, label row"). Comes in: the directory. Goes out: label and document sources, and for each document source
its gold and excluded label numbers.
"""

from __future__ import annotations

import io
import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from pyarrow import fs

from ezxmc_ray.documents.documents import DocumentSource
from ezxmc_ray.documents.gold_matrix import read_gold_matrix
from ezxmc_ray.documents.labels import NO_LABEL, LabelSource
from ezxmc_ray.documents.lists import Gold
from ezxmc_ray.documents.rejected import BadRow, shown
from ezxmc_ray.documents.sources import COMPRESSIONS, Source, classify, display_name, open_location
from ezxmc_ray.errors import UserError, one_line

KEY = "prepare.xmc_directory"
#: Directories below the data set's own in which published sets keep their texts.
_FOLDERS = ("", "raw", "raw_data", "raw_text")
_ENDINGS = ("", *COMPRESSIONS)

_TRAIN_TEXTS = ("train_raw_texts.txt", "X.trn.txt", "trn_X.txt")
_TEST_TEXTS = ("test_raw_texts.txt", "X.tst.txt", "tst_X.txt")
_LABEL_TEXTS = ("output-items.txt", "Y.txt", "label_map.txt")
_TRAIN_FILTERS = ("filter_labels_train.txt", "trn_filter_labels.txt")
_TEST_FILTERS = ("filter_labels_test.txt", "tst_filter_labels.txt")

#: A JSON row's ``target_ind``, columns that no file of these layouts has, and a text file's own two columns.
_GOLD, _NONE, _ID, _TEXT = "target_ind", "", "id", "text"


class _Directory:
    """The files of a data set, looked up by the names that they may have."""

    def __init__(self, location: str) -> None:
        self.location = location
        self._filesystem, self._path = open_location(location)
        if self._filesystem.get_file_info(self._path).type != fs.FileType.Directory:
            raise UserError(f"{KEY}: there is no directory {location}; give the one that holds the data set's files.")
        self._infos: dict[str, fs.FileInfo] = {}
        for folder in _FOLDERS:
            at = f"{self._path.rstrip('/')}/{folder}".rstrip("/")
            for info in self._filesystem.get_file_info(fs.FileSelector(at, allow_not_found=True)):
                if info.type == fs.FileType.File and not info.base_name.startswith((".", "_")):
                    self._infos[f"{folder}/{info.base_name}".lstrip("/")] = info
        self._read: set[str] = set()

    def find(self, names: Sequence[str], format_: str) -> Source | None:
        """The one file with one of ``names``, plain or compressed; UserError if there are several, or as
        Source.of_file."""
        candidates = itertools.product(_FOLDERS, names, _ENDINGS)
        paths = [f"{folder}/{name}{ending}".lstrip("/") for folder, name, ending in candidates]
        found = [path for path in paths if path in self._infos]
        if len(found) > 1:
            raise UserError(f"{self.location} holds {' and '.join(found)}, which are the same thing; keep one of them.")
        if not found:
            return None
        self._read.add(found[0])
        info = self._infos[found[0]]
        name = display_name(self.location, info.path)
        compression = classify(name, "jsonl")[1]
        return Source.of_file(name, self._filesystem, info, format_, compression)

    def unread(self) -> list[str]:
        """The files that were not found by any name."""
        return sorted(self._infos.keys() - self._read)


def find_xmc_sources(location: str) -> tuple[list[LabelSource], list[DocumentSource], list[str]]:
    """The label and document sources of the data set in ``location`` (path or URI), and the names of other files.

    UserError if its files are of neither layout, or of both, or one is there twice.
    """
    directory = _Directory(location)
    json_layout = [directory.find([name], "jsonl") for name in ("lbl.json", "trn.json", "tst.json")]
    text_layout = [directory.find(_LABEL_TEXTS, "labels")]
    text_layout += [directory.find(names, "lines") for names in (_TRAIN_TEXTS, _TEST_TEXTS)]
    complete = [bool(labels and train) for labels, train, _ in (json_layout, text_layout)]
    if complete == [True, True]:
        raise UserError(
            f"{location} holds a data set in JSON ({json_layout[0].name}) and one in text ({text_layout[0].name}); "  # type: ignore[union-attr]
            "move one of them elsewhere."
        )
    if not any(complete):
        raise UserError(
            f"{location} is no data set that ezxmc knows: looked for lbl.json and trn.json (tst.json), and for "
            f"{' or '.join(_LABEL_TEXTS)} and {' or '.join(_TRAIN_TEXTS)} ({' or '.join(_TEST_TEXTS)}), plain, .gz, "
            f".zst or .bz2, there and in {', '.join(_FOLDERS[1:])}."
        )
    labels, train, test = json_layout if complete[0] else text_layout
    assert labels is not None and train is not None
    one_source = _json_source if complete[0] else _text_source
    # With no test file, test documents are drawn from the train file.
    documents = [one_source(directory, train, "trn", "train" if test else None, _TRAIN_FILTERS)]
    if test is not None:
        documents.append(one_source(directory, test, "tst", "test", _TEST_FILTERS))
    if complete[0]:
        required = ((KEY, ("uid",)), (KEY, ("title",)))
        return [LabelSource(labels, "uid", "title", "content", _NONE, required)], documents, directory.unread()
    return [LabelSource(labels, _ID, _TEXT, _NONE, _NONE, ())], documents, directory.unread()


def _json_source(
    directory: _Directory, source: Source, part: str, split: str | None, filters: Sequence[str]
) -> DocumentSource:
    return DocumentSource(
        source,
        id_column="uid",
        title_column="title",
        text_column="content",
        labels_column=_GOLD,
        split_column=_NONE,
        required=((KEY, ("uid",)), (KEY, ("title", "content"))),
        split=split,
        label_rows=True,
        label_filter=directory.find(filters, "lines"),
    )


def _text_source(
    directory: _Directory, source: Source, part: str, split: str | None, filters: Sequence[str]
) -> DocumentSource:
    """Ids are row numbers, told apart by ``part``, since both files count from 0."""
    return DocumentSource(
        source,
        id_column=_ID,
        title_column=_NONE,
        text_column=_TEXT,
        labels_column=_NONE,
        split_column=_NONE,
        required=(),
        split=split,
        id_prefix=f"{part}-",
        label_rows=True,
        gold_matrix=directory.find([f"Y.{part}.npz", f"{part}_X_Y.npz", f"{part}_X_Y.txt", f"Y.{part}.txt"], "lines"),
        label_filter=directory.find(filters, "lines"),
    )


class LabelsByRow:
    """Gold labels given as rows of the label file, in the row itself or in a matrix, and the filter's pairs.

    ``numbers``: int32 [rows of the label file], labels.NO_LABEL where the row is no label. UserError if a file beside
    the source cannot be read or does not fit the labels.
    """

    def __init__(self, source: DocumentSource, numbers: npt.NDArray[np.int32]) -> None:
        self._source, self._numbers = source, numbers
        self._matrix = read_gold_matrix(source.gold_matrix, len(numbers)) if source.gold_matrix else None
        self._pairs = _read_pairs(source.label_filter, len(numbers))
        self._starts = np.searchsorted(self._pairs[:, 0], np.arange(self._pairs[-1, 0] + 2 if len(self._pairs) else 1))

    def gold(self, row: int, value: Any) -> Gold | None:
        """See documents.LabelsOf."""
        if self._matrix is None:
            return self._to_numbers(value) if value is not None else None
        if row >= self._matrix.rows:
            raise self._unequal()
        return self._to_numbers(self._matrix.row(row))

    def excluded(self, row: int) -> list[int]:
        """See documents.LabelsOf; pairs with a label that was rejected need no exclusion."""
        if row + 1 >= len(self._starts):
            return []
        numbers = self._numbers[self._pairs[self._starts[row] : self._starts[row + 1], 1]]
        return [int(number) for number in numbers if number >= 0]

    def check_rows(self, rows: int) -> None:
        """UserError unless the files beside the source speak of its ``rows`` documents and of no others."""
        if self._matrix is not None and self._matrix.rows != rows:
            raise self._unequal()
        if len(self._pairs) and self._pairs[-1, 0] >= rows:
            assert self._source.label_filter is not None
            raise UserError(
                f"{self._source.label_filter.name} names document row {self._pairs[-1, 0]}, but "
                f"{self._source.source.name} has {rows} rows; give the files of one data set."
            )

    def _unequal(self) -> UserError:
        assert self._source.gold_matrix is not None and self._matrix is not None
        return UserError(
            f"{self._source.gold_matrix.name} has {self._matrix.rows} rows, and {self._source.source.name} not as "
            "many; give the files of one data set."
        )

    def _to_numbers(self, rows: Any) -> Gold:
        """Rows of the label file that are there and were not rejected are known labels."""
        if not isinstance(rows, list):
            raise BadRow(f"bad labels: {_GOLD} is {shown(rows)}, not a list")
        numbers, unknown = [], []
        for row in rows:
            if not isinstance(row, int) or isinstance(row, bool):
                raise BadRow(f"bad labels: {_GOLD} holds {shown(row)}, not a row of the label file")
            number = int(self._numbers[row]) if 0 <= row < len(self._numbers) else NO_LABEL
            if number == NO_LABEL:
                unknown.append(f"row {row} of the label file")
            else:
                numbers.append(number)
        return Gold(numbers, unknown)


def _read_pairs(source: Source | None, labels: int) -> npt.NDArray[np.int64]:
    """int64 [pairs, 2] of document row and label row, sorted."""
    if source is None:
        return np.empty((0, 2), np.int64)
    content = source.read_bytes()
    if not content.strip():
        return np.empty((0, 2), np.int64)
    try:
        pairs = np.loadtxt(io.BytesIO(content), dtype=np.int64, ndmin=2, encoding="utf-8")
    except ValueError as error:
        raise UserError(f"{source.name} is not pairs of a document row and a label row: {one_line(error)}.") from error
    if pairs.shape[1] != 2 or pairs.min() < 0 or pairs[:, 1].max() >= labels:
        raise UserError(
            f"{source.name} must hold a document row and a label row a line, counted from 0, and there are {labels} "
            "label rows; give the files of one data set."
        )
    order = np.lexsort((pairs[:, 1], pairs[:, 0]))
    return np.asarray(pairs[order], np.int64)
