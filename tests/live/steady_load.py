"""Requests at a steady rate from a few clients without retries; every failure and every answer's version is kept."""

import http.client
import json
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
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
def steady_load(
    url: str,
    body: object,
    *,
    per_second: float = 100,
    clients: int = CLIENTS,
    timeout_seconds: float = 10,
    headers: Mapping[str, str] | None = None,
) -> Iterator[Load]:
    """Send requests until the block ends; half of the clients keep their connection, half make a new one each time."""
    load, stop, lock = Load(), threading.Event(), threading.Lock()
    bodies = body if isinstance(body, list) else [body]
    where, payloads = urlsplit(url), [json.dumps(one).encode() for one in bodies]

    def ask(connection: http.client.HTTPConnection, payload: bytes) -> bool:
        """Whether the connection can be kept."""
        try:
            connection.request("POST", "/invocations", payload, {"Content-Type": "application/json", **(headers or {})})
            answer = connection.getresponse()
            text, digest = answer.read(), answer.headers.get("X-Windvane-Digest", "")
        except (OSError, http.client.HTTPException) as exc:
            with lock:
                load.failures.append(repr(exc)[:300])
            return False
        with lock:
            load.digests[digest] = load.digests.get(digest, 0) + (answer.status == 200)
            load.seen.append((time.time(), digest))
            if answer.status != 200:
                load.failures.append(f"{answer.status} {text[:200]!r}")
        return True

    def client(number: int) -> None:
        # a closed connection opens itself again with the next request
        with closing(http.client.HTTPConnection(where.hostname or "", where.port, timeout=timeout_seconds)) as connection:
            due, turn = time.monotonic() + number / per_second, number
            while not stop.wait(max(due - time.monotonic(), 0)):
                if not ask(connection, payloads[turn % len(payloads)]) or number % 2:
                    connection.close()
                # who waited long for an answer does not send at once all that was due meanwhile
                due = max(due + clients / per_second, time.monotonic() - 1)
                turn += 1

    threads = [threading.Thread(target=client, args=(number,)) for number in range(clients)]
    for thread in threads:
        thread.start()
    try:
        yield load
    finally:
        stop.set()
        for thread in threads:
            thread.join()
