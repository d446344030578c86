"""A scoring service in a process of its own, with a small real bundle, for the live tests of its protocols."""

import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import psutil
import requests

from windvane.bundle import Bundle, open_bundle, write_bundle
from windvane.model_code import load_model_code
from windvane.predictor import Predictor, load_predictor
from windvane.signature import conform, describe_columns

MODEL = "punctual"
VERSION = 7
JSON = {"Content-Type": "application/json"}
MODEL_FILE = """
from sklearn.compose import make_column_transformer
from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, OneHotEncoder


def halve(values):
    return values / 2


def features(frame):
    return frame.assign(hour=frame["at"].dt.hour.astype(float), night=frame["night"].fillna(0.5))


def build_pipeline(params):
    numbers = FunctionTransformer(halve) if params["kind"] == "skops" else "passthrough"
    encode = OneHotEncoder(handle_unknown="ignore", sparse_output=False)
    columns = make_column_transformer((encode, ["carrier"]), (numbers, ["distance", "seats", "night", "hour"]))
    model = HistGradientBoostingRegressor if params["kind"] == "regression" else HistGradientBoostingClassifier
    return make_pipeline(columns, model(max_iter=10, random_state=0))
"""
# what each bundle is for: its task, and the runtime that must serve it
KINDS = {
    "onnx": ("binary_classification", "onnx"),
    "skops": ("binary_classification", "skops"),
    "regression": ("regression", "onnx"),
    "multiclass": ("multiclass_classification", "onnx"),
}


def make_rows(count: int, *, seed: int) -> pd.DataFrame:
    """Rows of every type that a signature has, with missing values where they are allowed."""
    draw = np.random.default_rng(seed)
    return pd.DataFrame(
        {
            "carrier": pd.Series(draw.choice(["UA", "AA", "Ö3", None], count), dtype=object),
            "distance": np.where(draw.random(count) < 0.2, np.nan, draw.uniform(100, 3000, count)),
            "seats": draw.integers(50, 300, count),
            "night": pd.Series(draw.choice([True, False, None], count), dtype=object),
            "at": (pd.Timestamp("2013-01-01", tz="UTC") + pd.to_timedelta(draw.integers(0, 40_000, count), unit="min")).as_unit("us"),
        }
    )


def make_bundle(root: Path, kind: str) -> Bundle:
    """Train the model of one of KINDS on 400 rows."""
    task, _ = KINDS[kind]
    path = root / "code" / kind / f"{MODEL}.py"
    path.parent.mkdir(parents=True)
    path.write_text(MODEL_FILE)
    code = load_model_code(path, MODEL)
    rows = make_rows(400, seed=1)
    signal = rows["distance"].fillna(1500) / 1000 + rows["seats"] / 100 + np.random.default_rng(2).normal(size=len(rows))
    labels: dict[str, Any] = {
        "binary_classification": (signal > signal.median()).astype(int),
        "multiclass_classification": np.array(["early", "late", "on time"])[np.digitize(signal, signal.quantile([0.3, 0.7]))],
        "regression": signal * 10,
    }
    signature = describe_columns(rows, exclude=())
    pipeline = code.build_pipeline({"kind": kind}).fit(code.features(conform(rows, signature)), labels[task])
    return write_bundle(
        root / "bundles",
        pipeline=pipeline,
        code=code,
        golden=rows.head(50),
        reference=rows,
        manifest={
            "model": MODEL,
            "task": task,
            "training_key": kind.encode().hex().ljust(64, "0"),
            "signature": [column.as_json() for column in signature],
            "classes": None if task == "regression" else pipeline.classes_.tolist(),
            "id": "flight",
            "time": "at",
            "label": "late",
            "library_versions": {},
            "metrics": {},
            "params": {},
            "created": "2026-01-01T00:00:00+00:00",
        },
    )


class Service:
    """A scoring service that runs, and the same model as a Predictor in this process."""

    def __init__(self, process: subprocess.Popen[bytes], log: Path, bundle: Bundle) -> None:
        self.process = process
        self.log = log
        self.bundle = bundle
        self.predictor: Predictor = load_predictor(bundle)
        self.port = int(self._wait_for_port())
        self.url = f"http://127.0.0.1:{self.port}"

    def _wait_for_port(self) -> str:
        end = time.monotonic() + 30
        while time.monotonic() < end and self.process.poll() is None:
            found = re.search(r"listens on http://\S+:(\d+)", self.log.read_text())
            if found:
                return found[1]
            time.sleep(0.02)
        raise AssertionError(self.log.read_text())

    def rss_mib(self) -> float:
        """Memory that it holds now."""
        return float(psutil.Process(self.process.pid).memory_info().rss / 2**20)

    def invoke(self, body: bytes, headers: dict[str, str] | None = None) -> requests.Response:
        """Ask once, on a connection of its own."""
        return requests.post(f"{self.url}/invocations", data=body, headers=headers or JSON, timeout=10)


@contextmanager
def running(root: Path, bundle: Bundle, *options: str) -> Iterator[Service]:
    """Serve a bundle of `root/bundles` until the block ends."""
    command = [sys.executable, "-m", "windvane.scoring", "--bundle", bundle.digest, "--version", str(VERSION), "--port", "0", *options]
    log = root / f"{bundle.digest[:8]}-{time.monotonic_ns()}.log"
    environ = {name: value for name, value in os.environ.items() if not name.startswith("WINDVANE_")} | {"WINDVANE_VAR": str(root)}
    with log.open("wb") as output:
        process = subprocess.Popen(command, env=environ, stdin=subprocess.DEVNULL, stdout=output, stderr=output)
    try:
        yield Service(process, log, open_bundle(root / "bundles", bundle.digest))
    finally:
        process.kill()
        process.wait(10)
