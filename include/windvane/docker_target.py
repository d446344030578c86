"""`target: docker`: hardened containers behind HAProxy, brought in line with the newest row of the release ledger."""

import fcntl
import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from windvane.bake_step import Counted
from windvane.config import ModelConfig
from windvane.connect_docker import docker_engine, labels_of
from windvane.endpoint_url import endpoint_url
from windvane.errors import BundleError, RolloutFailed, ServiceUnavailable, StaleEpoch
from windvane.haproxy_control import Backend, HaproxyControl, write_config
from windvane.ledger import Ledger, Release, settled_row
from windvane.process_target import fetch_model, read_rehearsal
from windvane.resolve_release import Plan
from windvane.scrape_targets import write_scrape_targets
from windvane.settings import Settings

log = logging.getLogger(__name__)

_HEALTHY_SECONDS = 90.0
# the reconciler looks again soon, and must not keep the lock from a rollback meanwhile
_ALIGN_SECONDS = 8.0
_LOCK_SECONDS = 180.0
_POLL_SECONDS = 0.2
_SURE = 5


class DockerTarget:
    """One image per version, containers from it, and one HAProxy per model that never stops listening."""

    observe_seconds = 240.0
    in_steps = True

    def __init__(self, config: ModelConfig, settings: Settings) -> None:
        self._config = config
        self._settings = settings
        self._directory = proxy_directory(settings, config.model)
        self._url = endpoint_url(config, settings)
        self._shown = f"http://127.0.0.1:{config.deploy.port}/invocations"

    def prepare(self, plan: Plan) -> dict[str, Any]:
        """Build the image of the version, and see that the port is to be had."""
        from windvane.build_image import ensure_image
        from windvane.bundle import open_bundle
        from windvane.scorer_containers import ScorerContainers

        bundle = open_bundle(self._settings.bundles, plan.digest)
        with docker_engine() as client:
            ScorerContainers(client, self._config, self._settings).check_port()
            image = ensure_image(client, self._settings, bundle, version=plan.version)
        return {"image": image, "endpoint": self._shown}

    def rehearse(self, plan: Plan, replay: Path | None = None) -> dict[str, Any]:
        """Score the golden rows, and replay rows, in a container like the one that would serve."""
        from windvane.scorer_containers import ScorerContainers

        image = str(self.prepare(plan)["image"])
        with docker_engine() as client:
            status, output, errors = ScorerContainers(client, self._config, self._settings).rehearse(plan, image, replay)
        return read_rehearsal(plan, status=status, output=output, errors=errors) | {"image": image}

    def shift(self, release: Release) -> None:
        """Bring the version in, then take the old one out of the traffic; its containers stay at hand."""
        self._bring_in_line(seconds=_LOCK_SECONDS)

    def observe(self, plan: Plan) -> dict[str, Any]:
        """Ask through HAProxy until several answers in a row come from the version."""
        began, in_a_row, problem = time.monotonic(), 0, ""
        while time.monotonic() - began < _HEALTHY_SECONDS:
            try:
                serving = fetch_model(self._url)["serving"] or {}
                in_a_row = in_a_row + 1 if (serving.get("version"), serving.get("digest")) == (plan.version, plan.digest) else 0
                problem = f"it serves version {serving.get('version')}"
            except ServiceUnavailable as exc:
                in_a_row, problem = 0, str(exc)
            if in_a_row >= _SURE * self._config.deploy.replicas:
                return {"endpoint": self._shown, "seconds": round(time.monotonic() - began, 3)}
            time.sleep(_POLL_SECONDS / 10 if in_a_row else _POLL_SECONDS)
        raise RolloutFailed(f"{plan.model} version {plan.version}: {self._url} did not serve it within {_HEALTHY_SECONDS:.0f} s: {problem}")

    def counts(self) -> dict[int, Counted]:
        """What HAProxy counted for each version since its servers were added."""
        found: dict[int, Counted] = {}
        for name, state in HaproxyControl(self._directory / "run").servers().items():
            # the names are those of ScorerContainers.names_of
            version = int(name.rsplit("-", 3)[1].removeprefix("v"))
            before = found.get(version, Counted())
            found[version] = Counted(
                before.requests + state.requests,
                before.server_errors + state.failed,
                before.refused + state.refused,
                before.down or state.status.startswith("DOWN"),
                before.waiting + state.sessions,
            )
        return found

    def promote(self, release: Release) -> None:
        """Remove the containers of the version before."""
        self._bring_in_line(seconds=_LOCK_SECONDS)

    def revert(self, release: Release) -> None:
        """Give the traffic back to the version before and remove the containers of the failed one."""
        self._bring_in_line(seconds=_LOCK_SECONDS)

    def align(self, release: Release) -> list[str]:
        """Bring containers and HAProxy in line, unless a deployment is just doing so."""
        return self._bring_in_line(seconds=0)

    def _bring_in_line(self, *, seconds: float) -> list[str]:
        with _locked(self._directory, seconds=seconds) as ours:
            if not ours:
                return []
            ledger = Ledger(self._settings.database)
            patience_seconds = _HEALTHY_SECONDS if seconds else _ALIGN_SECONDS
            try:
                while True:
                    # the newest row counts, whoever asked: a row that was overtaken must not be obeyed
                    history = ledger.standing(self._config.model)
                    if not history:
                        return []
                    try:
                        return self._apply(ledger, history, patience_seconds=patience_seconds)
                    except StaleEpoch as exc:
                        log.info("%s: %s", self._config.model, exc)
            finally:
                ledger.close()

    def _apply(self, ledger: Ledger, history: list[Release], *, patience_seconds: float) -> list[str]:
        """Make the newest row serve; the containers of what it would go back to stay, without traffic."""
        from windvane.scorer_containers import ScorerContainers

        model, settled = self._config.model, settled_row(history)
        serving = {version: share for version, share in history[-1].traffic.items() if share}
        found_digests = {version: ledger.digest_of(model, version) for version in {*serving, *(settled.traffic if settled else ())}}
        digests = {version: digest for version, digest in found_digests.items() if digest}

        def overtaken() -> bool:
            last = ledger.last(model)
            return last is not None and last.epoch != history[-1].epoch

        with docker_engine() as client:
            containers = ScorerContainers(client, self._config, self._settings)
            names = {version: containers.names_of(version, digest) for version, digest in digests.items()}
            done: list[str] = []
            backends = []
            control = HaproxyControl(self._directory / "run")
            failing = control.failing()
            for version, percent in serving.items():
                if version not in digests:
                    raise BundleError(f"release ledger: {self._config.model} version {version} has traffic but no digest")
                for name in names[version]:
                    container, actions = containers.ensure_scorer(name, version, digests[version], fails_checks=name in failing)
                    done += actions
                    backends.append(Backend(name, containers.address_of(container), percent / 100 / len(names[version])))
            write_config(self._directory / "conf", backends, closed=bool(self._settings.network))
            done += containers.ensure_proxy(self._directory)
            control.wait_until_up()
            try:
                control.bring_in(backends, seconds=patience_seconds, overtaken=overtaken)
            except RolloutFailed as exc:
                found = containers.scorers()
                words = {containers.last_words(found[backend.name]) for backend in backends if backend.name in found}
                raise RolloutFailed(f"{self._config.model}: {exc}; last words: {'; '.join(sorted(words))[:800]}") from exc
            leaving = set(control.servers()) - {backend.name for backend in backends}
            if leaving:
                control.take_out(leaving)
                done.append(f"{self._config.model}: took {', '.join(sorted(leaving))} out of the traffic")
            kept = {name for version in digests for name in names[version]}
            for name, container in containers.scorers().items():
                if name not in kept:
                    containers.remove(container)
                    done.append(f"{self._config.model}: removed the container {name}")
            scorers = {version: names[version] for version in digests}
            write_scrape_targets(self._settings, model, scorers=scorers, proxy=containers.proxy_name)
            return done


