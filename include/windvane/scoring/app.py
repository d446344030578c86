"""The HTTP side of the scoring service: MLflow's protocol, health, what serves, metrics."""

import asyncio
import logging
import re
import time
import uuid
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from functools import partial
from importlib.metadata import PackageNotFoundError, version

from starlette.applications import Starlette
from starlette.datastructures import MutableHeaders
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from windvane.scoring.count_requests import Counts
from windvane.scoring.log_requests import RequestLog
from windvane.scoring.parse_request import MAX_BODY_BYTES
from windvane.scoring.request_error import RequestError
from windvane.scoring.score_request import score_request
from windvane.scoring.serve_version import Served, ServingSlot

log = logging.getLogger(__name__)

BODY_SECONDS = 20.0
ANSWER_SECONDS = 60.0
MAX_WAITING = 512
_DRAIN_BYTES = 100_000_000
_WORKERS = 2
_REQUEST_ID = re.compile(r"[A-Za-z0-9._:/+=-]{1,128}")


def make_app(
    slot: ServingSlot,
    *,
    model: str,
    requests: RequestLog,
    counts: Counts,
    on_start: Callable[[], None] = lambda: None,
    on_stop: Callable[[], None] = lambda: None,
    body_seconds: float = BODY_SECONDS,
) -> Starlette:
    """Make the service.

    Args:
        slot: Holds what serves.
        model: Name of the model, for `/model`.
        requests: Where answered rows go; started and closed with the service.
        counts: What `/metrics` shows.
        on_start: Called when the service starts, before the first request.
        on_stop: Called when the last request is answered.
        body_seconds: How long a client may take to send a body.
    """
    service = _Service(slot, model=model, requests=requests, counts=counts, body_seconds=body_seconds)

    @asynccontextmanager
    async def lifespan(_app: Starlette) -> AsyncIterator[None]:
        requests.start()
        on_start()
        try:
            yield
        finally:
            await asyncio.to_thread(on_stop)
            service.pool.shutdown(wait=True, cancel_futures=True)
            await asyncio.to_thread(requests.close)

    app = Starlette(
        routes=[
            Route("/invocations", service.invocations, methods=["POST"]),
            Route("/ping", service.health),
            Route("/health", service.health),
            Route("/ready", service.health),
            Route("/version", service.version),
            Route("/model", service.model),
            Route("/metrics", service.metrics),
        ],
        exception_handlers={HTTPException: _http_error, Exception: _defect},
        lifespan=lifespan,
    )
    app.add_middleware(_Observe, slot=slot, counts=counts)
    return app


class _Service:
    def __init__(self, slot: ServingSlot, *, model: str, requests: RequestLog, counts: Counts, body_seconds: float) -> None:
        self._slot = slot
        self._model = model
        self._requests = requests
        self._counts = counts
        self._body_seconds = body_seconds
        self._waiting = 0
        self.pool = ThreadPoolExecutor(max_workers=_WORKERS, thread_name_prefix="score")

    async def invocations(self, request: Request) -> Response:
        received = datetime.now(UTC)
        served = self._slot.current
        try:
            if "content-encoding" in request.headers:
                raise RequestError(415, "Content-Encoding: compressed bodies are not allowed; send the body as it is")
            body = await _read_body(request, self._body_seconds)
        except RequestError as exc:
            return _refuse(exc)
        if served is None:
            return _unavailable(
                self._slot.error or f"no version of '{self._model}' serves yet; run {self._model}__train and {self._model}__deploy"
            )
        if self._waiting >= MAX_WAITING:
            return _unavailable(f"{MAX_WAITING} requests wait already; try again")
        self._waiting += 1
        try:
            request_id = request.scope["state"]["request_id"]
            score = partial(score_request, served, body, request.headers.get("content-type"), request_id=request_id, received=received)
            answer = await asyncio.wait_for(asyncio.get_running_loop().run_in_executor(self.pool, score), ANSWER_SECONDS)
        except RequestError as exc:
            if exc.__cause__ is not None and exc.status == 422:
                log.warning("%s version %d: %s", self._model, served.version, exc.__cause__)
            return _refuse(exc, served=served)
        except TimeoutError:
            return _unavailable(f"no answer within {ANSWER_SECONDS:g} s; send fewer rows or try again")
        finally:
            self._waiting -= 1
        self._requests.put(answer.scored)
        self._counts.scored(served.version, answer.scored.rows)
        return Response(answer.body, media_type="application/json", headers=_version_headers(served))

    async def health(self, _request: Request) -> Response:
        if self._slot.current is None:
            return _unavailable(self._slot.error or "no version is loaded yet")
        return PlainTextResponse("OK\n")

    async def version(self, _request: Request) -> Response:
        return PlainTextResponse(_protocol_version())

    async def model(self, _request: Request) -> Response:
        slot, served = self._slot, self._slot.current
        serving = served and {
            "version": served.version,
            "digest": served.digest,
            "epoch": slot.epoch,
            "since": served.since.isoformat(),
            "task": served.predictor.bundle.manifest["task"],
            "warnings": list(served.warnings),
        }
        wanted = slot.wanted.as_json() if slot.wanted else None
        signature = served and [column.as_json() for column in served.layout.columns]
        # what serves stands at the top too, for who only asks that
        top = {"model": self._model, "version": served and served.version, "digest": served and served.digest}
        state = top | {"serving": serving, "wanted": wanted, "error": slot.error, "ledger_error": slot.ledger_error}
        return JSONResponse(state | {"signature": signature})

    async def metrics(self, _request: Request) -> Response:
        served, wanted = self._slot.current, self._slot.wanted
        in_line = served is not None and (wanted is None or (served.version, served.digest) == (wanted.version, wanted.digest))
        figures = self._counts.render(version=served.version if served else None, in_line=in_line)
        return Response(figures, media_type=self._counts.content_type)


