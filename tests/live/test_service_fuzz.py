"""Whatever bytes come, the service refuses what is wrong with a 4xx, stays small, and answers everybody else meanwhile."""

import json
import math
import re
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import requests
from hostile_requests import (
    GOOD,
    INFER,
    INVOCATIONS,
    LYING_BINARY_DATA,
    OTHER_BODIES,
    RAW,
    ROW,
    SHAPES,
    WRONG_INFER_REQUESTS,
    bad_bodies,
    chunks,
    infer,
    near_valid,
    post,
)
from hypothesis import HealthCheck, given, settings
from service_process import JSON, MODEL, Service, make_bundle, running

from windvane.manage_keys import add_key
from windvane.settings import load_settings

pytestmark = [pytest.mark.live, pytest.mark.timeout(120)]

MAX_GROWTH_MIB = 60


def exchange(port: int, data: bytes | Iterable[bytes], *, seconds: float = 10, hang_up: bool = False) -> list[int]:
    """Send, and return the statuses of what came back until an answer was complete or the connection closed.

    Raises:
        TimeoutError: If there was neither.
    """
    with socket.create_connection(("127.0.0.1", port), timeout=seconds) as connection:
        received = b""
        try:
            for part in [data] if isinstance(data, bytes) else data:
                connection.sendall(part)
            if hang_up:
                connection.shutdown(socket.SHUT_WR)
            while not is_complete(received) and (part := connection.recv(65_536)):
                received += part
        except ConnectionError:
            pass
    return [int(status) for status in re.findall(rb"(?:^|\r\n|\})HTTP/1\.1 (\d{3}) ", received)]


def is_complete(received: bytes) -> bool:
    head, found, body = received.partition(b"\r\n\r\n")
    length = re.search(rb"(?i)content-length: *(\d+)", head)
    return bool(found and length and len(body) >= int(length[1]))


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    root = tmp_path_factory.mktemp("fuzz")
    with running(root, make_bundle(root, "onnx")) as service:
        for path in GOOD:
            assert exchange(service.port, post(path, GOOD[path])) == [200]
        yield service


@pytest.fixture
def watched(service: Service) -> Iterator[Service]:
    """The service while its health and memory are watched: healthy within a second all the time, small, and right afterwards."""
    before = service.rss_mib()
    stop, slowest, largest = threading.Event(), [0.0], [before]

    def watch() -> None:
        while not stop.wait(0.02):
            began = time.monotonic()
            assert requests.get(f"{service.url}/health", timeout=5).status_code == 200
            slowest.append(time.monotonic() - began)
            largest.append(service.rss_mib())

    with ThreadPoolExecutor(1) as pool:
        watching = pool.submit(watch)
        try:
            yield service
        finally:
            stop.set()
    watching.result()
    assert max(slowest) < 1
    assert max(*largest, service.rss_mib()) - before < MAX_GROWTH_MIB
    assert_right(service)


def assert_right(service: Service) -> None:
    """A good request gets the model's own prediction by both protocols."""
    frame = pd.DataFrame([ROW]).assign(at=pd.Timestamp(str(ROW["at"])).as_unit("us"))
    wanted = service.predictor.predict(frame).probabilities
    found = requests.post(service.url + INVOCATIONS, data=GOOD[INVOCATIONS], headers=JSON, timeout=5).json()["probabilities"]
    np.testing.assert_allclose(found, wanted, rtol=1e-9)
    outputs = requests.post(service.url + INFER, data=GOOD[INFER], headers=JSON, timeout=5).json()["outputs"]
    np.testing.assert_allclose([outputs[1]["data"]], wanted, rtol=1e-9)


@pytest.mark.parametrize(("path", "body"), bad_bodies())
def test_a_bad_body_is_refused(watched: Service, path: str, body: bytes) -> None:
    answer = requests.post(watched.url + path, data=body, headers=JSON, timeout=10)

    assert answer.status_code in (400, 413, 422), answer.text
    assert list(answer.json()) == ["error"]
    assert len(answer.text) < 2000
    assert "Traceback" not in answer.text


@pytest.mark.parametrize("path", list(GOOD))
def test_a_body_that_is_cut_anywhere_is_refused(watched: Service, path: str) -> None:
    session = requests.Session()
    statuses = {
        session.post(watched.url + path, data=GOOD[path][:end], headers=JSON, timeout=10).status_code for end in range(len(GOOD[path]))
    }
    assert statuses == {400}


