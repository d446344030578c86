"""What the scoring service counts, in Prometheus's format."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0)


class Counts:
    """The counters of one process."""

    content_type = CONTENT_TYPE_LATEST

    def __init__(self, model: str) -> None:
        self._registry = CollectorRegistry()
        self._model = model
        own = self._registry
        by_model = ["model"]
        self._requests = Counter("windvane_requests", "Answered requests.", ["model", "path", "status"], registry=own)
        self._seconds = Histogram("windvane_scoring_seconds", "Time to answer /invocations.", by_model, buckets=_SECONDS, registry=own)
        self._rows = Counter("windvane_scored_rows", "Scored rows.", ["model", "version"], registry=own)
        self._logged = Counter("windvane_logged_rows", "Scored rows written to the request log.", by_model, registry=own)
        self._dropped = Counter("windvane_dropped_rows", "Scored rows that the request log lost.", by_model, registry=own)
        self._version = Gauge("windvane_serving_version", "Version that serves; 0 when none does.", by_model, registry=own)
        self._in_line = Gauge("windvane_serves_what_it_should", "1 if the version that should serve does.", by_model, registry=own)
        # shown from the start, so that a missing series never looks like zero
        self._logged.labels(model)
        self._dropped.labels(model)

    def answered(self, path: str, status: int, seconds: float) -> None:
        """Count an answered request."""
        self._requests.labels(self._model, path, str(status)).inc()
        if path == "/invocations":
            self._seconds.labels(self._model).observe(seconds)

    def scored(self, version: int, rows: int) -> None:
        """Count scored rows."""
        self._rows.labels(self._model, str(version)).inc(rows)

    def logged(self, rows: int) -> None:
        """Count rows that reached the request log."""
        self._logged.labels(self._model).inc(rows)

    def dropped(self, rows: int) -> None:
        """Count rows that the request log lost."""
        self._dropped.labels(self._model).inc(rows)

    def render(self, *, version: int | None, in_line: bool) -> bytes:
        """All figures in Prometheus's text format."""
        self._version.labels(self._model).set(version or 0)
        self._in_line.labels(self._model).set(int(in_line))
        return generate_latest(self._registry)
