"""The rows of the overview: made of ledger, catalog and Airflow's database, by as many statements for 50 models as for 5."""

import json
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from seed_models import seeded_settings
from seed_releases import seed_catalog, seed_ledger
from seed_team import as_in_config, write_team
from sqlalchemy import Engine, create_engine, event, null, update
from sqlalchemy.orm import Session
from tell_stories import ENDS, Story, tell_stories

from windvane.describe_model import describe_model
from windvane.describe_models import ORDER, describe_models
from windvane.settings import REPOSITORY

with warnings.catch_warnings():
    # Airflow's own imports lead to a test client that advertises its successor
    warnings.simplefilter("ignore")
    from airflow.models import import_all_models
    from airflow.models.base import Base
    from airflow.models.dag import DagModel
    from airflow.models.dagrun import DagRun
    from airflow.models.hitl import HITLDetail
    from airflow.models.serialized_dag import SerializedDagModel
    from seed_airflow import seed_airflow

    from windvane_airflow.ui import guard, read_airflow
    from windvane_airflow.ui.merge_facts import in_order, merge_row
    from windvane_airflow.ui.read_airflow import AirflowFacts, read_models, read_runs

NOW = datetime.now(UTC).replace(minute=0, second=0, microsecond=0)


def _state(root: Path, models: int) -> tuple[Engine, list[Story]]:
    stories = list(tell_stories(models, now=NOW))
    write_team(root / "team", stories)
    settings = seeded_settings(root)
    seed_ledger(settings.database, stories)
    seed_catalog(settings, stories, NOW)
    import_all_models()
    engine = create_engine(f"sqlite:///{root}/airflow.db")
    Base.metadata.create_all(engine)
    with Session(engine) as session, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        seed_airflow(session, root / "team", stories, NOW)
        session.commit()
    return engine, stories


@pytest.fixture(scope="module")
def seeded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, Session, list[Story]]]:
    root = tmp_path_factory.mktemp("seeded")
    engine, stories = _state(root, len(ENDS))
    with Session(engine) as session:
        yield root, session, stories
    engine.dispose()


@pytest.fixture(scope="module")
def rows(seeded: tuple[Path, Session, list[Story]]) -> dict[str, dict[str, Any]]:
    """The rows by what happened to the model at the end."""
    root, session, stories = seeded
    made = _rows(root, session)
    return {story.end: made[story.model] for story in stories}


def _rows(root: Path, session: Session) -> dict[str, dict[str, Any]]:
    described = describe_models(seeded_settings(root), now=NOW)
    facts = read_models(session)
    return {model: merge_row(model, described.get(model), known, can_act=True, now=NOW) for model, known in facts.items()}


@pytest.mark.parametrize(
    ("end", "state", "reason"),
    [
        ("config_error", "config_error", "data.label: is required"),
        ("retrain", "degraded", "retrain: "),
        ("fix_data", "degraded", "fix_data: "),
        ("failed_run", "degraded", "__train failed: manual__failed"),
        ("revert", "degraded", "was taken back"),
        ("waiting_for_approval", "waiting_for_approval", "Deploy version"),
        ("rolling_out", "rolling_out", "10 % of the traffic"),
        ("not_serving", "not_serving", "nothing serves"),
        ("never_trained", "never_trained", "nothing was trained yet"),
        ("serving", "serving", "serves; ok"),
        ("frozen", "serving", "serves; ok"),
        ("rollback", "serving", "serves"),
    ],
)
def test_every_state_is_found(rows: dict[str, dict[str, Any]], end: str, state: str, reason: str) -> None:
    assert rows[end]["state"] == state
    assert reason in rows[end]["state_reason"]


def test_every_row_has_the_same_fields_in_the_promised_types(rows: dict[str, dict[str, Any]]) -> None:
    fields = set(rows["serving"])
    assert fields == {
        *("model", "description", "owner", "tags", "state", "state_reason", "problems", "frozen", "version", "since", "traffic"),
        *("rollout_until", "metric", "sparkline", "decision", "last_release", "next_run", "approval", "running", "failed", "paused"),
        "can_act",
    }
    for row in rows.values():
        assert set(row) == fields
        assert isinstance(row["sparkline"], list)
        assert len(row["sparkline"]) <= 30


