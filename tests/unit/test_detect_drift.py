"""The drift report is bounded, honest about what it cannot compare, and inert."""

import json

import numpy as np
import pandas as pd
import pytest

from windvane.detect_drift import detect_drift, neutralise
from windvane.errors import StorageError

EVIL = "<script>alert('owned')</script>"
EVIL_COLUMN = "<img src=x onerror=alert(1)>"


def rows(n=600, seed=1, shift=0.0, **more):
    random = np.random.default_rng(seed)
    return pd.DataFrame({"distance": random.normal(shift, 1, n), "carrier": random.choice(["AA", "UA", "DL"], n), **more})


def test_equal_columns_do_not_drift_and_shifted_ones_do(tmp_path):
    equal = detect_drift(rows(seed=1), rows(seed=2), directory=tmp_path, seed=7)
    shifted = detect_drift(rows(seed=1, shift=2.0).assign(carrier="AA"), rows(seed=2), directory=tmp_path, seed=7)

    assert equal.drifted == ()
    assert set(shifted.drifted) == {"distance", "carrier"}
    stored = json.loads((tmp_path / "drift.json").read_text())
    assert [c["drifted"] for c in stored["columns"]] == [True, True]


def test_lost_all_null_and_infinite_columns_count_as_drift(tmp_path):
    reference = rows(a=1.0, b=np.arange(600.0), c=np.arange(600.0))
    current = rows(seed=2, b=np.nan, c=np.inf)

    drift = detect_drift(current, reference, directory=tmp_path, seed=7)

    assert drift.drifted == ("a", "b", "c")
    assert [c.column for c in drift.columns] == ["distance", "carrier"]


def test_some_infinite_values_do_not_hide_drift(tmp_path):
    current = rows(seed=2, shift=3.0)
    current.loc[:20, "distance"] = np.inf

    assert detect_drift(current, rows(), directory=tmp_path, seed=7).drifted == ("distance",)


def test_values_and_names_are_inert_in_the_report(tmp_path):
    reference = rows().rename(columns={"distance": EVIL_COLUMN})
    current = rows(seed=2).rename(columns={"distance": EVIL_COLUMN})
    current.loc[:200, "carrier"] = EVIL
    clean = detect_drift(rows(seed=2), rows(), directory=tmp_path / "clean", seed=7)

    drift = detect_drift(current, reference, directory=tmp_path / "evil", seed=7)

    html, stored = drift.html.read_text(), drift.json.read_text()
    for raw in (EVIL, EVIL_COLUMN, "<script>alert", "<img src=x", "alert('owned')"):
        assert raw not in html
        assert raw not in stored
    # the category is there, defused: the test would pass on an empty report otherwise
    assert json.dumps(neutralise(EVIL)) in html
    assert html.count("<script") == clean.html.read_text().count("<script")
    assert html.count("Content-Security-Policy") == 1
    assert not any("<" in c.column for c in drift.columns)


def test_columns_that_become_equal_when_neutralised_stay_apart(tmp_path):
    frame = rows(**{"a<": 1.0, "a>": 2.0})

    drift = detect_drift(frame.assign(**{"a>": 50.0}), frame, directory=tmp_path, seed=7)

    assert [c.column for c in drift.columns] == ["distance", "carrier", "a·", "a· (2)"]


def test_cost_is_bounded_by_a_seeded_sample(tmp_path):
    large, reference = rows(n=30_000, seed=1), rows(n=30_000, seed=2)

    first = detect_drift(large, reference, directory=tmp_path, seed=7, max_rows=500)
    again = detect_drift(large, reference, directory=tmp_path, seed=7, max_rows=500)

    assert json.loads(first.json.read_text())["rows"] == 500
    assert first.columns == again.columns


def test_identifiers_and_times_are_not_compared(tmp_path):
    frame = rows(key=[f"k{i}" for i in range(600)], at=pd.Timestamp("2013-01-01", tz="UTC"))

    drift = detect_drift(frame, frame, directory=tmp_path, seed=7)

    assert [c.column for c in drift.columns] == ["distance", "carrier"]
    assert [text.split(":")[0] for text in drift.skipped] == ["key", "at"]


def test_rare_categories_are_pooled(tmp_path):
    random = np.random.default_rng(4)
    many = [rows(n=5_000, seed=s, dest=random.integers(0, 300, 5_000).astype(str)) for s in (1, 2)]

    drift = detect_drift(*many, directory=tmp_path, seed=7)

    assert drift.drifted == ()
    assert "(other)" in drift.html.read_text()


@pytest.mark.parametrize(("current", "reference"), [(rows(0), rows()), (rows(), rows(0))])
def test_no_rows_give_no_report(tmp_path, current, reference):
    drift = detect_drift(current, reference, directory=tmp_path, seed=7)

    assert (drift.html, drift.drifted) == (None, ())


@pytest.mark.parametrize("text", [EVIL, "a`b", "x\u2028y", 'q"q', "[a](javascript:1)", "${1}", "a\x00b", "＜script＞"])
def test_neutral_text_has_no_sign_that_means_something(text):
    assert not set(neutralise(text)) & set("<>&\"'`[]{}$\\\u2028\x00＜＞")


def test_report_that_cannot_be_written_names_path_and_size(tmp_path):
    (tmp_path / "file").write_text("")

    with pytest.raises(StorageError, match=r"file/drift\.html: could not write \d+ bytes"):
        detect_drift(rows(), rows(), directory=tmp_path / "file", seed=7)
