import dataclasses
import json
import logging
import os
import signal
import subprocess
import sys
import time
from datetime import timedelta
from pathlib import Path

import pandas as pd
import pytest
from training_project import DAYS, START, fill, make_project

import windvane.train_model as training
from windvane.bundle import open_bundle, read_reference
from windvane.errors import ModelCodeError, NotEnoughData, ServiceUnavailable
from windvane.mlflow_client import connect
from windvane.predictor import load_predictor
from windvane.recalibrate import Recalibration
from windvane.snapshot import plan_training, read_snapshot
from windvane.train_model import train_model
from windvane.windows import Window

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning:mlflow.*"),
    pytest.mark.filterwarnings("ignore::FutureWarning:mlflow.*"),
]


def plan(project):
    return plan_training(project.config, project.code, project.lake, window=None, settings=project.settings)


def train(project, snapshot=None):
    return train_model(project.config, project.code, project.settings, project.lake, snapshot or plan(project))


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    project = make_project(tmp_path_factory.mktemp("trained"), train={"search": {"trials": 3, "timeout": "1m"}})
    return project, train(project)


def runs(project):
    client = connect(project.settings)
    return client.search_runs([client.get_experiment_by_name("churn").experiment_id])


def test_the_bundle_says_what_it_was_made_from(trained):
    project, result = trained
    manifest = open_bundle(project.settings.bundles, result.bundle_digest).manifest
    assert manifest["training_key"] == result.training_key
    assert [c["name"] for c in manifest["signature"]] == ["seen", "calls", "plan"]
    assert manifest["classes"] == [0, 1]
    assert manifest["params"].keys() == {"max_depth"}
    assert manifest["metrics"]["roc_auc"] > 0.75
    assert (manifest["id"], manifest["time"], manifest["label"]) == ("customer", "seen", "left")
    assert manifest["library_versions"]["scikit-learn"]
    assert max(manifest["importance"], key=manifest["importance"].get) == "calls"


def test_the_run_holds_params_metrics_dataset_plots_and_bundle(trained):
    project, result = trained
    client = connect(project.settings)
    run = client.get_run(result.run_id)
    assert run.info.status == "FINISHED"
    assert run.data.tags["windvane.training_key"] == result.training_key
    assert run.data.tags["windvane.bundle"] == result.bundle_digest
    assert run.data.metrics["roc_auc"] == pytest.approx(result.metrics["roc_auc"])
    assert run.data.params["table_version"] == str(plan(project).table_version)
    assert [json.loads(i.dataset.source)["version"] for i in run.inputs.dataset_inputs] == [plan(project).table_version] * 2
    plots = {a.path for a in client.list_artifacts(result.run_id, "plots")}
    assert plots == {"plots/roc.png", "plots/precision_recall.png", "plots/calibration.png", "plots/importance.png"}
    bundle = {a.path.removeprefix("bundle/") for a in client.list_artifacts(result.run_id, "bundle")}
    assert bundle == {"bundle.json", "model.skops", "model.py", "golden.parquet", "reference.parquet"}


def test_the_reference_tells_trained_rows_from_held_out_ones(trained):
    project, result = trained
    reference = read_reference(open_bundle(project.settings.bundles, result.bundle_digest))
    assert list(reference.columns) == ["seen", "calls", "plan", "left", "prediction", "holdout", "score"]
    assert reference.loc[reference["holdout"], "seen"].min() > reference.loc[~reference["holdout"], "seen"].max()


