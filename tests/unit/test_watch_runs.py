"""The watcher says each change of a model's runs once, and what came out of each task."""

from typing import Any

import pytest

from windvane.airflow_client import AirflowClient
from windvane.watch_runs import RunWatcher, describe_result


class _Airflow(AirflowClient):
    """Airflow as a test tells it."""

    def __init__(self) -> None:
        super().__init__("http://127.0.0.1:1", user="", password="")
        self.found: dict[tuple[str, str], dict[str, Any]] = {}
        self.asked = 0

    def set(self, dag_id: str, run_id: str, state: str, *, kind: str = "manual", **tasks: str) -> None:
        self.found[dag_id, run_id] = {"state": state, "kind": kind, "tasks": tasks}

    def runs(self, *, limit: int = 100) -> list[dict[str, Any]]:
        rows = [
            {"dag_id": d, "dag_run_id": r, "state": v["state"], "run_type": v["kind"], "end_date": "2026-01-01T00:00:00Z"}
            for (d, r), v in self.found.items()
        ]
        return rows[::-1]

    def tasks(self, dag_id: str, run_id: str) -> list[dict[str, Any]]:
        self.asked += 1
        times = {"start_date": "2026-01-01T00:00:00Z", "end_date": "2026-01-01T00:00:02Z", "duration": 2.0, "try_number": 1}
        return [{"task_id": task, "state": state, **times} for task, state in self.found[dag_id, run_id]["tasks"].items()]

    def result(self, dag_id: str, run_id: str, task_id: str) -> Any:
        return {"decision": "retrain", "reason": "a refit is better"} if task_id == "decide" else {"rows": 3}


@pytest.fixture
def said() -> list[str]:
    return []


def test_changes_are_said_once(said: list[str]) -> None:
    airflow = _Airflow()
    watcher = RunWatcher(airflow, "m", say=said.append)
    watcher.poll()
    airflow.set("m__monitor", "r1", "running", kind="asset_triggered", collect="success", decide="running")
    watcher.poll()
    watcher.poll()
    airflow.set("m__monitor", "r1", "success", kind="asset_triggered", collect="success", decide="success")
    watcher.poll()
    watcher.poll()
    assert said == [
        "m__monitor: a run was started by an event",
        "m__monitor collect (2.0 s): 3 scored rows",
        "m__monitor decide (2.0 s): retrain: a refit is better",
    ]
    (run,) = watcher.of("monitor")
    assert run.is_final
    assert run.result("decide")["decision"] == "retrain"


def test_what_ended_before_anybody_looked_is_not_told(said: list[str]) -> None:
    airflow = _Airflow()
    airflow.set("m__ingest", "old", "failed", extract="failed")
    watcher = RunWatcher(airflow, "m", say=said.append)
    watcher.poll()
    assert said == []
    assert airflow.asked == 0
    assert watcher.unfinished() == []


def test_other_models_are_not_watched(said: list[str]) -> None:
    airflow = _Airflow()
    airflow.set("model__ingest", "r", "running", extract="running")
    watcher = RunWatcher(airflow, "m", say=said.append)
    watcher.poll()
    assert watcher.runs == {}


def test_a_failure_and_a_retry_are_said(said: list[str]) -> None:
    airflow = _Airflow()
    watcher = RunWatcher(airflow, "m", say=said.append)
    watcher.poll()
    for state, task in (("running", "up_for_retry"), ("running", "up_for_retry"), ("failed", "failed")):
        airflow.set("m__train", "r", state, train=task)
        watcher.poll()
    assert said[1] == "m__train train: attempt 1 ended early; Airflow tries again"
    assert said[2] == "m__train train (2.0 s): failed"
    assert "the run failed: http://127.0.0.1:1/dags/m__train/runs/r" in said[3]
    assert len(said) == 4


def test_a_run_that_is_started_once_more_is_followed_again(said: list[str]) -> None:
    airflow = _Airflow()
    airflow.set("m__ingest", "r", "failed", extract="failed")
    watcher = RunWatcher(airflow, "m", say=said.append)
    watcher.poll()
    airflow.set("m__ingest", "r", "running", extract="success")
    watcher.poll()
    assert len(watcher.unfinished()) == 1
    airflow.set("m__ingest", "r", "success", extract="success")
    watcher.poll()
    assert watcher.of("ingest")[0].state == "success"


def test_waiting_gives_up(said: list[str]) -> None:
    watcher = RunWatcher(_Airflow(), "m", say=said.append)
    assert watcher.wait(lambda: None, timeout_seconds=0.1) is None
    assert watcher.wait(lambda: "yes", timeout_seconds=5) == "yes"


@pytest.mark.parametrize(
    ("task", "result", "text"),
    [
        ("gate", {"version": 2, "passed": True, "gates": []}, "version 2 passed its gates"),
        (
            "gate",
            {"version": 2, "passed": False, "gates": [{"name": "floor", "passed": False, "reason": "low"}]},
            "version 2 refused: floor: low",
        ),
        ("train", {"metrics": {"accuracy": 0.5, "roc_auc": 0.61234}}, "roc_auc 0.6123, accuracy 0.5000"),
        ("gate", {"unexpected": 1}, "done"),
        ("something_new", {"a": 1}, "done"),
        ("extract", None, "done"),
    ],
)
def test_results_become_one_line(task: str, result: Any, text: str) -> None:
    assert describe_result(task, result) == text
