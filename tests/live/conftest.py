"""A real platform for the live tests: Airflow, MLflow, the reconciler and scoring services, over a team's directory of its own."""

import json
import os
from collections.abc import Iterator

import pytest
from live_platform import Live, free_port, write_team

from windvane.airflow_client import AirflowClient
from windvane.run_platform import start_platform, stop_platform
from windvane.settings import load_settings


@pytest.fixture(scope="session")
def live(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    """The platform, up until the last live test is done."""
    root = tmp_path_factory.mktemp("live")
    ports = {model: free_port() for model in ("flights", "landed", "asked")}
    write_team(root / "team", ports)
    environ = {name: value for name, value in os.environ.items() if not name.startswith(("WINDVANE_", "AIRFLOW", "MLFLOW_"))}
    environ |= {"WINDVANE_PROJECT": str(root / "team"), "WINDVANE_VAR": str(root / "var")}
    settings = load_settings(environ)
    platform = start_platform(settings, environ=environ)
    settings = load_settings({**environ, "MLFLOW_TRACKING_URI": platform.mlflow_url})
    try:
        passwords = json.loads((settings.var / "airflow_passwords.json").read_text())
        client = AirflowClient(platform.airflow_url, user="admin", password=passwords["admin"])
        yield Live(settings=settings, platform=platform, client=client, ports=ports, environ=environ)
    finally:
        stop_platform(settings)
