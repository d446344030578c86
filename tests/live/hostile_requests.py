"""Requests that are wrong in every way that somebody thought of, and changes of good ones that nobody did."""

import gzip
import json
import math
import struct
from collections.abc import Callable, Iterable, Iterator
from itertools import repeat
from typing import Any

import pytest
from hypothesis import strategies as st
from service_process import MODEL

INVOCATIONS, INFER = "/invocations", f"/v2/models/{MODEL}/infer"
ROW = {"carrier": "UA", "distance": 500.0, "seats": 180, "night": None, "at": "2013-02-01T06:00:00Z"}
DATATYPES = {"carrier": "BYTES", "distance": "FP64", "seats": "INT64", "night": "BOOL", "at": "BYTES"}


def infer(**changes: dict[str, Any]) -> dict[str, Any]:
    """A valid infer request with changes to some tensors; None takes the member away."""
    tensors = [
        {"name": name, "shape": [1], "datatype": DATATYPES[name], "data": [value]} | changes.get(name, {}) for name, value in ROW.items()
    ]
    return {"inputs": [{key: value for key, value in item.items() if value is not None} for item in tensors]}


GOOD = {INVOCATIONS: json.dumps({"instances": [ROW]}).encode(), INFER: json.dumps(infer()).encode()}


def post(path: str, body: bytes, *headers: str, length: int | str | None = None) -> bytes:
    """The bytes of a request; as JSON unless `headers` say otherwise."""
    lines = [f"POST {path} HTTP/1.1", "Host: a", f"Content-Length: {len(body) if length is None else length}"]
    return "\r\n".join([*lines, *(headers or ("Content-Type: application/json",)), "", ""]).encode("latin-1") + body


def literals() -> Iterator[tuple[str, str, str]]:
    """Field, JSON text that is wrong there, and a name."""
    yield "seats", "NaN", "NaN"
    yield "distance", "Infinity", "infinity"
    yield "distance", "-Infinity", "minus infinity"
    yield "distance", "1e999", "1e999"
    yield "carrier", '"\\ud800"', "lone surrogate"
    yield "carrier", '"\\udc00\\ud800"', "surrogates in the wrong order"
    yield "carrier", '"a\\u0000' + "x" * 10_001 + '"', "long text"
    yield "seats", "9" * 5000, "5,000 digits"
    yield "distance", "9" * 5000, "a number of 5,000 digits"
    yield "seats", "9223372036854775808", "one more than 64 bits"
    yield "seats", "180.5", "fraction"
    yield "seats", "true", "boolean for a number"
    yield "night", "1", "number for a boolean"
    yield "at", '"2013-02-30T06:00:00Z"', "no such day"
    yield "at", '"NaT"', "NumPy's word"
    yield "at", "0", "number for a time"
    yield "distance", "[1.0]", "list for a number"
    yield "distance", '{"a":1}', "object for a number"
    yield "distance", "0x10", "hexadecimal"
    yield "distance", "+1", "plus sign"
    yield "distance", ".5", "no leading digit"
    yield "distance", "1_000", "underscore"
    yield "carrier", '"a\nb"', "raw line break in a text"
    yield "carrier", '"\\x41"', "unknown escape"
    yield "carrier", "'UA'", "single quotes"


