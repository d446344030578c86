"""Looks at this machine for what would keep the platform from working."""

import os
import platform
import shutil
import sys
import time
import uuid
from collections.abc import Iterator
from contextlib import closing
from dataclasses import asdict, dataclass
from email.utils import parsedate_to_datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Literal

import psutil
import requests
from packaging.requirements import Requirement

from windvane.call_local import local_session
from windvane.errors import ConfigError, StorageError
from windvane.load_config import list_configs, load_config
from windvane.object_path import ObjectPath
from windvane.prepare_platform import AIRFLOW_PORT, MLFLOW_PORT, asked_port, is_free
from windvane.record_platform import read_platform
from windvane.settings import REPOSITORY, Settings

_SHOWN = 10
_MIN_FREE_GB = 2.0
_MIN_MEMORY_GB = 3.0
_MAX_CLOCK_SKEW_SECONDS = 10.0


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at."""

    state: Literal["ok", "warning", "problem"]
    subject: str
    text: str

    def as_json(self) -> dict[str, str]:
        """The finding as JSON values."""
        return asdict(self)


def check_machine(settings: Settings) -> list[Finding]:
    """Look at Python, packages, disk, memory, object stores, ports, clock and the Docker engine; leaves nothing changed."""
    return [
        *_python(),
        *_packages(REPOSITORY / "requirements.txt"),
        *_resources(settings.var),
        *_object_stores(settings),
        *_ports(settings),
        *_services(settings),
        *_docker(settings),
    ]


def _python() -> Iterator[Finding]:
    yield Finding("ok" if sys.version_info >= (3, 11) else "problem", "python", f"{platform.python_version()}, needed is 3.11 or later")
    if os.environ.get("PYTHONDONTWRITEBYTECODE"):
        yield Finding(
            "warning", "PYTHONDONTWRITEBYTECODE", "is set: every import compiles again; `windvane up` unsets it for its processes"
        )


def _packages(lock: Path) -> Iterator[Finding]:
    different = []
    for line in lock.read_text(encoding="utf-8").splitlines() if lock.is_file() else ():
        if "==" not in line or line.startswith((" ", "#", "-")):
            continue
        pin = Requirement(line.partition(" #")[0])
        if pin.marker and not pin.marker.evaluate():
            continue  # for another platform or another Python
        try:
            found = f"is {version(pin.name)}"
        except PackageNotFoundError:
            found = "is not installed"
        wanted = next(iter(pin.specifier)).version
        if found != f"is {wanted}":
            different.append(f"{pin.name} {found}, pinned is {wanted}")
    if different:
        more = f"; and {len(different) - _SHOWN} more" if len(different) > _SHOWN else ""
        fix = "`rm -f .venv/installed-*; make up` installs the pinned ones"
        yield Finding("problem", "packages", f"{'; '.join(different[:_SHOWN])}{more}; {fix}")
    else:
        yield Finding("ok", "packages", "are as pinned in requirements.txt")


def _resources(var: Path) -> Iterator[Finding]:
    place = next(path for path in [var, *var.parents] if path.exists())
    free = shutil.disk_usage(place).free / 1e9
    yield Finding("ok" if free >= _MIN_FREE_GB else "problem", "disk", f"{free:.1f} GB free at {place}, needed are {_MIN_FREE_GB:.0f}")
    writable = os.access(place, os.W_OK)
    yield Finding("ok" if writable else "problem", "state", f"{var} {'can' if writable else 'cannot'} be written (WINDVANE_VAR)")
    memory = psutil.virtual_memory().available / 1e9
    yield Finding("ok" if memory >= _MIN_MEMORY_GB else "warning", "memory", f"{memory:.1f} GB available, wanted are {_MIN_MEMORY_GB:.0f}")


def _object_stores(settings: Settings) -> Iterator[Finding]:
    """Whether each place in an object store can be used, and refuses to create what is there: without that, writers undo each other."""
    for name in ("lake", "bundles", "reports", "staging"):
        place = str(getattr(settings, name))
        if "://" not in place:
            continue
        probe = ObjectPath.of(place) / f".windvane-probe-{uuid.uuid4().hex}"
        began = time.monotonic()
        try:
            made = [probe.create(b"first"), probe.create(b"second")]
            kept = probe.read_bytes()
            probe.unlink()
        except (StorageError, FileNotFoundError) as exc:
            yield Finding("problem", name, str(exc))
            continue
        if made == [True, False] and kept == b"first":
            milliseconds = (time.monotonic() - began) / 4 * 1000
            yield Finding("ok", name, f"{place} can be written, honours conditional writes, answers in {milliseconds:.0f} ms")
        else:
            text = f"{place} creates what is there already (If-None-Match is ignored): of two writers both would win; use another store"
            yield Finding("problem", name, text)


def _ports(settings: Settings) -> Iterator[Finding]:
    started = read_platform(settings.var)
    ours = set(started.ports.values()) if started else set()
    for name, default in (AIRFLOW_PORT, MLFLOW_PORT):
        try:
            port = asked_port(name, os.environ) or default
        except ConfigError as exc:
            yield Finding("problem", name, exc.problems[0].removeprefix(f"{name}: "))
            continue
        if port not in ours and not is_free(port):
            yield Finding("warning", name, f"port {port} is taken; `windvane up` uses the next free one unless {name} is set")


def _services(settings: Settings) -> Iterator[Finding]:
    started = read_platform(settings.var)
    if started is None:
        yield Finding("ok", "platform", "was never started here")
        return
    try:
        response = local_session().get(f"{started.airflow_url}/api/v2/version", timeout=5)
        skew = abs(parsedate_to_datetime(response.headers["Date"]).timestamp() - time.time())
        state: Literal["ok", "problem"] = "ok" if skew < _MAX_CLOCK_SKEW_SECONDS else "problem"
        yield Finding(state, "airflow", f"answers at {started.airflow_url}; its clock differs by {skew:.0f} s")
    except (requests.RequestException, KeyError, ValueError):
        yield Finding("warning", "airflow", f"does not answer at {started.airflow_url}; `make up` starts it")
    try:
        local_session().get(f"{started.mlflow_url}/health", timeout=5).raise_for_status()
        yield Finding("ok", "mlflow", f"answers at {started.mlflow_url}")
    except requests.RequestException:
        yield Finding("warning", "mlflow", f"does not answer at {started.mlflow_url}; `make up` starts it")


def _docker(settings: Settings) -> Iterator[Finding]:
    wanted = []
    for path in list_configs(settings.project):
        try:
            config = load_config(path)
        except ConfigError as exc:
            yield Finding("problem", "config", exc.problems[0])
            continue
        if config.deploy.target == "docker":
            wanted.append(config.model)
    engine = _engine_version()
    if engine:
        yield Finding("ok", "docker", f"engine {engine} answers")
    elif wanted:
        yield Finding("problem", "docker", f"no engine answers, and {', '.join(wanted)} has `deploy.target: docker`; start it")
    else:
        yield Finding("ok", "docker", "no engine answers; none is needed, no config has `deploy.target: docker`")


def _engine_version() -> str | None:
    import docker
    from docker.errors import DockerException

    try:
        with closing(docker.from_env(timeout=5)) as client:
            return str(client.version()["Version"])
    except (DockerException, requests.RequestException, OSError, KeyError):
        return None
