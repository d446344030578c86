"""The tables of the catalog, and how a value gets into them: bounded, finite and free of what a database or JSON refuses."""

import json
import math
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import Column, Connection, Float, Index, Integer, MetaData, String, Table, Text
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.schema import CreateIndex, CreateTable

from windvane.connect_database import existing, wait_for_others
from windvane.windows import as_utc

_LOCK = 7702914
_MOST_TEXT = 2000
_MOST_ITEMS = 1000
_metadata = MetaData()

# what an overview reads is in columns or in `overviews`; what one model's page shows besides is JSON in `detail`
overviews = Table(
    "catalog_overviews",
    _metadata,
    Column("model", String(63), primary_key=True),
    Column("detail", Text, nullable=False),
)
windows = Table(
    "catalog_windows",
    _metadata,
    Column("model", String(63), primary_key=True),
    Column("key", String(40), primary_key=True),
    Column("end_time", String(40), nullable=False),
    Column("decided_at", String(40)),
    Column("metric", String(100)),
    Column("value", Float),
    Column("kind", String(10)),
    Column("detail", Text, nullable=False),
    Index("catalog_windows_by_end", "model", "end_time"),
)
batches = Table(
    "catalog_batches",
    _metadata,
    Column("model", String(63), primary_key=True),
    Column("key", String(40), primary_key=True),
    Column("end_time", String(40), nullable=False),
    Column("at", String(40)),
    Column("detail", Text, nullable=False),
    Index("catalog_batches_by_end", "model", "end_time"),
)
versions = Table(
    "catalog_versions",
    _metadata,
    Column("model", String(63), primary_key=True),
    Column("version", Integer, primary_key=True, autoincrement=False),
    Column("digest", String(64)),
    Column("trained_at", String(40)),
    Column("metric", String(100)),
    Column("value", Float),
    Column("verdict", Text),
    Column("detail", Text, nullable=False),
)
rollouts = Table(
    "catalog_rollouts",
    _metadata,
    Column("model", String(63), primary_key=True),
    Column("detail", Text, nullable=False),
)


def create_tables(connection: Connection) -> None:
    """Make what is missing, also when several processes find it missing at once."""
    if existing(connection, _metadata.tables) == set(_metadata.tables):
        connection.rollback()  # ends the transaction that the look-up began
        return
    wait_for_others(connection, _LOCK)
    for table in _metadata.sorted_tables:
        connection.execute(CreateTable(table, if_not_exists=True))
        for index in table.indexes:
            connection.execute(CreateIndex(index, if_not_exists=True))
    connection.commit()


def upsert(connection: Connection, table: Table, values: Mapping[str, Any] | Sequence[Mapping[str, Any]]) -> None:
    """Insert rows, or replace those with the same primary key."""
    rows = [values] if isinstance(values, Mapping) else list(values)
    if not rows:
        return
    make = postgresql.insert if connection.dialect.name == "postgresql" else sqlite.insert
    statement: Any = make(table)
    changed = {name: statement.excluded[name] for name in rows[0] if not table.c[name].primary_key}
    connection.execute(statement.on_conflict_do_update(index_elements=list(table.primary_key), set_=changed), rows)


def lock(connection: Connection, table: Table, **key: Any) -> None:
    """Keep other writers of a row waiting until the transaction ends; a row that is not there is made, empty."""
    make = postgresql.insert if connection.dialect.name == "postgresql" else sqlite.insert
    statement: Any = make(table).values(**key, detail="{}")
    name = next(iter(key))
    changed = {name: statement.excluded[name]}
    connection.execute(statement.on_conflict_do_update(index_elements=list(table.primary_key), set_=changed))


def plain(value: Any) -> Any:
    """The value for JSON: what is not finite becomes None, text loses what UTF-8 cannot hold, and the long is cut off."""
    if isinstance(value, Mapping):
        return {str(plain(str(name))): plain(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value[:_MOST_ITEMS]]
    if isinstance(value, str):
        text = value if len(value) <= _MOST_TEXT else value[: _MOST_TEXT - 1] + "…"
        return text if text.isascii() else text.encode("utf-8", "replace").decode("utf-8")
    if isinstance(value, datetime):
        return as_text(value)
    if isinstance(value, bool) or value is None:
        return value
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    return plain(str(value))


def as_json(value: Any) -> str:
    """The value as JSON text."""
    return json.dumps(plain(value), separators=(",", ":"), allow_nan=False)


def as_text(moment: datetime) -> str:
    """A moment as the tables keep it: as text that sorts by time."""
    return as_utc(moment).isoformat(timespec="microseconds")
