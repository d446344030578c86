"""Pods of the tests' cluster that do what a test writes down."""

import json
from collections import Counter
from typing import Any


class Pods:
    """Pods that a test writes down: by digest, whether they become ready, what they say they serve, and how they answer.

    Attributes:
        unready: Digests whose scorers crash.
        impostors: Digest -> the digest that they serve instead.
        failing: Digests whose every second request fails.
        rehearsals: Digest -> exit status and what the rehearsal prints; default: all is well.
        slow: How many times a Deployment is looked at before its pods are ready.
    """

    def __init__(self) -> None:
        self.unready: set[str] = set()
        self.impostors: dict[str, str] = {}
        self.failing: set[str] = set()
        self.rehearsals: dict[str, tuple[int, str]] = {}
        self.unfetchable: dict[str, tuple[int, str]] = {}
        self.unschedulable = False
        self.slow = 1
        self.answered: dict[str, Counter[int]] = {}

    def start(self, pod: dict[str, Any]) -> None:
        """A pod was made."""
        self.answered[pod["metadata"]["name"]] = Counter()

    def stop(self, pod: dict[str, Any]) -> None:
        """A pod was deleted."""

    def is_ready(self, pod: dict[str, Any]) -> bool:
        return digest_of(pod) not in self.unready

    def get(self, pod: dict[str, Any], path: str) -> bytes:
        """What the scorer answers to a GET."""
        digest = self.impostors.get(digest_of(pod), digest_of(pod))
        if path == "/model":
            return json.dumps({"model": "churn", "serving": {"version": version_of(pod), "digest": digest}}).encode()
        assert path == "/metrics"
        lines = [
            f'windvane_requests_total{{model="churn",path="/invocations",status="{status}"}} {float(number)!r}'
            for status, number in self.answered[pod["metadata"]["name"]].items()
        ]
        probes = 'windvane_requests_total{model="churn",path="/ready",status="200"} 77.0'
        return "\n".join([*lines, probes, 'windvane_in_flight_requests{model="churn"} 1.0', ""]).encode()

    def score(self, pod: dict[str, Any]) -> int:
        """Answer one request; the status."""
        answered = self.answered[pod["metadata"]["name"]]
        status = 500 if digest_of(pod) in self.failing and answered.total() % 2 == 0 else 200
        answered[status] += 1
        return status

    def rehearse(self, pod: dict[str, Any]) -> dict[str, tuple[int, str]] | None:
        """Container -> exit status and log of a rehearsal's pod; None while it runs."""
        digest = digest_of(pod)
        if digest in self.unfetchable:
            return {"fetch-bundle": self.unfetchable[digest]}
        status, text = self.rehearsals.get(digest, (0, json.dumps({"ok": True, "rows": 10, "max_difference": 0.0})))
        return {"fetch-bundle": (0, "fetched"), "rehearse": (status, text)}


def digest_of(pod: dict[str, Any]) -> str:
    """The digest that a pod's container is told to serve."""
    arguments = pod["spec"]["containers"][0]["args"]
    return str(arguments[arguments.index("--bundle") + 1])


def version_of(pod: dict[str, Any]) -> int:
    return int(pod["metadata"]["labels"]["windvane/version"])
