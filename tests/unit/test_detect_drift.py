"""Drift is told within a budget of false alarms, whatever the size of the window, and names what moved and how."""

import json

import numpy as np
import pandas as pd
import pytest

from windvane.detect_drift import MULTIVARIATE, Drift, detect_drift, neutralise, unique_names
from windvane.profile_rows import Profile

EVIL = "<script>alert('owned')</script>"
RATE = 0.01


def rows(n=600, seed=1, shift=0.0, **more):
    random = np.random.default_rng(seed)
    return pd.DataFrame({"distance": random.normal(shift, 1, n), "carrier": random.choice(["AA", "UA", "DL"], n), **more})


def drift_of(current, reference, rate=RATE, **options) -> Drift:
    return detect_drift(current, Profile.of(reference, seed=7, **options), false_alarm_rate=rate)


def alike(n, phi, random):
    """A stream whose neighbours resemble each other, of mean 0 and variance 1."""
    noise = random.normal(0, np.sqrt(1 - phi * phi), (n, 4))
    values = np.empty_like(noise)
    values[0] = random.normal(size=4)
    for row in range(1, n):
        values[row] = phi * values[row - 1] + noise[row]
    return pd.DataFrame(values, columns=list("abcd")).assign(d=lambda f: np.where(f["d"] > 1, "x", "y"))


def test_equal_columns_do_not_drift_and_shifted_ones_do():
    equal = drift_of(rows(seed=1), rows(seed=2))
    shifted = drift_of(rows(seed=1, shift=2.0).assign(carrier="UA"), rows(seed=2))

    assert (equal.signal, equal.drifted, equal.compared, equal.rows) == (False, (), 2, 600)
    assert shifted.signal
    assert set(shifted.drifted) >= {"distance", "carrier"}


@pytest.mark.parametrize("n", [20, 500, 5_000, 50_000])
def test_size_of_the_window_raises_no_alarm(n):
    random = np.random.default_rng(3)
    alarms = 0
    for _ in range(10):
        reference, window = (pd.DataFrame(random.normal(size=(size, 6))).rename(columns=str) for size in (2_000, n))
        alarms += drift_of(window, reference).signal

    assert alarms <= 1


def test_rows_that_resemble_their_neighbours_raise_no_alarm():
    random = np.random.default_rng(5)
    stream = alike(4_000 + 20 * 300, 0.9, random)
    profile = Profile.of(stream[:4_000], seed=7)
    windows = [stream[4_000 + k * 300 : 4_300 + k * 300] for k in range(20)]
    shuffled = Profile.of(stream[:4_000].sample(frac=1, random_state=1), seed=7)

    # the order of the reference's rows is what tells: without it the same windows alarm
    assert sum(detect_drift(w, profile, false_alarm_rate=RATE).signal for w in windows) <= 1
    assert sum(detect_drift(w, shuffled, false_alarm_rate=RATE).signal for w in windows) > 10


def test_thinned_reference_does_not_hide_that_neighbours_are_alike():
    random = np.random.default_rng(6)
    stream = alike(20_000 + 20 * 300, 0.9, random)
    profile = Profile.of(stream[:20_000:10].reset_index(drop=True), seed=7, history_rows=20_000)
    windows = [stream[20_000 + k * 300 : 20_300 + k * 300] for k in range(20)]

    assert sum(detect_drift(w, profile, false_alarm_rate=RATE).signal for w in windows) <= 1


def test_shift_of_half_a_standard_deviation_in_one_of_ten_columns_is_found():
    random = np.random.default_rng(4)
    profile = Profile.of(pd.DataFrame(random.normal(size=(5_000, 10))).rename(columns=str), seed=7)
    found = []
    for _ in range(20):
        window = pd.DataFrame(random.normal(size=(1_000, 10))).rename(columns=str)
        window["3"] += 0.5
        found.append(detect_drift(window, profile, false_alarm_rate=RATE).drifted)

    assert all("3" in names for names in found)
    assert sum(len(names) == 1 for names in found) >= 15


def test_lower_rate_asks_for_more():
    profile = Profile.of(rows(2_000, seed=2), seed=7)
    limits = [[c.threshold for c in detect_drift(rows(), profile, false_alarm_rate=rate).columns] for rate in (0.2, 0.05, 0.01, 0.0001)]

    assert limits == sorted(limits)
    assert all(a < b for a, b in zip(limits[0], limits[-1], strict=True))


