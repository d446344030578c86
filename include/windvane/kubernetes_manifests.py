"""What a model is made of in Kubernetes, as plain dicts: per version a Deployment, a Service and a disruption budget, per model a route.

Nothing here talks to a cluster. The same input gives the same manifests.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from windvane.config import ModelConfig
from windvane.kubernetes_place import KubernetesPlace

Manifest = dict[str, Any]

PORT = 8080
GATEWAY = "models"
ACCOUNT = "windvane-scorer"
STORAGE_SECRET = "windvane-storage"
MODEL_LABEL, VERSION_LABEL, ROLE_LABEL = "windvane/model", "windvane/version", "app.kubernetes.io/component"
EPOCH_NOTE, DIGEST_NOTE = "windvane/epoch", "windvane/digest"
REHEARSAL_SECONDS = 240

_USER = 10001
_MOST_CHARACTERS = 36
_STOP_SECONDS = 60
_REPLAY = "/replay/rows.arrow"
_BINARY = {"k": "Ki", "m": "Mi", "g": "Gi"}
# what clients may ask for; /metrics stays inside
_PATHS = (
    ("Exact", "/invocations"),
    ("PathPrefix", "/v2"),
    *(("Exact", path) for path in ("/model", "/ready", "/health", "/ping", "/version", "/openapi.json")),
)


@dataclass(frozen=True)
class Served:
    """One version as a row of the ledger wants it to serve.

    Attributes:
        epoch: The row's epoch: whoever obeys an older row sees that it was overtaken.
    """

    version: int
    digest: str
    epoch: int


def version_manifests(config: ModelConfig, place: KubernetesPlace, served: Served) -> list[Manifest]:
    """What serves one version."""
    made = [_deployment(config, place, served), _service(config, place, served)]
    return [*made, _disruption_budget(config, place, served)] if config.deploy.replicas > 1 else made


def route_manifest(config: ModelConfig, place: KubernetesPlace, traffic: Mapping[int, int], *, epoch: int) -> Manifest:
    """The route of the model, whose weights are the traffic of a row; without traffic the gateway answers 5xx."""
    backends = [
        {"group": "", "kind": "Service", "name": name_of(config.model, version), "port": PORT, "weight": percent}
        for version, percent in sorted(traffic.items())
        if percent
    ]
    matches = [{"path": {"type": kind, "value": path}} for kind, path in _PATHS]
    return {
        "apiVersion": "gateway.networking.k8s.io/v1",
        "kind": "HTTPRoute",
        "metadata": _metadata(place, slug(config.model), labels(config.model, "route"), notes={EPOCH_NOTE: str(epoch)}),
        "spec": {
            "parentRefs": [{"group": "gateway.networking.k8s.io", "kind": "Gateway", "name": GATEWAY}],
            "hostnames": [host_of(config.model, place.domain)],
            "rules": [{"matches": matches, "backendRefs": backends}],
        },
    }


def rehearsal_manifest(
    config: ModelConfig, place: KubernetesPlace, *, name: str, version: int, digest: str, replay: str | None
) -> Manifest:
    """A job that rehearses a version in the container that would serve it.

    Args:
        replay: URI of the rows to replay.
    """
    fetch = ["--replay", replay, "--replay-to", _REPLAY] if replay else []
    rehearse = ["--replay", _REPLAY] if replay else []
    marks = {**labels(config.model, "rehearsal", version=version), DIGEST_NOTE: digest[:16]}
    pod = _pod(place, digest, stop_seconds=5)
    fetcher = pod["initContainers"][0]
    fetcher["args"] += fetch
    fetcher["volumeMounts"].append(_mount("replay", "/replay"))
    pod["volumes"].append({"name": "replay", "emptyDir": {"sizeLimit": "1Gi"}})
    pod |= {
        "restartPolicy": "Never",
        "containers": [
            {
                "name": "rehearse",
                "image": place.image,
                "args": ["windvane.scoring.rehearse", "--bundle", digest, *rehearse],
                "resources": _limits(config),
                "securityContext": _locked_down(),
                "volumeMounts": [
                    _mount("bundles", "/bundles", read_only=True),
                    _mount("replay", "/replay", read_only=True),
                    _mount("tmp", "/tmp"),
                ],
            }
        ],
    }
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": _metadata(place, name, marks, notes={DIGEST_NOTE: digest}),
        "spec": {
            "backoffLimit": 0,
            "activeDeadlineSeconds": REHEARSAL_SECONDS,
            # whoever waits for it removes it; this is for who was killed meanwhile
            "ttlSecondsAfterFinished": 600,
            "template": {"metadata": {"labels": marks}, "spec": pod},
        },
    }


def name_of(model: str, version: int) -> str:
    """The name of what serves a version."""
    return f"{slug(model)}-v{version}"


def slug(model: str) -> str:
    """The model's name as Kubernetes allows it, short enough for what is added to it."""
    name = model.replace("_", "-")
    if len(name) <= _MOST_CHARACTERS:
        return name
    return f"{name[: _MOST_CHARACTERS - 9].rstrip('-')}-{hashlib.sha256(model.encode()).hexdigest()[:8]}"


