"""Writes stories into Airflow's metadata database, the way that Airflow would have: DAGs, runs, an approval that waits."""

import json
from collections.abc import Iterable, Iterator
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from uuid import uuid4

from seed_team import as_in_config, write_team
from tell_stories import Story

from windvane.windows import Window

# models whose runs have tasks, so that pages of runs have something to show
_WITH_TASKS = 30
_BATCH = 20_000
# stand-ins for a model's name, owner and description
_WORDS = ("zzmodel", "zzowner", "zzdescription")


def seed_airflow(session: Any, project: Path, stories: list[Story], now: datetime) -> None:
    """Fill a database that has Airflow's tables."""
    from airflow.dag_processing.bundles.manager import DagBundlesManager
    from airflow.models.dagrun import DagRun
    from airflow.models.hitl import HITLDetail
    from airflow.models.taskinstance import TaskInstance

    DagBundlesManager().sync_bundles_to_db(session=session)
    session.commit()
    dags = _serialize_dags(project, stories)
    _write_dags(session, dags)
    tasks = {dag.dag_id: _in_order(dag.data["dag"]["tasks"]) for dag in dags}
    pending: dict[Any, list[dict[str, Any]]] = {DagRun: [], TaskInstance: [], HITLDetail: []}
    for index, story in enumerate(stories):
        for run in _runs(story, now) if story.end != "config_error" else ():
            pending[DagRun].append(_run_row(run))
            if index < _WITH_TASKS or run["state"] in ("running", "failed"):
                _add_tasks(pending[TaskInstance], pending[HITLDetail], story, run, tasks[run["dag_id"]])
    for kind, rows in pending.items():
        for at in range(0, len(rows), _BATCH):
            session.execute(kind.__table__.insert(), rows[at : at + _BATCH])
    _pause(session, stories)
    _write_dags(session, dags)  # the next runs follow from those that were


def _write_dags(session: Any, dags: list[Any]) -> None:
    """Store DAGs as the DAG processor does."""
    from airflow.dag_processing.collection import update_dag_parsing_results_in_db

    for at in range(0, len(dags), 250):
        update_dag_parsing_results_in_db("dags-folder", None, dags[at : at + 250], {}, 0.3, set(), session)
        session.commit()
        session.expunge_all()  # what it remembers of DAGs is not what the next writing finds


def _serialize_dags(project: Path, stories: list[Story]) -> list[Any]:
    """The DAGs of the configs as Airflow stores them; models that differ by their words alone are built once."""
    from airflow.serialization.serialized_objects import LazyDeserializedDAG

    shapes: dict[Any, list[str]] = {}
    made = []
    for story in stories:
        shape = (story.end == "config_error", story.end == "waiting_for_approval", story.trains_on_schedule)
        if shape not in shapes:
            shapes[shape] = _serialize(replace(story, model=_WORDS[0], owner=_WORDS[1], description=_WORDS[2], tags=()))
        words = (story.model, story.owner, json.dumps(as_in_config(story.description))[1:-1])
        for text in shapes[shape]:
            for word, own in zip(_WORDS, words, strict=True):
                text = text.replace(word, own)
            data = json.loads(text)
            data["dag"]["tags"] = sorted({*data["dag"]["tags"], *(() if story.end == "config_error" else story.tags)})
            data["dag"] |= {"fileloc": str(project / "dags" / "model_dags.py"), "relative_fileloc": "model_dags.py"}
            made.append(LazyDeserializedDAG(data=data))
    return made


def _serialize(story: Story) -> list[str]:
    from airflow.serialization.serialized_objects import LazyDeserializedDAG

    from windvane_airflow.build_dags import build_dags

    with TemporaryDirectory() as directory:
        write_team(Path(directory), [story])
        dags = build_dags(Path(directory)).values()
        return [json.dumps(LazyDeserializedDAG.from_dag(dag).data) for dag in dags]


def _in_order(tasks: list[dict[str, Any]]) -> list[str]:
    """The ids of a chain of tasks, the first one first."""
    follows = {task["__var"]["task_id"]: task["__var"].get("downstream_task_ids", []) for task in tasks}
    return sorted(follows, key=lambda task: -len(_behind(follows, task)))


def _behind(follows: dict[str, list[str]], task: str) -> set[str]:
    return {found for after in follows[task] for found in {after, *_behind(follows, after)}}


