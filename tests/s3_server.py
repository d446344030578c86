"""A real S3 API on 127.0.0.1 for tests: moto's server in a process of its own, with conditional writes that are atomic.

moto honours If-None-Match and If-Match, but looks first and writes then; a real store does both in one step. So writes wait for
each other here. Requests are counted, and can be made to fail.
"""

import contextlib
import json
import os
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

SECRET = "canary-secret-of-the-tests"
KEY = "CANARYKEYOFTHETESTS"


@dataclass(frozen=True)
class S3:
    """A running server with one bucket."""

    url: str
    bucket: str

    def uri(self, name: str) -> str:
        """A place in the bucket."""
        return f"s3://{self.bucket}/{name}"

    @property
    def environment(self) -> dict[str, str]:
        """What a client needs, as a person would set it."""
        return {
            "AWS_ENDPOINT_URL": self.url,
            "AWS_ACCESS_KEY_ID": KEY,
            "AWS_SECRET_ACCESS_KEY": SECRET,
            "AWS_REGION": "us-east-1",
            "AWS_ALLOW_HTTP": "true",
        }

    def requests(self) -> Counter[str]:
        """How many requests were answered, by method, since the last time this was asked."""
        return Counter(_ask(f"{self.url}/_control", {}))

    def mend(self) -> None:
        """Answer everything as it should be from now on."""
        _ask(f"{self.url}/_control", {"method": None})

    def fail(self, method: str, name: str, *, status: int, times: int = 1, body: str = "", cut: int | None = None) -> None:
        """Answer the next requests whose path contains the name with an error; with `cut`, with so many bytes of the answer only."""
        _ask(f"{self.url}/_control", {"method": method, "name": name, "status": status, "times": times, "body": body, "cut": cut})


def start_s3(port: int) -> subprocess.Popen[bytes]:
    """Start the server and wait until it answers."""
    process = subprocess.Popen([sys.executable, __file__, str(port)], stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    give_up = time.monotonic() + 60
    while True:
        try:
            _ask(f"http://127.0.0.1:{port}/_control", {})
        except OSError:
            if process.poll() is not None or time.monotonic() > give_up:
                process.kill()
                raise
            time.sleep(0.1)
        else:
            return process


@contextlib.contextmanager
def serve_s3() -> Iterator[S3]:
    """A server with an empty bucket, up for the time of the block."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    process = start_s3(port)
    # a client is made once for each bucket: the name tells servers apart
    server = S3(f"http://127.0.0.1:{port}", bucket=f"windvane-{port}")
    try:
        request = urllib.request.Request(f"{server.url}/{server.bucket}", method="PUT")
        urllib.request.urlopen(request, timeout=20).close()
        yield server
    finally:
        process.terminate()
        process.wait(20)


def _ask(url: str, rule: dict[str, Any]) -> Any:
    request = urllib.request.Request(url, data=json.dumps(rule).encode(), method="POST")
    with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=5) as answer:
        return json.load(answer)


class _Controlled:
    def __init__(self, app: Any) -> None:
        self._app = app
        self._writing = threading.Lock()
        self._counts: Counter[str] = Counter()
        self._rules: list[dict[str, Any]] = []

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Any:
        method, path = environ["REQUEST_METHOD"], environ["PATH_INFO"]
        if path == "/_control":
            return self._control(environ, start_response)
        self._counts[method] += 1
        for rule in self._rules:
            if rule["times"] and method == rule["method"] and rule["name"] in path and rule["cut"] is None:
                rule["times"] -= 1
                environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
                start_response(f"{rule['status']} Error", [("Content-Type", "application/xml")])
                return [rule["body"].encode()]
        if method in ("PUT", "POST", "DELETE"):
            with self._writing:
                return list(self._app(environ, start_response))
        content = self._app(environ, start_response)
        for rule in self._rules:
            if rule["times"] and method == rule["method"] and rule["name"] in path:
                rule["times"] -= 1
                return [b"".join(content)[: rule["cut"]]]
        return content

    def _control(self, environ: dict[str, Any], start_response: Any) -> Any:
        rule = json.loads(environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0)) or b"{}")
        counts, self._counts = self._counts, Counter()
        if rule:
            self._rules = [*self._rules, rule] if rule["method"] else []
        start_response("200 OK", [("Content-Type", "application/json")])
        return [json.dumps(counts).encode()]


def main(port: int) -> None:
    """Serve until a signal."""
    os.environ.setdefault("MOTO_S3_ALLOW_CROSSACCOUNT_ACCESS", "true")
    from moto.server import DomainDispatcherApplication, create_backend_app
    from werkzeug.serving import WSGIRequestHandler, make_server

    class Handler(WSGIRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_request(self, *_: Any) -> None:
            pass

    app = _Controlled(DomainDispatcherApplication(create_backend_app))
    make_server("127.0.0.1", port, app, threaded=True, request_handler=Handler).serve_forever()


if __name__ == "__main__":
    main(int(sys.argv[1]))
