import sqlite3

import pytest

from windvane.check_approvers import check_approvers
from windvane.config import ModelConfig

FAB = "airflow.providers.fab.auth_manager.fab_auth_manager.FabAuthManager"
SIMPLE = "airflow.api_fastapi.auth.managers.simple.simple_auth_manager.SimpleAuthManager"


@pytest.fixture
def check(tmp_path):
    """What is told about approvers; Airflow's home is an empty directory."""

    def told(*approvers, **settings):
        approval = {"required": True, "approvers": list(approvers)}
        config = ModelConfig.model_validate(
            {"model": "churn", "task": "regression", "data": {"time": "at", "label": "y"}, "approval": approval}
        )
        environ = {"AIRFLOW_HOME": str(tmp_path)} | {f"AIRFLOW__{name}": value for name, value in settings.items()}
        return list(check_approvers(config, environ))

    return told


@pytest.fixture
def users(tmp_path):
    """FAB's users 1 (active) and 2 (not), in Airflow's database."""
    path = tmp_path / "airflow.db"
    with sqlite3.connect(path) as database:
        database.execute("CREATE TABLE ab_user (id INTEGER PRIMARY KEY, username TEXT, active BOOLEAN)")
        database.execute("INSERT INTO ab_user VALUES (1, 'ada', 1), (2, 'bob', 0)")
    return f"sqlite:///{path}?timeout=60"


def test_users_of_the_simple_auth_manager_are_known_by_name(check):
    users = {"CORE__SIMPLE_AUTH_MANAGER_USERS": "ada:user, bob:admin,eve:viewer"}
    assert check("ada", "bob", **users) == []
    assert check("adam", "eve", **users) == [
        "got 'adam', which is no user of Airflow; allowed are ada, bob; mend it, or core.simple_auth_manager_users",
        "got 'eve', which is a viewer, who may not answer; allowed are ada, bob; mend it, or core.simple_auth_manager_users",
    ]


def test_without_settings_airflow_has_one_user(check):
    assert check("admin") == []
    assert len(check("ada", CORE__AUTH_MANAGER=SIMPLE)) == 1


def test_the_configuration_file_is_read_where_the_environment_is_silent(check, tmp_path):
    (tmp_path / "airflow.cfg").write_text("[core]\nsimple_auth_manager_users = ada:op\n[logging]\nlog_format = %(message)s\n")
    assert check("ada") == []
    assert len(check("ada", CORE__SIMPLE_AUTH_MANAGER_USERS="bob:op")) == 1


def test_ids_of_fab_are_numbers(check):
    (told,) = check("ada", "1", CORE__AUTH_MANAGER=FAB)
    assert told.startswith("got 'ada', allowed are FAB's ids: they are numbers, shown by `airflow users list`")


def test_ids_of_fab_are_looked_up_in_airflows_database(check, users):
    fab = {"CORE__AUTH_MANAGER": FAB, "DATABASE__SQL_ALCHEMY_CONN": users}
    assert check("1", **fab) == []
    assert [told[:8] for told in check("1", "2", "33", **fab)] == ["got '2',", "got '33'"]


@pytest.mark.parametrize(
    "url",
    [
        "sqlite:////nowhere/airflow.db",
        "sqlite://",
        "sqlite:///$AIRFLOW_HOME/empty.db",
        "postgresql://u:p@127.0.0.1:9/airflow",
        "unknown://x",
        "not a url",
    ],
)
def test_a_database_that_does_not_tell_is_no_warning(check, tmp_path, url):
    (tmp_path / "empty.db").touch()
    assert check("33", CORE__AUTH_MANAGER=FAB, DATABASE__SQL_ALCHEMY_CONN=url) == []
    assert not (tmp_path / "nowhere").exists()


def test_other_auth_managers_and_no_approvers_are_left_alone(check):
    assert check("ada", CORE__AUTH_MANAGER="airflow.providers.keycloak.auth_manager.KeycloakAuthManager") == []
    assert check() == []
