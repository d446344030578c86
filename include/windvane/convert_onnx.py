"""Writes a fitted pipeline as an ONNX model, and proves on many rows that it says what scikit-learn says."""

import hashlib
import logging
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from windvane.errors import BundleError, DataError, ModelCodeError
from windvane.onnx_estimators import converters
from windvane.onnx_graph import NotConvertible
from windvane.onnx_predictor import OnnxPredictor
from windvane.onnx_recalibration import add_recalibration
from windvane.predictor import Predictions, make_features
from windvane.run_features import FeatureProgram
from windvane.signature import arrays_of, conform
from windvane.skops_predictor import SkopsPredictor
from windvane.trace_features import NotTraceable, trace_features

if TYPE_CHECKING:
    import pandas as pd

log = logging.getLogger(__name__)

TOLERANCE = 1e-5
_PROBE_ROWS = 200
_UNKNOWN_TEXT = "\x00not in the training data"
_OPSETS = {"": 21, "ai.onnx.ml": 3}


def add_onnx(predictor: SkopsPredictor, sample: "pd.DataFrame") -> dict[str, Any]:
    """Write `model.onnx` into a bundle that is being made, if the pipeline converts and says the same as with scikit-learn.

    Both runtimes predict the sample, and some of its rows with unknown texts and with nulls. The largest difference allowed is
    TOLERANCE: absolute for a probability, relative for a regression's value beyond 1; and no label may differ.

    Args:
        predictor: The model as scikit-learn serves it.
        sample: Rows with the columns of the signature.

    Returns:
        What the manifest says as `runtime`: the format, and either the proof and the traced `features`, or the reason for skops.
    """
    path = predictor.bundle.path / "model.onnx"
    try:
        rows = conform(sample, predictor.signature)
        made = make_features(predictor.code, rows)
        data = convert_onnx(predictor.pipeline, made, classifier=predictor.classes is not None)
        path.write_bytes(data)
        runtime: dict[str, Any] = {"format": "onnx", "rows": len(rows), **_trace(predictor, rows, made)}
        manifest = {**predictor.bundle.manifest, "runtime": runtime}
        manifest["files"] = {**manifest["files"], path.name: hashlib.sha256(data).hexdigest()}
        converted = OnnxPredictor(replace(predictor.bundle, manifest=manifest))
        return {**runtime, "max_difference": _largest_difference(predictor, converted, rows)}
    except (NotConvertible, BundleError, DataError, ModelCodeError) as exc:
        path.unlink(missing_ok=True)
        log.info("the model stays with skops: %s", exc)
        # the directory is a temporary one
        return {"format": "skops", "reason": str(exc).replace(f"{path.parent}/", "")[:500]}


def _trace(predictor: SkopsPredictor, rows: "pd.DataFrame", made: "pd.DataFrame") -> dict[str, Any]:
    """The program of `features`, if it gives exactly what pandas gives."""
    try:
        program = trace_features(predictor.code.features, predictor.signature)
        if list(program["columns"]) != [str(name) for name in made.columns]:
            raise NotTraceable("it gives other columns than with pandas")
        found = FeatureProgram(program, program["columns"])(arrays_of(rows, predictor.signature))
        for name in made.columns:
            if not _equal(made[name], found[name]):
                raise NotTraceable(f"column '{name}' differs from what pandas gives")
    except (NotTraceable, ValueError) as exc:
        log.info("features() runs on pandas when serving: %s", exc)
        return {"features": None, "features_reason": f"{exc!s:.300}"}
    return {"features": program}


def _equal(series: "pd.Series", values: np.ndarray) -> bool:
    if series.dtype.kind == "O":
        return np.array_equal(series.where(series.notna(), None).to_numpy(dtype=object), values)
    if series.dtype.kind == "M":
        return np.array_equal((series if series.dt.tz is None else series.dt.tz_localize(None)).to_numpy(), values, equal_nan=True)
    return np.array_equal(series.to_numpy(dtype=float), values.astype(float), equal_nan=True)


def _largest_difference(predictor: SkopsPredictor, converted: OnnxPredictor, rows: "pd.DataFrame") -> float:
    largest = _difference(predictor.predict(rows), converted.predict(rows))
    for probe in _probes(rows, predictor):
        try:
            wanted = predictor.predict(probe)
        except ModelCodeError:
            # what scikit-learn refuses, no client will see answered differently by a version that serves
            continue
        largest = max(largest, _difference(wanted, converted.predict(probe)))
    return largest


