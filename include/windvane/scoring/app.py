"""The HTTP side of the scoring service: MLflow's protocol, the Open Inference Protocol, health, what serves, metrics."""

import asyncio
import logging
import os
import re
import time
from collections.abc import Awaitable, Callable, Mapping
from importlib.metadata import PackageNotFoundError, version
from itertools import count
from typing import Any, Literal, NamedTuple

import orjson

from windvane.scoring.answer_infer import describe_model
from windvane.scoring.batch_requests import ANSWER_SECONDS, Batcher
from windvane.scoring.check_key import KeyCheck
from windvane.scoring.count_requests import Counts
from windvane.scoring.describe_service import describe_service
from windvane.scoring.log_requests import RequestLog
from windvane.scoring.read_body import BODY_SECONDS, BodyReader
from windvane.scoring.request_error import RequestError
from windvane.scoring.score_request import Job, Scored
from windvane.scoring.serve_version import Served, ServingSlot

log = logging.getLogger(__name__)

_REQUEST_ID = re.compile(rb"[A-Za-z0-9._:/+=-]{1,128}")
_JSON = b"application/json"
_TEXT = b"text/plain; charset=utf-8"
_GET = frozenset({"GET", "HEAD"})
_POST = frozenset({"POST"})

Scope = dict[str, Any]
Receive = Callable[[], Awaitable[dict[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]


class _Response(NamedTuple):
    status: int
    body: bytes
    media_type: bytes = _JSON
    served: Served | None = None
    headers: tuple[tuple[bytes, bytes], ...] = ()


class _Call(NamedTuple):
    headers: dict[bytes, bytes]
    receive: Receive
    request_id: bytes
    version: str | None


class _Route(NamedTuple):
    methods: frozenset[str]
    answer: Callable[[_Call], Awaitable[_Response]]
    scoring: bool = False
    guarded: bool = False


class Service:
    """The ASGI application."""

    def __init__(
        self,
        slot: ServingSlot,
        *,
        model: str,
        requests: RequestLog,
        counts: Counts,
        keys: KeyCheck | None = None,
        on_start: Callable[[], None] = lambda: None,
        on_stop: Callable[[], None] = lambda: None,
        body_seconds: float = BODY_SECONDS,
        answer_seconds: float = ANSWER_SECONDS,
    ) -> None:
        """Make the service.

        Args:
            slot: Holds what serves.
            model: Name of the model, part of the paths of the Open Inference Protocol.
            requests: Where answered rows go; started and closed with the service.
            counts: What `/metrics` shows.
            keys: Who may ask for scores; default everybody.
            on_start: Called when the service starts, before the first request.
            on_stop: Called when the last request is answered.
            body_seconds: How long a client may take to send a body.
            answer_seconds: How long an answer may take.
        """
        self._slot = slot
        self._model = model
        self._requests = requests
        self._counts = counts
        self._keys = keys or KeyCheck(None)
        self._on_start = on_start
        self._on_stop = on_stop
        self._bodies = BodyReader(body_seconds)
        self._batcher = Batcher(on_scored=self._scored, answer_seconds=answer_seconds)
        self._started = os.urandom(8).hex()
        self._numbers = count()
        self._headers: tuple[Served | None, list[tuple[bytes, bytes]]] = (None, [])
        of_model = f"/v2/models/{model}"
        self._versions = f"{of_model}/versions/"
        self._routes: Mapping[str, _Route] = {
            "/invocations": _Route(_POST, self._invocations, scoring=True, guarded=True),
            f"{of_model}/infer": _Route(_POST, self._infer, scoring=True, guarded=True),
            of_model: _Route(_GET, self._metadata, guarded=True),
            f"{of_model}/ready": _Route(_GET, self._model_ready, guarded=True),
            "/v2": _Route(_GET, self._server),
            "/v2/health/live": _Route(_GET, self._live),
            "/v2/health/ready": _Route(_GET, self._ready),
            "/ping": _Route(_GET, self._health),
            "/health": _Route(_GET, self._health),
            "/ready": _Route(_GET, self._health),
            "/version": _Route(_GET, self._protocol),
            "/model": _Route(_GET, self._state),
            "/metrics": _Route(_GET, self._metrics),
            "/openapi.json": _Route(_GET, self._openapi, guarded=True),
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or follow the life of the server."""
        if scope["type"] == "lifespan":
            await self._live_on(receive, send)
            return
        began = time.perf_counter()
        self._counts.in_flight += 1
        try:
            path, route, version = self._find(scope["path"])
            headers = dict(scope["headers"])
            request_id = self._request_id(headers)
            response = await self._answer(route, scope["method"], _Call(headers, receive, request_id, version))
            head = [
                (b"content-type", response.media_type),
                (b"content-length", b"%d" % len(response.body)),
                (b"x-request-id", request_id),
                *self._version_headers(response.served or self._slot.current),
                *response.headers,
            ]
            self._counts.answered(path, response.status, time.perf_counter() - began, scoring=route is not None and route.scoring)
            await send({"type": "http.response.start", "status": response.status, "headers": head})
            await send({"type": "http.response.body", "body": response.body})
        finally:
            self._counts.in_flight -= 1

    async def _answer(self, route: _Route | None, method: str, call: _Call) -> _Response:
        try:
            if route is None:
                raise RequestError(404, f"no such path; see /openapi.json, /invocations, /v2/models/{self._model}, /model, /metrics")
            if method not in route.methods:
                allowed = ", ".join(sorted(route.methods))
                refused = self._refuse(RequestError(405, f"the path does not allow this method, allowed is {allowed}"))
                return refused._replace(headers=((b"allow", allowed.encode()),))
            if route.guarded:
                self._keys.check(call.headers)
            return await route.answer(call)
        except RequestError as exc:
            return self._refuse(exc)
        except Exception as exc:
            log.exception("a defect of the scoring service")
            return self._refuse(RequestError(500, f"a defect of the scoring service: {type(exc).__name__}; its log says more"))

    def _refuse(self, error: RequestError) -> _Response:
        self._counts.refused(error.kind)
        headers: list[tuple[bytes, bytes]] = []
        if error.close:
            headers.append((b"connection", b"close"))
        if error.status == 401:
            headers.append((b"www-authenticate", b"Bearer"))
        if error.status == 503:
            headers.append((b"retry-after", b"1"))
        return _Response(error.status, orjson.dumps({"error": str(error)}), headers=tuple(headers))

    def _find(self, path: str) -> tuple[str, _Route | None, str | None]:
        """The route's own path, the route, and the version that the path names."""
        route = self._routes.get(path)
        if route is not None:
            return path, route, None
        if path.startswith(self._versions):
            version, slash, rest = path[len(self._versions) :].partition("/")
            known = f"{self._versions[: -len('/versions/')]}{slash}{rest}"
            # /versions/<v>/ with nothing behind the last slash is no path
            if version and (rest or not slash) and "/" not in rest and known in self._routes:
                return known, self._routes[known], version
        # an unknown path is a client's choice: as a label it would grow without bound
        return "other", None, None

    def _request_id(self, headers: Mapping[bytes, bytes]) -> bytes:
        given = headers.get(b"x-request-id")
        if given is not None and _REQUEST_ID.fullmatch(given):
            return given
        return f"{self._started}{next(self._numbers):016x}".encode()

    def _version_headers(self, served: Served | None) -> list[tuple[bytes, bytes]]:
        if served is None:
            return []
        known, headers = self._headers
        if known is not served:
            headers = [(b"x-windvane-version", str(served.version).encode()), (b"x-windvane-digest", served.digest.encode())]
            self._headers = (served, headers)
        return headers

    async def _invocations(self, call: _Call) -> _Response:
        content_type = call.headers.get(b"content-type")
        return await self._score("mlflow", call, content_type.decode("latin-1") if content_type is not None else None)

    async def _infer(self, call: _Call) -> _Response:
        length = call.headers.get(b"inference-header-content-length")
        return await self._score("infer", call, length.decode("latin-1") if length is not None else None)

    async def _score(self, protocol: Literal["mlflow", "infer"], call: _Call, detail: str | None) -> _Response:
        received = time.time_ns() // 1000
        served = self._current(call)
        if self._batcher.full:
            raise RequestError(503, "too many requests wait already; try again")
        if b"content-encoding" in call.headers:
            raise RequestError(415, "Content-Encoding: compressed bodies are not allowed; send the body as it is")
        body = await self._bodies.read(call.headers, call.receive)
        job = Job(protocol, body, detail, call.request_id.decode(), received, time.perf_counter())
        try:
            answer = await self._batcher.submit(served, job)
        except RequestError as exc:
            if exc.__cause__ is not None and exc.status == 422:
                log.warning("%s version %d: %s", self._model, served.version, exc.__cause__)
            return self._refuse(exc)._replace(served=served)
        if answer.json_length is None:
            return _Response(200, answer.body, served=served)
        length = b"%d" % answer.json_length
        return _Response(200, answer.body, b"application/octet-stream", served, ((b"inference-header-content-length", length),))

    def _scored(self, served: Served, scored: Scored) -> None:
        for rows in scored.rows:
            self._requests.put(rows)
            self._counts.scored(rows, classifier=served.predictor.classes is not None)

    def _current(self, call: _Call) -> Served:
        """What serves, if it is what the path names."""
        served = self._slot.current
        if served is None:
            raise RequestError(
                503,
                self._slot.error or f"no version of '{self._model}' serves yet; run {self._model}__train and {self._model}__deploy",
                kind="no_version",
            )
        if call.version is not None and call.version != str(served.version):
            raise RequestError(404, f"another version is asked for than version {served.version}, which serves; leave the version out")
        return served

    def _check_ready(self) -> None:
        if self._slot.current is None:
            raise RequestError(503, self._slot.error or "no version is loaded yet", kind="no_version")
        if self._batcher.stuck:
            raise RequestError(503, "predictions hang; start the service again", kind="timeout")

    async def _health(self, _call: _Call) -> _Response:
        self._check_ready()
        return _Response(200, b"OK\n", _TEXT)

    async def _server(self, _call: _Call) -> _Response:
        return _response({"name": "windvane", "version": _version_of("windvane") or "0", "extensions": ["binary_tensor_data"]})

    async def _live(self, _call: _Call) -> _Response:
        return _response({"live": True})

    async def _ready(self, _call: _Call) -> _Response:
        self._check_ready()
        return _response({"ready": True})

    async def _model_ready(self, call: _Call) -> _Response:
        self._current(call)
        self._check_ready()
        return _response({"name": self._model, "ready": True})

    async def _metadata(self, call: _Call) -> _Response:
        served = self._current(call)
        return _response(
            describe_model(served.layout, served.outputs, model=self._model, version=served.version, runtime=served.predictor.runtime)
        )

    async def _openapi(self, call: _Call) -> _Response:
        guarded = [path for path, route in self._routes.items() if route.guarded]
        return _response(describe_service(self._current(call), guarded=guarded, keys_needed=self._keys.needed))

    async def _protocol(self, _call: _Call) -> _Response:
        # the version of MLflow whose protocol is spoken; a container does not have MLflow installed
        return _Response(200, (_version_of("mlflow") or _version_of("mlflow-skinny") or "3").encode(), _TEXT)

    async def _state(self, _call: _Call) -> _Response:
        slot, served = self._slot, self._slot.current
        serving = served and {
            "version": served.version,
            "digest": served.digest,
            "epoch": slot.epoch,
            "since": served.since.isoformat(),
            "task": served.predictor.bundle.manifest["task"],
            "runtime": served.predictor.runtime,
        }
        wanted = slot.wanted.as_json() if slot.wanted else None
        signature = served and [column.as_json() for column in served.layout.columns]
        # what serves stands at the top too, for who only asks that
        top = {"model": self._model, "version": served and served.version, "digest": served and served.digest}
        state = top | {"serving": serving, "wanted": wanted, "error": slot.error, "ledger_error": slot.ledger_error}
        return _response(state | {"signature": signature})

    async def _metrics(self, _call: _Call) -> _Response:
        served, wanted = self._slot.current, self._slot.wanted
        in_line = served is not None and (wanted is None or (served.version, served.digest) == (wanted.version, wanted.digest))
        figures = self._counts.render(served=served, in_line=in_line)
        return _Response(200, figures, self._counts.content_type.encode())

    async def _live_on(self, receive: Receive, send: Send) -> None:
        while True:
            message = await receive()
            if message["type"] == "lifespan.startup":
                self._batcher.start()
                self._requests.start()
                self._on_start()
                await send({"type": "lifespan.startup.complete"})
            else:
                await asyncio.to_thread(self._on_stop)
                self._batcher.stop()
                await asyncio.to_thread(self._requests.close)
                await send({"type": "lifespan.shutdown.complete"})
                return


def _response(content: Any) -> _Response:
    return _Response(200, orjson.dumps(content))


def _version_of(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
