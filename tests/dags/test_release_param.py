"""A person releases a window that is held back where they look at it: in the monitor's trigger form."""

from pathlib import Path
from types import SimpleNamespace

import pytest
from airflow.sdk.exceptions import ParamValidationError

from windvane.windows import Window
from windvane_airflow.build_dags import build_dags
from windvane_airflow.operators.model_operator import actor_of
from windvane_airflow.operators.monitor_model import MonitorModelOperator

CONFIG = "model: asked\ntask: regression\ndata: {time: at, label: y}\n"
ENDS = {"window_start": "2013-01-01T00:00:00Z", "window_end": "2013-01-02T00:00:00Z"}
WINDOW = Window.from_extra(ENDS)


@pytest.fixture
def dag(tmp_path: Path):
    directory = tmp_path / "dags" / "configs"
    directory.mkdir(parents=True)
    (directory / "asked.yaml").write_text(CONFIG)
    return build_dags(tmp_path)["asked__monitor"]


def decide(dag, monkeypatch, **params):
    """Run the task with all that it calls recorded instead of done; return the names of the calls and what they got."""
    calls = []
    result = SimpleNamespace(decision="ok", reason="it is", alert="", report_path=None, window=WINDOW)
    monkeypatch.setattr("windvane.monitor_model.monitor_window", lambda *a, window: (calls.append(("monitor", window)), result)[1])
    monkeypatch.setattr("windvane.release_window.release_window", lambda *a, **k: calls.append(("release", a[2], k["actor"], k["reason"])))
    for name in ("code", "ledger"):
        monkeypatch.setattr(MonitorModelOperator, name, None)
    monkeypatch.setattr(MonitorModelOperator, "lake", SimpleNamespace(windows=lambda model: []))
    run = SimpleNamespace(conf=params, dag_id="asked__monitor", run_id="manual__1", triggering_user_name="ann")
    dag.get_task("decide").run({"dag": dag, "dag_run": run, "params": {**dag.params.dump(), **params}})
    return calls


def test_the_window_is_released_before_it_is_looked_at(dag, monkeypatch):
    calls = decide(dag, monkeypatch, **ENDS, release=" a new meter ")

    assert calls == [("release", WINDOW, "asked__monitor/manual__1 by ann", "a new meter"), ("monitor", WINDOW)]


@pytest.mark.parametrize("params", [{}, {"release": None}, {"release": "  "}])
def test_nothing_is_released_unless_a_reason_is_given(dag, monkeypatch, params):
    assert decide(dag, monkeypatch, **ENDS, **params) == [("monitor", WINDOW)]


def test_the_reason_is_a_text(dag):
    assert dag.params["release"] is None
    with pytest.raises(ParamValidationError):
        dag.params["release"] = 5


@pytest.mark.parametrize(
    ("user", "actor"), [("ann", "asked__deploy/manual__1 by ann"), (None, "asked__deploy/manual__1"), ("", "asked__deploy/manual__1")]
)
def test_the_actor_is_the_run_and_the_user_who_triggered_it(user, actor):
    run = SimpleNamespace(dag_id="asked__deploy", run_id="manual__1", triggering_user_name=user)
    assert actor_of({"dag_run": run}) == actor


def test_a_run_that_nobody_triggered_is_its_own_actor():
    assert actor_of({"dag_run": SimpleNamespace(dag_id="asked__deploy", run_id="asset__1")}) == "asked__deploy/asset__1"
