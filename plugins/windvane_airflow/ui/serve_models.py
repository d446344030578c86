"""Serves what the Models page shows, as JSON."""

from contextlib import closing
from datetime import UTC, datetime
from typing import Annotated, Any

from airflow.api_fastapi.core_api.security import GetUserDep
from airflow.utils.session import create_session
from fastapi import APIRouter, HTTPException, Query
from fastapi.responses import Response

from windvane.describe_model import describe_model, describe_release, describe_window
from windvane.describe_models import describe_models
from windvane.find_served import find_served
from windvane.ledger import Ledger
from windvane.settings import Settings, load_settings
from windvane.windows import as_utc
from windvane_airflow.ui.answer_json import as_json
from windvane_airflow.ui.guard import Known, KnownModel, actionable, readable
from windvane_airflow.ui.merge_facts import in_order, merge_row
from windvane_airflow.ui.read_airflow import read_models, read_runs

router = APIRouter()

_MOST_BYTES = 100_000


@router.get("/api/models")
def overview(user: GetUserDep) -> Response:
    """A row for each model that you may read; what needs a person first."""
    now = datetime.now(UTC)
    with create_session() as session:
        models = readable(session, user, read_models(session))
        can_act = actionable(session, user, models)
    described = describe_models(load_settings(), now=now)
    rows = [merge_row(model, described.get(model), facts, can_act=model in can_act, now=now) for model, facts in models.items()]
    return as_json({"generated_at": now.isoformat(), "user": {"name": user.get_name()}, "models": sorted(rows, key=in_order)})


@router.get("/api/models/{model}")
def one_model(known: KnownModel) -> Response:
    """The row of a model, with its releases, versions, windows, batches, runs, challenger and rollout."""
    settings, now = load_settings(), datetime.now(UTC)
    with create_session() as session:
        runs = read_runs(session, known.facts.dags.values())
    described = describe_models(settings, now=now, only=known.model).get(known.model)
    row = merge_row(known.model, described, known.facts, can_act=known.can_act, now=now)
    more = {"runs": runs, "config": _config(settings, known.model), "links": _links(settings, known)}
    return as_json({**describe_model(settings, known.model), **row, **more})


@router.get("/api/models/{model}/windows/{key}")
def one_window(known: KnownModel, key: str) -> Response:
    """The decision about one window with all its evidence."""
    found = describe_window(load_settings(), known.model, key)
    if found is None:
        raise HTTPException(404, f"{known.model}: nothing was decided about the window {key[:80]!r}; its page lists those that there are")
    return as_json(found)


@router.get("/api/models/{model}/served-at")
def served_at(known: KnownModel, at: Annotated[str, Query(max_length=64, description="ISO 8601; without a zone it is UTC")]) -> Response:
    """What served at a moment, and by which row of the ledger."""
    try:
        moment = as_utc(at)
    except (ValueError, OverflowError) as exc:
        raise HTTPException(422, f"at: got {at!r}, allowed is a time such as 2026-05-04T14:05:00Z") from exc
    with closing(Ledger(load_settings().database)) as ledger:
        served = find_served(ledger, known.model, moment) if ledger.last(known.model) else None
    row = served.release if served else None
    return as_json(
        {
            "at": moment.isoformat(),
            "shares": [vars(share) for share in served.shares] if served else [],
            "since": served.since.isoformat() if served and served.since else None,
            "row": describe_release(row) if row else None,
        }
    )


def _config(settings: Settings, model: str) -> str | None:
    """The config as the team wrote it; None where this machine does not have it."""
    path = settings.project / "dags" / "configs" / f"{model}.yaml"
    try:
        return path.read_bytes()[:_MOST_BYTES].decode("utf-8", "replace")
    except (OSError, ValueError):
        return None


def _links(settings: Settings, known: Known) -> dict[str, Any]:
    dags = {kind: f"/dags/{dag_id}" for kind, dag_id in known.facts.dags.items()}
    return {"dags": dags, "mlflow": f"{settings.mlflow_link}/#/models/{known.model}"}
