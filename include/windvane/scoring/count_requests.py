"""What the scoring service counts, in Prometheus's format."""

from collections import Counter
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any

import numpy as np

from windvane.scoring.encode_segment import ScoredRows
from windvane.scoring.serve_version import Served

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0)
_CHANCES = tuple(step / 20 for step in range(1, 21))
# of a regression: every order of magnitude in three steps, above and below zero
_POWERS = tuple(step * 10.0**power for power in range(-3, 7) for step in (1, 2, 5))
_VALUES = (*(-bound for bound in reversed(_POWERS)), 0.0, *_POWERS)
_LATER = 5_000
_Values = Iterable[tuple[dict[str, str], float]]


class Counts:
    """The counters of one process: plain numbers, which become Prometheus's text when it asks."""

    content_type = "text/plain; version=0.0.4; charset=utf-8"

    def __init__(self, model: str) -> None:
        self._model = model
        self._requests: Counter[tuple[str, int]] = Counter()
        self._errors: Counter[str] = Counter()
        self._seconds = _Histogram(_SECONDS)
        self._rows: Counter[int] = Counter()
        self._labels: Counter[tuple[int, str]] = Counter()
        self._scores: dict[int, _Histogram] = {}
        self._logged = 0
        self._dropped = 0
        self.in_flight = 0

    def answered(self, route: str, status: int, seconds: float, *, scoring: bool) -> None:
        """Count an answered request, and its time if it was one for a score."""
        self._requests[route, status] += 1
        if scoring:
            self._seconds.add([seconds])

    def refused(self, kind: str) -> None:
        """Count an error by its kind."""
        self._errors[kind] += 1

    def scored(self, rows: ScoredRows, *, classifier: bool) -> None:
        """Count scored rows and what the model said to them."""
        version = rows.version
        self._rows[version] += rows.rows
        if classifier:
            for label, number in Counter(rows.predictions).items():
                self._labels[version, str(label)] += number
        if rows.scores is not None:
            if version not in self._scores:
                self._scores[version] = _Histogram(_CHANCES if classifier else _VALUES)
            self._scores[version].add(rows.scores)

    def logged(self, rows: int) -> None:
        """Count rows that reached the request log."""
        self._logged += rows

    def dropped(self, rows: int) -> None:
        """Count rows that the request log lost."""
        self._dropped += rows

    def render(self, *, served: Served | None, in_line: bool) -> bytes:
        """All figures in Prometheus's text format."""
        by_path = [({"path": path, "status": str(status)}, n) for (path, status), n in _copy(self._requests)]
        by_label = [({"version": str(version), "label": label}, n) for (version, label), n in _copy(self._labels)]
        by_version = [({"version": str(version)}, n) for version, n in _copy(self._rows)]
        scores = [({"version": str(version)}, histogram) for version, histogram in list(self._scores.items())]
        age: _Values = [] if served is None else [({}, (datetime.now(UTC) - served.learnt_until).total_seconds())]
        blocks = [
            self._counter("requests", "Answered requests.", by_path),
            self._counter(
                "errors", "Requests that were not answered with 200, by kind.", [({"kind": k}, n) for k, n in _copy(self._errors)]
            ),
            self._histogram("scoring_seconds", "Time to answer a request for scores.", [({}, self._seconds)]),
            self._counter("scored_rows", "Scored rows.", by_version),
            self._counter("predictions", "Scored rows by predicted label.", by_label),
            self._histogram("scores", "Probability of the positive class, or the value of a regression.", scores),
            self._counter("logged_rows", "Scored rows written to the request log.", [({}, self._logged)]),
            self._counter("dropped_rows", "Scored rows that the request log lost.", [({}, self._dropped)]),
            self._gauge("in_flight_requests", "Requests that have not been answered yet.", [({}, self.in_flight)]),
            self._gauge("serving_version", "Version that serves; 0 when none does.", [({}, served.version if served else 0)]),
            self._gauge("serves_what_it_should", "1 if the version that should serve does.", [({}, int(in_line))]),
            self._gauge("model_age_seconds", "Time since the end of the data that the serving version was trained on.", age),
        ]
        return "".join(line + "\n" for block in blocks for line in block).encode()

    def _counter(self, name: str, text: str, values: _Values) -> list[str]:
        return self._block(f"{name}_total", "counter", text, values)

    def _gauge(self, name: str, text: str, values: _Values) -> list[str]:
        return self._block(name, "gauge", text, values)

    def _block(self, name: str, kind: str, text: str, values: _Values) -> list[str]:
        samples = [self._sample(name, labels, value) for labels, value in values]
        return [f"# HELP windvane_{name} {text}", f"# TYPE windvane_{name} {kind}", *samples]

    def _histogram(self, name: str, text: str, values: "Iterable[tuple[dict[str, str], _Histogram]]") -> list[str]:
        lines = self._block(name, "histogram", text, [])
        for labels, histogram in values:
            buckets, total = histogram.cumulative()
            lines += [self._sample(f"{name}_bucket", {**labels, "le": le}, number) for le, number in buckets]
            lines += [self._sample(f"{name}_count", labels, buckets[-1][1]), self._sample(f"{name}_sum", labels, total)]
        return lines

    def _sample(self, name: str, labels: Mapping[str, str], value: float) -> str:
        shown = ",".join(f'{key}="{_escaped(text)}"' for key, text in {"model": self._model, **labels}.items())
        return f"windvane_{name}{{{shown}}} {float(value)!r}"


class _Histogram:
    def __init__(self, bounds: tuple[float, ...]) -> None:
        self._bounds = bounds
        self._counts = np.zeros(len(bounds) + 1, dtype="int64")
        self._sum = 0.0
        self._waiting: list[float] = []

    def add(self, values: list[float]) -> None:
        """Keep values until there are many, or somebody asks: that is quicker than each alone."""
        self._waiting += values
        if len(self._waiting) >= _LATER:
            self._settle()

    def cumulative(self) -> tuple[list[tuple[str, int]], float]:
        """The name and the number of values of each bucket, those of the ones before included, and the sum of all values."""
        self._settle()
        names = [*map(str, self._bounds), "+Inf"]
        return list(zip(names, self._counts.cumsum().tolist(), strict=True)), self._sum

    def _settle(self) -> None:
        values, self._waiting = np.array(self._waiting, dtype=float), []
        self._counts += np.bincount(np.searchsorted(self._bounds, values), minlength=len(self._counts))
        self._sum += float(values.sum())


def _copy(counter: "Counter[Any]") -> list[tuple[Any, int]]:
    """A copy that no other thread changes."""
    return list(counter.copy().items())


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
