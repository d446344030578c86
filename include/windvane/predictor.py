"""Loads the model of a bundle and predicts with it: the same code for rehearsal, serving, gates and monitoring."""

import hashlib
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from windvane.errors import BundleError, DataError, ModelCodeError
from windvane.model_code import ModelCode, load_model_code
from windvane.signature import Column, columns_from_json, conform

if TYPE_CHECKING:
    from windvane.bundle import Bundle

# What may stand in model.skops besides what skops itself trusts (scikit-learn's estimators, NumPy and SciPy containers).
# None of these runs code of the file's choosing when it is loaded: a `partial` or a column selector can only name
# functions that are on this list too.
TRUSTED_TYPES = frozenset(
    {
        "collections.OrderedDict",
        "collections.defaultdict",
        "functools.partial",
        "numpy.dtype",
        "scipy._lib.array_api_compat.numpy._aliases.asarray",
        "scipy.interpolate._bsplines.BSpline",
        "scipy.interpolate._interpolate.interp1d",
        "sklearn.calibration._CalibratedClassifier",
        "sklearn.calibration._SigmoidCalibration",
        "sklearn.calibration._TemperatureScaling",
        "sklearn.compose._column_transformer.make_column_selector",
        "sklearn.ensemble._hist_gradient_boosting.binning._BinMapper",
        "sklearn.ensemble._hist_gradient_boosting.predictor.TreePredictor",
        "sklearn.feature_selection._mutual_info.mutual_info_classif",
        "sklearn.feature_selection._mutual_info.mutual_info_regression",
        "sklearn.feature_selection._univariate_selection.chi2",
        "sklearn.feature_selection._univariate_selection.f_classif",
        "sklearn.feature_selection._univariate_selection.f_regression",
        "sklearn.metrics._dist_metrics.EuclideanDistance64",
        "sklearn.metrics._dist_metrics.ManhattanDistance64",
        "sklearn.metrics._dist_metrics.MinkowskiDistance64",
        "sklearn.neighbors._ball_tree.BallTree",
        "sklearn.neighbors._kd_tree.KDTree",
        "sklearn.neural_network._stochastic_optimizers.AdamOptimizer",
        "sklearn.neural_network._stochastic_optimizers.SGDOptimizer",
        "sklearn.tree._tree.Tree",
        "sklearn.utils._bunch.Bunch",
        "sklearn.utils.validation.check_array",
    }
)

_LOADING = threading.Lock()


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


class Predictor:
    """A loaded model.

    Attributes:
        signature: The input columns that it needs.
        classes: Labels in the order of the probabilities' columns; None for a regression.
    """

    def __init__(self, bundle: "Bundle", *, pipeline: Any, code: ModelCode) -> None:
        self.bundle = bundle
        self.pipeline = pipeline
        self.code = code
        self.signature: tuple[Column, ...] = columns_from_json(bundle.manifest["signature"])
        self.classes: tuple[Any, ...] | None = None if bundle.manifest["classes"] is None else tuple(bundle.manifest["classes"])

    @property
    def digest(self) -> str:
        """Digest of the bundle that this is."""
        return self.bundle.digest

    def predict(self, frame: pd.DataFrame) -> Predictions:
        """Predict the rows of a frame that has the columns of the signature; more columns do no harm.

        Raises:
            DataError: If a column is missing or of another type.
            ModelCodeError: If the model's own code fails on the rows.
        """
        return predict_rows(self.pipeline, self.code, conform(frame, self.signature), classifier=self.classes is not None)


def predict_rows(pipeline: Any, code: ModelCode, rows: pd.DataFrame, *, classifier: bool) -> Predictions:
    """Apply `features` and the fitted pipeline to conformed rows.

    Raises:
        ModelCodeError: If either fails.
    """
    return predict_features(pipeline, make_features(code, rows), where=str(code.path), classifier=classifier)


def make_features(code: ModelCode, rows: pd.DataFrame) -> pd.DataFrame:
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


def predict_features(pipeline: Any, made: pd.DataFrame, *, where: str, classifier: bool) -> Predictions:
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
    """Load the model of a bundle: the model file first, then the skops file with the platform's list of trusted types.

    Raises:
        BundleError: If a file's digest differs from the manifest's, or the model holds a type that is not trusted.
        ModelCodeError: If the model file does not import.
    """
    import skops.io

    model = bundle.manifest["model"]
    data = _read_verified(bundle, "model.skops")
    _read_verified(bundle, "model.py")
    # the file names the functions of the model file by module name, and two versions share that name
    with _LOADING:
        code = load_model_code(bundle.path / "model.py", model)
        unknown = untrusted_types(data, model)
        if unknown:
            raise BundleError(
                f"{bundle.path}/model.skops: holds types that are not trusted: {', '.join(unknown[:10])}; allowed are those of "
                f"scikit-learn and what include/models/{model}.py itself defines: move them there, or use a scikit-learn equivalent"
            )
        try:
            pipeline = skops.io.loads(data, trusted=skops.io.get_untrusted_types(data=data))
        except Exception as exc:
            raise BundleError(f"{bundle.path}/model.skops: cannot be loaded: {_kind(exc)}; train again") from exc
    return Predictor(bundle, pipeline=pipeline, code=code)


def untrusted_types(data: bytes, model: str) -> list[str]:
    """The types in a skops file that neither the platform nor the bundled model file vouches for.

    Raises:
        BundleError: If the bytes are not a skops file.
    """
    import skops.io

    try:
        found = skops.io.get_untrusted_types(data=data)
    except Exception as exc:
        raise BundleError(f"model.skops of '{model}': is not a skops file: {_kind(exc)}; train again") from exc
    own = f"windvane_model_{model}."
    return sorted(t for t in found if t not in TRUSTED_TYPES and not t.startswith(own))


def golden_differences(predictor: Predictor, *, tolerance: float = 1e-6) -> list[str]:
    """Score the golden rows and list, for people, what differs from the bundle's own predictions; empty means equal."""
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


def golden_frame(rows: pd.DataFrame, predictions: Predictions, classes: Sequence[Any] | None) -> pd.DataFrame:
    """The rows with the columns `prediction` and `probability_<class>` beside them."""
    made = rows.copy()
    made["prediction"] = predictions.values
    if predictions.probabilities is not None and classes is not None:
        for i, label in enumerate(classes):
            made[f"probability_{label}"] = predictions.probabilities[:, i]
    return made


def _read_verified(bundle: "Bundle", name: str) -> bytes:
    path: Path = bundle.path / name
    try:
        data = path.read_bytes()
    except OSError as exc:
        raise BundleError(f"{path}: cannot be read: {exc.strerror}; restore the bundle or train again") from exc
    if hashlib.sha256(data).hexdigest() != bundle.manifest["files"].get(name):
        raise BundleError(f"{path}: its SHA-256 differs from the one in bundle.json; restore the bundle or train again")
    return data


def _kind(exc: Exception) -> str:
    """The error's type only: its text may quote data."""
    return type(exc).__name__
