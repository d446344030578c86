"""What the reconciler saw last, in a file, so that `windvane status` can tell it."""

import json
import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta

from windvane.settings import Settings
from windvane.store_files import write_bytes

log = logging.getLogger(__name__)

_SHOWN = timedelta(days=1)
_MAX_SHOWN = 20
_NAME = "reconciler.json"


@dataclass(frozen=True)
class Done:
    """Something that was brought back in line, and when."""

    time: str
    text: str


@dataclass(frozen=True)
class Report:
    """What the reconciler saw.

    Attributes:
        seen: When it looked last; None if it never did.
        problems: What it could not bring in line then.
        done: What it did within the last day, the newest last.
    """

    seen: datetime | None = None
    problems: tuple[str, ...] = ()
    done: tuple[Done, ...] = ()

    def after(self, *, done: Sequence[str], problems: Sequence[str]) -> "Report":
        """The report after one more look."""
        now = datetime.now(UTC)
        kept = [entry for entry in self.done if datetime.fromisoformat(entry.time) > now - _SHOWN]
        new = [Done(now.isoformat(timespec="seconds"), text) for text in done]
        return Report(now, tuple(problems), tuple([*kept, *new][-_MAX_SHOWN:]))


def write_report(settings: Settings, report: Report) -> None:
    """Replace the report.

    Raises:
        StorageError: If it cannot be written.
    """
    value = asdict(report) | {"seen": report.seen.isoformat() if report.seen else None}
    write_bytes(settings.var / _NAME, json.dumps(value, indent=2).encode())


def read_report(settings: Settings) -> Report:
    """The last report; an empty one if there is none that can be read: the next look writes it anew."""
    path = settings.var / _NAME
    try:
        value = json.loads(path.read_bytes())
        seen = datetime.fromisoformat(value["seen"]) if value["seen"] else None
        return Report(seen, tuple(map(str, value["problems"])), tuple(Done(**entry) for entry in value["done"]))
    except FileNotFoundError:
        return Report()
    except (OSError, ValueError, KeyError, TypeError) as exc:
        log.warning("%s: the reconciler's report cannot be read: %s", path, exc)
        return Report()
