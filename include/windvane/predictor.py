"""Loads the model of a bundle and predicts with it: the same code for rehearsal, serving, gates, monitoring and batches."""

import functools
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from windvane.errors import BundleError, DataError, ModelCodeError
from windvane.model_code import ModelCode, load_model_code
from windvane.signature import Column, arrays_of, columns_from_json, conform

if TYPE_CHECKING:
    import pandas as pd

    from windvane.bundle import Bundle


@dataclass(frozen=True)
class Predictions:
    """What a model says about n rows.

    Attributes:
        values: Shape (n,): labels of a classifier, numbers of a regression.
        probabilities: Shape (n, k), columns in the order of the classes; None where the model has none.
    """

    values: np.ndarray
    probabilities: np.ndarray | None

    def __getitem__(self, rows: Any) -> "Predictions":
        """The predictions of some of the rows."""
        return Predictions(self.values[rows], None if self.probabilities is None else self.probabilities[rows])

    def finite(self) -> bool:
        """Whether no prediction is NaN or infinite."""
        numbers = self.values if self.probabilities is None else self.probabilities
        return bool(np.isfinite(numbers).all()) if np.issubdtype(numbers.dtype, np.number) else True


class Predictor(ABC):
    """A loaded model; see `SkopsPredictor` and `OnnxPredictor`.

    Attributes:
        signature: The input columns that it needs.
        classes: Labels in the order of the probabilities' columns; None for a regression.
        runtime: What computes the predictions.
    """

    runtime: Literal["onnx", "skops"]

    def __init__(self, bundle: "Bundle") -> None:
        self.bundle = bundle
        self.signature: tuple[Column, ...] = columns_from_json(bundle.manifest["signature"])
        self.classes: tuple[Any, ...] | None = None if bundle.manifest["classes"] is None else tuple(bundle.manifest["classes"])

    @property
    def digest(self) -> str:
        """Digest of the bundle that this is."""
        return self.bundle.digest

    @functools.cached_property
    def code(self) -> ModelCode:
        """The model file of the bundle, imported.

        Raises:
            BundleError: If its digest differs from the manifest's.
            ModelCodeError: If it does not import.
        """
        return load_model_code(
            self.bundle.path / "model.py", self.bundle.manifest["model"], sha256=self.bundle.manifest["files"]["model.py"]
        )

    def predict(self, frame: "pd.DataFrame") -> Predictions:
        """Predict the rows of a frame that has the columns of the signature; more columns do no harm.

        Raises:
            DataError: If a column is missing or of another type.
            ModelCodeError: If the model's own code fails on the rows.
        """
        return self.predict_columns(arrays_of(conform(frame, self.signature), self.signature))

    @abstractmethod
    def predict_columns(self, columns: Mapping[str, np.ndarray]) -> Predictions:
        """Predict n rows that are in conformed form already, as `signature.arrays_of` describes it.

        Args:
            columns: Exactly the columns of the signature, each of shape (n,).

        Raises:
            DataError: If a column is missing.
            ModelCodeError: If the model's own code fails on the rows.
        """


def predict_rows(pipeline: Any, code: ModelCode, rows: "pd.DataFrame", *, classifier: bool) -> Predictions:
    """Apply `features` and the fitted pipeline to conformed rows.

    Raises:
        ModelCodeError: If either fails.
    """
    return predict_features(pipeline, make_features(code, rows), where=str(code.path), classifier=classifier)


def make_features(code: ModelCode, rows: "pd.DataFrame") -> "pd.DataFrame":
    """Apply the model file's `features` and make sure that it is row-wise.

    Raises:
        ModelCodeError: If it fails or changes the number of rows.
    """
    try:
        made: pd.DataFrame = code.features(rows.copy())
    except Exception as exc:
        raise ModelCodeError(f"{code.path}: features() failed with {_kind(exc)}; it must accept every valid row") from exc
    if len(made) != len(rows):
        raise ModelCodeError(
            f"{code.path}: features() got {len(rows)} rows and returned {len(made)}; it must keep every row and their order"
        )
    return made


def predict_features(pipeline: Any, made: "pd.DataFrame", *, where: str, classifier: bool) -> Predictions:
    """Predict from features.

    Raises:
        ModelCodeError: If the pipeline fails.
    """
    try:
        if classifier and hasattr(pipeline, "predict_proba"):
            probabilities = np.asarray(pipeline.predict_proba(made), dtype=float)
            return Predictions(np.asarray(pipeline.classes_)[probabilities.argmax(axis=1)], probabilities)
        return Predictions(np.asarray(pipeline.predict(made)).reshape(len(made), -1)[:, 0], None)
    except Exception as exc:
        raise ModelCodeError(f"{where}: the pipeline failed to predict with {_kind(exc)}; it must accept every valid row") from exc


def load_predictor(bundle: "Bundle") -> Predictor:
    """Load the model of a bundle for the runtime that its manifest names; without one that is skops.

    Raises:
        BundleError: If a file's digest differs from the manifest's, or the model holds something that is not allowed.
        ModelCodeError: If the model file is needed and does not import.
    """
    runtime = bundle.manifest.get("runtime", {"format": "skops"})
    try:
        if runtime["format"] == "onnx":
            from windvane.onnx_predictor import OnnxPredictor

            return OnnxPredictor(bundle)
        if runtime["format"] == "skops":
            from windvane.skops_predictor import SkopsPredictor

            return SkopsPredictor(bundle)
    except (AttributeError, KeyError, TypeError, ValueError) as exc:
        raise BundleError(f"{bundle.path}/bundle.json: is incomplete: {_kind(exc)}; restore the bundle or train again") from exc
    raise BundleError(f"{bundle.path}/bundle.json: runtime.format: got {runtime['format']!r:.40}, allowed are onnx and skops; train again")


def golden_differences(predictor: Predictor, *, tolerance: float = 1e-6) -> list[str]:
    """Score the golden rows and list, for people, what differs from the bundle's own predictions; empty means equal."""
    import pandas as pd

    golden = pd.read_parquet(predictor.bundle.path / "golden.parquet")
    try:
        found = golden_frame(golden[[c.name for c in predictor.signature]], predictor.predict(golden), predictor.classes)
    except (DataError, ModelCodeError) as exc:
        return [str(exc)]
    problems = []
    for name in [c for c in golden.columns if c == "prediction" or c.startswith("probability_")]:
        wanted, got = golden[name].to_numpy(), found[name].to_numpy()
        if np.issubdtype(wanted.dtype, np.floating):
            largest = float(np.nanmax(np.abs(wanted - got.astype(float)), initial=0.0))
            same = bool(np.isfinite(got.astype(float)).all()) and largest <= tolerance
            if not same:
                problems.append(f"{name}: differs by up to {largest:.3g} on {len(golden)} golden rows, allowed is {tolerance:g}")
        elif not np.array_equal(wanted, got):
            problems.append(f"{name}: differs on {int((wanted != got).sum())} of {len(golden)} golden rows, allowed is 0")
    return problems


def golden_frame(rows: "pd.DataFrame", predictions: Predictions, classes: Sequence[Any] | None) -> "pd.DataFrame":
    """The rows with the columns `prediction` and `probability_<class>` beside them."""
    made = rows.copy()
    made["prediction"] = predictions.values
    if predictions.probabilities is not None and classes is not None:
        for i, label in enumerate(classes):
            made[f"probability_{label}"] = predictions.probabilities[:, i]
    return made


def _kind(exc: Exception) -> str:
    """The error's type only: its text may quote data."""
    return type(exc).__name__
