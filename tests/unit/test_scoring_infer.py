"""The Open Inference Protocol: every tensor is either a column of the model, or a 4xx that says what is wrong where."""

import json
import struct

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from windvane.scoring.answer_infer import Output, encode_infer, outputs_of
from windvane.scoring.parse_infer import parse_infer
from windvane.scoring.parse_request import MAX_ROWS, Layout
from windvane.scoring.request_error import RequestError
from windvane.signature import Column

LAYOUT = Layout(
    columns=(
        Column("carrier", "string", True),
        Column("distance", "double", True),
        Column("seats", "long", False),
        Column("night", "boolean", True),
        Column("at", "datetime", False),
    ),
    id="key",
    time="at",
)
OUTPUTS = (Output("predictions", "INT64", None), Output("probabilities", "FP64", 2))
DATA = {
    "carrier": ("BYTES", ["UA", None]),
    "distance": ("FP64", [12.5, None]),
    "seats": ("INT64", [180, 2]),
    "night": ("BOOL", [True, None]),
    "at": ("BYTES", ["2013-02-01T06:00:00Z", "2013-02-01"]),
}
TICKS = 1_359_698_400_000_000
NIGHT = TICKS - 6 * 3_600_000_000


def tensors(**changes):
    made = [{"name": name, "shape": [2], "datatype": kind, "data": data} for name, (kind, data) in DATA.items()]
    return [tensor | changes.get(tensor["name"], {}) for tensor in made]


def parse(document, *, binary=b"", length=False):
    body = document if isinstance(document, bytes) else json.dumps(document).encode()
    return parse_infer(body + binary, str(len(body)) if length or binary else None, LAYOUT, OUTPUTS)


def refused(document, **options):
    with pytest.raises(RequestError) as caught:
        parse(document, **options)
    return caught.value.status, str(caught.value)


@pytest.mark.parametrize("shape", [[2], [2, 1]])
@pytest.mark.parametrize("nested", [False, True])
def test_tensors_become_columns_with_nulls(shape, nested):
    found = parse({"inputs": [t | {"shape": shape, "data": [[v] for v in t["data"]] if nested else t["data"]} for t in tensors()]})

    assert found.request.columns == {
        "carrier": ["UA", None],
        "distance": [12.5, None],
        "seats": [180, 2],
        "night": [True, None],
        "at": [TICKS, NIGHT],
    }
    assert (found.request.rows, found.request.ids, found.request.times) == (2, [None, None], [TICKS, NIGHT])
    assert (found.id, found.outputs) == (None, {"predictions": False, "probabilities": False})


def test_the_id_column_may_be_a_tensor():
    key = {"name": "key", "shape": [2], "datatype": "INT64", "data": [7, 8]}

    assert parse({"inputs": [key, *tensors()], "id": "42"}).request.ids == ["7", "8"]


@pytest.mark.parametrize("datatype", ["FP32", "INT8", "UINT16", "INT64"])
def test_a_double_may_come_as_another_number(datatype):
    found = parse({"inputs": tensors(distance={"datatype": datatype, "data": [12, None]})})

    assert found.request.columns["distance"] == [12.0, None]


def as_bytes(*texts):
    return b"".join(struct.pack("<I", len(text.encode())) + text.encode() for text in texts)


def test_binary_data_says_the_same_as_json():
    parts = {
        "carrier": as_bytes("UA", "é"),
        "distance": struct.pack("<2d", 12.5, np.nan),
        "seats": struct.pack("<2q", 180, 2),
        "night": b"\x01\x00",
        "at": as_bytes("2013-02-01T06:00:00Z", "2013-02-01"),
    }
    described = [
        {k: v for k, v in t.items() if k != "data"} | {"parameters": {"binary_data_size": len(parts[t["name"]])}} for t in tensors()
    ]
    found = parse({"inputs": described, "parameters": {"binary_data_output": True}}, binary=b"".join(parts.values()))

    assert found.request.columns == {
        "carrier": ["UA", "é"],
        "distance": [12.5, None],
        "seats": [180, 2],
        "night": [True, False],
        "at": [TICKS, NIGHT],
    }
    assert found.outputs == {"predictions": True, "probabilities": True}


