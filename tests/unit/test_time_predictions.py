import time

import numpy as np
import pandas as pd

import windvane.time_predictions as timing
from windvane.signature import Column
from windvane.time_predictions import time_predictions


class Model:
    """Predicts single rows, as slowly as it is told."""

    signature = (Column("x", "double", nullable=False),)

    def __init__(self, seconds=0.0, calls=None, name=""):
        self.seconds, self.calls, self.name = seconds, calls if calls is not None else [], name

    def predict_columns(self, columns):
        assert [len(values) for values in columns.values()] == [1]
        self.calls.append((self.name, float(columns["x"][0])))
        time.sleep(self.seconds)


ROWS = pd.DataFrame({"x": np.arange(1000.0), "other": "not of the signature"})


def test_both_are_measured_on_the_same_rows_turn_by_turn():
    calls = []
    found = time_predictions(ROWS, challenger=Model(0.004, calls, "a"), champion=Model(0.001, calls, "b"))
    assert 4 <= found["challenger_ms"] < 40
    assert 1 <= found["champion_ms"] < found["challenger_ms"]
    measured = calls[2:]
    assert [row for name, row in measured if name == "a"] == [row for name, row in measured if name == "b"]
    assert {measured[0][0], measured[1][0]} == {"a", "b"}
    assert measured[0][0] != measured[2][0]


def test_slow_models_do_not_hold_up_the_gate(monkeypatch):
    monkeypatch.setattr(timing, "_MOST_SECONDS", 0.05)
    model = Model(0.03)
    found = time_predictions(ROWS, challenger=model, champion=None)
    assert found["champion_ms"] is None
    assert len(model.calls) <= 4


def test_one_row_is_enough():
    assert time_predictions(ROWS.head(1), challenger=Model(), champion=None)["challenger_ms"] > 0
