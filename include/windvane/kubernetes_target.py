"""`target: kubernetes`: Deployments behind a weighted route of the Gateway API, brought in line with the newest row of the ledger.

Several tasks may do so at once, on any hosts; no lock is needed. Who applies anything marks it with the epoch of the row that it obeys,
and changes or deletes an object only as it was found. So of two, the one with the older row is refused and looks again.
"""

import json
import logging
import time
from collections.abc import Callable, Container, Iterable
from functools import cached_property
from pathlib import Path
from typing import Any

from windvane.bake_step import Counted
from windvane.config import ModelConfig
from windvane.errors import BundleError, ConfigError, RolloutFailed, ServiceUnavailable, StaleEpoch
from windvane.kubernetes_api import KubernetesApi, connect_kubernetes
from windvane.kubernetes_counts import PodCounts
from windvane.kubernetes_manifests import (
    EPOCH_NOTE,
    PORT,
    Manifest,
    Served,
    host_of,
    labels,
    name_of,
    route_manifest,
    slug,
    version_manifests,
)
from windvane.kubernetes_place import read_place
from windvane.ledger import Ledger, Release, settled_row
from windvane.resolve_release import Plan
from windvane.settings import Settings

log = logging.getLogger(__name__)

# a node may have to be added first, and an image pulled
_READY_SECONDS = 240.0
# the reconciler looks again soon
_ALIGN_SECONDS = 8.0
_ROUTE_SECONDS = 60.0
_POLL_SECONDS = 1.0
_ASK_SECONDS = 3.0
_SURE = 3
_ATTEMPTS = 20
_PATIENCE_SECONDS = 20.0
_OF_A_VERSION = ("Deployment", "Service", "PodDisruptionBudget")