def _runs(story: Story, now: datetime) -> Iterator[dict[str, Any]]:
    """The runs of a model's year."""
    model = story.model
    for week in story.weeks:
        begin = week.window.end + timedelta(minutes=1)
        failed = week.refused
        yield _run(model, "ingest", f"scheduled__{week.window.start.isoformat()}", begin, 2, interval=week.window, failed=failed)
        yield _run(model, "monitor", f"asset_triggered__{week.window.key}", begin + timedelta(minutes=3), 1)
    for made in story.trainings:
        user = "editor" if made.version % 4 == 0 else None
        yield _run(
            model, "train", f"{'manual' if user else 'asset_triggered'}__v{made.version}", made.at - timedelta(minutes=12), 11, user=user
        )
        waits = story.end == "waiting_for_approval" and made is story.trainings[-1]
        if made.passed and not waits:
            live = story.end == "rolling_out" and made is story.trainings[-1]
            begin = now - timedelta(minutes=4) if live else made.at + timedelta(minutes=19)
            yield _run(model, "deploy", f"asset_triggered__v{made.version}", begin, None if live else 20)
        elif waits:
            yield _run(model, "deploy", f"asset_triggered__v{made.version}", now - timedelta(hours=4), None)
    if story.trains_on_schedule:
        first = now.replace(day=1, hour=0, minute=0, second=0, microsecond=0)
        yield _run(model, "train", f"scheduled__{first.isoformat()}", first, 9, interval=Window(first, first + timedelta(days=1)))
    if story.end == "rollback":
        yield _run(model, "deploy", "manual__2", now - timedelta(minutes=5), 1, user="editor")
    if story.end == "failed_run":
        # after what a clock started, also in the first hours of a week or a month
        clocks = [story.weeks[-1].window.end, now.replace(day=1, hour=0, minute=0, second=0, microsecond=0)]
        begin = max(now - timedelta(hours=3), *(clock + timedelta(minutes=15) for clock in clocks))
        yield _run(model, "train", "manual__failed", begin, 2, failed=True, user="admin")


def _run(
    model: str,
    kind: str,
    run_id: str,
    begin: datetime,
    minutes: int | None,
    *,
    failed: bool = False,
    user: str | None = None,
    interval: Any = None,
) -> dict[str, Any]:
    end = None if minutes is None else begin + timedelta(minutes=minutes)
    return {
        "dag_id": f"{model}__{kind}",
        "run_id": run_id,
        "state": "running" if end is None else "failed" if failed else "success",
        "begin": begin,
        "end": end,
        "user": user,
        "interval": interval,
    }


def _run_row(run: dict[str, Any]) -> dict[str, Any]:
    interval = run["interval"]
    return {
        "dag_id": run["dag_id"],
        "run_id": run["run_id"],
        "state": run["state"],
        "run_type": run["run_id"].split("__")[0],
        "queued_at": run["begin"],
        "start_date": run["begin"],
        "end_date": run["end"],
        "run_after": run["begin"],
        "logical_date": interval.start if interval else None,
        "data_interval_start": interval.start if interval else None,
        "data_interval_end": interval.end if interval else None,
        "triggering_user_name": run["user"],
        "triggered_by": "REST_API" if run["user"] else None,
        "conf": {},
        "log_template_id": None,
        "clear_number": 0,
    }


def _add_tasks(
    instances: list[dict[str, Any]], questions: list[dict[str, Any]], story: Story, run: dict[str, Any], task_ids: Iterable[str]
) -> None:
    asked = run["state"] == "running" and story.end == "waiting_for_approval"
    at = run["begin"]
    for number, task_id in enumerate(task_ids):
        state: str | None = "success"
        if run["state"] == "running":
            state = (
                ("awaiting_input" if number == 0 else None) if asked else "success" if number < 2 else "running" if number == 2 else None
            )
        elif run["state"] == "failed":
            state = "success" if number == 0 else "failed" if number == 1 else "upstream_failed"
        id_ = uuid4()
        instances.append(
            {
                "id": id_,
                "task_id": task_id,
                "dag_id": run["dag_id"],
                "run_id": run["run_id"],
                "map_index": -1,
                "start_date": at if state else None,
                "end_date": at + timedelta(seconds=20) if state in ("success", "failed") else None,
                "duration": 20.0,
                "state": state,
                "try_number": 1,
                "max_tries": 3,
                "pool": "default_pool",
                "pool_slots": 1,
                "executor_config": {},
                "operator": task_id,
                "hostname": "",
            }
        )
        at += timedelta(seconds=25)
        if state == "awaiting_input":
            questions.append(
                {
                    "ti_id": id_,
                    "options": ["Approve", "Reject"],
                    "subject": f"Deploy version {story.trainings[-1].version} of {story.model}?",
                    "body": "| metric | challenger | champion |\n|---|---|---|\n| roc_auc | 0.81 | 0.79 |",
                    "defaults": None,
                    "multiple": False,
                    "params": {},
                    "params_input": {},
                    "created_at": run["begin"],
                }
            )


def _pause(session: Any, stories: list[Story]) -> None:
    from airflow.models.dag import DagModel
    from sqlalchemy import update

    paused = [f"{story.model}__monitor" for index, story in enumerate(stories) if index % 9 == 6]
    session.execute(update(DagModel).where(DagModel.dag_id.in_(paused)).values(is_paused=True))
