"""Tells of every model at once what serves and since when, from the newest rows of the ledger and without their evidence."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from sqlalchemy import Connection, func, select

from windvane.ledger import Ledger

# the steps of a usual rollout, and the row before them
_FIRST_DEPTH = 5
_DEEPER = 8


@dataclass(frozen=True)
class Standing:
    """What the ledger says of a model; times as text, as the ledger keeps them: ISO 8601 in UTC.

    Attributes:
        last: The newest row: epoch, action, version, traffic, until, actor, reason, time.
        serving: The version with most traffic, or None.
        since: Since when that version serves without a break.
        frozen: The row that froze the model: actor, reason, time; None when it is not frozen.
        promoted: When something was promoted or rolled back to last.
    """

    last: Mapping[str, Any]
    serving: int | None
    since: str | None
    frozen: Mapping[str, Any] | None
    promoted: str | None


def survey_releases(ledger: Ledger, *, only: str | None = None) -> dict[str, Standing]:
    """Tell what serves of each model; the number of queries does not grow with the models.

    Args:
        only: Look at this model alone.
    """
    table = ledger.table
    shown = [table.c[name] for name in ("model", "epoch", "action", "version", "traffic", "until", "actor", "reason", "time")]
    with ledger.connect() as connection:
        newest = select(table.c.model, func.max(table.c.epoch).label("epoch")).group_by(table.c.model)
        newest = newest if only is None else newest.where(table.c.model == only)
        heads = newest.subquery()
        chosen = select(*shown).join(heads, (table.c.model == heads.c.model) & (table.c.epoch == heads.c.epoch))
        last = {row.model: row._asdict() for row in connection.execute(chosen).all()}
        marks = _marks(connection, ledger, only)
        serving = {model: _serving(row["traffic"]) for model, row in last.items()}
        ends = {model: (row["epoch"], serving[model]) for model, row in last.items()}
        since = _since(connection, ledger, ends, every=only is None)
    standings = {}
    for model, row in last.items():
        freeze = max((marks[model, action] for action in ("freeze", "unfreeze") if (model, action) in marks), key=_epoch, default=None)
        promoted = max((marks[model, action] for action in ("promote", "rollback") if (model, action) in marks), key=_epoch, default=None)
        standings[model] = Standing(
            last=row | {"traffic": json.loads(row["traffic"])},
            serving=serving[model],
            since=since.get(model),
            frozen=freeze._asdict() if freeze is not None and freeze.action == "freeze" else None,
            promoted=promoted.time if promoted is not None else None,
        )
    return standings


def _marks(connection: Connection, ledger: Ledger, only: str | None) -> dict[tuple[str, str], Any]:
    """The newest row of each action that lasts, by model and action."""
    table = ledger.table
    lasting = ("freeze", "unfreeze", "promote", "rollback")
    found = select(table.c.model, table.c.action, func.max(table.c.epoch).label("epoch")).where(table.c.action.in_(lasting))
    found = found if only is None else found.where(table.c.model == only)
    newest = found.group_by(table.c.action, table.c.model).subquery()
    shown = (table.c.model, table.c.epoch, table.c.action, table.c.actor, table.c.reason, table.c.time)
    chosen = select(*shown).join(newest, (table.c.model == newest.c.model) & (table.c.epoch == newest.c.epoch))
    return {(row.model, row.action): row for row in connection.execute(chosen).all()}


def _since(connection: Connection, ledger: Ledger, ends: Mapping[str, tuple[int, int | None]], *, every: bool) -> dict[str, str]:
    """Since when each model's version serves: looks back a few rows, and further where they do not tell.

    Args:
        ends: Of each model, the newest epoch and the version that serves.
        every: Whether these are all models.
    """
    since: dict[str, str] = {}
    left = {model: end for model, end in ends.items() if end[1] is not None}
    depth = _FIRST_DEPTH
    while left:
        rows = _newest_rows(connection, ledger, depth, None if every and len(left) == len(ends) else list(left))
        for model, (epoch, version) in list(left.items()):
            began, broken = None, False
            for row in rows.get(model, ()):
                if _serving(row.traffic) != version:
                    broken = True
                    break
                began = row.time
            # epochs count from 1 without a gap
            if began is not None and (broken or depth >= epoch):
                since[model] = began
                del left[model]
            elif depth >= epoch:
                del left[model]
        depth *= _DEEPER
    return since


def _newest_rows(connection: Connection, ledger: Ledger, depth: int, models: Sequence[str] | None) -> dict[str, list[Any]]:
    """The newest rows of each model, newest first."""
    table = ledger.table
    newest = select(table.c.model, func.max(table.c.epoch).label("epoch")).group_by(table.c.model)
    heads = (newest if models is None else newest.where(table.c.model.in_(models))).subquery()
    chosen = (
        select(table.c.model, table.c.epoch, table.c.traffic, table.c.time)
        .join(heads, (table.c.model == heads.c.model) & (table.c.epoch > heads.c.epoch - depth))
        .order_by(table.c.model, table.c.epoch.desc())
    )
    return _by_model(connection.execute(chosen).all())


def _by_model(rows: Iterable[Any]) -> dict[str, list[Any]]:
    found: dict[str, list[Any]] = {}
    for row in rows:
        found.setdefault(row.model, []).append(row)
    return found


def _epoch(row: Any) -> int:
    return int(row.epoch)


@lru_cache(maxsize=4096)
def _serving(traffic: str) -> int | None:
    """The version with most traffic; the newer of two equals."""
    shares = {int(version): percent for version, percent in json.loads(traffic).items()}
    return max(shares, key=lambda version: (shares[version], version), default=None)
