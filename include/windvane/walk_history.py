"""A model's history in memory, cut into windows, with the outcomes that are known at the end of each."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

import numpy as np
import pandas as pd

from windvane.backtest_defaults import ROW_EPOCH, Span
from windvane.config import ModelConfig
from windvane.errors import ConfigError, DataError
from windvane.snapshot import labels_of
from windvane.windows import Window


@dataclass(frozen=True)
class Step:
    """One window of the walk.

    Attributes:
        rows: Places of its rows in the history.
        known_until: Outcomes of rows before this moment are known at its end.
    """

    number: int
    rows: slice
    window: Window
    known_until: datetime


class History:
    """All rows, sorted by time, with the outcomes that a policy may see.

    Args:
        frame: Input columns, label, and the config's time column if the data has one; without it the order of the rows is the time, one
            row a second.
    """

    def __init__(self, config: ModelConfig, frame: pd.DataFrame) -> None:
        self.config = config
        label, time = config.data.label, config.data.time
        if label not in frame.columns:
            raise DataError(f"the data has no column '{label}', which data.label names; it has {', '.join(map(str, frame.columns[:20]))}")
        self.has_clock = time in frame.columns and not pd.api.types.is_numeric_dtype(frame[time].dtype)
        if self.has_clock:
            frame = frame.assign(**{time: pd.to_datetime(frame[time], utc=True).astype("datetime64[us, UTC]")})
            if frame[time].isna().any():
                raise DataError(f"column '{time}' has {int(frame[time].isna().sum())} rows without a time; remove them")
            frame = frame.sort_values(time, kind="stable", ignore_index=True)
        else:
            order = frame.sort_values(time, kind="stable", ignore_index=True) if time in frame.columns else frame.reset_index(drop=True)
            moments = pd.Timestamp(ROW_EPOCH) + pd.to_timedelta(np.arange(len(order)), unit="s")
            frame = order.assign(**{time: pd.DatetimeIndex(moments).astype("datetime64[us, UTC]")})
        self.hidden = () if self.has_clock else (time,)
        known = frame[label].notna().to_numpy()
        self.frame = frame
        self.times = frame[time].astype("int64").to_numpy()
        self._usable = known.copy()
        self._known = known
        labels = labels_of(frame.loc[known, label], config)
        self.labels = labels.reindex(frame.index) if not known.all() else labels

    def without(self, held: Sequence[Window]) -> "History":
        """The same history without the outcomes of some windows."""
        made = object.__new__(History)
        made.__dict__ = dict(self.__dict__)
        usable = self._known.copy()
        for window in held:
            usable[self.place(window.start) : self.place(window.end)] = False
        made._usable = usable
        return made

    def place(self, moment: datetime) -> int:
        """The number of rows before a moment."""
        return int(np.searchsorted(self.times, int(pd.Timestamp(moment).value // 1000), side="left"))

    def moment(self, place: int) -> datetime:
        """The time of a row; behind the last row, just after it."""
        at = self.times[place] if place < len(self.times) else self.times[-1] + 1_000_000
        return pd.Timestamp(int(at), unit="us", tz="UTC").to_pydatetime()

    @property
    def begin(self) -> datetime:
        """Time of the first row."""
        return self.moment(0)

    def count(self, start: datetime, end: datetime) -> int:
        """The number of labelled rows with start <= time < end that are not held back."""
        return int(self._usable[self.place(start) : self.place(end)].sum())

    def between(self, start: datetime, end: datetime, *, most: int | None = None) -> pd.DataFrame:
        """Labelled rows with start <= time < end that are not held back; at most so many, evenly over the time."""
        low = self.place(start)
        return self.labelled(slice(low, max(low, self.place(end))), most=most)

    def labelled(self, rows: slice, *, most: int | None = None) -> pd.DataFrame:
        """Labelled rows of some places that are not held back."""
        places = rows.start + np.flatnonzero(self._usable[rows])
        places = places[:: -(-len(places) // most)] if most and len(places) > most else places
        labels = self.labels.iloc[places].infer_objects()
        found: pd.DataFrame = self.frame.iloc[places].assign(**{self.config.data.label: labels}).reset_index(drop=True)
        return found

    def evaluated(self, rows: slice) -> pd.DataFrame:
        """All rows with a label, also those that are held back: they are what happened."""
        known = self._known[rows]
        happened: pd.DataFrame = self.frame.iloc[rows][known].assign(
            **{self.config.data.label: self.labels.iloc[rows][known].infer_objects()}
        )
        return happened


def walk(history: History, *, first: Span, window: Span, label_delay: Span) -> list[Step]:
    """Cut what comes after the first rows into windows, by rows or by time.

    Raises:
        ConfigError: If a length of time is given and the data has no time, or nothing is left to walk over.
    """
    for name, span in (("--first", first), ("--window", window), ("--label-delay", label_delay)):
        if isinstance(span, timedelta) and span and not history.has_clock:
            raise ConfigError(
                [f"{name}: got a length of time, but the data has no column '{history.config.data.time}'; give a number of rows"]
            )
    n = len(history.times)
    low = first if isinstance(first, int) else history.place(history.moment(0) + first)
    begin = history.moment(min(low, n)) if isinstance(first, int) else history.moment(0) + first
    if low < 2 or low >= n:
        raise ConfigError([f"--first: got {low} rows of {n}, allowed is a number of rows that leaves some to walk over"])
    steps: list[Step] = []
    left = n - low
    while low < n:
        if isinstance(window, int):
            high = min(n, low + window)
            begin, end = history.moment(low), history.moment(high)
        else:
            end = begin + window
            high = history.place(end)
        end = max(end, begin + timedelta(microseconds=1))
        known = end
        if label_delay:
            known = history.moment(max(0, high - label_delay)) if isinstance(label_delay, int) else end - label_delay
        if high - low == window or not isinstance(window, int) or high - low >= window / 2:
            steps.append(Step(len(steps), slice(low, high), Window(begin, end), known))
        low, begin = high, end
    if not steps:
        raise ConfigError([f"--window: got {window}, but {left} rows are left to walk over; give a shorter one"])
    return steps
