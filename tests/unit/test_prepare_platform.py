"""Ports, secrets and the environment of the platform."""

import json
import os
import socket
import stat
import subprocess
from pathlib import Path

import pytest

from windvane.errors import ConfigError
from windvane.prepare_platform import (
    choose_port,
    fingerprint,
    is_free,
    load_secrets,
    passwords_file,
    platform_environment,
    process_environment,
    write_airflow_command,
)
from windvane.settings import load_settings


@pytest.fixture
def taken_port():
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


def _settings(tmp_path: Path):
    return load_settings({"WINDVANE_VAR": str(tmp_path / "var"), "WINDVANE_PROJECT": str(tmp_path)})


def test_a_taken_port_is_not_free(taken_port: int) -> None:
    assert not is_free(taken_port)


def test_the_next_free_port_is_used_and_said(taken_port: int) -> None:
    port, note = choose_port("Airflow", ("WINDVANE_AIRFLOW_PORT", taken_port), environ={}, reserved=[])
    assert port > taken_port
    assert note is not None
    assert str(taken_port) in note
    assert str(port) in note
    assert "WINDVANE_AIRFLOW_PORT" in note


def test_a_taken_port_that_was_asked_for_is_an_error_that_names_port_and_setting(taken_port: int) -> None:
    with pytest.raises(ConfigError, match=rf"WINDVANE_MLFLOW_PORT: port {taken_port} for MLflow is taken by process {os.getpid()}"):
        choose_port("MLflow", ("WINDVANE_MLFLOW_PORT", 5000), environ={"WINDVANE_MLFLOW_PORT": str(taken_port)}, reserved=[])


@pytest.mark.parametrize("asked", ["http", "0", "70000", "-1"])
def test_no_port_is_refused(asked: str) -> None:
    with pytest.raises(ConfigError, match="allowed is a port from 1 to 65535"):
        choose_port("Airflow", ("WINDVANE_AIRFLOW_PORT", 8080), environ={"WINDVANE_AIRFLOW_PORT": asked}, reserved=[])


def test_ports_of_models_are_left_to_them(taken_port: int) -> None:
    first, _ = choose_port("Airflow", ("P", taken_port), environ={}, reserved=[])
    second, _ = choose_port("Airflow", ("P", taken_port), environ={}, reserved=[first])
    assert second > first


def test_the_port_of_last_time_is_kept_if_it_is_free(taken_port: int) -> None:
    free, _ = choose_port("Airflow", ("P", taken_port), environ={}, reserved=[])
    assert choose_port("Airflow", ("P", taken_port), environ={}, reserved=[], before=free)[0] == free
    assert choose_port("Airflow", ("P", free), environ={}, reserved=[], before=taken_port)[0] == free


def test_secrets_are_made_once_and_only_their_owner_reads_them(tmp_path: Path) -> None:
    first, second = load_secrets(tmp_path), load_secrets(tmp_path)
    assert (first.fernet_key, first.jwt_secret, first.passwords) == (second.fernet_key, second.jwt_secret, second.passwords)
    assert set(first.passwords) == {"admin", "viewer"}
    assert first.passwords["admin"] not in repr(first)
    for path in (tmp_path / "secrets.json", passwords_file(tmp_path)):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_password_that_a_person_changed_is_kept(tmp_path: Path) -> None:
    load_secrets(tmp_path)
    passwords_file(tmp_path).write_text(json.dumps({"admin": "my own", "eve": "hers"}))
    assert load_secrets(tmp_path).passwords["admin"] == "my own"
    assert json.loads(passwords_file(tmp_path).read_text())["eve"] == "hers"


def test_the_fernet_key_is_one_that_airflow_accepts(tmp_path: Path) -> None:
    from cryptography.fernet import Fernet

    key = Fernet(load_secrets(tmp_path).fernet_key)
    assert key.decrypt(key.encrypt(b"x")) == b"x"


def test_processes_get_ports_places_and_no_telemetry(tmp_path: Path) -> None:
    settings = _settings(tmp_path)
    added = platform_environment(settings, load_secrets(settings.var), airflow_port=8123, mlflow_port=5123)
    assert added["AIRFLOW__API__BASE_URL"] == "http://127.0.0.1:8123"
    assert added["AIRFLOW__CORE__EXECUTION_API_SERVER_URL"] == "http://127.0.0.1:8123/execution/"
    assert added["MLFLOW_TRACKING_URI"] == "http://127.0.0.1:5123"
    assert added["AIRFLOW__CORE__DAGS_FOLDER"] == str(tmp_path / "dags")
    assert added["GX_ANALYTICS_ENABLED"] == "false"
    assert added["MLFLOW_DISABLE_TELEMETRY"] == "true"


def test_byte_code_is_written_and_our_airflow_is_found_first(tmp_path: Path) -> None:
    inherited = {"PYTHONDONTWRITEBYTECODE": "1", "PATH": "/usr/bin", "HOME": "/home/somebody"}
    whole = process_environment({"A": "1"}, var=tmp_path, environ=inherited)
    assert "PYTHONDONTWRITEBYTECODE" not in whole
    assert whole["HOME"] == "/home/somebody"
    assert whole["PATH"].split(os.pathsep)[0] == str(tmp_path / "bin")


def test_the_airflow_command_leaves_the_log_servers_out(tmp_path: Path) -> None:
    command = write_airflow_command(tmp_path)
    text = command.read_text()
    assert "scheduler|triggerer" in text
    assert "--skip-serve-logs" in text
    assert os.access(command, os.X_OK)
    assert subprocess.run(["sh", "-n", str(command)], check=False).returncode == 0


def test_another_target_makes_another_fingerprint(tmp_path: Path) -> None:
    settings = _settings(tmp_path)
    assert fingerprint(settings, environ={}) == fingerprint(settings, environ={})
    assert fingerprint(settings, environ={}) != fingerprint(settings, environ={"WINDVANE_TARGET": "docker"})
