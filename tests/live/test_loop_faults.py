"""What goes wrong gives a clear error and loses nothing; a killed task's work is finished by the next attempt.

Comes after `test_loop.py`, whose state it needs.
"""

import time
from datetime import UTC, datetime, timedelta

import psutil
import pytest
import requests
from live_platform import Live, until
from mlflow import MlflowClient

from windvane.manage_processes import stop_processes
from windvane.record_platform import read_platform
from windvane.run_platform import start_platform
from windvane.windows import Window

pytestmark = [pytest.mark.live, pytest.mark.timeout(900)]

END = datetime(2013, 7, 30, tzinfo=UTC)


def window(days_before: int) -> Window:
    """Another one for each test, so that no earlier bundle is adopted."""
    end = END - timedelta(days=days_before)
    return Window(end - timedelta(days=90), end)


def kill_task(live: Live, dag_id: str, run_id: str, task_id: str, *, after_seconds: float) -> None:
    """SIGKILL the process of a task's first attempt, some time after it began to work."""
    instance = until(
        lambda: next((t["id"] for t in live.client.tasks(dag_id, run_id) if t["task_id"] == task_id), None), seconds=60, what="the task"
    )
    give_up = time.monotonic() + 120
    while time.monotonic() < give_up:
        # the process that bears the task's id supervises it; its child runs the task and at first bears it too
        bearers = {p.pid: p for p in psutil.process_iter(["cmdline"]) if instance in " ".join(p.info["cmdline"] or [])}
        children = [child for bearer in bearers.values() if bearer.ppid() not in bearers for child in bearer.children()]
        if children:
            time.sleep(after_seconds)
            children[0].kill()
            return
        time.sleep(0.02)
    raise AssertionError(f"{dag_id} {task_id}: no process of it was seen")


def attempts(live: Live, dag_id: str, run_id: str, task_id: str) -> int:
    return next(int(task["try_number"]) for task in live.client.tasks(dag_id, run_id) if task["task_id"] == task_id)


def registered(live: Live) -> list[str]:
    return [
        str(version.tags["windvane.bundle"]) for version in MlflowClient(live.settings.mlflow_uri).search_model_versions("name='flights'")
    ]


def settle(live: Live) -> None:
    """Wait until no run of the model is left."""

    def quiet() -> bool:
        return all(run["state"] in ("success", "failed") for run in live.client.runs() if run["dag_id"].startswith("flights__"))

    until(quiet, seconds=240, what="the end of all runs")


def all_agree(live: Live) -> bool:
    """Ledger, endpoint and alias name the same version."""
    last = live.ledger.last("flights")
    served = requests.get(f"{live.endpoint}/model", timeout=10).json()
    alias = MlflowClient(live.settings.mlflow_uri).get_model_version_by_alias("flights", "champion")
    return last is not None and last.until is None and last.serving == served["version"] == int(alias.version)


@pytest.mark.parametrize(("task", "after_seconds", "days"), [("train", 1.0, 1), ("register", 0.05, 2), ("gate", 0.3, 3)])
def test_a_killed_training_task_is_finished_by_the_next_attempt(live: Live, task: str, after_seconds: float, days: int) -> None:
    before = registered(live)
    run_id = live.client.trigger("flights__train", window(days).as_extra())
    kill_task(live, "flights__train", run_id, task, after_seconds=after_seconds)
    live.wait_for("flights__train", run_id)
    assert attempts(live, "flights__train", run_id, task) == 2
    after = registered(live)
    assert len(after) == len(set(after)) == len(before) + 1
    settle(live)
    until(lambda: all_agree(live), seconds=60, what="agreement on what serves")
    runs = MlflowClient(live.settings.mlflow_uri).search_runs(["1"], "attributes.status = 'RUNNING'")
    assert list(runs) == []


def test_a_killed_switch_is_finished_by_the_next_attempt_and_serving_goes_on(live: Live) -> None:
    other = live.served_before()
    run_id = live.client.trigger("flights__deploy", {"version": other})
    kill_task(live, "flights__deploy", run_id, "rollout", after_seconds=0.2)
    while not live._ended("flights__deploy", run_id):
        assert requests.get(f"{live.endpoint}/ping", timeout=10).status_code == 200
        time.sleep(0.1)
    live.wait_for("flights__deploy", run_id)
    until(lambda: all_agree(live), seconds=60, what="agreement on what serves")
    promoted = live.ledger.last("flights")
    assert promoted is not None
    assert promoted.serving == other
    assert live.ledger.verify("flights") == []


def test_mlflow_down_is_named_within_a_minute_and_the_run_goes_on_when_it_is_back(live: Live) -> None:
    platform = read_platform(live.settings.var)
    assert platform is not None
    mlflow = platform.process("mlflow")
    assert mlflow is not None
    stop_processes([mlflow])
    began = time.monotonic()
    run_id = live.client.trigger("flights__train", window(4).as_extra())
    try:
        until(
            lambda: (
                live.settings.mlflow_uri in live.log_of("flights__train", run_id, "train")
                and "ServiceUnavailable" in live.log_of("flights__train", run_id, "train")
            ),
            seconds=60,
            what="the name of what does not answer",
        )
        assert time.monotonic() - began < 60
        assert requests.get(f"{live.endpoint}/ping", timeout=10).status_code == 200
        live.run("flights__deploy", {"version": live.served_before()})
    finally:
        start_platform(live.settings, environ=live.environ)
    live.wait_for("flights__train", run_id)
    settle(live)
    until(lambda: all_agree(live), seconds=60, what="agreement on what serves")


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        pytest.param("2024-04", "at,x,y\n", "no rows", id="empty"),
        pytest.param("2024-05", "at,x\n2024-05-01T00:00:00Z,1.0\n", "y", id="lost-column"),
        pytest.param("2024-06", "at,x,y\n2024-06-01T00:00:00Z,1.0,2.0\n2024-06-01T01:00:00Z,1.", "cut", id="cut"),
    ],
)
def test_a_bad_file_is_refused_at_once_and_the_table_stays(live: Live, name: str, text: str, message: str) -> None:
    before = live.lake.version("landed", "raw")
    (live.settings.project / "landing" / f"{name}.csv").write_text(text)
    start = datetime.fromisoformat(f"{name}-01").replace(tzinfo=UTC)
    run_id = live.run("landed__ingest", Window(start, start + timedelta(days=28)).as_extra(), expect="failed")
    failed = next(task for task in live.client.tasks("landed__ingest", run_id) if task["state"] == "failed")
    assert failed["try_number"] == 1
    log = live.log_of("landed__ingest", run_id, failed["task_id"])
    assert "DataError" in log
    assert message in log
    assert live.lake.version("landed", "raw") == before


@pytest.mark.parametrize(
    ("model", "task", "message"),
    [
        ("no_code", "extract", "the model file is missing"),
        ("no_function", "extract", "has no function build_pipeline"),
        ("no_such_expectation", "validate", "expect_column_values_to_be_nice"),
    ],
)
def test_a_mistake_of_the_team_is_named_at_the_first_attempt(live: Live, model: str, task: str, message: str) -> None:
    run_id = live.run(f"{model}__ingest", window(0).as_extra(), expect="failed")
    failed = next(t for t in live.client.tasks(f"{model}__ingest", run_id) if t["state"] == "failed")
    assert (failed["task_id"], failed["try_number"]) == (task, 1)
    assert message in live.log_of(f"{model}__ingest", run_id, task)