def test_broken_relation_between_columns_is_found_although_each_column_stays():
    random = np.random.default_rng(8)
    common = random.normal(size=4_000)
    frame = pd.DataFrame({name: common + 0.3 * random.normal(size=4_000) for name in "abc"})
    window = frame[3_000:].apply(lambda column: random.permutation(column.to_numpy()))

    assert drift_of(frame[3_000:], frame[:3_000]).drifted == ()
    assert drift_of(window, frame[:3_000]).drifted == (MULTIVARIATE,)


def test_lost_all_null_and_infinite_columns_count_as_drift_and_come_first():
    reference = rows(a=np.arange(600.0) % 7, b=np.arange(600.0) % 5, c=np.arange(600.0) % 11)
    current = rows(seed=2, shift=5.0, b=np.nan, c=np.inf)

    drift = drift_of(current, reference)

    assert drift.lost == ("a", "b", "c")
    assert drift.drifted == ("a", "b", "c", "distance")
    assert [c.column for c in drift.columns] == ["distance", "carrier"]


def test_column_that_became_constant_is_lost_unless_it_has_been_constant_as_long():
    steps = np.repeat(np.arange(6.0), 100)
    reference = rows(steps=np.random.default_rng(1).permutation(steps), calm=np.roll(steps, 30))

    drift = drift_of(rows(200, seed=2, steps=3.0, calm=3.0), reference)

    assert drift.lost == ("steps",)


def test_some_infinite_values_do_not_hide_drift():
    current = rows(seed=2, shift=3.0)
    current.loc[:20, "distance"] = np.inf

    assert drift_of(current, rows()).drifted[0] == "distance"


@pytest.mark.parametrize(
    ("change", "column", "how"),
    [
        (lambda f: f.assign(distance=f["distance"] + 2), "distance", "standard deviations"),
        (lambda f: f.assign(distance=f["distance"] * 4), "distance", "standard deviation "),
        (lambda f: f.assign(distance=f["distance"].where(np.arange(len(f)) % 2 == 0)), "distance", "missing 0.0 % -> 50.0 %"),
        (lambda f: f.assign(carrier=f["carrier"].where(f["carrier"] != "AA", "DL")), "carrier", "share of "),
        (lambda f: f.assign(carrier=f["carrier"].where(f["carrier"] != "AA", "XX")), "carrier", "new and rare values 0.0 % -> "),
    ],
    ids=["mean", "spread", "missing", "share", "new"],
)
def test_sentence_says_what_changed_most(change, column, how):
    found = {c.column: c for c in drift_of(change(rows(seed=2)), rows(3_000)).columns}[column]

    assert found.drifted
    assert how in found.how


def test_new_value_in_a_column_that_was_constant_is_drift_once_it_is_more_than_chance():
    reference = rows(flag=False, number=1.0)

    assert not drift_of(rows(seed=2, flag=False, number=1.0), reference).signal
    drifted = drift_of(rows(seed=2, flag=np.arange(600) < 90, number=np.where(np.arange(600) < 90, 2.0, 1.0)), reference).drifted
    assert set(drifted) >= {"flag", "number"}


def test_batches_give_the_same_columns_as_the_whole():
    window, profile = rows(5_000, seed=3), Profile.of(rows(3_000), seed=7)
    whole = detect_drift(window, profile, false_alarm_rate=RATE)
    parts = detect_drift((window[k : k + 700] for k in range(0, 5_000, 700)), profile, false_alarm_rate=RATE)

    assert [(c.column, c.score, c.threshold) for c in parts.columns] == [(c.column, c.score, c.threshold) for c in whole.columns]
    assert parts.rows == whole.rows == 5_000


def test_same_call_gives_the_same_answer_also_after_a_round_trip_of_the_profile():
    frame = rows(2_000, odd=np.where(np.arange(2_000) % 3, 1.5, np.nan))
    profile = Profile.of(frame, seed=7)
    again = Profile.from_json(json.loads(json.dumps(profile.as_json())))
    first, second = (detect_drift(rows(seed=2, odd=1.5), p, false_alarm_rate=RATE).as_json() for p in (profile, again))

    assert first == second
    assert json.loads(json.dumps(first, allow_nan=False)) == first


