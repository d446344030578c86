"""Finds out what served at a moment, from the release ledger alone."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from windvane.errors import ConfigError
from windvane.ledger import Ledger, Release


@dataclass(frozen=True)
class Share:
    """A part of the traffic: who answered it."""

    version: int
    percent: int
    digest: str | None


@dataclass(frozen=True)
class Served:
    """What served at a moment.

    Attributes:
        release: The row that was the newest; None before the first row.
        shares: The versions with traffic, the largest part first; several during a canary, none if nothing served.
        since: Since when exactly these shares served; rows that repeat them, such as a refusal, do not count.
        begins: Time of the first row.
    """

    release: Release | None
    shares: tuple[Share, ...]
    since: datetime | None
    begins: datetime

    def as_json(self) -> dict[str, Any] | None:
        """The row as JSON values with `shares` and `since`; None before the first row."""
        if self.release is None:
            return None
        return self.release.as_json() | {"shares": [vars(share) for share in self.shares], "since": self.since}


def find_served(ledger: Ledger, model: str, moment: datetime) -> Served:
    """Tell what served at a wall-clock moment; a moment in the future gets what the last row says.

    Raises:
        ConfigError: If the ledger does not know the model.
    """
    history = ledger.history(model)
    if not history:
        known = ", ".join(ledger.models()) or "none"
        raise ConfigError([f"release ledger: there is no model '{model}'; known models: {known}"])
    rows = [row for row in history if row.time <= moment]
    if not rows:
        return Served(None, (), None, history[0].time)
    shares = sorted(((percent, version) for version, percent in rows[-1].traffic.items() if percent), reverse=True)
    return Served(
        release=rows[-1],
        shares=tuple(Share(version, percent, _digest_of(rows, version)) for percent, version in shares),
        since=_since(rows),
        begins=history[0].time,
    )


def _digest_of(rows: Sequence[Release], version: int) -> str | None:
    return next((row.digest for row in reversed(rows) if row.version == version), None)


def _since(rows: Sequence[Release]) -> datetime:
    since = rows[-1].time
    for row in reversed(rows):
        if row.traffic != rows[-1].traffic:
            break
        since = row.time
    return since
