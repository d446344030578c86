"""Connects to MLflow so that a server that does not answer is named within seconds: by itself the client retries for minutes."""

import logging
import os
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from windvane.errors import ServiceUnavailable
from windvane.settings import Settings

if TYPE_CHECKING:
    from mlflow import MlflowClient

log = logging.getLogger(__name__)

_HEALTH_TIMEOUT_SECONDS = 10
_ENVIRONMENT = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
}
_UNAVAILABLE = {"TEMPORARILY_UNAVAILABLE", "INTERNAL_ERROR", "REQUEST_LIMIT_EXCEEDED"}


def connect(settings: Settings) -> "MlflowClient":
    """Return a client whose every call is bounded in time, after the server has answered once.

    A `sqlite:` store needs no server, and is not asked.

    Raises:
        ServiceUnavailable: If the server does not answer within 10 seconds; the message names its address.
    """
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    if settings.mlflow_uri.startswith(("http://", "https://")):
        _check_health(settings.mlflow_uri)
    from mlflow import MlflowClient

    with naming_mlflow(settings):
        return MlflowClient(tracking_uri=settings.mlflow_uri, registry_uri=settings.mlflow_uri)


@contextmanager
def naming_mlflow(settings: Settings) -> Iterator[None]:
    """Turn what MLflow's client raises when the server is away or broken into an error that names its address.

    Raises:
        ServiceUnavailable: In place of connection errors, timeouts and errors of the server itself.
    """
    from mlflow.exceptions import MlflowException
    from requests.exceptions import RequestException

    try:
        yield
    except RequestException as exc:
        raise ServiceUnavailable(_message(settings.mlflow_uri, type(exc).__name__)) from exc
    except MlflowException as exc:
        if exc.error_code in _UNAVAILABLE:
            raise ServiceUnavailable(_message(settings.mlflow_uri, f"{exc.message:.200}")) from exc
        raise


def experiment_of(client: "MlflowClient", settings: Settings, model: str) -> str:
    """The id of the model's experiment, which is created when it is missing and restored when it was deleted."""
    from mlflow.exceptions import MlflowException

    found = client.get_experiment_by_name(model)
    if found is None:
        # with a server the server decides; without one MLflow would write into the current directory
        local = (settings.var / "mlflow-artifacts" / model).as_uri() if settings.mlflow_uri.startswith("sqlite:") else None
        try:
            return str(client.create_experiment(model, artifact_location=local))
        except MlflowException as exc:
            found = client.get_experiment_by_name(model)
            if exc.error_code != "RESOURCE_ALREADY_EXISTS" or found is None:
                raise
            log.info("%s: another process created the experiment first", model)
    if found.lifecycle_stage == "deleted":
        client.restore_experiment(found.experiment_id)
    return str(found.experiment_id)


def _check_health(uri: str) -> None:
    try:
        with urllib.request.urlopen(f"{uri.rstrip('/')}/health", timeout=_HEALTH_TIMEOUT_SECONDS) as answer:
            answer.read(100)
    except (OSError, ValueError, urllib.error.URLError) as exc:
        raise ServiceUnavailable(_message(uri, str(getattr(exc, "reason", exc)))) from exc


def _message(uri: str, got: str) -> str:
    return f"MLflow at {uri} does not answer: {got}; start it (make up) or set MLFLOW_TRACKING_URI to where it runs"
