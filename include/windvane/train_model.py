"""Makes a challenger from a snapshot: tunes, fits, evaluates, bundles and records it in MLflow."""

import hashlib
import importlib.metadata
import logging
import platform
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from windvane.bundle import Bundle, find_bundle, open_bundle, write_bundle
from windvane.compare_configs import config_without_secrets
from windvane.compare_models import outcomes_of, scores_of
from windvane.config import ModelConfig
from windvane.errors import NotEnoughData, WindvaneError
from windvane.evaluate_model import evaluate_model, measure_importance
from windvane.fit_pipeline import fit_pipeline
from windvane.lake import Lake
from windvane.model_code import ModelCode
from windvane.plot_evaluation import plot_evaluation
from windvane.predictor import Predictions, make_features, predict_features, predict_rows
from windvane.recalibrate import fit_recalibration
from windvane.search_params import forget_search, found_params
from windvane.settings import Settings
from windvane.signature import Column, conform, describe_columns, keep_used_columns
from windvane.snapshot import Sample, Snapshot, read_snapshot
from windvane.store_files import Place
from windvane.track_training import begin_run, fail_run, finish_run, finished_run

log = logging.getLogger(__name__)

_GOLDEN_ROWS = 200
_REFERENCE_ROWS = 5000
_COMPARED_ROWS = 50_000
_LIBRARIES = ("scikit-learn", "numpy", "pandas", "scipy", "skops", "onnx", "skl2onnx", "onnxruntime", "windvane")


@dataclass(frozen=True)
class TrainingResult:
    """What a training came to.

    Attributes:
        adopted: Whether an earlier attempt had made the bundle already.
        seconds: How long each step took.
    """

    bundle_digest: str
    training_key: str
    run_id: str
    experiment_id: str
    metrics: dict[str, float]
    adopted: bool
    seconds: dict[str, float]

    def as_json(self) -> dict[str, Any]:
        """The form for XCom."""
        return asdict(self)


@dataclass
class _Clock:
    """Measures the steps."""

    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        started = time.monotonic()
        yield
        self.seconds[name] = round(time.monotonic() - started, 3)
        log.info("%s: %.1f s", name, self.seconds[name])


@dataclass(frozen=True)
class _Fitted:
    """A fitted pipeline with the model file it belongs to, and its predictions on the holdout.

    Attributes:
        notes: What the manifest says besides about how it was made.
    """

    pipeline: Any
    code: ModelCode
    params: dict[str, Any]
    columns: tuple[Column, ...]
    classes: list[Any] | None
    predictions: Predictions
    notes: dict[str, Any] = field(default_factory=dict)


def train_model(config: ModelConfig, code: ModelCode, settings: Settings, lake: Lake, snapshot: Snapshot) -> TrainingResult:
    """Make the bundle of a snapshot and its MLflow run, or adopt what an earlier attempt finished of it.

    If the snapshot recalibrates a bundle, the new one holds the same pipeline, model file, params and signature, with a map of the
    scores behind the pipeline that is fitted on the rows of the train window.

    Raises:
        ServiceUnavailable: If MLflow does not answer; it is asked before any work.
        NotEnoughData: If there are too few labelled rows.
        ModelCodeError: If the model's own code fails.
        BundleError: If the pipeline cannot be stored without pickle.
        StorageError: If the disk is full.
    """
    clock = _Clock()
    bundle = find_bundle(settings.bundles, snapshot.training_key)
    adopted = bundle is not None
    if bundle is not None:
        log.info("%s: bundle %s was made from this snapshot before: adopted", config.model, bundle.digest[:12])
        forget_search(config, code, settings, snapshot)
        done = finished_run(config, settings, snapshot, bundle.digest)
        if done:
            return _result(bundle, snapshot, run=done, adopted=True, seconds=clock.seconds)
    run = begin_run(config, settings, snapshot)
    plots = settings.reports / config.model / "training" / snapshot.training_key
    try:
        if bundle is None:
            bundle = _make_bundle(config, code, settings, lake, snapshot, plots=plots, clock=clock)
            forget_search(config, code, settings, snapshot)
        with clock.step("mlflow"):
            finish_run(config, settings, snapshot, run_id=run[1], bundle=bundle, plots=plots)
    except Exception:
        _try_to_fail(settings, run[1])
        raise
    return _result(bundle, snapshot, run=run, adopted=adopted, seconds=clock.seconds)


