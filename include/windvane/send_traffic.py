"""Sends scoring requests at a steady rate, without retries, and counts what becomes of them."""

import threading
import time
from collections import Counter, deque
from dataclasses import dataclass, field
from typing import Any

import pandas as pd
import requests

from windvane.call_local import local_session

_TIMEOUT_SECONDS = 30
_KEPT_ERRORS = 5


@dataclass
class Traffic:
    """Counts so far.

    Attributes:
        sent: Requests.
        rows: Rows in them.
        failed: Requests that were not answered with 200.
        versions: Requests by the version that answered.
        errors: The first few failures.
    """

    sent: int = 0
    rows: int = 0
    failed: int = 0
    versions: Counter[str] = field(default_factory=Counter)
    errors: list[str] = field(default_factory=list)


class TrafficSender:
    """Threads that send requests at a steady rate until stopped.

    Args:
        url: Where the requests go.
        key: API key; empty where none is asked for.
        per_second: Requests a second, all threads together.
        threads: Connections.
    """

    def __init__(self, url: str, *, key: str = "", per_second: float = 30.0, threads: int = 2) -> None:
        self._url = url
        self._headers = {"Content-Type": "application/json"} | ({"X-API-Key": key} if key else {})
        self._interval = 1.0 / per_second
        self._lock = threading.Lock()
        self._waiting: deque[pd.DataFrame] = deque()
        self._outstanding = 0
        self._current: pd.DataFrame | None = None
        self._turn = 0
        self._stopped = threading.Event()
        self._began: float | None = None
        self._ended: float | None = None
        self.counts = Traffic()
        self._threads = [threading.Thread(target=self._send, name=f"traffic-{i}", daemon=True) for i in range(threads)]

    def send_all(self, frame: pd.DataFrame, *, rows_per_request: int) -> None:
        """Send every row once, many to a request; afterwards its rows go on one by one, shuffled.

        The newest requests are what a challenger is rehearsed with: in the frame's order they would all be of its first day.
        """
        with self._lock:
            self._current = frame.sample(frac=1, random_state=0)
            self._turn = 0
            parts = [frame.iloc[i : i + rows_per_request] for i in range(0, len(frame), rows_per_request)]
            self._waiting.extend(parts)
            self._outstanding += len(parts)
        if self._began is None:
            self._began = time.monotonic()
            for thread in self._threads:
                thread.start()

    @property
    def all_sent(self) -> bool:
        """Whether every row of `send_all` was answered."""
        return self._outstanding == 0

    @property
    def seconds(self) -> float:
        """How long requests have been sent."""
        return (self._ended or time.monotonic()) - self._began if self._began is not None else 0.0

    @property
    def per_second(self) -> float:
        """Answered requests a second since the first."""
        return self.counts.sent / self.seconds if self.seconds else 0.0

    def stop(self) -> None:
        """End the threads; the request that is under way is waited for."""
        self._stopped.set()
        if self._began is not None and self._ended is None:
            for thread in self._threads:
                thread.join(timeout=_TIMEOUT_SECONDS + 5)
            self._ended = time.monotonic()

    def _send(self) -> None:
        session = local_session()
        due = time.monotonic()
        while not self._stopped.is_set():
            rows, counted = self._next()
            self._post(session, rows)
            if counted:
                with self._lock:
                    self._outstanding -= 1
            # a late request is made up for, so that the rate holds
            due += self._interval * len(self._threads)
            self._stopped.wait(max(0.0, due - time.monotonic()))

    def _next(self) -> tuple[pd.DataFrame, bool]:
        with self._lock:
            if self._waiting:
                return self._waiting.popleft(), True
            frame = self._current
            if frame is None:
                raise RuntimeError("nothing to send")
            self._turn = (self._turn + 1) % len(frame)
            return frame.iloc[self._turn : self._turn + 1], False

    def _post(self, session: requests.Session, rows: pd.DataFrame) -> None:
        try:
            response = session.post(self._url, data=encode(rows), headers=self._headers, timeout=_TIMEOUT_SECONDS)
            problem = None if response.status_code == 200 else f"{response.status_code}: {response.text[:200]}"
            version = response.headers.get("X-Windvane-Version", "?")
            if problem is None and len(response.json()["predictions"]) != len(rows):
                problem = f"{len(rows)} rows were sent, the answer has another number of predictions"
        except (requests.RequestException, ValueError, KeyError) as exc:
            problem, version = f"{type(exc).__name__}: {str(exc)[:200]}", "?"
        with self._lock:
            self.counts.sent += 1
            self.counts.rows += len(rows)
            if problem is None:
                self.counts.versions[version] += 1
                return
            self.counts.failed += 1
            if len(self.counts.errors) < _KEPT_ERRORS:
                self.counts.errors.append(problem)


def encode(rows: pd.DataFrame) -> str:
    """A request body in MLflow's `dataframe_split` form."""
    split: Any = rows.to_json(orient="split", date_format="iso", index=False)
    return f'{{"dataframe_split": {split}}}'