def documents() -> Iterator[tuple[str, bytes]]:
    """Bodies that are wrong on every path, with a name."""
    yield "empty", b""
    yield "blank", b" \n"
    for text in ("null", "true", "1", '"text"', "[]", "{}", "[1, 2]", "NaN"):
        yield f"{text} at the top", text.encode()
    yield "100,000 nested lists", b"[" * 100_000
    yield "100,000 nested lists, closed", b"[" * 100_000 + b"]" * 100_000
    yield "100,000 nested objects", b'{"instances":' * 100_000
    yield "nested in a row", b'{"instances":[{"distance":' + b"[" * 100_000 + b"]" * 100_000 + b"}]}"
    yield "null bytes", b"\0" * 100
    yield "bad UTF-8", b'{"instances":[{"carrier":"\xff\xfe"}]}'
    yield "overlong UTF-8", b'{"instances":[{"carrier":"\xc0\xaf"}]}'
    yield "UTF-16", json.dumps({"instances": [ROW]}).encode("utf-16")
    yield "XML", b"<?xml version='1.0'?><!DOCTYPE a [<!ENTITY b SYSTEM 'file:///etc/passwd'>]><a>&b;</a>"
    yield "random", bytes(range(256)) * 100
    yield "50 MB", b"[" + b"1," * 25_000_000
    yield "a text of 9 MB", b'{"instances":"' + b"x" * 9_000_000 + b'"}'
    # what takes far more memory than its bytes, once it is read
    yield "880,000 names", b"{" + b",".join(b'"%d":1' % number for number in range(880_000)) + b"}"
    yield "3,300,000 empty rows", b'{"instances":[' + b"{}," * 3_300_000 + b"{}]}"
    yield "2,400,000 lists", b'{"dataframe_split":{"columns":["a"],"data":[' + b"[1]," * 2_400_000 + b"[1]]}}"
    yield "2,400,000 numbers", b'{"inputs":[{"data":[' + b"1.5," * 2_400_000 + b"1.5]}]}"


def around(path: str) -> Iterator[tuple[str, bytes]]:
    """The good body of a path, damaged."""
    good = GOOD[path]
    yield "BOM", b"\xef\xbb\xbf" + good
    yield "more after the end", good + good
    yield "null byte after the end", good + b"\0"
    yield "comment", good.replace(b"{", b"{/* */", 1)
    yield "comma at the end", good[:-1] + b",}"
    yield "duplicate names", good[:-1] + b"," + good[1:]
    inner = b'"seats": 180' if path == INVOCATIONS else b'"shape": [1]'
    yield "duplicate inner names", good.replace(inner, inner + b", " + inner, 1)
    yield "duplicate names by escapes", good.replace(inner, inner + b", " + inner.replace(b"s", b"\\u0073", 1), 1)
    for field, literal, name in literals():
        if path == INFER and name == "list for a number":
            # the data of the shape [1, 1]
            continue
        value = json.dumps(ROW[field]).encode()
        where = b'"%s": ' % field.encode() if path == INVOCATIONS else b'"data": ['
        start = good.index(where, 0 if path == INVOCATIONS else good.index(b'"name": "%s"' % field.encode())) + len(where)
        assert good[start:].startswith(value)
        yield name, good[:start] + literal.encode() + good[start + len(value) :]


def bad_bodies() -> Iterator[Any]:
    for path in GOOD:
        for name, body in (*documents(), *around(path)):
            yield pytest.param(path, body, id=f"{name} to {path}")