@pytest.mark.parametrize(
    ("name", "datatype", "data", "words"),
    [
        pytest.param("distance", "FP64", struct.pack("<2d", 1, np.inf), "row 1: distance: got NaN or an infinite number", id="infinity"),
        pytest.param("distance", "FP64", b"1234567", "got 7 bytes, 2 values of FP64 have 16", id="short"),
        pytest.param("seats", "INT64", struct.pack("<3q", 1, 2, 3), "got 24 bytes", id="long"),
        pytest.param("seats", "UINT64", struct.pack("<2Q", 1, 2**63), "row 1: seats: got an integer out of range", id="beyond 63 bits"),
        pytest.param("night", "BOOL", b"\x01\x02", "row 1: night: got another byte, allowed is 0 or 1", id="no boolean"),
        pytest.param("carrier", "BYTES", as_bytes("UA"), "got 1 texts, the shape says 2", id="a text too few"),
        pytest.param("carrier", "BYTES", as_bytes("UA", "AA")[:-1], "row 1: carrier: its binary data is cut", id="cut text"),
        pytest.param("carrier", "BYTES", as_bytes("UA") + b"\xff", "row 1: carrier: its binary data is cut", id="cut length"),
        pytest.param(
            "carrier", "BYTES", b"\x01\x00\x00\x00\xff" * 2, "row 0: carrier: its binary data is cut, or not valid UTF-8", id="UTF-8"
        ),
        pytest.param("carrier", "BYTES", b"\xff\xff\xff\xff", "row 0: carrier", id="huge text"),
    ],
)
def test_bad_binary_data_names_row_and_tensor(name, datatype, data, words):
    changed = [
        {"name": name, "shape": [2], "datatype": datatype, "parameters": {"binary_data_size": len(data)}} if t["name"] == name else t
        for t in tensors()
    ]
    status, message = refused({"inputs": changed}, binary=data)

    assert status == 400
    assert words in message


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"seats": {"data": [1, None]}}, "row 1: seats: got null, allowed is a 64-bit integer"),
        ({"seats": {"data": [1, 1.5]}}, "row 1: seats: got a number, allowed is an integer of the datatype INT64"),
        ({"seats": {"datatype": "INT8", "data": [1, 128]}}, "row 1: seats: got an integer, allowed is an integer of the datatype INT8"),
        ({"seats": {"datatype": "FP64"}}, "seats: datatype: got another type, allowed is INT64"),
        ({"seats": {"datatype": ["INT64"]}}, "seats: datatype"),
        ({"seats": {"shape": [3]}}, "seats: shape: got 3 rows, allowed are 2"),
        ({"seats": {"shape": [2, 2]}}, "seats: shape: allowed is [n] or [n, 1]"),
        ({"seats": {"shape": [-2]}}, "seats: shape"),
        ({"seats": {"shape": [True]}}, "seats: shape"),
        ({"seats": {"shape": 2}}, "seats: shape"),
        ({"seats": {"data": [1]}}, "seats: data: got 1 values, the shape says 2"),
        ({"seats": {"data": [[1], [2, 3]]}}, "seats: data"),
        ({"seats": {"data": "ab"}}, "seats: data: got a text"),
        ({"seats": {"data": None}}, "seats: data: got null"),
        ({"seats": {"parameters": {"binary_data_size": 16}}}, "seats: binary_data_size"),
        ({"seats": {"parameters": [1]}}, "seats: parameters: got a list"),
        ({"seats": {"odd": 1}}, "inputs: item 2"),
        ({"seats": {"name": "saets"}}, "inputs: item 2: name: got 'saets', allowed are key, at, carrier"),
        ({"seats": {"name": "carrier"}}, "inputs: item 2: name: got 'carrier'"),
        ({"seats": {"name": {}}}, "inputs: item 2: name: got an object"),
        ({"at": {"data": ["2013-02-01", "soon"]}}, "row 1: at: got a text, allowed is an ISO 8601 time"),
        ({"night": {"data": [1, 0]}}, "row 0: night: got an integer, allowed is true or false or null"),
        ({"distance": {"data": [1, "2"]}}, "row 1: distance: got a text, allowed is a finite number or null"),
    ],
)
def test_a_bad_tensor_names_itself(changes, words):
    status, message = refused({"inputs": tensors(**changes)})

    assert status == 400
    assert words in message


