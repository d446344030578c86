"""Connects to the database of the release ledger and the catalog: SQLite or PostgreSQL."""

import os
import threading
import weakref
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import URL, Connection, Engine, bindparam, create_engine, event, make_url, text
from sqlalchemy.exc import DBAPIError, IntegrityError

from windvane.errors import ServiceUnavailable, StorageError

_BUSY_SECONDS = 20.0
_KEPT_ENGINES = 8


class Database:
    """A database that is prepared on first use, and whose errors say what to do.

    Args:
        url: SQLAlchemy URL.
        name: What it is, for messages.
        prepare: Makes what is missing, and commits; called on the first connection.
        patience_seconds: For how long to wait for another writer of an SQLite file.
    """

    def __init__(self, url: str, *, name: str, prepare: Callable[[Connection], None], patience_seconds: float = _BUSY_SECONDS) -> None:
        self._url = make_url(url)
        self._name = name
        self._prepare = prepare
        self._make_directory()
        shared = _share_engine(self._url, patience_seconds)
        self._engine = shared.engine
        # one that nobody closes lets go when it is forgotten
        self._let_go = weakref.finalize(self, _let_go, shared)
        self._let_go.atexit = False
        self._ready = False

    def close(self) -> None:
        """Let go of the connections."""
        self._let_go()

    @contextmanager
    def connect(self) -> Iterator[Connection]:
        """A connection; what it does is undone unless it is committed.

        Raises:
            StorageError: If an SQLite file cannot be read or written.
            ServiceUnavailable: If another database does not answer.
        """
        try:
            with self._engine.connect() as connection:
                if not self._ready:
                    self._prepare(connection)
                    self._ready = True
                yield connection
        except IntegrityError:
            raise
        except DBAPIError as exc:
            raise self._explain(exc) from exc

    def _make_directory(self) -> None:
        path = self._url.database
        if self._url.get_backend_name() != "sqlite" or not path or path == ":memory:":
            return
        try:
            Path(path).parent.mkdir(parents=True, exist_ok=True)
        except OSError as exc:
            raise StorageError(f"{self._name} {path}: {exc.strerror}; make its directory writable or set WINDVANE_DB") from exc

    def _explain(self, error: DBAPIError) -> Exception:
        where = self._url.render_as_string(hide_password=True)
        cause = str(error.orig).splitlines()[0] if str(error.orig) else type(error.orig).__name__
        if self._url.get_backend_name() == "sqlite":
            return StorageError(f"{self._name} {where}: {cause}; check the file's disk and permissions, or set WINDVANE_DB")
        return ServiceUnavailable(f"{self._name} {where}: {cause}; start the database or set WINDVANE_DB")


def existing(connection: Connection, names: Collection[str]) -> set[str]:
    """Those of the tables and indexes that there are; SQLAlchemy's inspector finds out so much more that it takes long."""
    if connection.dialect.name == "postgresql":
        found = text("SELECT relname FROM pg_class WHERE relname IN :names AND pg_table_is_visible(oid)")
    else:
        found = text("SELECT name FROM sqlite_master WHERE name IN :names")
    return set(connection.scalars(found.bindparams(bindparam("names", expanding=True)), {"names": list(names)}))


def wait_for_others(connection: Connection, number: int) -> None:
    """Let only one process at a time prepare a PostgreSQL database, until the transaction ends; SQLite needs no such thing."""
    if connection.dialect.name == "postgresql":
        connection.execute(text(f"SELECT pg_advisory_xact_lock({number:d})"))


@dataclass
class _Shared:
    """An engine and the number of those who use it."""

    engine: Engine
    users: int = 0


_engines: dict[tuple[URL, float, int], _Shared] = {}
# a finalizer may run while the same thread holds it
_lock = threading.RLock()


def _share_engine(url: URL, patience_seconds: float) -> _Shared:
    """The engine of a database: a new one would learn the database and every query anew."""
    # connections survive no fork: another process has its own
    key = (url, patience_seconds, os.getpid())
    with _lock:
        shared = _engines.pop(key, None) or _Shared(_make_engine(url, patience_seconds))
        shared.users += 1
        _engines[key] = shared
        unused = [other for other, found in _engines.items() if not found.users]
        for other in unused[:-_KEPT_ENGINES]:
            del _engines[other]
    return shared


def _let_go(shared: _Shared) -> None:
    with _lock:
        shared.users -= 1
        if not shared.users:
            # not before: connections that others use would be left open
            shared.engine.dispose()


def _make_engine(url: URL, patience_seconds: float) -> Engine:
    if url.get_backend_name() != "sqlite":
        return create_engine(url, pool_pre_ping=True)
    engine = create_engine(url, connect_args={"timeout": patience_seconds})

    @event.listens_for(engine, "connect")
    def _set_pragmas(connection: Any, _record: Any) -> None:
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=FULL")

    return engine
