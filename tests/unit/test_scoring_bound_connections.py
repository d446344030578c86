"""A client that is too slow loses its connection, and no other client notices."""

import socket
import threading
import time

import pytest
import requests
import uvicorn
from test_scoring_bundles import make_bundle

from windvane.scoring import bound_connections
from windvane.scoring.app import Service
from windvane.scoring.bound_connections import bounded_protocol, server_config
from windvane.scoring.count_requests import Counts
from windvane.scoring.log_requests import RequestLog
from windvane.scoring.serve_version import ServingSlot, Wanted


@pytest.fixture
def port(tmp_path, monkeypatch):
    monkeypatch.setattr(bound_connections, "bounded_protocol", lambda: bounded_protocol(0.5))
    made = make_bundle(tmp_path / "bundles")
    slot = ServingSlot()
    slot.bring(Wanted(1, made.digest), bundles=tmp_path / "bundles", model="tiny")
    app = Service(slot, model="tiny", requests=RequestLog(tmp_path / "log"), counts=Counts("tiny"), body_seconds=0.5)
    server = uvicorn.Server(server_config(app))
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        while not server.started:
            time.sleep(0.01)
        yield listener.getsockname()[1]
        server.should_exit = True
        thread.join(10)


def connect(port):
    return socket.create_connection(("127.0.0.1", port), timeout=10)


def drip(connection, data, pause=0.1, times=30):
    """Send a little at a time until the other side closes; returns what it said and how long that took."""
    began = time.monotonic()
    connection.settimeout(pause)
    for _ in range(times):
        try:
            connection.sendall(data)
            said = connection.recv(1000)
        except TimeoutError:
            continue
        except OSError:
            said = b""
        return said, time.monotonic() - began
    pytest.fail("the connection was not closed")


def test_a_connection_without_a_request_is_closed(port):
    with connect(port) as connection:
        assert connection.recv(100) == b""


def test_headers_that_drip_are_cut(port):
    with connect(port) as connection:
        connection.sendall(b"POST /invocations HTTP/1.1\r\nHost: a\r\n")
        said, seconds = drip(connection, b"X-A: b\r\n")
    assert said == b""
    assert seconds < 2


def test_headers_of_a_second_request_that_drip_are_cut(port):
    with connect(port) as connection:
        connection.sendall(b"GET /ping HTTP/1.1\r\nHost: a\r\n\r\n")
        assert b"200 OK" in connection.recv(1000)
        time.sleep(1)
        connection.sendall(b"GET /ping HTTP/1.1\r\n")
        said, seconds = drip(connection, b"X-A: b\r\n")
    assert said == b""
    assert seconds < 2


def test_a_body_that_drips_gets_408(port):
    with connect(port) as connection:
        connection.sendall(b"POST /invocations HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nContent-Length: 5000\r\n\r\n")
        said, seconds = drip(connection, b" ")
    assert b" 408 " in said
    assert b"connection: close" in said.lower()
    assert seconds < 2


def test_a_declared_body_beyond_all_bounds_is_refused_at_once(port):
    with connect(port) as connection:
        connection.sendall(b"POST /invocations HTTP/1.1\r\nHost: a\r\nContent-Length: 99999999999999\r\n\r\n")
        assert b" 413 " in connection.recv(1000)


def test_a_client_that_waits_for_leave_to_send_is_told_before_it_sends(port):
    with connect(port) as connection:
        connection.sendall(b"POST /invocations HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 20000000\r\n\r\n")
        assert b" 413 " in connection.recv(1000)


def test_an_idle_connection_between_two_requests_is_kept(port):
    with requests.Session() as session:
        for _ in range(2):
            assert session.get(f"http://127.0.0.1:{port}/ping", timeout=5).status_code == 200
            time.sleep(1)
        assert session.get(f"http://127.0.0.1:{port}/ping", timeout=5).status_code == 200
        assert len(session.get_adapter("http://x").poolmanager.pools) == 1
