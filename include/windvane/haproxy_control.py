"""Drives HAProxy: a configuration file for its next start, and its runtime API for now, without a dropped connection."""

import csv
import io
import logging
import os
import socket
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from string import Template

from windvane.errors import RolloutFailed, ServiceUnavailable, StaleEpoch
from windvane.settings import REPOSITORY

log = logging.getLogger(__name__)

BACKEND = "scorers"
CONFIG_NAME, SOCKET_NAME = "haproxy.cfg", "admin.sock"
_TEMPLATE = REPOSITORY / "include" / "docker" / "haproxy" / CONFIG_NAME
_CHECK = "check inter 500ms fall 3 rise 1"
_FULL_WEIGHT = 256
# the scorers themselves ask for a key where scores and descriptions are given
_CLOSED = (
    "http-request deny deny_status 403 unless { path /invocations /ping /health /ready /openapi.json /v2/health/live /v2/health/ready } "
    "or { path_beg /v2/models/ }"
)
_ANSWER_SECONDS = 5
_POLL_SECONDS = 0.1


@dataclass(frozen=True)
class Backend:
    """One container behind HAProxy.

    Attributes:
        name: Its name in HAProxy.
        address: `ip:port` on the internal network.
        share: Its part of the traffic, 0 to 1.
    """

    name: str
    address: str
    share: float

    @property
    def weight(self) -> int:
        """The share as HAProxy counts it; whatever has a share at all keeps a weight."""
        return max(round(self.share * _FULL_WEIGHT), 1) if self.share > 0 else 0


@dataclass(frozen=True)
class ServerState:
    """What HAProxy says of one server; `failed` are its 5xx and the requests that it did not answer, `refused` its 4xx."""

    name: str
    address: str
    status: str
    check: str
    weight: int
    sessions: int
    requests: int = 0
    failed: int = 0
    refused: int = 0

    @property
    def healthy(self) -> bool:
        """Whether its last health check was passed."""
        return self.check.removeprefix("* ") in ("L7OK", "L7OKC") and not self.status.startswith(("MAINT", "DOWN"))


def write_config(directory: Path, backends: Iterable[Backend], *, closed: bool = False) -> bool:
    """Write the configuration file for HAProxy's next start; True if it changed.

    Args:
        closed: Give clients scores and health only, and not what the service says of itself to whoever asks.
    """
    lines = [f"    server {b.name} {b.address} {_CHECK} weight {b.weight}" for b in sorted(backends, key=lambda b: b.name)]
    text = Template(_TEMPLATE.read_text(encoding="utf-8")).substitute(servers="\n".join(lines), closed=_CLOSED if closed else "")
    path = directory / CONFIG_NAME
    if path.is_file() and path.read_text(encoding="utf-8") == text:
        return False
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    with temporary.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
    return True


