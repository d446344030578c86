"""A real server: MLflow's own client, hostile bytes, and switches of versions under load."""

import http.client
import json
import os
import re
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import requests
from test_scoring_bundles import make_bundle, rows

from windvane.collect_predictions import read_segment
from windvane.ledger import Ledger
from windvane.manage_keys import add_key, list_keys, remove_key
from windvane.settings import load_settings

ROW = {"carrier": "UA", "distance": 500.0, "seats": 180, "night": None, "at": "2013-02-01T06:00:00Z"}
JSON = {"Content-Type": "application/json"}


class Server:
    """A scoring server process."""

    def __init__(self, var, *options):
        command = [sys.executable, "-m", "windvane.scoring", "--port", "0", "--poll", "0.05", *options]
        self.log = var / "server.log"
        with self.log.open("wb") as log:
            environ = os.environ | {"WINDVANE_VAR": str(var)}
            self.process = subprocess.Popen(command, env=environ, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        found = self.wait(lambda: re.search(r"listens on http://(\S+):(\d+)", self.log.read_text()))
        self.host, self.port = found[1], int(found[2])
        self.url = f"http://{self.host}:{self.port}"

    def wait(self, condition, seconds=30):
        end = time.monotonic() + seconds
        while not (found := condition()):
            assert self.process.poll() is None, self.log.read_text()
            assert time.monotonic() < end, self.log.read_text()
            time.sleep(0.02)
        return found

    def model(self):
        return requests.get(f"{self.url}/model", timeout=10).json()

    def wait_for_version(self, version):
        self.wait(lambda: self.model()["version"] == version)

    def stop(self):
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(30)


@contextmanager
def serving(var, *options):
    server = Server(var, *options)
    try:
        yield server
    finally:
        server.process.kill()
        server.process.wait(10)


def release(ledger, bundle, version, action="promote"):
    last = ledger.last("tiny")
    ledger.append(
        "tiny",
        expected_epoch=last.epoch if last else 0,
        action=action,
        version=version,
        digest=bundle if isinstance(bundle, str) else bundle.digest,
        traffic={version: 100},
        actor="test",
        reason="test",
    )


def logged(var):
    tables = [read_segment(path) for path in (var / "requests" / "tiny").glob("*.arrow")]
    return pa.concat_tables(tables).to_pylist() if tables else []


@pytest.fixture(scope="module")
def fixed(tmp_path_factory):
    """A server of one bundle, without a ledger."""
    var = tmp_path_factory.mktemp("fixed")
    made = make_bundle(var / "bundles")
    with serving(var, "--bundle", made.digest, "--version", "4") as server:
        server.var, server.bundle = var, made
        server.wait_for_version(4)
        yield server


def post(server, body, headers=JSON, path="/invocations"):
    connection = http.client.HTTPConnection(server.host, server.port, timeout=30)
    try:
        connection.request("POST", path, body, headers)
        answer = connection.getresponse()
        return answer.status, json.loads(answer.read() or b"null"), answer.headers
    finally:
        connection.close()


# MLflow warns about its own type hints when it is imported
@pytest.mark.filterwarnings("ignore:.*Any type hint is inferred as AnyType:UserWarning")
def test_mlflows_own_client_is_served(fixed):
    from mlflow.pyfunc.scoring_server.client import ScoringServerClient
    from mlflow.version import VERSION

    client = ScoringServerClient("127.0.0.1", fixed.port)
    client.wait_server_ready(timeout=10)
    client.ping()
    frame = rows(20, seed=5).dropna()
    answer = client.invoke(frame)

    assert client.get_version() == VERSION
    predictions = answer.get_predictions("ndarray")
    assert predictions.shape == (len(frame),)
    assert set(predictions.tolist()) <= {0, 1}
    probabilities = np.array(answer["probabilities"])
    assert probabilities.shape == (len(frame), 2)
    np.testing.assert_allclose(probabilities.sum(axis=1), 1)
    assert (probabilities.argmax(axis=1) == predictions).all()


TENSORS = {"carrier": "BYTES", "distance": "FP64", "seats": "INT64", "night": "BOOL", "at": "BYTES"}


def triton_inputs(frame, *, binary):
    from tritonclient import http as triton

    columns = frame.assign(at=frame["at"].map(lambda moment: moment.isoformat()), night=frame["night"].astype(bool))
    made = []
    for name, kind in TENSORS.items():
        tensor = triton.InferInput(name, [len(frame)], kind)
        values = columns[name].to_numpy(dtype=object if kind == "BYTES" else None)
        tensor.set_data_from_numpy(values, binary_data=binary)
        made.append(tensor)
    return made


@pytest.mark.parametrize("binary", [True, False])
def test_tritons_own_client_is_served(fixed, binary):
    from tritonclient import http as triton

    frame = rows(20, seed=5).dropna()
    data = json.loads(frame.to_json(orient="split", date_format="iso", index=False))
    expected = post(fixed, json.dumps({"dataframe_split": data}))[1]
    with closing(triton.InferenceServerClient(f"{fixed.host}:{fixed.port}")) as client:
        assert client.is_server_live()
        assert client.is_server_ready()
        assert client.is_model_ready("tiny")
        assert client.is_model_ready("tiny", "4")
        assert not client.is_model_ready("tiny", "5")
        assert not client.is_model_ready("other")
        assert client.get_server_metadata()["extensions"] == ["binary_tensor_data"]
        described = client.get_model_metadata("tiny")
        asked = [triton.InferRequestedOutput("probabilities", binary_data=binary)]
        answer = client.infer("tiny", triton_inputs(frame, binary=binary), request_id="mine", outputs=asked)
        every = client.infer("tiny", triton_inputs(frame, binary=binary), model_version="4")
        with pytest.raises(triton.InferenceServerException, match="another version is asked for"):
            client.infer("tiny", triton_inputs(frame, binary=binary), model_version="5")

    assert {tensor["name"]: tensor["datatype"] for tensor in described["inputs"]} == TENSORS
    assert described["outputs"][1] == {"name": "probabilities", "datatype": "FP64", "shape": [-1, 2]}
    assert (answer.get_response()["id"], answer.get_response()["model_version"]) == ("mine", "4")
    assert answer.as_numpy("predictions") is None
    np.testing.assert_allclose(answer.as_numpy("probabilities"), expected["probabilities"], atol=1e-9)
    assert every.as_numpy("predictions").tolist() == expected["predictions"]


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/v2/models/other", 404),
        ("/v2/models/other/infer", 404),
        ("/v2/models/tiny/versions/9", 404),
        ("/v2/models/tiny/versions/4", 200),
        ("/v2/models/tiny/versions/4/ready", 200),
        ("/v2/models/tiny/versions/4/", 404),
        ("/v2/models/tiny/versions//ready", 404),
        ("/v2/models/tiny/versions/4/odd", 404),
        ("/v2/models/tiny/versions/4/ready/x", 404),
        ("/v2/models/tiny/infer", 405),
    ],
)
def test_paths_of_the_open_inference_protocol(fixed, path, status):
    answer = requests.get(fixed.url + path, timeout=10)

    assert answer.status_code == status
    assert ("error" in answer.json()) == (status != 200)
    assert answer.headers["X-Windvane-Version"] == "4"


