"""Serves validation results, reports and verdicts to those who may read the model; what they hold is treated as hostile."""

from pathlib import Path, PurePosixPath

from fastapi import APIRouter, HTTPException
from fastapi.responses import FileResponse, Response

from windvane.errors import ConfigError
from windvane.object_path import ObjectPath
from windvane.settings import load_settings
from windvane_airflow.ui.find_file import find_file
from windvane_airflow.ui.guard import KnownModel

router = APIRouter()

# a report may run its own scripts, but never in Airflow's origin and never reaching the network
_HEADERS = {
    "Content-Security-Policy": (
        "sandbox allow-scripts; default-src 'none'; script-src 'unsafe-inline' 'unsafe-eval'; "
        "style-src 'unsafe-inline'; img-src data:; font-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'self'"
    ),
    "X-DNS-Prefetch-Control": "off",
}
# no SVG and no XML: they are documents with scripts of their own
_TYPES = {".html": "text/html; charset=utf-8", ".json": "application/json", ".txt": "text/plain; charset=utf-8"}
_MOST_BYTES = 100_000_000


@router.get("/reports/{model}/{path:path}")
def report(path: str, known: KnownModel) -> Response:
    """A file of the model's reports."""
    reports = load_settings().reports
    if isinstance(reports, ObjectPath):
        return _stored_report(reports / known.model, path)
    file, kind = find_file(reports / known.model, path, _TYPES)
    if file.stat().st_size > _MOST_BYTES:
        raise HTTPException(413, f"{known.model}/{path[:200]}: larger than {_MOST_BYTES // 1_000_000} MB; open it where it is stored")
    return FileResponse(file, media_type=kind, headers=_HEADERS)


def _stored_report(place: ObjectPath, path: str) -> Response:
    kind = _TYPES.get(PurePosixPath(path).suffix)
    try:
        if kind is None:
            raise FileNotFoundError
        return Response((place / path).read_bytes(most=_MOST_BYTES), media_type=kind, headers=_HEADERS)
    except (FileNotFoundError, ConfigError) as exc:  # a part of the name is `..`
        raise HTTPException(404, f"There is no file {Path(path).name[:80]!r} here; it may have been removed.") from exc
