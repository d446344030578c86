"""Reads what each commit of a Delta table says about itself, newest first.

Read from the log's files, each of which is named by its version: delta-rs lists also the commits that came after the table was
opened, and numbers them as if none had. Files of an object store are read side by side, since each answer takes its time.
"""

import functools
import json
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from deltalake import DeltaTable

from windvane.errors import StorageError
from windvane.object_path import ObjectPath
from windvane.store_files import Place, place_of

_SIDE_BY_SIDE = 32


def read_log(found: DeltaTable) -> Iterator[Mapping[str, Any]]:
    """What was recorded with each commit up to the version of a table, newest first.

    Raises:
        StorageError: If the log cannot be read.
    """
    uri = found.table_uri
    log = (Path(unquote(urlsplit(uri).path)) if uri.startswith("file:") else place_of(uri.rstrip("/"))) / "_delta_log"
    versions = range(found.version(), -1, -1)
    if isinstance(log, Path):
        yield from filter(None, (_read(log, version) for version in versions))
        return
    with ThreadPoolExecutor(_SIDE_BY_SIDE) as pool:
        for begin in range(0, len(versions), _SIDE_BY_SIDE):
            yield from filter(None, pool.map(functools.partial(_read_once, log), versions[begin : begin + _SIDE_BY_SIDE]))


def _read(log: Place, version: int) -> Mapping[str, Any] | None:
    """What a commit says; None if its file was removed since, or says nothing."""
    file = log / f"{version:020d}.json"
    try:
        lines = file.read_bytes().splitlines()
        said = next(
            (action["commitInfo"] for line in lines if b'"commitInfo"' in line and "commitInfo" in (action := json.loads(line))), None
        )
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as exc:
        raise StorageError(f"{file}: the table's log cannot be read: {getattr(exc, 'strerror', None) or type(exc).__name__}") from exc
    return None if said is None else {**said, "version": version}


@functools.lru_cache(maxsize=20_000)
def _read_once(log: ObjectPath, version: int) -> Mapping[str, Any] | None:
    # a commit never changes, and a task asks several times
    return _read(log, version)