OTHER_BODIES = [
    pytest.param({"Content-Encoding": "gzip"}, gzip.compress(b"0" * 200_000_000, 9), 415, id="gzip bomb"),
    pytest.param({"Content-Encoding": "deflate, br"}, GOOD[INVOCATIONS], 415, id="unknown coding"),
    pytest.param({"Content-Type": "application/xml"}, GOOD[INVOCATIONS], 415, id="another media type"),
    pytest.param({"Content-Type": "application/json; charset=utf-7"}, GOOD[INVOCATIONS], 415, id="another charset"),
    pytest.param({"Content-Type": "text/csv"}, b"\xef\xbb\xbfcarrier,seats\n", 400, id="CSV with a BOM"),
    pytest.param({"Content-Type": "text/csv"}, b'carrier,distance,seats,night,at\n"UA', 400, id="CSV that is cut"),
    pytest.param({"Content-Type": "text/csv"}, b"carrier,distance,seats,night,at\nUA,nan,180,,2013-02-01\n", 400, id="CSV with nan"),
    pytest.param({"Content-Type": "text/csv"}, b"carrier,distance,seats,night,at\nUA,1,1\0,,2013-02-01\n", 400, id="CSV with a null byte"),
    pytest.param({"Content-Type": "text/csv"}, b"a," * 4_000_000 + b"\n", 413, id="CSV of many columns"),
    pytest.param({"Content-Type": "text/csv"}, b"a\n" * 4_000_000, 413, id="CSV of many rows"),
]
SHAPES = [[-1], [0], [2], [1, 2], [1, 1, 1], [], 1, None, ["1"], [1.0], [True], [[1]], [2**63], [-(2**63)], [2**64 + 1], [1, -1], [1, 0]]
WRONG_INFER_REQUESTS = [
    pytest.param(infer() | {"id": "\ud800"}, id="id with half a surrogate pair"),
    pytest.param(infer() | {"id": 1}, id="number as id"),
    pytest.param(infer() | {"id": "x" * 1_000_000}, id="long id"),
    pytest.param(infer() | {"outputs": [{"name": "predictions"}] * 2}, id="output twice"),
    pytest.param(infer() | {"outputs": [{"name": "\ud800"}]}, id="unknown output"),
    pytest.param(infer() | {"outputs": "predictions"}, id="text as outputs"),
    pytest.param(infer() | {"parameters": []}, id="list as parameters"),
    pytest.param({"inputs": infer()["inputs"] * 2}, id="tensors twice"),
    pytest.param({"inputs": infer()["inputs"][1:]}, id="tensor lost"),
    pytest.param({"inputs": {}}, id="object as inputs"),
    pytest.param({"inputs": [None] * 5}, id="null as tensors"),
    pytest.param(infer(distance={"datatype": "FP128"}), id="unknown datatype"),
    pytest.param(infer(distance={"datatype": {}}), id="object as datatype"),
    pytest.param(infer(distance={"name": "\ud800"}), id="unknown name"),
    pytest.param(infer(distance={"data": 5}), id="number as data"),
    pytest.param(infer(distance={"data": [[[1.0]]]}), id="data nested too deep"),
    pytest.param(infer(seats={"data": [300], "datatype": "UINT8"}), id="beyond the datatype"),
    pytest.param(infer(distance={"parameters": {"binary_data_size": 8}, "data": None}), id="binary data that is not there"),
]


def binary_request(data: bytes, size: Any, *, datatype: str = "FP64", name: str = "distance", json_length: Any = None) -> tuple[bytes, str]:
    body = json.dumps(infer(**{name: {"parameters": {"binary_data_size": size}, "data": None, "datatype": datatype}})).encode()
    return body + data, str(len(body) if json_length is None else json_length)


DOUBLE = struct.pack("<d", 500.0)
LYING_BINARY_DATA = [
    pytest.param(*binary_request(DOUBLE, 16), id="size beyond the body"),
    pytest.param(*binary_request(DOUBLE, 4), id="size below the datatype's"),
    pytest.param(*binary_request(DOUBLE * 2, 16), id="more values than the shape says"),
    pytest.param(*binary_request(DOUBLE * 2, 8), id="bytes left over"),
    pytest.param(*binary_request(DOUBLE, -8), id="negative size"),
    pytest.param(*binary_request(DOUBLE, 2**64), id="size beyond 64 bits"),
    pytest.param(*binary_request(DOUBLE, "8"), id="size as text"),
    pytest.param(*binary_request(DOUBLE, 8.0), id="size with a fraction"),
    pytest.param(*binary_request(DOUBLE, True), id="boolean as size"),
    pytest.param(*binary_request(b"", 0), id="no bytes"),
    pytest.param(*binary_request(DOUBLE, 8, json_length=10**8), id="JSON beyond the body"),
    pytest.param(*binary_request(DOUBLE, 8, json_length=-1), id="negative length of JSON"),
    pytest.param(*binary_request(DOUBLE, 8, json_length=0), id="no JSON"),
    pytest.param(*binary_request(DOUBLE, 8, json_length="1e2"), id="length of JSON in exponents"),
    pytest.param(*binary_request(DOUBLE, 8, json_length="9" * 5000), id="length of JSON with 5,000 digits"),
    pytest.param(*binary_request(struct.pack("<d", math.inf), 8), id="infinity"),
    pytest.param(*binary_request(struct.pack("<I", 2**32 - 1) + b"UA", 6, datatype="BYTES", name="carrier"), id="text beyond the data"),
    pytest.param(*binary_request(b"\x02\0\0", 3, datatype="BYTES", name="carrier"), id="cut length of a text"),
    pytest.param(*binary_request(b"\x02\0\0\0\xff\xfe", 6, datatype="BYTES", name="carrier"), id="text of bad UTF-8"),
    pytest.param(*binary_request(b"\0\0\0\0" * 3, 12, datatype="BYTES", name="carrier"), id="three texts for one"),
    pytest.param(*binary_request(b"\x07", 1, datatype="BOOL", name="night"), id="neither true nor false"),
]


