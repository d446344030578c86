"""Serves the files of the Models page: modules, styles, icons."""

import hashlib
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import urlsplit

from airflow.configuration import conf
from fastapi import APIRouter, Header
from fastapi.responses import Response

from windvane_airflow.ui.find_file import find_file

router = APIRouter()

PAGE = Path(__file__).parent / "page"
_TYPES = {".js": "text/javascript; charset=utf-8", ".css": "text/css; charset=utf-8", ".svg": "image/svg+xml"}
# opened by itself, an icon is a document: it has nothing to run or load
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; sandbox; frame-ancestors 'none'"


def page_digest() -> str:
    """A name for what the files hold now; modules that import each other by relative addresses all carry it."""
    files = sorted(path for path in PAGE.rglob("*") if path.suffix in _TYPES)
    return _digest_of(tuple((file, stat.st_mtime_ns, stat.st_size) for file in files for stat in [file.stat()]))


@lru_cache(maxsize=1)
def _digest_of(files: tuple[tuple[Path, int, int], ...]) -> str:
    digest = hashlib.sha256()
    for file, _, _ in files:
        digest.update(f"{file.relative_to(PAGE)}\0".encode() + file.read_bytes())
    return digest.hexdigest()[:16]


def models_page() -> dict[str, Any]:
    """The entry of the page in Airflow's navigation."""
    base = urlsplit(conf.get("api", "base_url", fallback="") or "").path.rstrip("/")
    files = f"{base}/windvane/page.{page_digest()}"
    return {
        "name": "Models",
        "bundle_url": f"{files}/models.js",
        "destination": "nav",
        "url_route": "models",
        "nav_top_level": True,
        "icon": f"{files}/icon.svg",
        "icon_dark_mode": f"{files}/icon-dark.svg",
    }


@router.get("/page/{path:path}")
def page_file(path: str, if_none_match: Annotated[str | None, Header()] = None) -> Response:
    """A file of the page as it is now; a browser asks each time whether it changed."""
    return _answer(path, if_none_match, cache="private, no-cache")


@router.get("/page.{digest}/{path:path}")
def page_file_for_good(digest: str, path: str, if_none_match: Annotated[str | None, Header()] = None) -> Response:
    """A file of the page; a browser keeps it, because other content has another address."""
    return _answer(path, if_none_match, cache="private, max-age=31536000, immutable" if digest == page_digest() else "private, no-cache")


def _answer(path: str, seen: str | None, *, cache: str) -> Response:
    file, kind = find_file(PAGE, path, _TYPES)
    content = file.read_bytes()
    tag = f'"{hashlib.sha256(content).hexdigest()[:32]}"'
    headers = {"ETag": tag, "Cache-Control": cache, "Content-Security-Policy": _POLICY}
    # what compresses on the way may mark the tag as weak
    if seen and tag in [known.strip().removeprefix("W/") for known in seen.split(",")]:
        return Response(status_code=304, headers=headers)
    return Response(content, media_type=kind, headers=headers)
