"""Scored rows reach segments that are whole, named once and readable; what is lost is counted."""

import json
import logging
import subprocess
import sys
import threading
import time
from datetime import UTC, datetime

import numpy as np
import pyarrow as pa
import pytest

from windvane.collect_predictions import read_segment
from windvane.errors import DataError
from windvane.scoring.log_requests import SCHEMA, LoggedRequest, RequestLog, ScoredRows

NOW = datetime(2013, 2, 1, 6, tzinfo=UTC)
TICKS = int(NOW.timestamp()) * 1_000_000


def scored(request_id="r", rows=2, **changes):
    values = {
        "version": 3,
        "digest": "d" * 64,
        "requests": [LoggedRequest(request_id, TICKS, rows, 1.5)],
        "size": 100,
        "columns": {"carrier": ["UA"] * rows, "distance": [None, *[1.5] * (rows - 1)], "at": [TICKS] * rows},
        "types": {"carrier": "string", "distance": "double", "at": "datetime", "seats": "long"},
        "ids": [f"{request_id}-{i}" for i in range(rows)],
        "times": [TICKS] * rows,
        "predictions": [1.0] * rows,
        "scores": [0.75] * rows,
        "probabilities": None,
    }
    return ScoredRows(**(values | changes))


def read(directory):
    tables = []
    for path in sorted(directory.glob("*.arrow")):
        table = read_segment(path)
        assert table.schema == SCHEMA
        assert set(table["segment"].to_pylist()) == {path.stem}
        tables.append(table)
    return pa.concat_tables(tables).to_pylist() if tables else []


def wait_for(condition, seconds=5):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "did not happen in time"
        time.sleep(0.01)


def test_rows_are_written_with_all_columns(tmp_path):
    log = RequestLog(tmp_path / "tiny", segment_seconds=0.05)
    log.start()
    log.put(scored())
    wait_for(lambda: list((tmp_path / "tiny").glob("*.arrow")))
    log.close()

    found = read(tmp_path / "tiny")
    assert list(found[0]) == SCHEMA.names
    assert [row["row"] for row in found] == [0, 1]
    assert [json.loads(row["features"]) for row in found] == [
        {"carrier": "UA", "distance": None, "at": "2013-02-01T06:00:00+00:00"},
        {"carrier": "UA", "distance": 1.5, "at": "2013-02-01T06:00:00+00:00"},
    ]
    named = ("request_id", "version", "digest", "prediction", "score", "probabilities", "milliseconds")
    assert {tuple(row[name] for name in named) for row in found} == {("r", 3, "d" * 64, "1.0", 0.75, None, 1.5)}
    assert found[0]["received"] == found[0]["time"] == NOW
    assert not list((tmp_path / "tiny").glob(".*"))


def test_arrays_are_logged_as_the_same_lists(tmp_path):
    lists = {"distance": [1.0, None, -0.0, 1e300], "seats": [1, 2, 3, -(2**63)], "at": [TICKS, None, -1, 1]}
    arrays = {
        "distance": np.array(lists["distance"], dtype=float),
        "seats": np.array(lists["seats"]),
        "at": np.array([np.datetime64("NaT") if value is None else value for value in lists["at"]], dtype="datetime64[us]"),
    }
    log = RequestLog(tmp_path)
    log.start()
    log.put(scored(rows=4, columns=lists, times=lists["at"]))
    log.put(scored(rows=4, columns=arrays, times=arrays["at"]))
    log.put(scored(rows=4, columns=arrays, times=[None] * 4))
    log.close()

    found = read(tmp_path)
    assert [row["features"] for row in found[:4]] == [row["features"] for row in found[4:8]]
    assert json.loads(found[1]["features"]) == {"distance": None, "seats": 2, "at": None}
    assert [row["time"] for row in found[:4]] == [row["time"] for row in found[4:8]]
    assert [row["time"] is None for row in found] == [False, True, False, False] * 2 + [True] * 4


def test_requests_that_were_scored_together_keep_their_own_names_numbers_and_times(tmp_path):
    log = RequestLog(tmp_path)
    log.start()
    requests = [LoggedRequest("a", TICKS, 1, 2.0), LoggedRequest("b", TICKS + 1, 3, 4.0)]
    log.put(scored(rows=4, requests=requests, ids=[None, "b-0", None, "b-2"], times=[None, TICKS, TICKS, None]))
    log.put(scored("c", rows=1, version=4, digest="e" * 64))
    log.close()

    found = read(tmp_path)
    assert [(row["request_id"], row["row"], row["milliseconds"]) for row in found] == [
        ("a", 0, 2.0),
        *[("b", n, 4.0) for n in range(3)],
        ("c", 0, 1.5),
    ]
    assert [row["id"] for row in found] == [None, "b-0", None, "b-2", "c-0"]
    assert [row["time"] for row in found] == [None, NOW, NOW, None, NOW]
    assert [row["received"].microsecond for row in found] == [0, 1, 1, 1, 0]
    assert [(row["version"], row["digest"][0]) for row in found] == [(3, "d")] * 4 + [(4, "e")]