class KubernetesTarget:
    """Per version a Deployment and a Service, per model a route whose weights are the ledger's traffic."""

    observe_seconds = _READY_SECONDS + 2 * _ROUTE_SECONDS
    in_steps = True

    def __init__(self, config: ModelConfig, settings: Settings) -> None:
        self._config = config
        self._settings = settings
        self._place = read_place()
        self._counts = PodCounts(config.model)

    @cached_property
    def _api(self) -> KubernetesApi:
        return connect_kubernetes(self._place.namespace)

    @property
    def _endpoint(self) -> str:
        return f"https://{host_of(self._config.model, self._place.domain)}/invocations"

    def prepare(self, plan: Plan) -> dict[str, Any]:
        """See that the cluster would take everything: a dry run finds missing rights, kinds and namespaces before any row is written."""
        for manifest in version_manifests(self._config, self._place, Served(plan.version, plan.digest, plan.epoch)):
            self._api.apply(manifest, dry_run=True)
        self._api.apply(route_manifest(self._config, self._place, {plan.version: 100}, epoch=plan.epoch), dry_run=True)
        return {"image": self._place.image, "endpoint": self._endpoint}

    def rehearse(self, plan: Plan, replay: Path | None = None) -> dict[str, Any]:
        """Score the golden rows, and replay rows, in a job with the image and the limits that would serve."""
        from windvane.kubernetes_rehearsal import rehearse_in_job

        return rehearse_in_job(self._api, self._config, self._place, plan, replay) | {"image": self._place.image}

    def shift(self, release: Release) -> None:
        """Bring the version in, and give it its weight once it is ready and says that it is what it should be."""
        self._bring_in_line(seconds=_READY_SECONDS)

    def observe(self, plan: Plan) -> dict[str, Any]:
        """Wait until the gateway has taken the route over, and the version's service answers as the version."""
        began = time.monotonic()
        self._wait_for_route(seconds=_ROUTE_SECONDS)
        for _ in range(_SURE * self._config.deploy.replicas):
            self._check_answer(plan.version, plan.digest, seconds=_ROUTE_SECONDS)
        return {"endpoint": self._endpoint, "seconds": round(time.monotonic() - began, 3)}

    def counts(self) -> dict[int, Counted]:
        """What the pods of each version counted, summed up."""
        give_up = time.monotonic() + _PATIENCE_SECONDS
        while True:
            try:
                pods = self._api.find("Pod", labels(self._config.model, "scorer"))
                return self._counts.update(pods, self._scrape)
            except ServiceUnavailable as exc:
                # an API server that restarts says nothing about the version
                if time.monotonic() > give_up:
                    raise
                log.warning("%s: the pods could not be asked, trying again: %s", self._config.model, exc)
                time.sleep(_POLL_SECONDS)

    def promote(self, release: Release) -> None:
        """Delete what served before."""
        self._bring_in_line(seconds=_READY_SECONDS)

    def revert(self, release: Release) -> None:
        """Give the traffic back to the version before and delete the failed one."""
        self._bring_in_line(seconds=_READY_SECONDS)

    def align(self, release: Release) -> list[str]:
        """Bring everything in line with the newest row; what must start first is waited for at the next look."""
        try:
            done = self._bring_in_line(seconds=_ALIGN_SECONDS)
            if not done:
                self._see_serving()
            return done
        except RolloutFailed as exc:
            if release.until is None:
                raise
            # the deployment itself waits for it, and past `until` the row is reverted
            log.info("%s: %s", self._config.model, exc)
            return []

    def _bring_in_line(self, *, seconds: float) -> list[str]:
        ledger = Ledger(self._settings.database)
        said = ""
        try:
            for _ in range(_ATTEMPTS):
                # the newest row counts, whoever asked: a row that was overtaken must not be obeyed
                history = ledger.standing(self._config.model)
                if not history:
                    return []
                try:
                    done = self._apply(ledger, history, seconds=seconds)
                    self._see_newest(ledger, history[-1])
                    return done
                except StaleEpoch as exc:
                    said = str(exc)
                    log.info("%s: looking again: %s", self._config.model, said)
                    time.sleep(_POLL_SECONDS / 5)
            raise ServiceUnavailable(
                f"{self._config.model}: {_ATTEMPTS} attempts to bring {self._place.namespace} in line were overtaken: {said}; "
                "does another installation release there? See docs/kubernetes.md"
            )
        finally:
            ledger.close()

    def _apply(self, ledger: Ledger, history: list[Release], *, seconds: float) -> list[str]:
        """Make the newest row serve; what it would go back to stays, without traffic."""
        model, row, settled = self._config.model, history[-1], settled_row(history)
        traffic = {version: percent for version, percent in row.traffic.items() if percent}
        digests = {version: ledger.digest_of(model, version) for version in {*traffic, *(settled.traffic if settled else ())}}
        for version in traffic:
            if not digests[version]:
                raise BundleError(f"release ledger: {model} version {version} has traffic but no digest")
        found = {kind: self._api.find(kind, labels(model, "scorer")) for kind in _OF_A_VERSION}
        route = self._api.get("HTTPRoute", slug(model))
        self._see_epoch(route, row)
        done, kept = [], set()
        for version, digest in sorted(digests.items()):
            if digest:
                for manifest in version_manifests(self._config, self._place, Served(version, digest, row.epoch)):
                    kept.add((manifest["kind"], manifest["metadata"]["name"]))
                    done += self._ensure(manifest, found[manifest["kind"]])
        wanted = route_manifest(self._config, self._place, traffic, epoch=row.epoch)
        if _weights(route) != _weights(wanted):
            weighted = _weights(route) or {}
            # nobody is sent to what cannot answer, or is something else than the ledger says. What serves already, or is gone back to, was
            # asked when it came: a missing pod of it must not keep the traffic where it is worse
            coming = {v: str(digests[v]) for v in traffic if row.action != "revert" and name_of(model, v) not in weighted}
            self._wait_until_ready(traffic, entirely=coming, seconds=seconds, look=lambda: self._see_newest(ledger, row))
            for version, digest in sorted(coming.items()):
                self._check_answer(version, digest, seconds=min(seconds, _ROUTE_SECONDS))
        made = self._api.apply(wanted, version=route["metadata"]["resourceVersion"] if route else None)
        if _changed(made, route):
            shares = ", ".join(f"version {version} {percent} %" for version, percent in sorted(traffic.items())) or "nobody"
            done.append(f"{model}: the route gives the traffic to {shares}")
        return done + self._remove(ledger, row, kept)

    def _ensure(self, manifest: Manifest, found: list[Manifest]) -> list[str]:
        name = manifest["metadata"]["name"]
        before = next((item for item in found if item["metadata"]["name"] == name), None)
        if not _changed(self._api.apply(manifest), before):
            return []
        return [f"{self._config.model}: {'changed' if before else 'made'} the {manifest['kind']} {name}"]

    def _remove(self, ledger: Ledger, row: Release, kept: set[tuple[str, str]]) -> list[str]:
        """Delete what the row does not want, each as it was when the row still was the newest."""
        leaving = [
            item
            for kind in _OF_A_VERSION
            for item in self._api.find(kind, labels(self._config.model, "scorer"))
            if (kind, item["metadata"]["name"]) not in kept
        ]
        self._see_newest(ledger, row)
        done = []
        for item in leaving:
            if self._api.delete(item):
                done.append(f"{self._config.model}: deleted the {item['kind']} {item['metadata']['name']}")
        return done

    def _see_serving(self) -> None:
        """See that each version with traffic has a pod that answers; the newest row counts, which may be another by now."""
        ledger = Ledger(self._settings.database)
        try:
            last = ledger.last(self._config.model)
        finally:
            ledger.close()
        self._wait_until_ready([version for version, percent in last.traffic.items() if percent] if last else [], seconds=_ALIGN_SECONDS)

    def _see_newest(self, ledger: Ledger, row: Release) -> None:
        last = ledger.last(self._config.model)
        if last is not None and last.epoch != row.epoch:
            raise StaleEpoch(f"release ledger: {self._config.model}: epoch {row.epoch} was overtaken by epoch {last.epoch}")

    def _see_epoch(self, route: Manifest | None, row: Release) -> None:
        marked = (route or {}).get("metadata", {}).get("annotations", {}).get(EPOCH_NOTE, "0")
        if marked.isdecimal() and int(marked) > row.epoch:
            raise StaleEpoch(f"the HTTPRoute {slug(self._config.model)} obeys epoch {marked}, the ledger's newest was epoch {row.epoch}")

    def _wait_until_ready(
        self, versions: Iterable[int], *, seconds: float, entirely: Container[int] = (), look: Callable[[], None] = lambda: None
    ) -> None:
        """Wait until versions are ready.

        Args:
            entirely: Those of which all pods must be there; of the others one.
            look: Called again and again; it may raise.

        Raises:
            RolloutFailed: If they are not in time.
        """
        give_up = time.monotonic() + seconds
        while problems := [found for version in sorted(versions) if (found := self._not_ready(version, entirely=version in entirely))]:
            look()
            if time.monotonic() > give_up:
                raise RolloutFailed(f"{self._config.model}: not ready within {seconds:.0f} s: {'; '.join(problems)[:1200]}")
            time.sleep(min(_POLL_SECONDS, seconds / 4))

    def _not_ready(self, version: int, *, entirely: bool) -> str | None:
        """What a version's Deployment lacks; None if nothing."""
        name = name_of(self._config.model, version)
        made = self._api.get("Deployment", name)
        if made is None:
            return f"the Deployment {name} is gone"
        wanted, status = made["spec"]["replicas"], made.get("status", {})
        seen = status.get("observedGeneration", 0) >= made["metadata"]["generation"]
        counted = [status.get(key, 0) for key in ("replicas", "updatedReplicas", "availableReplicas")]
        if (seen and counted == [wanted] * 3) or (counted[2] > 0 and not entirely):
            return None
        return f"{name}: {counted[2]} of {wanted} pods are available{self._last_words(version, status)}"

    def _last_words(self, version: int, status: Manifest) -> str:
        words = [
            f"{condition.get('reason')}: {condition.get('message')}"
            for condition in status.get("conditions") or ()
            if condition["type"] == "ReplicaFailure" and condition["status"] == "True"
        ]
        for pod in self._api.find("Pod", labels(self._config.model, "scorer", version=version)):
            states = pod.get("status", {})
            for container in [*(states.get("initContainerStatuses") or ()), *(states.get("containerStatuses") or ())]:
                for state in ((container.get("state") or {}).get("waiting"), (container.get("lastState") or {}).get("terminated")):
                    if state and state.get("reason") not in ("PodInitializing", "ContainerCreating", "Completed"):
                        words.append(f"{container['name']}: {state.get('reason')} {state.get('message', '')}".strip())
            words += [str(found["message"]) for found in states.get("conditions") or () if found.get("reason") == "Unschedulable"]
        return f" ({'; '.join(dict.fromkeys(words))[:800]})" if words else ""

    def _check_answer(self, version: int, digest: str, *, seconds: float) -> None:
        """Ask the version's service what it is.

        Raises:
            RolloutFailed: If it does not answer in time, or serves something else.
        """
        name, give_up = name_of(self._config.model, version), time.monotonic() + seconds
        while True:
            try:
                said = json.loads(self._api.fetch("Service", name, "http", "/model", seconds=_ASK_SECONDS))["serving"] or {}
                break
            except (ServiceUnavailable, ValueError, KeyError, TypeError) as exc:
                if time.monotonic() > give_up:
                    raise RolloutFailed(
                        f"{self._config.model} version {version}: its pods are ready, and {name} does not answer through the API server: "
                        f"{exc!s:.300}; does a NetworkPolicy let the API server in? See docs/kubernetes.md"
                    ) from exc
                time.sleep(min(_POLL_SECONDS, seconds / 4))
        if (said.get("version"), said.get("digest")) != (version, digest):
            raise RolloutFailed(
                f"{self._config.model} version {version}: {name} serves version {said.get('version')} with the digest "
                f"{str(said.get('digest'))[:12]}, allowed is {digest[:12]}"
            )

    def _wait_for_route(self, *, seconds: float) -> None:
        """Wait until a gateway accepted the present route and found its services.

        Raises:
            RolloutFailed: If none does in time.
        """
        give_up = time.monotonic() + seconds
        while (problem := _route_problem(self._api.get("HTTPRoute", slug(self._config.model)))) and time.monotonic() < give_up:
            time.sleep(_POLL_SECONDS)
        if problem:
            raise RolloutFailed(f"{self._config.model}: the gateway did not take the route within {seconds:.0f} s: {problem}")

    def _scrape(self, pod: str) -> str | None:
        try:
            return self._api.fetch("Pod", pod, PORT, "/metrics", seconds=_ASK_SECONDS).decode(errors="replace")
        except ServiceUnavailable as exc:
            log.debug("%s: %s", pod, exc)
            return None


