"""Follows the DAG runs of a model and tells what comes out of each task."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from windvane.airflow_client import AirflowClient

_FINAL_RUN_STATES = {"success", "failed"}
_FINAL_TASK_STATES = {"success", "failed", "skipped", "upstream_failed", "removed"}
_POLL_SECONDS = 0.5


@dataclass
class TaskSeen:
    """A task instance as it was last seen."""

    task_id: str
    state: str
    started: datetime | None
    seconds: float
    attempt: int
    result: Any = None

    @property
    def is_final(self) -> bool:
        """Whether it has ended for good."""
        return self.state in _FINAL_TASK_STATES


@dataclass
class RunSeen:
    """A DAG run as it was last seen."""

    dag_id: str
    run_id: str
    state: str
    kind: str
    ended: datetime | None = None
    tasks: dict[str, TaskSeen] = field(default_factory=dict)

    @property
    def is_final(self) -> bool:
        """Whether it has ended."""
        return self.state in _FINAL_RUN_STATES

    def result(self, task_id: str) -> Any:
        """What a task of the run returned."""
        task = self.tasks.get(task_id)
        return task.result if task else None


class RunWatcher:
    """Looks at the runs of one model again and again, and says each change once.

    Args:
        client: Airflow.
        model: Name of the model.
        say: Where changes are told.
    """

    def __init__(self, client: AirflowClient, model: str, *, say: Callable[[str], None]) -> None:
        self._client = client
        self._prefix = f"{model}__"
        self._say = say
        self._looked = False
        self.runs: dict[str, RunSeen] = {}

    def poll(self) -> None:
        """Look once."""
        for found in reversed(self._client.runs()):
            if not found["dag_id"].startswith(self._prefix):
                continue
            key = f"{found['dag_id']}/{found['dag_run_id']}"
            run = self.runs.get(key)
            if run is not None and run.is_final and found["state"] in _FINAL_RUN_STATES:
                continue
            if run is None:
                run = self.runs[key] = RunSeen(found["dag_id"], found["dag_run_id"], "", found["run_type"])
                if self._looked:
                    self._say(f"{run.dag_id}: a run was {_CAUSES.get(run.kind, 'created')}")
            if run.is_final:
                run.tasks = {}  # it was started once more
            self._look_into(
                run, state=found["state"], ended=found["end_date"], quiet=not self._looked and found["state"] in _FINAL_RUN_STATES
            )
        self._looked = True

    def wait(self, condition: Callable[[], Any], *, timeout_seconds: float) -> Any:
        """Look until the condition gives something; None when the time is over."""
        give_up = time.monotonic() + timeout_seconds
        while time.monotonic() < give_up:
            self.poll()
            value = condition()
            if value:
                return value
            time.sleep(_POLL_SECONDS)
        return None

    def of(self, kind: str) -> list[RunSeen]:
        """The runs of a DAG of the model, oldest first; kind is `ingest`, `train`, ..."""
        return [run for run in self.runs.values() if run.dag_id == f"{self._prefix}{kind}"]

    def unfinished(self) -> list[RunSeen]:
        """The runs that have not ended."""
        return [run for run in self.runs.values() if not run.is_final]

    def _look_into(self, run: RunSeen, *, state: str, ended: str | None, quiet: bool) -> None:
        if quiet:
            run.state = state  # it ended before anybody looked; its tasks are history
            return
        for found in self._client.tasks(run.dag_id, run.run_id):
            task = _task(found)
            before = run.tasks.get(task.task_id)
            if task.state == "success":
                task.result = before.result if before and before.is_final else self._client.result(run.dag_id, run.run_id, task.task_id)
            if task.is_final and not (before and before.is_final):
                attempts = f", attempt {task.attempt}" if task.attempt > 1 else ""
                outcome = describe_result(task.task_id, task.result) if task.state == "success" else task.state
                self._say(f"{run.dag_id} {task.task_id} ({task.seconds:.1f} s{attempts}): {outcome}")
            elif task.state == "up_for_retry" and not (before and before.state == "up_for_retry"):
                self._say(f"{run.dag_id} {task.task_id}: attempt {task.attempt} ended early; Airflow tries again")
            run.tasks[task.task_id] = task
        if state == "failed" and run.state != "failed":
            self._say(f"{run.dag_id}: the run failed: {self._client.run_url(run.dag_id, run.run_id)}")
        run.state = state
        run.ended = datetime.fromisoformat(ended) if ended else None


_CAUSES = {
    "asset_triggered": "started by an event",
    "backfill": "started by a backfill",
    "manual": "started by request",
    "scheduled": "started by its schedule",
}


def _task(found: Mapping[str, Any]) -> TaskSeen:
    started = datetime.fromisoformat(found["start_date"]) if found["start_date"] else None
    seconds = found["duration"] or ((datetime.now(UTC) - started).total_seconds() if started and not found["end_date"] else 0.0)
    # of a task that is there several times, each goes by itself
    number = found.get("map_index", -1)
    name = found["task_id"] if number < 0 else f"{found['task_id']} {number + 1}"
    return TaskSeen(name, found["state"] or "waiting", started, max(0.0, float(seconds)), int(found["try_number"] or 0))


def describe_result(task_id: str, result: Any) -> str:
    """One line on what a task returned."""
    if not isinstance(result, Mapping):
        return "done"
    describe = _OUTCOMES.get(task_id)
    try:
        return describe(result) if describe else "done"
    except (KeyError, TypeError, ValueError, IndexError):
        return "done"  # it returned something else than was known when this was written


def _day(text: Any) -> str:
    return str(text)[:10]


def _verdict(result: Mapping[str, Any]) -> str:
    refused = [f"{gate['name']}: {gate['reason']}" for gate in result["gates"] if not gate["passed"]]
    return (
        f"version {result['version']} passed its gates"
        if result["passed"]
        else f"version {result['version']} refused: {'; '.join(refused)}"
    )


def _metrics(metrics: Mapping[str, Any]) -> str:
    known = [name for name in ("roc_auc", "roc_auc_ovr_weighted", "r2", "log_loss", "accuracy") if name in metrics]
    return ", ".join(f"{name} {float(metrics[name]):.4f}" for name in (known or list(metrics))[:3])


_OUTCOMES: dict[str, Callable[[Mapping[str, Any]], str]] = {
    "extract": lambda r: f"{r['rows']:,} rows of {_day(r['window_start'])}..{_day(r['window_end'])} staged",
    "validate": lambda r: f"{r['valid_rows']:,} rows valid, {r['invalid_rows']:,} invalid",
    "commit": lambda r: f"{r['rows']:,} rows committed as table version {r['version']}, {r['quarantined']} quarantined",
    "plan": lambda r: f"train on {_day(r['train']['window_start'])}..{_day(r['train']['window_end'])}",
    "train": lambda r: f"{_metrics(r['metrics'])}{', adopted from earlier work' if r.get('adopted') else ''}",
    "register": lambda r: f"version {r['version']}",
    "gate": _verdict,
    "package": lambda r: f"version {r['version']}",
    "rehearse": lambda r: "golden rows are reproduced",
    "rollout": lambda r: "takes the traffic",
    "promote": lambda r: f"version {r['version']} is the champion (epoch {r['epoch']})",
    "collect": lambda r: f"{r['rows']:,} scored rows",
    "decide": lambda r: f"{r['decision']}: {r['reason']}",
}
