"""Predicts with onnxruntime: `model.onnx` and the traced `features`, without scikit-learn, skops and pandas."""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from windvane.arrange_rows import arrange_rows
from windvane.check_onnx import MAX_BYTES, onnx_problem
from windvane.errors import BundleError, DataError, ModelCodeError
from windvane.predictor import Predictions, Predictor, make_features
from windvane.run_features import FeatureProgram
from windvane.signature import frame_of
from windvane.verified_file import read_verified

if TYPE_CHECKING:
    from windvane.bundle import Bundle

# what stands for a missing text in an ONNX string tensor, which has no null
NULL = "\x00null"
_ROWS_AT_ONCE = 512
# more than a request may have
_ARRANGED_ROWS = 20_000


class OnnxPredictor(Predictor):
    """Runs the traced `features` on NumPy, or the model file's on pandas where it could not be traced, and the model on onnxruntime.

    Raises:
        BundleError: If a file's digest differs from the manifest's, or the model holds something that is not allowed.
        ModelCodeError: If the model file is needed and does not import.
    """

    runtime: Literal["onnx", "skops"] = "onnx"

    def __init__(self, bundle: "Bundle") -> None:
        super().__init__(bundle)
        where = bundle.path / "model.onnx"
        data = read_verified(where, bundle.manifest["files"].get("model.onnx"), most=MAX_BYTES)
        problem = onnx_problem(data)
        if problem:
            raise BundleError(f"{where}: {problem}; restore the bundle or train again")
        try:
            self._session = open_session(data)
        except Exception as exc:
            raise BundleError(f"{where}: cannot be loaded: {type(exc).__name__}; train again") from exc
        self._inputs = [(item.name, "string" in item.type) for item in self._session.get_inputs()]
        self._outputs = [self._session.get_outputs()[0].name]
        self._labels = None if self.classes is None else np.asarray(self.classes)
        self._features = self._read_features(bundle.manifest["runtime"].get("features"))

    def _read_features(self, program: Any) -> Callable[[Mapping[str, np.ndarray]], Mapping[str, np.ndarray]]:
        if program is not None:
            return FeatureProgram(program, [name for name, _ in self._inputs])
        # imports the model file now: a request must not be the first to find that it does not import
        code = self.code

        def on_pandas(columns: Mapping[str, np.ndarray]) -> Mapping[str, np.ndarray]:
            made = make_features(code, frame_of(columns, self.signature))
            return {name: _known_texts(made[name]) if text else made[name].to_numpy(dtype=float) for name, text in self._inputs}

        return on_pandas

    def predict_columns(self, columns: Mapping[str, np.ndarray]) -> Predictions:
        for column in self.signature:
            if column.name not in columns:
                raise DataError(f"input: lost column '{column.name}', the model needs it; send or restore it")
        try:
            made = self._features(columns)
            feed = {name: _texts(made[name]) if text else made[name].astype(float, copy=False) for name, text in self._inputs}
            scores = self._run_arranged(feed)
        except ModelCodeError:
            raise
        except Exception as exc:
            raise ModelCodeError(
                f"{self.bundle.path}/model.onnx: failed to predict with {type(exc).__name__}; it must accept every valid row"
            ) from exc
        if self._labels is None:
            return Predictions(scores[:, 0], None)
        return Predictions(self._labels[scores.argmax(axis=1)], scores)

    def _run_arranged(self, feed: Mapping[str, np.ndarray]) -> np.ndarray:
        many = len(next(iter(feed.values()))) >= _ARRANGED_ROWS
        arranged = arrange_rows(list(feed.values())) if many else None
        if arranged is None:
            return self._run({name: values[:, None] for name, values in feed.items()})
        chosen, place = arranged
        scores: np.ndarray = self._run({name: values[chosen, None] for name, values in feed.items()})[place]
        return scores

    def _run(self, feed: Mapping[str, np.ndarray]) -> np.ndarray:
        """A few hundred rows at a time: what they need then stays in the processor's cache."""
        rows = len(next(iter(feed.values())))
        if rows <= _ROWS_AT_ONCE:
            scores: np.ndarray = self._session.run(self._outputs, feed)[0]
            return scores
        parts = [
            self._session.run(self._outputs, {name: values[i : i + _ROWS_AT_ONCE] for name, values in feed.items()})[0]
            for i in range(0, rows, _ROWS_AT_ONCE)
        ]
        return np.concatenate(parts)


def open_session(data: bytes) -> Any:
    """An onnxruntime session with one thread and as little memory as it can do with."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    options.use_deterministic_compute = True
    options.enable_cpu_mem_arena = False
    options.enable_mem_pattern = False
    options.log_severity_level = 4
    options.add_session_config_entry("session.load_model_format", "ONNX")
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])


def _texts(values: np.ndarray) -> np.ndarray:
    return np.where(values == None, NULL, values) if None in values.tolist() else values  # noqa: E711 - compares each value


def _known_texts(series: Any) -> np.ndarray:
    """Texts of pandas, of which the missing ones may be NaN."""
    texts: np.ndarray = series.astype(object).where(series.notna(), None).to_numpy()
    return texts
