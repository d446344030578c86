"""`python -m windvane.scoring.ship_requests`: moves closed segments of the request log into the object store.

It runs beside the scorer of a pod, and stops after it. A segment is deleted here only when the store has it; while the store does not
answer, segments wait, and beyond a gigabyte the oldest are given up: a pod that fills its node's disk would be evicted.
"""

import argparse
import logging
import signal
import sys
import threading
from collections.abc import Sequence
from pathlib import Path

from windvane.errors import ConfigError, StorageError
from windvane.object_path import ObjectPath

log = logging.getLogger("windvane.scoring.ship_requests")

_EVERY_SECONDS = 1.0
_MAX_BYTES = 1_000_000_000
_SEGMENTS = "*.arrow"


def ship_segments(directory: Path, store: ObjectPath, *, max_bytes: int = _MAX_BYTES) -> int:
    """Move every closed segment, the oldest first; returns how many were moved.

    Raises:
        StorageError: If the store does not take one; it and the later ones stay, as far as they fit.
    """
    moved = 0
    waiting = sorted(path for path in directory.glob(_SEGMENTS) if not path.name.startswith("."))
    for number, path in enumerate(waiting):
        try:
            (store / path.name).upload(path)
        except StorageError:
            _give_up_oldest(waiting[number:], max_bytes=max_bytes)
            raise
        path.unlink()
        moved += 1
    return moved


def _give_up_oldest(waiting: list[Path], *, max_bytes: int) -> None:
    sizes = [path.stat().st_size for path in waiting]
    excess = sum(sizes) - max_bytes
    for path, size in zip(waiting, sizes, strict=True):
        if excess <= 0:
            return
        path.unlink()
        excess -= size
        log.error("%s: given up: more than %d MB of the request log wait for the object store", path.name, max_bytes // 1_000_000)


def ship_until(stop: threading.Event, directory: Path, store: ObjectPath, *, every_seconds: float = _EVERY_SECONDS) -> None:
    """Move segments until stopped, and then once more: what served before wrote its last one by then."""
    failing = False
    while True:
        last = stop.is_set()
        try:
            moved = ship_segments(directory, store)
            if failing:
                log.info("%s takes the request log again, %d segments moved", store, moved)
            failing = False
        except StorageError as exc:
            if not failing:
                log.error("%s; the segments wait", exc)
            failing = True
        if last:
            return
        stop.wait(every_seconds)


def main(arguments: Sequence[str] | None = None) -> int:
    """Move segments until SIGTERM or SIGINT; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m windvane.scoring.ship_requests", description="Move the request log to a store.")
    parser.add_argument("--from", dest="directory", type=Path, required=True, help="directory of the request log of one model")
    parser.add_argument("--to", required=True, help="URI that gets the segments")
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    try:
        store = ObjectPath.of(options.to)
    except ConfigError as exc:
        log.error("%s", exc)
        return 1
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    ship_until(stop, options.directory, store)
    return 0


if __name__ == "__main__":
    sys.exit(main())
