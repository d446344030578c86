"""What include/docker/mlflow/write_auth.py does before it becomes MLflow's server."""

import importlib.util
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import sqlalchemy
import yaml
from sqlalchemy import text

REPOSITORY = Path(__file__).resolve().parents[2]
SCRIPT = REPOSITORY / "include" / "docker" / "mlflow" / "write_auth.py"
# a revision some releases ago
OLD = "89d3d66ed43f"


@pytest.fixture(autouse=True)
def unsynced() -> Iterator[None]:
    """SQLite waits for the disk at each of the hundreds of statements of a migration; nothing here must outlive a crash."""

    def relax(connection: Any, _: object) -> None:
        connection.execute("PRAGMA synchronous = OFF")

    sqlalchemy.event.listen(sqlalchemy.Engine, "connect", relax)
    yield
    sqlalchemy.event.remove(sqlalchemy.Engine, "connect", relax)


@pytest.fixture
def starting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    spec = importlib.util.spec_from_file_location("write_auth", SCRIPT)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr("tempfile.gettempdir", lambda: str(tmp_path))
    return module


def make_old(uri: str) -> sqlalchemy.Engine:
    """A database as an older MLflow left it, with one experiment."""
    from alembic import command
    from mlflow.store.db.utils import _get_alembic_config
    from mlflow.store.tracking.dbmodels.initial_models import Base

    engine = sqlalchemy.create_engine(uri)
    Base.metadata.create_all(engine)
    config = _get_alembic_config(uri)
    with engine.begin() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, OLD)
    with engine.begin() as connection:
        connection.execute(text("INSERT INTO experiments (experiment_id, name, lifecycle_stage) VALUES (7, 'flight_delay', 'active')"))
    return engine


def test_an_older_database_is_upgraded_before_the_server_starts(
    tmp_path: Path, starting: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mlflow.exceptions import MlflowException
    from mlflow.store.db.utils import _verify_schema

    uri = f"sqlite:///{tmp_path}/mlflow.db"
    engine = make_old(uri)
    with pytest.raises(MlflowException, match="out-of-date database schema"):
        _verify_schema(engine)
    started: list[list[str]] = []

    def become(program: str, command: list[str]) -> None:
        # the server's own check
        _verify_schema(engine)
        started.append([program, *command])

    monkeypatch.setattr("os.execvp", become)
    monkeypatch.setattr("os.environ", {**os.environ, "MLFLOW_BACKEND_STORE_URI": uri})
    starting.main(["mlflow", "server"])
    # and again, as at every start
    starting.main(["mlflow", "server"])
    assert started == [["mlflow", "mlflow", "server"]] * 2
    with engine.connect() as connection:
        assert connection.execute(text("SELECT name FROM experiments WHERE experiment_id = 7")).scalars().all() == ["flight_delay"]
    auth = Path(os.environ["MLFLOW_AUTH_CONFIG_PATH"])
    assert auth.parent == tmp_path
    assert stat.S_IMODE(auth.stat().st_mode) == 0o600
    assert f"database_uri = {uri}\n" in auth.read_text()
    assert "default_permission = NO_PERMISSIONS\n" in auth.read_text()


def test_an_empty_database_is_made(tmp_path: Path, starting: ModuleType) -> None:
    from mlflow.store.db.utils import _all_tables_exist, _verify_schema

    engine = sqlalchemy.create_engine(f"sqlite:///{tmp_path}/mlflow.db")
    starting.upgrade_database(str(engine.url))
    _verify_schema(engine)
    assert _all_tables_exist(engine)


def test_the_database_of_a_newer_mlflow_is_refused(tmp_path: Path, starting: ModuleType) -> None:
    engine = sqlalchemy.create_engine(f"sqlite:///{tmp_path}/mlflow.db")
    with engine.begin() as connection:
        connection.execute(text("CREATE TABLE experiments (experiment_id INTEGER)"))
        connection.execute(text("CREATE TABLE alembic_version (version_num VARCHAR(32))"))
        connection.execute(text("INSERT INTO alembic_version VALUES ('ffffffffffff')"))
    with pytest.raises(SystemExit, match=r"'ffffffffffff'; .* newer MLflow: start that one, or restore the backup"):
        starting.upgrade_database(str(engine.url))


def test_the_credentials_have_the_names_that_mlflow_reads(tmp_path: Path, starting: ModuleType) -> None:
    environ = {
        "AWS_REGION": "eu-central-1",
        "AZURE_STORAGE_TENANT_ID": "t",
        "AZURE_STORAGE_SAS_KEY": "",
        "GOOGLE_SERVICE_ACCOUNT_KEY": "{}",
    }
    starting.translate_names(environ)
    assert environ["AWS_DEFAULT_REGION"] == "eu-central-1"
    assert environ["AZURE_TENANT_ID"] == "t"
    assert "AZURE_STORAGE_SAS_TOKEN" not in environ
    key = Path(environ["GOOGLE_APPLICATION_CREDENTIALS"])
    assert key.read_text() == "{}"
    assert key.parent == tmp_path
    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    kept = {"AWS_REGION": "eu-central-1", "AWS_DEFAULT_REGION": "eu-west-1", "GOOGLE_SERVICE_ACCOUNT": "/key.json"}
    starting.translate_names(kept)
    assert kept["AWS_DEFAULT_REGION"] == "eu-west-1"
    assert kept["GOOGLE_APPLICATION_CREDENTIALS"] == "/key.json"


def test_both_platforms_start_the_server_with_it() -> None:
    compose = yaml.safe_load((REPOSITORY / "docker-compose.yaml").read_text())["services"]["mlflow"]
    documents = yaml.safe_load_all((REPOSITORY / "deploy" / "kubernetes" / "mlflow" / "mlflow.yaml").read_text())
    deployment = next(document["spec"] for document in documents if document["kind"] == "Deployment")
    expected = ["python", str(SCRIPT.relative_to(REPOSITORY)), "mlflow", "server"]
    assert compose["entrypoint"] == expected
    assert [container["command"] for container in deployment["template"]["spec"]["containers"]] == [expected]
    # no server of the old version is up while the database is upgraded
    assert deployment["strategy"] == {"type": "Recreate"}
