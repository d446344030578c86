"""Counts requests by version from what the scorers' pods count themselves.

A request that reaches no pod is counted by the gateway alone, and not here; a pod that does not answer is `down`.
"""

import re
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from windvane.bake_step import Counted
from windvane.kubernetes_manifests import VERSION_LABEL

_AT_ONCE = 16
_SAMPLE = re.compile(r"^windvane_(requests_total|in_flight_requests)\{([^}]*)\} ([0-9.e+]+)$", re.MULTILINE)
_LABEL = re.compile(r'(\w+)="([^"]*)"')


@dataclass(frozen=True)
class _Figures:
    requests: int = 0
    server_errors: int = 0
    refused: int = 0
    waiting: int = 0


class PodCounts:
    """Remembers what each pod counted: the sums only grow, though pods restart, come and go."""

    def __init__(self, model: str) -> None:
        self._scoring = {"/invocations", f"/v2/models/{model}/infer"}
        # by pod: its version, what earlier containers of it counted, and what its present one counts
        self._pods: dict[str, tuple[int, Counted, _Figures]] = {}

    def update(self, pods: Sequence[dict[str, Any]], scrape: Callable[[str], str | None]) -> dict[int, Counted]:
        """Ask all pods.

        Args:
            pods: Those of all versions, in any state.
            scrape: The metrics of a pod by its name; None if it does not answer.

        Returns:
            The sums of each version that has a pod now.
        """
        running = [pod for pod in pods if not pod["metadata"].get("deletionTimestamp") and _containers(pod)]
        with ThreadPoolExecutor(max_workers=_AT_ONCE) as pool:
            answers = list(pool.map(scrape, [pod["metadata"]["name"] for pod in running]))
        ill: dict[int, list[bool]] = {}
        waiting: dict[int, int] = {}
        for pod, answer in zip(running, answers, strict=True):
            version = int(pod["metadata"]["labels"][VERSION_LABEL])
            figures = None if answer is None else self._read(answer)
            if figures:
                self._add(pod["metadata"]["uid"], version, figures)
                waiting[version] = waiting.get(version, 0) + figures.waiting
            ill.setdefault(version, []).append(_is_ill(pod, answers=figures is not None))
        return {
            version: Counted(
                sum(counted.requests for counted in self._of(version)),
                sum(counted.server_errors for counted in self._of(version)),
                sum(counted.refused for counted in self._of(version)),
                down=any(found),
                waiting=waiting.get(version, 0),
            )
            for version, found in ill.items()
        }

    def _of(self, version: int) -> list[Counted]:
        return [_sum(before, now) for found, before, now in self._pods.values() if found == version]

    def _add(self, uid: str, version: int, figures: _Figures) -> None:
        _, before, last = self._pods.get(uid, (version, Counted(), _Figures()))
        if figures.requests < last.requests:
            before = _sum(before, last)
        self._pods[uid] = (version, before, figures)

    def _read(self, text: str) -> _Figures:
        requests = failed = refused = waiting = 0
        for name, labels, value in _SAMPLE.findall(text):
            number = int(float(value))
            if name == "in_flight_requests":
                # the request for these figures is one of them
                waiting = max(number - 1, 0)
                continue
            found = dict(_LABEL.findall(labels))
            if found.get("path") in self._scoring:
                status = int(found["status"])
                requests += number
                failed += number if status >= 500 else 0
                refused += number if 400 <= status < 500 else 0
        return _Figures(requests, failed, refused, waiting)


def _sum(before: Counted, now: _Figures) -> Counted:
    return Counted(before.requests + now.requests, before.server_errors + now.server_errors, before.refused + now.refused)


def _containers(pod: dict[str, Any]) -> list[dict[str, Any]]:
    return [state for state in pod.get("status", {}).get("containerStatuses") or () if state["name"] == "scorer"]


def _is_ill(pod: dict[str, Any], *, answers: bool) -> bool:
    """Whether a pod that could serve does not; one that is only just being started, such as on another node, is not ill."""
    scorer = _containers(pod)[0]
    return (scorer.get("ready", False) and not answers) or (not scorer.get("ready", False) and scorer.get("restartCount", 0) > 0)
