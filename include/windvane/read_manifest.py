"""Reads `bundle.json` and believes nothing in it that could lead elsewhere."""

import json
import re
from pathlib import Path
from typing import Any

from windvane.errors import BundleError
from windvane.verified_file import read_verified

MANIFEST = "bundle.json"
FILES = ("model.skops", "model.py", "golden.parquet", "reference.parquet")
OPTIONAL_FILES = ("model.onnx",)
MAX_MANIFEST_BYTES = 10_000_000


def read_manifest(path: Path, digest: str) -> dict[str, Any]:
    """Read a manifest whose SHA-256 is the bundle's digest.

    Raises:
        BundleError: If it is another one, too large, not strict JSON (a field twice, NaN), or names files or a model that no bundle has.
    """
    data = read_verified(path, digest, most=MAX_MANIFEST_BYTES)
    try:
        manifest = json.loads(data, object_pairs_hook=_unique, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as exc:
        raise BundleError(f"{path}: is not the JSON of a bundle: {type(exc).__name__}: {exc!s:.100}; restore it or train again") from exc
    files = manifest.get("files") if isinstance(manifest, dict) else None
    if not isinstance(files, dict) or not set(FILES) <= set(files) <= {*FILES, *OPTIONAL_FILES}:
        got = sorted(files)[:10] if isinstance(files, dict) else type(files).__name__
        raise BundleError(f"{path}: files: got {got!s:.200}, allowed are {[*FILES]} and perhaps {[*OPTIONAL_FILES]}; train again")
    if not isinstance(manifest.get("model"), str) or not re.fullmatch(r"[a-z][a-z0-9_]{0,62}", manifest["model"]):
        raise BundleError(f"{path}: model: got {manifest.get('model')!r:.80}, allowed is the name of a model; train again")
    return dict(manifest)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a field appears twice")
    return found


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")
