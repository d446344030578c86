"""Windows of data time: half-open, UTC, and how a run finds the one it works on."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from windvane.errors import ConfigError

_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}


def parse_duration(text: str) -> timedelta:
    """Turn `90d`, `10m`, `1h30m` into a time span; units are w, d, h, m, s.

    Raises:
        ValueError: If the text is not such a sequence of whole numbers with units.
    """
    parts = re.findall(r"(\d+)([wdhms])", text)
    if not parts or "".join(n + unit for n, unit in parts) != text:
        raise ValueError(f"got {text!r}, allowed is a duration such as 90d, 12h, 10m or 1h30m (units w, d, h, m, s)")
    return sum((timedelta(**{_UNITS[unit]: int(n)}) for n, unit in parts), timedelta())


def as_utc(value: datetime | str) -> datetime:
    """Return the moment in UTC; a text is ISO 8601, and a time without a zone is UTC.

    Raises:
        ValueError: If the text is not ISO 8601.
    """
    moment = datetime.fromisoformat(value) if isinstance(value, str) else value
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)


@dataclass(frozen=True, order=True)
class Window:
    """A half-open span of data time, `start <= t < end`, in UTC."""

    start: datetime
    end: datetime

    def __post_init__(self) -> None:
        object.__setattr__(self, "start", as_utc(self.start))
        object.__setattr__(self, "end", as_utc(self.end))
        if self.start >= self.end:
            raise ValueError(f"a window must end after it starts, got {self.start} to {self.end}")

    def __str__(self) -> str:
        return f"{_short(self.start)}..{_short(self.end)}"

    @property
    def key(self) -> str:
        """A name for files: the same window always has the same one."""
        return f"{self.start:%Y%m%dT%H%M%SZ}-{self.end:%Y%m%dT%H%M%SZ}"

    def as_extra(self) -> dict[str, str]:
        """The form in which events, params and JSON carry a window."""
        return {"window_start": self.start.isoformat(), "window_end": self.end.isoformat()}

    @classmethod
    def from_extra(cls, extra: Mapping[str, Any]) -> "Window | None":
        """Read what `as_extra` wrote; None when either end is missing."""
        start, end = extra.get("window_start"), extra.get("window_end")
        return cls(as_utc(start), as_utc(end)) if start and end else None

    def tail(self, length: timedelta) -> "Window":
        """The last part of the window, at most the whole of it."""
        return Window(max(self.start, self.end - length), self.end)


def _short(moment: datetime) -> str:
    return f"{moment:%Y-%m-%d}" if moment == moment.replace(hour=0, minute=0, second=0, microsecond=0) else f"{moment:%Y-%m-%dT%H:%M:%S}"


def resolve_window(
    *,
    params: Mapping[str, Any],
    events: Sequence[Mapping[str, Any]] = (),
    data_interval: tuple[datetime, datetime] | None = None,
    default: Window | None = None,
) -> Window:
    """Find the window a run works on: its params, else the triggering events, else its data interval, else `default`.

    Args:
        params: `window_start` and `window_end` as ISO 8601 or None, as a person or the REST API gave them.
        events: The `extra` of the asset events that triggered the run; the span of all of them counts.
        data_interval: The interval of a scheduled or backfilled run; ignored when it is empty.
        default: What is left: from the watermark to the newest complete data.

    Raises:
        ConfigError: If only one end is given, an end is not ISO 8601, or nothing tells the window.
    """
    start, end = params.get("window_start"), params.get("window_end")
    if bool(start) != bool(end):
        raise ConfigError([f"params: window_start and window_end go together, got start={start!r} end={end!r}; give both or neither"])
    if start and end:
        try:
            return Window(as_utc(start), as_utc(end))
        except ValueError as exc:
            raise ConfigError([f"params: window_start and window_end: {exc}; allowed is ISO 8601 such as 2013-02-01T00:00:00Z"]) from exc
    from_events = [window for window in map(Window.from_extra, events) if window]
    if from_events:
        return Window(min(w.start for w in from_events), max(w.end for w in from_events))
    if data_interval and data_interval[0] < data_interval[1]:
        return Window(*data_interval)
    if default:
        return default
    raise ConfigError(["params: no window: this run has no data interval, no event and no watermark; give window_start and window_end"])
