"""Reads what Airflow knows of the models; the number of statements does not depend on the number of models."""

import threading
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from airflow.models.dag import DagModel, DagTag
from airflow.models.dag_version import DagVersion
from airflow.models.dagrun import DagRun
from airflow.models.hitl import HITLDetail
from airflow.models.serialized_dag import SerializedDagModel
from airflow.models.taskinstance import TaskInstance
from sqlalchemy import and_, exists, func, select
from sqlalchemy.orm import Session, aliased

CONFIG_ERROR = "config_error"
KINDS = ("ingest", "train", "deploy", "monitor", "score", CONFIG_ERROR)
_NEWEST_RUNS = 50


@dataclass
class AirflowFacts:
    """What Airflow knows of one model.

    Attributes:
        dags: Kind -> id of the DAG.
        tags: The team's own tags.
        doc: What the documentation of its DAGs says: the description, or the problems of the config.
        next_run: `dag_id`, `at` of the run that is due first; None when nothing is scheduled.
        approval: The question that waits longest for an answer.
        running: Runs that run or wait to.
        failed: Runs that failed, where no newer one of the same DAG has ended.
        paused: Ids of paused DAGs.
    """

    dags: dict[str, str] = field(default_factory=dict)
    owner: str | None = None
    tags: tuple[str, ...] = ()
    doc: str = ""
    next_run: dict[str, Any] | None = None
    approval: dict[str, Any] | None = None
    running: list[dict[str, Any]] = field(default_factory=list)
    failed: list[dict[str, Any]] = field(default_factory=list)
    paused: list[str] = field(default_factory=list)


def model_of(dag_id: str) -> str | None:
    """The model that a DAG of this id belongs to."""
    model, _, kind = dag_id.rpartition("__")
    return model if model and kind in KINDS else None


def read_models(session: Session, model: str | None = None) -> dict[str, AirflowFacts]:
    """Read the facts of all models, or of one; no entry where there is no DAG."""
    chosen = select(DagTag.dag_id).where(DagTag.name == "windvane")
    if model is not None:
        chosen = chosen.where(DagTag.dag_id.in_([f"{model}__{kind}" for kind in KINDS]))
    models = _read_dags(session, chosen)
    _read_tags(session, models)
    _read_runs(session, chosen, models)
    _read_approvals(session, chosen, models)
    _read_docs(session, models)
    return models


def read_runs(session: Session, dag_ids: Iterable[str]) -> list[dict[str, Any]]:
    """The newest runs of some DAGs, the newest first."""
    columns = (DagRun.dag_id, DagRun.run_id, DagRun.state, DagRun.start_date, DagRun.end_date, DagRun.triggering_user_name, DagRun.run_type)
    chosen = (
        select(*columns).where(DagRun.dag_id.in_(list(dag_ids))).order_by(DagRun.run_after.desc(), DagRun.id.desc()).limit(_NEWEST_RUNS)
    )
    names = ("dag_id", "run_id", "state", "start", "end", "user", "run_type")
    return [{name: _plain(value) for name, value in zip(names, row, strict=True)} for row in session.execute(chosen)]


def _read_dags(session: Session, chosen: Any) -> dict[str, AirflowFacts]:
    columns = (DagModel.dag_id, DagModel.owners, DagModel.is_paused, DagModel.next_dagrun_create_after)
    models: dict[str, AirflowFacts] = {}
    for dag_id, owners, paused, due in session.execute(
        select(*columns).where(DagModel.dag_id.in_(chosen), DagModel.is_stale.is_(False)).order_by(DagModel.dag_id)
    ):
        model = model_of(dag_id)
        if model is None:
            continue
        facts = models.setdefault(model, AirflowFacts())
        facts.dags[dag_id.rpartition("__")[2]] = dag_id
        facts.owner = facts.owner or owners or None
        if paused:
            facts.paused.append(dag_id)
        elif due and (facts.next_run is None or _plain(due) < facts.next_run["at"]):
            facts.next_run = {"dag_id": dag_id, "at": _plain(due)}
    return models


def _read_tags(session: Session, models: Mapping[str, AirflowFacts]) -> None:
    """Read the tags of one DAG per model: all of a model have the same."""
    told = {_documented(facts): facts for facts in models.values()}
    for dag_id, name in session.execute(select(DagTag.dag_id, DagTag.name).where(DagTag.dag_id.in_(list(told))).order_by(DagTag.name)):
        model, _, kind = dag_id.rpartition("__")
        if name not in ("windvane", model, kind):
            told[dag_id].tags += (name,)