@pytest.mark.parametrize(
    ("document", "words"),
    [
        ([], "got a list, allowed is an object with inputs"),
        ({}, "got none, allowed is an object with inputs"),
        ({"inputs": {}}, "inputs: got an object"),
        ({"inputs": []}, "no rows"),
        ({"inputs": [1]}, "inputs: item 0"),
        ({"inputs": tensors()[1:]}, "missing fields: 'carrier'"),
        ({"inputs": tensors(), "odd": 1}, "'odd'"),
        ({"inputs": tensors(), "id": 5}, "id: got an integer"),
        ({"inputs": tensors(), "id": "x" * 2000}, "id: got a text"),
        ({"inputs": tensors(), "parameters": 5}, "parameters: got an integer"),
        ({"inputs": tensors(), "outputs": {"name": "predictions"}}, "outputs: got an object"),
        ({"inputs": tensors(), "outputs": False}, "outputs: got a boolean"),
        ({"inputs": tensors(), "outputs": [{"name": "odd"}]}, "outputs: item 0"),
        ({"inputs": tensors(), "outputs": [{"name": "predictions"}] * 2}, "outputs: item 1"),
        ({"inputs": tensors(), "outputs": [{"name": "predictions", "parameters": {"classification": 2}}]}, "classification"),
        (b'{"inputs":[{"name":"carrier","name":"carrier"}]}', "'name' appears twice"),
        (b'{"inputs":[{"name":"carrier","parameters":{"a":1,"a":2}}]}', "'a' appears twice"),
    ],
)
def test_a_bad_request_says_what_is_wrong(document, words):
    status, message = refused(document)

    assert status == 400
    assert words in message


@pytest.mark.parametrize("length", ["", "-1", "1e3", "9" * 30, "١", "5000"])
def test_a_bad_json_length_is_400(length):
    with pytest.raises(RequestError, match="Inference-Header-Content-Length"):
        parse_infer(b"{}", length, LAYOUT, OUTPUTS)


def test_bytes_that_no_tensor_asked_for_are_refused():
    assert "got 3 bytes after the last tensor's data" in refused({"inputs": tensors()}, binary=b"abc")[1]


def test_too_many_rows_are_413():
    rows = MAX_ROWS + 1
    changed = {name: {"shape": [rows], "data": data[:1] * rows} for name, (_, data) in DATA.items()}
    assert refused({"inputs": tensors(**changed)})[0] == 413


def test_an_answer_holds_the_wanted_tensors_in_json_and_binary():
    answer = {"predictions": [0, 1], "probabilities": [[0.75, 0.25], [0.5, 0.5]]}
    head = {"model_name": "tiny", "model_version": "4", "id": "x"}

    text, length = encode_infer({"predictions": False, "probabilities": False}, answer, OUTPUTS, head=head)
    assert length is None
    assert json.loads(text) == head | {
        "outputs": [
            {"name": "predictions", "datatype": "INT64", "shape": [2], "data": [0, 1]},
            {"name": "probabilities", "datatype": "FP64", "shape": [2, 2], "data": [0.75, 0.25, 0.5, 0.5]},
        ]
    }

    body, length = encode_infer({"probabilities": True}, answer, OUTPUTS, head=head)
    (tensor,) = json.loads(body[:length])["outputs"]
    assert tensor == {"name": "probabilities", "datatype": "FP64", "shape": [2, 2], "parameters": {"binary_data_size": 32}}
    assert np.frombuffer(body[length:]).tolist() == [0.75, 0.25, 0.5, 0.5]


@pytest.mark.parametrize(
    ("classes", "datatype"), [((0, 1), "INT64"), ((0.0, 1.0), "FP64"), ((False, True), "BOOL"), (("a", "b", "c"), "BYTES"), (None, "FP64")]
)
def test_the_predictions_have_the_type_of_the_labels(classes, datatype):
    outputs = outputs_of(classes, probabilities=classes is not None)

    assert outputs[0] == Output("predictions", datatype, None)
    assert [output.width for output in outputs[1:]] == ([] if classes is None else [len(classes)])


scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5)
values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3), max_leaves=8
)
parts = {
    "name": st.sampled_from([*DATA, "key"]) | values,
    "shape": st.just([1]) | values,
    "datatype": st.sampled_from(["BYTES", "FP64", "BOOL"]),
}
tensor = st.fixed_dictionaries(parts, optional={"data": values, "parameters": values})


@settings(max_examples=300, deadline=None)
@given(st.lists(tensor, max_size=6), values, st.binary(max_size=20))
def test_anything_is_rows_or_a_client_error(inputs, outputs, binary):
    problem = None
    try:
        parse(json.dumps({"inputs": inputs, "outputs": outputs}).encode(), binary=binary)
    except RequestError as exc:
        problem = exc
    assert problem is None or 400 <= problem.status < 500
