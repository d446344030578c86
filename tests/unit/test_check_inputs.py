"""Each kind of broken input is named; honest change is not."""

import numpy as np
import pandas as pd
import pytest

from windvane.check_inputs import check_inputs, check_labels, conform_each, parse_served_inputs
from windvane.signature import Column, conform

RANDOM = np.random.default_rng(3)
ROWS = 2_000


def rows(n=ROWS):
    frame = pd.DataFrame(
        {
            "carrier": RANDOM.choice(["AA", "UA", "DL", "B6"], n),
            "distance": RANDOM.gamma(2.0, 500.0, n) + 50,
            "delay": RANDOM.normal(5, 3, n),
        }
    )
    frame.loc[RANDOM.random(n) < 0.02, "delay"] = np.nan
    return frame


REFERENCE = rows(5_000)


def broken(column, value, share=1.0):
    frame = rows()
    frame[column] = frame[column].astype(object)
    frame.loc[frame.index < share * len(frame), column] = value
    return frame.infer_objects()


@pytest.mark.parametrize(
    ("frame", "problem"),
    [
        pytest.param(rows().drop(columns="distance"), "column distance is lost", id="lost"),
        pytest.param(broken("distance", np.nan), "has no value in any of 2000 rows", id="all null"),
        pytest.param(broken("distance", np.inf, 0.001), "has 2 infinite values", id="two infinite values"),
        pytest.param(broken("distance", 777.0), "the same value in all", id="constant number"),
        pytest.param(broken("carrier", "AA"), "the same value in all", id="constant category"),
        pytest.param(broken("delay", np.nan, 0.3), "is missing in", id="null rate jumped"),
        pytest.param(broken("distance", -1.0, 0.2), "placeholder-like number", id="sentinel outside the range"),
        pytest.param(broken("delay", 0.0, 0.4), "placeholder-like number", id="zeros instead of nulls"),
        pytest.param(broken("carrier", "", 0.2), "empty text", id="empty texts"),
        pytest.param(rows().assign(carrier=lambda f: f["carrier"].str.lower()), "never saw in 100.0%", id="renamed categories"),
        pytest.param(rows().assign(distance=lambda f: f["distance"].astype(str) + " km"), "is no number any more", id="retyped"),
    ],
)
def test_broken_input_is_named(frame, problem):
    found = check_inputs(frame, REFERENCE)

    assert len(found) == 1
    assert problem in found[0]


@pytest.mark.parametrize(
    "frame",
    [
        pytest.param(rows(), id="the same"),
        pytest.param(rows(30), id="a few rows"),
        pytest.param(rows(1), id="one row"),
        pytest.param(rows().assign(distance=lambda f: f["distance"] * 1.5), id="drift"),
        pytest.param(broken("carrier", "NEW", 0.1), id="a new category"),
        pytest.param(rows(0), id="no rows"),
        pytest.param(rows().assign(more=1.0), id="a column that the model does not know"),
    ],
)
def test_honest_change_is_no_problem(frame):
    assert check_inputs(frame, REFERENCE) == ()


def test_no_false_alarm_in_200_equal_windows():
    assert [found for found in (check_inputs(rows(60), REFERENCE) for _ in range(200)) if found] == []


def test_required_columns_and_infinity_are_checked_without_a_reference():
    found = check_inputs(pd.DataFrame({"a": [1.0, np.inf]}), None, required=["a", "b"])

    assert [("infinite" in p, "lost" in p) for p in found] == [(True, False), (False, True)]


def test_problems_carry_no_values_and_no_markup():
    name = "<script>x</script>"
    found = check_inputs(pd.DataFrame({name: ["<b>secret</b>"] * 500}), pd.DataFrame({name: ["a", "b"] * 500}))

    assert len(found) == 1
    assert "secret" not in found[0]
    assert "<" not in found[0]


@pytest.mark.parametrize(
    ("now", "then", "problem"),
    [
        pytest.param([0.0] * 300, [0.0, 1.0] * 200, "class 1.0 of the label fell from 50.0% to 0.00%", id="positives vanished"),
        pytest.param([1.0] * 299 + [0.0], [0.0, 1.0] * 200, "class 0.0", id="negatives vanished"),
        pytest.param([1.0] * 100, [], "single class", id="one class and nothing to compare with"),
    ],
)
def test_collapsed_label_is_named(now, then, problem):
    found = check_labels(pd.Series(now), pd.Series(then, dtype=float), classifier=True)

    assert len(found) == 1
    assert problem in found[0]


@pytest.mark.parametrize(
    ("now", "then"),
    [
        pytest.param([0.0] * 200 + [1.0] * 60, [0.0, 1.0] * 200, id="the base rate halved"),
        pytest.param([0.0] * 49, [0.0, 1.0] * 200, id="too few to tell"),
        pytest.param([0.0] * 100, [0.0] * 980 + [1.0] * 20, id="a rare class is missing by chance"),
        pytest.param([None] * 300, [0.0, 1.0] * 200, id="outcomes have not come"),
    ],
)
def test_label_that_may_be_so_is_no_problem(now, then):
    assert check_labels(pd.Series(now, dtype=float), pd.Series(then), classifier=True) == ()


def test_constant_target_of_a_regression_is_named():
    assert check_labels(pd.Series([3.0] * 60), pd.Series([1.0, 2.0]), classifier=False) != ()


def test_served_inputs_are_a_bounded_sample():
    texts = pd.Series(['{"a": 1.5, "b": "x"}', '{"b": "y"}', None])

    frame = parse_served_inputs(texts, max_rows=10, seed=1)

    assert frame["b"].tolist() == ["x", "y"]
    assert frame["a"].isna().tolist() == [False, True]
    assert len(parse_served_inputs(texts, max_rows=1, seed=1)) == 1


@pytest.mark.parametrize(
    ("kind", "values", "same"),
    [
        pytest.param("boolean", [True, None, False] * 40, True, id="nullable booleans"),
        pytest.param("datetime", ["2013-01-01T00:00:00Z", "2013-01-02T00:00:00Z", None] * 40, True, id="times as text"),
        pytest.param("double", ["1.5", "2", None] * 40, True, id="numbers as text"),
        pytest.param("long", [1, 2, 3] * 40, True, id="whole numbers"),
        pytest.param("double", ["1.5", "2 km", None] * 40, False, id="numbers with a unit"),
    ],
)
def test_columns_are_compared_in_the_types_of_the_signature(kind, values, same):
    column = Column("a", kind, nullable=True)
    reference = conform(pd.DataFrame({"a": [v if v != "2 km" else "2" for v in values]}), [column])

    found = check_inputs(conform_each(pd.DataFrame({"a": values}), [column, Column("b", "string", nullable=False)]), reference)

    assert (found == ()) is same, found
