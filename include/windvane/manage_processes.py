"""Starts long-running processes so that they outlive this one, and later stops exactly those, with all their children.

Each process leads a session of its own. A session's number is not given to another one while any member lives, so the
children are found even when their parents were killed. A process counts as ours only if its start time is the recorded one.
"""

import os
import signal
import subprocess
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

# the start time of a process is counted in ticks since boot, and the time of boot is known to a second
_CLOCK_TOLERANCE_SECONDS = 2.0

# children of this very process must be asked for their status, or they stay in the process table when they end
_children: dict[int, subprocess.Popen[bytes]] = {}


@dataclass(frozen=True)
class Managed:
    """A process that was started here.

    Attributes:
        name: What it is for.
        pid: Its process id, which is also the id of its session.
        created: Start time, seconds since the epoch.
        command: What was run, for people.
    """

    name: str
    pid: int
    created: float
    command: str

    def as_json(self) -> dict[str, Any]:
        """The record as JSON values."""
        return {"name": self.name, "pid": self.pid, "created": self.created, "command": self.command}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> "Managed":
        """Read what `as_json` wrote."""
        return cls(name=str(value["name"]), pid=int(value["pid"]), created=float(value["created"]), command=str(value["command"]))


def start_process(name: str, command: Sequence[str], *, environ: Mapping[str, str], directory: Path, log: Path) -> Managed:
    """Start a command in a session of its own, with its output appended to a log."""
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as output:
        process = subprocess.Popen(
            list(command),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            cwd=directory,
            env=dict(environ),
            start_new_session=True,
        )
    _children[process.pid] = process
    return Managed(name=name, pid=process.pid, created=psutil.Process(process.pid).create_time(), command=" ".join(command))


def is_alive(managed: Managed) -> bool:
    """Whether the process itself still runs."""
    process = _same(managed)
    return process is not None and _runs(process)


def members(managed: Managed) -> list[psutil.Process]:
    """The process, its descendants, and what is left of its session, as far as they still run."""
    leader = _same(managed)
    if leader is None and psutil.pid_exists(managed.pid):
        return []  # the number belongs to somebody else now, so nothing of the session is left
    found: dict[int, psutil.Process] = {}
    if leader is not None:
        try:
            found = {process.pid: process for process in [leader, *leader.children(recursive=True)]}
        except psutil.NoSuchProcess:
            found = {}
    for process in psutil.process_iter():
        if _session(process.pid) == managed.pid and _created(process) >= managed.created - _CLOCK_TOLERANCE_SECONDS:
            found[process.pid] = process
    return [process for process in found.values() if process.pid != os.getpid() and _runs(process)]


def stop_processes(processes: Iterable[Managed], *, grace_seconds: float = 5.0) -> int:
    """Ask everything that belongs to the processes to end, and kill what has not after the grace.

    Returns:
        How many processes were stopped.
    """
    wanted = list(processes)
    stopped: set[int] = set()
    for number, wait_seconds in ((signal.SIGTERM, grace_seconds), (signal.SIGKILL, 5.0), (signal.SIGKILL, 5.0)):
        alive = [process for managed in wanted for process in members(managed)]
        if not alive:
            break
        for process in alive:
            try:
                process.send_signal(number)
            except psutil.NoSuchProcess:
                continue
            stopped.add(process.pid)
        psutil.wait_procs(alive, timeout=wait_seconds)
    return len(stopped)


def listening(processes: Iterable[Managed]) -> list[tuple[str, int]]:
    """Every address and port on which the processes and their children accept connections."""
    pids = {process.pid for managed in processes for process in members(managed)}
    return sorted({(host, port) for pid, host, port in _listeners() if pid in pids})


def holder_of(port: int) -> str:
    """Who listens on a port, for an error message."""
    try:
        for pid, _, taken in _listeners():
            if taken == port and pid:
                return f"process {pid} ({psutil.Process(pid).name()})"
    except psutil.Error:  # it ended in the meantime, or is not for us to see
        return "another process"
    return "another process"


def _listeners() -> Iterator[tuple[int | None, str, int]]:
    for connection in psutil.net_connections(kind="inet"):
        if connection.status == psutil.CONN_LISTEN and connection.laddr:
            yield connection.pid, connection.laddr.ip, connection.laddr.port


def _same(managed: Managed) -> psutil.Process | None:
    child = _children.get(managed.pid)
    if child is not None and child.poll() is not None:
        del _children[managed.pid]
    try:
        process = psutil.Process(managed.pid)
        return process if abs(process.create_time() - managed.created) <= _CLOCK_TOLERANCE_SECONDS else None
    except psutil.NoSuchProcess:
        return None


def _runs(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _session(pid: int) -> int | None:
    try:
        return os.getsid(pid)
    except (ProcessLookupError, PermissionError):
        return None


def _created(process: psutil.Process) -> float:
    try:
        return float(process.create_time())
    except psutil.NoSuchProcess:
        return 0.0
