"""A hyperparameter search that two tasks share, through Airflow's scheduler."""

from datetime import datetime, timedelta
from typing import Any
from urllib.parse import quote

import numpy as np
import pandas as pd
import pytest
from live_platform import Live, free_port, until
from mlflow import MlflowClient

from windvane.bundle import open_bundle
from windvane.store_trials import TrialStore
from windvane.windows import Window

pytestmark = [pytest.mark.live, pytest.mark.timeout(600)]

MAY = Window(datetime(2024, 5, 1), datetime(2024, 6, 1))
TRIALS = 6

# no challenger reaches the floor, so nothing is deployed
SEARCHED = """\
model: searched
description: Rows whose best penalty two workers look for
task: regression
data:
  source: {{type: csv, path: "searched/{{start:%Y-%m}}.csv"}}
  time: at
  label: y
train: {{window: 30d, holdout: 7d, search: {{trials: {trials}, timeout: 2m, workers: 2}}}}
gates: {{at_least: 0.999999, beat_baseline: false, min_rows: 20}}
deploy: {{port: {port}}}
retrain: {{on: []}}
"""

CODE = """\
import time

from sklearn.linear_model import Ridge
from sklearn.pipeline import make_pipeline


def features(frame):
    return frame[["x"]]


def build_pipeline(params):
    time.sleep(1)
    return make_pipeline(Ridge(alpha=params["alpha"]))


def search_space(trial):
    return {"alpha": trial.suggest_float("alpha", 0.01, 100.0, log=True)}
"""


@pytest.fixture(scope="module")
def searched(live: Live) -> str:
    """The run of a training whose search is shared."""
    project, random = live.settings.project, np.random.default_rng(7)
    (project / "searched").mkdir()
    x = random.normal(size=31 * 24)
    at = [MAY.start + timedelta(hours=hour) for hour in range(len(x))]
    pd.DataFrame({"at": at, "x": x, "y": 3 * x + random.normal(size=len(x))}).to_csv(project / "searched" / "2024-05.csv", index=False)
    (project / "include" / "models" / "searched.py").write_text(CODE)
    (project / "dags" / "configs" / "searched.yaml").write_text(SEARCHED.format(trials=TRIALS, port=free_port()))
    for kind in ("ingest", "train"):
        path = f"/api/v2/dags/searched__{kind}"
        until(lambda path=path: live.web(path, user="admin").status_code == 200, seconds=60, what=path)
    live.run("searched__ingest", MAY.as_extra())
    return live.run("searched__train")


def instances(live: Live, run_id: str) -> list[dict[str, Any]]:
    found = [task for task in live.client.tasks("searched__train", run_id) if task["task_id"] == "search"]
    return sorted(found, key=lambda task: int(task["map_index"]))


def result(live: Live, run_id: str, map_index: int) -> dict[str, Any]:
    path = f"/dags/searched__train/dagRuns/{quote(run_id, safe='')}/taskInstances/search/xcomEntries/return_value"
    return dict(live.client._request("GET", path, params={"deserialize": True, "map_index": map_index})["value"])


def test_two_tasks_share_the_trials(live: Live, searched: str) -> None:
    tasks = instances(live, searched)
    assert [(task["map_index"], task["state"], task["rendered_map_index"]) for task in tasks] == [
        (0, "success", "worker 1 of 2"),
        (1, "success", "worker 2 of 2"),
    ]
    results = [result(live, searched, task["map_index"]) for task in tasks]
    assert sum(found["trials"] for found in results) == TRIALS
    assert max(found["complete"] for found in results) == TRIALS


def test_the_training_has_the_params_and_the_trials_are_gone(live: Live, searched: str) -> None:
    trained = live.client.result("searched__train", searched, "train")
    params = open_bundle(live.settings.bundles, trained["bundle_digest"]).manifest["params"]
    assert 0.01 <= params["alpha"] <= 100
    run = MlflowClient(live.settings.mlflow_uri).get_run(trained["run_id"])
    assert run.data.params["model.alpha"] == str(params["alpha"])
    store = TrialStore(live.settings.database)
    left = store.storage.get_all_studies()
    store.close()
    assert left == []
