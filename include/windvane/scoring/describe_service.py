"""The OpenAPI description of a service, made from the signature of the version that serves."""

from collections.abc import Collection, Mapping
from typing import Any

from windvane.scoring.answer_infer import DATATYPES, Output
from windvane.scoring.convert_values import INT64, MAX_TEXT, MOMENT_PATTERN
from windvane.scoring.parse_infer import ID_DATATYPES, MAX_INFER_ID
from windvane.scoring.parse_request import MAX_BODY_BYTES, MAX_ID, MAX_ROWS, Layout
from windvane.scoring.serve_version import Served
from windvane.signature import Column

_TYPES: Mapping[str, dict[str, Any]] = {
    "string": {"type": "string", "maxLength": MAX_TEXT},
    "double": {"type": "number"},
    "long": {"type": "integer", "minimum": INT64[0], "maximum": INT64[1]},
    "boolean": {"type": "boolean"},
    "datetime": {"type": "string", "pattern": MOMENT_PATTERN},
}
_CSV_EXAMPLES = {"string": "UA", "double": "1.5", "long": "1", "boolean": "true", "datetime": "2013-02-01T06:00:00Z"}
_REFUSALS = {
    "400": "The body cannot be read, or a value is not what the model's signature allows: the message names row, field, got and allowed.",
    "408": "The body did not arrive in time.",
    "413": f"The body has more than {MAX_BODY_BYTES} bytes or {MAX_ROWS} rows.",
    "415": "The body has another media type, or is compressed.",
    "422": "The rows have the right form, and the model has no finite answer to one of them.",
}
_UNKNOWN = "Another version is asked for than the one that serves."
_BUSY = "No version serves yet, or too many requests wait: try again after the seconds of Retry-After."
_NO_KEY = "A key is needed, as bearer token or X-API-Key, and was not sent, or is not one of this model's."


def describe_service(served: Served, *, guarded: Collection[str], keys_needed: bool) -> dict[str, Any]:
    """The OpenAPI 3.1 document.

    A schema allows everything that the service accepts. What JSON Schema cannot say, such as columns of equal length, is refused
    with 400.

    Args:
        served: The version that serves.
        guarded: The paths that need a key.
        keys_needed: Whether the model has keys.
    """
    layout, of_model = served.layout, f"/v2/models/{served.model}"
    paths = {
        "/invocations": {"post": _scoring("MLflow's protocol", _invocations(layout), _predictions(served.outputs))},
        f"{of_model}/infer": {"post": _scoring("Open Inference Protocol", _infer(layout, served.outputs), _infer_answer(served.outputs))},
        of_model: {"get": _reading("The model's inputs and outputs", _object("name", "versions", "inputs", "outputs"), "404", "503")},
        f"{of_model}/ready": {"get": _reading("Whether the model answers", _object("name", "ready"), "404", "503")},
        "/v2": {"get": _reading("The server", _object("name", "version", "extensions"))},
        "/v2/health/live": {"get": _reading("Whether the server runs", _object("live"))},
        "/v2/health/ready": {"get": _reading("Whether a version serves", _object("ready"), "503")},
        **{path: {"get": _reading("Whether a version serves", None, "503")} for path in ("/ping", "/health", "/ready")},
        "/version": {"get": _reading("The version of MLflow whose protocol is spoken", None)},
        "/model": {"get": _reading("What serves, what should, and why they differ", _object("model", "version", "digest", "serving"))},
        "/metrics": {"get": _reading("Figures in Prometheus's text format", None)},
    }
    for path, methods in paths.items():
        for operation in methods.values():
            if path in guarded:
                operation["responses"]["401"] = _error(_NO_KEY)
                if keys_needed:
                    operation["security"] = [{"bearer": []}, {"header": []}]
    return {
        "openapi": "3.1.0",
        "info": {
            "title": f"{served.model}, version {served.version}",
            "version": str(served.version),
            "description": "NaN in JSON is read as null where a number may be null, as MLflow clients write it; infinity is refused. "
            f"The paths below {of_model} exist below {of_model}/versions/{served.version}, too.",
        },
        "paths": paths,
        "components": {
            "schemas": {
                "Row": _row(layout),
                "Error": {"type": "object", "required": ["error"], "properties": {"error": {"type": "string"}}},
            },
            "securitySchemes": {
                "bearer": {"type": "http", "scheme": "bearer"},
                "header": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
            },
        },
    }


