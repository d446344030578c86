"""Twenty models retrain at once: no more of their tasks run at the same moment than the pool has slots, and others get through."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import quote

import numpy as np
import pandas as pd
import pytest
from live_platform import LANDED_CODE, Live, free_port, until

from windvane.windows import Window

pytestmark = [pytest.mark.live, pytest.mark.timeout(600)]

MODELS = [f"crowd_{number:02d}" for number in range(20)]
MAY = Window(datetime(2024, 5, 1), datetime(2024, 6, 1))
# the floor refuses every challenger: twenty trainings, nothing to deploy, and no process that waits for a first version
CONFIG = """\
model: {model}
task: regression
data: {{time: at, label: y}}
train: {{window: 31d, holdout: 7d}}
gates: {{metric: r2, at_least: 0.9999, beat_baseline: false, min_rows: 20}}
deploy: {{target: docker, port: {port}}}
retrain: {{on: []}}
"""


@pytest.fixture
def crowd(live: Live) -> Iterator[list[str]]:
    """The models, with a month of committed rows each; they leave the platform as they came."""
    random = np.random.default_rng(7)
    hours = 31 * 24
    x = random.normal(size=hours)
    rows = pd.DataFrame(
        {
            "at": pd.to_datetime([MAY.start + timedelta(hours=hour) for hour in range(hours)], utc=True).as_unit("us"),
            "x": x,
            "y": 3 * x + random.normal(size=hours),
        }
    )
    files = []
    for model in MODELS:
        live.lake.overwrite_window(model, "raw", rows, window=MAY, time="at", metadata={})
        code = live.settings.project / "include" / "models" / f"{model}.py"
        code.write_text(LANDED_CODE)
        config = live.settings.project / "dags" / "configs" / f"{model}.yaml"
        config.write_text(CONFIG.format(model=model, port=free_port()))
        files += [code, config]
    until(lambda: all(known(live, f"{model}__train") for model in MODELS), seconds=120, what="the DAGs of twenty models")
    yield MODELS
    for file in files:
        file.unlink()


def known(live: Live, dag_id: str) -> bool:
    from windvane.airflow_client import NotFound

    try:
        return not live.client._request("GET", f"/dags/{dag_id}")["is_stale"]
    except NotFound:
        return False


def tasks_of(live: Live, runs: dict[str, str]) -> list[dict[str, Any]]:
    return [task for dag_id, run_id in runs.items() for task in live.client.tasks(dag_id, run_id)]


def state_of(live: Live, dag_id: str, run_id: str) -> str:
    return str(live.client._request("GET", f"/dags/{dag_id}/dagRuns/{quote(run_id, safe='')}")["state"])


def most_at_once(tasks: list[dict[str, Any]]) -> int:
    """How many of them ran at the same moment."""
    moments = [(datetime.fromisoformat(task["start_date"]), 1) for task in tasks]
    moments += [(datetime.fromisoformat(task["end_date"]), -1) for task in tasks]
    running = most = 0
    for _, change in sorted(moments):
        running += change
        most = max(most, running)
    return most


def test_twenty_trainings_at_once_keep_to_the_pool(live: Live, crowd: list[str]) -> None:
    slots = live.client._request("GET", "/pools/train")["slots"]
    assert 1 <= slots < 4  # of the tasks that run at once, one is left for others
    runs = {f"{model}__train": live.client.trigger(f"{model}__train", MAY.as_extra()) for model in crowd}
    asked = datetime.now(UTC)
    live.run("windvane__reconcile")
    served = datetime.now(UTC)
    until(
        lambda: all(state_of(live, *run) in ("success", "failed") for run in runs.items()), seconds=300, what="the end of twenty trainings"
    )

    tasks = tasks_of(live, runs)
    assert {task["pool"] for task in tasks} == {"train"}
    assert {task["state"] for task in tasks} == {"success"}
    assert most_at_once(tasks) <= slots
    # whoever needs no training did not wait for them
    assert served - asked < max(datetime.fromisoformat(task["end_date"]) for task in tasks) - asked
    assert [live.client.result(f"{model}__train", runs[f"{model}__train"], "gate")["passed"] for model in crowd] == [False] * len(crowd)
