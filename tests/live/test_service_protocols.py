"""Clients that others wrote get from the service what the model's own Predictor says."""

import json
import subprocess
from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd
import pytest
import tritonclient.http as triton
from mlflow.pyfunc.scoring_server.client import ScoringServerClient
from service_process import KINDS, MODEL, VERSION, Service, make_bundle, make_rows, running
from tritonclient.utils import InferenceServerException

from windvane.predictor import Predictions

pytestmark = [pytest.mark.live, pytest.mark.timeout(120)]

ROWS = make_rows(60, seed=3)


@pytest.fixture(scope="module", params=KINDS)
def service(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    root = tmp_path_factory.mktemp(request.param)
    bundle = make_bundle(root, request.param)
    assert bundle.manifest["runtime"]["format"] == KINDS[request.param][1], bundle.manifest["runtime"]
    with running(root, bundle) as service:
        yield service


def expected(service: Service, rows: pd.DataFrame = ROWS) -> Predictions:
    return service.predictor.predict(rows)


def assert_says(answer: dict[str, Any], wanted: Predictions) -> None:
    """MLflow's form of an answer holds these predictions."""
    if wanted.probabilities is None:
        np.testing.assert_allclose(answer["predictions"], wanted.values, rtol=1e-9)
    else:
        assert answer["predictions"] == wanted.values.tolist()
        np.testing.assert_allclose(answer["probabilities"], wanted.probabilities, rtol=1e-9)


def test_mlflows_own_client_gets_the_models_predictions(service: Service) -> None:
    client = ScoringServerClient("127.0.0.1", service.port)
    client.wait_server_ready(timeout=10)
    assert ROWS.isna().any().sum() == 3

    answer = client.invoke(ROWS)

    assert_says(answer, expected(service))
    assert answer.get_predictions("ndarray").shape == (len(ROWS),)


def test_mlflows_own_client_is_told_what_is_wrong(service: Service) -> None:
    with pytest.raises(Exception, match=r"error code 400.*row 2: seats: got a text, allowed is a 64-bit integer"):
        ScoringServerClient("127.0.0.1", service.port).invoke(ROWS.astype({"seats": object}).replace({"seats": {ROWS["seats"][2]: "x"}}))


def curl(service: Service, path: str, *options: str, body: bytes | None = None) -> tuple[int, dict[str, str], bytes]:
    """Status, headers and body."""
    send = ["--data-binary", "@-"] if body is not None else []
    command = ["curl", "--silent", "--show-error", "--include", "--max-time", "10", *send, *options, service.url + path]
    output = subprocess.run(command, input=body, capture_output=True, check=True, timeout=20).stdout
    head, _, answer = output.partition(b"\r\n\r\n")
    first, *lines = head.decode().split("\r\n")
    return int(first.split()[1]), {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}, answer


def as_json(rows: pd.DataFrame) -> dict[str, list[Any]]:
    """Columns of JSON values."""
    texts = rows.assign(at=rows["at"].map(lambda moment: moment.isoformat()))
    columns: dict[str, list[Any]] = texts.astype(object).where(texts.notna(), None).to_dict(orient="list")
    return columns


def json_bodies() -> dict[str, Any]:
    columns = as_json(ROWS)
    lists = list(map(list, zip(*columns.values(), strict=True)))
    records = [dict(zip(columns, row, strict=True)) for row in lists]
    return {
        "dataframe_split": {"columns": list(columns), "data": lists},
        "dataframe_records": records,
        "instances": records,
        "inputs": columns,
    }


@pytest.mark.parametrize("form", ["dataframe_split", "dataframe_records", "instances", "inputs"])
def test_curl_gets_the_models_predictions_for_every_form_of_json(service: Service, form: str) -> None:
    body = json.dumps({form: json_bodies()[form]}).encode()

    status, headers, answer = curl(service, "/invocations", "-H", "Content-Type: application/json", body=body)

    assert status == 200, answer
    assert (headers["x-windvane-version"], headers["x-windvane-digest"]) == (str(VERSION), service.bundle.digest)
    assert_says(json.loads(answer), expected(service))


def test_curl_gets_the_models_predictions_for_csv(service: Service) -> None:
    body = ROWS.to_csv(index=False, date_format="%Y-%m-%dT%H:%M:%SZ").encode()

    status, headers, answer = curl(service, "/invocations", "-H", "Content-Type: text/csv", body=body)

    assert status == 200, answer
    assert (headers["x-windvane-version"], headers["x-windvane-digest"]) == (str(VERSION), service.bundle.digest)
    assert_says(json.loads(answer), expected(service))


@pytest.mark.parametrize(
    "path", ["/ping", "/health", "/ready", "/version", "/model", "/metrics", "/v2", "/v2/health/live", "/v2/health/ready"]
)
def test_curl_reads_what_the_service_says_of_itself(service: Service, path: str) -> None:
    status, headers, _ = curl(service, path)

    assert status == 200
    assert headers["x-windvane-digest"] == service.bundle.digest


@pytest.fixture
def client(service: Service) -> Iterator[triton.InferenceServerClient]:
    with triton.InferenceServerClient(f"127.0.0.1:{service.port}") as client:
        yield client


DATATYPES = {"carrier": "BYTES", "distance": "FP64", "seats": "INT64", "night": "BOOL", "at": "BYTES"}
# a tensor of texts or booleans has no missing values
COMPLETE = ROWS.dropna(subset=["carrier", "night"]).reset_index(drop=True)


def tensors(rows: pd.DataFrame = COMPLETE, *, binary: bool, flat: bool = True) -> list[triton.InferInput]:
    arrays = {
        "carrier": rows["carrier"].to_numpy(),
        "distance": rows["distance"].to_numpy(),
        "seats": rows["seats"].to_numpy(),
        "night": rows["night"].to_numpy(dtype=bool),
        "at": rows["at"].dt.strftime("%Y-%m-%dT%H:%M:%SZ").to_numpy(),
    }
    return [tensor(name, array if flat else array.reshape(-1, 1), binary=binary) for name, array in arrays.items()]


def tensor(name: str, array: np.ndarray, *, binary: bool = True, datatype: str | None = None) -> triton.InferInput:
    made = triton.InferInput(name, list(array.shape), datatype or DATATYPES[name])
    return made.set_data_from_numpy(array, binary_data=binary)


def test_triton_sees_the_server_and_the_model(client: triton.InferenceServerClient, service: Service) -> None:
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready(MODEL)
    assert client.is_model_ready(MODEL, str(VERSION))
    assert not client.is_model_ready("another")
    metadata = client.get_model_metadata(MODEL)
    assert (metadata["name"], metadata["versions"]) == (MODEL, [str(VERSION)])
    assert {item["name"]: item["datatype"] for item in metadata["inputs"]} == DATATYPES
    assert metadata["outputs"][0]["name"] == "predictions"
    assert "binary_tensor_data" in client.get_server_metadata()["extensions"]


@pytest.mark.parametrize("flat", [True, False], ids=["[n]", "[n, 1]"])
@pytest.mark.parametrize("binary_out", [True, False], ids=["binary answer", "JSON answer"])
@pytest.mark.parametrize("binary_in", [True, False], ids=["binary request", "JSON request"])
def test_triton_gets_the_models_predictions(
    client: triton.InferenceServerClient, service: Service, binary_in: bool, binary_out: bool, flat: bool
) -> None:
    wanted = expected(service, COMPLETE)
    names = ["predictions"] if wanted.probabilities is None else ["predictions", "probabilities"]
    outputs = [triton.InferRequestedOutput(name, binary_data=binary_out) for name in names]

    answer = client.infer(MODEL, tensors(binary=binary_in, flat=flat), outputs=outputs, request_id="mine-1", model_version=str(VERSION))

    assert answer.get_response()["id"] == "mine-1"
    assert answer.get_response()["model_version"] == str(VERSION)
    assert_says(as_mlflow(answer), wanted)


def as_mlflow(answer: triton.InferResult) -> dict[str, Any]:
    predictions, probabilities = answer.as_numpy("predictions"), answer.as_numpy("probabilities")
    values = [value.decode() if isinstance(value, bytes) else value for value in predictions.tolist()]
    return {"predictions": values} | ({} if probabilities is None else {"probabilities": probabilities})


def test_triton_asks_for_everything_when_it_names_no_output(client: triton.InferenceServerClient, service: Service) -> None:
    assert_says(as_mlflow(client.infer(MODEL, tensors(binary=True))), expected(service, COMPLETE))


def test_missing_texts_and_booleans_are_null_in_the_json_of_the_open_inference_protocol(service: Service) -> None:
    columns = as_json(ROWS)
    inputs = [{"name": name, "shape": [len(ROWS)], "datatype": kind, "data": columns[name]} for name, kind in DATATYPES.items()]

    status, headers, answer = curl(
        service, f"/v2/models/{MODEL}/infer", "-H", "Content-Type: application/json", body=json.dumps({"inputs": inputs}).encode()
    )

    assert status == 200, answer
    assert headers["x-windvane-digest"] == service.bundle.digest
    found = {output["name"]: np.reshape(output["data"], output["shape"]) for output in json.loads(answer)["outputs"]}
    assert_says({name: values.tolist() for name, values in found.items()}, expected(service))


def replaced(name: str, array: np.ndarray, datatype: str | None = None) -> list[triton.InferInput]:
    return [tensor(name, array, datatype=datatype) if item.name() == name else item for item in tensors(binary=True)]


COUNT = len(COMPLETE)


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        pytest.param(
            replaced("seats", np.zeros((COUNT, 2), dtype="int64")), r"seats: shape: allowed is \[n\] or \[n, 1\]", id="two columns"
        ),
        pytest.param(replaced("seats", np.zeros(COUNT + 1, dtype="int64")), rf"seats: shape: got {COUNT + 1} rows", id="another length"),
        pytest.param(replaced("seats", np.zeros(COUNT), "FP64"), "seats: datatype: got another type, allowed is INT64", id="dtype"),
        pytest.param(replaced("carrier", np.zeros(COUNT, dtype="int64"), "INT64"), "carrier: datatype: .*allowed is BYTES", id="no text"),
        pytest.param(replaced("distance", np.full(COUNT, np.inf)), "row 0: distance: got NaN or an infinite number", id="infinity"),
        pytest.param(
            replaced("at", np.array(["noon"] * COUNT, dtype=object)), "row 0: at: got a text, allowed is an ISO 8601", id="no time"
        ),
        pytest.param(tensors(binary=True)[1:], "missing fields: 'carrier'", id="a tensor is missing"),
        pytest.param([*tensors(binary=True), tensor("sets", np.zeros(COUNT), datatype="FP64")], "got 'sets', allowed are", id="unknown"),
        pytest.param(tensors(COMPLETE.head(0), binary=True), "got no rows", id="no rows"),
    ],
)
def test_triton_is_told_what_is_wrong(
    client: triton.InferenceServerClient, service: Service, inputs: list[triton.InferInput], message: str
) -> None:
    with pytest.raises(InferenceServerException, match=message) as found:
        client.infer(MODEL, inputs)
    assert found.value.status() == "400"


@pytest.mark.parametrize(
    ("model", "version", "outputs", "status", "message"),
    [
        pytest.param("another", "", None, "404", "no such path", id="another model"),
        pytest.param(MODEL, "99", None, "404", f"than version {VERSION}, which serves", id="another version"),
        pytest.param(MODEL, "", ["speed"], "400", "allowed is an object with a name of predictions", id="another output"),
    ],
)
def test_triton_is_told_what_there_is(
    client: triton.InferenceServerClient, service: Service, model: str, version: str, outputs: list[str] | None, status: str, message: str
) -> None:
    wanted = outputs and [triton.InferRequestedOutput(name) for name in outputs]
    with pytest.raises(InferenceServerException, match=message) as found:
        client.infer(model, tensors(binary=True), model_version=version, outputs=wanted)
    assert found.value.status() == status
