"""Databases and an object store for the tests of what is kept in them: SQLite, PostgreSQL where it is installed, an S3 API."""

import itertools
from collections.abc import Iterator
from pathlib import Path

import pytest
from postgres_server import execute, find_postgres, serve_postgres
from s3_server import S3, serve_s3

from windvane.object_path import ObjectPath

_NUMBERS = itertools.count()


@pytest.fixture(scope="session")
def postgres() -> Iterator[str]:
    """URL of a database of a PostgreSQL server, which may make others."""
    if find_postgres() is None:
        pytest.skip("PostgreSQL is not installed")
    with serve_postgres() as url:
        yield url


@pytest.fixture(params=["sqlite", "postgresql"])
def database(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """URL of an empty database."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'new' / 'windvane.db'}"
    server, name = request.getfixturevalue("postgres"), f"test_{next(_NUMBERS)}"
    execute(server, f"CREATE DATABASE {name}")
    return f"{server.rpartition('/')[0]}/{name}"


@pytest.fixture(scope="session")
def s3_server() -> Iterator[S3]:
    """An S3 server with one bucket."""
    with serve_s3() as server:
        yield server


@pytest.fixture
def s3(s3_server: S3, monkeypatch: pytest.MonkeyPatch) -> S3:
    """The server, answering as it should, known to this process as a person would tell it."""
    for name, value in s3_server.environment.items():
        monkeypatch.setenv(name, value)
    s3_server.mend()
    return s3_server


@pytest.fixture
def root(s3: S3, request: pytest.FixtureRequest) -> ObjectPath:
    """A place of the test's own."""
    return ObjectPath.of(s3.uri(request.node.name.replace("[", "-").rstrip("]")))