@pytest.mark.parametrize(("headers", "body", "status"), OTHER_BODIES)
def test_another_kind_of_body_is_refused(watched: Service, headers: dict[str, str], body: bytes, status: int) -> None:
    answer = requests.post(watched.url + INVOCATIONS, data=body, headers=JSON | headers, timeout=10)

    assert answer.status_code == status, answer.text
    assert list(answer.json()) == ["error"]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_a_wrong_shape_is_refused(watched: Service, shape: Any) -> None:
    answer = requests.post(watched.url + INFER, json=infer(distance={"shape": shape}), timeout=10)
    assert answer.status_code in (400, 413), answer.text
    assert list(answer.json()) == ["error"]


@pytest.mark.parametrize("document", WRONG_INFER_REQUESTS)
def test_a_wrong_infer_request_is_refused(watched: Service, document: Any) -> None:
    answer = requests.post(watched.url + INFER, data=json.dumps(document), headers=JSON, timeout=10)

    assert answer.status_code in (400, 413), answer.text
    assert list(answer.json()) == ["error"]


@pytest.mark.parametrize(("body", "json_length"), LYING_BINARY_DATA)
def test_lying_binary_data_is_refused(watched: Service, body: bytes, json_length: str) -> None:
    headers = {"Content-Type": "application/octet-stream", "Inference-Header-Content-Length": json_length}
    answer = requests.post(watched.url + INFER, data=body, headers=headers, timeout=10)

    assert answer.status_code == 400, answer.text
    assert list(answer.json()) == ["error"]


@pytest.mark.parametrize("name", RAW)
def test_bytes_that_are_no_good_http_are_refused(watched: Service, name: str) -> None:
    statuses = exchange(watched.port, RAW[name]())
    assert all(400 <= status < 500 for status in statuses), statuses


def test_a_body_that_ends_too_early_scores_nothing(watched: Service) -> None:
    assert exchange(watched.port, post(INVOCATIONS, GOOD[INVOCATIONS], length=5000), hang_up=True) in ([], [400])


def test_garbage_after_a_good_request_ends_the_connection(watched: Service) -> None:
    with socket.create_connection(("127.0.0.1", watched.port), timeout=10) as connection:
        connection.sendall(post(INVOCATIONS, GOOD[INVOCATIONS]) + b"\x00\xffGARBAGE\r\n\r\n")
        received = b""
        try:
            while part := connection.recv(65_536):
                received += part
        except ConnectionError:
            pass
    statuses = [int(status) for status in re.findall(rb"HTTP/1\.1 (\d{3}) ", received)]
    assert statuses in ([200, 400], [200], [400])


def dribble(port: int, start: bytes, more: bytes, *, seconds: float) -> tuple[list[int], float]:
    """Send a little twice a second until there is an answer or the end: the statuses, and after how long."""
    began = time.monotonic()
    with socket.create_connection(("127.0.0.1", port)) as connection:
        received = b""
        try:
            connection.sendall(start)
            connection.settimeout(0.5)
            while time.monotonic() - began < seconds:
                try:
                    part = connection.recv(65_536)
                    if not part:
                        break
                    received += part
                    if is_complete(received):
                        break
                except TimeoutError:
                    connection.sendall(more)
        except ConnectionError:
            pass
    return [int(status) for status in re.findall(rb"HTTP/1\.1 (\d{3}) ", received)], time.monotonic() - began


def test_slow_clients_are_ended_while_others_are_served(watched: Service) -> None:
    chunked = next(chunks(b"", 0))
    kinds = [
        (b"", b""),
        (b"POST /invocations HTTP/1.1\r\n", b"X-A: b\r\n"),
        (b"POST /inv", b"o"),
        (post(INVOCATIONS, b"{", length=5000), b" "),
        (chunked, b"1\r\n \r\n"),
        (chunked, b""),
    ]
    with ThreadPoolExecutor(60) as pool:
        ends = [pool.submit(dribble, watched.port, *kind, seconds=40) for kind in kinds * 10]
        assert_right(watched)
        time.sleep(5)
        assert_right(watched)
        found = [end.result() for end in ends]
    assert all(status in (400, 408) for statuses, _ in found for status in statuses), found
    assert max(seconds for _, seconds in found) < 35


def test_many_connections_that_say_nothing_shut_nobody_out(watched: Service) -> None:
    silent = [socket.create_connection(("127.0.0.1", watched.port)) for _ in range(500)]
    try:
        assert_right(watched)
    finally:
        for connection in silent:
            connection.close()


