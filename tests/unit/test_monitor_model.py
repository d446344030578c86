"""Whole windows of a tiny model: real lake, ledger, bundle, Evidently and trial refit."""

import json
from datetime import UTC, datetime, timedelta

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from windvane import monitor_model
from windvane.bundle import write_bundle
from windvane.config import ModelConfig
from windvane.errors import BundleError
from windvane.fit_pipeline import fit_pipeline
from windvane.lake import Lake
from windvane.ledger import Ledger
from windvane.model_code import load_model_code
from windvane.monitor_model import monitor_window
from windvane.predictor import load_predictor
from windvane.settings import load_settings
from windvane.signature import conform, describe_columns
from windvane.windows import Window

CODE = """
from sklearn.compose import make_column_transformer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder


def build_pipeline(params):
    columns = make_column_transformer((OneHotEncoder(handle_unknown="ignore"), ["group"]), ("passthrough", ["x"]), remainder="drop")
    return make_pipeline(columns, LogisticRegression(C=params.get("C", 1.0)))
"""
DAY = timedelta(days=1)
START = datetime(2013, 1, 1, tzinfo=UTC)
FIRST, SECOND, THIRD = (Window(START + 30 * i * DAY, START + 30 * (i + 1) * DAY) for i in range(3))
ROWS = 600


def rows(window, *, slope=2.0, shift=0.0, seed=0):
    """Rows of one window; `slope` is the concept, `shift` moves the input."""
    random = np.random.default_rng([seed, window.start.toordinal()])
    x = random.normal(shift, 1.0, ROWS)
    moments = window.start + (window.end - window.start) * (np.arange(ROWS) / ROWS)
    return pd.DataFrame(
        {
            "key": [f"{window.key}-{i}" for i in range(ROWS)],
            "at": pd.to_datetime(moments, utc=True).as_unit("us"),
            "x": x,
            "group": random.choice(["a", "b", "c"], ROWS),
            "y": (random.random(ROWS) < 1 / (1 + np.exp(-slope * (x - shift)))).astype(float),
        }
    )


class Platform:
    """One installation in a temporary directory."""

    def __init__(self, directory, **config):
        path = directory / "tiny.py"
        path.write_text(CODE)
        self.settings = load_settings({"WINDVANE_VAR": str(directory / "var")})
        self.settings.var.mkdir()
        self.code = load_model_code(path, "tiny")
        self.lake, self.ledger = Lake(self.settings.lake), Ledger(self.settings.database)
        self.config = ModelConfig.model_validate(
            {
                "model": "tiny",
                "task": "binary_classification",
                "data": {"id": "key", "time": "at", "label": "y"},
                "train": {"window": "60d", "holdout": "10d"},
                "monitor": {"min_rows": 100},
                "gates": {"min_rows": 50},
                **config,
            }
        )

    def ingest(self, window, frame=None, **how):
        self.lake.overwrite_window("tiny", "raw", rows(window, **how) if frame is None else frame, window=window, time="at")

    def deploy(self, version, train):
        """Bundle a model of the train window's rows and let it serve."""
        holdout = Window(train.end, train.end + 10 * DAY)
        known, newer = (self.lake.read("tiny", "raw", window=window, time="at").sort_values("at") for window in (train, holdout))
        columns = tuple(c for c in describe_columns(known, exclude=("key", "y")) if c.name != "at")
        inputs, labels = conform(known, columns), known["y"].astype(int)
        pipeline = fit_pipeline(self.code, {"C": 1.0}, inputs, labels, seed=1)
        manifest = {
            "model": "tiny",
            "task": "binary_classification",
            "training_key": f"{version:064d}",
            "snapshot": {"train": train.as_extra(), "holdout": holdout.as_extra()},
            "rows": {"training": len(known), "holdout": len(newer)},
            "params": {"C": 1.0},
            "signature": [c.as_json() for c in columns],
            "classes": [0, 1],
        }
        both = pd.concat([known.assign(holdout=False), newer.assign(holdout=True)], ignore_index=True)
        reference = conform(both, columns).assign(y=both["y"].astype(int), holdout=both["holdout"])
        bundle = write_bundle(
            self.settings.bundles, pipeline=pipeline, code=self.code, golden=inputs[:20], reference=reference, manifest=manifest
        )
        self.ledger.append(
            "tiny",
            expected_epoch=version - 1,
            action="promote",
            version=version,
            digest=bundle.digest,
            traffic={version: 100},
            actor="test",
            reason="test",
        )
        return load_predictor(bundle)

    def serve(self, predictor, frame, *, request_ids=None):
        """What the scoring service would have logged of these rows."""
        scores = predictor.predict(frame).probabilities[:, 1]
        log = pa.table(
            {
                "request_id": request_ids or [f"r{i}" for i in range(len(frame))],
                "row": [0] * len(frame),
                "received": pa.array([START] * len(frame), pa.timestamp("us", tz="UTC")),
                "version": [1] * len(frame),
                "id": frame["key"].tolist(),
                "time": pa.array(frame["at"], pa.timestamp("us", tz="UTC")),
                "features": [json.dumps(row) for row in frame[["x", "group"]].to_dict("records")],
                "score": scores,
            }
        )
        path = self.settings.requests / "tiny" / "0001.arrow"
        path.parent.mkdir(parents=True, exist_ok=True)
        with pa.OSFile(str(path), "wb") as file, pa.ipc.new_file(file, log.schema) as writer:
            writer.write_table(log)

    def monitor(self, window):
        return monitor_window(self.config, self.code, self.settings, self.lake, self.ledger, window=window)

    def decisions(self):
        return self.lake.read("tiny", "decisions").set_index("window_key")["decision"].to_dict()