def _make_bundle(
    config: ModelConfig, code: ModelCode, settings: Settings, lake: Lake, snapshot: Snapshot, *, plots: Place, clock: _Clock
) -> Bundle:
    with clock.step("read"):
        train, holdout = read_snapshot(config, code, lake, snapshot)
    log.info("%s: %d rows to train on, %d held out", config.model, len(train), len(holdout))
    if snapshot.recalibrates:
        fitted = _recalibrate(config, settings, snapshot, train, holdout, clock=clock)
    else:
        fitted = _fit(config, code, settings, snapshot, train, holdout, clock=clock)
    with clock.step("evaluate"):
        labels = holdout[config.data.label]
        metrics = evaluate_model(config, labels, fitted.predictions, fitted.classes)
        rows = conform(holdout, fitted.columns)
        importance = measure_importance(config, fitted.code, fitted.pipeline, rows, labels, fitted.classes)
        log.info("%s: %s", config.model, ", ".join(f"{name} {value:.4f}" for name, value in metrics.items()))
    with clock.step("plot"):
        known = labels.isin(fitted.classes).to_numpy() if fitted.classes else np.ones(len(labels), dtype=bool)
        outcomes, scores = outcomes_of(labels[known], config.task, fitted.classes), scores_of(fitted.predictions, config.task)[known]
        if fitted.predictions.finite() and len(outcomes):
            plot_evaluation(plots, task=config.task, outcomes=outcomes, scores=scores, classes=fitted.classes, importance=importance)
    with clock.step("bundle"):
        return write_bundle(
            settings.bundles,
            pipeline=fitted.pipeline,
            code=fitted.code,
            golden=_evenly(rows, _GOLDEN_ROWS),
            reference=_reference(config, fitted, train, holdout, snapshot.sample),
            manifest=_manifest(config, snapshot, fitted, metrics=metrics, importance=importance, train=train, holdout_rows=len(holdout)),
            sample=_evenly(pd.concat([train, holdout], ignore_index=True), _COMPARED_ROWS),
        )


def _fit(
    config: ModelConfig,
    code: ModelCode,
    settings: Settings,
    snapshot: Snapshot,
    train: pd.DataFrame,
    holdout: pd.DataFrame,
    *,
    clock: _Clock,
) -> _Fitted:
    every = describe_columns(pd.concat([train, holdout]), exclude=(config.data.id, config.data.label))
    labels = train[config.data.label]
    rows = conform(train, every)
    made = make_features(code, rows)
    with clock.step("tune"):
        params = found_params(config, code, settings, snapshot, made, labels)
    with clock.step("fit"):
        pipeline = fit_pipeline(code, params, made, labels, seed=config.train.seed)
        predictions = predict_rows(pipeline, code, conform(holdout, every), classifier=config.is_classifier)

    def predict(features: pd.DataFrame) -> np.ndarray:
        found = predict_features(pipeline, features, where=str(code.path), classifier=config.is_classifier)
        return found.values if found.probabilities is None else found.probabilities

    columns = keep_used_columns(every, rows, features=code.features, predict=predict)
    classes = pipeline.classes_.tolist() if config.is_classifier else None
    return _Fitted(pipeline, code, params, columns, classes, predictions)


def _recalibrate(
    config: ModelConfig, settings: Settings, snapshot: Snapshot, train: pd.DataFrame, holdout: pd.DataFrame, *, clock: _Clock
) -> _Fitted:
    """The pipeline of the bundle that the snapshot names, with a calibration behind it that fits `train`.

    Raises:
        NotEnoughData: If the calibration would change nothing, or the rows have none of its classes.
    """
    from windvane.recalibrated_pipeline import recalibrate_pipeline
    from windvane.skops_predictor import SkopsPredictor

    served = SkopsPredictor(open_bundle(settings.bundles, str(snapshot.recalibrates)))
    label = config.data.label
    with clock.step("fit"):
        known = train[train[label].isin(served.classes)] if served.classes else train
        if known.empty:
            raise NotEnoughData(f"{config.model}: no row of {snapshot.train} has one of the champion's classes; train anew")
        outcomes = outcomes_of(known[label], config.task, served.classes)
        calibration = fit_recalibration(config.task, outcomes, scores_of(served.predict(known), config.task))
        if calibration.is_identity:
            raise NotEnoughData(
                f"{config.model}: the {len(known)} labelled rows of {snapshot.train} are too few or of one class, which tells nothing "
                "about the calibration; ingest more data"
            )
        pipeline = recalibrate_pipeline(served.pipeline, calibration)
        predictions = predict_rows(pipeline, served.code, conform(holdout, served.signature), classifier=config.is_classifier)
    log.info("%s: recalibrated with slope %.4f and offsets %s", config.model, calibration.slope, calibration.offsets)
    return _Fitted(
        pipeline=pipeline,
        code=served.code,
        params=dict(served.bundle.manifest["params"]),
        columns=served.signature,
        classes=None if served.classes is None else list(served.classes),
        predictions=predictions,
        notes={"recalibrated_from": served.digest, "recalibration": calibration.as_json()},
    )


