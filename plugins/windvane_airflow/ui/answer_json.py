"""Answers with JSON, errors too, and gives every answer headers that keep a browser from doing more with it."""

import json
import logging
from typing import Any

import orjson
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import Response
from sqlalchemy.exc import DBAPIError
from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from windvane.errors import ConfigError, ServiceUnavailable, StaleEpoch, StorageError, WindvaneError

log = logging.getLogger(__name__)

_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}


def as_json(value: Any, status: int = 200) -> Response:
    """Send a value that is JSON-ready; text that is no valid Unicode does not break it."""
    try:
        content = orjson.dumps(value)
    except TypeError:  # half of an emoji, which UTF-8 cannot hold
        content = json.dumps(value, allow_nan=False).encode()
    return Response(content, status_code=status, media_type="application/json")


class CarefulHeaders:
    """Adds the headers that a route does not set itself."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on and complete its answer."""

        async def complete(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in _HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        await self._app(scope, receive, complete)


def explain_errors(app: FastAPI) -> None:
    """Answer Windvane's errors with a status that tells the truth, and wrong parameters in one line."""

    @app.exception_handler(WindvaneError)
    def failed(request: Request, error: WindvaneError) -> Response:
        if isinstance(error, StaleEpoch):
            return as_json({"detail": str(error)}, 409)
        if isinstance(error, ConfigError):
            return as_json({"detail": str(error)}, 404 if request.method == "GET" else 422)
        return as_json({"detail": str(error)}, 503 if isinstance(error, ServiceUnavailable | StorageError) else 500)

    @app.exception_handler(DBAPIError)
    def away(request: Request, error: DBAPIError) -> Response:
        log.error("Airflow's database: %s", error.orig)
        return as_json({"detail": "Airflow's database does not answer; the web server's log says why"}, 503)

    @app.exception_handler(RequestValidationError)
    def invalid(request: Request, error: RequestValidationError) -> Response:
        problems = [f"{'.'.join(str(part) for part in problem['loc'])}: {problem['msg']}" for problem in error.errors()[:5]]
        return as_json({"detail": "; ".join(problems)[:1000]}, 422)
