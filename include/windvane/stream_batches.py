"""Hands batches to a writer that pulls them in a thread of its own, so that they are made where signals and other libraries work."""

import contextlib
import queue
import threading
from collections.abc import Callable, Iterable, Iterator

import pyarrow as pa

_AHEAD = 4


class _Abandoned(Exception):
    """Whoever makes the batches stopped; the writer must fail and not take what it has for all."""


def stream_batches(batches: Iterable[pa.RecordBatch], schema: pa.Schema, write: Callable[[pa.RecordBatchReader], None]) -> None:
    """Call `write` with a reader of the batches, which are made in this thread, a few in advance.

    delta-rs pulls what it writes from threads in which it cannot read, and in which no signal arrives.

    Args:
        schema: The batches' schema.
        write: Must raise when the reader raises.

    Raises:
        Exception: Whatever making the batches or `write` raised.
    """
    waiting: queue.Queue[pa.RecordBatch | None] = queue.Queue(_AHEAD)
    problems: list[BaseException] = []
    stopped, abandoned = threading.Event(), threading.Event()

    def handed_over() -> Iterator[pa.RecordBatch]:
        while (batch := waiting.get()) is not None:
            yield batch
        if abandoned.is_set():
            raise _Abandoned

    def work() -> None:
        try:
            write(pa.RecordBatchReader.from_batches(schema, handed_over()))
        except BaseException as exc:  # noqa: BLE001 - raised again in the thread that waits for it
            problems.append(exc)
        finally:
            stopped.set()

    def put(batch: pa.RecordBatch | None) -> None:
        while not stopped.is_set():
            with contextlib.suppress(queue.Full):
                waiting.put(batch, timeout=0.1)
                return

    writer = threading.Thread(target=work, name="delta-writer", daemon=True)
    writer.start()
    try:
        for batch in batches:
            put(batch)
            if stopped.is_set():
                break
    except BaseException:
        abandoned.set()
        raise
    finally:
        put(None)
        writer.join()
    if problems:
        raise problems[0]
