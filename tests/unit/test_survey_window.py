"""What all rows of a window show, batch by batch: infinite values, and all rows that equal those that are kept."""

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from windvane.check_inputs import check_inputs
from windvane.survey_window import Survey

REFERENCE = pd.DataFrame({"x": np.random.default_rng(0).normal(size=500), "site": list("abcde") * 100})


def survey(frame: pd.DataFrame, *, batches: int = 4) -> Survey:
    found = Survey(REFERENCE)
    for part in np.array_split(np.arange(len(frame)), batches):
        found.see(pa.RecordBatch.from_pandas(frame.iloc[part], preserve_index=False))
    return found


def rows(n: int, *, seed: int = 1) -> pd.DataFrame:
    random = np.random.default_rng(seed)
    return pd.DataFrame({"id": np.arange(n), "x": random.normal(size=n), "site": random.choice(list("abcde"), n)})


def test_infinite_values_are_counted_in_all_batches() -> None:
    frame = rows(1000)
    frame.loc[[3, 400, 999], "x"] = [np.inf, -np.inf, np.inf]

    found = survey(frame)

    assert (found.rows, dict(found.infinite)) == (1000, {"x": 3})


@pytest.mark.parametrize("most", [100, 400, 10_000])
def test_rows_that_are_kept_are_few_and_bring_all_that_equal_them(monkeypatch: pytest.MonkeyPatch, most: int) -> None:
    monkeypatch.setattr("windvane.survey_window.MOST_REPEATS", most)
    frame = rows(1000).iloc[np.arange(2000) % 1000]

    kept = survey(frame).alike

    assert 0.2 * min(most, 2000) < len(kept) <= min(most, 2000)
    assert kept.value_counts().eq(2).all()


def test_a_sample_without_a_repeat_does_not_hide_that_half_of_the_rows_are_repeated() -> None:
    frame = rows(1000)
    sample = frame.iloc[:500]

    assert check_inputs(sample, REFERENCE, survey=survey(frame)) == ()
    (problem,) = check_inputs(sample, REFERENCE, survey=survey(pd.concat([frame, frame])))
    assert (problem.check, problem.rows) == ("repeated", 1000)
    assert "50.0% of 2000 rows" in problem.text


def test_infinite_values_count_in_all_rows_though_the_sample_has_one_or_none() -> None:
    frame = rows(1000)
    frame.loc[[3, 700], "x"] = np.inf

    for sample in (frame.iloc[:500], frame.iloc[500:600]):
        (problem,) = check_inputs(sample, REFERENCE, survey=survey(frame))
        assert (problem.check, problem.rows, problem.text) == ("infinite", 2, "column x has 2 infinite values in 1000 rows")
