"""A small Kubernetes API on 127.0.0.1 for tests: what the target needs, as strict as a real one about paths, rights and schemas.

It has server-side apply with resource versions and generations, preconditions of deletes, the proxies to pods and services, and a
gateway that shares requests out by the weights of the route. Rights are those of the project's own Role. What pods do is up to `Pods`.
"""

import copy
import functools
import itertools
import json
import re
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import kubernetes_validate
import yaml
from jsonschema import Draft7Validator
from kubernetes_route_schema import HTTP_ROUTE
from kubernetes_written_pods import Pods

REPOSITORY = Path(__file__).resolve().parents[1]
NAMESPACE = "windvane-models"
TOKEN = "token-of-the-deployer"
VERSIONS = ("1.31", "1.37")
GROUPS = {
    "deployments": ("apps", "v1", "Deployment"),
    "services": ("", "v1", "Service"),
    "poddisruptionbudgets": ("policy", "v1", "PodDisruptionBudget"),
    "httproutes": ("gateway.networking.k8s.io", "v1", "HTTPRoute"),
    "jobs": ("batch", "v1", "Job"),
    "pods": ("", "v1", "Pod"),
}
_PATH = re.compile(
    r"/(?:api/v1|apis/(?P<group>[a-z0-9.]+)/v1)/namespaces/(?P<namespace>[a-z0-9-]+)/(?P<plural>[a-z]+)"
    r"(?:/(?P<name>[a-z0-9.-]+)(?::(?P<port>\w+))?(?:/(?P<sub>log|proxy)(?P<rest>/.*)?)?)?"
)


class Refused(Exception):
    """The API server says no."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


def check_manifest(manifest: dict[str, Any], versions: tuple[str, ...] = VERSIONS) -> None:
    """Raise unless a manifest is right by the schemas of these Kubernetes versions, or by that of the Gateway API."""
    if manifest["apiVersion"].startswith("gateway.networking.k8s.io/"):
        if manifest["kind"] == "HTTPRoute":
            Draft7Validator(HTTP_ROUTE).validate(manifest)
        return
    for version in versions:
        kubernetes_validate.validate(manifest, version, strict=True)


@functools.cache
def _check_once(text: str) -> None:
    check_manifest(json.loads(text), VERSIONS[:1])


def granted_rights() -> set[tuple[str, str, str]]:
    """Group, resource and verb of everything that the project's Role allows."""
    documents = yaml.safe_load_all((REPOSITORY / "deploy" / "kubernetes" / "models" / "rbac.yaml").read_text())
    rules = next(document["rules"] for document in documents if document["kind"] == "Role")
    return {
        (group, resource, verb)
        for rule in rules
        for group, resource, verb in itertools.product(rule["apiGroups"], rule["resources"], rule["verbs"])
    }


