"""Runs a rehearsal as a Job: in the image and with the limits that would serve, fetching the bundle as a scorer would."""

import json
import logging
import secrets
import time
from pathlib import Path
from typing import Any

from windvane.config import ModelConfig
from windvane.errors import RehearsalFailed, ServiceUnavailable
from windvane.kubernetes_api import KubernetesApi
from windvane.kubernetes_manifests import REHEARSAL_SECONDS, rehearsal_manifest, slug
from windvane.kubernetes_place import KubernetesPlace
from windvane.object_path import ObjectPath
from windvane.process_target import read_rehearsal
from windvane.resolve_release import Plan
from windvane.scoring.fetch_bundle import UNREACHABLE

log = logging.getLogger(__name__)

_POLL_SECONDS = 1.0
_MAX_OUTPUT = 800


def rehearse_in_job(api: KubernetesApi, config: ModelConfig, place: KubernetesPlace, plan: Plan, replay: Path | None) -> dict[str, Any]:
    """Run the rehearsal of a version and return what it printed.

    Raises:
        RehearsalFailed: If the candidate misbehaved: it does not load, differs, ends, or takes too long.
        ServiceUnavailable: If it could not be run: no node has room, the image cannot be pulled, the object store does not answer.
    """
    name = f"rehearse-{slug(config.model)}-v{plan.version}-{secrets.token_hex(3)}"
    # beside the request log: the rows are requests too
    rows = ObjectPath.of(place.requests) / config.model / "rehearsals" / f"{name}.arrow" if replay else None
    try:
        if rows and replay:
            rows.upload(replay)
        manifest = rehearsal_manifest(
            config, place, name=name, version=plan.version, digest=plan.digest, replay=str(rows) if rows else None
        )
        api.apply(manifest)
        try:
            return _outcome(api, config, plan, name)
        finally:
            api.discard("Job", name)
    finally:
        if rows:
            rows.unlink(missing_ok=True)


def _outcome(api: KubernetesApi, config: ModelConfig, plan: Plan, name: str) -> dict[str, Any]:
    give_up = time.monotonic() + REHEARSAL_SECONDS + 30
    while True:
        pods = api.find("Pod", {"batch.kubernetes.io/job-name": name})
        pod = pods[-1] if pods else None
        ended = _state(pod, "rehearse").get("terminated")
        if pod and ended:
            text = api.log(pod["metadata"]["name"], "rehearse")
            errors = text
            if ended.get("reason") == "OOMKilled":
                errors += f"\nit needs more memory than deploy.limits.memory ({config.deploy.limits.memory})"
            return read_rehearsal(plan, status=int(ended["exitCode"]), output=_last_json(text), errors=errors)
        fetched = _state(pod, "fetch-bundle").get("terminated")
        if pod and fetched and fetched["exitCode"] != 0:
            said = " ".join(api.log(pod["metadata"]["name"], "fetch-bundle").split())[-_MAX_OUTPUT:]
            if fetched["exitCode"] == UNREACHABLE:
                raise ServiceUnavailable(f"{plan.model} version {plan.version}: the rehearsal got no bundle: {said}")
            raise RehearsalFailed(f"{plan.model} version {plan.version} failed its rehearsal: {said or 'its bundle could not be fetched'}")
        job = api.get("Job", name)
        if job is None or _has_failed(job) or time.monotonic() > give_up:
            if _state(pod, "rehearse").get("running"):
                raise RehearsalFailed(f"{plan.model} version {plan.version}: the rehearsal did not end within {REHEARSAL_SECONDS} s")
            raise ServiceUnavailable(f"{plan.model} version {plan.version}: the rehearsal could not be run: {_why_not(pod, job)}")
        time.sleep(_POLL_SECONDS)


def _last_json(text: str) -> str:
    """The line that the rehearsal printed; a pod's log has what it said besides, too."""
    return next((line for line in reversed(text.splitlines()) if line.startswith("{")), "")


def _state(pod: dict[str, Any] | None, container: str) -> dict[str, Any]:
    status = (pod or {}).get("status", {})
    states = [*(status.get("initContainerStatuses") or ()), *(status.get("containerStatuses") or ())]
    return next((dict(found.get("state") or {}) for found in states if found["name"] == container), {})


def _has_failed(job: dict[str, Any]) -> bool:
    found = job.get("status", {}).get("conditions") or ()
    return any(condition["type"] == "Failed" and condition["status"] == "True" for condition in found)


def _why_not(pod: dict[str, Any] | None, job: dict[str, Any] | None) -> str:
    """What keeps a pod from running, in the cluster's words."""
    words = []
    for name in ("fetch-bundle", "rehearse"):
        waiting = _state(pod, name).get("waiting") or {}
        # what waits for its init container says nothing
        if waiting.get("message"):
            words.append(f"{name}: {waiting.get('reason')}: {waiting['message']}")
    for found in (pod, job):
        for condition in (found or {}).get("status", {}).get("conditions") or ():
            if condition.get("message"):
                words.append(f"{condition.get('reason')}: {condition['message']}")
    return "; ".join(words)[:_MAX_OUTPUT] or json.dumps((job or {}).get("status", "the job is gone"))[:_MAX_OUTPUT]