@pytest.mark.parametrize("body", [b"", b"{", b"[" * 100_000, b"\xff", b'{"inputs":[]}', b'{"inputs":[{"name":"seats"}]}', b"[1]"])
def test_bad_bytes_for_the_open_inference_protocol_get_400(fixed, body):
    status, answer, _ = post(fixed, body, {}, "/v2/models/tiny/infer")

    assert status == 400
    assert list(answer) == ["error"]


def test_the_golden_rows_get_the_bundles_predictions(fixed):
    golden = pd.read_parquet(fixed.bundle.path / "golden.parquet")
    data = json.loads(golden[list(ROW)].to_json(orient="split", date_format="iso"))
    status, answer, _ = post(fixed, json.dumps({"dataframe_split": data}))

    assert status == 200
    assert answer["predictions"] == golden["prediction"].tolist()
    np.testing.assert_allclose(answer["probabilities"], golden[["probability_0", "probability_1"]], atol=1e-9)


def test_answers_carry_version_digest_and_request_id_and_rows_are_logged(fixed):
    body = json.dumps({"instances": [ROW | {"key": "k-1"}, ROW]}).encode()
    status, answer, headers = post(fixed, body, JSON | {"X-Request-Id": "mine-1"})

    assert status == 200
    assert (headers["X-Windvane-Version"], headers["X-Windvane-Digest"], headers["X-Request-Id"]) == ("4", fixed.bundle.digest, "mine-1")
    fixed.wait(lambda: any(row["request_id"] == "mine-1" for row in logged(fixed.var)))
    found = [row for row in logged(fixed.var) if row["request_id"] == "mine-1"]
    assert [row["id"] for row in found] == ["k-1", None]
    assert [row["score"] for row in found] == [p[1] for p in answer["probabilities"]]
    assert all(0 < row["milliseconds"] < 30_000 for row in found)
    assert "key" not in json.loads(found[0]["features"])