def test_more_than_two_classes_keep_their_probabilities(tmp_path):
    log = RequestLog(tmp_path)
    log.start()
    log.put(scored(rows=1, predictions=["b"], scores=None, probabilities=np.array([[0.1, 0.7, 0.2]])))
    log.close()

    (row,) = read(tmp_path)
    assert (row["prediction"], row["score"], json.loads(row["probabilities"])) == ("b", None, [0.1, 0.7, 0.2])


def test_close_writes_what_waits(tmp_path):
    written = []
    log = RequestLog(tmp_path, segment_seconds=60, on_written=written.append)
    log.start()
    for number in range(50):
        log.put(scored(f"r{number}"))
    log.close()

    assert len(read(tmp_path)) == 100 == sum(written)
    assert not log.put(scored())


def test_a_segment_is_closed_when_it_has_enough_rows_and_names_are_never_reused(tmp_path):
    first, second = (RequestLog(tmp_path, segment_rows=10, segment_seconds=60) for _ in range(2))
    for log in (first, second):
        log.start()
        for number in range(20):
            log.put(scored(f"r{number}", rows=3))
        wait_for(lambda: len(list(tmp_path.glob("*.arrow"))) >= 3)
        log.close()

    assert len(read(tmp_path)) == 120
    assert max(len(pa.ipc.open_file(str(path)).read_all()) for path in tmp_path.glob("*.arrow")) <= 10


def test_a_full_log_drops_counts_and_says_so(tmp_path, caplog):
    dropped = []
    log = RequestLog(tmp_path, max_rows=10, on_dropped=dropped.append)

    accepted = [log.put(scored(rows=4)) for _ in range(4)]

    assert accepted == [True, True, False, False]
    assert dropped == [4, 4]
    assert len([r for r in caplog.records if "were not logged" in r.message]) == 1


def test_large_requests_fill_the_log_by_their_size(tmp_path):
    dropped = []
    log = RequestLog(tmp_path, max_bytes=1_000, on_dropped=dropped.append)

    assert [log.put(scored(size=400)) for _ in range(3)] == [True, True, False]
    assert dropped == [2]


