"""What the live tests need of a running platform, and the team's directory that it runs."""

import json
import shutil
import socket
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import requests

from windvane.airflow_client import AirflowClient
from windvane.lake import Lake
from windvane.ledger import Ledger
from windvane.record_platform import Platform
from windvane.settings import REPOSITORY, Settings

# every third flight: the real data, a third of the time
SLICE = """

_read_all = read


def read(window, connection):
    flights = _read_all(window, connection)
    return flights[flights["flight_id"].str.split("-").str[4].astype(int) % 3 == 0]
"""

FLIGHTS = """\
model: flights
description: A slice of the flights of 2013
task: binary_classification
data:
  schedule: "@monthly"
  start: 2013-01-01
  end: 2014-01-01
  id: flight_id
  time: scheduled_departure
  label: late
  label_delay: 1d
  suite: raw
train: {{window: 90d, holdout: 14d, search: {{trials: 2, timeout: 20s}}}}
gates:
  at_least: 0.55
  slices: {{columns: [origin], max_drop: 0.1, min_rows: 200}}
deploy: {{target: process, port: {port}}}
monitor: {{min_rows: 200}}
"""

LANDED = """\
model: landed
description: Rows that arrive as files; retrained by a clock, deployed when a person approves
task: regression
data:
  source: {{type: csv, path: "landing/{{start:%Y-%m}}.csv"}}
  wait_for: {{type: file, path: "landing/{{start:%Y-%m}}.csv", poke: 1s}}
  time: at
  label: y
train: {{window: 30d, holdout: 7d}}
gates: {{beat_baseline: false, min_rows: 20}}
approval: {{required: true}}
deploy: {{port: {port}}}
retrain: {{schedule: "* * * * *", on: [schedule]}}
"""

ASKED = """\
model: asked
description: Trained on demand, deployed when a person approves
owner: people-team
tags: [people]
task: regression
data:
  source: {{type: csv, path: "asked/{{start:%Y-%m}}.csv"}}
  time: at
  label: y
train: {{window: 30d, holdout: 7d}}
gates: {{beat_baseline: false, min_rows: 20, slices: {{columns: [place], min_rows: 20}}}}
approval: {{required: true}}
deploy: {{port: {port}}}
retrain: {{on: []}}
"""

LANDED_CODE = """\
from sklearn.linear_model import Ridge
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler


def features(frame):
    return frame[["x"]]


def build_pipeline(params):
    return make_pipeline(StandardScaler(), Ridge())
"""


