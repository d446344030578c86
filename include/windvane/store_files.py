"""Writes files whole or not at all, on this host or in an object store, and reads them back only if no bit changed."""

import contextlib
import errno
import hashlib
import os
import tempfile
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from windvane.errors import DataError, StorageError
from windvane.object_path import ObjectPath

if TYPE_CHECKING:
    import pyarrow as pa

Place = Path | ObjectPath


def place_of(text: str) -> Place:
    """The place that a path or a URI names."""
    return ObjectPath.of(text) if "://" in text else Path(text)


def relative_place(place: Place, root: Place) -> str:
    """The way from a root to a place in it, with slashes.

    Raises:
        ValueError: If it does not lie in it.
    """
    if isinstance(place, ObjectPath) and isinstance(root, ObjectPath):
        return place.relative_to(root).as_posix()
    if isinstance(place, Path) and isinstance(root, Path):
        return place.resolve().relative_to(root.resolve()).as_posix()
    raise ValueError(f"{place} does not lie in {root}")


def find_files(folder: Place, pattern: str) -> list[Place]:
    """The files of a folder whose names fit, in the order of their names; a `*` stands for one part of the name."""
    return sorted(folder.glob(pattern), key=str)


def as_parquet(table: "pa.Table") -> bytes:
    """The table as a Parquet file with page checksums; the same table always gives the same bytes."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, write_page_checksum=True)
    content: bytes = sink.getvalue().to_pybytes()
    return content


def write_bytes(place: Place, content: bytes) -> None:
    """Write a file so that a reader sees the old or the new content, also after a power cut.

    Raises:
        StorageError: If it cannot be written; nothing is left behind then.
    """
    if isinstance(place, ObjectPath):
        place.write_bytes(content)
        return
    unfinished = place.with_name(f".{place.name}.{uuid.uuid4().hex}.tmp")
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        with unfinished.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        unfinished.replace(place)
        directory = os.open(place.parent, os.O_RDONLY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)
    except OSError as exc:
        with contextlib.suppress(OSError):
            unfinished.unlink(missing_ok=True)
        reason = "no space is left; free some" if exc.errno == errno.ENOSPC else f"{exc.strerror or exc}; mend this"
        raise StorageError(f"{place}: could not write {len(content)} bytes: {reason} and run again") from exc


def read_parquet(place: Place, *, sha256: str | None = None) -> "pa.Table":
    """Read a Parquet file, verifying its page checksums and, if given, the digest of the whole file.

    Raises:
        DataError: If the file is missing, cut, or changed.
        StorageError: If the object store does not give it.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        content = place.read_bytes()
    except OSError as exc:
        raise DataError(f"{place}: cannot be read: {exc.strerror}") from exc
    if sha256 is not None and hashlib.sha256(content).hexdigest() != sha256:
        raise DataError(f"{place}: the file changed after it was written ({len(content)} bytes); extract the window again")
    try:
        return pq.read_table(pa.BufferReader(content), page_checksum_verification=True)
    except (pa.ArrowException, OSError) as exc:
        raise DataError(f"{place}: not a whole Parquet file ({len(content)} bytes): {str(exc).splitlines()[0][:200]}") from exc


@contextlib.contextmanager
def local_files(folder: Place) -> Iterator[Path | None]:
    """A local directory with the files of a folder, for a library that reads no other; None when there is no such folder."""
    if isinstance(folder, Path):
        yield folder if folder.is_dir() else None
        return
    files = [file for file, _ in folder.objects()]
    if not files:
        yield None
        return
    with tempfile.TemporaryDirectory(prefix="windvane-") as made:
        for file in files:
            (Path(made) / file.name).write_bytes(file.read_bytes())
        yield Path(made)