def proxy_directory(settings: Settings, model: str) -> Path:
    """Where HAProxy's configuration and socket of a model are."""
    return settings.var / "haproxy" / model


def stop_containers(settings: Settings, model: str | None = None) -> list[str]:
    """Stop and remove the containers of one model, or of all models of this installation with their network.

    Returns:
        The names of what was removed.
    """
    from docker.errors import NotFound

    wanted = labels_of(settings, **({"model": model} if model else {}))
    filters = {"label": [f"{name}={value}" for name, value in wanted.items()]}
    removed = []
    with docker_engine() as client:
        # HAProxy first: a request is better refused than lost
        found = sorted(
            client.containers.list(all=True, filters=filters), key=lambda container: container.labels.get("windvane.role") != "proxy"
        )
        for container in found:
            try:
                container.stop(timeout=10)
                container.remove(force=True)
                removed.append(str(container.name))
            except NotFound:
                log.debug("%s: is gone already", container.name)
        if model is None:
            for network in client.networks.list(filters=filters):
                network.remove()
                removed.append(str(network.name))
    return removed


@contextmanager
def _locked(directory: Path, *, seconds: float) -> Iterator[bool]:
    """Hold the lock of a model's containers; False if somebody else holds it and `seconds` is 0."""
    for folder in (directory / "conf", directory / "run"):
        folder.mkdir(parents=True, exist_ok=True)
    # HAProxy in its container is another user: it may write its socket, and nobody else comes past the directory above
    directory.parent.chmod(0o700)
    (directory / "run").chmod(0o777)
    give_up = time.monotonic() + seconds
    with (directory / "lock").open("a") as file:
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if seconds == 0:
                    yield False
                    return
                if time.monotonic() > give_up:
                    raise ServiceUnavailable(
                        f"{directory}/lock: another deployment has been changing the containers for {seconds:.0f} s"
                    ) from None
                time.sleep(_POLL_SECONDS)
        yield True
