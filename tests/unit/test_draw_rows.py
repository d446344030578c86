"""Reads within bounds, on real Delta tables: all rows where they are few, else an even sample that follows from keys and places alone."""

from datetime import UTC, datetime, timedelta

import numpy as np
import pandas as pd
import pytest

from windvane.draw_rows import Chosen, Counted, count_chosen, draw_rows, read_named
from windvane.errors import DataError
from windvane.lake import Lake
from windvane.windows import Window

DAY = timedelta(days=1)
START = datetime(2024, 1, 1, tzinfo=UTC)
DAYS, EACH = 4, 2500
ALL = Window(START, START + DAYS * DAY)
ROWS = DAYS * EACH


def day(number: int, *, names: str = "k{}") -> pd.DataFrame:
    """The rows of a day: every fifth without a label, every seventh without a whole number."""
    start = START + number * DAY
    places = np.arange(number * EACH, (number + 1) * EACH)
    return pd.DataFrame(
        {
            "id": [names.format(place) for place in places],
            "at": pd.to_datetime([start + DAY * (i / EACH) for i in range(EACH)], utc=True).as_unit("us"),
            "x": places.astype(float),
            "n": pd.array(np.where(places % 7 == 0, -1, places), dtype="Int64"),
            "text": np.where(places % 3 == 0, "a", "b"),
            "y": np.where(places % 5 == 0, np.nan, places % 2),
        }
    ).assign(n=lambda rows: rows["n"].where(rows["n"] >= 0))


@pytest.fixture(scope="module")
def lake(tmp_path_factory: pytest.TempPathFactory) -> Lake:
    """Four days, each in a file of its own, committed out of order."""
    made = Lake(str(tmp_path_factory.mktemp("lake")))
    for number in (2, 0, 3, 1):
        window = Window(START + number * DAY, START + (number + 1) * DAY)
        made.overwrite_window("m", "raw", day(number), window=window, time="at")
    return made


def test_few_rows_are_read_as_they_always_were(lake: Lake) -> None:
    drawn = draw_rows(lake, "m", "raw", Chosen(ALL, "at"), most=ROWS, key=["id"])

    pd.testing.assert_frame_equal(drawn.rows, lake.read("m", "raw", window=ALL, time="at"))
    assert (drawn.of, drawn.is_sampled) == (ROWS, False)


def test_a_short_window_of_a_long_table_is_read_as_it_always_was(lake: Lake) -> None:
    window = Window(START + DAY, START + 2 * DAY)
    drawn = draw_rows(lake, "m", "raw", Chosen(window, "at"), most=EACH, key=["id"], columns=["x", "new"])

    pd.testing.assert_frame_equal(drawn.rows, lake.read("m", "raw", window=window, time="at", columns=["x", "new"]))


@pytest.mark.parametrize("key", [["id"], []], ids=["by key", "by place"])
def test_a_sample_is_bounded_and_even_over_the_time_and_always_the_same(lake: Lake, key: list[str]) -> None:
    drawn, again = (draw_rows(lake, "m", "raw", Chosen(ALL, "at"), most=2000, key=key) for _ in range(2))

    assert (drawn.of, drawn.is_sampled) == (ROWS, True)
    assert 1900 <= len(drawn.rows) <= 2000
    assert drawn.rows["at"].dt.floor("D").value_counts().between(430, 570).all()
    pd.testing.assert_frame_equal(drawn.rows, again.rows)
    whole = lake.read("m", "raw", window=ALL, time="at")
    pd.testing.assert_frame_equal(drawn.rows, whole[whole["id"].isin(drawn.rows["id"])].reset_index(drop=True))