@pytest.fixture
def platform(tmp_path):
    made = Platform(tmp_path)
    yield made
    made.ledger.close()


@pytest.fixture
def served(platform):
    """Version 1, trained on the first 20 days, serves."""
    platform.ingest(FIRST)
    platform.deploy(1, Window(START, START + 20 * DAY))
    return platform


def test_nothing_serves_yet(platform):
    platform.ingest(FIRST)

    result = platform.monitor(FIRST)

    assert (result.decision, result.reason, result.report_path) == ("wait", "nothing serves yet", None)
    assert platform.decisions() == {FIRST.key: "wait"}


def test_champion_that_was_made_from_all_that_is_known_is_ok(served):
    result = served.monitor(FIRST)

    assert result.decision == "ok"
    assert "none that are newer" in result.reason
    assert result.evidence.trial is None


def test_same_concept_is_ok_with_a_report_and_the_realised_metric(served):
    frame = rows(SECOND)
    served.ingest(SECOND, frame)
    served.serve(load_champion(served), frame)

    result = served.monitor(SECOND)

    assert result.decision == "ok", result.reason
    assert (result.evidence.outcomes, result.evidence.labelled_rows) == (SECOND, 600)
    assert (result.evidence.realised.rows, result.evidence.bad_inputs, result.evidence.drifted) == (600, (), ())
    assert result.evidence.realised.value > 0.8
    assert result.evidence.estimate.value == pytest.approx(result.evidence.realised.value, abs=0.06)
    assert result.report_path == served.settings.reports / "tiny" / SECOND.key / "drift.html"
    page = result.report_path.read_text()
    assert "estimated roc_auc" in page
    assert "Content-Security-Policy" in page
    stored = json.loads((result.report_path.parent / "decision.json").read_text())
    assert stored == json.loads(json.dumps(result.as_json()))


