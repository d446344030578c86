"""Many models at once on Celery: trainings wait for a free trainer, and a search uses all of them."""

import json
import subprocess
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import quote

import numpy as np
import pandas as pd
import pytest
from compose_stack import Stack, free_port, wait_for

from windvane.airflow_client import AirflowClient, NotFound
from windvane.errors import WindvaneError

pytestmark = pytest.mark.timeout(3600)

JANUARY = (datetime(2024, 1, 1, tzinfo=UTC), datetime(2024, 2, 1, tzinfo=UTC))
CROWD = [f"crowd_{number:02}" for number in range(1, 21)]
TRAINERS = 2
# approval: a version is made and judged, and does not serve
CONFIG = """\
model: {model}
owner: crowd
task: regression
data: {{source: {{type: csv, path: "{data}"}}, time: at, label: y}}
train: {{window: 30d, holdout: 7d{search}}}
gates: {{beat_baseline: false, min_rows: 20}}
approval: {{required: true{approvers}}}
deploy: {{port: {port}, rollout: {{steps: [100], bake: 5s, min_requests: 50}}}}
retrain: {{on: []}}
"""
CODE = """\
import time

from sklearn.ensemble import HistGradientBoostingRegressor


def features(frame):
    return frame[["x"]]


def build_pipeline(params):
    {wait}
    return HistGradientBoostingRegressor(**params)
"""
# what is waited for stands for a fit on other processors than those of this machine
SPACE = """

def search_space(trial):
    return {"learning_rate": trial.suggest_float("learning_rate", 0.01, 0.3)}
"""


def add_models(stack: Stack, models: Sequence[str], *, search: str = "", approvers: str = "") -> AirflowClient:
    """Add models to the team's files, with a month of data, and wait until Airflow knows them."""
    data = stack.root / "state" / "crowd.csv"
    hours = int((JANUARY[1] - JANUARY[0]) / timedelta(hours=1))
    random = np.random.default_rng(7)
    x = random.normal(size=hours)
    rows = pd.DataFrame(
        {"at": [JANUARY[0] + timedelta(hours=i) for i in range(hours)], "x": x, "y": 3 * x + random.normal(size=hours) / 10}
    )
    rows.to_csv(data, index=False)
    data.chmod(0o644)
    team = stack.root / "team"
    for model in models:
        code = CODE.format(wait="time.sleep(2)") + SPACE if search else CODE.format(wait="")
        (team / "include" / "models" / f"{model}.py").write_text(code)
        config = CONFIG.format(model=model, data=data, search=search, approvers=approvers, port=free_port())
        (team / "dags" / "configs" / f"{model}.yaml").write_text(config)
    client = stack.client()
    wanted = {f"{model}__{kind}" for model in models for kind in ("ingest", "train", "deploy", "monitor")}
    wait_for(lambda: wanted <= client.dag_ids(), "Airflow knows the new models", seconds=180)
    window = {"window_start": JANUARY[0].isoformat(), "window_end": JANUARY[1].isoformat()}
    run_all(client, [f"{model}__ingest" for model in models], window)
    return client


def run_all(client: AirflowClient, dags: Sequence[str], conf: dict[str, Any] | None = None) -> dict[str, list[dict[str, Any]]]:
    """Start all of them, wait until all have ended well, and return their tasks by DAG."""
    runs = {dag: wait_for(lambda dag=dag: start(client, dag, conf), f"{dag} can be started", seconds=60) for dag in dags}
    tasks: dict[str, list[dict[str, Any]]] = {}

    def ended() -> bool:
        for dag in runs.keys() - tasks.keys():
            state = client._request("GET", f"/dags/{dag}/dagRuns/{quote(runs[dag], safe='')}")["state"]
            assert state != "failed", f"{dag} {runs[dag]}"
            if state == "success":
                tasks[dag] = client.tasks(dag, runs[dag])
        return len(tasks) == len(runs)

    wait_for(ended, f"{len(runs)} runs end", seconds=1500, every=2)
    return tasks


def start(client: AirflowClient, dag: str, conf: dict[str, Any] | None) -> str | None:
    """The run; None while Airflow lists the DAG and has not stored the rest of it."""
    try:
        return client.trigger(dag, conf)
    except NotFound:
        return None


def most_at_once(tasks: Sequence[dict[str, Any]]) -> int:
    """How many of these tasks ran at the same moment."""
    moves = [(task["start_date"], 1) for task in tasks] + [(task["end_date"], -1) for task in tasks]
    running = most = 0
    for _, step in sorted(moves):
        running += step
        most = max(most, running)
    return most