def test_the_documentation_names_every_field(seeded: tuple[Path, Session, list[Story]], rows: dict[str, dict[str, Any]]) -> None:
    settings = seeded_settings(seeded[0])
    told = REPOSITORY.joinpath("docs", "api.md").read_text(encoding="utf-8")
    model = describe_model(settings, rows["rolling_out"]["model"])
    parts = [*rows.values(), model, model["rollout"]]
    for name in ("releases", "versions", "windows", "batches"):
        parts.append(model[name][0])
    for row in (*rows.values(), *model["windows"]):
        parts += [part for part in row.values() if isinstance(part, dict) and part is not row.get("traffic")]
    parts += [*model["rollout"]["figures"].values(), model["challenger"]]
    missing = {name for part in parts for name in part if f"`{name}`" not in told}
    assert missing == set()


def test_what_needs_a_person_is_on_top(rows: dict[str, dict[str, Any]]) -> None:
    states = [row["state"] for row in sorted(rows.values(), key=in_order)]
    assert states == sorted(states, key=ORDER.index)
    assert states[0] == "config_error"
    assert states[-1] == "serving"


def test_airflows_part_of_a_row(rows: dict[str, dict[str, Any]], seeded: tuple[Path, Session, list[Story]]) -> None:
    stories = {story.end: story for story in seeded[2]}
    for end, row in rows.items():
        if end != "config_error":
            assert (row["owner"], row["tags"]) == (stories[end].owner, list(stories[end].tags))
    model = stories["waiting_for_approval"].model
    approval = rows["waiting_for_approval"]["approval"]
    assert (approval["dag_id"], approval["task_id"], approval["map_index"]) == (f"{model}__deploy", "approve", -1)
    assert approval["since"] == (NOW - timedelta(hours=4)).isoformat()
    assert [run["dag_id"] for run in rows["rolling_out"]["running"]] == [f"{stories['rolling_out'].model}__deploy"]
    assert [run["run_id"] for run in rows["failed_run"]["failed"]] == ["manual__failed"]
    assert rows["serving"]["failed"] == rows["serving"]["running"] == []
    assert rows["serving"]["description"] == stories["serving"].description
    assert rows["hostile"]["description"] == as_in_config(stories["hostile"].description).strip()
    assert rows["serving"]["paused"] == [f"{stories['serving'].model}__monitor"]
    due = rows["retrain"]["next_run"]
    assert due["dag_id"] == f"{stories['retrain'].model}__ingest"
    assert NOW.isoformat() < due["at"] <= (NOW + timedelta(days=7)).isoformat()


def test_a_config_error_lists_all_its_problems(rows: dict[str, dict[str, Any]]) -> None:
    assert len(rows["config_error"]["problems"]) == 3
    assert "did you mean 'label'?" in rows["config_error"]["problems"][1]
    assert rows["config_error"]["description"] is None


def test_one_model_is_read_as_among_all(seeded: tuple[Path, Session, list[Story]]) -> None:
    _, session, stories = seeded
    everything = read_models(session)
    for story in stories:
        assert read_models(session, story.model) == {story.model: everything[story.model]}
    assert read_models(session, "nothing") == read_models(session, "windvane") == read_models(session, "%") == {}


def test_newest_runs_come_first(seeded: tuple[Path, Session, list[Story]]) -> None:
    _, session, stories = seeded
    model = next(story.model for story in stories if story.end == "failed_run")
    runs = read_runs(session, [f"{model}__train", f"{model}__ingest"])
    assert len(runs) == 50
    assert (runs[0]["run_id"], runs[0]["state"], runs[0]["user"], runs[0]["run_type"]) == ("manual__failed", "failed", "admin", "manual")
    assert [run["start"] for run in runs] == sorted((run["start"] for run in runs), reverse=True)


def test_a_failure_counts_until_a_newer_run_has_ended(seeded: tuple[Path, Session, list[Story]]) -> None:
    _, session, stories = seeded
    model = next(story.model for story in stories if story.end == "failed_run")
    train = update(DagRun).where(DagRun.dag_id == f"{model}__train")
    for state, failed in (("running", 1), ("success", 0)):
        ended = NOW + timedelta(hours=1) if state == "success" else None
        session.execute(train.where(DagRun.run_id == "asset_triggered__v1").values(state=state, end_date=ended))
        assert len(read_models(session, model)[model].failed) == failed
    session.rollback()


def test_an_answered_or_stale_question_is_not_asked(seeded: tuple[Path, Session, list[Story]]) -> None:
    _, session, stories = seeded
    model = next(story.model for story in stories if story.end == "waiting_for_approval")
    assert read_models(session, model)[model].approval is not None
    session.execute(update(HITLDetail).values(responded_at=NOW))
    assert read_models(session, model)[model].approval is None
    session.rollback()


