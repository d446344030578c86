import threading

import pyarrow as pa
import pytest

from windvane.stream_batches import stream_batches

SCHEMA = pa.schema([("n", pa.int64())])


def numbers(count):
    for n in range(count):
        yield pa.record_batch({"n": pa.array([n])}, schema=SCHEMA)


def test_the_writer_gets_every_batch_in_order_from_another_thread():
    found = []

    def write(reader):
        found.append((threading.current_thread(), [batch["n"][0].as_py() for batch in reader]))

    stream_batches(numbers(50), SCHEMA, write)
    assert found[0][0] is not threading.current_thread()
    assert found[0][1] == list(range(50))


def test_what_fails_while_batches_are_made_reaches_the_caller_and_fails_the_writer():
    ended = []

    def broken():
        yield from numbers(3)
        raise ValueError("the third was the last")

    def write(reader):
        try:
            reader.read_all()
            ended.append("whole")
        except Exception:
            ended.append("failed")
            raise

    with pytest.raises(ValueError, match="the third was the last"):
        stream_batches(broken(), SCHEMA, write)
    assert ended == ["failed"]


def test_a_writer_that_fails_ends_the_making():
    made = []

    def counted():
        for batch in numbers(1_000_000):
            made.append(1)
            yield batch

    def write(reader):
        reader.read_next_batch()
        raise OSError("no space left")

    with pytest.raises(OSError, match="no space left"):
        stream_batches(counted(), SCHEMA, write)
    assert len(made) < 1_000_000


def test_a_writer_that_does_not_read_to_the_end_does_not_hang():
    stream_batches(numbers(100), SCHEMA, lambda reader: None)
