"""Predicts with scikit-learn: loads `model.skops` without running code of the file's choosing."""

import io
import threading
import zipfile
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from windvane.check_trees import tree_problems
from windvane.errors import BundleError, DataError
from windvane.predictor import Predictions, Predictor, predict_rows
from windvane.signature import conform, frame_of
from windvane.verified_file import read_verified

if TYPE_CHECKING:
    import pandas as pd

    from windvane.bundle import Bundle

# What may stand in model.skops besides what skops itself trusts (scikit-learn's estimators, NumPy and SciPy containers).
# None of these runs code of the file's choosing when it is loaded: a `partial` or a column selector can only name
# functions that are on this list too.
TRUSTED_TYPES = frozenset(
    {
        "builtins.object",
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
        "windvane.recalibrated_pipeline.RecalibratedClassifier",
        "windvane.recalibrated_pipeline.RecalibratedRegressor",
    }
)

_MAX_BYTES = 2_000_000_000
# skops stores without compressing; NumPy arrays inside may be compressed a little
_MAX_EXPANSION = 20
_FREE_BYTES = 10_000_000
_LOADING = threading.Lock()


class SkopsPredictor(Predictor):
    """Runs `features` on pandas and the pipeline on scikit-learn.

    Raises:
        BundleError: If a file's digest differs from the manifest's, or the model holds a type that is not trusted.
        ModelCodeError: If the model file does not import.
    """

    runtime: Literal["onnx", "skops"] = "skops"

    def __init__(self, bundle: "Bundle") -> None:
        super().__init__(bundle)
        data = read_verified(bundle.path / "model.skops", bundle.manifest["files"].get("model.skops"))
        # the file names the functions of the model file by module name, and two versions share that name
        with _LOADING:
            self.code  # noqa: B018 - imports the model file
            self.pipeline = load_pipeline(data, str(bundle.manifest["model"]), where=f"{bundle.path}/model.skops")

    def predict(self, frame: "pd.DataFrame") -> Predictions:
        return predict_rows(self.pipeline, self.code, conform(frame, self.signature), classifier=self.classes is not None)

    def predict_columns(self, columns: Mapping[str, np.ndarray]) -> Predictions:
        missing = [column.name for column in self.signature if column.name not in columns]
        if missing:
            raise DataError(f"input: lost columns {missing[:10]}; send or restore them")
        return predict_rows(self.pipeline, self.code, frame_of(columns, self.signature), classifier=self.classes is not None)


def load_pipeline(data: bytes, model: str, *, where: str) -> Any:
    """Load a pipeline with the platform's list of trusted types; the model file must be imported.

    Raises:
        BundleError: If it holds another type, unpacks to far more than it is, or its trees lead out of themselves.
    """
    import skops.io

    # the file may name its classes; the import also tells what the image of the scoring service needs
    import windvane.recalibrated_pipeline  # noqa: F401

    unknown = untrusted_types(data, model)
    if unknown:
        raise BundleError(
            f"{where}: holds types that are not trusted: {', '.join(unknown[:10])}; allowed are those of "
            f"scikit-learn and what include/models/{model}.py itself defines: move them there, or use a scikit-learn equivalent"
        )
    try:
        pipeline = skops.io.loads(data, trusted=skops.io.get_untrusted_types(data=data))
    except Exception as exc:
        raise BundleError(f"{where}: cannot be loaded: {type(exc).__name__}; train again") from exc
    problems = tree_problems(pipeline)
    if problems:
        raise BundleError(f"{where}: {'; '.join(problems[:3])}; restore the bundle or train again")
    return pipeline


def untrusted_types(data: bytes, model: str) -> list[str]:
    """The types in a skops file that neither the platform nor the bundled model file vouches for.

    Raises:
        BundleError: If the bytes are not a skops file, or unpack to far more than they are.
    """
    import skops.io

    try:
        _check_size(data, model)
        found = skops.io.get_untrusted_types(data=data)
    except BundleError:
        raise
    except Exception as exc:
        raise BundleError(f"model.skops of '{model}': is not a skops file: {type(exc).__name__}; train again") from exc
    own = f"windvane_model_{model}."
    return sorted(t for t in found if t not in TRUSTED_TYPES and not t.startswith(own))


def _check_size(data: bytes, model: str) -> None:
    with zipfile.ZipFile(io.BytesIO(data)) as file:
        size = sum(entry.file_size for entry in file.infolist())
    allowed = min(_MAX_BYTES, _FREE_BYTES + _MAX_EXPANSION * len(data))
    if size > allowed:
        raise BundleError(f"model.skops of '{model}': unpacks to {size} bytes, allowed are {allowed}; restore the bundle or train again")