@pytest.mark.parametrize(
    ("how", "decision"),
    [({}, "ok"), ({"slope": -2.0}, "retrain"), ({"shift": 3.0}, "recalibrate")],
    ids=["same concept", "new concept", "base rate"],
)
def test_a_sample_of_a_large_window_decides_alike_and_says_so(served, monkeypatch, how, decision):
    monkeypatch.setattr("windvane.monitor_model._MOST_ROWS", 400)
    frame = rows(SECOND, **how)
    served.ingest(SECOND, frame)
    served.serve(load_champion(served), frame)

    result = served.monitor(SECOND)

    evidence = result.evidence
    assert result.decision == decision, result.reason
    assert (evidence.rows, evidence.realised.drawn_from) == (600, 600)
    assert 350 < evidence.sampled <= 400
    assert evidence.realised.rows == evidence.realised.scored == evidence.labelled_rows == evidence.sampled
    assert f"looked at {evidence.sampled} of 600 rows, drawn evenly" in result.report_path.read_text()


@pytest.mark.parametrize(
    ("break_", "problem"),
    [
        pytest.param(lambda f: f.assign(x=f["x"].where(f.index != 7, np.inf)), "column x has 1 infinite values in 600 rows", id="infinite"),
        pytest.param(lambda f: f.iloc[np.arange(600) // 2].assign(key=f["key"].to_list()), "repeat another row entirely", id="repeated"),
    ],
)
def test_what_a_sample_hides_is_found_in_all_rows(served, monkeypatch, break_, problem):
    monkeypatch.setattr("windvane.monitor_model._MOST_ROWS", 60)
    served.ingest(SECOND, break_(rows(SECOND)))

    result = served.monitor(SECOND)

    assert result.decision == "fix_data", result.reason
    assert problem in result.reason


def test_logged_inputs_are_drawn_from_all_requests_however_few(served, monkeypatch):
    monkeypatch.setattr("windvane.monitor_model._MOST_LOGGED", 300)
    frame = rows(SECOND)
    served.ingest(SECOND, frame)
    # the rows of a request have the place of the request as their input
    served.serve(load_champion(served), frame.assign(x=np.arange(ROWS) // 60 * 1.0), request_ids=[f"r{i // 60}" for i in range(ROWS)])
    served.monitor(FIRST)

    champion = monitor_model._load_champion(served.config, served.settings, served.ledger)
    inputs = monitor_model._served_inputs(served.config, served.lake, champion, SECOND)

    assert inputs["x"].value_counts().to_dict() == dict.fromkeys(map(float, range(10)), 30)


@pytest.mark.parametrize("most", [100, 100_000], ids=["sampled", "whole"])
def test_outcomes_of_another_window_are_judged_by_how_thinned_they_are(tmp_path, monkeypatch, most):
    platform = Platform(tmp_path, data={"id": "key", "time": "at", "label": "y", "label_delay": "30d"})
    platform.ingest(FIRST)
    platform.deploy(1, Window(START, START + 20 * DAY))
    platform.ingest(SECOND)
    # the window itself is small, and its outcomes, which are those of the one before, are not
    platform.ingest(THIRD, rows(THIRD).iloc[:90])
    monkeypatch.setattr("windvane.monitor_model._MOST_ROWS", most)
    told = {}
    monkeypatch.setattr("windvane.watch_window.check_labels", lambda labels, earlier, **known: told.update(known, rows=len(labels)) or ())

    result = platform.monitor(THIRD)

    assert result.evidence.sampled == 0
    # the champion was made from 600 rows, as many as the window of the outcomes has
    assert told["stands_for"] == pytest.approx(told["rows"], rel=0.02)
    assert (told["rows"] <= 100) == (most == 100)
    platform.ledger.close()


def load_champion(platform):
    from windvane.bundle import open_bundle

    return load_predictor(open_bundle(platform.settings.bundles, platform.ledger.last("tiny").digest))


def test_new_concept_retrains_without_any_drift_of_the_inputs(served):
    served.ingest(SECOND, slope=-2.0)

    result = served.monitor(SECOND)

    assert result.decision == "retrain", result.reason
    assert result.evidence.drifted == ()
    assert result.evidence.alarm
    assert result.evidence.plan["recalibrate"] is False
    assert result.evidence.plan["train_start"] >= SECOND.start.isoformat()


def test_a_base_rate_that_moved_with_an_intact_ranking_is_recalibrated(served):
    served.ingest(SECOND, shift=3.0)

    result = served.monitor(SECOND)

    assert result.decision == "recalibrate", result.reason
    assert "x" in result.evidence.drifted
    assert result.evidence.plan["recalibrate"] is True


@pytest.mark.parametrize(
    ("break_", "problem"),
    [
        pytest.param(lambda f: f.drop(columns="x"), "x has no value", id="lost in this window, null in the table"),
        pytest.param(lambda f: f.assign(x=np.inf), "infinite", id="infinite"),
        pytest.param(lambda f: f.assign(group=f["group"].str.upper()), "never saw", id="renamed categories"),
        pytest.param(lambda f: f.assign(y=0.0), "class 1 of the label", id="label collapsed"),
    ],
)
def test_bad_inputs_are_fixed_and_not_learned(served, break_, problem):
    served.ingest(SECOND, break_(rows(SECOND, slope=-2.0)))

    result = served.monitor(SECOND)

    assert result.decision == "fix_data"
    assert problem in result.reason
    assert result.evidence.trial is None


def test_bad_served_rows_are_seen_though_the_committed_ones_are_good(served):
    frame = rows(SECOND)
    served.ingest(SECOND, frame)
    served.serve(load_champion(served), frame.assign(group="zz"))

    result = served.monitor(SECOND)

    assert result.decision == "fix_data"
    assert result.evidence.bad_inputs == ("served rows: column group has the same value in all 600 rows; it had 3 in training",)


@pytest.mark.parametrize("how", ["empty window", "few labels"])
def test_too_few_rows_wait(served, how):
    frame = rows(SECOND)
    served.ingest(SECOND, frame[:0] if how == "empty window" else frame.assign(y=frame["y"].where(frame.index % 9 == 0)))

    result = served.monitor(SECOND)

    assert result.decision == "wait"
    assert "monitor.min_rows asks for 100" in result.reason
    assert result.evidence.labelled_rows == (0 if how == "empty window" else 67)


def test_rows_whose_outcomes_are_not_complete_are_not_judged(tmp_path):
    platform = Platform(tmp_path, data={"id": "key", "time": "at", "label": "y", "label_delay": "3d"})
    platform.ingest(FIRST)
    platform.deploy(1, Window(START, START + 20 * DAY))
    platform.ingest(SECOND)

    assert platform.monitor(SECOND).evidence.outcomes.end == SECOND.end - 3 * DAY
    platform.ledger.close()


def test_deciding_again_replaces_the_decision_and_is_the_same(served):
    served.ingest(SECOND, slope=-2.0)
    served.ingest(THIRD, slope=-2.0)

    first, third, again = served.monitor(SECOND), served.monitor(THIRD), served.monitor(SECOND)

    assert again == first
    assert (first.decision, third.decision) == ("retrain", "retrain")
    assert served.decisions() == {SECOND.key: "retrain", THIRD.key: "retrain"}


def test_cooldown_counts_data_time_and_ignores_later_windows(tmp_path):
    platform = Platform(tmp_path, retrain={"cooldown": "45d"})
    platform.ingest(FIRST)
    platform.deploy(1, Window(START, START + 20 * DAY))
    platform.ingest(SECOND, slope=-2.0)
    platform.ingest(THIRD, slope=-2.0)

    decisions = [platform.monitor(window).decision for window in (SECOND, THIRD, SECOND)]

    assert decisions == ["retrain", "wait", "retrain"]
    platform.ledger.close()


def test_champion_whose_bundle_is_damaged_is_named(served):
    bundle = served.settings.bundles / served.ledger.last("tiny").digest
    (bundle / "reference.parquet").write_bytes(b"x")

    with pytest.raises(BundleError, match=r"reference\.parquet"):
        served.monitor(FIRST)
