"""The loop on a slice of the flights, through Airflow's REST API: ingest, train, deploy, score, monitor, retrain, roll back.

The tests of this file tell one story and run in their order.
"""

import threading
import time
from datetime import UTC, datetime

import pandas as pd
import pytest
import requests
from live_platform import Live, until
from mlflow import MlflowClient
from mlflow.pyfunc.scoring_server.client import ScoringServerClient

from windvane.config import code_path
from windvane.load_config import load_model_config
from windvane.model_code import load_model_code
from windvane.windows import Window

pytestmark = [pytest.mark.live, pytest.mark.timeout(900)]

WINTER = Window(datetime(2013, 1, 1), datetime(2013, 3, 1))
SPRING = Window(datetime(2013, 3, 1), datetime(2013, 8, 1))


def flights(live: Live, window: Window) -> pd.DataFrame:
    code = load_model_code(code_path(live.settings.project, "flights"), "flights")
    assert code.read is not None
    frame: pd.DataFrame = code.read(window, None)
    return frame


def requests_of(frame: pd.DataFrame) -> dict[str, object]:
    rows = frame.drop(columns="late").assign(scheduled_departure=lambda f: f["scheduled_departure"].dt.strftime("%Y-%m-%dT%H:%M:%SZ"))
    return {"dataframe_split": rows.to_dict(orient="split", index=False)}


def test_ingest_commits_the_window_once(live: Live) -> None:
    run_id = live.run("flights__ingest", WINTER.as_extra())
    expected = len(flights(live, WINTER))
    assert len(live.lake.read("flights", "raw")) == expected
    version = live.lake.version("flights", "raw")
    live.run("flights__ingest", WINTER.as_extra())
    assert len(live.lake.read("flights", "raw")) == expected
    assert live.lake.version("flights", "raw") == version
    assert live.client.result("flights__ingest", run_id, "commit")["rows"] == expected


def test_the_monitor_waits_while_nothing_serves(live: Live) -> None:
    until(lambda: live.lake.exists("flights", "decisions"), seconds=120, what="a decision")
    assert set(live.lake.read("flights", "decisions")["decision"]) == {"wait"}


def test_the_first_version_passes_its_gates_and_serves(live: Live) -> None:
    live.run("flights__train")
    live.next_run("flights__deploy", after=set())
    serving = requests.get(f"{live.endpoint}/model", timeout=10).json()
    last = live.ledger.last("flights")
    assert last is not None
    assert (last.action, last.version, last.traffic) == ("promote", 1, {1: 100})
    assert serving["version"] == 1
    assert serving["digest"] == last.digest
    assert requests.get(f"{live.endpoint}/ping", timeout=10).status_code == 200


def test_mlflow_has_the_version_the_run_and_the_alias(live: Live) -> None:
    client = MlflowClient(live.settings.mlflow_uri)
    champion = until(lambda: client.get_registered_model("flights").aliases.get("champion"), seconds=60, what="the alias")
    version = client.get_model_version("flights", champion)
    run = client.get_run(version.run_id)
    assert int(version.version) == 1
    assert run.info.status == "FINISHED"
    assert run.inputs.dataset_inputs
    assert "roc_auc" in run.data.metrics
    assert {"bundle", "plots"} <= {artifact.path for artifact in client.list_artifacts(version.run_id)}


def test_mlflows_own_client_scores(live: Live) -> None:
    frame = flights(live, SPRING).head(20).drop(columns="late")
    answer = ScoringServerClient("127.0.0.1", live.ports["flights"]).invoke(frame)
    assert len(answer.get_predictions()) == 20


def test_a_retraining_that_helps_is_promoted_without_a_failed_request(live: Live) -> None:
    """Scored flights, then their outcomes: everything after the ingest happens by asset events."""
    rows = flights(live, SPRING)
    before = {kind: live.runs_of(f"flights__{kind}") for kind in ("monitor", "train", "deploy")}
    stop, failed, versions = threading.Event(), [], set()

    def send() -> None:
        with requests.Session() as session:
            position = 0
            while not stop.is_set():
                part = rows.iloc[position : position + 40]
                position = position + 40 if position + 80 < len(rows) else 0
                answer = session.post(f"{live.endpoint}/invocations", json=requests_of(part), timeout=30)
                if answer.status_code != 200 or len(answer.json()["predictions"]) != len(part):
                    failed.append(answer.text[:200])
                versions.add(answer.headers["x-windvane-version"])
                time.sleep(0.03)

    sender = threading.Thread(target=send)
    sender.start()
    try:
        time.sleep(5)
        live.run("flights__ingest", SPRING.as_extra())
        monitored = live.next_run("flights__monitor", after=before["monitor"])
        decided = live.client.result("flights__monitor", monitored, "decide")
        assert decided["decision"] == "retrain", decided
        trained = live.next_run("flights__train", after=before["train"], seconds=180)
        verdict = live.client.result("flights__train", trained, "gate")
        assert verdict["passed"] is True, verdict
        live.next_run("flights__deploy", after=before["deploy"], seconds=180)
        until(lambda: "2" in versions, seconds=30, what="an answer of version 2")
    finally:
        stop.set()
        sender.join()
    assert failed == []
    assert versions == {"1", "2"}
    run = next(run for run in live.client.runs() if run["dag_run_id"] == trained)
    assert run["run_type"] == "asset_triggered"
    assert [release.action for release in live.ledger.history("flights")] == ["shift", "promote", "shift", "promote"]