def count_rows(path: str, document: dict[str, Any]) -> int:
    """How many rows a request that was accepted holds."""
    if path == INFER:
        return int(document["inputs"][0]["shape"][0])
    form = next(name for name in ("dataframe_split", "dataframe_records", "instances", "inputs") if name in document)
    value = document[form]
    if isinstance(value, list):
        return len(value)
    first = value["data"] if form == "dataframe_split" else value["seats"]
    return len(first) if isinstance(first, list) else 1


def finite(value: Any) -> bool:
    return all(map(finite, value)) if isinstance(value, list) else math.isfinite(value)


@pytest.fixture(scope="module")
def session() -> Iterator[requests.Session]:
    with requests.Session() as session:
        yield session


@settings(max_examples=1500, deadline=None, database=None, suppress_health_check=list(HealthCheck))
@given(near_valid())
def test_a_document_near_a_valid_one_is_answered_right_or_refused(
    service: Service, session: requests.Session, sent: tuple[str, Any]
) -> None:
    path, document = sent
    answer = session.post(service.url + path, data=json.dumps(document), headers=JSON, timeout=10)

    assert answer.status_code in (200, 400, 413, 415, 422), answer.text
    found = json.loads(answer.content, parse_constant=lambda text: pytest.fail(f"{text} in the answer"))
    if answer.status_code != 200:
        assert list(found) == ["error"]
        return
    rows = count_rows(path, document)
    if path == INFER:
        assert [output["shape"] for output in found["outputs"]] in ([[rows], [rows, 2]], [[rows]], [[rows, 2]])
        assert all(finite(output["data"]) for output in found["outputs"])
    else:
        assert len(found["predictions"]) == len(found["probabilities"]) == rows
        assert finite(found["predictions"])
        assert finite(found["probabilities"])


def schemathesis(service: Service, directory: Path, *options: str) -> str:
    """Run the checks of schemathesis against a service; fails with its report."""
    # 413 refuses, too; and that columns have equal lengths, or text is CSV with a header, a schema cannot say: good requests are elsewhere
    config = directory / "schemathesis.toml"
    config.write_text("[checks]\nnegative_data_rejection.expected-statuses = [400, 401, 404, 405, 413, 415, 422]\n")
    command = [str(Path(sys.executable).parent / "st"), "--config-file", str(config), "run", f"{service.url}/openapi.json", "--no-color"]
    checks = ["--checks", "all", "--exclude-checks", "positive_data_acceptance", "--max-response-time", "5", "--request-timeout", "10"]
    limits = ["--phases", "examples,coverage,fuzzing", "--continue-on-failure", "--seed", "1"]
    done = subprocess.run([*command, *checks, *limits, *options], capture_output=True, text=True, timeout=110, check=False, cwd=directory)
    assert done.returncode == 0, (done.stdout + done.stderr)[-6000:]
    return done.stdout


def test_schemathesis_finds_nothing(watched: Service, tmp_path: Path) -> None:
    assert {INVOCATIONS, INFER} <= set(requests.get(f"{watched.url}/openapi.json", timeout=5).json()["paths"])

    report = schemathesis(watched, tmp_path, "--max-examples", "100")

    generated = re.search(r"(\d+) generated", report)
    assert generated is not None, report
    assert int(generated[1]) > 300


def test_schemathesis_finds_nothing_with_an_api_key(tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path, "onnx")
    key = add_key(load_settings({"WINDVANE_VAR": str(tmp_path)}), MODEL)
    with running(tmp_path, bundle) as service:
        for path in GOOD:
            assert requests.post(service.url + path, data=GOOD[path], headers=JSON, timeout=5).status_code == 401
            assert requests.post(service.url + path, data=GOOD[path], headers=JSON | {"X-API-Key": key}, timeout=5).status_code == 200

        schemathesis(service, tmp_path, "--max-examples", "30", "--header", f"Authorization: Bearer {key}")


def test_refused_bodies_leave_nothing_behind(service: Service) -> None:
    body = b'{"instances":[' + b"{}," * 300_000 + b"{}]}"
    before = service.rss_mib()
    for _ in range(40):
        assert requests.post(service.url + INVOCATIONS, data=body, headers=JSON, timeout=10).status_code == 413
    assert service.rss_mib() - before < MAX_GROWTH_MIB
