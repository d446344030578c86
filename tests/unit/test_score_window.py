"""Batch scoring on a real lake, ledger and bundle."""

import functools
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from windvane import score_window as module
from windvane.bundle import Bundle, write_bundle
from windvane.config import ModelConfig
from windvane.errors import BundleError, DataError, ModelCodeError
from windvane.lake import Lake
from windvane.ledger import Ledger
from windvane.model_code import load_model_code
from windvane.predictor import load_predictor
from windvane.score_window import score_window
from windvane.settings import load_settings
from windvane.signature import describe_columns
from windvane.windows import Window

START = datetime(2013, 1, 1, tzinfo=UTC)
WINDOW, LATER = Window(START, START + timedelta(days=10)), Window(START + timedelta(days=10), START + timedelta(days=20))
ROWS = 1000
HEAD = """
import os
import signal

import numpy as np
from sklearn.compose import TransformedTargetRegressor, make_column_transformer
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.linear_model import LinearRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OrdinalEncoder

CALLS = []


def grow(values):
    with np.errstate(over="ignore"):
        return np.exp(values)
"""
FEATURES = """
def features(frame):
    return frame.assign(hour=frame["at"].dt.hour.astype(float)).drop(columns="at")
"""
FEATURES_ON_PANDAS = """
def features(frame):
    CALLS.append(len(frame))
    if len(frame) > 1 and len(CALLS) >= int(os.environ.get("FAIL_AT", "1000")):
        os.kill(os.getpid(), signal.SIGKILL) if os.environ["FAIL_HOW"] == "kill" else [][0]
    return frame.assign(hour=frame["at"].dt.hour.astype(float)).drop(columns="at")
"""
TREES = """
def build_pipeline(params):
    encode = OrdinalEncoder(handle_unknown="use_encoded_value", unknown_value=np.nan)
    columns = make_column_transformer((encode, ["plan"]), ("passthrough", ["calls", "hour"]))
    return make_pipeline(columns, HistGradientBoostingClassifier(max_iter=5, categorical_features=[0]))
"""
LINEAR = """
def build_pipeline(params):
    model = TransformedTargetRegressor(LinearRegression(), func=np.log, inverse_func=grow)
    return make_pipeline(make_column_transformer(("passthrough", ["calls"])), model)
"""


def rows(window=WINDOW, count=ROWS, **columns):
    """The same rows each time; they only lie elsewhere."""
    random = np.random.default_rng(0)
    places = (window.end - window.start).total_seconds() * 1e6 * np.arange(count) / count
    return pd.DataFrame(
        {
            "key": [f"{window.key}-{i}" for i in range(count)],
            "at": pd.to_datetime(window.start) + pd.to_timedelta(places.astype(np.int64), unit="us"),
            "plan": random.choice(["basic", "plus", "pro"], count),
            "calls": random.integers(0, 50, count).astype(float),
            **columns,
        }
    )


@functools.cache
def trained(code: str, *, task: str = "binary_classification", seed: int = 0) -> Bundle:
    """A bundle, made once for all tests."""
    place = Path(tempfile.mkdtemp(prefix="windvane-score-"))
    (place / "tiny.py").write_text(HEAD + code)
    model = load_model_code(place / "tiny.py", "tiny")
    frame = rows(count=2000)
    random = np.random.default_rng(seed)
    signal_ = frame["calls"] + 20 * (frame["plan"] == "pro") + random.normal(0, 5, len(frame))
    label = np.exp(signal_ / 50) if task == "regression" else np.where(signal_ > 30, "left", "stayed")
    return write_bundle(
        place / "bundles",
        pipeline=model.build_pipeline({}).fit(model.features(frame), label),
        code=model,
        golden=frame.head(50),
        reference=frame,
        manifest={
            "model": "tiny",
            "task": task,
            "training_key": f"{seed:064x}",
            "signature": [column.as_json() for column in describe_columns(frame, exclude=["key"])],
            "classes": None if task == "regression" else ["left", "stayed"],
        },
    )


