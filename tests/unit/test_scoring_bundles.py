"""Versions are loaded whole or not at all; this file also makes the small bundles of the other scoring tests."""

import atexit
import shutil
import tempfile
from datetime import UTC, datetime
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from windvane.bundle import open_bundle, write_bundle
from windvane.model_code import load_model_code
from windvane.predictor import Predictions, load_predictor
from windvane.scoring import check_golden, serve_version
from windvane.scoring.serve_version import ServingSlot, Wanted
from windvane.signature import describe_columns

MODEL_FILE = """
from sklearn.compose import make_column_transformer
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder


def features(frame):
    if (frame["distance"] == -13).any():
        raise ValueError("a carrier called SECRET")
    wide = frame["distance"].fillna(0.0) / 1000
    return frame.assign(wide=wide, hour=frame["at"].dt.hour.astype(float), known=frame["night"].fillna(0.0))


def build_pipeline(params):
    encode = OneHotEncoder(handle_unknown="ignore")
    columns = make_column_transformer((encode, ["carrier"]), ("passthrough", ["wide", "hour", "seats"]))
    classifier = LogisticRegression(C=params.get("C", 1.0), max_iter=2000)
    return make_pipeline(columns, LinearRegression() if params.get("regression") else classifier)
"""
POISON = """    if (frame["distance"] == -13).any():
        raise ValueError("a carrier called SECRET")
"""


def rows(count=40, seed=0):
    draw = np.random.default_rng(seed)
    return pd.DataFrame(
        {
            "carrier": draw.choice(["UA", "AA", "DL"], count),
            "distance": np.where(draw.random(count) < 0.1, np.nan, draw.uniform(100, 3000, count)),
            "seats": draw.integers(50, 300, count),
            "night": pd.Series(draw.choice([True, False, None], count), dtype=object),
            "at": pd.to_datetime("2013-01-01", utc=True) + pd.to_timedelta(draw.integers(0, 40_000, count), unit="min"),
        }
    )


def make_bundle(root, **options):
    """Put the bundle of a small model under `root`; returns it."""
    made = _train(**options)
    shutil.copytree(made.path, root / made.digest)
    return open_bundle(root, made.digest)


@cache
def _train(model="tiny", task="binary_classification", C=1.0, classes=(0, 1), traceable=False):
    """Train the model once for all tests of this process."""
    root = Path(tempfile.mkdtemp(prefix="windvane-test-"))
    atexit.register(shutil.rmtree, root, ignore_errors=True)
    path = root / f"{model}.py"
    path.write_text(MODEL_FILE.replace(POISON, "") if traceable else MODEL_FILE)
    code = load_model_code(path, model)
    frame = rows(200)
    frame["at"] = frame["at"].dt.as_unit("us")
    draw = np.random.default_rng(1)
    regression = task == "regression"
    label = frame["seats"] * 2.0 + 1 if regression else draw.choice(list(classes), len(frame))
    signature = describe_columns(frame, exclude=[])
    conformed = frame.assign(night=frame["night"].astype(float))
    pipeline = code.build_pipeline({"C": C, "regression": regression}).fit(code.features(conformed), label)
    manifest = {
        "model": model,
        "task": task,
        "training_key": f"{C}-{task}-{len(classes)}-{traceable}".encode().hex().ljust(64, "0")[:64],
        "signature": [column.as_json() for column in signature],
        "classes": None if regression else [c.item() if hasattr(c, "item") else c for c in sorted(classes)],
        "id": "key",
        "time": "at",
        "label": "late",
        "library_versions": {},
        "metrics": {},
        "params": {"C": C},
    }
    return write_bundle(root, pipeline=pipeline, code=code, golden=frame.head(30), reference=frame, manifest=manifest)


@pytest.fixture
def bundles(tmp_path):
    return tmp_path / "bundles"


def test_a_good_bundle_serves(bundles, tmp_path):
    made = make_bundle(bundles)
    slot = ServingSlot()

    assert slot.bring(Wanted(3, made.digest, 9), bundles=bundles, model="tiny")

    assert slot.current is not None
    assert (slot.current.version, slot.current.digest, slot.epoch, slot.error) == (3, made.digest, 9, None)
    assert slot.current.since <= datetime.now(UTC)


@pytest.mark.parametrize("file", ["model.skops", "model.py", "bundle.json", "golden.parquet"])
def test_a_changed_bundle_leaves_the_old_one_serving(bundles, tmp_path, file):
    old = make_bundle(bundles, C=1.0)
    new = make_bundle(bundles, C=0.1)
    path = new.path / file
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    slot = ServingSlot()
    slot.bring(Wanted(1, old.digest, 1), bundles=bundles, model="tiny")

    assert not slot.bring(Wanted(2, new.digest, 2), bundles=bundles, model="tiny")

    assert slot.current.version == 1
    assert slot.epoch == 1
    assert slot.wanted == Wanted(2, new.digest, 2)
    assert new.digest[:12] in slot.error
    assert file in slot.error


def test_going_back_to_what_serves_clears_the_error_without_loading(bundles, tmp_path):
    old = make_bundle(bundles)
    slot = ServingSlot()
    slot.bring(Wanted(1, old.digest, 1), bundles=bundles, model="tiny")
    before = slot.current
    slot.bring(Wanted(2, "0" * 64, 2), bundles=bundles, model="tiny")
    assert slot.error
    shutil.rmtree(old.path)

    assert slot.bring(Wanted(1, old.digest, 3), bundles=bundles, model="tiny")

    assert slot.current is before
    assert slot.error is None
    assert slot.epoch == 3


@pytest.mark.parametrize("column", ["probability_1", "prediction"])
def test_a_golden_row_with_another_prediction_keeps_the_version_from_serving(bundles, monkeypatch, column):
    made = make_bundle(bundles)
    path = made.path / "golden.parquet"
    golden = pd.read_parquet(path)
    golden.loc[7, column] = 1 - golden.loc[7, column] if column == "prediction" else golden.loc[7, column] + 2e-6
    golden.to_parquet(path, index=False)
    monkeypatch.setattr(serve_version, "open_bundle", lambda root, digest: made)
    slot = ServingSlot()

    assert not slot.bring(Wanted(1, made.digest), bundles=bundles, model="tiny")
    assert "golden rows: they differ by up to" in slot.error


def test_a_label_may_differ_only_where_both_are_as_probable(bundles):
    predictor = load_predictor(make_bundle(bundles))
    golden = pd.read_parquet(predictor.bundle.path / "golden.parquet")
    values, chances = golden["prediction"].to_numpy(), golden[["probability_0", "probability_1"]].to_numpy().copy()
    flipped = values.copy()
    flipped[3] = 1 - flipped[3]

    assert check_golden._largest_difference(Predictions(flipped, chances), values, chances, classifier=True, tolerance=1e-6) == 1
    chances[3] = [0.5 - 4e-7, 0.5 + 4e-7]
    assert check_golden._largest_difference(Predictions(flipped, chances), values, chances, classifier=True, tolerance=1e-6) == 0


def test_a_bundle_of_another_model_is_refused(bundles, tmp_path):
    made = make_bundle(bundles, model="other")
    slot = ServingSlot()

    assert not slot.bring(Wanted(1, made.digest), bundles=bundles, model="tiny")

    assert "'other'" in slot.error
    assert slot.current is None