class _Observe:
    """Names every request, says in every answer which version gave it, and counts."""

    def __init__(self, app: ASGIApp, *, slot: ServingSlot, counts: Counts) -> None:
        self._app = app
        self._slot = slot
        self._counts = counts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began = time.perf_counter()
        request_id = _request_id(scope)
        scope.setdefault("state", {})["request_id"] = request_id

        async def observed(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers["X-Request-Id"] = request_id
                if self._slot.current is not None:
                    for name, value in _version_headers(self._slot.current).items():
                        headers.setdefault(name, value)
                # an unknown path is a client's choice: as a label it would grow without bound
                path = scope["path"] if message["status"] not in (404, 405) else "other"
                self._counts.answered(path, message["status"], time.perf_counter() - began)
            await send(message)

        await self._app(scope, receive, observed)


def _request_id(scope: Scope) -> str:
    for name, value in scope["headers"]:
        if name == b"x-request-id":
            text = value.decode("latin-1")
            if _REQUEST_ID.fullmatch(text):
                return str(text)
    return uuid.uuid4().hex


async def _read_body(request: Request, seconds: float) -> bytes:
    """Read the body; one that is too long is read on for a while, because most clients look for an answer only after they sent it."""
    parts, size = [], 0
    declared = request.headers.get("content-length", "")
    if declared.isdecimal() and (len(declared) > 18 or int(declared) > (MAX_BODY_BYTES if "expect" in request.headers else _DRAIN_BYTES)):
        raise _too_large(close=True)
    try:
        async with asyncio.timeout(seconds):
            async for part in request.stream():
                size += len(part)
                if size > _DRAIN_BYTES:
                    raise _too_large(close=True)
                if size <= MAX_BODY_BYTES:
                    parts.append(part)
                else:
                    parts.clear()
    except TimeoutError as exc:
        raise RequestError(408, f"body: did not arrive within {seconds:g} s", close=True) from exc
    except ClientDisconnect as exc:
        raise RequestError(400, "body: the client left before it was complete", close=True) from exc
    if size > MAX_BODY_BYTES:
        raise _too_large(close=False)
    return b"".join(parts)


def _too_large(*, close: bool) -> RequestError:
    return RequestError(413, f"body: allowed are {MAX_BODY_BYTES} bytes; send fewer rows per request", close=close)


def _version_headers(served: Served) -> dict[str, str]:
    return {"X-Windvane-Version": str(served.version), "X-Windvane-Digest": served.digest}


def _refuse(error: RequestError, *, served: Served | None = None) -> Response:
    headers = _version_headers(served) if served else {}
    if error.close:
        headers["Connection"] = "close"
    return JSONResponse({"error": str(error)}, status_code=error.status, headers=headers)


def _unavailable(message: str) -> Response:
    return JSONResponse({"error": message}, status_code=503, headers={"Retry-After": "1"})


async def _http_error(_request: Request, error: Exception) -> Response:
    status = error.status_code if isinstance(error, HTTPException) else 500
    headers = error.headers if isinstance(error, HTTPException) else None
    known = {
        404: "no such path; see /invocations, /ping, /health, /ready, /version, /model, /metrics",
        405: "the path does not allow this method",
    }
    return JSONResponse({"error": known.get(status, f"HTTP status {status}")}, status_code=status, headers=headers)


async def _defect(_request: Request, error: Exception) -> Response:
    return JSONResponse({"error": f"a defect of the scoring service: {type(error).__name__}; its log says more"}, status_code=500)


def _protocol_version() -> str:
    """The version of MLflow whose protocol is spoken; a container does not have MLflow installed."""
    for package in ("mlflow", "mlflow-skinny"):
        try:
            return version(package)
        except PackageNotFoundError:
            continue
    return "3"