def _read_runs(session: Session, chosen: Any, models: Mapping[str, AirflowFacts]) -> None:
    under_way = select(DagRun.dag_id, DagRun.run_id, func.coalesce(DagRun.start_date, DagRun.queued_at, DagRun.run_after)).where(
        DagRun.dag_id.in_(chosen), DagRun.state.in_(("running", "queued"))
    )
    for dag_id, run_id, since in session.execute(under_way.order_by(DagRun.id)):
        if facts := models.get(model_of(dag_id) or ""):
            facts.running.append({"dag_id": dag_id, "run_id": run_id, "since": _plain(since)})
    newer = aliased(DagRun)
    failed = select(DagRun.dag_id, DagRun.run_id, DagRun.end_date).where(
        DagRun.dag_id.in_(chosen),
        DagRun.state == "failed",
        ~exists().where(and_(newer.dag_id == DagRun.dag_id, newer.state.in_(("success", "failed")), newer.end_date > DagRun.end_date)),
    )
    for dag_id, run_id, at in session.execute(failed.order_by(DagRun.id)):
        # the only task of a config error does nothing but fail: the problems are told anyway
        if (facts := models.get(model_of(dag_id) or "")) and not dag_id.endswith(f"__{CONFIG_ERROR}"):
            facts.failed.append({"dag_id": dag_id, "run_id": run_id, "at": _plain(at)})


def _read_approvals(session: Session, chosen: Any, models: Mapping[str, AirflowFacts]) -> None:
    task, names = TaskInstance, ("dag_id", "run_id", "task_id", "map_index", "since", "subject")
    waiting = (
        select(task.dag_id, task.run_id, task.task_id, task.map_index, HITLDetail.created_at, HITLDetail.subject)
        .join(HITLDetail, HITLDetail.ti_id == task.id)
        # what timed out or was stopped asks no longer
        .where(HITLDetail.responded_at.is_(None), task.state.in_(("awaiting_input", "deferred")), task.dag_id.in_(chosen))
        .order_by(HITLDetail.created_at)
    )
    for row in session.execute(waiting):
        facts = models.get(model_of(row[0]) or "")
        if facts and facts.approval is None:
            facts.approval = {name: _plain(value) for name, value in zip(names, row, strict=True)}


_docs: dict[str, tuple[str, str]] = {}
_docs_lock = threading.Lock()


def _read_docs(session: Session, models: Mapping[str, AirflowFacts]) -> None:
    """Read the documentation of one DAG per model; what did not change since the last time is not read again."""
    wanted = {_documented(facts): facts for facts in models.values()}
    newest = (
        select(DagVersion.dag_id, func.max(DagVersion.version_number).label("number"))
        .where(DagVersion.dag_id.in_(list(wanted)))
        .group_by(DagVersion.dag_id)
        .subquery()
    )
    stored = SerializedDagModel
    hashes = session.execute(
        select(stored.dag_id, stored.dag_hash, stored.dag_version_id)
        .join(DagVersion, DagVersion.id == stored.dag_version_id)
        .join(newest, and_(newest.c.dag_id == DagVersion.dag_id, newest.c.number == DagVersion.version_number))
    ).all()
    with _docs_lock:
        known = dict(_docs)
    changed = {version: (dag_id, digest) for dag_id, digest, version in hashes if known.get(dag_id, ("", ""))[0] != digest}
    if changed:
        mine = stored.dag_version_id.in_(list(changed))
        found = dict(session.execute(select(stored.dag_version_id, stored._data[("dag", "doc_md")].as_string()).where(mine)).all())
        # where Airflow stores DAGs compressed, the database cannot look into them
        for row in session.scalars(select(stored).where(mine, stored._data_compressed.is_not(None))):
            found[row.dag_version_id] = (row.data or {}).get("dag", {}).get("doc_md")
        known |= {dag_id: (digest, found.get(version) or "") for version, (dag_id, digest) in changed.items()}
        with _docs_lock:
            _docs.update({dag_id: known[dag_id] for dag_id, _ in changed.values()})
    for dag_id, facts in wanted.items():
        facts.doc = known.get(dag_id, ("", ""))[1]


def _documented(facts: AirflowFacts) -> str:
    kind = next(kind for kind in (CONFIG_ERROR, "deploy", *KINDS) if kind in facts.dags)
    return facts.dags[kind]


def _plain(value: Any) -> Any:
    if not isinstance(value, datetime):
        return value
    # a computed column of SQLite comes without its zone; Airflow stores UTC
    return (value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)).isoformat()
