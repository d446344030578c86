"""The containers of one model: hardened scorers on a network without a way out, and HAProxy, published on 127.0.0.1 only."""

import hashlib
import json
import logging
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from windvane.build_image import ensure_image
from windvane.bundle import open_bundle
from windvane.config import ModelConfig
from windvane.connect_docker import labels_of, project_of
from windvane.endpoint_url import endpoint_name
from windvane.errors import RehearsalFailed, RolloutFailed, ServiceUnavailable
from windvane.manage_keys import keys_path
from windvane.resolve_release import Plan
from windvane.settings import REPOSITORY, Settings

log = logging.getLogger(__name__)

PROXY_IMAGE = "haproxy:3.2-alpine"
PORT = 8080
_USER = "10001:10001"
_REHEARSAL_SECONDS = 120
_STOP_SECONDS = 15
_STOP_ILL_SECONDS = 3
_START_SECONDS = 30
_SECOND = 1_000_000_000
_REPLAY = "/replay.arrow"
_PROBE = f"import urllib.request as r; r.urlopen('http://127.0.0.1:{PORT}/ready', timeout=3)"


class ScorerContainers:
    """Creates, finds and removes the containers of one model of this installation, and touches no others."""

    def __init__(self, client: Any, config: ModelConfig, settings: Settings) -> None:
        self._client = client
        self._config = config
        self._settings = settings
        self._prefix = f"windvane-{project_of(settings)}"

    def names_of(self, version: int, digest: str) -> list[str]:
        """The names of the containers that serve a version under the config's limits, one per replica."""
        made_from = [digest, self._config.deploy.limits.model_dump(mode="json")]
        spec = hashlib.sha256(json.dumps(made_from).encode()).hexdigest()[:6]
        return [f"{self._prefix}-{self._config.model}-v{version}-{spec}-{n}" for n in range(self._config.deploy.replicas)]

    def scorers(self) -> dict[str, Any]:
        """All scorer containers of the model by name, in any state."""
        return {container.name: container for container in self._list("scorer")}

    def ensure_scorer(self, name: str, version: int, digest: str, *, fails_checks: bool = False) -> tuple[Any, list[str]]:
        """Return the running container of that name, made and started as needed, and what was done.

        Args:
            fails_checks: Whether HAProxy gets no answer from it; then it is replaced, unless it has only just begun.
        """
        found, why, done = self.scorers().get(name), "", []
        if found is not None and found.status == "paused":
            found.unpause()
            self._again(found)
            done = [f"{self._config.model}: the container {name} was paused and goes on"]
        if found is not None and found.status == "running":
            if done or not _is_ill(found, fails_checks=fails_checks):
                return found, done
            why = ", in place of one that did not answer"
            found.stop(timeout=_STOP_ILL_SECONDS)
        if found is not None:
            found.remove(force=True)
        image = ensure_image(self._client, self._settings, open_bundle(self._settings.bundles, digest), version=version)
        made = self._client.containers.create(
            image,
            ["windvane.scoring", "--bundle", digest, "--version", str(version), "--host", "0.0.0.0", "--port", str(PORT)],
            name=name,
            labels=self._labels("scorer", version=str(version), digest=digest),
            network=self._network().name,
            environment={"WINDVANE_KEYS": "required"} if self._settings.network else {},
            volumes={
                str(self._request_directory()): {"bind": f"/var/windvane/requests/{self._config.model}", "mode": "rw"},
                str(self._key_directory()): {"bind": f"/var/windvane/keys/{self._config.model}", "mode": "ro"},
            },
            restart_policy={"Name": "unless-stopped"},
            healthcheck={
                "test": ["CMD", "python", "-c", _PROBE],
                "interval": 10 * _SECOND,
                "timeout": 5 * _SECOND,
                "retries": 3,
                "start_period": 60 * _SECOND,
            },
            **self._hardening(),
        )
        self._join_platform(made)
        made.start()
        return self._again(made), [f"{self._config.model}: started the container {name}{why}"]

    def address_of(self, container: Any) -> str:
        """`ip:port` of a container on the internal network.

        Raises:
            RolloutFailed: If it ended at once.
        """
        networks = container.attrs["NetworkSettings"]["Networks"]
        address = networks.get(self._network_name(), {}).get("IPAddress")
        if not address:
            raise RolloutFailed(f"container {container.name} ended: {self.last_words(container)}")
        return f"{address}:{PORT}"

    @property
    def proxy_name(self) -> str:
        """The name of the model's HAProxy."""
        return f"{self._prefix}-{self._config.model}-proxy"

    def ensure_proxy(self, directory: Path) -> list[str]:
        """Run HAProxy with the configuration in `directory/conf` and its socket in `directory/run`; return what was done.

        Raises:
            ServiceUnavailable: If the port is taken or the image cannot be had.
        """
        port, name = self._config.deploy.port, self.proxy_name
        template = (REPOSITORY / "include" / "docker" / "haproxy" / "haproxy.cfg").read_bytes()
        spec = hashlib.sha256(json.dumps([port, PROXY_IMAGE, str(directory), self._settings.network]).encode() + template).hexdigest()[:12]
        for found in self._list("proxy"):
            if found.labels.get("windvane.spec") == spec and found.status in ("running", "paused"):
                if found.status == "running":
                    return []
                found.unpause()
                return [f"{self._config.model}: HAProxy was paused and goes on ({name})"]
            found.remove(force=True)
        self._ensure_proxy_image()
        proxy = self._client.containers.create(
            PROXY_IMAGE,
            ["-W", "-db", "-f", "/etc/windvane/haproxy.cfg"],
            entrypoint=["haproxy"],
            name=name,
            labels=self._labels("proxy", spec=spec),
            ports={f"{PORT}/tcp": ("127.0.0.1", port)},
            volumes={
                str(directory / "conf"): {"bind": "/etc/windvane", "mode": "ro"},
                str(directory / "run"): {"bind": "/run/windvane", "mode": "rw"},
            },
            restart_policy={"Name": "unless-stopped"},
            stop_signal="SIGTERM",
            **(self._hardening() | {"mem_limit": "256m", "memswap_limit": "256m"}),
        )
        self._network().connect(proxy)
        self._join_platform(proxy, aliases=[endpoint_name(self._config.model)])
        self._start_published(proxy)
        return [f"{self._config.model}: started HAProxy on port {port} ({name})"]

    def rehearse(self, plan: Plan, image: str, replay: Path | None = None) -> tuple[int, str, str]:
        """Run the rehearsal in a container like the one that would serve, without a network; status, output and log.

        Args:
            replay: File with rows to replay.

        Raises:
            RehearsalFailed: If it does not end in time.
        """
        from requests.exceptions import RequestException

        made = self._client.containers.create(
            image,
            ["windvane.scoring.rehearse", "--bundle", plan.digest, *(["--replay", _REPLAY] if replay else [])],
            volumes={str(replay): {"bind": _REPLAY, "mode": "ro"}} if replay else {},
            labels=self._labels("rehearsal", version=str(plan.version), digest=plan.digest),
            network_mode="none",
            **self._hardening(),
        )
        try:
            made.start()
            try:
                status = int(made.wait(timeout=_REHEARSAL_SECONDS)["StatusCode"])
            except RequestException as exc:
                raise RehearsalFailed(
                    f"{plan.model} version {plan.version}: the rehearsal did not end within {_REHEARSAL_SECONDS} s"
                ) from exc
            made.reload()
            errors = made.logs(stdout=False, stderr=True).decode(errors="replace")
            if made.attrs["State"].get("OOMKilled"):
                errors += f"\nit needs more memory than deploy.limits.memory ({self._config.deploy.limits.memory})"
            return status, made.logs(stdout=True, stderr=False).decode(errors="replace"), errors
        finally:
            made.remove(force=True)

    def last_words(self, container: Any) -> str:
        """The end of a container's log, for messages."""
        words = container.logs(tail=3).decode(errors="replace").strip()
        return " ".join(words.splitlines())[-500:] or "its log is empty"

    def remove(self, container: Any) -> None:
        """Stop a container, which lets it finish and write its request log, and remove it."""
        from docker.errors import NotFound

        try:
            if container.status == "paused":
                container.unpause()
            container.stop(timeout=_STOP_SECONDS)
            container.remove(force=True)
        except NotFound:
            log.debug("%s: is gone already", container.name)

    def check_port(self) -> None:
        """See that the port is free or ours.

        Raises:
            ServiceUnavailable: If something else listens there.
        """
        from windvane.manage_processes import holder_of
        from windvane.prepare_platform import is_free

        port = self._config.deploy.port
        if not is_free(port) and not any(proxy.status == "running" for proxy in self._list("proxy")):
            raise ServiceUnavailable(self._taken(holder_of(port)))

    def _start_published(self, proxy: Any) -> None:
        from docker.errors import APIError

        try:
            proxy.start()
        except APIError as exc:
            # a port that is taken leaves a container that never ran
            proxy.remove(force=True)
            text = str(exc.explanation or exc)
            if "port is already allocated" in text or "address already in use" in text:
                raise ServiceUnavailable(self._taken("another program")) from exc
            raise

    def _taken(self, holder: str) -> str:
        model, port = self._config.model, self._config.deploy.port
        return f"dags/configs/{model}.yaml: deploy.port: port {port} is taken by {holder}; stop it, or set deploy.port to a free port"

    def _ensure_proxy_image(self) -> None:
        from docker.errors import DockerException, ImageNotFound

        try:
            self._client.images.get(PROXY_IMAGE)
        except ImageNotFound:
            log.info("pulling %s", PROXY_IMAGE)
            try:
                self._client.images.pull(PROXY_IMAGE)
            except DockerException as exc:
                raise ServiceUnavailable(f"Docker image {PROXY_IMAGE} cannot be pulled: {exc!s:.300}; check the registry") from exc

    def _list(self, role: str) -> list[Any]:
        wanted = self._labels(role)
        return list(self._client.containers.list(all=True, filters={"label": [f"{k}={v}" for k, v in wanted.items()]}))

    def _labels(self, role: str, **more: str) -> Mapping[str, str]:
        return labels_of(self._settings, model=self._config.model, role=role, **more)

    def _join_platform(self, container: Any, **options: Any) -> None:
        """Let the platform reach a container, where it runs in containers itself: Prometheus asks each one."""
        if self._settings.network:
            self._client.networks.get(self._settings.network).connect(container, **options)

    def _network_name(self) -> str:
        return f"{self._prefix}-internal"

    def _network(self) -> Any:
        from docker.errors import NotFound

        try:
            return self._client.networks.get(self._network_name())
        except NotFound:
            # internal: a scorer reaches nothing outside, and nothing outside reaches it
            return self._client.networks.create(self._network_name(), driver="bridge", internal=True, labels=labels_of(self._settings))

    def _request_directory(self) -> Path:
        directory = self._settings.requests / self._config.model
        directory.mkdir(parents=True, exist_ok=True)
        # the container's user is not this one: it may write here, and nobody else comes past the directory above
        self._settings.requests.chmod(0o700)
        directory.chmod(0o777)
        return directory

    def _key_directory(self) -> Path:
        """Where the hashes of the API keys are; a key that is added or removed later is seen by a running container."""
        directory = keys_path(self._settings, self._config.model).parent
        directory.mkdir(parents=True, exist_ok=True)
        # the container's user is not this one: it may read here, and nobody else comes past the directory above
        directory.parent.chmod(0o700)
        directory.chmod(0o755)
        return directory

    def _hardening(self) -> dict[str, Any]:
        from docker.types import LogConfig

        limits = self._config.deploy.limits
        return {
            "user": _USER,
            "read_only": True,
            "cap_drop": ["ALL"],
            "security_opt": ["no-new-privileges"],
            "tmpfs": {"/tmp": "rw,noexec,nosuid,nodev,size=64m"},
            "mem_limit": limits.memory,
            "memswap_limit": limits.memory,
            "nano_cpus": int(limits.cpus * _SECOND),
            "pids_limit": 256,
            "init": True,
            "log_config": LogConfig(type="json-file", config={"max-size": "10m", "max-file": "3"}),
        }

    def _again(self, container: Any) -> Any:
        container.reload()
        return container


def _is_ill(container: Any, *, fails_checks: bool) -> bool:
    """Whether a running container must be replaced: one that has only just begun may take its time."""
    state = container.attrs["State"]
    health = state.get("Health", {}).get("Status")
    # the engine writes nanoseconds, which are more digits than Python reads
    started = datetime.strptime(state["StartedAt"][:19], "%Y-%m-%dT%H:%M:%S").replace(tzinfo=UTC)
    age_seconds = (datetime.now(UTC) - started).total_seconds()
    return health == "unhealthy" or (fails_checks and (health == "healthy" or age_seconds > _START_SECONDS))