def host_of(model: str, domain: str) -> str:
    """The host name at which the gateway answers for a model."""
    return f"{slug(model)}.{domain}"


def labels(model: str, role: str, *, version: int | None = None) -> dict[str, str]:
    """The labels by which what belongs to a model is found."""
    found = {"app.kubernetes.io/name": "windvane", "app.kubernetes.io/managed-by": "windvane", ROLE_LABEL: role, MODEL_LABEL: model}
    return found if version is None else {**found, VERSION_LABEL: str(version)}


def _deployment(config: ModelConfig, place: KubernetesPlace, served: Served) -> Manifest:
    selector = _selector(config.model, served.version)
    marks = labels(config.model, "scorer", version=served.version)
    scraped = {"prometheus.io/scrape": "true", "prometheus.io/port": str(PORT), "prometheus.io/path": "/metrics"}
    pod = _pod(place, served.digest, stop_seconds=_STOP_SECONDS)
    pod["initContainers"].append(_shipper(config, place))
    pod["volumes"] += [
        {"name": "requests", "emptyDir": {"sizeLimit": "4Gi"}},
        {"name": "keys", "secret": {"secretName": f"{slug(config.model)}-keys", "optional": True, "defaultMode": 0o440}},
    ]
    pod |= {
        "containers": [_scorer(config, place, served)],
        "topologySpreadConstraints": [
            {"maxSkew": 1, "topologyKey": key, "whenUnsatisfiable": "ScheduleAnyway", "labelSelector": {"matchLabels": selector}}
            for key in ("topology.kubernetes.io/zone", "kubernetes.io/hostname")
        ],
    }
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": _named(config, place, served),
        "spec": {
            "replicas": config.deploy.replicas,
            "revisionHistoryLimit": 1,
            "progressDeadlineSeconds": 300,
            "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}},
            "selector": {"matchLabels": selector},
            "template": {
                "metadata": {
                    "labels": {**marks, DIGEST_NOTE: served.digest[:16]},
                    "annotations": {DIGEST_NOTE: served.digest, **scraped},
                },
                "spec": pod,
            },
        },
    }


def _scorer(config: ModelConfig, place: KubernetesPlace, served: Served) -> Manifest:
    probe = {"httpGet": {"path": "/ready", "port": "http"}, "timeoutSeconds": 3}
    arguments = ["--bundle", served.digest, "--version", str(served.version), "--host", "0.0.0.0", "--port", str(PORT)]
    return {
        "name": "scorer",
        "image": place.image,
        "args": ["windvane.scoring", *arguments],
        "ports": [{"name": "http", "containerPort": PORT, "protocol": "TCP"}],
        "resources": _limits(config),
        "securityContext": _locked_down(),
        "startupProbe": {**probe, "periodSeconds": 1, "failureThreshold": 120},
        "readinessProbe": {**probe, "periodSeconds": 2, "failureThreshold": 2},
        "livenessProbe": {**probe, "httpGet": {"path": "/ping", "port": "http"}, "periodSeconds": 10, "failureThreshold": 3},
        # the gateway learns that the pod leaves before it stops listening
        "lifecycle": {"preStop": {"exec": {"command": ["sleep", "10"]}}},
        "volumeMounts": [
            _mount("bundles", "/bundles", read_only=True),
            _mount("requests", f"/var/windvane/requests/{config.model}"),
            _mount("keys", f"/var/windvane/keys/{config.model}", read_only=True),
            _mount("tmp", "/tmp"),
        ],
    }