def test_a_bad_request_id_is_replaced(fixed):
    headers = post(fixed, b"{}", JSON | {"X-Request-Id": "a b<script>"})[2]

    assert re.fullmatch("[0-9a-f]{32}", headers["X-Request-Id"])


def raw(**literals):
    return ('{"instances":[{' + ",".join(f'"{k}":{literals.get(k, json.dumps(v))}' for k, v in ROW.items()) + "}]}").encode()


@pytest.mark.parametrize(
    ("body", "headers", "status"),
    [
        pytest.param(raw(seats="NaN"), JSON, 400, id="NaN"),
        pytest.param(raw(distance="Infinity"), JSON, 400, id="infinity"),
        pytest.param(raw(distance="NaN"), JSON, 200, id="NaN for null"),
        pytest.param(raw() + b" ", JSON, 200, id="space at the end"),
        pytest.param(raw(distance="1e999"), JSON, 400, id="1e999"),
        pytest.param(raw(carrier='"\\ud800"'), JSON, 400, id="lone surrogate"),
        pytest.param(raw(seats="9" * 5000), JSON, 400, id="5000 digits"),
        pytest.param(raw(seats="9" * 4000), JSON, 400, id="4000 digits"),
        pytest.param(raw(distance="-13"), JSON, 422, id="the model's code fails"),
        pytest.param(raw(distance="1e308"), JSON, None, id="huge"),
        pytest.param(b"[" * 100_000, JSON, 400, id="deep"),
        pytest.param(b"[" * 1_000_000, JSON, 413, id="deep and long"),
        pytest.param(b'{"a":' * 1_000_000, JSON, 413, id="deep objects"),
        pytest.param(b'{"instances":[{"seats":1,"seats":2}]}', JSON, 400, id="duplicate keys"),
        pytest.param(b"\xff\x00\xc3\x28", JSON, 400, id="bad UTF-8"),
        pytest.param(b"", JSON, 400, id="empty"),
        pytest.param(b'{"instances":[{}]}', JSON, 400, id="empty row"),
        pytest.param(raw(), {"Content-Type": "application/xml"}, 415, id="XML"),
        pytest.param(raw(), {"Content-Type": "application/json;charset=utf-16"}, 415, id="UTF-16"),
        pytest.param(raw(), {}, 415, id="no content type"),
        pytest.param(raw(), JSON | {"Content-Encoding": "gzip"}, 415, id="gzip"),
        pytest.param(b'"' + b"x" * 11_000_000, JSON, 413, id="11 MB"),
        pytest.param(b"[" + b"1," * 25_000_000, JSON, 413, id="50 MB"),
        pytest.param(iter([b"x" * 1_000_000] * 50), JSON, 413, id="50 MB in chunks"),
    ],
)
def test_bad_bytes_get_a_4xx_with_the_reason(fixed, body, headers, status):
    got, answer, answered = post(fixed, body, headers)

    assert got == status or (status is None and got < 500)
    assert answered["X-Windvane-Version"] == "4"
    text = json.dumps(answer)
    assert "NaN" not in text or got == 400
    assert "Infinity" not in text
    assert "SECRET" not in text
    if got != 200:
        assert list(answer) == ["error"]
    # the server is as it was
    assert post(fixed, raw())[0] == 200


