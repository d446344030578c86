"""Reads requests of the Open Inference Protocol, version 2, with its binary tensor data.

Every column of the signature is an input tensor of shape [n] or [n, 1], and so are the id and the time if a client sends
them. Unlike MLflow's protocol, no other tensor is allowed. JSON holds null where a value is unknown; in binary data NaN
stands for it, and a text is never null.
"""

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from windvane.scoring.answer_infer import DATATYPES, FRACTIONS, WHOLE, Output
from windvane.scoring.convert_values import NotJson, describe, is_unicode
from windvane.scoring.parse_request import Layout, Request, check_parts, make_request
from windvane.scoring.read_json import quoted, read_json, show_names
from windvane.scoring.request_error import RequestError

_BINARY: Mapping[str, np.dtype[Any]] = {**FRACTIONS, **WHOLE, "BOOL": np.dtype("u1")}
ID_DATATYPES = ("BYTES", "INT64", "INT32")
_PARTS = {"id", "inputs", "outputs", "parameters"}
_INPUT_PARTS = {"name", "shape", "datatype", "data", "parameters"}
MAX_INFER_ID = 1_000


@dataclass(frozen=True)
class InferRequest:
    """What an infer request asks for.

    Attributes:
        request: The rows.
        id: Repeated in the answer.
        outputs: Name of each wanted tensor, and whether it is wanted as binary data.
    """

    request: Request
    id: str | None
    outputs: Mapping[str, bool]


def parse_infer(body: bytes, json_length: str | None, layout: Layout, outputs: Sequence[Output]) -> InferRequest:
    """Read an infer request.

    Args:
        body: JSON, and after it the binary data of its tensors.
        json_length: The header Inference-Header-Content-Length: how many bytes of the body are JSON.

    Raises:
        RequestError: With the status 400 or 413 and what is wrong where.
    """
    text, binary = _split(body, json_length)
    check_parts(text, layout)
    document = read_json(text)
    if not isinstance(document, dict) or "inputs" not in document or not set(document) <= _PARTS:
        got = show_names(list(document)) if isinstance(document, dict) else describe(document)
        raise RequestError(
            400, f"body: got {got}, allowed is an object with inputs and, if wanted, {', '.join(sorted(_PARTS - {'inputs'}))}"
        )
    request_id = document.get("id")
    if request_id is not None and (not isinstance(request_id, str) or len(request_id) > MAX_INFER_ID or not is_unicode(request_id)):
        raise RequestError(400, f"id: got {describe(request_id)}, allowed is a text of at most {MAX_INFER_ID} characters")
    wanted = _wanted(document.get("outputs"), _parameters(document, "body").get("binary_data_output") is True, outputs)
    return InferRequest(make_request(_read_inputs(document["inputs"], binary, layout), layout), request_id, wanted)


def _split(body: bytes, json_length: str | None) -> tuple[bytes, memoryview]:
    if json_length is None:
        return body, memoryview(b"")
    if not json_length.isascii() or not json_length.isdecimal() or len(json_length) > 9 or int(json_length) > len(body):
        raise RequestError(400, f"Inference-Header-Content-Length: allowed is a number of bytes, at most the body's {len(body)}")
    return body[: int(json_length)], memoryview(body)[int(json_length) :]


def _wanted(value: Any, binary: bool, outputs: Sequence[Output]) -> dict[str, bool]:
    names = [output.name for output in outputs]
    if not value:
        if value not in (None, []):
            raise RequestError(400, f"outputs: got {describe(value)}, allowed is a list of {', '.join(names)}")
        return dict.fromkeys(names, binary)
    if not isinstance(value, list):
        raise RequestError(400, f"outputs: got {describe(value)}, allowed is a list of {', '.join(names)}")
    wanted: dict[str, bool] = {}
    for number, item in enumerate(value):
        if not isinstance(item, dict) or not set(item) <= {"name", "parameters"} or item.get("name") not in names or item["name"] in wanted:
            raise RequestError(400, f"outputs: item {number}: allowed is an object with a name of {', '.join(names)}, each once")
        parameters = _parameters(item, f"outputs: item {number}")
        if parameters.get("classification"):
            raise RequestError(400, f"outputs: item {number}: classification is not supported; sort the probabilities at the client")
        wanted[item["name"]] = parameters.get("binary_data", binary) is True
    return wanted


def _parameters(part: Mapping[str, Any], where: str) -> Mapping[str, Any]:
    parameters = part.get("parameters")
    if parameters is None:
        return {}
    if not isinstance(parameters, dict):
        raise RequestError(400, f"{where}: parameters: got {describe(parameters)}, allowed is an object")
    return parameters


