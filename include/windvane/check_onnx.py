"""Refuses ONNX files that reach out of themselves, before onnxruntime reads them.

A model can name other files that hold its weights, operators of any library, and functions. The wire format (Protocol Buffers)
is walked here just as far as those places, without any library.
"""

import re
from collections.abc import Iterator

MAX_BYTES = 500_000_000
DOMAINS = frozenset({"", "ai.onnx", "ai.onnx.ml"})
_DEPTH = 20

# long attributes are runs of one field, which a regular expression skips at the speed of C: integers (8) and floats (7)
_RUN = re.compile(rb"(?:\x40[\x80-\xff]*[\x00-\x7f])+|(?:\x3d.{4})+", re.DOTALL)

# message -> field -> the message in it, or what that field means
_FIELDS: dict[str, dict[int, str]] = {
    "model": {7: "graph", 8: "opset", 20: "refuse training information", 25: "refuse functions"},
    "opset": {1: "domain"},
    "graph": {1: "node", 5: "tensor", 15: "sparse"},
    "node": {5: "attribute", 7: "domain", 8: "refuse overloads"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse", 23: "sparse"},
    "sparse": {1: "tensor", 2: "tensor"},
    "tensor": {13: "refuse external data", 14: "location"},
}


def onnx_problem(data: bytes) -> str | None:
    """What makes a file refused; None if it may be read.

    Args:
        data: The whole file.
    """
    if len(data) > MAX_BYTES:
        return f"has {len(data)} bytes, allowed are {MAX_BYTES}"
    if data[4:8] == b"ORTM":
        return "is in onnxruntime's own format, allowed is ONNX"
    try:
        return _walk(memoryview(data), "model", 0)
    except (IndexError, UnicodeDecodeError, ValueError):
        return "is not an ONNX file"


def _walk(data: memoryview, message: str, depth: int) -> str | None:
    if depth > _DEPTH:
        return f"is nested more than {_DEPTH} deep"
    known = _FIELDS[message]
    for field, value in _fields(data):
        meaning = known.get(field)
        if meaning is None:
            continue
        if meaning.startswith("refuse "):
            return f"has {meaning.removeprefix('refuse ')}, allowed is none"
        if meaning == "location":
            problem = "has external data, allowed is none" if value != 0 else None
        elif isinstance(value, int):
            raise ValueError("a number in the place of a message")
        elif meaning == "domain":
            domain = bytes(value).decode()
            problem = None if domain in DOMAINS else f"uses operators of {domain[:60]!r}, allowed are ai.onnx and ai.onnx.ml"
        else:
            problem = _walk(value, meaning, depth + 1)
        if problem:
            return problem
    return None


def _fields(data: memoryview) -> Iterator[tuple[int, memoryview | int]]:
    """The fields of one message: number, and the bytes or the whole number in it."""
    place = 0
    while place < len(data):
        run = _RUN.match(data, place)
        if run:
            place = run.end()
            continue
        key, place = _number(data, place)
        field, wire = key >> 3, key & 7
        if wire == 0:
            value, place = _number(data, place)
            yield field, value
            continue
        if wire == 2:
            size, place = _number(data, place)
        elif wire in (1, 5):
            size = 8 if wire == 1 else 4
        else:
            raise ValueError("unknown wire type")
        if place + size > len(data):
            raise ValueError("cut")
        if wire == 2:
            yield field, data[place : place + size]
        place += size


def _number(data: memoryview, place: int) -> tuple[int, int]:
    value = shift = 0
    while shift < 70:
        byte = data[place]
        place += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, place
        shift += 7
    raise ValueError("too long a number")
