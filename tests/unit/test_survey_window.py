"""What all rows of a window show, batch by batch: infinite values, and rows that repeat another."""

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from windvane.check_inputs import check_inputs
from windvane.survey_window import Survey

REFERENCE = pd.DataFrame({"x": np.random.default_rng(0).normal(size=500), "site": list("abcde") * 100})


def survey(frame: pd.DataFrame, *, batches: int = 4) -> Survey:
    found, table = Survey(list(REFERENCE.columns), name="id"), pa.Table.from_pandas(frame, preserve_index=False)
    for batch in table.to_batches(max_chunksize=-(-len(frame) // batches)):
        found.see(batch)
    return found


def rows(n: int, *, seed: int = 1) -> pd.DataFrame:
    random = np.random.default_rng(seed)
    return pd.DataFrame({"id": np.arange(n), "x": random.normal(size=n), "site": random.choice(list("abcde"), n)})


def test_infinite_values_are_counted_in_all_batches() -> None:
    frame = rows(1000)
    frame.loc[[3, 400, 999], "x"] = [np.inf, -np.inf, np.inf]

    found = survey(frame)

    assert (found.rows, dict(found.infinite)) == (1000, {"x": 3})


@pytest.mark.parametrize("most", [100, 1000, 10_000])
@pytest.mark.parametrize(
    ("break_", "repeated"),
    [
        pytest.param(lambda f: f, 0.0, id="none"),
        pytest.param(lambda f: f.iloc[np.arange(4000) % 2000], 0.5, id="all twice"),
        pytest.param(lambda f: f.iloc[np.where(f.index % 5 > 1, f.index, 7)], 0.4, id="one row in two of five"),
        pytest.param(lambda f: f.assign(x=f["x"].where(f.index % 5 > 1, 0.0), site="a"), 0.4, id="0 and a few texts in two of five"),
    ],
)
def test_repeats_are_counted_while_few_hashes_are_kept(monkeypatch: pytest.MonkeyPatch, most: int, break_, repeated: float) -> None:
    monkeypatch.setattr("windvane.survey_window._MOST_KEPT", most)

    found = survey(break_(rows(4000)))

    assert found.repeated == pytest.approx(repeated, abs=4 / np.sqrt(most / 2) if most < 4000 else 1e-3)
    assert len(found._distinct._kept) <= most
    assert len(found._distinct_named._kept) <= most


def test_a_number_that_is_always_0_takes_no_memory_and_hides_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("windvane.survey_window._MOST_KEPT", 500)
    frame = rows(4000).assign(x=lambda f: f["x"].where(f.index % 4 == 0, 0.0))

    found = survey(frame)

    assert 200 < len(found._distinct._kept) <= 500
    assert found.repeated == pytest.approx(0.75, abs=0.05)


@pytest.mark.parametrize(
    "values",
    [
        pytest.param(pd.array(range(1000), "Int64"), id="whole numbers"),
        pytest.param(pd.array([2**62 + i for i in range(1000)], "Int64"), id="large whole numbers"),
        pytest.param(pd.array([True, False] * 500, "boolean"), id="truth"),
        pytest.param([f"s{i}" for i in range(1000)], id="texts"),
        pytest.param(pd.date_range("2024-01-01", periods=1000, freq="h", tz="UTC"), id="times"),
    ],
)
def test_a_null_in_a_batch_does_not_hide_that_its_other_rows_repeat(values) -> None:
    frame = pd.DataFrame({"id": np.arange(1000), "x": np.random.default_rng(2).normal(size=1000), "site": values})
    again = frame.copy()
    again.loc[5, "site"] = None

    found = survey(pd.concat([frame, again]), batches=2)

    assert found.repeated == found.repeated_named == pytest.approx(999 / 2000)


def test_a_sample_without_a_repeat_does_not_hide_that_half_of_the_rows_are_repeated() -> None:
    frame = rows(1000)
    sample = frame.iloc[:500]

    assert check_inputs(sample, REFERENCE, survey=survey(frame)) == ()
    twice = pd.concat([frame, frame]).assign(id=np.arange(2000))
    (problem,) = check_inputs(sample, REFERENCE, survey=survey(twice))
    assert (problem.check, problem.rows) == ("repeated", 1000)
    assert "50.0% of 2000 rows" in problem.text


def test_infinite_values_count_in_all_rows_though_the_sample_has_one_or_none() -> None:
    frame = rows(1000)
    frame.loc[[3, 700], "x"] = np.inf

    for sample in (frame.iloc[:500], frame.iloc[500:600]):
        (problem,) = check_inputs(sample, REFERENCE, survey=survey(frame))
        assert (problem.check, problem.rows, problem.text) == ("infinite", 2, "column x has 2 infinite values in 1000 rows")


def test_rows_loaded_twice_with_their_ids_are_found_in_a_window_of_any_size() -> None:
    # by the pairs of 500 rows, in which none are equal, all of 60,000 rows may repeat by chance
    frame = rows(30_000)

    (problem,) = check_inputs(frame[:1000], REFERENCE, survey=survey(pd.concat([frame, frame])))
    assert (problem.check, problem.rows) == ("repeated", 30_000)
    assert problem.text == "50.0% of 60000 rows repeat another row entirely, their id included"


def test_rows_without_a_name_are_no_repeats_by_name() -> None:
    frame = rows(1000).assign(id=pd.array([None] * 1000, "Int64"))

    found = survey(pd.concat([frame, frame]))

    assert (found.repeated, found.repeated_named, found.named) == (0.5, 0.0, 0)


@pytest.mark.parametrize(("ids", "said"), [(True, "unless with their ids"), (False, "name the column of a row's id in data.id")])
def test_it_is_said_where_chance_could_repeat_as_many_rows(caplog: pytest.LogCaptureFixture, ids: bool, said: str) -> None:
    frame, n = rows(1000), 60_000
    found = survey(frame if ids else frame.drop(columns="id"))
    found.rows = n

    check_inputs(frame, REFERENCE, survey=found)

    assert f"{n} rows: too many for 500 rows of training to tell whether they were loaded twice" in caplog.text
    assert said in caplog.text


def test_nothing_is_said_where_repeats_can_be_told_from_chance(caplog: pytest.LogCaptureFixture) -> None:
    frame = rows(1000)

    assert check_inputs(frame, REFERENCE, survey=survey(frame)) == ()
    assert "loaded twice" not in caplog.text