def test_memory_stays_bounded_under_large_bodies(fixed):
    import psutil

    process = psutil.Process(fixed.process.pid)
    before = process.memory_info().rss
    for _ in range(5):
        assert post(fixed, b"x" * 50_000_000)[0] == 413

    assert process.memory_info().rss - before < 80_000_000


@pytest.mark.parametrize(
    "data",
    [
        b"\x00\x01\x02\r\n\r\n",
        b"GET\r\n\r\n",
        b"POST /invocations HTTP/1.1\r\nHost: a\r\nContent-Length: abc\r\n\r\n",
        b"\x16\x03\x01" * 50,
    ],
    ids=["binary", "no path", "bad length", "TLS"],
)
def test_what_is_not_http_is_refused(fixed, data):
    with socket.create_connection((fixed.host, fixed.port), timeout=10) as connection:
        connection.sendall(data)
        assert b" 400 " in connection.recv(1000)
    assert post(fixed, raw())[0] == 200


def test_a_client_that_leaves_in_its_body_harms_nobody(fixed):
    with socket.create_connection((fixed.host, fixed.port), timeout=10) as connection:
        connection.sendall(b"POST /invocations HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nContent-Length: 1000\r\n\r\n{")
    assert post(fixed, raw())[0] == 200
    assert "Traceback" not in fixed.log.read_text()


def test_other_paths_and_methods(fixed):
    assert requests.get(f"{fixed.url}/nope", timeout=10).status_code == 404
    assert "error" in requests.get(f"{fixed.url}/nope", timeout=10).json()
    assert requests.get(f"{fixed.url}/invocations", timeout=10).status_code == 405
    for path in ("/ping", "/health", "/ready"):
        assert requests.get(fixed.url + path, timeout=10).status_code == 200


def test_metrics_count(fixed):
    post(fixed, raw())
    text = requests.get(f"{fixed.url}/metrics", timeout=10).text

    assert re.search(r'windvane_requests_total\{model="tiny",path="/invocations",status="200"\} [1-9]', text)
    assert 'windvane_dropped_rows_total{model="tiny"} 0.0' in text
    assert 'windvane_serving_version{model="tiny"} 4.0' in text
    assert 'windvane_serves_what_it_should{model="tiny"} 1.0' in text
    assert re.search(r'windvane_scores_count\{model="tiny",version="4"\} [1-9]', text)
    assert re.search(r'windvane_predictions_total\{model="tiny",version="4",label="[01]"\} [1-9]', text)
    assert re.search(r'windvane_errors_total\{model="tiny",kind="unknown"\} [1-9]', text)
    assert 'windvane_in_flight_requests{model="tiny"} 1.0' in text
    assert "/nope" not in text


def test_csv_is_scored(fixed):
    text = "carrier,distance,seats,night,at\nUA,500,180,,2013-02-01T06:00:00Z\n"
    assert post(fixed, text.encode(), {"Content-Type": "text/csv"})[1] == post(fixed, raw())[1]


def test_ping_answers_while_long_batches_are_scored(fixed):
    body = json.dumps({"instances": [ROW] * 10_000}).encode()
    with ThreadPoolExecutor(6) as pool:
        batches = [pool.submit(post, fixed, body) for _ in range(6)]
        pings = 0
        while not all(batch.done() for batch in batches):
            assert requests.get(f"{fixed.url}/ping", timeout=5).status_code == 200
            pings += 1
    assert [batch.result()[0] for batch in batches] == [200] * 6
    # behind a queue of batches there would be one for each at most
    assert pings > len(batches)


