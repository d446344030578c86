"""A PostgreSQL of its own for tests, where its programs are installed: a new cluster in a temporary directory, on 127.0.0.1."""

import contextlib
import glob
import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from sqlalchemy import create_engine, text
from sqlalchemy.pool import NullPool


def execute(url: str, *statements: str) -> None:
    """Run statements, each by itself, as who owns the database."""
    engine = create_engine(url, isolation_level="AUTOCOMMIT", poolclass=NullPool)
    with engine.connect() as connection:
        for statement in statements:
            connection.execute(text(statement))


def find_postgres() -> Path | None:
    """Directory of `initdb` and `postgres`; None where PostgreSQL is not installed."""
    found = shutil.which("initdb")
    places = [Path(found).parent] if found else [Path(path) for path in sorted(glob.glob("/usr/lib/postgresql/*/bin"), reverse=True)]
    return next((path for path in places if (path / "initdb").is_file() and (path / "postgres").is_file()), None)


@contextlib.contextmanager
def serve_postgres() -> Iterator[str]:
    """SQLAlchemy URL of an empty database; the server ends with the block."""
    programs = find_postgres()
    assert programs is not None, "PostgreSQL is not installed"
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with tempfile.TemporaryDirectory(prefix="windvane-pg-", ignore_cleanup_errors=True) as home:
        # it refuses to run as root
        owner = pwd.getpwnam("postgres") if os.geteuid() == 0 else pwd.getpwuid(os.geteuid())
        os.chown(home, owner.pw_uid, owner.pw_gid)
        options = {"user": owner.pw_uid, "group": owner.pw_gid} if os.geteuid() == 0 else {}
        data = f"{home}/data"
        subprocess.run(
            [programs / "initdb", "-D", data, "-U", "windvane", "-A", "trust", "-E", "UTF8", "--no-locale", "-N"],
            check=True, capture_output=True, cwd=home, **options,
        )  # fmt: skip
        command = [programs / "postgres", "-D", data, "-h", "127.0.0.1", "-p", str(port), "-k", home, "-F", "-c", "max_connections=60"]
        with open(f"{home}/log", "wb") as log:
            server = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=home, **options)
        try:
            _wait(port, server)
            yield f"postgresql+psycopg://windvane@127.0.0.1:{port}/postgres"
        finally:
            # at once: it waits for nobody, and nothing is kept
            server.send_signal(signal.SIGQUIT)
            server.wait(30)


def _wait(port: int, server: subprocess.Popen[bytes]) -> None:
    import psycopg

    give_up = time.monotonic() + 30
    while True:
        try:
            psycopg.connect(f"host=127.0.0.1 port={port} user=windvane dbname=postgres", connect_timeout=2).close()
        except psycopg.OperationalError:
            if server.poll() is not None or time.monotonic() > give_up:
                raise
            time.sleep(0.05)
        else:
            return