def chunks(part: bytes, count: int) -> Iterator[bytes]:
    yield post(INVOCATIONS, b"", "Content-Type: application/json", "Transfer-Encoding: chunked").replace(b"Content-Length: 0\r\n", b"")
    yield from repeat(b"%x\r\n%s\r\n" % (len(part), part), count)


RAW: dict[str, Callable[[], bytes | Iterable[bytes]]] = {
    "HTTP/0.9": lambda: b"GET /health\r\n\r\n",
    "HTTP/3.7": lambda: b"GET /health HTTP/3.7\r\n\r\n",
    "no method": lambda: b" / HTTP/1.1\r\n\r\n",
    "unknown method": lambda: b"BREW /invocations HTTP/1.1\r\nHost: a\r\n\r\n",
    "TLS": lambda: b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\xaa" * 500,
    "HTTP/2": lambda: b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "null bytes": lambda: b"\0" * 1000,
    "null byte in the path": lambda: b"GET /\0health HTTP/1.1\r\nHost: a\r\n\r\n",
    "null byte in a header": lambda: b"GET /nowhere HTTP/1.1\r\nHost: a\0b\r\n\r\n",
    "no colon in a header": lambda: b"GET /nowhere HTTP/1.1\r\nHost a\r\n\r\n",
    "path outside": lambda: b"GET /../../etc/passwd HTTP/1.1\r\nHost: a\r\n\r\n",
    "path of bad UTF-8": lambda: b"GET /%ff%fe/%00 HTTP/1.1\r\nHost: a\r\n\r\n",
    "huge path": lambda: b"GET /" + b"x" * 10_000_000 + b" HTTP/1.1\r\nHost: a\r\n\r\n",
    "huge header": lambda: post(INVOCATIONS, GOOD[INVOCATIONS], "Content-Type: application/json", "X-Long: " + "x" * 20_000_000),
    "million headers": lambda: post(INVOCATIONS, GOOD[INVOCATIONS], "Content-Type: application/json", *(["X: y"] * 1_000_000)),
    "headers without end": lambda: [b"GET /health HTTP/1.1\r\n", *repeat(b"X-More: " + b"x" * 60_000 + b"\r\n", 2000)],
    "Content-Length of letters": lambda: post(INVOCATIONS, GOOD[INVOCATIONS], length="abc"),
    "Content-Length below zero": lambda: post(INVOCATIONS, GOOD[INVOCATIONS], length=-5),
    "Content-Length beyond 64 bits": lambda: post(INVOCATIONS, GOOD[INVOCATIONS], length=2**70),
    "Content-Length of a terabyte": lambda: post(INVOCATIONS, GOOD[INVOCATIONS], length=10**12),
    "two Content-Lengths": lambda: post(INVOCATIONS, GOOD[INVOCATIONS], "Content-Type: application/json", "Content-Length: 3"),
    "Content-Length and chunks": lambda: post(INVOCATIONS, b"0\r\n\r\n", "Content-Type: application/json", "Transfer-Encoding: chunked"),
    "unknown transfer coding": lambda: post(INVOCATIONS, GOOD[INVOCATIONS], "Content-Type: application/json", "Transfer-Encoding: cow"),
    "Content-Length that is too short": lambda: post(INVOCATIONS, GOOD[INVOCATIONS], length=20),
    "chunk of no size": lambda: [*chunks(b"x", 0), b"zz\r\n"],
    "chunk of a negative size": lambda: [*chunks(b"x", 0), b"-5\r\nhello\r\n"],
    "chunk of an endless size": lambda: [*chunks(b"x", 0), b"f" * 40 + b"\r\n"],
    "chunks without end": lambda: chunks(b"x" * 1_000_000, 2000),
    "five million small chunks": lambda: [next(chunks(b"", 0)), *repeat(b"1\r\nx\r\n" * 10_000, 500), b"no chunk\r\n"],
}


