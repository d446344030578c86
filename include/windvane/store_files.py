"""Writes files whole or not at all, and reads them back only if no bit changed."""

import contextlib
import errno
import hashlib
import os
import uuid
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from windvane.errors import DataError, StorageError


def as_parquet(table: pa.Table) -> bytes:
    """The table as a Parquet file with page checksums; the same table always gives the same bytes."""
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, write_page_checksum=True)
    content: bytes = sink.getvalue().to_pybytes()
    return content


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file: synced under another name, then renamed.

    Raises:
        StorageError: If it cannot be written; nothing is left behind then.
    """
    unfinished = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with unfinished.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        unfinished.replace(path)
        directory = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)
    except OSError as exc:
        with contextlib.suppress(OSError):
            unfinished.unlink(missing_ok=True)
        reason = "no space is left; free some" if exc.errno == errno.ENOSPC else f"{exc.strerror or exc}; mend this"
        raise StorageError(f"{path}: could not write {len(content)} bytes: {reason} and run again") from exc


def read_parquet(path: Path, *, sha256: str | None = None) -> pa.Table:
    """Read a Parquet file, verifying its page checksums and, if given, the digest of the whole file.

    Raises:
        DataError: If the file is missing, cut, or changed.
    """
    try:
        content = path.read_bytes()
    except OSError as exc:
        raise DataError(f"{path}: cannot be read: {exc.strerror}") from exc
    if sha256 is not None and hashlib.sha256(content).hexdigest() != sha256:
        raise DataError(f"{path}: the file changed after it was written ({len(content)} bytes); extract the window again")
    try:
        return pq.read_table(pa.BufferReader(content), page_checksum_verification=True)
    except (pa.ArrowException, OSError) as exc:
        raise DataError(f"{path}: not a whole Parquet file ({len(content)} bytes): {str(exc).splitlines()[0][:200]}") from exc