def _scoring(summary: str, content: dict[str, Any], answer: dict[str, Any]) -> dict[str, Any]:
    responses = {status: _error(text) for status, text in _REFUSALS.items()}
    responses |= {"200": answer, "404": _error(_UNKNOWN), "503": _error(_BUSY)}
    return {"summary": summary, "requestBody": {"required": True, "content": content}, "responses": responses}


def _reading(summary: str, schema: dict[str, Any] | None, *statuses: str) -> dict[str, Any]:
    content = {"text/plain": {"schema": {"type": "string"}}} if schema is None else {"application/json": {"schema": schema}}
    known = {"404": _UNKNOWN, "503": _BUSY}
    responses = {"200": {"description": "The answer.", "content": content}} | {status: _error(known[status]) for status in statuses}
    return {"summary": summary, "responses": responses}


def _error(text: str) -> dict[str, Any]:
    return {"description": text, "content": {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}}}


def _object(*required: str) -> dict[str, Any]:
    return {"type": "object", "required": list(required)}


def _value(column: Column) -> dict[str, Any]:
    known = _TYPES[column.type]
    return {**known, "type": [known["type"], "null"]} if column.nullable and column.type != "long" else dict(known)


def _logged(layout: Layout) -> dict[str, Any]:
    """The columns that are logged and not in the signature."""
    names = {column.name for column in layout.columns}
    made: dict[str, Any] = {}
    if layout.id and layout.id not in names:
        made[layout.id] = {"type": ["string", "integer", "null"], "maxLength": MAX_ID}
    if layout.time and layout.time not in names:
        made[layout.time] = _value(Column(layout.time, "datetime", True))
    return made


def _row(layout: Layout) -> dict[str, Any]:
    properties = {column.name: _value(column) for column in layout.columns} | _logged(layout)
    return {"type": "object", "required": [column.name for column in layout.columns], "properties": properties}


def _rows(items: dict[str, Any]) -> dict[str, Any]:
    return {"type": "array", "minItems": 1, "items": items}


def _invocations(layout: Layout) -> dict[str, Any]:
    names = [column.name for column in layout.columns]
    records = _rows({"$ref": "#/components/schemas/Row"})
    values = [_value(column) for column in layout.columns]
    lists = _rows({"type": "array", "prefixItems": values, "minItems": len(names), "maxItems": len(names)})
    columns = {
        "type": "object",
        "required": names,
        "properties": {name: {"anyOf": [schema, _rows(schema)]} for name, schema in _row(layout)["properties"].items()},
    }
    split = {
        "type": "object",
        "required": ["columns", "data"],
        "properties": {
            "columns": {
                "type": "array",
                "items": {"type": "string"},
                "uniqueItems": True,
                "allOf": [{"contains": {"const": name}} for name in names],
            },
            "data": _rows({"type": "array", "minItems": len(names)}),
            "index": {},
        },
        "additionalProperties": False,
    }
    forms = {
        "dataframe_split": split,
        "dataframe_records": records,
        "instances": {"anyOf": [records, lists]},
        "inputs": {"anyOf": [columns, records, lists]},
    }
    none = {"type": ["object", "null"], "maxProperties": 0}
    schema = {
        "oneOf": [
            {"type": "object", "required": [name], "properties": {name: form, "params": none}, "additionalProperties": False}
            for name, form in forms.items()
        ]
    }
    csv = ",".join(names) + "\n" + ",".join(_CSV_EXAMPLES[column.type] for column in layout.columns) + "\n"
    return {"application/json": {"schema": schema}, "text/csv": {"schema": {"type": "string", "minLength": 1}, "example": csv}}


