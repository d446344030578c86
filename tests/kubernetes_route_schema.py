"""What the Gateway API's standard channel says of an HTTPRoute, as far as this project writes one; unknown fields are refused."""

from typing import Any

_HOST = r"^(\*\.)?[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$"
_NAME = {"type": "string", "minLength": 1, "maxLength": 253}


def _closed(required: list[str], **fields: Any) -> dict[str, Any]:
    return {"type": "object", "additionalProperties": False, "required": required, "properties": fields}


_GROUP = {"type": "string", "maxLength": 253, "pattern": r"^$|^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$"}
_KIND = {"type": "string", "minLength": 1, "maxLength": 63, "pattern": r"^[a-zA-Z]([-a-zA-Z0-9]*[a-zA-Z0-9])?$"}
_PORT = {"type": "integer", "minimum": 1, "maximum": 65535}
_BACKEND = _closed(
    # without a port a backend of kind Service is refused
    ["name", "port"],
    group=_GROUP,
    kind=_KIND,
    name=_NAME,
    namespace={**_NAME, "maxLength": 63},
    port=_PORT,
    weight={"type": "integer", "minimum": 0, "maximum": 1_000_000},
)
_PATH = _closed(
    [],
    type={"enum": ["Exact", "PathPrefix", "RegularExpression"]},
    value={"type": "string", "maxLength": 1024, "pattern": r"^/(?!.*(//|/\./|/\.\./|%2[fF]|#))"},
)
HTTP_ROUTE = {
    **_closed(
        ["apiVersion", "kind", "metadata", "spec"],
        apiVersion={"const": "gateway.networking.k8s.io/v1"},
        kind={"const": "HTTPRoute"},
        metadata={"type": "object", "required": ["name", "namespace"]},
        spec=_closed(
            [],
            parentRefs={
                "type": "array",
                "maxItems": 32,
                "items": _closed(["name"], group=_GROUP, kind=_KIND, name=_NAME, namespace=_NAME, sectionName=_NAME, port=_PORT),
            },
            hostnames={"type": "array", "maxItems": 16, "items": {**_NAME, "pattern": _HOST}},
            rules={
                "type": "array",
                "minItems": 1,
                "maxItems": 16,
                "items": _closed(
                    [],
                    # versions before 1.2 of the Gateway API take at most 8
                    matches={"type": "array", "maxItems": 8, "items": _closed([], path=_PATH)},
                    backendRefs={"type": "array", "maxItems": 16, "items": _BACKEND},
                ),
            },
        ),
    )
}
