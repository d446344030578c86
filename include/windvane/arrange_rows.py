"""Puts similar rows next to each other and equal rows together, so that a model of trees computes them faster.

What is counted, named or scheduled repeats itself; and a processor foresees the way through a tree that it has just gone.
"""

import itertools
from collections.abc import Iterable, Sequence

import numpy as np

_SAMPLE = 1024
# a column of which more of the sample differ is taken for a measurement, whose values hardly repeat
_MOST_DISTINCT = 0.9
_MOST_KEYS = 2**62


def arrange_rows(columns: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray] | None:
    """Find an order in which rows that share the values of the first columns follow each other.

    Args:
        columns: Numbers of 64 bits or texts (str and None), each of shape (n,).

    Returns:
        Numbers of the rows to compute in this order, (m,), of equal rows only one; and for each of the n rows the place of its
        like among them, (n,). None if no column has values that repeat.
    """
    kept = [column for column in columns if _repeats(column)]
    if not kept:
        return None
    keys = _number_rows(kept)
    if len(kept) < len(columns):
        order = np.argsort(keys)
        return order, _inverse(order)
    codes, count = _encode_numbers(keys)
    some = np.empty(count, dtype=np.int64)
    some[codes] = np.arange(len(codes))
    order = np.argsort(keys[some])
    return some[order], _inverse(order)[codes]


def _repeats(column: np.ndarray) -> bool:
    sample = column[:: max(1, len(column) // _SAMPLE)]
    found = sample if column.dtype.kind == "O" else np.ascontiguousarray(sample).view(np.int64)
    return len(set(found.tolist())) <= _MOST_DISTINCT * len(sample)


def _number_rows(columns: Iterable[np.ndarray]) -> np.ndarray:
    """One number per row, (n,): equal for equal rows only, and ordered by the first column, then by the next."""
    keys, size = np.zeros(1, dtype=np.int64), 1
    for column in columns:
        codes, count = _encode_texts(column) if column.dtype.kind == "O" else _encode_numbers(column)
        if size * count > _MOST_KEYS:
            keys, size = _encode_numbers(keys)
        keys, size = keys * count + codes, size * count
    return keys


def _encode_texts(values: np.ndarray) -> tuple[np.ndarray, int]:
    texts = values.tolist()
    codes = dict(zip(dict.fromkeys(texts), itertools.count(), strict=False))
    return np.fromiter(map(codes.__getitem__, texts), np.int64, len(texts)), len(codes)


def _encode_numbers(values: np.ndarray) -> tuple[np.ndarray, int]:
    """Numbers are equal if all their bits are, NaN too."""
    import pyarrow as pa

    bits = np.ascontiguousarray(values).view(np.int64)
    # by their buffers, because pyarrow brings in pandas to convert arrays
    coded = pa.Array.from_buffers(pa.int64(), len(bits), [None, pa.py_buffer(bits)]).dictionary_encode()
    return np.frombuffer(coded.indices.buffers()[1], np.int32, len(bits)).astype(np.int64), len(coded.dictionary)


def _inverse(order: np.ndarray) -> np.ndarray:
    places = np.empty(len(order), dtype=np.int64)
    places[order] = np.arange(len(order))
    return places
