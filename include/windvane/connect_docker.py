"""Connects to the Docker engine so that one that does not answer is named within seconds, and marks what is ours."""

import hashlib
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from windvane.errors import ServiceUnavailable
from windvane.settings import Settings

_PING_SECONDS = 10
_CALL_SECONDS = 300


@contextmanager
def docker_engine() -> Iterator[Any]:
    """A client of an engine that answered; what Docker raises inside is turned into an error that names it.

    Raises:
        ServiceUnavailable: If no engine answers within 10 seconds, or it fails.
    """
    import docker
    from docker.errors import DockerException
    from requests.exceptions import RequestException

    where = os.environ.get("DOCKER_HOST", "unix:///var/run/docker.sock")
    client = None
    try:
        _knock(where)
        client = docker.from_env(timeout=_PING_SECONDS)
        client.ping()
        client.api.timeout = _CALL_SECONDS
    except (DockerException, RequestException, OSError) as exc:
        if client is not None:
            client.close()
        raise ServiceUnavailable(
            f"Docker at {where} does not answer: {exc!s:.200}; start Docker, let this user use it (group docker), set DOCKER_HOST, "
            "or set deploy.target: process"
        ) from exc
    try:
        yield client
    except (DockerException, RequestException) as exc:
        raise ServiceUnavailable(f"Docker at {where}: {exc!s:.500}; see the engine's log and free disk space") from exc
    finally:
        client.close()


def _knock(where: str) -> None:
    """See that somebody listens on a Unix socket: the SDK would leave its own end open when nobody does."""
    if where.startswith("unix://"):
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
            probe.settimeout(_PING_SECONDS)
            probe.connect("/" + where.removeprefix("unix://").lstrip("/"))


def project_of(settings: Settings) -> str:
    """The mark of this installation on images, containers and networks: only what carries it is ever touched."""
    return hashlib.sha256(str(settings.var).encode()).hexdigest()[:10]


def labels_of(settings: Settings, **more: str) -> dict[str, str]:
    """The labels of something that belongs to this installation."""
    return {"windvane.project": project_of(settings), **{f"windvane.{name}": value for name, value in more.items()}}
