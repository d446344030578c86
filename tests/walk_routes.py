"""Every address of the plugin's web application, for tests that ask all of them as somebody."""

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Stop:
    """One address.

    Attributes:
        route: As the application declares it.
        path: An example of it; `{model}`, `{key}` and `{digest}` stand for what the server has.
        writes: Whether it changes something.
    """

    route: str
    path: str
    method: str = "GET"
    writes: bool = False
    json: dict[str, Any] | None = field(default=None, hash=False)
    found: int = 200


_REASON = {"reason": "tests look at it"}
WALK = (
    Stop("/api/models", "/api/models"),
    Stop("/api/models/{model}", "/api/models/{model}"),
    Stop("/api/models/{model}/windows/{key}", "/api/models/{model}/windows/{key}"),
    Stop("/api/models/{model}/served-at", "/api/models/{model}/served-at?at=2026-01-01T14:05:00Z"),
    Stop("/api/models/{model}/freeze", "/api/models/{model}/freeze", "POST", True, _REASON),
    Stop("/api/models/{model}/unfreeze", "/api/models/{model}/unfreeze", "POST", True, _REASON),
    Stop("/page/{path:path}", "/page/models.js"),
    Stop("/page.{digest}/{path:path}", "/page.{digest}/models.js"),
    Stop("/reports/{model}/{path:path}", "/reports/{model}/{key}/drift.html"),
    Stop("/api/openapi.json", "/api/openapi.json"),
    Stop("/{path:path}", "/docs", found=404),
    Stop("/{path:path}", "/redoc", found=404),
    Stop("/{path:path}", "/openapi.json", found=404),
    Stop("/{path:path}", "/", found=404),
    Stop("/{path:path}", "/api/models/", found=404),
    Stop("/{path:path}", "/static/models.js", found=404),
)
