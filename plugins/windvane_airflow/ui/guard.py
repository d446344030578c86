"""Who may read and act on a model: Airflow's own permissions on its DAGs; and what a request that changes something must look like."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any
from urllib.parse import urlsplit

from airflow.api_fastapi.app import get_auth_manager
from airflow.api_fastapi.auth.managers.models.resource_details import DagAccessEntity, DagDetails
from airflow.api_fastapi.core_api.security import GetUserDep
from airflow.configuration import conf
from airflow.models.dag import DagModel
from airflow.utils.session import create_session
from fastapi import Depends, HTTPException, Request
from sqlalchemy.orm import Session

from windvane_airflow.ui.read_airflow import AirflowFacts, read_models

_MOST_BYTES = 10_000
_MOST_REASON = 500


def readable(session: Session, user: Any, models: Mapping[str, AirflowFacts]) -> dict[str, AirflowFacts]:
    """The models of which the user may read every DAG and its runs."""
    allowed = _allowed(session, user, _dag_ids(models.values()), method="GET")
    return {model: facts for model, facts in models.items() if allowed.issuperset(facts.dags.values())}


def actionable(session: Session, user: Any, models: Mapping[str, AirflowFacts]) -> set[str]:
    """The models of which the user may trigger every DAG."""
    allowed = _allowed(session, user, _dag_ids(models.values()), method="POST")
    return {model for model, facts in models.items() if allowed.issuperset(facts.dags.values())}


def _dag_ids(models: Iterable[AirflowFacts]) -> list[str]:
    return [dag_id for facts in models for dag_id in facts.dags.values()]


def _allowed(session: Session, user: Any, dag_ids: list[str], *, method: Any) -> set[str]:
    manager = get_auth_manager()
    teams = DagModel.get_dag_id_to_team_name_mapping(dag_ids, session=session) if conf.getboolean("core", "multi_team") else {}
    return {
        dag_id
        for dag_id in dag_ids
        if manager.is_authorized_dag(
            method=method, access_entity=DagAccessEntity.RUN, details=DagDetails(id=dag_id, team_name=teams.get(dag_id)), user=user
        )
    }


@dataclass(frozen=True)
class Known:
    """A model that the user may read."""

    model: str
    facts: AirflowFacts
    can_act: bool


def known_model(model: str, user: GetUserDep) -> Known:
    """The model of the address, if there is one that the user may read.

    Raises:
        HTTPException: 404 otherwise: whether it exists is not told.
    """
    with create_session() as session:
        models = readable(session, user, read_models(session, model))
        if model not in models:
            raise HTTPException(404, f"There is no model {model[:80]!r} that you may read; /windvane/api/models lists those that you may")
        return Known(model, models[model], bool(actionable(session, user, models)))


KnownModel = Annotated[Known, Depends(known_model)]


def acted_on_model(known: KnownModel) -> Known:
    """The model of the address, if the user may act on it.

    Raises:
        HTTPException: 403 if the user may look only.
    """
    if not known.can_act:
        raise HTTPException(403, f"{known.model}: you may look and not act; acting needs the permission to trigger its DAGs")
    return known


ActedOnModel = Annotated[Known, Depends(acted_on_model)]


async def given_reason(request: Request) -> str:
    """The reason in the JSON of a request that changes something.

    Raises:
        HTTPException: 403 if another site's page sent it, 415 if it is not JSON, 413 if it is too long, 422 if it has no reason.
    """
    _check_origin(request)
    kind = request.headers.get("content-type", "").split(";")[0].strip().lower()
    if kind != "application/json":
        raise HTTPException(415, f"Content-Type: got {kind[:80] or 'none'!r}, allowed is application/json")
    body = b""
    async for chunk in request.stream():
        body += chunk
        if len(body) > _MOST_BYTES:
            raise HTTPException(413, f"body: got more than {_MOST_BYTES} bytes; a reason has at most {_MOST_REASON} characters")
    try:
        value = json.loads(body)
    except (ValueError, RecursionError):
        value = None
    reason = value.get("reason") if isinstance(value, dict) else None
    if not isinstance(reason, str) or not reason.strip() or len(reason) > _MOST_REASON or set(value) != {"reason"}:
        raise HTTPException(422, f'body: allowed is {{"reason": "..."}}, a text of 1 to {_MOST_REASON} characters that says why')
    return reason.strip().encode("utf-8", "replace").decode()


Reason = Annotated[str, Depends(given_reason)]


def _check_origin(request: Request) -> None:
    """Refuse what a browser sent for another site's page: the user's cookie does not mean that the user wants it."""
    site, origin = request.headers.get("sec-fetch-site"), request.headers.get("origin")
    own = {request.headers.get("host", ""), urlsplit(conf.get("api", "base_url", fallback="") or "").netloc} - {""}
    if (site and site != "same-origin") or (origin is not None and urlsplit(origin).netloc not in own):
        raise HTTPException(403, f"Origin: got {(origin or site or '')[:80]!r}, allowed is this site's own page, or a client with a token")
