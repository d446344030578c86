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


REFERENCE, HALF = rows(5_000), rows(ROWS // 2)


def broken(column, value, share=1.0):
    frame = rows()
    frame[column] = frame[column].astype(object)
    frame.loc[frame.index < share * len(frame), column] = value
    return frame.infer_objects()


@pytest.mark.parametrize(
    ("frame", "check", "problem"),
    [
        pytest.param(rows().drop(columns="distance"), "lost", "column distance is lost", id="lost"),
        pytest.param(broken("distance", np.nan), "empty", "has no value in any of 2000 rows", id="all null"),
        pytest.param(broken("distance", np.inf, 0.001), "infinite", "has 2 infinite values", id="two infinite values"),
        pytest.param(broken("distance", 777.0), "constant", "the same value in all", id="constant number"),
        pytest.param(broken("carrier", "AA"), "constant", "the same value in all", id="constant category"),
        pytest.param(broken("delay", np.nan, 0.3), "nulls", "is missing in", id="null rate jumped"),
        pytest.param(
            broken("distance", -1.0, 0.2),
            "sentinel",
            "the number -1 in 20.0% of 2000 rows, 0.0% in training",
            id="sentinel outside the range",
        ),
        pytest.param(broken("delay", 0.0, 0.4), "sentinel", "the number 0 in", id="zeros instead of nulls"),
        pytest.param(broken("carrier", "", 0.2), "sentinel", "empty text", id="empty texts"),
        pytest.param(
            rows().assign(carrier=lambda f: f["carrier"].str.lower()), "categories", "never saw in 100.0%", id="renamed categories"
        ),
        pytest.param(rows().assign(distance=lambda f: f["distance"].astype(str) + " km"), "type", "is no number any more", id="retyped"),
        pytest.param(broken("distance", "12 km", 0.2), "type", "400 of 2000 rows hold a text", id="partly texts"),
        pytest.param(broken("distance", -200.0, 0.2), "sentinel", "the number -200", id="a code"),
        pytest.param(broken("distance", 12_345.6, 0.2), "sentinel", "the number 12345.6", id="one number outside the range"),
        pytest.param(broken("distance", 612.5, 0.2), "sentinel", "the number 612.5", id="stuck for a while within the range"),
        pytest.param(broken("carrier", "N/A", 0.2), "sentinel", "placeholder", id="placeholder text"),
        pytest.param(broken("carrier", "zz", 0.25), "categories", "never saw in 25.0%", id="one new category in many rows"),
        pytest.param(
            rows().assign(delay=lambda f: f["delay"].where(f.index % 5 > 0, f["delay"] * 100)),
            "range",
            "another unit",
            id="x100 in a fifth",
        ),
        pytest.param(rows().assign(distance=lambda f: f["distance"] * 100), "range", "another unit", id="x100 everywhere"),
        pytest.param(rows().assign(distance=lambda f: f["distance"] / 1000), "range", "a tenth of the least", id="metres to kilometres"),
        pytest.param(pd.concat([HALF, HALF], ignore_index=True), "repeated", "50.0% of 2000 rows", id="loaded twice"),
    ],
)
def test_broken_input_is_named(frame, check, problem):
    found = check_inputs(frame, REFERENCE)

    assert [p.check for p in found] == [check]
    assert problem in found[0].text
    assert str(found[0]) == found[0].text


@pytest.mark.parametrize(
    "frame",
    [
        pytest.param(rows(), id="the same"),
        pytest.param(rows(30), id="a few rows"),
        pytest.param(rows(1), id="one row"),
        pytest.param(rows().assign(distance=lambda f: f["distance"] * 1.5), id="drift"),
        pytest.param(rows().assign(delay=lambda f: f["delay"] + 9.0), id="drift by three standard deviations"),
        pytest.param(rows().assign(delay=lambda f: f["delay"] * 3.0), id="three times the spread"),
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

    assert [(p.check, p.column, p.rows) for p in found] == [("infinite", "a", 1), ("lost", "b", 2)]


def test_problems_carry_no_values_and_no_markup():
    name = "<script>x</script>"
    found = check_inputs(pd.DataFrame({name: ["<b>secret</b>"] * 500}), pd.DataFrame({name: ["a", "b"] * 500}))

    assert len(found) == 1
    assert "secret" not in found[0].text
    assert "<" not in found[0].text + found[0].column


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
    assert problem in found[0].text


@pytest.mark.parametrize(
    ("now", "then"),
    [
        pytest.param([0.0, 0.0, 0.0, 1.0] * 65, [0.0, 1.0] * 200, id="the base rate halved"),
        pytest.param([0.0] * 49, [0.0, 1.0] * 200, id="too few to tell"),
        pytest.param([0.0] * 100, [0.0] * 980 + [1.0] * 20, id="a rare class is missing by chance"),
        pytest.param([None] * 300, [0.0, 1.0] * 200, id="outcomes have not come"),
    ],
)
def test_label_that_may_be_so_is_no_problem(now, then):
    assert check_labels(pd.Series(now, dtype=float), pd.Series(then), classifier=True) == ()


def flips(rate, n=600):
    """Outcomes that depend on nothing."""
    return pd.Series((RANDOM.random(n) < rate).astype(float))


@pytest.mark.parametrize(
    ("now", "previous", "inputs_moved", "checks"),
    [
        pytest.param(flips(0.0), flips(0.5), False, ["vanished"], id="a jump to 0 out of nothing"),
        pytest.param(flips(1.0), flips(0.5), True, ["vanished"], id="all the same is too much even for inputs that moved"),
        pytest.param(flips(0.03), flips(0.5), False, ["vanished"], id="nearly 0 while the inputs stay"),
        pytest.param(flips(0.03), flips(0.5), True, [], id="nearly 0 with inputs that moved"),
        pytest.param(flips(0.02), flips(0.03), False, [], id="the window before was so, and nobody held it back"),
        pytest.param(flips(0.2), flips(0.5), False, [], id="another base rate"),
        pytest.param(pd.concat([flips(0.5, 400), flips(1.0, 200)]), flips(0.5), False, ["stuck"], id="from some row on always the same"),
        pytest.param(pd.Series([2.0, 0.0, 1.0] * 200), flips(0.5), False, ["categories"], id="a class that never was"),
    ],
)
def test_a_rate_that_jumps_is_told_from_one_that_changed(now, previous, inputs_moved, checks):
    found = check_labels(now, flips(0.5, 5_000), previous=previous, classifier=True, inputs_moved=inputs_moved)

    assert [p.check for p in found] == checks


@pytest.mark.parametrize("rate", [0.02, 0.06, 0.13])
def test_a_rare_class_may_swing(rate):
    assert check_labels(flips(rate, 1_000), flips(0.04, 5_000), previous=flips(0.02, 1_000), classifier=True) == ()


@pytest.mark.parametrize(
    ("previous_stands", "checks"),
    [pytest.param(1.0, ["stuck"], id="both are alike"), pytest.param(20.0, [], id="runs before were twenty times as long as they look")],
)
def test_runs_are_compared_by_how_many_rows_they_stand_for(previous_stands, checks):
    now, before = pd.concat([flips(0.5, 400), flips(1.0, 200)]), pd.Series([0.0, 1.0] * 150 + [1.0] * 19 + [0.0] * 19 + [0.0, 1.0] * 131)

    found = check_labels(now, flips(0.5, 5_000), previous=before, previous_stands=previous_stands, classifier=True)

    assert [p.check for p in found] == checks


def test_values_that_are_often_0_do_not_hide_how_many_rows_repeat():
    n = 250_000
    x = np.where(np.arange(n) % 5 < 2, 0.0, RANDOM.normal(size=n))
    frame = pd.DataFrame({"x": x, "y": RANDOM.normal(size=n).round(3), "z": RANDOM.normal(size=n).round(3)})
    zero, other = frame[x == 0.0], frame[x != 0.0].iloc[: n * 3 // 10]

    (problem,) = check_inputs(pd.concat([zero, other, other], ignore_index=True), frame.sample(5_000, random_state=1))

    assert problem.check == "repeated"
    assert problem.rows == pytest.approx(len(other), rel=0.02)


def test_outcomes_that_came_in_long_runs_before_may_do_so_again():
    earlier = pd.Series(np.repeat([0.0, 1.0, 1.0, 0.0, 1.0] * 10, 100))

    assert check_labels(pd.Series([1.0] * 90), earlier, classifier=True, stands_for=5_000) == ()
    assert [p.check for p in check_labels(pd.Series([1.0] * 2_000), earlier, classifier=True, stands_for=5_000)] == ["vanished"]


@pytest.mark.parametrize(
    ("spoil", "checks"),
    [
        pytest.param(lambda y: y.where(y.index % 4 > 0, 0.0), ["sentinel"], id="a quarter is 0"),
        pytest.param(lambda y: y.where(y.index % 4 > 0, -999.0), ["sentinel"], id="a quarter is a code"),
        pytest.param(lambda y: y * 100, ["range"], id="another unit"),
        pytest.param(lambda y: y.where(y.index > 0, np.inf), ["infinite"], id="infinite"),
        pytest.param(lambda y: y * 2 + 20, [], id="another level and spread"),
    ],
)
def test_spoiled_target_of_a_regression_is_named(spoil, checks):
    target, earlier = (pd.Series(RANDOM.normal(30, 10, n)) for n in (600, 5_000))

    assert [p.check for p in check_labels(spoil(target), earlier, classifier=False)] == checks
    again = check_labels(spoil(target), earlier, previous=spoil(target), classifier=False)
    assert [p.check for p in again] == [check for check in checks if check == "infinite"]


def days(count, *, first=0, rows=40):
    """A stream in which columns follow the clock: its day, its month of 30 days, and a light that is off at night."""
    at = np.arange(first * rows, (first + count) * rows)
    return pd.DataFrame(
        {
            "day": pd.Timestamp("2013-01-01", tz="UTC") + pd.to_timedelta(at // rows, unit="D"),
            "month": (1.0 + at // (30 * rows)),
            "season": np.array(["spring", "summer", "autumn", "winter"])[at // (90 * rows) % 4],
            "light": np.where(at % rows < rows // 2, 0.0, RANDOM.gamma(2.0, 10.0, len(at))),
            "counter": at * 1.0,
            "x": RANDOM.normal(0, 1, len(at)),
        }
    )


@pytest.mark.parametrize(
    "frame",
    [
        pytest.param(days(1, first=120), id="a day"),
        pytest.param(days(30, first=120), id="a month"),
        pytest.param(days(1, first=120)[:20], id="a night"),
        pytest.param(days(30, first=270), id="a season that never was"),
    ],
)
def test_columns_that_follow_the_clock_are_no_problem(frame):
    assert check_inputs(frame, days(120), stands_for=120 * 40) == ()


def test_light_that_is_off_for_days_is_stuck():
    found = check_inputs(days(10, first=120).assign(light=0.0), days(120), stands_for=120 * 40)

    assert [(p.check, p.column, p.rows) for p in found] == [("constant", "light", 400)]


def test_rows_may_repeat_where_they_did_before_or_where_clients_ask_twice():
    few = pd.DataFrame({"a": RANDOM.integers(0, 20, 3_000), "b": RANDOM.choice(["x", "y"], 3_000)})
    twice = pd.concat([HALF, HALF], ignore_index=True)

    assert check_inputs(few[:1_000], few) == ()
    assert check_inputs(twice, REFERENCE, may_repeat=True) == ()


def test_columns_of_every_type_are_read():
    n = 600
    frame = pd.DataFrame(
        {
            "whole": pd.array(RANDOM.integers(0, 9, n), "Int64"),
            "truth": pd.array(RANDOM.random(n) < 0.5, "boolean"),
            "group": pd.Categorical(RANDOM.choice(["a", "b"], n)),
            "text": pd.array(RANDOM.choice(["a", "b"], n), "string"),
            "at": pd.date_range("2013-01-01", periods=n, freq="h", tz="UTC"),
            "none": pd.Series([None] * n, dtype=object),
        }
    )
    lost = ["whole", "truth", "group", "text", "at"]
    nothing = frame.assign(**{name: pd.Series([None] * n, dtype=frame[name].dtype) for name in lost})

    assert check_inputs(frame, frame, may_repeat=True) == ()
    assert [(p.check, p.column) for p in check_inputs(nothing, frame)] == [("empty", name) for name in lost]


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


def test_a_column_that_changes_with_the_season_is_no_fault():
    season = np.repeat([4, 1, 2], 400)
    then = pd.DataFrame({"season": season, "month": np.repeat([11, 12, 1, 2, 3, 4], 200), "shop": np.repeat(["old", "new"], 600)})

    for rows in ({"season": 3, "month": 6, "shop": "newest"}, {"season": 2, "month": 4, "shop": "new"}):
        assert check_inputs(pd.DataFrame([rows] * 100), then) == ()


def test_a_column_that_did_not_change_slowly_is_stuck_when_it_holds_one_value():
    then = pd.DataFrame({"season": np.random.default_rng(1).permutation(np.repeat([4, 1, 2], 400))})

    (problem,) = check_inputs(pd.DataFrame({"season": [2] * 100}), then)

    assert problem.check == "constant"
