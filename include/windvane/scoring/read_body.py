"""Reads the bodies of requests within bounds of size, time and memory."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from windvane.scoring.parse_request import MAX_BODY_BYTES
from windvane.scoring.request_error import RequestError

BODY_SECONDS = 20.0
_DRAIN_BYTES = 100_000_000
_HELD_BYTES = 200_000_000

Receive = Callable[[], Awaitable[dict[str, Any]]]


class BodyReader:
    """Reads bodies, and knows how much of unfinished ones is in memory."""

    def __init__(self, seconds: float = BODY_SECONDS) -> None:
        self._seconds = seconds
        self._held_bytes = 0

    async def read(self, headers: Mapping[bytes, bytes], receive: Receive) -> bytes:
        """Read the body of one request.

        One that is too long is read on for a while, because most clients look for an answer only after they sent it.

        Raises:
            RequestError: 400 if the client leaves, 408 if it is too slow, 413 if it sends too much, 503 if too many do so at once.
        """
        declared = headers.get(b"content-length", b"")
        most = MAX_BODY_BYTES if b"expect" in headers else _DRAIN_BYTES
        if declared.isdigit() and (len(declared) > 18 or int(declared) > most):
            raise _too_large(close=True)
        parts: list[bytes] = []
        size = held = 0
        try:
            async with asyncio.timeout(self._seconds):
                while True:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        raise RequestError(400, "body: the client left before it was complete", close=True)
                    part: bytes = message["body"]
                    if not message["more_body"] and not size and len(part) <= MAX_BODY_BYTES:
                        return part
                    size += len(part)
                    if size > _DRAIN_BYTES:
                        raise _too_large(close=True)
                    if size <= MAX_BODY_BYTES:
                        parts.append(part)
                        held += len(part)
                        self._held_bytes += len(part)
                        if self._held_bytes > _HELD_BYTES:
                            raise RequestError(503, "too many large requests come at once; try again", close=True)
                    else:
                        parts.clear()
                    if not message["more_body"]:
                        break
        except TimeoutError as exc:
            raise RequestError(408, f"body: did not arrive within {self._seconds:g} s", close=True) from exc
        finally:
            self._held_bytes -= held
        if size > MAX_BODY_BYTES:
            raise _too_large(close=False)
        return b"".join(parts)


def _too_large(*, close: bool) -> RequestError:
    return RequestError(413, f"body: allowed are {MAX_BODY_BYTES} bytes; send fewer rows per request", close=close)
