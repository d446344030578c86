"""Windows are half-open, UTC, and found from params, events, the interval or the watermark, in this order."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from windvane.errors import ConfigError
from windvane.windows import Window, parse_duration, resolve_window

JANUARY = Window(datetime(2013, 1, 1), datetime(2013, 2, 1))
FEBRUARY = Window(datetime(2013, 2, 1), datetime(2013, 3, 1))


@pytest.mark.parametrize(
    ("text", "seconds"), [("90d", 90 * 86400), ("1h30m", 5400), ("2w", 14 * 86400), ("0d", 0), ("10s", 10)], ids=lambda v: str(v)
)
def test_durations(text: str, seconds: int) -> None:
    assert parse_duration(text) == timedelta(seconds=seconds)


@pytest.mark.parametrize("text", ["", "90", "d", "1.5h", "-1d", "1 d", "1y", "90d!"])
def test_anything_else_is_no_duration(text: str) -> None:
    with pytest.raises(ValueError, match="allowed is a duration"):
        parse_duration(text)


@given(st.datetimes(datetime(1970, 1, 1), datetime(2100, 1, 1)), st.timedeltas(timedelta(seconds=1), timedelta(days=999)))
def test_an_extra_carries_a_window_unchanged(start: datetime, length: timedelta) -> None:
    window = Window(start, start + length)
    assert Window.from_extra(window.as_extra()) == window
    assert window.start.tzinfo is UTC


def test_an_empty_window_is_refused() -> None:
    with pytest.raises(ValueError, match="must end after it starts"):
        Window(datetime(2013, 1, 1), datetime(2013, 1, 1))


def test_params_win_over_events_and_interval() -> None:
    found = resolve_window(params=JANUARY.as_extra(), events=[FEBRUARY.as_extra()], data_interval=(FEBRUARY.start, FEBRUARY.end))
    assert found == JANUARY


def test_several_events_give_their_span() -> None:
    assert resolve_window(params={}, events=[FEBRUARY.as_extra(), {}, JANUARY.as_extra()]) == Window(JANUARY.start, FEBRUARY.end)


def test_the_interval_wins_over_the_watermark_unless_it_is_empty() -> None:
    assert resolve_window(params={}, data_interval=(JANUARY.start, JANUARY.end), default=FEBRUARY) == JANUARY
    assert resolve_window(params={}, data_interval=(JANUARY.start, JANUARY.start), default=FEBRUARY) == FEBRUARY


@pytest.mark.parametrize(
    ("params", "message"),
    [
        pytest.param({"window_start": "2013-01-01"}, "go together", id="one-end"),
        pytest.param({"window_start": "soon", "window_end": "later"}, "ISO 8601", id="not-iso"),
        pytest.param({}, "no window", id="nothing"),
    ],
)
def test_what_is_wrong_is_said(params: dict[str, str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        resolve_window(params=params)
