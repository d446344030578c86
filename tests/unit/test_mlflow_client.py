import dataclasses
import socket
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from windvane.errors import ServiceUnavailable
from windvane.mlflow_client import connect, experiment_of, naming_mlflow
from windvane.settings import load_settings


@pytest.fixture
def settings(tmp_path):
    return load_settings({"WINDVANE_VAR": str(tmp_path), "MLFLOW_TRACKING_URI": f"sqlite:///{tmp_path}/mlflow.db"})


def at(settings, uri):
    return dataclasses.replace(settings, mlflow_uri=uri)


def test_a_closed_port_is_named_at_once(settings):
    started = time.monotonic()
    with pytest.raises(ServiceUnavailable, match=r"MLflow at http://127\.0\.0\.1:9 does not answer: .*make up"):
        connect(at(settings, "http://127.0.0.1:9"))
    assert time.monotonic() - started < 5


def test_a_server_that_accepts_and_never_answers_is_named(settings, monkeypatch):
    monkeypatch.setattr("windvane.mlflow_client._HEALTH_TIMEOUT_SECONDS", 0.5)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        uri = f"http://127.0.0.1:{silent.getsockname()[1]}"
        with pytest.raises(ServiceUnavailable, match=uri):
            connect(at(settings, uri))


class _HealthyThenBroken(BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200 if self.path == "/health" else 500)
        self.end_headers()

    do_POST = do_GET

    def log_message(self, *args):
        pass


@pytest.mark.timeout(60)
def test_a_server_that_breaks_after_the_health_check_is_named_within_a_minute(settings):
    server = ThreadingHTTPServer(("127.0.0.1", 0), _HealthyThenBroken)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    broken = at(settings, f"http://127.0.0.1:{server.server_port}")
    try:
        with pytest.raises(ServiceUnavailable, match=broken.mlflow_uri), naming_mlflow(broken):
            connect(broken).get_experiment_by_name("churn")
    finally:
        server.shutdown()
        server.server_close()


def test_an_experiment_is_made_once_and_restored(settings):
    client = connect(settings)
    first = experiment_of(client, settings, "churn")
    client.delete_experiment(first)
    assert experiment_of(client, settings, "churn") == first
    assert client.get_experiment(first).lifecycle_stage == "active"
    assert client.get_experiment(first).artifact_location.endswith("/mlflow-artifacts/churn")
