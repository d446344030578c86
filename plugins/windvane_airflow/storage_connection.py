"""Gives a task the credentials of the object store from an Airflow connection; they live in the task's environment and nowhere else."""

import json
import logging
import os
from collections.abc import Callable, MutableMapping
from typing import Any

from windvane.errors import ConfigError
from windvane.settings import Settings, load_settings

CONNECTION = "windvane_storage"

log = logging.getLogger(__name__)


def task_settings() -> Settings:
    """The settings of a task, which may use the object store from now on."""
    settings = load_settings()
    use_storage_connection(settings)
    return settings


def use_storage_connection(settings: Settings, environ: MutableMapping[str, str] = os.environ) -> None:
    """Set what the connection `windvane_storage` says, where an object store is used and there is such a connection.

    Without one, the environment of the process holds: variables, or the role of the machine.

    Raises:
        ConfigError: If the connection is of a kind that no object store has.
    """
    if not any("://" in str(place) for place in (settings.lake, settings.bundles, settings.reports, settings.staging)):
        return
    from airflow.sdk import Connection
    from airflow.sdk.exceptions import AirflowNotFoundException

    try:
        found = Connection.get(CONNECTION)
    except AirflowNotFoundException:
        log.debug("there is no connection %s: the environment says how to reach the object store", CONNECTION)
        return
    environ.update(variables_of(found))


def variables_of(connection: Any) -> dict[str, str]:
    """The environment variables that say the same as a connection of type `aws`, `google_cloud_platform` or `wasb`."""
    read = _READERS.get(connection.conn_type)
    if read is None:
        allowed = ", ".join(_READERS)
        raise ConfigError([f"connection {CONNECTION}: got the type '{connection.conn_type}', allowed are {allowed}; see docs/storage.md"])
    return {name: str(value) for name, value in read(connection, connection.extra_dejson).items() if value not in (None, "")}


def _aws(connection: Any, extra: dict[str, Any]) -> dict[str, Any]:
    endpoint = extra.get("endpoint_url")
    return {
        "AWS_ACCESS_KEY_ID": connection.login,
        "AWS_SECRET_ACCESS_KEY": connection.password,
        "AWS_SESSION_TOKEN": extra.get("aws_session_token"),
        "AWS_REGION": extra.get("region_name"),
        "AWS_ENDPOINT_URL": endpoint,
        "AWS_ALLOW_HTTP": "true" if str(endpoint or "").startswith("http://") else None,
    }


def _google(_: Any, extra: dict[str, Any]) -> dict[str, Any]:
    key = extra.get("keyfile_dict")
    return {
        "GOOGLE_SERVICE_ACCOUNT": extra.get("key_path"),
        "GOOGLE_SERVICE_ACCOUNT_KEY": key if isinstance(key, str) or key is None else json.dumps(key),
    }


def _azure(connection: Any, extra: dict[str, Any]) -> dict[str, Any]:
    tenant = extra.get("tenant_id")
    names = ("CLIENT_ID", "CLIENT_SECRET") if tenant else ("ACCOUNT_NAME", "ACCOUNT_KEY")
    return {
        f"AZURE_STORAGE_{names[0]}": connection.login,
        f"AZURE_STORAGE_{names[1]}": connection.password,
        "AZURE_STORAGE_TENANT_ID": tenant,
        "AZURE_STORAGE_SAS_KEY": extra.get("sas_token"),
    }


_READERS: dict[str, Callable[[Any, dict[str, Any]], dict[str, Any]]] = {"aws": _aws, "google_cloud_platform": _google, "wasb": _azure}
