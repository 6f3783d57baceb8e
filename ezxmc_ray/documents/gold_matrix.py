"""The gold labels beside a data set's texts, document rows by label rows: scipy's .npz, or lines of "label:1 label:1".

Comes in: a Source. Goes out: int32 arrays that have been checked before scipy sees them, since it trusts what a file
says: an index out of range ends its process.
"""

from __future__ import annotations

import io
import zipfile
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ezxmc_ray.documents.sources import Source, read_lines
from ezxmc_ray.errors import UserError, one_line

#: What a matrix may take in memory: so many bytes, or so many times what its file has.
_MAX_BYTES, _MAX_RATIO = 64 << 20, 64
_ARRAYS = {"csr": ("indices", "indptr", "data"), "csc": ("indices", "indptr", "data"), "coo": ("row", "col", "data")}


@dataclass(frozen=True)
class GoldMatrix:
    """``labels[starts[i] : starts[i + 1]]`` are the label rows of document row i. int64 [documents + 1], int32 [n]."""

    starts: npt.NDArray[np.int64]
    labels: npt.NDArray[np.int32]

    @property
    def rows(self) -> int:
        """Document rows."""
        return len(self.starts) - 1

    def row(self, number: int) -> list[int]:
        """The label rows of a document row."""
        found: list[int] = self.labels[self.starts[number] : self.starts[number + 1]].tolist()
        return found


def read_gold_matrix(source: Source, labels: int) -> GoldMatrix:
    """The matrix in ``source``, which must have ``labels`` columns; stored zeros do not count. Errors: UserError."""
    if ".npz" not in source.name.rpartition("/")[2]:
        return _read_lines(source, labels)
    try:
        arrays = _load(source.read_bytes())
        matrix = _matrix(arrays)
    except UserError:
        raise
    except Exception as error:  # zipfile's, numpy's and scipy's own classes, and what is wrong with the arrays
        raise UserError(f"{source.name} is not a matrix saved by scipy.sparse.save_npz: {one_line(error)}.") from error
    if matrix.shape[1] != labels:
        raise UserError(_other_width(source, matrix.shape[1], labels))
    matrix.eliminate_zeros()
    return GoldMatrix(matrix.indptr.astype(np.int64), matrix.indices.astype(np.int32))


def _other_width(source: Source, columns: int, labels: int) -> str:
    return f"{source.name} has {columns} columns, but the label file has {labels} rows; give the files of one data set."


def _load(content: bytes) -> dict[str, npt.NDArray[Any]]:
    """The arrays of an .npz; ValueError for one whose arrays say that they take far more than the file has."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        told = sum(item.file_size for item in archive.infolist())
    if told > max(_MAX_BYTES, _MAX_RATIO * len(content)):
        raise ValueError(f"{len(content):,} bytes are to be {told:,} unpacked, which no matrix of labels is")
    with np.load(io.BytesIO(content), allow_pickle=False) as found:
        return {name: found[name] for name in found.files}


def _matrix(arrays: dict[str, npt.NDArray[Any]]) -> Any:
    """scipy.sparse.csr_matrix; ValueError for arrays that are none."""
    from scipy import sparse  # which machines that only tag do not have

    kind = arrays["format"].item()
    kind = kind.decode("ascii") if isinstance(kind, bytes) else str(kind)
    if kind not in _ARRAYS:
        raise ValueError(f"its format is {kind!r}, not one of {', '.join(_ARRAYS)}")
    first, second, data = (arrays[name] for name in _ARRAYS[kind])
    shape = tuple(int(one) for one in arrays["shape"].ravel())
    if len(shape) != 2 or min(shape) < 0 or arrays["shape"].dtype.kind not in "iu":
        raise ValueError(f"its shape is {shape}")
    if any(one.ndim != 1 for one in (first, second, data)) or data.dtype.kind not in "biuf":
        raise ValueError("its arrays are not lists of numbers")
    if first.dtype.kind not in "iu" or second.dtype.kind not in "iu":
        raise ValueError("its indices are not whole numbers")
    if kind == "coo":
        _check_indices(first, shape[0], len(data))
        _check_indices(second, shape[1], len(data))
        return sparse.coo_matrix((data, (first, second)), shape=shape).tocsr()
    rows, columns = shape if kind == "csr" else shape[::-1]
    _check_indices(first, columns, len(data))
    if len(second) != rows + 1 or second[0] != 0 or second[-1] != len(data) or (second[1:] < second[:-1]).any():
        raise ValueError(f"its indptr does not part {len(data)} values into {rows} rows")
    make = sparse.csr_matrix if kind == "csr" else sparse.csc_matrix
    matrix = make((data, first, second), shape=shape).tocsr()
    matrix.sum_duplicates()
    return matrix


def _check_indices(indices: npt.NDArray[Any], end: int, values: int) -> None:
    if len(indices) != values:
        raise ValueError(f"it has {len(indices)} indices for {values} values")
    if values and (indices.min() < 0 or indices.max() >= end):
        raise ValueError(f"an index is outside 0 to {end - 1}")


def _read_lines(source: Source, labels: int) -> GoldMatrix:
    """The text form: "rows columns", then for each row "label:value" with blanks between."""
    lines = read_lines(source)
    head = next(lines, (1, b""))[1] or b""
    try:
        rows, columns = (int(word) for word in head.split())
    except ValueError as error:
        raise UserError(f"{source.name} does not begin with its rows and columns, as in 1000 500.") from error
    if columns != labels:
        raise UserError(_other_width(source, columns, labels))
    counts, found = [0], list[int]()
    for number, line in lines:
        try:
            pairs = [word.partition(b":") for word in (line or b"?").split()]
            ones = [int(label) for label, _, value in pairs if not value or float(value)]
        except ValueError as error:
            raise UserError(
                f"{source.name}:{number} is not label:1 label:1 …; give the files of one data set."
            ) from error
        if ones and not 0 <= min(ones) <= max(ones) < labels:
            raise UserError(f"{source.name}:{number} names a label row outside 0 to {labels - 1}.")
        found += sorted(set(ones))
        counts.append(len(found))
    if len(counts) - 1 != rows:
        raise UserError(f"{source.name} says that it has {rows} rows, and has {len(counts) - 1}; is it cut off?")
    return GoldMatrix(np.array(counts, np.int64), np.array(found, np.int32))