def _predictions(outputs: tuple[Output, ...]) -> dict[str, Any]:
    properties = {
        output.name: {"type": "array", "minItems": 1, "items": _scalar(output) if output.width is None else _vector(output.width)}
        for output in outputs
    }
    schema = {"type": "object", "required": list(properties), "properties": properties, "additionalProperties": False}
    return {"description": "One prediction per row.", "content": {"application/json": {"schema": schema}}}


def _scalar(output: Output) -> dict[str, Any]:
    return {"type": {"BOOL": "boolean", "INT64": "integer", "BYTES": "string", "FP64": "number"}[output.datatype]}


def _vector(width: int) -> dict[str, Any]:
    return {"type": "array", "items": {"type": "number", "minimum": 0, "maximum": 1}, "minItems": width, "maxItems": width}


def _infer(layout: Layout, outputs: tuple[Output, ...]) -> dict[str, Any]:
    parameters = {"type": ["object", "null"]}
    tensors = [_tensor(column.name, DATATYPES[column.type], _value(column)) for column in layout.columns]
    for name, schema in _logged(layout).items():
        tensors.append(_tensor(name, ID_DATATYPES if name == layout.id else DATATYPES["datetime"], schema))
    required = [{"contains": {"required": ["name"], "properties": {"name": {"const": column.name}}}} for column in layout.columns]
    wanted = {
        "type": "object",
        "required": ["name"],
        "properties": {"name": {"enum": [output.name for output in outputs]}, "parameters": parameters},
        "additionalProperties": False,
    }
    schema = {
        "type": "object",
        "required": ["inputs"],
        "properties": {
            "id": {"type": ["string", "null"], "maxLength": MAX_INFER_ID},
            "inputs": {"type": "array", "items": {"oneOf": tensors}, "allOf": required, "maxItems": len(tensors)},
            "outputs": {"type": ["array", "null"], "items": wanted, "maxItems": len(outputs)},
            "parameters": parameters,
        },
        "additionalProperties": False,
    }
    return {"application/json": {"schema": schema}}


def _tensor(name: str, datatypes: tuple[str, ...], value: dict[str, Any]) -> dict[str, Any]:
    rows = {"type": "integer", "minimum": 1}
    nested = {"type": "array", "items": value, "minItems": 1, "maxItems": 1}
    return {
        "type": "object",
        "required": ["name", "shape", "datatype"],
        "properties": {
            "name": {"const": name},
            "shape": {"type": "array", "prefixItems": [rows, {"const": 1}], "minItems": 1, "maxItems": 2},
            "datatype": {"enum": list(datatypes)},
            "data": {"anyOf": [_rows(value), _rows(nested)]},
            "parameters": {"type": ["object", "null"]},
        },
        "additionalProperties": False,
    }


def _infer_answer(outputs: tuple[Output, ...]) -> dict[str, Any]:
    described = [
        {
            "type": "object",
            "required": ["name", "datatype", "shape"],
            "properties": {
                "name": {"const": output.name},
                "datatype": {"const": output.datatype},
                "shape": {"type": "array", "items": {"type": "integer"}},
                "data": {"type": "array", "items": _scalar(output)},
            },
        }
        for output in outputs
    ]
    schema = {
        "type": "object",
        "required": ["model_name", "model_version", "outputs"],
        "properties": {
            "model_name": {"type": "string"},
            "model_version": {"type": "string"},
            "id": {"type": "string"},
            "outputs": {"type": "array", "items": {"oneOf": described}},
        },
    }
    binary = {"schema": {"description": "The JSON and after it the binary data of the tensors that were asked for so."}}
    return {"description": "The tensors.", "content": {"application/json": {"schema": schema}, "application/octet-stream": binary}}
