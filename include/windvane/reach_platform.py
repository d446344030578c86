"""How the demo reaches a platform: the one of this machine, which it starts, or one that runs already, such as that of Docker Compose."""

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

from windvane.manage_keys import add_key, list_keys, remove_key
from windvane.prepare_platform import load_secrets, passwords_file
from windvane.record_platform import of_platform
from windvane.run_platform import start_platform
from windvane.settings import Settings

USER = "admin"


@dataclass(frozen=True)
class Reached:
    """A platform that runs.

    Attributes:
        airflow: Address of Airflow for this process.
        password: Password of the user `admin`.
        airflow_url: Address of Airflow for people.
        mlflow_url: Address of MLflow for people.
        password_place: Where people find the password.
        commands: What people type next.
    """

    airflow: str
    password: str
    airflow_url: str
    mlflow_url: str
    password_place: str
    commands: str

    def __repr__(self) -> str:
        return f"Reached({self.airflow!r})"


def reach_platform(settings: Settings, *, say: Callable[[str], None], environ: Mapping[str, str] = os.environ) -> tuple[Reached, Settings]:
    """Start the platform of this machine, unless WINDVANE_AIRFLOW_URL names another, and return it with its settings."""
    url = environ.get("WINDVANE_AIRFLOW_URL")
    if url:
        reached = Reached(
            airflow=url,
            password=environ.get("AIRFLOW_ADMIN_PASSWORD", ""),
            airflow_url=environ.get("AIRFLOW__API__BASE_URL") or url,
            mlflow_url=settings.mlflow_link,
            password_place=".env (AIRFLOW_ADMIN_PASSWORD; MLFLOW_ADMIN_PASSWORD for MLflow)",
            commands="Stop everything: make compose-down      See what runs: docker compose ps      "
            "What served when: docker compose exec worker-deploy windvane ledger",
        )
        return reached, settings
    say("Starting the platform")
    platform = start_platform(settings, say=say)
    reached = Reached(
        airflow=platform.airflow_url,
        password=load_secrets(settings.var).passwords[USER],
        airflow_url=platform.airflow_url,
        mlflow_url=platform.mlflow_url,
        password_place=str(passwords_file(settings.var)),
        commands="Stop everything: make down      See what runs: make status      What served when: .venv/bin/windvane ledger",
    )
    return reached, of_platform(settings)


@contextmanager
def borrowed_key(settings: Settings, model: str) -> Iterator[str]:
    """A key of the model for as long as it is needed, where endpoints are closed; empty where they are open."""
    if not settings.network:
        yield ""
        return
    key = add_key(settings, model)
    key_id = list_keys(settings, model)[-1].id
    try:
        yield key
    finally:
        remove_key(settings, model, key_id)
