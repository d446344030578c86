"""The release ledger: one append-only table whose last row per model says what should serve.

A row is a compare-and-set on `(model, epoch)`: whoever names the wrong last epoch is refused, so the history is linear.
Each row carries the hash of the row before, so that tampering shows. Times are wall-clock UTC.
"""

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, ClassVar, Literal, get_args

from sqlalchemy import Column, Connection, Index, Integer, MetaData, String, Table, Text, select, text
from sqlalchemy.exc import IntegrityError
from sqlalchemy.schema import CreateIndex, CreateTable

from windvane.connect_database import Database, existing, wait_for_others
from windvane.errors import StaleEpoch
from windvane.windows import as_utc

Action = Literal["shift", "promote", "revert", "rollback", "refuse", "freeze", "unfreeze"]

_LOCK = 7702913
_MAX_REASON = 2000
_NO_HASH = "0" * 64

_releases = Table(
    "releases",
    MetaData(),
    Column("model", String(63), primary_key=True),
    Column("epoch", Integer, primary_key=True, autoincrement=False),
    Column("action", String(16), nullable=False),
    Column("version", Integer, nullable=False),
    Column("digest", String(64), nullable=False),
    Column("traffic", Text, nullable=False),
    Column("until", String(40)),
    Column("actor", String(250), nullable=False),
    Column("reason", Text, nullable=False),
    Column("evidence", Text, nullable=False),
    Column("time", String(40), nullable=False),
    Column("previous_hash", String(64), nullable=False),
    Column("hash", String(64), nullable=False),
)

# the newest row of an action is found without reading a row's evidence
_by_action = Index("releases_by_action", _releases.c.action, _releases.c.model, _releases.c.epoch)

_SQLITE_APPEND_ONLY = tuple(
    f"CREATE TRIGGER IF NOT EXISTS releases_no_{verb.lower()} BEFORE {verb} ON releases "
    "BEGIN SELECT RAISE(ABORT, 'the release ledger is append-only'); END"
    for verb in ("UPDATE", "DELETE")
)
_POSTGRESQL_APPEND_ONLY = (
    "CREATE OR REPLACE FUNCTION releases_append_only() RETURNS trigger LANGUAGE plpgsql AS "
    "$$ BEGIN RAISE EXCEPTION 'the release ledger is append-only'; END $$",
    "CREATE TRIGGER releases_no_change BEFORE UPDATE OR DELETE OR TRUNCATE ON releases EXECUTE FUNCTION releases_append_only()",
)


@dataclass(frozen=True)
class Release:
    """One row of the ledger.

    Attributes:
        epoch: Number of the row within its model, from 1.
        version: The version that the action is about; `traffic` says what serves after it.
        digest: Bundle digest of that version.
        traffic: Version to percent; empty when nothing should serve, else the sum is 100.
        until: Moment past which an unfinished shift is reverted.
        evidence: What led to the row: run, verdict, error.
    """

    model: str
    epoch: int
    action: Action
    version: int
    digest: str
    traffic: Mapping[int, int]
    until: datetime | None
    actor: str
    reason: str
    evidence: Mapping[str, Any] = field(hash=False)
    time: datetime
    previous_hash: str
    hash: str

    @property
    def serving(self) -> int | None:
        """The version with most traffic, or None; the newer of two equals."""
        return max(self.traffic, key=lambda version: (self.traffic[version], version), default=None)

    def as_json(self) -> dict[str, Any]:
        """The row as JSON values."""
        return _row_values(self) | {"traffic": {str(k): v for k, v in self.traffic.items()}, "evidence": dict(self.evidence)}


def settled_row(history: Sequence[Release]) -> Release | None:
    """The newest row that holds for good: what serves when an unfinished shift is given up."""
    return next((row for row in reversed(history) if row.until is None), None)


