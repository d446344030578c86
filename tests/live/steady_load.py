"""Requests at a steady rate from a few clients without retries; every failure and every answer's version is kept."""

import http.client
import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from urllib.parse import urlsplit

CLIENTS = 4


@dataclass
class Load:
    """What the clients saw."""

    digests: dict[str, int] = field(default_factory=dict)
    seen: list[tuple[float, str]] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)

    @property
    def answered(self) -> int:
        return sum(self.digests.values())


@contextmanager
def steady_load(url: str, body: object, *, per_second: float = 100) -> Iterator[Load]:
    """Send requests until the block ends; half of the clients keep their connection, half make a new one each time."""
    load, stop, lock = Load(), threading.Event(), threading.Lock()
    bodies = body if isinstance(body, list) else [body]
    where, payloads = urlsplit(url), [json.dumps(one).encode() for one in bodies]

    def client(number: int) -> None:
        connection, due, turn = None, time.monotonic(), number
        while not stop.is_set():
            due += CLIENTS / per_second
            turn += 1
            try:
                connection = connection or http.client.HTTPConnection(where.hostname, where.port, timeout=10)
                connection.request("POST", "/invocations", payloads[turn % len(payloads)], {"Content-Type": "application/json"})
                answer = connection.getresponse()
                text, digest = answer.read(), answer.headers.get("X-Windvane-Digest", "")
                with lock:
                    load.digests[digest] = load.digests.get(digest, 0) + (answer.status == 200)
                    load.seen.append((time.time(), digest))
                    if answer.status != 200:
                        load.failures.append(f"{answer.status} {text[:200]!r}")
            except (OSError, http.client.HTTPException) as exc:
                with lock:
                    load.failures.append(repr(exc)[:300])
                connection = None
            if connection and number % 2:
                connection.close()
                connection = None
            stop.wait(max(due - time.monotonic(), 0))
        if connection:
            connection.close()

    threads = [threading.Thread(target=client, args=(number,)) for number in range(CLIENTS)]
    for thread in threads:
        thread.start()
    try:
        yield load
    finally:
        stop.set()
        for thread in threads:
            thread.join()
