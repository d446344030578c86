"""Keeps the trials of a search that several processes share: Optuna's tables, in the ledger's database and apart from its tables.

In PostgreSQL they have a schema of their own, beside an SQLite file they have a file of their own: names such as `alembic_version` belong
to others too, and a promotion never waits for a trial. Optuna stores params and what they are drawn from as JSON.
"""

import fcntl
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

from sqlalchemy import URL, Connection, make_url, text
from sqlalchemy.exc import ProgrammingError, SQLAlchemyError

from windvane.connect_database import Database, wait_for_others
from windvane.errors import ConfigError, ServiceUnavailable, StorageError, WindvaneError

log = logging.getLogger(__name__)

_SCHEMA = "windvane_search"
_LOCK = 7702915
_BUSY_SECONDS = 30
# a trial that kills whoever tries it would otherwise be tried for ever
_MOST_REPEATS = 1
# of PostgreSQL: no right to make it, and no schema that may be used
_REFUSED = ("42501", "3F000")


class TrialStore:
    """Optuna's storage, made on first use.

    Args:
        database: SQLAlchemy URL of the release ledger.
        heartbeat_seconds: How often a running trial says that it is alive.
        grace_seconds: After how long a silence it is taken for dead, and tried once more.

    Raises:
        StorageError: If an SQLite file cannot be read or written.
        ConfigError: If the role may not make the schema, or not use it.
        ServiceUnavailable: If another database does not answer.
    """

    def __init__(self, database: str, *, heartbeat_seconds: int = 10, grace_seconds: int = 60) -> None:
        ledger = make_url(database)
        self.is_sqlite = ledger.get_backend_name() == "sqlite"
        self.url = _file_beside(ledger) if self.is_sqlite else _schema_within(ledger)
        self.heartbeat_seconds = heartbeat_seconds
        # the directory and the schema; Optuna makes the tables, which is not safe when several do
        preparing = Database(str_of(self.url if self.is_sqlite else ledger), name="search", prepare=_prepare)
        try:
            with preparing.connect() as connection, self.explained(), self._alone(connection, _LOCK):
                self.storage = self._open(heartbeat_seconds, grace_seconds)
        finally:
            preparing.close()

    def close(self) -> None:
        """Let go of the connections."""
        self.storage.remove_session()
        self.storage.engine.dispose()

    @contextmanager
    def lock(self, number: int) -> Iterator[None]:
        """Keep others who lock the same number waiting."""
        with self.explained(), self.storage.engine.connect() as connection, self._alone(connection, number):
            yield

    @contextmanager
    def explained(self) -> Iterator[None]:
        """Turn errors of the database into ones that say what to do.

        Raises:
            StorageError: If an SQLite file cannot be read or written.
            ConfigError: If the role may not do what is needed.
            ServiceUnavailable: If another database does not answer.
        """
        from optuna.exceptions import StorageInternalError

        try:
            yield
        except (StorageInternalError, SQLAlchemyError) as exc:
            # Optuna's names SQLAlchemy's, which has the driver's
            failed = exc.__cause__ if isinstance(exc, StorageInternalError) else exc
            raise _explain(self.url, getattr(failed, "orig", None) or exc) from exc

    @contextmanager
    def _alone(self, connection: Connection, number: int) -> Iterator[None]:
        if self.is_sqlite:
            with _opened(Path(f"{self.url.database}.lock")) as file:
                fcntl.flock(file, fcntl.LOCK_EX)
                yield
            return
        # the lock of a machine that was cut off ends with its session
        connection.execute(text(f"SET LOCAL idle_in_transaction_session_timeout = '{_BUSY_SECONDS}s'"))
        wait_for_others(connection, number)
        yield
        connection.rollback()

    def _open(self, heartbeat_seconds: int, grace_seconds: int) -> Any:
        import optuna

        optuna.logging.set_verbosity(optuna.logging.ERROR)
        with quietly():
            storage = optuna.storages.RDBStorage(
                # it fills in placeholders
                str_of(self.url).replace("{", "{{").replace("}", "}}"),
                engine_kwargs={"connect_args": {"timeout": _BUSY_SECONDS}} if self.is_sqlite else {"pool_pre_ping": True},
                skip_compatibility_check=True,
                heartbeat_interval=heartbeat_seconds,
                grace_period=grace_seconds,
                heartbeat_stale_trial_callback=optuna.storages.RetryHeartbeatStaleTrialCallback(max_retry=_MOST_REPEATS),
            )
        if storage.get_current_version() != storage.get_head_version():
            log.info("the tables of searches were made by another version of Optuna: upgraded")
            storage.upgrade()
        return storage


@contextmanager
def quietly() -> Iterator[None]:
    """Without Optuna's warnings that its heartbeat is new, and that it is not used from its own loop."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _explain(url: URL, cause: BaseException) -> WindvaneError:
    """What to do about an error of the database's driver."""
    said = f"search {url.render_as_string(hide_password=True)}: {(str(cause).splitlines() or [type(cause).__name__])[0]}"
    if url.get_backend_name() == "sqlite":
        return StorageError(f"{said}; check the file's disk and permissions, or set WINDVANE_DB")
    if getattr(cause, "sqlstate", None) in _REFUSED:
        # trying again gives nobody rights
        role = url.username or "<role>"
        return ConfigError(
            [
                f"{said}; let an administrator of the database run `CREATE SCHEMA {_SCHEMA} AUTHORIZATION {role}`, "
                f"or, if it is there, `ALTER SCHEMA {_SCHEMA} OWNER TO {role}` and the same for its tables"
            ]
        )
    return ServiceUnavailable(f"{said}; start the database or set WINDVANE_DB")


def _opened(path: Path) -> TextIO:
    try:
        return path.open("a")
    except OSError as exc:
        raise StorageError(f"search {path}: {exc.strerror}; check the file's disk and permissions, or set WINDVANE_DB") from exc


def str_of(url: URL) -> str:
    """The URL as text, with its password."""
    return url.render_as_string(hide_password=False)


def _file_beside(ledger: URL) -> URL:
    return ledger.set(database=str(Path(str(ledger.database)).with_suffix(".search.db")))


def _schema_within(ledger: URL) -> URL:
    given = ledger.query.get("options", "")
    options = f"{given if isinstance(given, str) else ' '.join(given)} -c search_path={_SCHEMA} -c timezone=UTC"
    return ledger.update_query_dict({"options": options.strip()})


def _prepare(connection: Connection) -> None:
    if connection.dialect.name != "postgresql":
        return
    wait_for_others(connection, _LOCK)
    # not IF NOT EXISTS: that needs the right to make one also where an administrator has made it
    if connection.scalar(text("SELECT 1 FROM pg_namespace WHERE nspname = :name"), {"name": _SCHEMA}) is None:
        try:
            connection.execute(text(f"CREATE SCHEMA {_SCHEMA}"))
        except ProgrammingError as exc:
            raise _explain(connection.engine.url, exc.orig or exc) from exc
    connection.commit()