def test_twenty_trainings_at_once_keep_within_workers_and_memory(stack: Stack) -> None:
    client = add_models(stack, CROWD)
    before = {container["Id"]: container["RestartCount"] for container in stack.containers("worker-train")}
    assert len(before) == TRAINERS
    tasks = run_all(client, [f"{model}__train" for model in CROWD])
    of_all = [task for found in tasks.values() for task in found]
    assert {(task["queue"], task["pool"]) for task in of_all} == {("train", "train")}
    assert {task["try_number"] for task in of_all} == {1}
    assert most_at_once(of_all) == TRAINERS
    assert len({task["hostname"] for task in of_all}) == TRAINERS
    after = stack.containers("worker-train")
    assert {container["Id"]: container["RestartCount"] for container in after} == before
    assert not any(container["State"]["OOMKilled"] for container in after)
    print(f"\n20 trainings took {seconds_of(of_all):.0f} s; trainers' memory: {', '.join(memory_of(container) for container in after)}")
    made = {dag: client.result(dag, found[0]["dag_run_id"], "register")["version"] for dag, found in tasks.items()}
    assert made == dict.fromkeys(tasks, 1)


def test_a_search_is_shared_by_both_trainers_and_ends_sooner(stack: Stack) -> None:
    alone, shared = "alone", "shared"
    client = add_models(stack, [alone], search=", search: {trials: 16, timeout: 10m}")
    seconds = {alone: seconds_of(run_all(client, [f"{alone}__train"])[f"{alone}__train"])}
    add_models(stack, [shared], search=", search: {trials: 16, timeout: 10m, workers: 2}")
    tasks = run_all(client, [f"{shared}__train"])[f"{shared}__train"]
    seconds[shared] = seconds_of(tasks)
    searches = [task for task in tasks if task["task_id"] == "search"]
    assert len({task["hostname"] for task in searches}) == len(searches) == TRAINERS
    print(f"\na training with 16 trials took {seconds[alone]:.0f} s on one trainer, {seconds[shared]:.0f} s on two")
    assert seconds[shared] < seconds[alone]


def test_only_the_approver_answers_and_what_they_approved_serves(stack: Stack) -> None:
    asked_of = "SELECT id FROM ab_user WHERE username = 'op'"
    op = stack.run("exec", "-T", "postgres", "psql", "--username", "postgres", "-At", "--command", asked_of, "airflow").strip()
    client = add_models(stack, ["vetted"], approvers=f", approvers: ['{op}']")
    run_all(client, ["vetted__train"])

    def asked() -> dict[str, Any] | None:
        found = client._request("GET", "/dags/vetted__deploy/dagRuns/~/hitlDetails", params={"response_received": False})
        return next((one for one in found["hitl_details"] if one["task_instance"]["state"] == "awaiting_input"), None)

    run_id = wait_for(asked, "somebody is asked", seconds=120)["task_instance"]["dag_run_id"]
    path = f"/dags/vetted__deploy/dagRuns/{quote(run_id, safe='')}"
    question = f"{path}/taskInstances/approve/-1/hitlDetails"
    yes = {"chosen_options": ["Approve"], "params_input": {"reason": "seen in staging"}}
    # the chief of all included
    for user in ("viewer", "user", "admin"):
        with pytest.raises(WindvaneError, match="answers 403"):
            stack.client(user)._request("PATCH", question, json=yes)
    assert not releases(stack, "vetted")

    def ended() -> bool:
        # Airflow loses an answer that comes before the process of the task has ended, and asks again
        if asked():
            stack.client("op")._request("PATCH", question, json=yes)
        state = client._request("GET", path)["state"]
        assert state != "failed", logs_of_failures(client, path)
        return bool(state == "success")

    wait_for(ended, "version 1 is deployed", seconds=300, every=2)
    newest = max(releases(stack, "vetted"), key=lambda row: row["epoch"])
    assert (newest["action"], newest["version"]) == ("promote", 1)
    # the training started it, nobody triggered it
    assert newest["actor"] == f"vetted__deploy/{run_id}"
    approval = newest["evidence"]["approval"]
    assert (approval["by"], approval["reason"]) == ("op", "seen in staging")


def logs_of_failures(client: AirflowClient, run: str) -> str:
    """What the failed tasks of a run said at last."""
    tasks = client._request("GET", f"{run}/taskInstances")["task_instances"]
    failed = [(task["task_id"], task["try_number"]) for task in tasks if task["state"] == "failed"]
    return "\n".join(str(client._request("GET", f"{run}/taskInstances/{task}/logs/{number}"))[-4000:] for task, number in failed)


def releases(stack: Stack, model: str) -> list[dict[str, Any]]:
    """The rows of a model in the ledger."""
    rows = json.loads(stack.windvane("ledger", "--json"))["releases"]
    return [row for row in rows if row["model"] == model]


def seconds_of(tasks: Sequence[dict[str, Any]]) -> float:
    """From the first start to the last end."""
    starts, ends = ([datetime.fromisoformat(task[name]) for task in tasks] for name in ("start_date", "end_date"))
    return (max(ends) - min(starts)).total_seconds()


def memory_of(container: dict[str, Any]) -> str:
    """What a container uses and may use."""
    used = subprocess.run(
        ["docker", "stats", "--no-stream", "--format", "{{.MemUsage}}", container["Id"]], capture_output=True, text=True, check=True
    )
    return used.stdout.strip()
