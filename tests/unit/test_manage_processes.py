"""Processes that outlive their starter are found again, with their children, and nothing else is touched."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from windvane.manage_processes import Managed, holder_of, is_alive, listening, members, start_process, stop_processes

SLEEP = "import time; time.sleep(60)"
FAMILY = f"""
import subprocess, sys, time
subprocess.Popen([sys.executable, "-c", {SLEEP!r}])
print("ready", flush=True)
time.sleep(60)
"""
STUBBORN = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('ready', flush=True); time.sleep(60)"
SERVER = """
import socket, time
server = socket.create_server(("127.0.0.1", 0))
print(server.getsockname()[1], flush=True)
time.sleep(60)
"""


class _Starter:
    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.started: list[Managed] = []

    def __call__(self, code: str) -> Managed:
        log = self.directory / f"{len(self.started)}.log"
        managed = start_process("test", [sys.executable, "-c", code], environ=os.environ, directory=self.directory, log=log)
        self.started.append(managed)
        if "flush" in code:
            _wait(lambda: log.read_text() != "")
        return managed

    def output(self) -> str:
        return (self.directory / f"{len(self.started) - 1}.log").read_text()


def _wait(condition) -> None:
    give_up = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < give_up
        time.sleep(0.02)


@pytest.fixture
def start(tmp_path: Path) -> Iterator[_Starter]:
    starter = _Starter(tmp_path)
    yield starter
    stop_processes(starter.started, grace_seconds=0.1)


def test_a_started_process_is_alive_until_stopped(start: _Starter) -> None:
    managed = start(SLEEP)
    assert is_alive(managed)
    assert stop_processes([managed]) == 1
    assert not is_alive(managed)


def test_a_record_survives_json(start: _Starter) -> None:
    managed = start(SLEEP)
    assert Managed.from_json(managed.as_json()) == managed


def test_children_are_stopped_too(start: _Starter) -> None:
    managed = start(FAMILY)
    pids = {process.pid for process in members(managed)}
    assert len(pids) == 2
    assert stop_processes([managed]) == 2
    assert members(managed) == []


def test_orphans_of_a_killed_leader_are_found_and_stopped(start: _Starter) -> None:
    managed = start(FAMILY)
    os.kill(managed.pid, 9)
    _wait(lambda: not is_alive(managed))
    orphans = members(managed)
    assert len(orphans) == 1
    stop_processes([managed])
    assert not orphans[0].is_running()


def test_a_process_that_ignores_the_request_is_killed(start: _Starter) -> None:
    managed = start(STUBBORN)
    stop_processes([managed], grace_seconds=0.2)
    assert not is_alive(managed)


def test_a_reused_process_id_is_left_alone(start: _Starter) -> None:
    managed = start(SLEEP)
    stranger = replace(managed, created=managed.created - 3600)
    assert not is_alive(stranger)
    assert members(stranger) == []
    assert stop_processes([stranger], grace_seconds=0.1) == 0
    assert is_alive(managed)


def test_the_session_of_somebody_else_is_left_alone(start: _Starter) -> None:
    managed = start(SLEEP)
    with subprocess.Popen([sys.executable, "-c", SLEEP], start_new_session=True) as other:
        stop_processes([managed], grace_seconds=1)
        assert psutil.Process(other.pid).is_running()
        other.kill()


def test_listening_ports_are_told_with_their_address(start: _Starter) -> None:
    managed = start(SERVER)
    port = int(start.output())
    assert listening([managed]) == [("127.0.0.1", port)]
    assert str(managed.pid) in holder_of(port)
