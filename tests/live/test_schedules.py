"""Runs that something other than a person starts: a file that lands, a clock; and a config that cannot be used."""

from datetime import datetime, timedelta

import numpy as np
import pandas as pd
import pytest
from live_platform import Live, until

from windvane.windows import Window

pytestmark = [pytest.mark.live, pytest.mark.timeout(600)]

MARCH = Window(datetime(2024, 3, 1), datetime(2024, 4, 1))


def state_of(live: Live, dag_id: str, run_id: str, task_id: str) -> str:
    return next(str(task["state"]) for task in live.client.tasks(dag_id, run_id) if task["task_id"] == task_id)


def test_ingest_waits_for_the_file_without_a_worker_slot(live: Live) -> None:
    run_id = live.client.trigger("landed__ingest", MARCH.as_extra())
    until(lambda: state_of(live, "landed__ingest", run_id, "wait") == "deferred", seconds=60, what="the deferred state")
    random = np.random.default_rng(7)
    hours = 31 * 24
    x = random.normal(size=hours)
    rows = pd.DataFrame(
        {"at": [MARCH.start + timedelta(hours=i) for i in range(hours)], "x": x, "y": 3 * x + random.normal(size=hours) / 10}
    )
    path = live.settings.project / "landing" / "2024-03.csv"
    rows.to_csv(path.with_suffix(".part"), index=False)
    path.with_suffix(".part").rename(path)
    live.wait_for("landed__ingest", run_id)
    assert len(live.lake.read("landed", "raw")) == hours


def test_a_clock_retrains(live: Live) -> None:
    until(lambda: live.lake.exists("landed", "raw"), seconds=10, what="the data of the test before")

    def trained() -> bool:
        runs = [run for run in live.client.runs() if run["dag_id"] == "landed__train" and run["run_type"] == "scheduled"]
        return any(run["state"] == "success" for run in runs)

    until(trained, seconds=180, what="a scheduled training")


def test_a_challenger_waits_for_a_person(live: Live) -> None:
    question = live.question("landed__deploy")
    assert live.ledger.last("landed") is None
    live.answer(question)
    released = live.ledger.last("landed")
    assert released is not None
    assert (released.action, released.version) == ("promote", 1)


def test_a_broken_config_is_a_visible_dag_and_hides_no_other(live: Live) -> None:
    dags = live.client.dag_ids()
    assert "broken__config_error" in dags
    assert {"flights__ingest", "landed__ingest"} <= dags
    run_id = live.run("broken__config_error", expect="failed")
    assert "did you mean 'label'" in live.log_of("broken__config_error", run_id, "config_error")