def test_a_sampled_training_says_of_how_many_rows(tmp_path):
    project = make_project(tmp_path, rows=8000, train={"max_rows": 1000})
    result = train(project)
    bundle, sample = open_bundle(project.settings.bundles, result.bundle_digest), plan(project).sample
    rows = bundle.manifest["rows"]

    assert (rows["training_of"], rows["holdout_of"]) == (sample.train_rows, sample.holdout_rows)
    assert rows["training"] <= 1000 < sample.train_rows
    assert rows["holdout"] <= 250 < sample.holdout_rows
    assert bundle.manifest["snapshot"]["sample"] == dataclasses.asdict(sample)
    assert f"{sample.train_rows:,}" in connect(project.settings).get_run(result.run_id).data.params["sample"]
    # the holdout was drawn more thinly or thickly than the rest, and is in the reference as much as in time all the same
    assert read_reference(bundle)["holdout"].mean() == pytest.approx(
        sample.holdout_rows / (sample.train_rows + sample.holdout_rows), abs=0.06
    )


def test_a_second_training_adopts_the_first(trained):
    project, result = trained
    again = train(project)
    assert again.adopted
    assert (again.bundle_digest, again.run_id) == (result.bundle_digest, result.run_id)
    assert len(runs(project)) == 1


def test_training_twice_gives_the_same_predictions(trained, tmp_path):
    project, result = trained
    elsewhere = dataclasses.replace(project.settings, bundles=tmp_path / "bundles", mlflow_uri=f"sqlite:///{tmp_path}/mlflow.db")
    snapshot = plan(project)
    again = train_model(project.config, project.code, elsewhere, project.lake, snapshot)
    _, holdout = read_snapshot(project.config, project.code, project.lake, snapshot)
    first = load_predictor(open_bundle(project.settings.bundles, result.bundle_digest)).predict(holdout)
    second = load_predictor(open_bundle(elsewhere.bundles, again.bundle_digest)).predict(holdout)
    assert not again.adopted
    assert (first.probabilities == second.probabilities).all()


def test_a_run_that_was_cut_off_is_killed_and_its_bundle_adopted(tmp_path, monkeypatch):
    project = make_project(tmp_path, rows=300)

    def cut_off(*args, **kwargs):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(training, "finish_run", cut_off)
        with pytest.raises(KeyboardInterrupt):
            train(project)
    assert [run.info.status for run in runs(project)] == ["RUNNING"]
    result = train(project)
    assert result.adopted
    assert sorted(run.info.status for run in runs(project)) == ["FINISHED", "KILLED"]
    assert len([p for p in project.settings.bundles.iterdir() if len(p.name) == 64]) == 1


SLOW_MODEL = """
import pathlib
import time
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import StandardScaler


def features(frame):
    return frame[["calls"]]


def build_pipeline(params):
    mark = pathlib.Path(__file__).with_suffix(".fitting")
    if not mark.exists():
        mark.touch()
        time.sleep(60)
    return Pipeline([("scale", StandardScaler()), ("model", LogisticRegression())])
"""


def test_a_training_that_was_sigkilled_is_finished_by_the_next(tmp_path):
    project = make_project(tmp_path, rows=300, code=SLOW_MODEL)
    snapshot = plan(project)
    script = (
        f"import sys; sys.path.insert(0, '{Path(__file__).parents[1]}'); from training_project import *\n"
        "from windvane.snapshot import *; import json\n"
        "from windvane.train_model import train_model\n"
        f"s = load_settings({{'WINDVANE_VAR': '{project.settings.var}', 'MLFLOW_TRACKING_URI': '{project.settings.mlflow_uri}'}})\n"
        f"train_model(make_config(), load_model_code(Path('{project.code.path}'), 'churn'), s, Lake(s.lake),"
        f" Snapshot.from_json(json.loads('''{json.dumps(snapshot.as_json())}''')))"
    )
    process = subprocess.Popen([sys.executable, "-c", script], stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while not project.code.path.with_suffix(".fitting").exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.05)
    assert process.poll() is None
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    result = train(project, snapshot)
    assert not result.adopted
    assert sorted(run.info.status for run in runs(project)) == ["FINISHED", "KILLED"]