class Ledger:
    """Reads and appends rows of the ledger at an SQLAlchemy URL (SQLite or PostgreSQL).

    Attributes:
        table: Its table, for queries over all models.
    """

    table: ClassVar[Table] = _releases

    def __init__(self, url: str) -> None:
        self._database = Database(url, name="release ledger", prepare=_create_table)

    def close(self) -> None:
        """Let go of the database connections."""
        self._database.close()

    def connect(self) -> AbstractContextManager[Connection]:
        """A connection to the database that has the table."""
        return self._database.connect()

    def last(self, model: str) -> Release | None:
        """The newest row of a model: what should serve now."""
        rows = self._read(select(_releases).where(_releases.c.model == model).order_by(_releases.c.epoch.desc()).limit(1))
        return rows[0] if rows else None

    def history(self, model: str) -> list[Release]:
        """All rows of a model, oldest first."""
        return self._read(select(_releases).where(_releases.c.model == model).order_by(_releases.c.epoch))

    def standing(self, model: str) -> list[Release]:
        """The rows that say what serves now and what it would go back to: from the newest that holds for good on, oldest first."""
        rows = select(_releases).where(_releases.c.model == model)
        last = rows.where(_releases.c.until.is_(None)).order_by(_releases.c.epoch.desc()).limit(1)
        with self.connect() as connection:
            settled = connection.execute(last.with_only_columns(_releases.c.epoch)).scalar() or 0
        return self._read(rows.where(_releases.c.epoch >= settled).order_by(_releases.c.epoch))

    def promoted(self, model: str) -> int:
        """The epoch at which something was promoted or rolled back to last; 0: never."""
        chosen = select(_releases.c.epoch).where(_releases.c.model == model, _releases.c.action.in_(("promote", "rollback")))
        with self.connect() as connection:
            return connection.scalars(chosen.order_by(_releases.c.epoch.desc()).limit(1)).first() or 0

    def models(self) -> list[str]:
        """Names of the models that have rows."""
        with self.connect() as connection:
            return list(connection.scalars(select(_releases.c.model).distinct().order_by(_releases.c.model)))

    def digest_of(self, model: str, version: int) -> str | None:
        """The bundle digest under which a version last appeared."""
        chosen = select(_releases.c.digest).where(_releases.c.model == model, _releases.c.version == version)
        with self.connect() as connection:
            return connection.scalars(chosen.order_by(_releases.c.epoch.desc()).limit(1)).first()

    def is_frozen(self, model: str) -> bool:
        """Whether a person froze the model: only a rollback may change what serves."""
        chosen = select(_releases.c.action).where(_releases.c.model == model, _releases.c.action.in_(("freeze", "unfreeze")))
        with self.connect() as connection:
            return connection.scalars(chosen.order_by(_releases.c.epoch.desc()).limit(1)).first() == "freeze"

    def append(
        self,
        model: str,
        *,
        expected_epoch: int,
        action: Action,
        version: int,
        digest: str,
        traffic: Mapping[int, int],
        actor: str,
        reason: str,
        until: datetime | None = None,
        evidence: Mapping[str, Any] | None = None,
    ) -> Release:
        """Add a row if the newest one is still `expected_epoch` (0: the model has none).

        Raises:
            StaleEpoch: If somebody else added a row in the meantime.
            ValueError: If the action is unknown or the traffic does not sum to 100.
        """
        _check(action, traffic)
        before = self.last(model)
        if (before.epoch if before else 0) != expected_epoch:
            raise _stale(model, action, version, expected_epoch=expected_epoch, found=before)
        now = datetime.now(UTC)
        row = Release(
            model=model,
            epoch=expected_epoch + 1,
            action=action,
            version=version,
            digest=digest,
            traffic={int(v): int(p) for v, p in sorted(traffic.items())},
            until=until,
            actor=_storable(actor)[:250],
            reason=_storable(reason)[:_MAX_REASON],
            evidence=json.loads(_canonical(_finite(evidence or {}))),
            # a clock that was set back must not reorder history
            time=max(now, before.time) if before else now,
            previous_hash=before.hash if before else _NO_HASH,
            hash="",
        )
        values = _row_values(row)
        values["hash"] = _hash_of(values)
        try:
            with self.connect() as connection, connection.begin():
                connection.execute(_releases.insert().values(values))
        except IntegrityError as exc:
            raise _stale(model, action, version, expected_epoch=expected_epoch, found=self.last(model)) from exc
        return _as_release(values)

    def verify(self, model: str) -> list[str]:
        """Check the chain of a model; each problem is one line, none means untouched."""
        problems, previous, expected = [], _NO_HASH, 1
        for row in self.history(model):
            if row.epoch != expected:
                problems.append(f"ledger of '{model}': epoch {expected} is missing, found {row.epoch}; rows were removed")
            elif row.previous_hash != previous:
                problems.append(f"ledger of '{model}': epoch {row.epoch} does not continue the row before it; rows were replaced")
            if row.hash != _hash_of(_row_values(row)):
                problems.append(f"ledger of '{model}': epoch {row.epoch} does not match its hash; the row was changed")
            previous, expected = row.hash, row.epoch + 1
        return problems

    def _read(self, chosen: Any) -> list[Release]:
        with self.connect() as connection:
            return [_as_release(row._asdict()) for row in connection.execute(chosen)]


