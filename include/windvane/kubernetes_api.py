"""The few calls to a Kubernetes cluster that the target needs, all in one namespace, each with an error that says what to do."""

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any
from urllib.parse import quote

from windvane.errors import ConfigError, ServiceUnavailable, StaleEpoch

Manifest = dict[str, Any]

FIELD_MANAGER = "windvane"
# kind -> where its objects are; the verbs on them are those of deploy/kubernetes/models/rbac.yaml
KINDS: Mapping[str, tuple[str, str]] = {
    "Deployment": ("apis/apps/v1", "deployments"),
    "Service": ("api/v1", "services"),
    "PodDisruptionBudget": ("apis/policy/v1", "poddisruptionbudgets"),
    "HTTPRoute": ("apis/gateway.networking.k8s.io/v1", "httproutes"),
    "Job": ("apis/batch/v1", "jobs"),
    "Pod": ("api/v1", "pods"),
}
_SECONDS = (5, 30)
_RBAC = "deploy/kubernetes/models/rbac.yaml"


class KubernetesApi:
    """Objects of one namespace, as plain dicts."""

    def __init__(self, client: Any, namespace: str) -> None:
        self._client = client
        self.namespace = namespace

    def apply(self, manifest: Manifest, *, version: str | None = None, dry_run: bool = False) -> Manifest:
        """Apply a manifest on the server's side; fields that somebody else set otherwise are taken back.

        Args:
            version: The resource version that the object must still have.

        Raises:
            StaleEpoch: If somebody else changed the object since.
            ConfigError: If the cluster refuses the manifest for good.
        """
        kind, name = manifest["kind"], manifest["metadata"]["name"]
        body = {**manifest, "metadata": {**manifest["metadata"], **({"resourceVersion": version} if version else {})}}
        query = [("fieldManager", FIELD_MANAGER), ("force", "true"), *([("dryRun", "All")] if dry_run else [])]
        return self._json("PATCH", self._path(kind, name), query=query, body=body, media_type="application/apply-patch+yaml")

    def get(self, kind: str, name: str) -> Manifest | None:
        """An object, or None."""
        try:
            return self._json("GET", self._path(kind, name))
        except _NotFound:
            return None

    def find(self, kind: str, labels: Mapping[str, str]) -> list[Manifest]:
        """The objects with these labels, by name."""
        query = [("labelSelector", ",".join(f"{key}={value}" for key, value in sorted(labels.items())))]
        found = self._json("GET", self._path(kind), query=query)["items"]
        # the items of a list do not say what they are
        return sorted(({**item, "kind": kind} for item in found), key=lambda item: str(item["metadata"]["name"]))

    def delete(self, found: Manifest) -> bool:
        """Delete an object as it was found; False if it is gone already.

        Raises:
            StaleEpoch: If somebody changed it since.
        """
        meta = found["metadata"]
        unchanged = {"uid": meta["uid"], "resourceVersion": meta["resourceVersion"]}
        return self._delete(found["kind"], meta["name"], {"preconditions": unchanged})

    def discard(self, kind: str, name: str) -> bool:
        """Delete an object in whatever state it is; False if it is gone already."""
        return self._delete(kind, name, {})

    def log(self, pod: str, container: str) -> str:
        """What a container printed."""
        return self._bytes("GET", f"{self._path('Pod', pod)}/log", query=[("container", container)]).decode(errors="replace")

    def fetch(self, kind: str, name: str, port: int | str, path: str, *, seconds: float) -> bytes:
        """What a pod or a service answers at a path, through the API server's proxy.

        Raises:
            ServiceUnavailable: If it does not answer with 200.
        """
        return self._bytes("GET", f"{self._path(kind, name)}:{port}/proxy{path}", seconds=(seconds, seconds))

    def _delete(self, kind: str, name: str, options: Manifest) -> bool:
        body = {"kind": "DeleteOptions", "apiVersion": "v1", "propagationPolicy": "Background", **options}
        try:
            self._json("DELETE", self._path(kind, name), body=body)
        except _NotFound:
            return False
        return True

    def _path(self, kind: str, name: str | None = None) -> str:
        prefix, plural = KINDS[kind]
        path = f"/{prefix}/namespaces/{self.namespace}/{plural}"
        return f"{path}/{quote(name, safe='')}" if name else path

    def _json(self, *arguments: Any, **more: Any) -> Manifest:
        found: Manifest = json.loads(self._bytes(*arguments, **more))
        return found

    def _bytes(
        self,
        method: str,
        path: str,
        *,
        query: list[tuple[str, str]] | None = None,
        body: Manifest | None = None,
        media_type: str = "application/json",
        seconds: tuple[float, float] = _SECONDS,
    ) -> bytes:
        headers = {"Accept": "application/json, */*", **({"Content-Type": media_type} if body is not None else {})}
        with _named_errors(self._client.configuration.host, self.namespace, method, path):
            response = self._client.call_api(
                path,
                method,
                query_params=query or [],
                header_params=headers,
                body=body,
                auth_settings=["BearerToken"],
                _preload_content=False,
                _request_timeout=seconds,
            )
            data: bytes = response.data
            return data


def connect_kubernetes(namespace: str) -> KubernetesApi:
    """A client of the cluster that this process runs in, else of the one that the kubeconfig names.

    Raises:
        ServiceUnavailable: If neither is there.
    """
    from kubernetes import client, config
    from kubernetes.config import ConfigException

    found = client.Configuration()
    try:
        if os.environ.get("KUBERNETES_SERVICE_HOST"):
            config.load_incluster_config(client_configuration=found)
        else:
            config.load_kube_config(config_file=os.environ.get("KUBECONFIG"), client_configuration=found)
    except (ConfigException, OSError) as exc:
        raise ServiceUnavailable(
            f"Kubernetes: no cluster is known: {exc!s:.200}; run in the cluster, set KUBECONFIG, or set deploy.target: docker"
        ) from exc
    # who calls tries again; a client that does too only makes the wait longer
    found.retries = 0
    return KubernetesApi(client.ApiClient(found), namespace)


class _NotFound(ServiceUnavailable):
    pass


@contextmanager
def _named_errors(host: str, namespace: str, method: str, path: str) -> Iterator[None]:
    from kubernetes.client import ApiException
    from urllib3.exceptions import HTTPError

    what = f"Kubernetes at {host}: {method} {path}"
    try:
        yield
    except ApiException as exc:
        said = _message(exc)
        if exc.status == 404:
            raise _NotFound(
                f"{what}: is not there: {said}; are the namespace and the Gateway API installed? See docs/kubernetes.md"
            ) from exc
        if exc.status == 409:
            raise StaleEpoch(f"{what}: somebody else changed it: {said}") from exc
        if exc.status in (401, 403):
            raise ServiceUnavailable(f"{what}: is not allowed: {said}; see {_RBAC} and the quota of the namespace {namespace}") from exc
        if exc.status in (400, 422):
            raise ConfigError([f"{what}: the cluster refuses it: {said}"]) from exc
        raise ServiceUnavailable(f"{what}: {said}") from exc
    except HTTPError as exc:
        raise ServiceUnavailable(f"Kubernetes at {host} does not answer: {exc!s:.200}; what serves goes on") from exc


def _message(error: Any) -> str:
    """What the API server says, in one line."""
    text = error.body.decode(errors="replace") if isinstance(error.body, bytes) else str(error.body or "")
    try:
        text = str(json.loads(text)["message"])
    except (ValueError, KeyError, TypeError):
        text = text or str(error.reason)
    return f"{error.status} {' '.join(text.split())[:400]}"
