"""Performance estimated without outcomes, against NannyML's CBPE and DLE on the same windows.

    python benchmarks/estimates.py [--nannyml PYTHON] [--seeds 3] [--windows-of 500]

Prints, per stream and metric, the mean absolute error of both against the realised metric, how often the realised metric is in the
band, and the time per estimate. Streams are generated covariate shifts (the outcomes depend on the inputs as before), and the given
model of California housing where `--data` has it. NannyML needs a Python environment of its own, because it wants an older pandas:

    uv venv --python 3.11 var/bench-nannyml
    VIRTUAL_ENV=var/bench-nannyml uv pip install nannyml==0.13.1 "pandas<3" "numpy<2.3" "scikit-learn<1.8" "scipy<1.16" statsmodels

It runs with its usage logging off. Without it only our own figures are printed.
"""

import argparse
import json
import math
import os
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

REPOSITORY = Path(__file__).resolve().parent.parent
# ours to NannyML's names
BINARY = {
    "roc_auc": "roc_auc",
    "accuracy": "accuracy",
    "f1": "f1",
    "precision": "precision",
    "recall": "recall",
    "average_precision": "average_precision",
    "balanced_accuracy": None,
    "neg_log_loss": None,
}
MULTICLASS = {"roc_auc_ovr": "roc_auc", "accuracy": "accuracy", "f1_macro": "f1", "balanced_accuracy": None, "neg_log_loss": None}
REGRESSION = {"neg_mean_absolute_error": "mae", "neg_mean_squared_error": "mse", "neg_root_mean_squared_error": "rmse", "r2": None}
METRICS: dict[str, dict[str, str | None]] = {
    "binary_classification": BINARY,
    "multiclass_classification": MULTICLASS,
    "regression": REGRESSION,
}
ALLOWED = 1.2


@dataclass(frozen=True)
class Stream:
    """Rows that a model was not trained on, and later ones whose outcomes are known to the benchmark alone.

    Attributes:
        scores: Of reference and later rows, as in `compare_models.scores_of`.
    """

    name: str
    task: str
    inputs: tuple[pd.DataFrame, pd.DataFrame]
    outcomes: tuple[np.ndarray, np.ndarray]
    scores: tuple[np.ndarray, np.ndarray]


def draw_inputs(random: np.random.Generator, shift: np.ndarray) -> pd.DataFrame:
    """Seven numbers, two of which are correlated, and three categories, moved by `shift` (n,) in standard deviations."""
    n = len(shift)
    x = random.normal(size=(n, 7))
    x[:, 1] = 0.6 * x[:, 0] + 0.8 * x[:, 1]
    x[:, :3] += shift[:, None] * np.array([0.8, -0.5, 0.4])
    frame = pd.DataFrame(x, columns=[f"x{i}" for i in range(7)])
    for name, base in (("region", 4), ("kind", 3), ("plan", 6)):
        frame[name] = [f"{name}{int(v)}" for v in np.clip(random.integers(0, base, n) + (random.random(n) < shift / 4), 0, base - 1)]
    return frame


def draw_signal(frame: pd.DataFrame) -> np.ndarray:
    """Partly linear, partly not; about as much of either."""
    x = frame[[f"x{i}" for i in range(7)]].to_numpy()
    region = frame["region"].str[-1].astype(int).to_numpy()
    signal: np.ndarray = x[:, 0] - 0.7 * x[:, 3] + 0.8 * np.sin(2 * x[:, 1]) + x[:, 2] * (x[:, 4] > 0) + 0.4 * (region == 2)
    return signal


def make_streams(seed: int, windows: int, size: int) -> Iterator[Stream]:
    """Covariate shifts that grow from window to window, judged by models of several kinds."""
    from sklearn.compose import make_column_transformer
    from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor, RandomForestClassifier
    from sklearn.linear_model import LinearRegression, LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import OneHotEncoder

    def of(model: Any) -> Any:
        one_hot = OneHotEncoder(handle_unknown="ignore", sparse_output=False)
        return make_pipeline(make_column_transformer((one_hot, ["region", "kind", "plan"]), remainder="passthrough"), model)

    random = np.random.default_rng(seed)
    shift = np.concatenate([np.zeros(6000), np.repeat(np.linspace(0, 2, windows), size)])
    frame = draw_inputs(random, shift)
    signal = draw_signal(frame)
    train, reference, later = slice(0, 4000), slice(4000, 6000), slice(6000, None)

    def classify(name: str, y: np.ndarray, model: Any, *, fitted: slice = train) -> Stream:
        chances = of(model).fit(frame[fitted], y[fitted]).predict_proba(frame)
        scores, task = (chances, "multiclass_classification") if chances.shape[1] > 2 else (chances[:, 1], "binary_classification")
        return cut(name, task, y.astype(float), scores)

    def cut(name: str, task: str, y: np.ndarray, scores: np.ndarray) -> Stream:
        inputs = frame[reference].reset_index(drop=True), frame[later].reset_index(drop=True)
        return Stream(name, task, inputs, (y[reference], y[later]), (scores[reference], scores[later]))

    y = (random.random(len(signal)) < 1 / (1 + np.exp(-1.5 * signal))).astype(int)
    yield classify("boosting", y, HistGradientBoostingClassifier(max_iter=60, random_state=seed))
    yield classify("logistic", y, LogisticRegression(max_iter=500))
    yield classify("overfitted forest", y, RandomForestClassifier(60, random_state=seed), fitted=slice(0, 1000))
    rare = (random.random(len(signal)) < 1 / (1 + np.exp(-1.5 * signal + 5.0))).astype(int)
    yield classify("rare positives", rare, HistGradientBoostingClassifier(max_iter=40, random_state=seed))
    three = np.digitize(signal + random.logistic(scale=0.7, size=len(signal)), [-0.8, 0.8])
    yield classify("three classes", three, HistGradientBoostingClassifier(max_iter=40, random_state=seed))
    number = 3 * signal + random.normal(size=len(signal)) * (0.5 + np.abs(frame["x0"].to_numpy()))
    boosted = of(HistGradientBoostingRegressor(max_iter=100, random_state=seed)).fit(frame[train], number[train]).predict(frame)
    yield cut("regression, boosting", "regression", number, boosted)
    yield cut("regression, linear", "regression", number, of(LinearRegression()).fit(frame[train], number[train]).predict(frame))