def _shipper(config: ModelConfig, place: KubernetesPlace) -> Manifest:
    """A sidecar that moves the closed segments of the request log into the object store; it stops after the scorer did."""
    return {
        "name": "ship-requests",
        "image": place.image,
        "restartPolicy": "Always",
        "args": ["windvane.scoring.ship_requests", "--from", "/requests", "--to", f"{place.requests}/{config.model}"],
        "envFrom": _storage(),
        "resources": _same(cpu="100m", memory="256Mi"),
        "securityContext": _locked_down(),
        "volumeMounts": [_mount("requests", "/requests"), _mount("tmp", "/tmp")],
    }


def _pod(place: KubernetesPlace, digest: str, *, stop_seconds: int) -> Manifest:
    """What every pod has: no rights in the cluster, no root, nothing to write but empty volumes, and a bundle that was verified."""
    return {
        "serviceAccountName": ACCOUNT,
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "terminationGracePeriodSeconds": stop_seconds,
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": _USER,
            "runAsGroup": _USER,
            "fsGroup": _USER,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "initContainers": [
            {
                "name": "fetch-bundle",
                "image": place.image,
                "args": ["windvane.scoring.fetch_bundle", "--bundle", digest, "--from", place.bundles, "--to", "/bundles"],
                "envFrom": _storage(),
                "resources": _same(cpu="500m", memory="512Mi"),
                "securityContext": _locked_down(),
                "volumeMounts": [_mount("bundles", "/bundles"), _mount("tmp", "/tmp")],
            }
        ],
        "volumes": [
            {"name": "bundles", "emptyDir": {"sizeLimit": "4Gi"}},
            {"name": "tmp", "emptyDir": {"sizeLimit": "64Mi"}},
        ],
    }


def _service(config: ModelConfig, place: KubernetesPlace, served: Served) -> Manifest:
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": _named(config, place, served),
        "spec": {
            "type": "ClusterIP",
            "selector": _selector(config.model, served.version),
            "ports": [{"name": "http", "port": PORT, "targetPort": "http", "protocol": "TCP"}],
        },
    }


def _disruption_budget(config: ModelConfig, place: KubernetesPlace, served: Served) -> Manifest:
    return {
        "apiVersion": "policy/v1",
        "kind": "PodDisruptionBudget",
        "metadata": _named(config, place, served),
        "spec": {"maxUnavailable": 1, "selector": {"matchLabels": _selector(config.model, served.version)}},
    }


def _named(config: ModelConfig, place: KubernetesPlace, served: Served) -> Manifest:
    marks = {**labels(config.model, "scorer", version=served.version), DIGEST_NOTE: served.digest[:16]}
    notes = {DIGEST_NOTE: served.digest, EPOCH_NOTE: str(served.epoch)}
    return _metadata(place, name_of(config.model, served.version), marks, notes=notes)


def _metadata(place: KubernetesPlace, name: str, marks: Mapping[str, str], *, notes: Mapping[str, str]) -> Manifest:
    return {"name": name, "namespace": place.namespace, "labels": dict(marks), "annotations": dict(notes)}


def _selector(model: str, version: int) -> dict[str, str]:
    return {ROLE_LABEL: "scorer", MODEL_LABEL: model, VERSION_LABEL: str(version)}


def _limits(config: ModelConfig) -> Manifest:
    """Requests equal limits: what a pod may use is there for it, and the node's pressure does not evict it first."""
    limits = config.deploy.limits
    return _same(cpu=f"{round(limits.cpus * 1000)}m", memory=limits.memory[:-1] + _BINARY[limits.memory[-1]])


def _same(*, cpu: str, memory: str) -> Manifest:
    values = {"cpu": cpu, "memory": memory, "ephemeral-storage": "5Gi"}
    return {"requests": {**values, "ephemeral-storage": "100Mi"}, "limits": values}


def _storage() -> list[Manifest]:
    """Address and credentials of the object store; without the secret the cloud's workload identity is used."""
    return [{"secretRef": {"name": STORAGE_SECRET, "optional": True}}]


def _locked_down() -> Manifest:
    return {
        "allowPrivilegeEscalation": False,
        "privileged": False,
        "readOnlyRootFilesystem": True,
        "runAsNonRoot": True,
        "capabilities": {"drop": ["ALL"]},
    }


def _mount(name: str, path: str, *, read_only: bool = False) -> Manifest:
    return {"name": name, "mountPath": path, **({"readOnly": True} if read_only else {})}
