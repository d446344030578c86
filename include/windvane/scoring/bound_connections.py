"""A limit that uvicorn does not have: a client must send its request line and headers in time."""

import asyncio
from typing import Any

from uvicorn.config import Config
from uvicorn.importer import import_from_string

HEADER_SECONDS = 20.0
HEADER_BYTES = 65_536


def bounded_protocol(header_seconds: float = HEADER_SECONDS) -> type[asyncio.Protocol]:
    """Make a variant of uvicorn's fastest installed HTTP protocol that closes connections on which no complete headers arrive.

    The clock starts with the connection and with the first byte of each later request; a connection that waits between two
    requests is left to uvicorn's keep-alive timeout.
    """
    base: Any = import_from_string("uvicorn.protocols.http.auto:AutoHTTPProtocol")

    class BoundedProtocol(base):  # type: ignore[misc]
        def connection_made(self, transport: asyncio.Transport) -> None:
            super().connection_made(transport)
            self._cycle_before = None
            self._head_bytes = 0
            self._deadline = self.loop.call_later(header_seconds, self._close_if_waiting)

        def on_headers_complete(self) -> None:
            if self.parser.get_http_version() in ("1.0", "1.1"):
                super().on_headers_complete()
            else:
                self.send_400_response("allowed are HTTP/1.0 and HTTP/1.1")

        def data_received(self, data: bytes) -> None:
            if self._deadline is None and not self._is_answering():
                self._cycle_before = self.cycle
                self._deadline = self.loop.call_later(header_seconds, self._close_if_waiting)
            self._head_bytes = self._head_bytes + len(data) if self._deadline is not None else 0
            super().data_received(data)
            if self.cycle is not self._cycle_before:
                self._disarm()
            elif self._head_bytes > HEADER_BYTES and not self.transport.is_closing():
                self.transport.write(b"HTTP/1.1 431 Request Header Fields Too Large\r\nconnection: close\r\ncontent-length: 0\r\n\r\n")
                self.transport.close()

        def connection_lost(self, exc: Exception | None) -> None:
            self._disarm()
            super().connection_lost(exc)

        def _is_answering(self) -> bool:
            return self.cycle is not None and not self.cycle.response_complete

        def _disarm(self) -> None:
            if self._deadline is not None:
                self._deadline.cancel()
                self._deadline = None

        def _close_if_waiting(self) -> None:
            self._deadline = None
            if not self._is_answering():
                self.transport.close()

    return BoundedProtocol


def server_config(app: Any, *, keep_alive_seconds: int = 75, stop_seconds: int = 20) -> Config:
    """uvicorn's settings for the scoring service: no access log, no WebSockets, bounded connections, headers and times."""
    return Config(
        app,
        http=bounded_protocol(),
        ws="none",
        access_log=False,
        log_config=None,
        server_header=False,
        lifespan="on",
        limit_concurrency=2048,
        backlog=2048,
        timeout_keep_alive=keep_alive_seconds,
        timeout_graceful_shutdown=stop_seconds,
        h11_max_incomplete_event_size=65_536,
    )