def read_california(folder: Path) -> Iterator[Stream]:
    """A model that was given with its predictions, where the files are."""
    files = [folder / f"california_{part}.parquet" for part in ("reference", "analysis", "analysis_labels")]
    if not all(file.exists() for file in files):
        return
    reference, analysis, labels = map(pd.read_parquet, files)
    analysis = analysis.merge(labels, on="id")
    inputs = [c for c in reference.columns if c not in ("id", "timestamp", "clf_target", "y_pred", "y_pred_proba")]
    yield Stream(
        "California",
        "binary_classification",
        (reference[inputs], analysis[inputs]),
        (reference["clf_target"].to_numpy(dtype=float), analysis["clf_target"].to_numpy(dtype=float)),
        (reference["y_pred_proba"].to_numpy(), analysis["y_pred_proba"].to_numpy()),
    )


def estimate_ours(stream: Stream, size: int) -> dict[str, dict[str, Any]]:
    """Per metric: values, bands, the realised values, and seconds."""
    from windvane.compare_models import score_outcomes
    from windvane.estimate_performance import fit_estimator

    found: dict[str, dict[str, Any]] = {}
    for metric in METRICS[stream.task]:
        started = time.process_time()
        estimator = fit_estimator(
            stream.task, metric, outcomes=stream.outcomes[0], scores=stream.scores[0], inputs=stream.inputs[0], seed=0
        )
        fitted = time.process_time()
        windows = [slice(start, start + size) for start in range(0, len(stream.outcomes[1]) - size + 1, size)]
        estimates = [estimator.estimate(stream.scores[1][w], stream.inputs[1][w]) for w in windows]
        done = time.process_time()
        realised = [score_outcomes(metric, stream.outcomes[1][w], stream.scores[1][w]) for w in windows]
        found[metric] = {
            "values": [e.value for e in estimates],
            "inside": [e.low <= r <= e.high for e, r in zip(estimates, realised, strict=True)],
            "width": [e.high - e.low for e in estimates],
            "realised": realised,
            "fit": fitted - started,
            "each": (done - fitted) / len(windows),
        }
    return found


def write_for_nannyml(stream: Stream, folder: Path) -> None:
    """Two Parquet files and a description."""
    folder.mkdir(parents=True)
    for part, name in enumerate(("reference", "analysis")):
        frame, scores = stream.inputs[part].copy(), stream.scores[part]
        if stream.task == "multiclass_classification":
            for c in range(scores.shape[1]):
                frame[f"score_{c}"] = scores[:, c]
            frame["said"] = [f"class_{c}" for c in scores.argmax(axis=1)]
            frame["truth"] = [f"class_{int(c)}" for c in stream.outcomes[part]]
        elif stream.task == "binary_classification":
            frame["score"], frame["said"], frame["truth"] = scores, (scores > 0.5).astype(int), stream.outcomes[part].astype(int)
        else:
            frame["said"], frame["truth"] = scores, stream.outcomes[part]
        (frame if part == 0 else frame.drop(columns="truth")).to_parquet(folder / f"{name}.parquet")
    metrics = {ours: theirs for ours, theirs in METRICS[stream.task].items() if theirs}
    description = {
        "task": stream.task,
        "inputs": list(stream.inputs[0].columns),
        "metrics": metrics,
        "classes": 0 if stream.scores[0].ndim == 1 else stream.scores[0].shape[1],
    }
    (folder / "stream.json").write_text(json.dumps(description))