class Platform:
    """One installation with 1,000 rows in the first window, and the version 1 serving."""

    def __init__(self, root, bundle=None, *, task="binary_classification", raw=None):
        self.settings = load_settings({"WINDVANE_VAR": str(root), "MLFLOW_TRACKING_URI": "http://127.0.0.1:9"})
        self.config = ModelConfig.model_validate({"model": "tiny", "task": task, "data": {"id": "key", "time": "at", "label": "y"}})
        self.lake, self.ledger = Lake(self.settings.lake), Ledger(self.settings.database)
        self.ingest(WINDOW, raw)
        self.bundle = bundle or trained(FEATURES + TREES)
        self.serve(1, self.bundle)

    def ingest(self, window, frame=None):
        self.lake.overwrite_window("tiny", "raw", rows(window) if frame is None else frame, window=window, time="at")

    def serve(self, version, bundle, **how):
        shutil.copytree(bundle.path, self.settings.bundles / bundle.digest, dirs_exist_ok=True)
        last = self.ledger.last("tiny")
        row = {"action": "promote", "traffic": {version: 100}, "actor": "test", "reason": "test", **how}
        epoch = last.epoch if last else 0
        self.ledger.append("tiny", expected_epoch=epoch, version=version, digest=bundle.digest, **row)

    def score(self, window=WINDOW):
        return score_window(self.config, self.settings, self.lake, self.ledger, window=window)

    def scores(self):
        return self.lake.read("tiny", "scores").sort_values("key", ignore_index=True)


@pytest.fixture
def platform(tmp_path):
    return Platform(tmp_path)


@pytest.fixture
def small_batches(monkeypatch):
    monkeypatch.setattr(module, "_ROWS_AT_ONCE", 100)


@pytest.mark.parametrize(("code", "runtime"), [(FEATURES + TREES, "onnx"), (FEATURES_ON_PANDAS + LINEAR, "skops")])
@pytest.mark.usefixtures("small_batches")
def test_the_scores_are_what_the_predictor_says_of_the_whole_window(tmp_path, code, runtime):
    task = "regression" if code.endswith(LINEAR) else "binary_classification"
    bundle = trained(code, task=task)
    platform = Platform(tmp_path, bundle, task=task)
    scored = platform.score()
    found, frame = platform.scores(), rows().sort_values("key", ignore_index=True)
    predictor = load_predictor(bundle)
    expected = predictor.predict(frame)
    assert predictor.runtime == runtime
    assert (scored.version, scored.digest, scored.rows) == (1, bundle.digest, ROWS)
    assert found["prediction"].tolist() == expected.values.tolist()
    assert found["at"].tolist() == frame["at"].tolist()
    assert set(found["version"]) == {1}
    if task != "regression":
        assert np.array_equal(found[["probability_left", "probability_stayed"]].to_numpy(), expected.probabilities)
    else:
        assert list(found.columns) == ["key", "at", "prediction", "version"]


def test_many_rows_are_arranged_and_get_the_answers_of_few():
    predictor = load_predictor(trained(FEATURES + TREES))
    frame = rows(count=30_000).assign(calls=lambda frame: frame["calls"].where(frame.index % 7 > 0))
    whole = predictor.predict(frame)
    parts = [predictor.predict(frame.iloc[start : start + 1000]) for start in range(0, len(frame), 1000)]
    assert np.array_equal(whole.values, np.concatenate([part.values for part in parts]))
    assert np.array_equal(whole.probabilities, np.concatenate([part.probabilities for part in parts]))
    assert len(np.unique(whole.probabilities[:, 0])) > 10


def test_version_and_digest_are_kept_with_the_commit(platform):
    scored = platform.score()
    noted = platform.lake.windows("tiny", "scores")[0]
    assert (noted.window, noted.rows, noted.version) == (WINDOW, ROWS, scored.table_version)
    assert (noted.metadata["model_version"], noted.metadata["digest"]) == ("1", platform.bundle.digest)


def test_scoring_again_leaves_the_table_and_asks_no_model(platform, monkeypatch):
    first = platform.score()
    platform.ingest(LATER)
    monkeypatch.setattr(module._Scoring, "batches", lambda self: pytest.fail("scored again"))
    assert platform.score() == first
    assert platform.lake.version("tiny", "scores") == first.table_version


def test_another_champion_and_other_rows_are_scored_again(platform):
    platform.score()
    platform.serve(2, trained(FEATURES + TREES, seed=1))
    assert platform.score().version == 2
    assert set(platform.scores()["version"]) == {2}
    platform.ingest(WINDOW, rows(count=10))
    assert platform.score().rows == 10
    assert len(platform.scores()) == 10