class Cluster:
    """The state of one namespace.

    Attributes:
        calls: Every call, as verb and resource, in their order.
        used: Rights that were needed.
        gateway: Whether a controller accepts routes.
        before: Called before each call with verb, resource and name: a test's chance to interfere.
    """

    def __init__(self, pods: Pods) -> None:
        self.pods = pods
        self.objects: dict[tuple[str, str], dict[str, Any]] = {}
        self.logs: dict[tuple[str, str], str] = {}
        self.calls: list[tuple[str, str, str]] = []
        self.used: set[tuple[str, str, str]] = set()
        self.denied: list[str] = []
        self.rights = granted_rights()
        self.gateway = True
        self.away = 0
        self.before: Callable[[str, str, str], None] = lambda verb, resource, name: None
        self._numbers = itertools.count(1)
        self._looked: Counter[str] = Counter()
        self._ending: dict[str, dict[str, Any]] = {}
        self._lock = threading.RLock()
        self._cycles: dict[tuple[tuple[str, int], ...], Iterator[str]] = {}

    def names(self, plural: str) -> list[str]:
        with self._lock:
            return sorted(name for kind, name in self.objects if kind == plural)

    def weights(self) -> dict[str, int]:
        """What the route gives to each service."""
        route = self.objects.get(("httproutes", "churn"))
        return {} if route is None else {b["name"]: b["weight"] for b in route["spec"]["rules"][0]["backendRefs"]}

    def send(self, requests: int) -> Counter[int]:
        """Ask for scores through the gateway; how many were answered with which status."""
        found: Counter[int] = Counter()
        for _ in range(requests):
            with self._lock:
                weights = tuple(sorted((name, weight) for name, weight in self.weights().items() if weight))
                if not weights or not self.gateway:
                    found[500] += 1
                    continue
                if weights not in self._cycles:
                    shares = [name for step in range(100) for name, weight in weights if step * weight // 100 != (step + 1) * weight // 100]
                    self._cycles[weights] = itertools.cycle(shares)
                pod = self._pod_of(next(self._cycles[weights]))
            found[503 if pod is None else self.pods.score(pod)] += 1
        return found

    def answer(self, method: str, url: str, headers: dict[str, str], body: Any) -> tuple[int, bytes]:
        """One call to the API."""
        split = urlsplit(url)
        query = {name: values[0] for name, values in parse_qs(split.query).items()}
        try:
            with self._lock:
                if self.away > 0:
                    self.away -= 1
                    raise Refused(503, "the API server is restarting")
            if headers.get("Authorization", headers.get("authorization")) != f"Bearer {TOKEN}":
                raise Refused(401, "Unauthorized")
            found = _PATH.fullmatch(split.path)
            if found is None:
                raise Refused(404, f"the server could not find the requested resource {split.path}")
            plural, name, sub = found["plural"], found["name"] or "", found["sub"]
            group, _, kind = GROUPS.get(plural, ("?", "", ""))
            if (found["group"] or "") != group:
                raise Refused(404, f"the server could not find the requested resource {split.path}")
            verbs = {"GET": "get" if name else "list", "PATCH": "patch", "DELETE": "delete"}
            verb, resource = verbs[method], f"{plural}/{sub}" if sub else plural
            self.calls.append((verb, resource, name))
            self.before("dry-run" if query.get("dryRun") else verb, resource, name)
            with self._lock:
                self._allow(found["namespace"], group, resource, verb)
                if sub == "log":
                    return 200, self.logs[name, query["container"]].encode()
                if sub == "proxy":
                    pod = self._pod_of(name, found["port"]) if plural == "services" else self._listening(name, found["port"])
                elif method == "GET":
                    value = self._get(plural, name) if name else self._list(plural, query)
                elif method == "PATCH":
                    value = self._apply(plural, kind, name, headers, query, body)
                else:
                    value = self._delete(plural, name, body)
            if sub == "proxy":
                if pod is None:
                    raise Refused(503, "no endpoints available for service")
                return 200, self.pods.get(pod, found["rest"])
        except Refused as exc:
            return exc.status, json.dumps({"kind": "Status", "status": "Failure", "message": str(exc), "code": exc.status}).encode()
        return 200, json.dumps(value).encode()

    def delete_by_hand(self, plural: str, name: str) -> None:
        """As somebody with kubectl would."""
        with self._lock:
            self._remove(plural, name)

    def change_by_hand(self, plural: str, name: str, change: Callable[[dict[str, Any]], None]) -> None:
        """As somebody with `kubectl edit` would."""
        with self._lock:
            item = self.objects[plural, name]
            change(item)
            item["metadata"]["resourceVersion"] = str(next(self._numbers))
            item["metadata"]["generation"] += 1

    def _allow(self, namespace: str, group: str, resource: str, verb: str) -> None:
        right = (group, resource, verb)
        self.used.add(right)
        if namespace != NAMESPACE or right not in self.rights:
            self.denied.append(f"{verb} {resource} in {namespace}")
            raise Refused(403, f'{resource} is forbidden: cannot {verb} resource "{resource}" in the namespace "{namespace}"')

    def _get(self, plural: str, name: str) -> dict[str, Any]:
        if plural == "deployments":
            self._look(name)
        if plural == "jobs":
            self._end(name)
        if (plural, name) not in self.objects:
            raise Refused(404, f'{plural} "{name}" not found')
        return self.objects[plural, name]

    def _list(self, plural: str, query: dict[str, str]) -> dict[str, Any]:
        wanted = dict(part.split("=", 1) for part in query["labelSelector"].split(","))
        items = [
            {key: value for key, value in item.items() if key not in ("kind", "apiVersion")}
            for (kind, _), item in self.objects.items()
            if kind == plural and wanted.items() <= item["metadata"]["labels"].items()
        ]
        return {"kind": f"{GROUPS[plural][2]}List", "items": items}

    def _apply(
        self, plural: str, kind: str, name: str, headers: dict[str, str], query: dict[str, str], body: dict[str, Any]
    ) -> dict[str, Any]:
        if headers["Content-Type"] != "application/apply-patch+yaml" or query.get("fieldManager") != "windvane":
            raise Refused(415, f"not a server-side apply: {headers['Content-Type']}, {query}")
        body = copy.deepcopy(body)
        version = body["metadata"].pop("resourceVersion", None)
        if (body["kind"], body["metadata"]["name"], body["metadata"]["namespace"]) != (kind, name, NAMESPACE):
            raise Refused(400, "the name or the namespace of the object does not match the URL")
        try:
            # an epoch and a random name are of no kind that a schema refuses
            meta = {**body["metadata"], "name": "name", "annotations": dict.fromkeys(body["metadata"]["annotations"], "")}
            _check_once(json.dumps({**body, "metadata": meta}, sort_keys=True))
        except Exception as exc:
            raise Refused(422, f"{kind} {name} is invalid: {exc!s:.500}") from exc
        before = self.objects.get((plural, name))
        if before is None:
            self._allow(NAMESPACE, GROUPS[plural][0], plural, "create")
        if version and (before is None or version != before["metadata"]["resourceVersion"]):
            raise Refused(409, f'Operation cannot be fulfilled on {plural} "{name}": the object has been modified')
        if query.get("dryRun"):
            return body
        if before is not None and before["spec"] == body["spec"] and _notes(before) == _notes(body):
            return before
        meta = {
            **body["metadata"],
            "uid": before["metadata"]["uid"] if before else f"uid-{next(self._numbers)}",
            "resourceVersion": str(next(self._numbers)),
            "generation": (before["metadata"]["generation"] + (before["spec"] != body["spec"])) if before else 1,
        }
        made = {**body, "metadata": meta, "status": dict(before["status"]) if before else {}}
        self.objects[plural, name] = made
        if plural == "deployments":
            self._roll_out(name, changed=before is None or before["spec"]["template"] != body["spec"]["template"])
        elif plural == "jobs":
            self._run(made)
        elif plural == "httproutes" and self.gateway:
            made["status"] = {
                "parents": [
                    {
                        "conditions": [
                            {"type": kind, "status": "True", "observedGeneration": meta["generation"]}
                            for kind in ("Accepted", "ResolvedRefs")
                        ]
                    }
                ]
            }
        return made

    def _delete(self, plural: str, name: str, body: dict[str, Any]) -> dict[str, Any]:
        item = self._get(plural, name)
        for key, value in (body.get("preconditions") or {}).items():
            if item["metadata"][key] != value:
                raise Refused(409, f"Precondition failed: {key} in precondition: {value}, in object meta: {item['metadata'][key]}")
        if body.get("propagationPolicy") != "Background":
            raise Refused(400, "the pods would stay")
        self._remove(plural, name)
        return {"kind": "Status", "status": "Success"}

    def _remove(self, plural: str, name: str) -> None:
        item = self.objects.pop((plural, name))
        for kind, pod in [key for key in self.objects if key[0] == "pods"]:
            if plural in ("deployments", "jobs") and self.objects[kind, pod]["metadata"]["owner"] == item["metadata"]["uid"]:
                self.pods.stop(self.objects.pop((kind, pod)))

    def _roll_out(self, name: str, *, changed: bool) -> None:
        """The controller of Deployments: pods of the newest template, as many as wanted."""
        item = self.objects["deployments", name]
        owned = [key for key, pod in self.objects.items() if key[0] == "pods" and pod["metadata"]["owner"] == item["metadata"]["uid"]]
        if changed:
            for key in owned:
                self.pods.stop(self.objects.pop(key))
            owned = []
            self._looked[name] = 0
        for key in owned[item["spec"]["replicas"] :]:
            self.pods.stop(self.objects.pop(key))
        for _ in range(item["spec"]["replicas"] - len(owned)):
            self._make_pod(item, f"{name}-{next(self._numbers):05d}", {})

    def _make_pod(self, owner: dict[str, Any], name: str, more: dict[str, str]) -> dict[str, Any]:
        template = owner["spec"]["template"]
        marks = {**template["metadata"]["labels"], **more}
        meta = {"name": name, "uid": f"uid-{next(self._numbers)}", "labels": marks, "owner": owner["metadata"]["uid"]}
        pod = {"kind": "Pod", "metadata": meta, "spec": template["spec"], "status": {}}
        self.objects["pods", name] = pod
        if not more:
            self.pods.start(pod)
        return pod

    def _look(self, name: str) -> None:
        """Time passes for a Deployment each time that somebody looks at it."""
        item = self.objects.get(("deployments", name))
        if item is None:
            return
        self._looked[name] += 1
        pods = [pod for (kind, _), pod in self.objects.items() if kind == "pods" and pod["metadata"]["owner"] == item["metadata"]["uid"]]
        ready = 0
        for pod in pods:
            right = self._looked[name] > self.pods.slow and self.pods.is_ready(pod)
            ready += right
            state = (
                {"running": {}} if right else {"waiting": {"reason": "CrashLoopBackOff", "message": "back-off restarting failed container"}}
            )
            crashes = 0 if right or self._looked[name] <= self.pods.slow else 3
            pod["status"] = {"containerStatuses": [{"name": "scorer", "ready": right, "restartCount": crashes, "state": state}]}
        item["status"] = {
            "observedGeneration": item["metadata"]["generation"],
            "replicas": len(pods),
            "updatedReplicas": len(pods),
            "availableReplicas": ready,
        }

    def _pod_of(self, service: str, port: str | None = "http") -> dict[str, Any] | None:
        """One of the pods behind a service, in turn."""
        item = self.objects.get(("services", service))
        if item is None or port not in [entry["name"] for entry in item["spec"]["ports"]]:
            return None
        selector = item["spec"]["selector"].items()
        pods = [
            pod
            for (kind, _), pod in sorted(self.objects.items())
            if kind == "pods" and selector <= pod["metadata"]["labels"].items() and _is_ready(pod)
        ]
        return pods[next(self._numbers) % len(pods)] if pods else None

    def _listening(self, name: str, port: str) -> dict[str, Any]:
        pod = self._get("pods", name)
        if int(port) not in [entry["containerPort"] for entry in pod["spec"]["containers"][0]["ports"]]:
            raise Refused(503, f"dial tcp {name}:{port}: connect: connection refused")
        return pod

    def _run(self, job: dict[str, Any]) -> None:
        name = job["metadata"]["name"]
        if self.pods.unschedulable:
            pod = self._make_pod(job, f"{name}-abcde", {"batch.kubernetes.io/job-name": name})
            pod["status"] = {"conditions": [{"reason": "Unschedulable", "message": "0/3 nodes are available: insufficient cpu"}]}
            job["status"] = {
                "conditions": [{"type": "Failed", "status": "True", "reason": "DeadlineExceeded", "message": "was active too long"}]
            }
            return
        pod = self._make_pod(job, f"{name}-abcde", {"batch.kubernetes.io/job-name": name})
        self._ending[name] = pod

    def _end(self, name: str) -> None:
        """Time passes for a job when somebody looks at it."""
        pod = self._ending.get(name)
        results = self.pods.rehearse(pod) if pod else None
        if pod is None or results is None:
            return
        del self._ending[name]
        statuses: dict[str, list[dict[str, Any]]] = {"initContainerStatuses": [], "containerStatuses": []}
        for container, (status, text) in results.items():
            self.logs[pod["metadata"]["name"], container] = text
            where = "initContainerStatuses" if container == "fetch-bundle" else "containerStatuses"
            ended = {"exitCode": status, "reason": "OOMKilled" if status == 137 else "Completed" if status == 0 else "Error"}
            statuses[where].append({"name": container, "state": {"terminated": ended}})
        pod["status"] = statuses


def _notes(item: dict[str, Any]) -> dict[str, Any]:
    return {key: item["metadata"].get(key) for key in ("labels", "annotations")}


def _is_ready(pod: dict[str, Any]) -> bool:
    return any(state.get("ready") for state in pod["status"].get("containerStatuses") or ())


@contextmanager
def serve_cluster(cluster: Cluster, folder: Path) -> Iterator[Path]:
    """Serve the API on a free port of 127.0.0.1; gives the path of a kubeconfig for it."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def _answer(self) -> None:
            size = int(self.headers.get("Content-Length") or 0)
            body = json.loads(self.rfile.read(size)) if size else None
            status, content = cluster.answer(self.command, self.path, dict(self.headers), body)
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = _answer

        def log_message(self, format: str, *args: Any) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        file = folder / "kubeconfig"
        context = {"cluster": "test", "user": "deployer", "namespace": "default"}
        file.write_text(
            yaml.safe_dump(
                {
                    "apiVersion": "v1",
                    "kind": "Config",
                    "current-context": "test",
                    "contexts": [{"name": "test", "context": context}],
                    "clusters": [{"name": "test", "cluster": {"server": f"http://127.0.0.1:{server.server_address[1]}"}}],
                    "users": [{"name": "deployer", "user": {"token": TOKEN}}],
                }
            )
        )
        yield file
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