class HaproxyControl:
    """The runtime API of one HAProxy over the Unix socket in a directory that is shared with its container."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def wait_until_up(self, *, seconds: float = 20) -> None:
        """Wait until HAProxy answers.

        Raises:
            ServiceUnavailable: If it does not in time.
        """
        give_up = time.monotonic() + seconds
        while True:
            try:
                self._ask("show version")
                return
            except ServiceUnavailable:
                if time.monotonic() > give_up:
                    raise
                time.sleep(_POLL_SECONDS)

    def servers(self) -> dict[str, ServerState]:
        """All servers of the backend by name."""
        rows = csv.DictReader(io.StringIO(self._ask(f"show stat {BACKEND} 4 -1").lstrip("# ")))
        return {
            row["svname"]: ServerState(
                name=row["svname"],
                address=row["addr"],
                status=row["status"],
                check=row["check_status"],
                weight=int(row["weight"] or 0),
                sessions=int(row["scur"] or 0),
                requests=sum(_count(row, f"hrsp_{kind}") for kind in ("1xx", "2xx", "3xx", "4xx", "5xx", "other")) + _unanswered(row),
                failed=_count(row, "hrsp_5xx") + _unanswered(row),
                refused=_count(row, "hrsp_4xx"),
            )
            for row in rows
        }

    def failing(self) -> set[str]:
        """The servers that do not answer their health checks; none if HAProxy itself does not answer."""
        try:
            return {name for name, state in self.servers().items() if state.status.startswith("DOWN")}
        except ServiceUnavailable as exc:
            log.debug("which servers fail is not known: %s", exc)
            return set()

    def bring_in(self, backends: Iterable[Backend], *, seconds: float, overtaken: Callable[[], bool] = lambda: False) -> None:
        """Add servers, wait until each passes its health check, and only then give them their weights.

        Args:
            overtaken: Whether something else should serve by now, so that there is nothing to wait for.

        Raises:
            StaleEpoch: If it was overtaken.
            RolloutFailed: If one does not become healthy in time; it has no weight then.
        """
        wanted = {backend.name: backend for backend in backends}
        known = self.servers()
        for name, backend in wanted.items():
            if name in known and known[name].address != backend.address:
                log.info("haproxy: server %s moved from %s to %s", name, known[name].address, backend.address)
                host, _, port = backend.address.rpartition(":")
                self._do(f"set server {BACKEND}/{name} addr {host} port {port}")
            if name not in known:
                self._do(f"experimental-mode on; add server {BACKEND}/{name} {backend.address} {_CHECK} weight 0")
            if name not in known or known[name].status.startswith(("MAINT", "no check")):
                self._do(f"set weight {BACKEND}/{name} 0")
                self._do(f"experimental-mode on; enable health {BACKEND}/{name}")
            if name not in known or known[name].status.startswith(("MAINT", "DRAIN")):
                self._do(f"set server {BACKEND}/{name} state ready")
        self._wait_until_healthy(set(wanted), seconds=seconds, overtaken=overtaken)
        for name, backend in wanted.items():
            self._do(f"set weight {BACKEND}/{name} {backend.weight}")

    def take_out(self, names: Iterable[str], *, seconds: float = 30) -> None:
        """Drain servers, wait until their last request is answered, and delete them."""
        leaving = set(names)
        for name in leaving:
            self._do(f"set server {BACKEND}/{name} state drain")
        give_up = time.monotonic() + seconds
        while any(state.sessions for state in self.servers().values() if state.name in leaving) and time.monotonic() < give_up:
            time.sleep(_POLL_SECONDS)
        for name in leaving:
            self._do(f"set server {BACKEND}/{name} state maint")
        for name in leaving:
            self._delete(name)

    def _wait_until_healthy(self, names: set[str], *, seconds: float, overtaken: Callable[[], bool]) -> None:
        give_up = time.monotonic() + seconds
        while True:
            states = self.servers()
            ill = {name: states[name] for name in names if not states[name].healthy}
            if not ill:
                return
            if overtaken():
                raise StaleEpoch(f"haproxy: {', '.join(sorted(ill))} should not serve any more; this attempt is superseded")
            if time.monotonic() > give_up:
                seen = ", ".join(f"{name}: {state.status} {state.check}" for name, state in ill.items())
                raise RolloutFailed(f"haproxy: not healthy within {seconds:.0f} s: {seen}; see the container's log")
            time.sleep(_POLL_SECONDS)

    def _delete(self, name: str) -> None:
        give_up = time.monotonic() + 10
        while True:
            said = self._ask(f"experimental-mode on; del server {BACKEND}/{name}").strip()
            if "deleted" in said.lower() or name not in self.servers():
                return
            if time.monotonic() > give_up:
                # in maintenance it gets no traffic; the next look tries again
                log.warning("haproxy: server %s could not be deleted: %s", name, said)
                return
            self._ask(f"shutdown sessions server {BACKEND}/{name}")
            time.sleep(_POLL_SECONDS)

    def _do(self, command: str) -> None:
        said = self._ask(command).strip()
        if said and not said.lower().startswith(
            ("new server registered", "server deleted", "ip changed", "no need to change", "port changed")
        ):
            raise ServiceUnavailable(f"haproxy: '{command}' was refused: {said[:300]}")

    def _ask(self, command: str) -> str:
        try:
            with _connect(self._directory / SOCKET_NAME) as connection:
                connection.sendall(command.encode() + b"\n")
                parts = []
                while part := connection.recv(65536):
                    parts.append(part)
        except OSError as exc:
            raise ServiceUnavailable(f"haproxy: {self._directory / SOCKET_NAME}: {exc.strerror or exc}; is its container running?") from exc
        return b"".join(parts).decode()


def _unanswered(row: dict[str, str]) -> int:
    """Requests that a server did not answer, also those that another one then answered in its place."""
    return max(_count(row, "econ") + _count(row, "eresp"), _count(row, "wretr"))


def _count(row: dict[str, str], name: str) -> int:
    return int(row.get(name) or 0)


def _connect(path: Path) -> socket.socket:
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    connection.settimeout(_ANSWER_SECONDS)
    try:
        # the path of a Unix socket has at most 107 bytes, that of an installation may have more
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            short = Path(f"/proc/self/fd/{folder}")
            connection.connect(str(short / path.name if short.exists() else path))
        finally:
            os.close(folder)
    except OSError:
        connection.close()
        raise
    return connection