def _read_inputs(inputs: Any, binary: memoryview, layout: Layout) -> tuple[list[str], dict[str, list[Any]], int]:
    if not isinstance(inputs, list):
        raise RequestError(400, f"inputs: got {describe(inputs)}, allowed is a list of tensors")
    allowed = _allowed_datatypes(layout)
    values: dict[str, list[Any]] = {}
    rows = 0
    for number, tensor in enumerate(inputs):
        if not isinstance(tensor, dict) or not {"name", "shape", "datatype"} <= set(tensor) <= _INPUT_PARTS:
            raise RequestError(400, f"inputs: item {number}: allowed is an object with name, shape, datatype, data and parameters")
        name = tensor["name"]
        if not isinstance(name, str) or name not in allowed or name in values:
            got = quoted(name) if isinstance(name, str) else describe(name)
            raise RequestError(400, f"inputs: item {number}: name: got {got}, allowed are {', '.join(allowed)}, each once")
        if tensor["datatype"] not in allowed[name]:
            raise RequestError(400, f"inputs: {name}: datatype: got another type, allowed is {' or '.join(allowed[name])}")
        length = _length(tensor["shape"], name)
        if values and length != rows:
            raise RequestError(400, f"inputs: {name}: shape: got {length} rows, allowed are {rows}, as in the first tensor")
        rows = length
        size = _parameters(tensor, f"inputs: {name}").get("binary_data_size")
        if size is None:
            values[name] = _read_list(tensor.get("data"), name, tensor["datatype"], rows)
            continue
        if "data" in tensor or type(size) is not int or not 0 <= size <= len(binary):
            raise RequestError(
                400, f"inputs: {name}: binary_data_size: allowed is the size in bytes of data that follows the JSON, and no data"
            )
        values[name], binary = _read_binary(binary[:size], name, tensor["datatype"], rows), binary[size:]
    if len(binary):
        raise RequestError(400, f"body: got {len(binary)} bytes after the last tensor's data, allowed are 0")
    return list(values), values, rows


def _allowed_datatypes(layout: Layout) -> dict[str, tuple[str, ...]]:
    more = {name: datatypes for name, datatypes in ((layout.id, ID_DATATYPES), (layout.time, DATATYPES["datetime"])) if name}
    return more | {column.name: DATATYPES[column.type] for column in layout.columns}


def _length(shape: Any, name: str) -> int:
    if (
        not isinstance(shape, list)
        or not 1 <= len(shape) <= 2
        or not all(type(n) is int and n >= 0 for n in shape)
        or shape[1:] not in ([], [1])
    ):
        raise RequestError(400, f"inputs: {name}: shape: allowed is [n] or [n, 1], n rows")
    return int(shape[0])


def _read_list(data: Any, name: str, datatype: str, rows: int) -> Any:
    if not isinstance(data, list):
        raise RequestError(400, f"inputs: {name}: data: got {describe(data)}, allowed is a list of {rows} values")
    if data and isinstance(data[0], list):
        if not all(isinstance(item, list) and len(item) == 1 for item in data):
            raise RequestError(400, f"inputs: {name}: data: allowed is a list of {rows} values, or of {rows} lists of one value")
        data = [item[0] for item in data]
    if len(data) != rows:
        raise RequestError(400, f"inputs: {name}: data: got {len(data)} values, the shape says {rows}")
    if datatype in WHOLE:
        least, most = np.iinfo(WHOLE[datatype]).min, np.iinfo(WHOLE[datatype]).max
        for number, value in enumerate(data):
            if type(value) is float or (type(value) is int and not least <= value <= most):
                raise RequestError(400, f"row {number}: {name}: got {describe(value)}, allowed is an integer of the datatype {datatype}")
    return data


def _read_binary(data: memoryview, name: str, datatype: str, rows: int) -> list[Any]:
    if datatype == "BYTES":
        return _read_texts(data, name, rows)
    kind = _BINARY[datatype]
    if len(data) != rows * kind.itemsize:
        raise RequestError(400, f"inputs: {name}: got {len(data)} bytes, {rows} values of {datatype} have {rows * kind.itemsize}")
    array = np.frombuffer(data, dtype=kind)
    if datatype == "BOOL":
        if array.max(initial=0) > 1:
            raise RequestError(400, f"row {int((array > 1).argmax())}: {name}: got another byte, allowed is 0 or 1")
        array = array.astype(bool)
    values: list[Any] = array.tolist()
    return (
        values
        if datatype not in FRACTIONS or np.isfinite(array).all()
        else [NotJson(value) if value != value else value for value in values]
    )


def _read_texts(data: memoryview, name: str, rows: int) -> list[Any]:
    texts: list[Any] = []
    place = 0
    try:
        while place < len(data):
            (size,) = struct.unpack_from("<I", data, place)
            place += 4 + size
            if place > len(data):
                raise ValueError("cut")
            texts.append(str(data[place - size : place], "utf-8"))
    except (struct.error, ValueError) as exc:
        raise RequestError(400, f"row {len(texts)}: {name}: its binary data is cut, or not valid UTF-8") from exc
    if len(texts) != rows:
        raise RequestError(400, f"inputs: {name}: got {len(texts)} texts, the shape says {rows}")
    return texts
