"""Reads a file of a bundle, and gives its bytes only if they are the ones that the manifest names."""

import hashlib
import os
import stat
from pathlib import Path

from windvane.errors import BundleError

MAX_FILE_BYTES = 2_000_000_000


def read_verified(path: Path, sha256: str | None, *, most: int = MAX_FILE_BYTES) -> bytes:
    """Read a regular file, no link, once.

    Args:
        sha256: What its digest must be.
        most: How many bytes it may have.

    Raises:
        BundleError: If it is missing, no regular file, too large or changed.
    """
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError as exc:
        raise BundleError(f"{path}: is missing or not a regular file ({exc.strerror}); restore the bundle or train again") from exc
    try:
        state = os.fstat(handle)
        if not stat.S_ISREG(state.st_mode):
            raise BundleError(f"{path}: is not a regular file; restore the bundle or train again")
        if state.st_size > most:
            raise BundleError(f"{path}: has {state.st_size} bytes, allowed are {most}; restore the bundle or train again")
        with open(handle, "rb", closefd=False) as file:
            data = file.read(most + 1)
    except OSError as exc:
        raise BundleError(f"{path}: cannot be read: {exc.strerror}; restore the bundle or train again") from exc
    finally:
        os.close(handle)
    if hashlib.sha256(data).hexdigest() != sha256:
        raise BundleError(f"{path}: its SHA-256 differs from the one it was stored with; restore the bundle or train again")
    return data
