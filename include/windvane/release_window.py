"""Lets a person say that the rows of a window are good though the checks call them bad; until then nothing is trained on them."""

import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

import pandas as pd

from windvane.config import ModelConfig
from windvane.errors import ConfigError
from windvane.lake import Lake
from windvane.windows import Window

log = logging.getLogger(__name__)

_TABLE = "released"
_NAMED = 10


@dataclass(frozen=True)
class HeldWindow:
    """A window whose newest decision is `fix_data` and that nobody released.

    Attributes:
        window: The window that was decided about; a person releases it by its ends.
        spans: Where its bad rows are: in the window itself, or, with late outcomes, before it.
        reason: Why it was decided.
    """

    window: Window
    spans: tuple[Window, ...]
    reason: str


def release_window(config: ModelConfig, lake: Lake, window: Window, *, actor: str, reason: str) -> None:
    """Record that the rows of a window that is held back may be trained on; doing it again changes nothing.

    The decision stays what it is until the window is monitored again.

    Args:
        window: A window whose decision is `fix_data`.
        actor: Who says so.
        reason: Why, for those who read the record.

    Raises:
        ConfigError: If the window is not held back, with those that are; if there is no reason.
        StorageError: If the record cannot be written.
    """
    if not reason.strip():
        raise ConfigError(["release: got no reason; say why these rows are good, for those who read the record"])
    if is_released(config, lake, window):
        log.info("%s %s: was released before", config.model, window)
        return
    held = [found.window for found in held_windows(config, lake)]
    if window not in held:
        raise ConfigError([f"release: got window {_ends(window)}, which is not held back; held back of {config.model}: {_list(held)}"])
    row = pd.DataFrame(
        {
            "window_key": [window.key],
            "window_start": pd.to_datetime([window.start], utc=True).as_unit("us"),
            "window_end": pd.to_datetime([window.end], utc=True).as_unit("us"),
            "actor": [actor],
            "reason": [reason.strip()],
            "time": pd.to_datetime([datetime.now(UTC)], utc=True).as_unit("us"),
        }
    )
    lake.replace_rows(config.model, _TABLE, row, key="window_key", values=[window.key])
    log.info("%s %s: released by %s: %s", config.model, window, actor, reason.strip())


def is_released(config: ModelConfig, lake: Lake, window: Window) -> bool:
    """Whether a person said that the rows of this window, or of one around it, may be trained on."""
    return _lies_in_any(window, _released(config, lake))


def unreleased_windows(config: ModelConfig, lake: Lake, *, before: datetime | None = None) -> list[Window]:
    """The spans of rows that nothing may train on, in time order: bad ones that nobody released.

    Args:
        before: Count only decisions about windows that end before this moment; a window that is decided about again is
            neither held back by its own earlier decision nor by those about later ones.
    """
    return sorted({span for held in held_windows(config, lake, before=before) for span in held.spans})


def held_windows(config: ModelConfig, lake: Lake, *, before: datetime | None = None) -> list[HeldWindow]:
    """The windows that a person could release, in time order.

    Args:
        before: Only those that end before this moment.
    """
    decisions = lake.read(config.model, "decisions", columns=["window_start", "window_end", "decision"])
    bad = decisions[decisions["decision"] == "fix_data"]
    if bad.empty:
        return []
    released = _released(config, lake)
    windows = {window for window in _windows_of(bad) if not _lies_in_any(window, released) and (before is None or window.end < before)}
    if not windows:
        return []
    # the evidence is long, so it is read only of the time in which something is held back
    span = Window(min(window.start for window in windows), max(window.end for window in windows))
    columns = ["window_start", "window_end", "decision", "reason", "evidence"]
    rows = lake.read(config.model, "decisions", window=span, time="window_start", columns=columns)
    rows = rows[rows["decision"] == "fix_data"]
    told = zip(_windows_of(rows), rows["reason"], rows["evidence"], strict=True)
    held = [HeldWindow(window, _spans(window, evidence), str(reason)) for window, reason, evidence in told if window in windows]
    return sorted(held, key=lambda found: found.window)


def _spans(window: Window, evidence: str) -> tuple[Window, ...]:
    """Where the evidence says that the bad rows are; the whole window where it does not say."""
    found = json.loads(evidence).get("held") or [] if isinstance(evidence, str) else []
    spans = [span for span in map(Window.from_extra, found) if span]
    return tuple(sorted(spans)) or (window,)


def _released(config: ModelConfig, lake: Lake) -> list[Window]:
    return _windows_of(lake.read(config.model, _TABLE, columns=["window_start", "window_end"]))


def _windows_of(rows: pd.DataFrame) -> list[Window]:
    ends = zip(rows["window_start"], rows["window_end"], strict=True)
    return [Window(start.to_pydatetime(), end.to_pydatetime()) for start, end in ends]


def _lies_in_any(window: Window, others: Sequence[Window]) -> bool:
    return any(other.start <= window.start and window.end <= other.end for other in others)


def _list(windows: Sequence[Window]) -> str:
    newest = ", ".join(_ends(window) for window in windows[-_NAMED:])
    more = f" and {len(windows) - _NAMED} earlier ones" if len(windows) > _NAMED else ""
    return newest + more or "none"


def _ends(window: Window) -> str:
    return f"{window.start:%Y-%m-%dT%H:%M:%SZ} to {window.end:%Y-%m-%dT%H:%M:%SZ}"