def test_windows_are_independent(platform):
    platform.ingest(LATER)
    platform.score()
    platform.score(LATER)
    platform.score()
    assert len(platform.scores()) == platform.scores()["key"].nunique() == 2 * ROWS


@pytest.mark.parametrize("trial", range(3))
@pytest.mark.usefixtures("small_batches")
def test_scoring_twice_at_once_leaves_the_same_table(platform, trial):
    together, found = threading.Barrier(2), []

    def work():
        lake, ledger = Lake(platform.settings.lake), Ledger(platform.settings.database)
        together.wait()
        found.append(score_window(platform.config, platform.settings, lake, ledger, window=WINDOW))

    threads = [threading.Thread(target=work) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    assert len(found) == 2
    assert found[0] == found[1]
    assert len(platform.scores()) == platform.scores()["key"].nunique() == ROWS
    assert platform.lake.version("tiny", "scores") == 1


def test_a_canary_is_not_asked(platform):
    canary = trained(FEATURES + TREES, seed=1)
    until = datetime.now(UTC) + timedelta(hours=1)
    platform.serve(2, canary, action="shift", traffic={1: 10, 2: 90}, until=until)
    assert platform.score().version == 1


def test_the_version_is_pinned_when_the_scoring_begins(platform, monkeypatch):
    write = Lake.overwrite_window_by

    def promote_first(lake, *given, **named):
        platform.serve(2, trained(FEATURES + TREES, seed=1))
        return write(lake, *given, **named)

    monkeypatch.setattr(Lake, "overwrite_window_by", promote_first)
    assert platform.score().version == 1
    assert set(platform.scores()["version"]) == {1}


def test_progress_is_told(platform, monkeypatch, caplog, small_batches):
    monkeypatch.setattr(module, "_PROGRESS_SECONDS", 0.0)
    with caplog.at_level("INFO", logger="windvane.score_window"):
        platform.score()
    told = [record.getMessage() for record in caplog.records if record.name == "windvane.score_window"]
    assert len(told) == 10
    assert "lake/tiny/raw version 1: scored 100 of 1000 rows (10 %), " in told[0]
    assert "scored 1000 of 1000 rows (100 %), " in told[-1]


def test_an_empty_window_says_what_to_do(platform):
    with pytest.raises(DataError, match=r"tiny: no rows are committed in 2013-01-11\.\.2013-01-21; ingest the window first"):
        platform.score(LATER)
    assert not platform.lake.exists("tiny", "scores")


def test_a_model_that_never_served_says_what_to_do(tmp_path):
    platform = Platform(tmp_path)
    platform.ledger = Ledger(f"sqlite:///{tmp_path}/other.db")
    with pytest.raises(BundleError, match=r"nothing serves yet.*run tiny__train first"):
        platform.score()


def test_a_changed_bundle_is_refused(platform):
    (platform.settings.bundles / platform.bundle.digest / "model.onnx").write_bytes(b"other")
    with pytest.raises(BundleError, match=r"model\.onnx"):
        platform.score()
    assert not platform.lake.exists("tiny", "scores")


@pytest.mark.parametrize("lost", ["plan", "key"])
def test_a_lost_column_is_named_with_what_is_there(tmp_path, lost):
    platform = Platform(tmp_path, raw=rows().rename(columns={lost: "renamed"}))
    with pytest.raises(
        DataError, match=rf"lake/tiny/raw version 1: lost columns \['{lost}'\], version 1 needs \[.*\], there are \[.*'renamed'"
    ):
        platform.score()
    assert not platform.lake.exists("tiny", "scores")


def test_a_column_of_another_type_is_named(tmp_path):
    platform = Platform(tmp_path, raw=rows(calls=["many"] * ROWS))
    with pytest.raises(DataError, match=r"lake/tiny/raw version 1: input: column 'calls': got .*, which does not turn into double"):
        platform.score()


@pytest.mark.usefixtures("small_batches")
def test_a_prediction_that_is_infinite_is_refused_and_nothing_is_written(tmp_path):
    platform = Platform(tmp_path, trained(FEATURES_ON_PANDAS + LINEAR, task="regression"), task="regression")
    before = platform.score()
    calls = rows()["calls"].to_numpy()
    calls[[500, 501]] = 1e9
    platform.ingest(WINDOW, rows(calls=calls))
    with pytest.raises(
        DataError, match=r"raw version 2: version 1 \([0-9a-f]{12}\) predicts NaN or infinity for 2 of 100 rows.*nothing was written"
    ):
        platform.score()
    assert platform.lake.version("tiny", "scores") == before.table_version
    assert np.isfinite(platform.scores()["prediction"]).all()


@pytest.mark.usefixtures("small_batches")
def test_code_that_fails_in_the_middle_leaves_the_table(tmp_path, monkeypatch):
    platform = Platform(tmp_path, trained(FEATURES_ON_PANDAS + LINEAR, task="regression"), task="regression")
    monkeypatch.setenv("FAIL_AT", "5")
    monkeypatch.setenv("FAIL_HOW", "raise")
    with pytest.raises(ModelCodeError, match=r"features\(\) failed with IndexError"):
        platform.score()
    assert platform.scores().empty
    monkeypatch.delenv("FAIL_AT")
    assert platform.score().rows == len(platform.scores()) == ROWS


SCORE = """
import json, sys
from windvane import score_window as module
from windvane.config import ModelConfig
from windvane.lake import Lake
from windvane.ledger import Ledger
from windvane.settings import load_settings
from windvane.windows import Window

given = json.loads(sys.argv[1])
module._ROWS_AT_ONCE = given["rows_at_once"]
settings = load_settings({"WINDVANE_VAR": given["var"], "MLFLOW_TRACKING_URI": "http://127.0.0.1:9"})
config = ModelConfig.model_validate(given["config"])
lake, ledger = Lake(settings.lake), Ledger(settings.database)
scored = module.score_window(config, settings, lake, ledger, window=Window(*given["window"]))
# not ru_maxrss, which a process inherits
peak = int(open("/proc/self/status").read().split("VmHWM:")[1].split()[0]) // 1024
print(json.dumps({"rows": scored.rows, "peak_mib": peak, "mlflow": "mlflow" in sys.modules}))
"""


def score_in_a_process(platform, window, *, rows_at_once=100_000, **environ):
    """Score in a fresh interpreter, whose memory and death are its own."""
    given = {
        "var": str(platform.settings.var),
        "config": platform.config.model_dump(mode="json", exclude_unset=True),
        "window": [window.start.isoformat(), window.end.isoformat()],
        "rows_at_once": rows_at_once,
    }
    command = [sys.executable, "-c", SCORE, json.dumps(given)]
    return subprocess.run(command, env={**os.environ, **environ}, capture_output=True, text=True, timeout=120, check=False)


def test_a_killed_run_leaves_the_table_and_the_next_one_completes_it(tmp_path):
    platform = Platform(tmp_path, trained(FEATURES_ON_PANDAS + LINEAR, task="regression"), task="regression")
    before = platform.score()
    platform.ingest(WINDOW, rows(calls=np.arange(ROWS) % 7 + 0.5))
    killed = score_in_a_process(platform, WINDOW, rows_at_once=100, FAIL_AT="6", FAIL_HOW="kill")
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert platform.lake.version("tiny", "scores") == before.table_version
    assert len(platform.scores()) == ROWS
    assert platform.score().table_version == before.table_version + 1
    assert len(platform.scores()) == platform.scores()["key"].nunique() == ROWS


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="peak memory is read from /proc")
def test_memory_does_not_grow_with_the_window_and_mlflow_is_not_asked(tmp_path):
    platform = Platform(tmp_path)
    count, days = 2_000_000, 100
    large = Window(START + timedelta(days=1000), START + timedelta(days=1000 + days))
    platform.ingest(large, rows(large, count))
    small = Window(large.start, large.start + timedelta(days=days // 10))
    found = [score_in_a_process(platform, window) for window in (small, large)]
    assert [process.returncode for process in found] == [0, 0], found[0].stderr + found[1].stderr
    a_tenth, whole = (json.loads(process.stdout) for process in found)
    assert (a_tenth["rows"], whole["rows"]) == (count // 10, count)
    # with all rows in memory it is ten times as much
    assert whole["peak_mib"] - a_tenth["peak_mib"] < 150
    assert not whole["mlflow"]
