"""The one web application of the plugin; every address of it, known or not, needs a user."""

import gc
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from airflow.api_fastapi.core_api.security import get_user
from fastapi import Depends, FastAPI, HTTPException, Request
from fastapi.responses import Response
from starlette.routing import Match

from windvane_airflow.ui import act_on_models, serve_models, serve_page, serve_reports
from windvane_airflow.ui.answer_json import CarefulHeaders, as_json, explain_errors

_METHODS = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE"]


@asynccontextmanager
async def _settle(app: FastAPI) -> AsyncIterator[None]:
    """Take what the server has loaded by now out of garbage collection.

    Airflow's modules are most of a million objects, and they stay. While they count, looking through them stops every few requests
    for several times as long as the whole answer takes.
    """
    gc.collect()
    gc.freeze()
    yield


def build_app() -> FastAPI:
    """Build the application that Airflow mounts under /windvane."""
    app = FastAPI(
        title="Windvane",
        version="1",
        description="What the Models page shows. The same permissions as in Airflow; log in as for Airflow's own API.",
        dependencies=[Depends(get_user)],
        docs_url=None,
        redoc_url=None,
        openapi_url=None,
        lifespan=_settle,
    )
    app.add_middleware(CarefulHeaders)
    explain_errors(app)
    for part in (serve_models, act_on_models, serve_page, serve_reports):
        app.include_router(part.router)

    @app.get("/api/openapi.json", include_in_schema=False)
    def openapi() -> Response:
        return as_json(app.openapi())

    # without this, an address that matches nothing would be answered to anybody
    @app.api_route("/{path:path}", methods=_METHODS, include_in_schema=False)
    def nothing(request: Request, path: str) -> Response:
        if any(route.matches(request.scope)[0] is Match.PARTIAL for route in app.router.routes):
            raise HTTPException(405, f"{request.method} is not allowed for this address")
        raise HTTPException(404, f"There is nothing at {path[:80]!r}; /windvane/api/openapi.json lists what there is")

    return app