def test_what_comes_round_is_not_met_at_the_same_place_each_time(lake: Lake) -> None:
    drawn = draw_rows(lake, "m", "raw", Chosen(ALL, "at"), most=ROWS // 10)

    assert (drawn.rows["x"].astype(int) % 10).value_counts().between(60, 145).all()


def test_a_smaller_sample_is_part_of_a_larger_one_and_other_rows_do_not_change_it(lake: Lake, tmp_path) -> None:
    large, small = (set(draw_rows(lake, "m", "raw", Chosen(ALL, "at"), most=most, key=["id"]).rows["id"]) for most in (3000, 500))
    assert small < large

    other = Lake(str(tmp_path))
    other.overwrite_window("m", "raw", day(0).assign(x=0.0, y=1.0, text="z"), window=Window(START, START + DAY), time="at")
    first = draw_rows(other, "m", "raw", Chosen(ALL, "at"), most=500, key=["id"]).rows
    same = draw_rows(lake, "m", "raw", Chosen(Window(START, START + DAY), "at"), most=500, key=["id"]).rows
    assert set(first["id"]) == set(same["id"])


def test_rows_of_one_name_are_drawn_together_and_rows_without_a_name_as_well(tmp_path) -> None:
    lake = Lake(str(tmp_path))
    rows = day(0).assign(id=[f"k{i // 5}" if i % 10 else None for i in range(EACH)])
    lake.overwrite_window("m", "raw", rows, window=Window(START, START + DAY), time="at")
    drawn = draw_rows(lake, "m", "raw", Chosen(ALL, "at"), most=500, key=["id"]).rows

    named = drawn["id"].dropna()
    assert named.map(rows["id"].value_counts()).eq(named.map(named.value_counts())).all()
    assert 20 <= drawn["id"].isna().sum() <= 90


def test_names_that_are_too_few_do_not_bound_so_places_do(tmp_path) -> None:
    lake = Lake(str(tmp_path))
    lake.overwrite_window("m", "raw", day(0).assign(id="same"), window=Window(START, START + DAY), time="at")

    assert len(draw_rows(lake, "m", "raw", Chosen(ALL, "at"), most=500, key=["id"]).rows) == 500


def test_a_name_that_the_table_does_not_have_yet_is_no_obstacle(lake: Lake) -> None:
    assert len(draw_rows(lake, "m", "raw", Chosen(ALL, "at"), most=500, key=["new"]).rows) == 500


def test_only_chosen_rows_count_and_are_read(lake: Lake) -> None:
    chosen = Chosen(ALL, "at", known="y", without=(Window(START + DAY, START + 2 * DAY),))
    whole, some = (draw_rows(lake, "m", "raw", chosen, most=most, key=["id"]) for most in (ROWS, 1000))

    assert whole.of == some.of == count_chosen(lake, "m", "raw", chosen).rows == 6000
    assert len(some.rows) <= 1000
    for drawn in (whole, some):
        assert drawn.rows["y"].notna().all()
        assert not drawn.rows["at"].between(START + DAY, START + 2 * DAY, inclusive="left").any()


def test_all_rows_of_a_long_window_are_streamed_with_the_types_of_a_read(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("windvane.draw_rows.AT_ONCE", 100)
    drawn = draw_rows(lake, "m", "raw", Chosen(ALL, "at", known="y"), most=None, key=["id"])
    whole = lake.read("m", "raw", window=ALL, time="at")

    pd.testing.assert_frame_equal(drawn.rows, whole[whole["y"].notna()].reset_index(drop=True))


def test_labels_are_counted_with_their_ends(lake: Lake) -> None:
    assert count_chosen(lake, "m", "raw", Chosen(ALL, "at", known="y")) == Counted(8000, 0.0, 1.0)
    assert count_chosen(lake, "m", "raw", Chosen(ALL, "at", known="text")) == Counted(ROWS, "a", "b")
    assert count_chosen(lake, "m", "raw", Chosen(ALL, "at", known="gone")).rows == 0
    assert count_chosen(lake, "m", "none", Chosen(ALL, "at")).rows == 0


@pytest.mark.parametrize("key", [["id"], []], ids=["by key", "by place"])
def test_every_row_is_shown_where_some_are_left_out_only(lake: Lake, key: list[str]) -> None:
    seen: list[int] = []
    draw_rows(lake, "m", "raw", Chosen(ALL, "at"), most=2000, key=key, see=lambda batch, n: seen.extend([batch.num_rows, -n]))

    assert sum(n for n in seen if n > 0) == ROWS
    assert {n for n in seen if n < 0} == {-ROWS}
    draw_rows(lake, "m", "raw", Chosen(ALL, "at"), most=ROWS, key=key, see=lambda batch, n: pytest.fail("all rows are returned"))


@pytest.mark.parametrize("at_once", [100, ROWS])
def test_named_rows_are_found_in_many(lake: Lake, at_once: int) -> None:
    wanted = pd.Index(["k7", "k2501", "k9999", "gone"])
    found = read_named(
        lake, "m", "raw", Chosen(ALL, "at", known="y"), name="id", wanted=wanted, at_once=at_once, columns=["id", "y"]
    ).set_index("id")

    assert found.loc[["k7", "k2501", "k9999"], "y"].tolist() == [1.0, 1.0, 1.0]
    assert list(found.columns) == ["y"]


def test_a_missing_time_is_named(lake: Lake) -> None:
    for most in (1, ROWS):
        with pytest.raises(DataError, match="no column 'when' to find the window by"):
            draw_rows(lake, "m", "raw", Chosen(ALL, "when"), most=most, key=["id"])