def test_what_was_scored_is_collected_and_joined_with_outcomes(live: Live) -> None:
    from windvane.collect_predictions import join_outcomes

    predictions = live.lake.read("flights", "predictions")
    assert len(predictions) > 200
    joined = join_outcomes(load_model_config(live.settings.project, "flights"), live.lake, SPRING).rows
    assert joined["label"].notna().sum() > 200


def test_the_report_needs_a_login_and_is_sandboxed(live: Live) -> None:
    run_id = next(iter(sorted(live.runs_of("flights__monitor"), reverse=True)))
    newest = max(live.runs_of("flights__monitor"), key=lambda run: run.split("__")[1])
    report = live.link("flights__monitor", newest or run_id, "decide")["Report"]
    assert live.web(report).status_code == 401
    page = live.web(report, user="viewer")
    assert page.status_code == 200
    assert page.headers["content-security-policy"].startswith("sandbox")
    assert page.headers["x-content-type-options"] == "nosniff"
    assert live.web("/windvane/reports/..%2F..%2Fairflow_passwords.json", user="admin").status_code == 404


@pytest.mark.parametrize(
    ("dag", "task", "name"),
    [
        ("ingest", "validate", "Validation result"),
        ("train", "train", "MLflow run"),
        ("train", "gate", "Verdict"),
        ("deploy", "promote", "Endpoint"),
    ],
)
def test_operators_link_to_what_they_made(live: Live, dag: str, task: str, name: str) -> None:
    newest = max(live.runs_of(f"flights__{dag}"), key=lambda run: run.split("__")[1])
    assert live.link(f"flights__{dag}", newest, task)[name]


def test_batch_scoring_is_idempotent(live: Live) -> None:
    july = Window(datetime(2013, 7, 1), datetime(2013, 8, 1))
    live.run("flights__score", july.as_extra())
    live.run("flights__score", july.as_extra())
    scores = live.lake.read("flights", "scores")
    assert len(scores) == len(flights(live, july))
    assert set(scores["version"]) == {2}


def test_history_is_replayed_on_demand(live: Live) -> None:
    asked = {"model": "flights", "first": "59d", "window": "30d", "policies": ["windvane", "never"]}
    run_id = live.run("windvane__backtest", asked)
    summary = live.client.result("windvane__backtest", run_id, "backtest")["summary"]
    assert set(summary) == {"windvane", "never"}
    assert summary["windvane"]["mean_loss"] < summary["never"]["mean_loss"]
    page = live.web(live.link("windvane__backtest", run_id, "backtest")["Backtest"], user="viewer")
    assert page.status_code == 200
    assert "Decisions of windvane" in page.text
    assert "data:image/png;base64," in page.text


def test_roll_back_goes_to_the_version_before(live: Live) -> None:
    live.run("flights__deploy", {"version": "previous"})
    last = live.ledger.last("flights")
    assert last is not None
    assert (last.action, last.version, last.traffic) == ("rollback", 1, {1: 100})
    assert requests.get(f"{live.endpoint}/model", timeout=10).json()["version"] == 1
    assert live.ledger.verify("flights") == []
    client = MlflowClient(live.settings.mlflow_uri)
    until(lambda: int(client.get_model_version_by_alias("flights", "champion").version) == 1, seconds=60, what="the alias")


def test_an_empty_source_fails_fast_and_leaves_the_table(live: Live) -> None:
    version = live.lake.version("flights", "raw")
    window = Window(datetime(2012, 1, 1, tzinfo=UTC), datetime(2012, 2, 1, tzinfo=UTC))
    run_id = live.run("flights__ingest", window.as_extra(), expect="failed")
    tasks = {task["task_id"]: task for task in live.client.tasks("flights__ingest", run_id)}
    assert (tasks["extract"]["state"], tasks["extract"]["try_number"]) == ("failed", 1)
    assert "DataError" in live.log_of("flights__ingest", run_id, "extract")
    assert live.lake.version("flights", "raw") == version


def test_a_wrong_param_is_refused_by_the_api(live: Live) -> None:
    from windvane.errors import WindvaneError

    with pytest.raises(WindvaneError, match="window_start"):
        live.client.trigger("flights__train", {"window_start": 3})