def wanted_manifests(config: ModelConfig, settings: Settings, *, version: int | None = None) -> list[Manifest]:
    """What the newest row of the ledger wants to be there; of a version, what would be if it had all traffic.

    Raises:
        ConfigError: If the ledger has no such version, or none at all.
    """
    place, ledger = read_place(), Ledger(settings.database)
    try:
        last = ledger.last(config.model)
        if last is None:
            raise ConfigError([f"release ledger: {config.model} has no row yet; deploy a version first"])
        traffic = dict(last.traffic) if version is None else {version: 100}
        digests = {wanted: ledger.digest_of(config.model, wanted) for wanted in sorted(traffic)}
    finally:
        ledger.close()
    made = []
    for wanted, digest in digests.items():
        if not digest:
            raise ConfigError([f"release ledger: {config.model} has no version {wanted}; see `windvane ledger {config.model}`"])
        made += version_manifests(config, place, Served(wanted, digest, last.epoch))
    return [*made, route_manifest(config, place, traffic, epoch=last.epoch)]


def _weights(route: Manifest | None) -> dict[str, int] | None:
    """By service, the weights of a route as it is; None if there is none, or somebody made another of it."""
    if route is None or len(route["spec"].get("rules") or ()) != 1:
        return None
    return {backend["name"]: backend.get("weight", 1) for backend in route["spec"]["rules"][0].get("backendRefs") or ()}


def _changed(made: Manifest, before: Manifest | None) -> bool:
    """Whether what was applied says something else than before; the mark of the epoch alone does not count."""
    return before is None or made.get("spec") != before.get("spec")


def _route_problem(route: Manifest | None) -> str | None:
    if route is None:
        return "it is gone"
    parents = route.get("status", {}).get("parents") or ()
    if not parents:
        return "no gateway says anything about it; is the Gateway there, and its controller running?"
    for condition in (condition for parent in parents for condition in parent.get("conditions") or ()):
        stale = condition.get("observedGeneration", 0) < route["metadata"]["generation"]
        if condition["type"] in ("Accepted", "ResolvedRefs") and (stale or condition["status"] != "True"):
            return f"{condition['type']}: {condition.get('reason')}: {condition.get('message', '')}"[:400]
    return None