def _manifest(
    config: ModelConfig,
    snapshot: Snapshot,
    fitted: _Fitted,
    *,
    metrics: dict[str, float],
    importance: dict[str, float],
    train: pd.DataFrame,
    holdout_rows: int,
) -> dict[str, Any]:
    return {
        "model": config.model,
        "task": config.task,
        "training_key": snapshot.training_key,
        "snapshot": snapshot.as_json(),
        "config": config_without_secrets(config),
        "config_digest": snapshot.config_digest,
        "code_digest": snapshot.code_digest,
        "code_commit": snapshot.code_commit,
        "library_versions": {"python": platform.python_version()} | {name: importlib.metadata.version(name) for name in _LIBRARIES},
        "metrics": metrics,
        "importance": importance,
        "params": fitted.params,
        "recipe_digest": _recipe_digest(config, snapshot, train),
        "rows": {"training": len(train), "holdout": holdout_rows} | _rows_before(snapshot),
        "signature": [column.as_json() for column in fitted.columns],
        "classes": fitted.classes,
        "id": config.data.id,
        "time": config.data.time,
        "label": config.data.label,
        "created": snapshot.holdout.end.isoformat(),
        **fitted.notes,
    }


def _rows_before(snapshot: Snapshot) -> dict[str, int]:
    """How many rows there were to draw from, where not all were taken."""
    return {"training_of": snapshot.sample.train_rows, "holdout_of": snapshot.sample.holdout_rows} if snapshot.sample else {}


def _recipe_digest(config: ModelConfig, snapshot: Snapshot, train: pd.DataFrame) -> str:
    """Equal for models that differ by nothing but the luck of the seed: the same rows, config and code."""
    unseeded = config.model_copy(update={"train": config.train.model_copy(update={"seed": 0})})
    rows = pd.util.hash_pandas_object(train, index=False).to_numpy().tobytes()
    return hashlib.sha256(f"{unseeded.digest()}{snapshot.code_digest}{snapshot.recalibrates or ''}".encode() + rows).hexdigest()


def _reference(config: ModelConfig, fitted: _Fitted, train: pd.DataFrame, holdout: pd.DataFrame, drawn: Sample | None) -> pd.DataFrame:
    """Evenly spaced rows of the whole window, with what the model says of them and whether it was trained on them."""
    parts = [train.assign(holdout=False), holdout.assign(holdout=True)]
    if drawn:
        # of the two parts other shares may have been drawn, and time must go on as evenly in the one as in the other
        share = drawn.train_rows / (drawn.train_rows + drawn.holdout_rows)
        parts = [_evenly(rows, round(_REFERENCE_ROWS * part)) for rows, part in zip(parts, (share, 1 - share), strict=True)]
    sample = _evenly(pd.concat(parts, ignore_index=True), _REFERENCE_ROWS).reset_index(drop=True)
    rows = conform(sample, fitted.columns)
    predictions = predict_rows(fitted.pipeline, fitted.code, rows, classifier=config.is_classifier)
    extra: dict[str, Any] = {config.data.label: sample[config.data.label], "prediction": predictions.values, "holdout": sample["holdout"]}
    if config.task != "multiclass_classification":
        extra["score"] = scores_of(predictions, config.task)
    return rows.assign(**{name: values for name, values in extra.items() if name not in rows.columns})


def _evenly(rows: pd.DataFrame, most: int) -> pd.DataFrame:
    return rows.iloc[np.linspace(0, len(rows) - 1, min(most, len(rows))).astype(int)]


def _result(bundle: Bundle, snapshot: Snapshot, *, run: tuple[str, str], adopted: bool, seconds: dict[str, float]) -> TrainingResult:
    return TrainingResult(
        bundle_digest=bundle.digest,
        training_key=snapshot.training_key,
        run_id=run[1],
        experiment_id=run[0],
        metrics=dict(bundle.manifest["metrics"]),
        adopted=adopted,
        seconds=seconds,
    )


def _try_to_fail(settings: Settings, run_id: str) -> None:
    try:
        fail_run(settings, run_id)
    except WindvaneError as exc:
        # the error that led here is the one to show; the next attempt marks the run KILLED
        log.warning("MLflow run %s could not be marked FAILED: %s", run_id, exc)
