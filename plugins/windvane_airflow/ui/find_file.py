"""Finds a file below a directory by an address that anybody may have written."""

from collections.abc import Mapping
from pathlib import Path

from fastapi import HTTPException


def find_file(root: Path, path: str, types: Mapping[str, str]) -> tuple[Path, str]:
    """The file and its content type; `..`, links that lead out, devices and types that are not listed do not exist.

    Raises:
        HTTPException: 404 if there is none.
    """
    missing = HTTPException(404, f"There is no file {Path(path).name[:80]!r} here; it may have been removed.")
    try:
        # the directory itself must not be a link: it may lead to what another model's readers only may see
        parent = root.parent.resolve(strict=True) / root.name
        file = (parent / path).resolve(strict=True)
        if not file.is_relative_to(parent) or not file.is_file() or file.suffix not in types:
            raise missing
    except (OSError, ValueError, RuntimeError) as exc:  # no such file; a null byte; links in a circle
        raise missing from exc
    return file, types[file.suffix]