def test_stale_dags_make_no_model(seeded: tuple[Path, Session, list[Story]]) -> None:
    _, session, stories = seeded
    model = stories[-1].model
    session.execute(update(DagModel).where(DagModel.dag_id.startswith(f"{model}__")).values(is_stale=True))
    assert model not in read_models(session)
    session.rollback()


def test_a_changed_documentation_is_read_again(seeded: tuple[Path, Session, list[Story]]) -> None:
    _, session, stories = seeded
    model = next(story.model for story in stories if story.end == "serving")
    assert read_models(session, model)[model].doc.startswith(stories[6].description)
    stored = session.query(SerializedDagModel).filter_by(dag_id=f"{model}__deploy").one()
    changed = {"dag": {**stored.data["dag"], "doc_md": "Another description\n\nand more"}}
    same = update(SerializedDagModel).where(SerializedDagModel.id == stored.id)
    session.execute(same.values({SerializedDagModel._data: changed, SerializedDagModel.dag_hash: "another"}))
    session.expunge_all()
    assert read_models(session, model)[model].doc.startswith("Another description")
    session.rollback()
    session.expunge_all()
    assert read_models(session, model)[model].doc.startswith(stories[6].description)


def test_a_compressed_dag_is_read_too(seeded: tuple[Path, Session, list[Story]]) -> None:
    _, session, stories = seeded
    model = next(story.model for story in stories if story.end == "serving")
    stored = session.query(SerializedDagModel).filter_by(dag_id=f"{model}__deploy").one()
    packed = zlib.compress(json.dumps(stored.data).encode())
    same = update(SerializedDagModel).where(SerializedDagModel.id == stored.id)
    columns = (SerializedDagModel._data, SerializedDagModel._data_compressed, SerializedDagModel.dag_hash)
    session.execute(same.values(dict(zip(columns, (null(), packed, "packed"), strict=True))))
    session.expunge_all()
    assert read_models(session, model)[model].doc.startswith(stories[6].description)
    session.rollback()


@contextmanager
def _counted() -> Iterator[list[str]]:
    statements: list[str] = []

    def note(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        statements.append(statement)

    event.listen(Engine, "before_cursor_execute", note)
    try:
        yield statements
    finally:
        event.remove(Engine, "before_cursor_execute", note)


def test_the_number_of_statements_does_not_grow_with_the_models(tmp_path: Path) -> None:
    counts = {}
    read_airflow._docs.clear()
    for models in (5, len(ENDS), 50):
        engine, _ = _state(tmp_path / str(models), models)
        for attempt in ("first", "again"):
            with Session(engine) as session, _counted() as statements:
                assert len(_rows(tmp_path / str(models), session)) == models
            counts[models, attempt] = [text for text in statements if not text.startswith("PRAGMA")]
        engine.dispose()
        read_airflow._docs.clear()
    for attempt in ("first", "again"):
        assert len(counts[len(ENDS), attempt]) == len(counts[50, attempt]), "\n".join(counts[50, attempt])
        # not every kind of model is among the first five: what nobody needs is not asked for
        assert len(counts[5, attempt]) <= len(counts[50, attempt]) <= 20


class _Manager:
    """Allows to read the DAGs whose ids it knows, and to act on some of them."""

    def __init__(self, reads: set[str], acts: set[str]) -> None:
        self._allowed = {"GET": reads, "POST": acts}

    def is_authorized_dag(self, *, method: str, access_entity: Any, details: Any, user: Any) -> bool:
        assert (access_entity.value, user) == ("RUN", "somebody")
        return details.id in self._allowed[method]


def test_a_model_is_shown_to_those_who_may_read_all_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    models = {name: AirflowFacts(dags={kind: f"{name}__{kind}" for kind in ("train", "deploy")}) for name in ("own", "half", "other")}
    manager = _Manager({"own__train", "own__deploy", "half__train", "other__x"}, {"own__train", "half__train", "half__deploy"})
    monkeypatch.setattr(guard, "get_auth_manager", lambda: manager)
    seen: Any = guard.readable(None, "somebody", models)  # type: ignore[arg-type]
    assert list(seen) == ["own"]
    assert guard.actionable(None, "somebody", models) == {"half"}  # type: ignore[arg-type]