def _create_table(connection: Connection) -> None:
    if _is_complete(connection):
        connection.rollback()  # ends the transaction that the look-up began
        return
    # two first users at once: the second waits, and then finds the table
    wait_for_others(connection, _LOCK)
    postgresql = connection.dialect.name == "postgresql"
    if not postgresql or not existing(connection, [_releases.name]):
        connection.execute(CreateTable(_releases, if_not_exists=True))
        for statement in _POSTGRESQL_APPEND_ONLY if postgresql else _SQLITE_APPEND_ONLY:
            connection.execute(text(statement))
    connection.execute(CreateIndex(_by_action, if_not_exists=True))
    connection.commit()


def _is_complete(connection: Connection) -> bool:
    wanted = {_releases.name, str(_by_action.name)}
    return existing(connection, wanted) == wanted


def _check(action: Action, traffic: Mapping[int, int]) -> None:
    if action not in get_args(Action):
        raise ValueError(f"ledger: action: got {action!r}, allowed is {', '.join(get_args(Action))}")
    if traffic and (sum(traffic.values()) != 100 or min(traffic.values()) < 0):
        raise ValueError(f"ledger: traffic: got {dict(traffic)}, allowed are percents of at least 0 that sum to 100, or nothing")


def _stale(model: str, action: str, version: int, *, expected_epoch: int, found: Release | None) -> StaleEpoch:
    now = f"epoch {found.epoch} ({found.action} of version {found.version} by {found.actor})" if found else "no row"
    return StaleEpoch(
        f"release ledger: {action} of {model} version {version} expected epoch {expected_epoch} to be the last, found {now}; "
        "this attempt is superseded and changes nothing"
    )


def _row_values(row: Release) -> dict[str, Any]:
    return {
        "model": row.model,
        "epoch": row.epoch,
        "action": row.action,
        "version": row.version,
        "digest": row.digest,
        "traffic": _canonical({str(v): p for v, p in row.traffic.items()}),
        "until": _as_text(row.until) if row.until else None,
        "actor": row.actor,
        "reason": row.reason,
        "evidence": _canonical(row.evidence),
        "time": _as_text(row.time),
        "previous_hash": row.previous_hash,
        "hash": row.hash,
    }


def _as_release(values: Mapping[str, Any]) -> Release:
    known = {name: values[name] for name in ("model", "epoch", "action", "version", "digest", "actor", "reason", "previous_hash", "hash")}
    return Release(
        **known,
        traffic={int(version): percent for version, percent in json.loads(values["traffic"]).items()},
        until=as_utc(values["until"]) if values["until"] else None,
        evidence=json.loads(values["evidence"]),
        time=as_utc(values["time"]),
    )


def _hash_of(values: Mapping[str, Any]) -> str:
    return hashlib.sha256(_canonical({name: value for name, value in values.items() if name != "hash"}).encode()).hexdigest()


def _storable(text: str) -> str:
    """The text without what a database refuses: NUL in PostgreSQL, halves of characters everywhere."""
    return text.replace("\0", " ").encode("utf-8", "replace").decode("utf-8")


def _finite(value: Any) -> Any:
    """The value with NaN and infinity as text, which JSON has no number for."""
    if isinstance(value, Mapping):
        return {str(name): _finite(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def _canonical(value: Any) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False, default=str)


def _as_text(moment: datetime) -> str:
    return as_utc(moment).isoformat(timespec="microseconds")