def test_a_disk_that_fails_keeps_rows_until_it_works_again(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    directory = tmp_path / "tiny"
    directory.write_text("a file where the directory should be")
    log = RequestLog(directory, segment_seconds=0.02, retry_seconds=0.05)
    log.start()
    log.put(scored("first"))
    log.put(scored("second"))
    wait_for(lambda: "cannot be written" in caplog.text)
    time.sleep(0.2)
    directory.unlink()
    wait_for(lambda: directory.is_dir() and list(directory.glob("*.arrow")))
    log.close()

    assert [row["id"] for row in read(directory)] == ["first-0", "first-1", "second-0", "second-1"]
    assert caplog.text.count("cannot be written") == 1


def test_a_disk_that_never_works_ends_in_counted_drops(tmp_path):
    directory = tmp_path / "tiny"
    directory.write_text("")
    dropped = []
    log = RequestLog(directory, segment_seconds=0.02, retry_seconds=60, on_dropped=dropped.append)
    log.start()
    log.put(scored())
    log.close(timeout_seconds=5)

    assert dropped == [2]


def test_many_writers_lose_nothing(tmp_path):
    log = RequestLog(tmp_path, segment_rows=40, segment_seconds=0.01)
    log.start()

    def work(name):
        for number in range(50):
            assert log.put(scored(f"{name}-{number}", rows=1))

    threads = [threading.Thread(target=work, args=(name,)) for name in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    log.close()

    assert len({row["request_id"] for row in read(tmp_path)}) == 200


@pytest.mark.parametrize("text", ["a\nb", "\u2028", '"', "é", "\x00"])
def test_any_text_is_one_json_value(tmp_path, text):
    log = RequestLog(tmp_path)
    log.start()
    log.put(scored(rows=1, columns={"carrier": [text]}, ids=[text]))
    log.close()

    (row,) = read(tmp_path)
    assert json.loads(row["features"]) == {"carrier": text}
    assert row["id"] == text


def test_versions_with_other_columns_labels_and_outputs_share_a_segment(tmp_path):
    log = RequestLog(tmp_path, segment_seconds=60)
    log.start()
    numbers = {"predictions": np.array([1, 0])}
    log.put(scored("a", predictions=[1, 0], arrays=numbers))
    log.put(scored("b", version=4, columns={"distance": [True, None]}, types={"distance": "boolean"}, predictions=["x", "é"], scores=None))
    log.put(scored("c", version=5, columns={}, types={}, ids=[None, None], probabilities=np.array([[0.1, 0.7, 0.2], [0.25, 0.5, 0.25]])))
    log.put(scored("d", predictions=[1, 0], arrays=numbers))
    log.close()

    assert len(list(tmp_path.glob("*.arrow"))) == 1
    found = read(tmp_path)
    first = '{"carrier":"UA","distance":null,"at":"2013-02-01T06:00:00+00:00"}'
    assert [row["features"] for row in found[::2]] == [first, '{"distance":true}', "{}", first]
    assert [row["features"] for row in found[3:5]] == ['{"distance":null}', "{}"]
    assert [row["prediction"] for row in found] == ["1", "0", "x", "é", "1.0", "1.0", "1", "0"]
    assert [row["id"] for row in found] == ["a-0", "a-1", "b-0", "b-1", None, None, "d-0", "d-1"]
    assert [row["score"] for row in found] == [0.75, 0.75, None, None, 0.75, 0.75, 0.75, 0.75]
    assert [row["probabilities"] for row in found[3:7]] == [None, "[0.1,0.7,0.2]", "[0.25,0.5,0.25]", None]


def test_columns_without_a_value_keep_their_place_and_their_type(tmp_path):
    log = RequestLog(tmp_path, segment_seconds=60)
    log.start()
    types = {"carrier": "string", "night": "boolean", "distance": "double", "at": "datetime"}
    nulls, values = {name: [None] for name in types}, {"carrier": ["UA"], "night": [False], "distance": [-0.0], "at": [-1]}
    log.put(scored("a", rows=1, columns=nulls, types=types, ids=[None], times=[None], scores=None))
    log.put(scored("b", rows=1, columns=values, types=types, ids=["1"]))
    log.put(scored("c", rows=2, columns={name: [*nulls[name], *values[name]] for name in types}, types=types, ids=[None, "\0"]))
    log.close()

    found = read(tmp_path)
    empty = '{"carrier":null,"night":null,"distance":null,"at":null}'
    full = '{"carrier":"UA","night":false,"distance":-0.0,"at":"1969-12-31T23:59:59.999999+00:00"}'
    assert [row["features"] for row in found] == [empty, full, empty, full]
    assert [row["id"] for row in found] == [None, "1", None, "\0"]
    assert [row["time"] for row in found] == [None, NOW, NOW, NOW]
    assert [row["score"] for row in found] == [None, 0.75, 0.75, 0.75]


def test_two_requests_of_one_name_are_numbered_apart(tmp_path):
    log = RequestLog(tmp_path)
    log.start()
    log.put(scored("same", rows=2))
    log.put(scored("same", rows=3))
    log.close()

    assert [row["row"] for row in read(tmp_path)] == [0, 1, 0, 1, 2]


def test_a_segment_that_is_cut_or_changed_is_named(tmp_path):
    log = RequestLog(tmp_path)
    log.start()
    log.put(scored(rows=500))
    log.close()
    (path,) = tmp_path.glob("*.arrow")
    whole = path.read_bytes()

    for content in (whole[:-40], whole[: len(whole) // 2], whole.replace(b"digest", b"tsegid")):
        path.write_bytes(content)
        with pytest.raises(DataError, match="not a request-log segment"):
            read_segment(path)


def test_writing_does_not_bring_in_pandas(tmp_path):
    code = """
import sys
import numpy as np
from windvane.scoring.encode_segment import LoggedRequest, ScoredRows, encode_rows, join_batches
columns = {"a": ["x", None], "b": np.ones(2), "c": [True, None], "d": np.zeros(2, "datetime64[us]")}
types = {"a": "string", "b": "double", "c": "boolean", "d": "datetime"}
request = LoggedRequest("r", 0, 2, 1.0)
for ids, chances in ((["i", None], np.ones((2, 3))), ([None, None], None)):
    rows = ScoredRows(1, "d", [request], 1, columns, types, ids, [0, None], ["p", "q"], None, chances)
    join_batches([*encode_rows([rows]), *encode_rows([rows, rows])])
assert "pandas" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True)