def test_a_failing_pipeline_marks_the_run_failed(tmp_path):
    project = make_project(tmp_path, rows=300, code="def build_pipeline(params):\n    raise RuntimeError('row 7')\n")
    with pytest.raises(ModelCodeError, match=r"churn\.py: build_pipeline\(\) or fit failed with RuntimeError") as caught:
        train(project)
    assert "row 7" not in str(caught.value)
    assert [run.info.status for run in runs(project)] == ["FAILED"]


def test_mlflow_away_is_named_before_any_work(tmp_path):
    project = make_project(tmp_path, rows=300)
    project = dataclasses.replace(project, settings=dataclasses.replace(project.settings, mlflow_uri="http://127.0.0.1:9"))
    started = time.monotonic()
    with pytest.raises(ServiceUnavailable, match=r"http://127\.0\.0\.1:9"):
        train(project)
    assert time.monotonic() - started < 10
    assert not project.settings.bundles.exists()


@pytest.mark.parametrize("task", ["multiclass_classification", "regression"])
def test_the_other_tasks(tmp_path, task):
    project = make_project(tmp_path, task=task)
    result = train(project)
    bundle = open_bundle(project.settings.bundles, result.bundle_digest)
    assert result.metrics[project.config.metric] > 0.3
    assert bundle.manifest["classes"] == ([0, 1, 2] if task == "multiclass_classification" else None)
    assert len(load_predictor(bundle).predict(pd.read_parquet(bundle.path / "reference.parquet")).values) > 1000


def test_a_metric_that_is_not_finite_is_left_out_loudly(tmp_path, caplog):
    project = make_project(tmp_path, rows=400)
    rows = project.lake.read("churn", "raw")
    late = rows["seen"] > START + pd.Timedelta(days=DAYS - 15)
    fill(project.lake, rows.assign(left=rows["left"].mask(late & rows["left"].notna(), 1.0)))
    with caplog.at_level(logging.WARNING):
        result = train(project)
    assert "roc_auc" not in result.metrics
    assert "roc_auc is nan" in caplog.text
    assert "accuracy" in result.metrics


def test_a_recalibrated_version_is_the_champion_with_a_map_behind_it(tmp_path):
    project = make_project(tmp_path, rows=800)
    first = train(project)
    champion = open_bundle(project.settings.bundles, first.bundle_digest)
    # today's code is another one, and would not even fit
    project.code.path.write_text("raise SystemExit")
    snapshot = dataclasses.replace(
        plan(project), recalibrates=champion.digest, code_digest=champion.manifest["files"]["model.py"], code_commit="unknown"
    )
    result = train(project, snapshot)
    made = open_bundle(project.settings.bundles, result.bundle_digest)
    assert made.manifest["recalibrated_from"] == champion.digest
    for same in ("signature", "params", "classes", "code_digest"):
        assert made.manifest[same] == champion.manifest[same]
    assert made.manifest["files"]["model.py"] == champion.manifest["files"]["model.py"]
    assert made.manifest["recipe_digest"] != champion.manifest["recipe_digest"]
    assert made.manifest["runtime"]["format"] == champion.manifest["runtime"]["format"]
    _, holdout = read_snapshot(project.config, project.code, project.lake, snapshot)
    calibration = Recalibration.from_json(made.manifest["recalibration"])
    before, after = (load_predictor(bundle).predict(holdout).probabilities[:, 1] for bundle in (champion, made))
    assert not calibration.is_identity
    assert after == pytest.approx(calibration.apply(before), abs=1e-6)
    assert train(project, snapshot).adopted


def test_too_few_rows_to_recalibrate_on_are_said(tmp_path):
    project = make_project(tmp_path, rows=800)
    champion = train(project).bundle_digest
    usual = plan(project)
    short = Window(usual.holdout.start - timedelta(hours=12), usual.holdout.start)
    with pytest.raises(NotEnoughData, match="too few or of one class"):
        train(project, dataclasses.replace(usual, train=short, recalibrates=champion))