def run_nannyml(folder: Path, size: int) -> None:
    """In NannyML's own environment: estimate every stream that was written."""
    import warnings

    import nannyml  # type: ignore[import-not-found]

    warnings.simplefilter("ignore")
    for described in sorted(folder.glob("*/stream.json")):
        stream = json.loads(described.read_text())
        reference, analysis = (pd.read_parquet(described.parent / f"{part}.parquet") for part in ("reference", "analysis"))
        names = list(stream["metrics"].values())
        if stream["task"] == "regression":
            estimator = nannyml.DLE(
                feature_column_names=stream["inputs"],
                y_pred="said",
                y_true="truth",
                metrics=names,
                chunk_size=size,
                tune_hyperparameters=False,
            )
        else:
            scores = {f"class_{c}": f"score_{c}" for c in range(stream["classes"])} or "score"
            estimator = nannyml.CBPE(
                y_pred_proba=scores,
                y_pred="said",
                y_true="truth",
                metrics=names,
                chunk_size=size,
                problem_type=f"classification_{stream['task'].split('_')[0]}",
            )
        started = time.process_time()
        estimator.fit(reference)
        fitted = time.process_time()
        result = estimator.estimate(analysis).filter(period="analysis").to_df()
        seconds = time.process_time() - fitted
        chunks = len(analysis) // size
        values = {ours: [float(v) for v in result[theirs]["value"].iloc[:chunks]] for ours, theirs in stream["metrics"].items()}
        told = {"values": values, "fit": fitted - started, "each": seconds / chunks / len(names)}
        (described.parent / "nannyml.json").write_text(json.dumps(told))


def mean_error(values: list[float], realised: list[float]) -> float:
    """Mean absolute error; DLE's losses have the other sign."""
    return float(np.nanmean(np.abs(np.abs(values) - np.abs(realised)))) if values else math.nan


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nannyml", type=Path, default=REPOSITORY / "var/bench-nannyml/bin/python", help="Python that has NannyML")
    parser.add_argument("--data", type=Path, default=REPOSITORY.parent / "shared/data", help="folder of california_*.parquet")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--windows", type=int, default=10)
    parser.add_argument("--windows-of", type=int, default=500, help="rows")
    parser.add_argument("--child", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        run_nannyml(args.child, args.windows_of)
        return
    with tempfile.TemporaryDirectory() as directory:
        folder = Path(directory)
        streams = [(stream, folder / "california") for stream in read_california(args.data)]
        for seed in range(args.seeds):
            made = make_streams(seed, args.windows, args.windows_of)
            streams += [(stream, folder / f"{place}-{seed}") for place, stream in enumerate(made)]
        ours = defaultdict(list)
        for stream, where in streams:
            write_for_nannyml(stream, where)
            for metric, figures in estimate_ours(stream, args.windows_of).items():
                ours[stream.name, metric].append((figures, where))
        if args.nannyml.exists():
            environment = {**os.environ, "NML_DISABLE_USAGE_LOGGING": "1", "OMP_NUM_THREADS": "1"}
            command = [args.nannyml, __file__, "--child", folder, "--windows-of", str(args.windows_of)]
            done = subprocess.run([str(part) for part in command], env=environment, capture_output=True, text=True)
            if done.returncode:
                print(f"NannyML failed, only our own figures follow: {done.stderr[-2000:]}", file=sys.stderr)
        else:
            print(f"no NannyML at {args.nannyml}: only our own figures", file=sys.stderr)
        report(ours)


def report(ours: dict[tuple[str, str], list[tuple[dict[str, Any], Path]]]) -> None:
    """Print the table, and whether the goal is met."""
    print(f"{'stream':22}{'metric':28}{'ours':>9}{'NannyML':>9}{'ratio':>7}{'in band':>9}{'fit s':>7}{'each ms':>9}{'NannyML ms':>12}")
    ratios = []
    for (name, metric), runs in ours.items():
        mine = float(np.mean([mean_error(f["values"], f["realised"]) for f, _ in runs]))
        told = [json.loads((where / "nannyml.json").read_text()) for _, where in runs if (where / "nannyml.json").exists()]
        values = [(t["values"][metric], f["realised"]) for t, (f, _) in zip(told, runs, strict=False) if metric in t["values"]]
        theirs = float(np.mean([mean_error(v, r) for v, r in values])) if values else math.nan
        inside = float(np.mean([i for f, _ in runs for i in f["inside"]]))
        fit, each = (float(np.mean([f[what] for f, _ in runs])) for what in ("fit", "each"))
        other = 1000 * float(np.mean([t["each"] for t in told])) if values else math.nan
        print(f"{name:22}{metric:28}{mine:9.4f}{theirs:9.4f}{mine / theirs:7.2f}{inside:9.2f}{fit:7.2f}{1000 * each:9.2f}{other:12.1f}")
        if values:
            ratios.append((mine / theirs, mine, theirs))
    if ratios:
        met = sum(ratio <= ALLOWED for ratio, _, _ in ratios)
        geometric = math.exp(float(np.mean([math.log(max(ratio, 1e-9)) for ratio, _, _ in ratios])))
        verdict = (
            "met"
            if geometric <= ALLOWED and met == len(ratios)
            else "met on average, not everywhere"
            if geometric <= ALLOWED
            else "NOT met"
        )
        print(f"error at most {ALLOWED} x NannyML's: {met} of {len(ratios)} rows, geometric mean of ratios {geometric:.2f}: {verdict}")


if __name__ == "__main__":
    main()
