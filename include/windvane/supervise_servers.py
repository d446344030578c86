"""Keeps one scoring server process per model with `target: process`: starts, watches, restarts and stops them.

A server is recognised by its command line and by the installation in its environment. So after a crash of the
supervisor its servers, which went on serving, are found and kept, never doubled.
"""

import logging
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import psutil

from windvane.errors import ServiceUnavailable
from windvane.manage_processes import holder_of
from windvane.prepare_platform import is_free
from windvane.process_target import environment_of, fetch_model
from windvane.settings import Settings

_MODULE = "windvane.scoring"
_STOP_SECONDS = 10
_START_SECONDS = 60
_UNANSWERED = 3
_LONG_ENOUGH_SECONDS = 30
_LONGEST_BACKOFF_SECONDS = 30
_MAX_LOG_BYTES = 20_000_000

log = logging.getLogger(__name__)


@dataclass
class _Server:
    model: str
    port: int
    process: psutil.Process
    started: float
    answered: bool = False
    unanswered: int = 0


class Servers:
    """The scoring server processes of one installation."""

    def __init__(self, settings: Settings, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._settings = settings
        self._clock = clock
        self._running: dict[str, _Server] = {}
        self._wanted: dict[str, int] = {}
        self._deaths: dict[str, int] = {}
        self._not_before: dict[str, float] = {}
        self._said: dict[str, str] = {}

    @property
    def pids(self) -> dict[str, int]:
        """Process id of each model's server that runs."""
        return {model: server.process.pid for model, server in self._running.items()}

    def align(self, wanted: Mapping[str, int]) -> list[str]:
        """Make exactly the wanted servers run; return what was done.

        Args:
            wanted: Model to port.
        """
        self._wanted = dict(wanted)
        actions = []
        for model, server in list(self._running.items()):
            if wanted.get(model) != server.port:
                self._stop(server)
                actions.append(f"{model}: stopped the scoring server on port {server.port}, which no config asks for")
            elif not self._answers(server):
                self._stop(server)
                actions.append(f"{model}: the scoring server on port {server.port} did not answer and was stopped")
        return actions + self.check()

    def check(self) -> list[str]:
        """Start every wanted server that does not run; cheap enough for each second."""
        actions = []
        for server in list(self._running.values()):
            if not _runs(server.process):
                actions.append(self._bury(server))
        for model, port in self._wanted.items():
            if model not in self._running and self._clock() >= self._not_before.get(model, 0):
                said = self._start(model, port)
                if said and self._said.get(model) != said:
                    actions.append(said)
                self._said[model] = said
        for action in actions:
            log.info("%s", action)
        return actions

    def stop(self) -> None:
        """Stop all servers."""
        self._wanted = {}
        stopping = list(self._running.values())
        for server in stopping:
            _send(server.process.terminate)
        for server in stopping:
            self._stop(server)

    def _start(self, model: str, port: int) -> str:
        found = find_servers(self._settings, model)
        for process, at in found:
            adopted = _Server(model, at, process, started=self._clock())
            if at == port and model not in self._running and _is_scoring(adopted):
                self._running[model] = adopted
            else:
                _end(process)
        if model in self._running:
            return (
                f"{model}: the scoring server on port {port} (process {self._running[model].process.pid}) was running already and is kept"
            )
        where = f"dags/configs/{model}.yaml: deploy.port"
        neighbour = next((server.model for server in self._running.values() if server.port == port), None)
        if neighbour:
            return f"{where}: {port} is the port of the model '{neighbour}' too; give each model a port of its own"
        if not is_free(port):
            return f"{where}: port {port} is taken by {holder_of(port)}; stop it, or set deploy.port to a free port"
        process = self._spawn(model, port)
        self._running[model] = _Server(model, port, process, started=self._clock())
        return f"{model}: started a scoring server on port {port} (process {process.pid})"

    def _spawn(self, model: str, port: int) -> psutil.Process:
        output = self._settings.var / "logs" / f"scoring-{model}.log"
        output.parent.mkdir(parents=True, exist_ok=True)
        _keep_small(output)
        with output.open("ab") as file:
            return psutil.Popen(
                [sys.executable, "-m", _MODULE, "--model", model, "--port", str(port)],
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                cwd=self._settings.var,
                env=environment_of(self._settings),
            )

    def _answers(self, server: _Server) -> bool:
        if _is_scoring(server):
            server.answered, server.unanswered = True, 0
        elif server.answered or self._clock() - server.started > _START_SECONDS:
            server.unanswered += 1
        return server.unanswered < _UNANSWERED

    def _bury(self, server: _Server) -> str:
        del self._running[server.model]
        lived = self._clock() - server.started
        deaths = 0 if lived > _LONG_ENOUGH_SECONDS else self._deaths.get(server.model, 0) + 1
        self._deaths[server.model] = deaths
        pause = min(2 ** (deaths - 1), _LONGEST_BACKOFF_SECONDS) if deaths > 1 else 0
        self._not_before[server.model] = self._clock() + pause
        self._said.pop(server.model, None)
        status = server.process.poll() if isinstance(server.process, psutil.Popen) else None
        path = self._settings.var / "logs" / f"scoring-{server.model}.log"
        return f"{server.model}: the scoring server ended after {lived:.0f} s (status {status}), see {path}; it starts again in {pause} s"

    def _stop(self, server: _Server) -> None:
        _end(server.process)
        self._running.pop(server.model, None)


def find_servers(settings: Settings, model: str | None = None) -> list[tuple[psutil.Process, int]]:
    """The scoring server processes of this installation that run, with their ports."""
    found = []
    for process in psutil.process_iter():
        try:
            command = process.cmdline()
            if _MODULE not in command[1:3] or "--model" not in command or "--port" not in command:
                continue
            of, port = command[command.index("--model") + 1], command[command.index("--port") + 1]
            ours = process.environ().get("WINDVANE_VAR") == str(settings.var)
            if ours and of == (model or of) and port.isdecimal() and _runs(process):
                found.append((process, int(port)))
        except (psutil.Error, IndexError):  # it ended meanwhile, belongs to another user, or is no server
            continue
    return found


def _is_scoring(server: _Server) -> bool:
    try:
        return bool(fetch_model(f"http://127.0.0.1:{server.port}")["model"] == server.model)
    except ServiceUnavailable:
        return False


def _runs(process: psutil.Process) -> bool:
    if isinstance(process, psutil.Popen):
        return process.poll() is None
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _end(process: psutil.Process) -> None:
    _send(process.terminate)
    try:
        process.wait(_STOP_SECONDS)
    except (psutil.TimeoutExpired, subprocess.TimeoutExpired):
        _send(process.kill)
        process.wait(_STOP_SECONDS)


def _send(signal: Callable[[], None]) -> None:
    try:
        signal()
    except psutil.NoSuchProcess:
        log.debug("the process has ended already")


def _keep_small(path: Path) -> None:
    if path.is_file() and path.stat().st_size > _MAX_LOG_BYTES:
        path.replace(path.with_suffix(".log.1"))
