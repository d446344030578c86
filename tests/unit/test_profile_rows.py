"""A profile holds what is needed of a reference, and counts rows at bounded memory."""

import json

import numpy as np
import pandas as pd
import pytest

from windvane.profile_rows import MAX_ENCODED_ROWS, Profile, count_rows, numbers_of, text_of


def frame(n=400, seed=1):
    random = np.random.default_rng(seed)
    return pd.DataFrame({"x": random.normal(size=n), "y": random.normal(size=n), "c": random.choice(["a", "b"], n)})


def column_of(values):
    return Profile.of(pd.DataFrame({"x": values}), seed=7).columns[0]


def test_every_row_of_every_block_is_in_one_bin_of_each_column():
    profile = Profile.of(frame().assign(x=lambda f: f["x"].where(f["x"] < 1)), seed=7)

    assert profile.rows == 400
    for span in profile.spans:
        assert (profile.counts[:, span].sum(axis=1) == profile.block_rows).all()
    assert count_rows([frame()], profile).counts[profile.spans[0]].sum() == 400


def test_value_that_many_rows_share_has_a_bin_of_its_own():
    column = column_of([0.0] * 90 + list(np.linspace(-1, 1, 111)))

    zero, below, above = column.codes(pd.Series([0.0, -1e-9, 1e-9]))

    assert len({zero, below, above}) == 3


def test_missing_infinite_and_broken_numbers_share_the_last_bin():
    column = column_of(np.linspace(-1, 1, 50)[::-1].repeat(2)[np.random.default_rng(1).permutation(100)])

    assert set(column.codes(pd.Series([None, np.nan, np.inf, -np.inf, "broken"]))) == {column.bins - 1}


def test_rare_and_new_values_share_a_bin():
    column = column_of(["a"] * 80 + ["b"] * 80 + ["rare"] * 3)

    assert column.values == ("a", "b")
    assert list(column.codes(pd.Series(["a", "b", "rare", "new", None]))) == [0, 1, 2, 2, 3]


@pytest.mark.parametrize(
    ("values", "constant", "missing"),
    [([1.0, 1.0, 1.0, 2.0, 3.0], 3, 0), ([None, None, 1.0, None, 2.0], 1, 2), ([5.0] * 4, 4, 0), (["a", "a", None, "a", "b"], 3, 1)],
)
def test_longest_runs_are_counted(values, constant, missing):
    column = column_of(values)

    assert (column.constant_run, column.missing_run) == (constant, missing)


def test_far_values_stay_apart_from_near_ones():
    column = column_of(np.random.default_rng(1).normal(size=1_000))

    codes = column.codes(pd.Series([4.0, 10.0, 30.0, 10_000.0, -10_000.0]))

    assert len(set(codes)) == 5


def test_profile_survives_json():
    profile = Profile.of(frame().assign(at=pd.Timestamp("2013-01-01")), seed=7, history_rows=1_200)
    again = Profile.from_json(json.loads(json.dumps(profile.as_json(), allow_nan=False)))

    assert again.as_json() == profile.as_json()
    assert (again.every, again.columns, again.skipped, again.components) == (3.0, profile.columns, profile.skipped, profile.components)


def test_rows_are_counted_and_forgotten():
    profile = Profile.of(frame(), seed=7)
    counted = count_rows((frame(3_000, seed=s) for s in range(5)), profile)

    assert counted.rows == 15_000
    assert counted.encoded.shape == (MAX_ENCODED_ROWS, 3)
    # a sample of all batches, not of the first one
    first = count_rows([frame(3_000, seed=0)], profile).encoded
    assert not np.isin(counted.encoded[:, 0], first[:, 0]).all()


def test_columns_are_found_by_name_and_absent_ones_told():
    profile = Profile.of(frame(), seed=7)
    counted = count_rows([frame()[["c", "y"]]], profile)

    assert counted.absent == {"x"}
    assert (counted.counts[profile.spans[1]] == profile.counts[:, profile.spans[1]].sum(axis=0)).all()


def test_components_rebuild_what_depends_on_each_other():
    random = np.random.default_rng(3)
    common = random.normal(size=2_000)
    rows = pd.DataFrame({name: common + 0.1 * random.normal(size=2_000) for name in "abc"})
    components = Profile.of(rows, seed=7).components

    kept, broken = components.errors(np.array([[0.8, 0.8, 0.8], [0.8, -0.8, 0.8]]))

    assert len(components.axes) == 1
    assert broken > 5 * kept


@pytest.mark.parametrize("rows", [0, 1, 2, 9])
def test_few_rows_make_a_profile(rows):
    profile = Profile.of(frame(rows), seed=7)

    assert profile.rows == rows
    assert profile.components is None


def test_numbers_and_texts_of_any_type():
    assert np.array_equal(numbers_of(pd.Series([1, None, True], dtype="object")), [1.0, np.nan, 1.0], equal_nan=True)
    assert np.array_equal(numbers_of(pd.Series([1, None], dtype="Int64")), [1.0, np.nan], equal_nan=True)
    assert np.isnan(numbers_of(pd.Series(pd.to_datetime(["2013-01-01"])))).all()
    assert [text_of(value) for value in (1, 1.0, 1.5, True, "a")] == ["1", "1", "1.5", "True", "a"]
