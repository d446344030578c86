"""Serves validation results, reports and verdicts to logged-in users; what they hold is treated as hostile."""

from pathlib import Path

from airflow.api_fastapi.core_api.security import get_user
from fastapi import Depends, FastAPI, HTTPException
from fastapi.responses import FileResponse

from windvane.settings import load_settings

# a report may run its own scripts, but never in Airflow's origin and never reaching the network
_HEADERS = {
    "Content-Security-Policy": (
        "sandbox allow-scripts; default-src 'none'; script-src 'unsafe-inline' 'unsafe-eval'; "
        "style-src 'unsafe-inline'; img-src data:; font-src data:"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}
_TYPES = {".html": "text/html; charset=utf-8", ".json": "application/json", ".txt": "text/plain; charset=utf-8"}


def build_app() -> FastAPI:
    """Build the application that Airflow mounts; every route needs a user."""
    app = FastAPI(dependencies=[Depends(get_user)], docs_url=None, redoc_url=None, openapi_url=None)

    @app.get("/reports/{path:path}")
    def report(path: str) -> FileResponse:
        """Return a file of the reports directory."""
        root = load_settings().reports.resolve()
        file = (root / path).resolve()
        if not file.is_relative_to(root) or not file.is_file() or file.suffix not in _TYPES:
            raise HTTPException(status_code=404, detail=f"There is no report {Path(path).name!r}; it may have been removed.")
        return FileResponse(file, media_type=_TYPES[file.suffix], headers=_HEADERS)

    return app
