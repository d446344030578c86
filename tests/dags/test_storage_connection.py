"""Credentials of the object store from an Airflow connection: into the environment of the task, and nowhere else."""

import json
import os

import pytest
from airflow.sdk import Connection
from airflow.sdk.exceptions import AirflowNotFoundException

from windvane.errors import ConfigError
from windvane.settings import load_settings
from windvane_airflow.operators.model_operator import ModelOperator
from windvane_airflow.storage_connection import CONNECTION, use_storage_connection, variables_of

PLAIN = {"region_name": "eu-west-1", "endpoint_url": "http://s3:9000"}
KEY = {"type": "service_account", "private_key": "canary"}


@pytest.mark.parametrize(
    ("connection", "variables"),
    [
        (
            Connection(conn_id=CONNECTION, conn_type="aws", login="id", password="canary", extra=json.dumps(PLAIN)),
            {
                "AWS_ACCESS_KEY_ID": "id",
                "AWS_SECRET_ACCESS_KEY": "canary",
                "AWS_REGION": "eu-west-1",
                "AWS_ENDPOINT_URL": "http://s3:9000",
                "AWS_ALLOW_HTTP": "true",
            },
        ),
        (Connection(conn_id=CONNECTION, conn_type="aws", extra=json.dumps({"endpoint_url": "https://s3"})), {"AWS_ENDPOINT_URL": "https://s3"}),
        (
            Connection(conn_id=CONNECTION, conn_type="google_cloud_platform", extra=json.dumps({"keyfile_dict": KEY})),
            {"GOOGLE_SERVICE_ACCOUNT_KEY": json.dumps(KEY)},
        ),
        (
            Connection(conn_id=CONNECTION, conn_type="google_cloud_platform", extra=json.dumps({"key_path": "/run/key.json"})),
            {"GOOGLE_SERVICE_ACCOUNT": "/run/key.json"},
        ),
        (
            Connection(conn_id=CONNECTION, conn_type="wasb", login="account", password="canary"),
            {"AZURE_STORAGE_ACCOUNT_NAME": "account", "AZURE_STORAGE_ACCOUNT_KEY": "canary"},
        ),
        (
            Connection(conn_id=CONNECTION, conn_type="wasb", login="client", password="canary", extra=json.dumps({"tenant_id": "t"})),
            {"AZURE_STORAGE_CLIENT_ID": "client", "AZURE_STORAGE_CLIENT_SECRET": "canary", "AZURE_STORAGE_TENANT_ID": "t"},
        ),
    ],
    ids=["aws", "role", "google key", "google file", "azure key", "azure principal"],
)  # fmt: skip
def test_a_connection_becomes_the_variables_of_its_store(connection, variables):
    assert variables_of(connection) == variables


def test_a_connection_of_another_kind_is_refused():
    with pytest.raises(ConfigError, match="got the type 'http', allowed are aws, google_cloud_platform, wasb"):
        variables_of(Connection(conn_id=CONNECTION, conn_type="http"))


def test_only_an_installation_with_an_object_store_asks(tmp_path, monkeypatch):
    asked = []

    def get(name):
        asked.append(name)
        return Connection(conn_id=name, conn_type="aws", login="id", password="canary")

    monkeypatch.setattr(Connection, "get", get)
    environ: dict[str, str] = {}
    use_storage_connection(load_settings({"WINDVANE_VAR": str(tmp_path)}), environ)
    assert (asked, environ) == ([], {})
    use_storage_connection(load_settings({"WINDVANE_VAR": str(tmp_path), "WINDVANE_REPORTS": "s3://b/r"}), environ)
    assert asked == [CONNECTION]
    assert environ == {"AWS_ACCESS_KEY_ID": "id", "AWS_SECRET_ACCESS_KEY": "canary"}


def test_without_a_connection_the_environment_holds(tmp_path, monkeypatch):
    def get(name):
        raise AirflowNotFoundException(name)

    monkeypatch.setattr(Connection, "get", get)
    environ = {"AWS_REGION": "eu-west-1"}
    use_storage_connection(load_settings({"WINDVANE_VAR": str(tmp_path), "WINDVANE_LAKE": "s3://b/r"}), environ)
    assert environ == {"AWS_REGION": "eu-west-1"}


def test_a_task_has_the_store_before_it_does_anything(tmp_path, monkeypatch):
    monkeypatch.setattr(Connection, "get", lambda name: Connection(conn_id=name, conn_type="aws", login="id", password="canary"))
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        # what the task sets is taken back after the test
        monkeypatch.setenv(name, "other")
    monkeypatch.setenv("WINDVANE_LAKE", "s3://b/lake")
    task = ModelOperator(task_id="x", model="m", project=str(tmp_path))
    assert task.settings.lake == "s3://b/lake"
    assert (os.environ["AWS_ACCESS_KEY_ID"], os.environ["AWS_SECRET_ACCESS_KEY"]) == ("id", "canary")
