"""The supervisor of the scoring servers: restarts the dead, keeps what a crash left, never doubles, names a taken port."""

import os
import signal
import socket
import subprocess
import time

import psutil
import pytest
from small_bundle import MODEL, make_bundle, make_settings

from windvane.errors import ServiceUnavailable
from windvane.ledger import Ledger
from windvane.process_target import fetch_model
from windvane.supervise_servers import Servers, find_servers

pytestmark = pytest.mark.filterwarnings("ignore:subprocess .* is still running:ResourceWarning")


@pytest.fixture
def settings(tmp_path):
    made = make_settings(tmp_path)
    yield made
    for process, _ in find_servers(made):
        process.kill()


@pytest.fixture
def port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def wait_until_served(port, *, pid=None, seconds=30):
    give_up = time.monotonic() + seconds
    while True:
        try:
            return fetch_model(f"http://127.0.0.1:{port}")
        except ServiceUnavailable:
            assert time.monotonic() < give_up, "the server does not answer"
            time.sleep(0.1)


def test_a_dead_server_is_started_again_and_stopped_with_its_supervisor(settings, port):
    servers = Servers(settings)
    (said,) = servers.align({MODEL: port})
    assert f"started a scoring server on port {port}" in said
    assert wait_until_served(port)["serving"] is None
    first = servers.pids[MODEL]

    os.kill(first, signal.SIGKILL)
    psutil.Process(first).wait(10)
    ended, started = servers.check()

    assert "ended after" in ended
    assert "started a scoring server" in started
    assert wait_until_served(port)["model"] == MODEL
    servers.stop()
    assert find_servers(settings) == []
    assert (settings.var / "logs" / f"scoring-{MODEL}.log").stat().st_size > 0


def test_a_server_that_outlived_its_supervisor_is_kept_and_serves_what_the_ledger_says(settings, port):
    digest = make_bundle(settings).digest
    crashed = Servers(settings)
    crashed.align({MODEL: port})
    wait_until_served(port)

    servers = Servers(settings)
    (said,) = servers.align({MODEL: port})

    assert "is kept" in said
    assert servers.pids == crashed.pids
    assert len(find_servers(settings)) == 1
    ledger = Ledger(settings.database)
    ledger.append(
        MODEL, expected_epoch=0, action="promote", version=1, digest=digest, traffic={1: 100}, actor="test", reason="because"
    )  # fmt: skip
    ledger.close()
    give_up = time.monotonic() + 20
    while (wait_until_served(port)["serving"] or {}).get("digest") != digest:
        assert time.monotonic() < give_up
        time.sleep(0.1)
    servers.stop()
    assert find_servers(settings) == []


def test_a_server_that_no_config_asks_for_is_stopped(settings, port):
    servers = Servers(settings)
    servers.align({MODEL: port})
    wait_until_served(port)
    (said,) = servers.align({})
    assert "no config asks for" in said
    assert find_servers(settings) == []


def test_a_server_that_hangs_is_replaced(settings, port):
    servers = Servers(settings)
    servers.align({MODEL: port})
    wait_until_served(port)
    servers.align({MODEL: port})
    hung = servers.pids[MODEL]
    os.kill(hung, signal.SIGSTOP)

    said = []
    while not said:
        said = servers.align({MODEL: port})

    assert "did not answer and was stopped" in said[0]
    assert servers.pids[MODEL] != hung
    servers.stop()


def test_a_taken_port_is_named_with_its_setting_and_taken_when_free(settings, port):
    servers = Servers(settings)
    with socket.socket() as other:
        other.bind(("127.0.0.1", port))
        other.listen()
        (said,) = servers.align({MODEL: port})
        assert f"dags/configs/{MODEL}.yaml: deploy.port: port {port} is taken by" in said
        assert servers.check() == [], "the same words each second help nobody"
    assert "started a scoring server" in servers.check()[0]
    servers.stop()


def test_two_models_on_one_port_are_told(settings, port):
    servers = Servers(settings)
    said = servers.align({MODEL: port, "other": port})
    assert f"dags/configs/other.yaml: deploy.port: {port} is the port of the model '{MODEL}' too" in said[1]
    servers.stop()


def test_a_server_that_dies_at_once_is_not_started_in_a_tight_loop(settings, port, monkeypatch):
    now = [1000.0]
    servers = Servers(settings, clock=lambda: now[0])
    monkeypatch.setattr(servers, "_spawn", lambda model, port: psutil.Popen(["false"], stdin=subprocess.DEVNULL))
    starts = 0
    servers.align({MODEL: port})
    for _ in range(40):
        for process in [server.process for server in servers._running.values()]:
            process.wait(10)
        starts += sum("started" in said for said in servers.check())
        now[0] += 1
    assert 3 <= starts <= 7
    servers.stop()
