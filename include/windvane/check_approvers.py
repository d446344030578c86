"""Looks for approvers that Airflow's users do not include: whom nobody is, nobody can wait for."""

import os
from collections.abc import Iterator, Mapping
from configparser import ConfigParser
from pathlib import Path

from windvane.config import ModelConfig
from windvane.settings import REPOSITORY

_SIMPLE = "airflow.api_fastapi.auth.managers.simple.simple_auth_manager.SimpleAuthManager"
_MAY_NOT_ANSWER = "viewer"
_SECONDS = 3


def check_approvers(config: ModelConfig, environ: Mapping[str, str]) -> Iterator[str]:
    """Yield what is wrong with `approval.approvers`, one line each; nothing where Airflow's users cannot be told.

    Args:
        environ: The environment that Airflow would have; its `airflow.cfg` is read where that is silent.
    """
    approvers = config.approval.approvers
    if not approvers:
        return
    airflow = _Airflow(environ)
    manager = airflow.get("core", "auth_manager") or _SIMPLE
    if manager.endswith(".SimpleAuthManager"):
        yield from _check_simple(approvers, airflow.get("core", "simple_auth_manager_users") or "admin:admin")
    elif manager.endswith(".FabAuthManager"):
        yield from _check_fab(approvers, airflow.get("database", "sql_alchemy_conn"))


def _check_simple(approvers: tuple[str, ...], setting: str) -> Iterator[str]:
    roles = {name.strip(): role.strip().lower() for name, _, role in (user.partition(":") for user in setting.split(",")) if name.strip()}
    able = [name for name, role in roles.items() if role.partition(":")[0] != _MAY_NOT_ANSWER]
    for approver in approvers:
        if approver in able:
            continue
        what = "a viewer, who may not answer" if approver in roles else "no user of Airflow"
        yield f"got '{approver}', which is {what}; allowed are {', '.join(able) or 'none'}; mend it, or core.simple_auth_manager_users"


def _check_fab(approvers: tuple[str, ...], url: str | None) -> Iterator[str]:
    names = [approver for approver in approvers if not approver.isdecimal()]
    for approver in names:
        yield f"got '{approver}', allowed are FAB's ids: they are numbers, shown by `airflow users list`; write the user's id in quotes"
    numbers = [approver for approver in approvers if approver not in names]
    known = _fab_ids(url) if url and numbers else None
    for approver in numbers if known is not None else ():
        if int(approver) not in (known or ()):
            yield f"got '{approver}', which is no active user's id; allowed are the ids that `airflow users list` shows"


def _fab_ids(url: str) -> set[int] | None:
    """The ids of FAB's active users; None if the database does not tell quickly."""
    from sqlalchemy import create_engine, make_url, text
    from sqlalchemy.exc import SQLAlchemyError

    try:
        parsed = make_url(url)
        if parsed.get_backend_name() == "sqlite":
            if not parsed.database or not Path(parsed.database).is_file():
                return None
            parsed = parsed.set(database=f"file:{parsed.database}", query={"mode": "ro", "uri": "true"})
            options = {"timeout": _SECONDS}
        else:
            options = {"connect_timeout": _SECONDS}
        engine = create_engine(parsed, connect_args=options)
        try:
            with engine.connect() as connection:
                return set(connection.scalars(text("SELECT id FROM ab_user WHERE active")))
        finally:
            engine.dispose()
    except (SQLAlchemyError, ImportError, TypeError):
        return None


class _Airflow:
    """Airflow's settings without Airflow: the environment, then the configuration file."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        self._environ = environ
        self._home = environ.get("AIRFLOW_HOME") or str(REPOSITORY)
        self._file = ConfigParser(interpolation=None)
        self._file.read(environ.get("AIRFLOW_CONFIG") or os.path.join(self._home, "airflow.cfg"), encoding="utf-8")

    def get(self, section: str, name: str) -> str | None:
        """The setting, or None."""
        value = self._environ.get(f"AIRFLOW__{section.upper()}__{name.upper()}") or self._file.get(section, name, fallback=None)
        return value.replace("$AIRFLOW_HOME", self._home) if value else None
