"""Freezes and unfreezes models: rows of the ledger with the user's name. What is a DAG run is triggered by Airflow's own API."""

from collections.abc import Callable
from typing import Any

from airflow.api_fastapi.core_api.security import GetUserDep
from fastapi import APIRouter
from fastapi.responses import Response

from windvane.freeze_model import freeze_model, unfreeze_model
from windvane.ledger import Release
from windvane.settings import load_settings
from windvane_airflow.ui.answer_json import as_json
from windvane_airflow.ui.guard import ActedOnModel, Reason

router = APIRouter()


@router.post("/api/models/{model}/freeze")
def freeze(known: ActedOnModel, reason: Reason, user: GetUserDep) -> Response:
    """Let nothing but rollbacks change what serves; the ledger's row."""
    return _append(freeze_model, known.model, reason, user)


@router.post("/api/models/{model}/unfreeze")
def unfreeze(known: ActedOnModel, reason: Reason, user: GetUserDep) -> Response:
    """Let challengers be deployed again; the ledger's row."""
    return _append(unfreeze_model, known.model, reason, user)


def _append(change: Callable[..., Release], model: str, reason: str, user: Any) -> Response:
    return as_json(change(load_settings(), model, actor=f"airflow/{user.get_name()}", reason=reason).as_json())
