"""Answers in the Open Inference Protocol, version 2: the tensor `predictions`, and `probabilities` of a classifier."""

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import orjson

from windvane.scoring.parse_request import Layout

WHOLE: Mapping[str, np.dtype[Any]] = {
    name: np.dtype(name.lower()) for name in ("INT64", "INT32", "INT16", "INT8", "UINT64", "UINT32", "UINT16", "UINT8")
}
FRACTIONS: Mapping[str, np.dtype[Any]] = {"FP64": np.dtype("<f8"), "FP32": np.dtype("<f4")}
# the first is the one that the model's description names
DATATYPES: Mapping[str, tuple[str, ...]] = {
    "string": ("BYTES",),
    "datetime": ("BYTES",),
    "double": ("FP64", "FP32", *WHOLE),
    "long": tuple(WHOLE),
    "boolean": ("BOOL",),
}


@dataclass(frozen=True)
class Output:
    """One tensor of the answer: its name, its type, and its number of columns (None for shape [n])."""

    name: str
    datatype: str
    width: int | None


def outputs_of(classes: Sequence[Any] | None, *, probabilities: bool) -> tuple[Output, ...]:
    """The tensors of a model's answers.

    Args:
        classes: The labels of a classifier, None for a regression.
        probabilities: Whether the model has any.
    """
    made = (Output("predictions", _datatype_of(classes), None),)
    return (*made, Output("probabilities", "FP64", len(classes))) if classes is not None and probabilities else made


def _datatype_of(classes: Sequence[Any] | None) -> str:
    kinds = set(map(type, classes or (0.0,)))
    return {frozenset({bool}): "BOOL", frozenset({int}): "INT64", frozenset({str}): "BYTES"}.get(frozenset(kinds), "FP64")


def encode_infer(
    wanted: Mapping[str, bool], tensors: Mapping[str, Any], outputs: Sequence[Output], *, head: Mapping[str, str]
) -> tuple[bytes, int | None]:
    """The body of an answer, and how many of its bytes are JSON if binary data follows them.

    Args:
        wanted: Name of each wanted tensor, and whether it is wanted as binary data.
        tensors: `predictions`, a list of n values, and `probabilities`, n lists of k values.
        head: What stands before the tensors: model_name, model_version, id.
    """
    described, binary = [], []
    for output in outputs:
        if output.name not in wanted:
            continue
        rows = tensors[output.name]
        values = rows if output.width is None else np.ravel(rows).tolist()
        shape = [len(rows)] if output.width is None else [len(rows), output.width]
        tensor: dict[str, Any] = {"name": output.name, "datatype": output.datatype, "shape": shape}
        if wanted[output.name]:
            binary.append(_as_bytes(values, output.datatype))
            tensor["parameters"] = {"binary_data_size": len(binary[-1])}
        else:
            tensor["data"] = values
        described.append(tensor)
    text = orjson.dumps({**head, "outputs": described})
    return (b"".join([text, *binary]), len(text)) if binary else (text, None)


def _as_bytes(values: list[Any], datatype: str) -> bytes:
    if datatype == "BYTES":
        texts = [str(value).encode() for value in values]
        return b"".join(struct.pack("<I", len(text)) + text for text in texts)
    return np.array(values, dtype={"BOOL": "?", "INT64": "<i8", "FP64": "<f8"}[datatype]).tobytes()


def describe_model(layout: Layout, outputs: Sequence[Output], *, model: str, version: int, runtime: str) -> dict[str, Any]:
    """The metadata of a model: its inputs and outputs."""
    return {
        "name": model,
        "versions": [str(version)],
        "platform": {"onnx": "onnxruntime_onnx"}.get(runtime, "sklearn_skops"),
        "inputs": [{"name": c.name, "datatype": DATATYPES[c.type][0], "shape": [-1]} for c in layout.columns],
        "outputs": [{"name": o.name, "datatype": o.datatype, "shape": [-1] if o.width is None else [-1, o.width]} for o in outputs],
    }
