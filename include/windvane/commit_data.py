"""Puts a validated batch into the lake: valid rows into `raw`, the others, with their reason, into `quarantine`."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from windvane.config import ModelConfig
from windvane.errors import ConfigError
from windvane.lake import Lake
from windvane.validate_data import Validation
from windvane.windows import Window

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Commit:
    """What a commit did.

    Attributes:
        version: Version of the table `raw` that holds the window; None when the batch was refused and there is no table.
        rows: Rows of the window in `raw` that came from this batch.
        quarantined: Rows of the window in `quarantine`.
        changed: Whether `raw` has a new version because of this commit.
    """

    window: Window
    version: int | None
    rows: int
    quarantined: int
    changed: bool

    def as_json(self) -> dict[str, Any]:
        """The form in which tasks and events carry it."""
        counts = {"version": self.version, "rows": self.rows, "quarantined": self.quarantined, "changed": self.changed}
        return {**self.window.as_extra(), **counts}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> "Commit":
        """Read what `as_json` wrote."""
        window = Window.from_extra(value)
        if window is None:
            raise ConfigError(["commit: window_start and window_end are missing; run commit again"])
        return cls(window=window, version=value["version"], rows=value["rows"], quarantined=value["quarantined"], changed=value["changed"])


def commit_data(config: ModelConfig, lake: Lake, validation: Validation) -> Commit:
    """Commit a validated batch; doing it again, or twice at once, has the effect of once.

    A refused batch goes to quarantine as a whole and leaves `raw` as it was; `Validation.raise_if_refused` then fails the task.

    Raises:
        DataError: If the staged files are missing, cut or changed, or a column does not fit the table.
        StorageError: If the lake cannot store the rows.
    """
    model, window = config.model, validation.staged.window
    valid, quarantined = validation.read_valid(), validation.read_quarantine()
    note = {"digest": validation.staged.digest}
    # quarantine first: when `raw` says that the window is there, everything of the window is there
    lake.replace_rows(model, "quarantine", quarantined, key="window_key", values=[window.key], metadata=note)
    before = lake.version(model, "raw")
    if validation.refused:
        _log.warning("Window %s: refused, %d rows quarantined, the table stays at version %s", window, quarantined.num_rows, before)
        return Commit(window=window, version=before, rows=0, quarantined=quarantined.num_rows, changed=False)
    note |= {"quarantined": str(quarantined.num_rows), "source": config.data.source.type}
    version = lake.overwrite_window(model, "raw", valid, window=window, time=config.data.time, metadata=note)
    changed = before is None or version > before
    return Commit(window=window, version=version, rows=valid.num_rows, quarantined=quarantined.num_rows, changed=changed)
