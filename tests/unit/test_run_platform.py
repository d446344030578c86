"""Starting, finding again, mending and stopping the platform, with small servers in the place of the real ones."""

import json
import os
import signal
import socket
import stat
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from windvane import run_platform
from windvane.check_health import check_health
from windvane.errors import ConfigError, ServiceUnavailable, StorageError
from windvane.manage_processes import is_alive, members
from windvane.prepare_platform import is_free
from windvane.record_platform import of_platform, read_platform
from windvane.run_platform import start_platform, stop_platform
from windvane.settings import Settings, load_settings

SERVER = """
import datetime, http.server, json, sys
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        now = datetime.datetime.now(datetime.timezone.utc).isoformat()
        parts = ("metadatabase", "scheduler", "dag_processor", "triggerer")
        body = json.dumps({part: {"status": "healthy", f"latest_{part}_heartbeat": now} for part in parts}).encode()
        self.send_response(200); self.send_header("Content-Length", str(len(body))); self.end_headers(); self.wfile.write(body)
    def log_message(self, *args): pass
http.server.ThreadingHTTPServer((sys.argv[2], int(sys.argv[1])), Handler).serve_forever()
"""
SLEEP = "import time; time.sleep(120)"


@pytest.fixture
def commands(monkeypatch: pytest.MonkeyPatch) -> dict[str, list[str]]:
    """Commands that a test may replace."""
    replaced: dict[str, list[str]] = {}

    def small(settings, ports):
        server = [sys.executable, "-c", SERVER]
        real = {
            "airflow": [*server, str(ports["airflow"]), "127.0.0.1"],
            "mlflow": [*server, str(ports["mlflow"]), "127.0.0.1"],
            "reconciler": [sys.executable, "-c", SLEEP],
        }
        return {**real, **replaced}

    monkeypatch.setattr(run_platform, "_commands", small)
    return replaced


@pytest.fixture
def settings(tmp_path: Path, commands: dict[str, list[str]]) -> Iterator[Settings]:
    found = load_settings({"WINDVANE_VAR": str(tmp_path / "var"), "WINDVANE_PROJECT": str(tmp_path)})
    yield found
    stop_platform(found)


def _start(settings: Settings, said: list[str] | None = None, **environ: str):
    return start_platform(settings, say=[].append if said is None else said.append, environ={"PATH": os.environ["PATH"], **environ})


def test_everything_is_started_recorded_and_stopped(settings: Settings) -> None:
    platform = _start(settings)
    assert all(state == "ready" for state in check_health(settings, platform).values())
    assert read_platform(settings.var) == platform
    assert of_platform(settings, environ={}).mlflow_uri == platform.mlflow_url
    assert stop_platform(settings) == 3
    assert all(is_free(port) for port in platform.ports.values())
    assert stop_platform(settings) == 0


def test_keys_and_records_are_for_their_owner_only(settings: Settings) -> None:
    _start(settings)
    for name in ("platform.env", "platform.json", "secrets.json", "airflow_passwords.json"):
        assert stat.S_IMODE((settings.var / name).stat().st_mode) == 0o600


def test_a_second_start_changes_nothing(settings: Settings) -> None:
    first, said = _start(settings), list[str]()
    assert _start(settings, said) == first
    assert not any(line.startswith("Starting") for line in said)


def test_only_what_died_is_started_again(settings: Settings) -> None:
    first = _start(settings)
    mlflow = first.process("mlflow")
    assert mlflow is not None
    os.kill(mlflow.pid, signal.SIGKILL)
    while is_alive(mlflow):
        time.sleep(0.01)
    second = _start(settings)
    assert second.process("airflow") == first.process("airflow")
    assert second.process("mlflow") not in (None, mlflow)
    assert second.ports == first.ports


def test_a_change_of_target_restarts_everything(settings: Settings) -> None:
    first, said = _start(settings), list[str]()
    second = _start(settings, said, WINDVANE_TARGET="docker")
    assert not any(is_alive(process) for process in first.processes)
    assert all(is_alive(process) for process in second.processes)
    assert "changed since it was started" in said[0]


@pytest.mark.parametrize("environ", [{"WINDVANE_TARGET": "foo"}, {"WINDVANE_AIRFLOW_PORT": "http"}])
def test_a_wrong_setting_is_refused_before_anything_is_touched(settings: Settings, environ: dict[str, str]) -> None:
    with pytest.raises(ConfigError, match=r"got '(foo|http)', allowed"):
        _start(settings, **environ)
    assert not settings.var.exists()
    first = _start(settings)
    with pytest.raises(ConfigError, match=r"got '(foo|http)', allowed"):
        _start(settings, **environ)
    assert all(is_alive(process) for process in first.processes)
    assert read_platform(settings.var) == first


def test_two_starts_at_once_are_refused(settings: Settings) -> None:
    _start(settings)
    with run_platform._only_one(settings.var), pytest.raises(ConfigError, match="another `windvane up` or `windvane down` is at work"):
        _start(settings)


def test_a_process_that_ends_at_once_is_named_with_its_log(settings: Settings, commands: dict[str, list[str]]) -> None:
    commands["mlflow"] = [sys.executable, "-c", "print('no such table'); raise SystemExit(1)"]
    with pytest.raises(ServiceUnavailable, match=r"platform: mlflow ended.*\n.*no such table"):
        _start(settings)


def test_what_listens_to_the_world_is_stopped_again(settings: Settings, commands: dict[str, list[str]]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    commands["mlflow"] = [sys.executable, "-c", SERVER, str(port), "0.0.0.0"]
    with pytest.raises(ServiceUnavailable, match=rf"listens outside this machine, on 0\.0\.0\.0:{port}"):
        _start(settings, WINDVANE_MLFLOW_PORT=str(port))
    recorded = read_platform(settings.var)
    assert recorded is not None
    assert [process for managed in recorded.processes for process in members(managed)] == []


def test_the_port_of_a_model_that_is_taken_is_named(settings: Settings) -> None:
    config = settings.project / "dags" / "configs" / "churn.yaml"
    config.parent.mkdir(parents=True)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        config.write_text(f"model: churn\ntask: regression\ndata: {{time: t, label: y}}\ndeploy: {{port: {port}}}\n")
        with pytest.raises(ConfigError, match=rf"churn.yaml: deploy.port: {port} is taken by process {os.getpid()}"):
            _start(settings)


def test_an_unreadable_record_is_an_error_that_names_it(settings: Settings) -> None:
    settings.var.mkdir()
    (settings.var / "platform.json").write_text(json.dumps({"ports": 3}))
    with pytest.raises(StorageError, match=r"platform\.json: cannot be read"):
        read_platform(settings.var)
    (settings.var / "platform.json").unlink()


def test_state_that_cannot_be_written_is_an_error_that_names_the_setting(settings: Settings, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="set WINDVANE_VAR"):
        _start(replace(settings, var=tmp_path / "file" / "var"))