def test_the_server_listens_on_loopback_only_and_imports_no_heavy_library(fixed):
    import psutil

    process = psutil.Process(fixed.process.pid)
    assert {c.laddr.ip for c in process.net_connections() if c.status == "LISTEN"} == {"127.0.0.1"}
    code = (
        "import sys, windvane.scoring.__main__, windvane.scoring.app, windvane.scoring.follow_ledger, windvane.scoring.bound_connections\n"
        "names = 'mlflow great_expectations evidently airflow optuna docker matplotlib starlette pandas sklearn skops'.split()\n"
        "print([name for name in names if name in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True).stdout.strip() == "[]"


def test_versions_switch_under_load_without_a_failed_request(tmp_path):
    first = make_bundle(tmp_path / "bundles", C=1.0)
    second = make_bundle(tmp_path / "bundles", C=0.01)
    digests = {"1": first.digest, "2": second.digest}
    ledger = Ledger(load_settings({"WINDVANE_VAR": str(tmp_path)}).database)
    stop = threading.Event()
    answers = {"kept": [], "new": []}
    failures = []

    def ask(kind, send):
        while not stop.is_set():
            try:
                answer = send(f"{server.url}/invocations", data=raw(), headers=JSON, timeout=10)
            except requests.RequestException as exc:
                failures.append(repr(exc))
                continue
            version = answer.headers.get("X-Windvane-Version")
            if answer.status_code != 200 or answer.headers["X-Windvane-Digest"] != digests[version]:
                failures.append((answer.status_code, answer.text))
                continue
            answers[kind].append((version, answer.json()["probabilities"][0][1]))
            time.sleep(0.003)

    with serving(tmp_path, "--model", "tiny") as server:
        assert requests.get(f"{server.url}/ready", timeout=10).status_code == 503
        assert requests.post(f"{server.url}/invocations", data=raw(), headers=JSON, timeout=10).status_code == 503
        release(ledger, first, 1)
        server.wait_for_version(1)
        workers = [threading.Thread(target=ask, args=("kept", requests.Session().post)) for _ in range(2)]
        workers += [threading.Thread(target=ask, args=("new", requests.post)) for _ in range(2)]
        for worker in workers:
            worker.start()
        for number in range(10):
            wanted = 2 if number % 2 == 0 else 1
            release(ledger, second if wanted == 2 else first, wanted)
            server.wait_for_version(wanted)
            time.sleep(0.1)
        # a bundle that does not load changes nothing for the clients
        release(ledger, "f" * 64, 3)
        server.wait(lambda: server.model()["error"])
        state = server.model()
        time.sleep(0.2)
        stop.set()
        for worker in workers:
            worker.join()
        assert server.stop() == 0

    assert failures == []
    assert len(answers["kept"]) > 50
    assert len(answers["new"]) > 50
    by_version = {version: {p for v, p in answers["kept"] + answers["new"] if v == version} for version in digests}
    assert {len(values) for values in by_version.values()} == {1}
    assert by_version["1"] != by_version["2"]
    assert (state["serving"]["version"], state["wanted"]["version"], state["wanted"]["digest"]) == (1, 3, "f" * 64)
    assert "f" * 12 in state["error"]
    # the stop wrote what waited: every answered row is in the log once
    found = logged(tmp_path)
    assert len(found) == len(answers["kept"]) + len(answers["new"])
    assert len({row["request_id"] for row in found}) == len(found)


@pytest.fixture
def keyed(tmp_path):
    made = make_bundle(tmp_path / "bundles")
    settings = load_settings({"WINDVANE_VAR": str(tmp_path)})
    key = add_key(settings, "tiny")
    with serving(tmp_path, "--bundle", made.digest, "--version", "1") as server:
        server.wait_for_version(1)
        server.settings, server.key = settings, key
        yield server


def test_a_model_with_keys_answers_only_who_has_one(keyed):
    for path in ("/invocations", "/v2/models/tiny/infer"):
        status, answer, headers = post(keyed, raw(), path=path)
        assert (status, headers["WWW-Authenticate"], list(answer)) == (401, "Bearer", ["error"])
    for path in ("/openapi.json", "/v2/models/tiny", "/v2/models/tiny/ready"):
        assert requests.get(keyed.url + path, timeout=10).status_code == 401
        assert requests.get(keyed.url + path, headers={"X-API-Key": keyed.key}, timeout=10).status_code == 200
    for path in ("/ping", "/health", "/ready", "/metrics", "/model", "/version", "/v2", "/v2/health/live", "/v2/health/ready"):
        assert requests.get(keyed.url + path, timeout=10).status_code == 200
    assert post(keyed, raw(), JSON | {"Authorization": f"Bearer {keyed.key}"})[0] == 200
    # a large body is refused before it is read, and the connection stays of use
    with requests.Session() as session:
        assert session.post(f"{keyed.url}/invocations", data=b"x" * 5_000_000, timeout=10).status_code == 401
        assert session.get(f"{keyed.url}/ping", timeout=10).status_code == 200

    (old,) = list_keys(keyed.settings, "tiny")
    new = add_key(keyed.settings, "tiny")
    remove_key(keyed.settings, "tiny", old.id)
    keyed.wait(lambda: post(keyed, raw(), JSON | {"X-API-Key": new})[0] == 200)
    keyed.wait(lambda: post(keyed, raw(), JSON | {"X-API-Key": keyed.key})[0] == 401)


def test_overload_gets_503_with_retry_after_and_the_others_their_answers(fixed):
    body = json.dumps({"dataframe_split": {"columns": list(ROW), "data": [list(ROW.values())] * 9_000}}).encode() + b" " * 8_000_000
    with ThreadPoolExecutor(40) as pool:
        found = [answer.result() for answer in [pool.submit(post, fixed, body) for _ in range(40)]]

    statuses = {status for status, _, _ in found}
    assert 200 in statuses
    assert statuses <= {200, 503}
    assert all(headers["Retry-After"] == "1" for status, _, headers in found if status == 503)
    assert all(len(answer["predictions"]) == 9_000 for status, answer, _ in found if status == 200)
    assert post(fixed, raw())[0] == 200


def test_the_description_allows_what_the_service_accepts(fixed):
    from jsonschema import Draft202012Validator

    described = requests.get(f"{fixed.url}/openapi.json", timeout=10).json()

    def validator(path):
        content = described["paths"][path]["post"]["requestBody"]["content"]["application/json"]
        Draft202012Validator.check_schema(content["schema"])
        return Draft202012Validator(content["schema"] | {"components": described["components"]})

    invocations, infer = validator("/invocations"), validator("/v2/models/tiny/infer")
    values, names = list(ROW.values()), list(ROW)
    for document in (
        {"instances": [ROW, ROW | {"key": 7, "other": {}}]},
        {"instances": [values]},
        {"dataframe_records": [ROW], "params": {}},
        {"dataframe_split": {"columns": [*names, "key"], "data": [[*values, "k"]], "index": [1]}},
        {"inputs": ROW},
        {"inputs": {name: [value] * 2 for name, value in ROW.items()}},
    ):
        assert post(fixed, json.dumps(document))[0] == 200
        assert invocations.is_valid(document)
    for document in (
        {"instances": []},
        {"instances": [ROW], "odd": 1},
        {"instances": [ROW | {"at": "soon"}]},
        {"instances": [ROW | {"seats": None}]},
    ):
        assert post(fixed, json.dumps(document))[0] == 400
        assert not invocations.is_valid(document)
    tensors = [{"name": name, "shape": [1, 1], "datatype": TENSORS[name], "data": [[value]]} for name, value in ROW.items()]
    assert post(fixed, json.dumps({"inputs": tensors}), path="/v2/models/tiny/infer")[0] == 200
    assert infer.is_valid({"inputs": tensors})
    assert post(fixed, json.dumps({"inputs": tensors[1:]}), path="/v2/models/tiny/infer")[0] == 400
    assert not infer.is_valid({"inputs": tensors[1:]})
    for path, methods in described["paths"].items():
        if "get" in methods:
            assert requests.get(fixed.url + path, timeout=10).status_code == 200


def test_a_converted_model_is_served_without_pandas_and_scikit_learn(tmp_path):
    made = make_bundle(tmp_path / "bundles", task="regression", traceable=True)
    assert made.manifest["runtime"]["format"] == "onnx"
    assert made.manifest["runtime"]["features"]
    with serving(tmp_path, "--bundle", made.digest, "--version", "1") as server:
        server.wait_for_version(1)
        assert server.model()["serving"]["runtime"] == "onnx"
        assert post(server, raw())[0] == 200
        assert requests.get(f"{server.url}/metrics", timeout=10).status_code == 200
        server.wait(lambda: logged(tmp_path))
        loaded = Path(f"/proc/{server.process.pid}/maps").read_text()

    for library in ("pandas", "sklearn", "scipy", "skops", "sqlalchemy"):
        assert f"/{library}/" not in loaded
    assert "/onnxruntime/" in loaded
    assert "/pyarrow/" in loaded


def change(database, statement):
    with closing(sqlite3.connect(database)) as connection, connection:
        connection.execute(statement)


def test_a_ledger_that_cannot_be_read_keeps_the_version_serving(tmp_path):
    made = make_bundle(tmp_path / "bundles")
    database = tmp_path / "windvane.db"
    ledger = Ledger(f"sqlite:///{database}")
    release(ledger, made, 1)
    with serving(tmp_path, "--model", "tiny") as server:
        server.wait_for_version(1)
        change(database, "ALTER TABLE releases RENAME TO hidden")
        server.wait(lambda: server.model()["ledger_error"])
        assert post(server, raw())[0] == 200
        assert requests.get(f"{server.url}/ready", timeout=10).status_code == 200
        assert server.model()["error"] is None
        change(database, "ALTER TABLE hidden RENAME TO releases")
        server.wait(lambda: server.model()["ledger_error"] is None)


def test_sigterm_finishes_the_request_that_runs(tmp_path):
    made = make_bundle(tmp_path / "bundles")
    body = json.dumps({"instances": [ROW] * 10_000}).encode()
    with serving(tmp_path, "--bundle", made.digest, "--version", "1") as server, ThreadPoolExecutor(4) as pool:
        server.wait_for_version(1)
        running = [pool.submit(post, server, body) for _ in range(4)]
        time.sleep(0.15)
        assert server.stop() == 0
        assert [answer.result()[0] for answer in running] == [200] * 4

    assert len(logged(tmp_path)) == 40_000


def run(tmp_path, *options):
    command = [sys.executable, "-m", "windvane.scoring", *options]
    return subprocess.run(
        command, env=os.environ | {"WINDVANE_VAR": str(tmp_path)}, capture_output=True, text=True, timeout=60, check=False
    )


def test_a_taken_port_is_named_with_the_setting(tmp_path, fixed):
    done = run(tmp_path, "--model", "tiny", "--port", str(fixed.port))

    assert done.returncode == 1
    assert f"port {fixed.port} on 127.0.0.1 cannot be used" in done.stderr
    assert "deploy.port in dags/configs/tiny.yaml" in done.stderr


def test_a_fixed_bundle_that_does_not_load_ends_the_server(tmp_path):
    done = run(tmp_path, "--model", "tiny", "--bundle", "0" * 64, "--version", "1", "--port", "0")

    assert done.returncode == 1
    assert "no such bundle" in done.stderr
    assert "Traceback" not in done.stderr