@dataclass(frozen=True)
class Live:
    """A running platform and what the tests need of it."""

    settings: Settings
    platform: Platform
    client: AirflowClient
    ports: dict[str, int]
    environ: dict[str, str]

    @property
    def lake(self) -> Lake:
        return Lake(self.settings.lake)

    @property
    def ledger(self) -> Ledger:
        return Ledger(self.settings.database)

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.ports['flights']}"

    def served_before(self) -> int:
        """A version of the flights that served and does not serve now."""
        last = self.ledger.last("flights")
        assert last is not None
        return next(release.version for release in self.ledger.history("flights") if release.version != last.serving)

    def password(self, user: str) -> str:
        return str(json.loads((self.settings.var / "airflow_passwords.json").read_text())[user])

    def run(self, dag_id: str, conf: dict[str, Any] | None = None, *, expect: str = "success", seconds: float = 240) -> str:
        """Trigger a DAG, wait for its end, and return the run's id."""
        run_id = self.client.trigger(dag_id, conf)
        self.wait_for(dag_id, run_id, expect=expect, seconds=seconds)
        return run_id

    def wait_for(self, dag_id: str, run_id: str, *, expect: str = "success", seconds: float = 240) -> None:
        state = until(lambda: self._ended(dag_id, run_id), seconds=seconds, what=f"{dag_id} {run_id}")
        assert state == expect, f"{dag_id} {run_id}: {state}\n{self.failures(dag_id, run_id)}"

    def next_run(self, dag_id: str, *, after: set[str], seconds: float = 120) -> str:
        """Wait for a run of a DAG that was not there before, and for its end."""

        def found() -> str | None:
            new = [run for run in self.runs_of(dag_id) if run not in after]
            return new[0] if new else None

        run_id = until(found, seconds=seconds, what=f"a new run of {dag_id}")
        self.wait_for(dag_id, run_id)
        return run_id

    def runs_of(self, dag_id: str) -> set[str]:
        return {run["dag_run_id"] for run in self.client.runs() if run["dag_id"] == dag_id}

    def log_of(self, dag_id: str, run_id: str, task_id: str) -> str:
        directory = self.settings.var / "logs" / f"dag_id={dag_id}" / f"run_id={run_id}" / f"task_id={task_id}"
        return "\n".join(path.read_text(encoding="utf-8") for path in sorted(directory.glob("*.log")))

    def failures(self, dag_id: str, run_id: str) -> str:
        failed = [task["task_id"] for task in self.client.tasks(dag_id, run_id) if task["state"] == "failed"]
        return "\n".join(f"--- {task}\n{self.log_of(dag_id, run_id, task)[-3000:]}" for task in failed)

    def _ended(self, dag_id: str, run_id: str) -> str | None:
        states = [run["state"] for run in self.client.runs() if run["dag_id"] == dag_id and run["dag_run_id"] == run_id]
        return states[0] if states and states[0] in ("success", "failed") else None

    def question(self, dag_id: str, *, seconds: float = 180) -> dict[str, Any]:
        """Wait until a task of a DAG asks a person, and return its details."""

        def asked() -> dict[str, Any] | None:
            found = self.client._request("GET", f"/dags/{dag_id}/dagRuns/~/hitlDetails", params={"response_received": False})
            # the question exists a moment before the task that asks it has parked
            parked = [detail for detail in found["hitl_details"] if detail["task_instance"]["state"] == "awaiting_input"]
            return dict(parked[0]) if parked else None

        return dict(until(asked, seconds=seconds, what=f"a question of {dag_id}"))

    def answer(self, question: Mapping[str, Any], *, option: str = "Approve", reason: str | None = None) -> None:
        """Answer a question, and wait for the end of its run."""
        asked = question["task_instance"]
        dag_id, run_id = asked["dag_id"], asked["dag_run_id"]
        path = f"/dags/{dag_id}/dagRuns/{quote(run_id, safe='')}/taskInstances/{asked['task_id']}/-1/hitlDetails"

        def answered() -> bool:
            # Airflow loses an answer that comes before its scheduler has seen the asking process end, and asks again, four times at most
            details = self.client._request("GET", path)
            if not details["response_received"] and details["task_instance"]["state"] == "awaiting_input":
                # nobody reads faster
                time.sleep(2)
                self.client._request("PATCH", path, json={"chosen_options": [option], "params_input": {"reason": reason}})
            return self._ended(dag_id, run_id) is not None

        until(answered, seconds=240, what=f"the end of {dag_id} {run_id}")
        self.wait_for(dag_id, run_id)

    def web(self, path: str, *, user: str | None = None) -> requests.Response:
        """Ask Airflow's web server as a user, or as nobody."""
        headers = self.login(user) if user else {}
        return requests.get(f"{self.platform.airflow_url}{path}", headers=headers, timeout=30, allow_redirects=False)

    def login(self, user: str) -> dict[str, str]:
        """The header that a program of a user sends."""
        login = {"username": user, "password": self.password(user)}
        token = requests.post(f"{self.platform.airflow_url}/auth/token", json=login, timeout=30).json()["access_token"]
        return {"Authorization": f"Bearer {token}"}

    def link(self, dag_id: str, run_id: str, task_id: str) -> dict[str, str]:
        """The buttons on a task's page."""
        run = quote(run_id, safe="")
        return dict(self.web(f"/api/v2/dags/{dag_id}/dagRuns/{run}/taskInstances/{task_id}/links", user="admin").json()["extra_links"])


def until(condition: Callable[[], Any], *, seconds: float, what: str) -> Any:
    """Wait until a condition gives something, and return it."""
    give_up = time.monotonic() + seconds
    while time.monotonic() < give_up:
        value = condition()
        if value:
            return value
        time.sleep(0.5)
    raise AssertionError(f"{what}: not within {seconds:.0f} s")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def write_team(directory: Path, ports: dict[str, int]) -> None:
    """Lay out a team's files over the repository's DAG files."""
    configs, models = directory / "dags" / "configs", directory / "include" / "models"
    configs.mkdir(parents=True)
    models.mkdir(parents=True)
    (directory / "landing").mkdir()
    (directory / "asked").mkdir()
    for file in ("model_dags.py", "platform_dags.py"):
        shutil.copy(REPOSITORY / "dags" / file, directory / "dags" / file)
    shutil.copytree(REPOSITORY / "expectations" / "flight_delay", directory / "expectations" / "flights")
    (configs / "flights.yaml").write_text(FLIGHTS.format(port=ports["flights"]))
    (configs / "landed.yaml").write_text(LANDED.format(port=ports["landed"]))
    (configs / "asked.yaml").write_text(ASKED.format(port=ports["asked"]))
    for model, suite in (("no_code", ""), ("no_function", ""), ("no_such_expectation", ", suite: raw")):
        (configs / f"{model}.yaml").write_text(
            f"model: {model}\ntask: regression\ndata: {{time: scheduled_departure, label: late{suite}}}\ndeploy: {{port: {free_port()}}}\n"
        )
    (models / "no_function.py").write_text("def build(): ...\n")
    (models / "no_such_expectation.py").write_text((REPOSITORY / "include" / "models" / "flight_delay.py").read_text())
    bad = {"name": "raw", "expectations": [{"type": "expect_column_values_to_be_nice", "kwargs": {"column": "late"}}]}
    (directory / "expectations" / "no_such_expectation").mkdir()
    (directory / "expectations" / "no_such_expectation" / "raw.json").write_text(json.dumps(bad))
    (configs / "broken.yaml").write_text("model: broken\ntask: regression\ndata: {time: at, labl: y}\n")
    (models / "flights.py").write_text((REPOSITORY / "include" / "models" / "flight_delay.py").read_text() + SLICE)
    for model in ("landed", "asked"):
        (models / f"{model}.py").write_text(LANDED_CODE)