VALID: list[tuple[str, Any]] = [
    (INVOCATIONS, {"dataframe_split": {"columns": list(ROW), "data": [list(ROW.values())] * 2}}),
    (INVOCATIONS, {"dataframe_records": [ROW, ROW]}),
    (INVOCATIONS, {"instances": [ROW, ROW]}),
    (INVOCATIONS, {"instances": [list(ROW.values())] * 2}),
    (INVOCATIONS, {"inputs": {name: [value] * 2 for name, value in ROW.items()}}),
    (INFER, infer()),
]
NAMES = st.sampled_from([*ROW, "data", "shape", "columns", "index", "inputs", "instances", "parameters", "flight", "id", ""]) | st.text(
    max_size=3
)
LEAVES = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.sampled_from([2**31, 2**53 + 1, 2**63, -(2**63) - 1, 10**400, 1e308, -1e308, 5e-324, -0.0])
    | st.floats(allow_nan=True, allow_infinity=True)
    | st.text(st.characters(), max_size=8)
    | st.sampled_from(["\ud800", "UA", "2013-02-01", "2200-12-31T23:59:59.999999Z", "1700-01-01", "0001-01-01T00:00:00Z", "INT64", "FP64"])
)
VALUES = st.recursive(LEAVES, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=3), max_leaves=6)

# other values of the same kind: most of these requests stay valid
ALIKE: dict[type, st.SearchStrategy[Any]] = {
    str: st.text(max_size=8) | st.sampled_from(["UA", "2013-02-01", "2200-12-31T23:59:59.999999Z"]),
    float: st.floats(allow_nan=False, allow_infinity=False),
    int: st.integers(-(2**63), 2**63 - 1),
    bool: st.booleans(),
    type(None): st.none() | st.booleans(),
}


def places(document: Any) -> Iterator[tuple[Any, Any]]:
    """Every container and key or index in it."""
    keys = list(document) if isinstance(document, dict) else range(len(document)) if isinstance(document, list) else ()
    for key in keys:
        yield document, key
        yield from places(document[key])


@st.composite
def near_valid(draw: st.DrawFn) -> tuple[str, Any]:
    """A valid request with up to three changes."""
    path, document = draw(st.sampled_from(VALID))
    document = json.loads(json.dumps(document))
    for _ in range(draw(st.integers(1, 3))):
        found = list(places(document))
        container, key = found[draw(st.integers(0, len(found) - 1))] if found else ({}, "")
        match draw(st.sampled_from(["alike"] * 6 + ["replace", "replace", "remove", "add", "repeat", "wrap"])):
            case "alike" if found and type(container[key]) in ALIKE:
                container[key] = draw(ALIKE[type(container[key])])
            case "replace" if found:
                container[key] = draw(VALUES)
            case "remove" if found:
                del container[key]
            case "wrap" if found:
                container[key] = [container[key]]
            case "repeat" if isinstance(container, list):
                container.append(container[key])
            case _ if isinstance(container, list):
                container.append(draw(VALUES))
            case _:
                container[draw(NAMES)] = draw(VALUES)
    return path, document
