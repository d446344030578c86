"""Scoring requests: each row of a month once, a steady rate, no retry, and every failure counted."""

import time
from itertools import count, pairwise

import pandas as pd
import pytest
from local_server import serve

from windvane.send_traffic import TrafficSender

FLIGHTS = pd.DataFrame(
    {
        "flight_id": [f"f{i}" for i in range(23)],
        "scheduled_departure": pd.date_range("2013-03-01", periods=23, freq="h", tz="UTC"),
        "distance": [100.5] * 23,
    }
)


def _predict(body, version: str = "1"):
    rows = body["dataframe_split"]["data"]
    return 200, {"predictions": [0] * len(rows)}, {"X-Windvane-Version": version}


def _wait(condition) -> None:
    give_up = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < give_up
        time.sleep(0.01)


def test_every_row_is_sent_once_and_then_single_rows_go_on_from_all_over_the_frame() -> None:
    bodies = []

    def answer(method, path, headers, body):
        bodies.append(body["dataframe_split"])
        return _predict(body)

    with serve(answer) as url:
        sender = TrafficSender(f"{url}/invocations", per_second=200)
        sender.send_all(FLIGHTS, rows_per_request=10)
        _wait(lambda: sender.all_sent and sender.counts.sent >= 12)
        sender.stop()
    batches = [body for body in bodies if len(body["data"]) > 1]
    assert sorted(row[0] for body in batches for row in body["data"]) == sorted(FLIGHTS["flight_id"])
    assert batches[0]["columns"] == ["flight_id", "scheduled_departure", "distance"]
    assert batches[0]["data"][0][1].startswith("2013-03-01T")
    single = [body["data"] for body in bodies if body not in batches]
    assert all(len(rows) == 1 for rows in single)
    places = [int(rows[0][0].removeprefix("f")) for rows in single]
    assert max(abs(one - other) for one, other in pairwise(places)) > 3
    assert sender.counts.failed == 0
    assert sender.counts.rows == sum(len(body["data"]) for body in bodies)


def test_the_rate_is_held() -> None:
    with serve(lambda method, path, headers, body: _predict(body)) as url:
        sender = TrafficSender(url, per_second=50)
        sender.send_all(FLIGHTS, rows_per_request=1)
        time.sleep(1.0)
        sender.stop()
    assert 25 <= sender.per_second <= 60


def test_failures_are_counted_and_not_tried_again() -> None:
    numbers = count()

    def answer(method, path, headers, body):
        return (503, {"error": "no version serves"}, {}) if next(numbers) % 2 else _predict(body, "2")

    with serve(answer) as url:
        sender = TrafficSender(url, per_second=200, threads=1)
        sender.send_all(FLIGHTS, rows_per_request=5)
        _wait(lambda: sender.counts.sent >= 10)
        sender.stop()
    assert next(numbers) == sender.counts.sent
    assert sender.counts.failed == sender.counts.sent // 2
    assert sender.counts.versions["2"] == sender.counts.sent - sender.counts.failed
    assert sender.counts.errors[0].startswith("503:")


@pytest.mark.parametrize("value", [{"predictions": []}, {"nothing": 1}], ids=["too few", "none"])
def test_an_answer_without_a_prediction_for_each_row_is_a_failure(value) -> None:
    with serve(lambda method, path, headers, body: (200, value, {})) as url:
        sender = TrafficSender(url, per_second=100, threads=1)
        sender.send_all(FLIGHTS, rows_per_request=23)
        _wait(lambda: sender.counts.sent)
        sender.stop()
    assert sender.counts.failed == sender.counts.sent


def test_a_server_that_is_gone_is_a_failure() -> None:
    with serve(lambda method, path, headers, body: _predict(body)) as url:
        pass
    sender = TrafficSender(url, per_second=100, threads=1)
    sender.send_all(FLIGHTS, rows_per_request=23)
    _wait(lambda: sender.counts.sent)
    sender.stop()
    assert sender.counts.failed == sender.counts.sent
    assert "ConnectionError" in sender.counts.errors[0]