def _probes(rows: "pd.DataFrame", predictor: SkopsPredictor) -> list["pd.DataFrame"]:
    """Some rows with one column replaced by a text that the training never saw, or by null."""
    some = rows.iloc[:: max(1, len(rows) // _PROBE_ROWS)]
    texts = [some.assign(**{column.name: _UNKNOWN_TEXT}) for column in predictor.signature if column.type == "string"]
    return texts + [some.assign(**{column.name: None}) for column in predictor.signature if column.nullable]


def _difference(wanted: Predictions, got: Predictions) -> float:
    """The largest difference.

    Raises:
        NotConvertible: If it is too large, or a label differs.
    """
    if wanted.probabilities is None or got.probabilities is None:
        difference = np.abs(got.values - wanted.values) / np.maximum(1.0, np.abs(wanted.values))
    else:
        difference = np.abs(got.probabilities - wanted.probabilities)
        flipped = int((got.values != wanted.values).sum())
        if flipped:
            raise NotConvertible(f"ONNX gives another label for {flipped} of {len(wanted.values)} rows")
    largest = float(difference.max(initial=0.0))
    if not largest <= TOLERANCE:
        raise NotConvertible(f"ONNX differs by up to {largest:.3g} on {len(wanted.values)} rows, allowed is {TOLERANCE:g}")
    return largest


def convert_onnx(pipeline: Any, made: "pd.DataFrame", *, classifier: bool) -> bytes:
    """Convert a pipeline.

    Args:
        pipeline: Fitted, from features to predictions; it may have a recalibration behind it.
        made: Some rows of features: their columns become the inputs, texts as strings, all else as doubles, each of shape (n, 1).

    Returns:
        The bytes of a model with the one output `probabilities`, shape (n, k), or `values`, shape (n, 1), in doubles.

    Raises:
        NotConvertible: If it cannot be converted; the text says why.
    """
    from skl2onnx import convert_sklearn
    from skl2onnx.common.data_types import DoubleTensorType, StringTensorType
    from sklearn.compose import ColumnTransformer
    from sklearn.pipeline import Pipeline
    from sklearn.preprocessing import FunctionTransformer

    from windvane.recalibrated_pipeline import is_recalibrated, recalibration_of

    calibration = recalibration_of(pipeline) if is_recalibrated(pipeline) else None
    pipeline = pipeline if calibration is None else pipeline.pipeline
    if classifier and not hasattr(pipeline, "predict_proba"):
        raise NotConvertible("it has no predict_proba")
    kinds = {"O": StringTensorType, "f": DoubleTensorType, "i": DoubleTensorType, "u": DoubleTensorType, "b": DoubleTensorType}
    inputs = [(str(name), kinds.get(made[name].dtype.kind, DoubleTensorType)([None, 1])) for name in made.columns]
    first = pipeline.steps[0][1] if isinstance(pipeline, Pipeline) else pipeline
    if not isinstance(first, ColumnTransformer):
        # other steps want one matrix
        pipeline = Pipeline([("join", FunctionTransformer()), ("pipeline", pipeline)])
    shapes, writers = {}, {}
    for kind, (shape, write) in converters().items():
        shapes[kind], writers[kind] = shape, write
    try:
        model = convert_sklearn(
            pipeline,
            "windvane",
            initial_types=inputs,
            target_opset=_OPSETS,
            options={id(pipeline): {"zipmap": False}} if classifier else None,
            custom_conversion_functions=writers,
            custom_shape_calculators=shapes,
        )
    except NotConvertible:
        raise
    except Exception as exc:
        raise NotConvertible(f"{type(exc).__name__}: {exc!s:.200}") from exc
    for opset in model.opset_import:
        # skl2onnx stops at 3; the tables of doubles came with 4, which changed nothing else that is used here
        opset.version = 4 if opset.domain == "ai.onnx.ml" else opset.version
    _name_inputs(model.graph, [name for name, _ in inputs])
    _keep_output(model.graph, 1 if classifier else 0)
    if calibration is not None:
        add_recalibration(model.graph, calibration)
    data: bytes = model.SerializeToString()
    return data


def _name_inputs(graph: Any, names: Sequence[str]) -> None:
    """Give the inputs the names of their columns: skl2onnx makes `my_column` of `my column`."""
    renamed = {item.name: name for item, name in zip(graph.input, names, strict=True)}
    for item in graph.input:
        item.name = renamed[item.name]
    for node in graph.node:
        for place, name in enumerate(node.input):
            node.input[place] = renamed.get(name, name)


def _keep_output(graph: Any, number: int) -> None:
    """Drop the other outputs and whatever is not needed for this one."""
    needed, nodes = {graph.output[number].name}, []
    for node in reversed(graph.node):
        if needed & set(node.output):
            needed |= set(node.input)
            nodes.append(node)
    kept = {"node": nodes[::-1], "output": [graph.output[number]]}
    kept |= {field: [item for item in getattr(graph, field) if item.name in needed] for field in ("input", "initializer")}
    for field, items in kept.items():
        copies = [type(item).FromString(item.SerializeToString()) for item in items]
        del getattr(graph, field)[:]
        getattr(graph, field).extend(copies)