def test_texts_of_the_result_are_inert_and_names_differ():
    frame = rows(2_000, **{"a<": 1.0, "a>": 2.0}).assign(carrier="AA")
    window = rows(seed=2, **{"a<": 1.0, "a>": 50.0}).assign(carrier=np.where(np.arange(600) % 9, EVIL, "AA"))

    drift = drift_of(window, frame.assign(carrier=np.where(np.arange(2_000) % 2, EVIL, "AA")))

    assert [c.column for c in drift.columns if c.column.startswith("a")] == ["a·", "a· (2)"]
    assert "a· (2)" in drift.drifted
    assert not set(json.dumps(drift.as_json(), ensure_ascii=False)) & set("<&'")


def test_identifiers_times_and_counters_are_not_compared():
    frame = rows(key=[f"k{i}" for i in range(600)], at=pd.Timestamp("2013-01-01", tz="UTC"), counter=np.arange(600), none=None)

    drift = drift_of(frame, frame)

    assert [c.column for c in drift.columns] == ["distance", "carrier"]
    assert [text.split(":")[0] for text in drift.skipped] == ["key", "at", "counter", "none"]


@pytest.mark.parametrize(("current", "reference"), [(rows(0), rows()), (rows(), rows(0)), (rows(0), rows(0))])
def test_no_rows_give_no_signal(current, reference):
    drift = drift_of(current, reference)

    assert (drift.signal, drift.columns, len(drift.skipped) > 0) == (False, (), True)


@pytest.mark.parametrize("n", [1, 2, 7])
@pytest.mark.parametrize("m", [1, 3, 40, 3_000])
def test_few_rows_on_either_side_give_no_signal(n, m):
    assert not drift_of(rows(n, seed=2), rows(m)).signal


@pytest.mark.parametrize("kind", ["Int64", "Float32", "boolean", "category", "string", "object", "float16", "uint8", "bool"])
def test_types_of_pandas_are_compared(kind):
    random = np.random.default_rng(2)
    frames = [pd.DataFrame({"x": pd.Series(random.integers(0, 2, 900)).astype(kind)}) for _ in range(2)]
    one = frames[1].assign(x=pd.Series([1, 1, 1, 1, 1, 1, 1, 1, 0] * 100).astype(kind))

    assert not drift_of(frames[1], frames[0]).signal
    assert drift_of(one, frames[0]).drifted == ("x",)


def test_number_that_became_text_is_lost_and_number_as_text_is_the_same_category():
    numbers = pd.DataFrame({"x": np.arange(600.0) % 7})

    assert drift_of(numbers.assign(x="broken"), numbers).lost == ("x",)
    assert not drift_of(pd.DataFrame({"x": np.arange(600.0) % 3}), pd.DataFrame({"x": (np.arange(900) % 3).astype(str)})).signal


def test_huge_numbers_do_not_break():
    frame = rows(2_000, x=np.where(np.arange(2_000) % 2, 1e308, -1e308))

    assert not drift_of(frame[:900], frame).signal
    assert "x" in drift_of(frame[:900].assign(x=1e300 * np.arange(900)), frame).drifted
    json.dumps([drift_of(frame[:900], frame).as_json(), Profile.of(frame, seed=7).as_json()], allow_nan=False)


@pytest.mark.parametrize("rate", [0.0, 1.0, -1.0, float("nan")])
def test_rate_that_is_none_is_refused(rate):
    with pytest.raises(ValueError, match="false_alarm_rate"):
        drift_of(rows(), rows(), rate=rate)


@pytest.mark.parametrize("text", [EVIL, "a`b", "x\u2028y", 'q"q', "[a](javascript:1)", "${1}", "a\x00b", "＜script＞"])
def test_neutral_text_has_no_sign_that_means_something(text):
    assert not set(neutralise(text)) & set("<>&\"'`[]{}$\\\u2028\x00＜＞")


def test_inert_names_differ_where_texts_differ():
    names = unique_names(["a<", "a>", "a·", MULTIVARIATE])

    assert len(set(names.values()) | {MULTIVARIATE}) == 5


@pytest.mark.parametrize(
    "values",
    [[[1], [2], None], [{"a": 1}, {"a": 2}, "x"], [1, "a", None], [b"a", b"b", None], [True, None, 0.5], [np.nan, np.inf, -np.inf]],
    ids=["lists", "dicts", "mixed", "bytes", "booleans", "broken"],
)
def test_odd_values_are_compared_or_skipped(values):
    odd = pd.Series(values * 100, dtype="object")

    drift = drift_of(rows(300, seed=2, odd=odd), rows(300, odd=odd))

    assert not drift.signal
    assert len(drift.columns) + len(drift.skipped) == 3
