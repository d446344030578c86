"""Lets a loaded model score the golden rows of its bundle, and compares with what stands there; needs no pandas."""

from typing import Any

import numpy as np

from windvane.bundle import Bundle
from windvane.errors import BundleError
from windvane.predictor import Predictions, Predictor
from windvane.signature import Column

TOLERANCE = 1e-6


def check_golden(predictor: Predictor, *, tolerance: float = TOLERANCE) -> Predictions:
    """Score the golden rows and return the predictions.

    Args:
        tolerance: Largest difference of a probability, or of a regression's value, relative beyond 1, that is still equal.
            Another label is equal only where the two labels are as probable as each other, within twice that.

    Raises:
        BundleError: If there are no golden rows, or a prediction differs.
        ModelCodeError: If the model's own code fails on the rows.
    """
    import pyarrow.parquet as pq

    table = pq.ParquetFile(predictor.bundle.path / "golden.parquet").read()
    found = predictor.predict_columns({column.name: _read_column(table[column.name], column) for column in predictor.signature})
    wanted = np.array(table["prediction"].to_pylist())
    names = [f"probability_{label}" for label in predictor.classes or ()]
    chances = None
    if names and set(names) <= set(table.column_names):
        chances = np.array([table[name].to_pylist() for name in names], dtype=float).T
    if len(wanted) == 0:
        raise _differs(predictor.bundle, "there are none")
    if len(found.values) != len(wanted) or not found.finite():
        raise _differs(predictor.bundle, "a prediction is missing or not finite")
    largest = _largest_difference(found, wanted, chances, classifier=predictor.classes is not None, tolerance=tolerance)
    if not largest <= tolerance:
        raise _differs(predictor.bundle, f"they differ by up to {largest:.3g}, allowed is {tolerance:g}")
    return found


def _largest_difference(found: Predictions, wanted: np.ndarray, chances: np.ndarray | None, *, classifier: bool, tolerance: float) -> float:
    if not classifier:
        return float((np.abs(found.values - wanted) / np.maximum(1.0, np.abs(wanted))).max())
    if (chances is None) != (found.probabilities is None):
        return 1.0
    flipped = found.values != wanted
    if chances is None or found.probabilities is None:
        return float(flipped.any())
    first, second = np.sort(chances, axis=1)[:, ::-1][:, :2].T
    if (flipped & (first - second > 2 * tolerance)).any():
        return 1.0
    return float(np.abs(found.probabilities - chances).max())


def _read_column(stored: Any, column: Column) -> np.ndarray:
    """A column in conformed form; Arrow's own way to NumPy would import pandas."""
    values = stored.combine_chunks()
    if column.type == "string":
        return np.array(values.to_pylist(), dtype=object)
    if column.type == "boolean":
        return np.array(values.to_pylist(), dtype="float64" if column.nullable else "bool")
    if column.type == "datetime":
        ticks = np.frombuffer(values.buffers()[1], dtype="int64")[: len(values)].view(f"datetime64[{values.type.unit}]")
        return np.where(_known(values), ticks.astype("datetime64[us]"), np.datetime64("NaT"))
    return np.array(values.to_pylist(), dtype="float64" if column.type == "double" else "int64")


def _known(values: Any) -> np.ndarray:
    bits = values.buffers()[0]
    n = len(values)
    return (
        np.ones(n, dtype=bool) if bits is None else np.unpackbits(np.frombuffer(bits, dtype="u1"), count=n, bitorder="little").astype(bool)
    )


def _differs(bundle: Bundle, what: str) -> BundleError:
    return BundleError(f"{bundle.path}: golden rows: {what}; the libraries differ from those of the training, or train again")
