"""The catalog: what is in the lake and the bundles, in tables beside the release ledger, so that a page over many models is fast.

It is a cache: `windvane reindex` fills it again. It holds no row of the ledger, and nothing decides by it.
"""

import json
from collections.abc import Callable, Collection, Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from sqlalchemy import Connection, Row, Table, func, select, tuple_, update

from windvane.catalog_tables import as_json, as_text, batches, create_tables, lock, overviews, plain, rollouts, upsert, versions, windows
from windvane.connect_database import Database
from windvane.summarize_decision import key_metric, summarize_decision
from windvane.windows import Window

if TYPE_CHECKING:
    from windvane.monitor_model import MonitorResult

_SPARKLINE = 30
_SHORT = 500
_SHOWN = ("decision", "key", "start", "end", "decided_at", "version", "harmed", "drifted_count")
_MOST_PAIRS = 400
_BUSY_SECONDS = 20.0


class Catalog:
    """Reads and writes the catalog at an SQLAlchemy URL (SQLite or PostgreSQL). Whatever is written twice has the effect of once.

    Args:
        url: The same as the ledger's.
        patience_seconds: For how long a write waits for others, in an SQLite file.

    Raises:
        StorageError: From every method, if an SQLite file cannot be read or written.
        ServiceUnavailable: From every method, if another database does not answer.
    """

    def __init__(self, url: str, *, patience_seconds: float = _BUSY_SECONDS) -> None:
        self._database = Database(url, name="catalog", prepare=create_tables, patience_seconds=patience_seconds)

    def close(self) -> None:
        """Let go of the database connections."""
        self._database.close()

    def record_batch(
        self,
        model: str,
        *,
        window: Window,
        rows: int,
        quarantined: int,
        refused: bool,
        reasons: Sequence[str],
        report: str | None,
        version: int | None,
        run: str | None,
    ) -> None:
        """Remember the newest batch of a window.

        Args:
            rows: Committed ones; none of a refused batch.
            reasons: What is wrong with the batch.
            report: The validation's page, a path within the reports directory.
            version: Version of the table `raw`.
            run: `<dag_id>/<run_id>`.
        """
        found = {"rows": rows, "quarantined": quarantined, "refused": refused, "reasons": list(reasons)}
        made = {"window": window, **found, "report": report, "version": version, "run": run, "at": datetime.now(UTC)}
        with self._database.connect() as connection, connection.begin():
            upsert(connection, batches, _batch_row(model, made))

    def record_window(self, model: str, result: "MonitorResult") -> None:
        """Remember the newest decision about a window."""
        report = f"{model}/{result.window.key}/{result.report_path.name}" if result.report_path else None
        evidence = result.evidence.as_json()
        told = summarize_decision(result.window, decision=result.decision, reason=result.reason, alert=result.alert, evidence=evidence)
        with self._database.connect() as connection, connection.begin():
            _put_windows(connection, model, [told | {"report": report, "decided_at": datetime.now(UTC)}])

    def record_version(
        self,
        model: str,
        *,
        version: int,
        digest: str,
        manifest: Mapping[str, Any],
        run_id: str | None,
        experiment_id: str | None,
        seconds: float | None,
        size_bytes: int | None,
        run: str | None,
        trained_at: datetime | None = None,
    ) -> None:
        """Remember a version that was trained; of the same bundle, what is known already of its training stays.

        Args:
            digest: Of its bundle; another one than before replaces the version with its verdict.
            manifest: The bundle's `bundle.json`.
            run_id: Of the training in MLflow.
            experiment_id: The same run's experiment in MLflow.
            seconds: How long the training took.
            run: `<dag_id>/<run_id>` of the training.
            trained_at: Default now.
        """
        metrics = {str(name): value for name, value in (manifest.get("metrics") or {}).items()}
        metric = _gate_metric(manifest, metrics)
        once = {"run_id": run_id, "experiment_id": experiment_id, "seconds": seconds, "size_bytes": size_bytes, "run": run}
        detail = _of_manifest(manifest) | {"metrics": metrics}

        def merged(known: Row[Any]) -> dict[str, Any]:
            same = known.digest in (None, digest)
            kept = json.loads(known.detail) if known.digest == digest else {}
            first = {name: value if kept.get(name) is None else kept[name] for name, value in once.items()}
            return {
                "digest": digest,
                "trained_at": (known.trained_at if kept else None) or as_text(trained_at or datetime.now(UTC)),
                "metric": metric,
                "value": plain(metrics.get(metric)) if metric else None,
                "verdict": known.verdict if same else None,
                "detail": as_json(detail | first),
            }

        self._change_version(model, version, merged)

    def record_verdict(self, model: str, *, version: int, passed: bool, reason: str) -> None:
        """Remember what the gates said of a version.

        Args:
            reason: What refused it, or what it passed.
        """
        self._change_version(model, version, lambda known: {"verdict": as_json({"passed": passed, "reason": reason})})

    def record_rollout(self, model: str, progress: Mapping[str, Any]) -> None:
        """Replace what is known of the rollout that is under way."""
        with self._database.connect() as connection, connection.begin():
            upsert(connection, rollouts, {"model": model, "detail": as_json(progress)})

    def fill_windows(self, model: str, summaries: Sequence[Mapping[str, Any]], *, before: datetime) -> int:
        """Bring windows in line with what the lake says; what was recorded since then stays.

        Args:
            summaries: What `summarize_decision` returns, with `report` and `decided_at`; where the decision is the known one, what it
                does not tell stays as it is known.
            before: When the lake was read.

        Returns:
            How many were not known or differed.
        """
        with self._database.connect() as connection, connection.begin():
            lock(connection, overviews, model=model)
            known = _known(connection, windows, model, [str(told["key"]) for told in summaries])
            made = [_filled_window(told, known.get(told["key"]), before) for told in map(plain, summaries)]
            news = [told for told in made if told is not None]
            if news:
                _put_windows(connection, model, news)
        return len(news)

    def fill_batches(self, model: str, found: Sequence[Mapping[str, Any]], *, before: datetime) -> int:
        """Bring batches in line with what the lake says; what was recorded since then stays.

        Args:
            found: The arguments of `record_batch` with `at`.
            before: When the lake was read.

        Returns:
            How many were not known or differed.
        """
        rows = [_batch_row(model, made) for made in found]
        with self._database.connect() as connection, connection.begin():
            known = _known(connection, batches, model, [row["key"] for row in rows])
            made = [_filled_batch(row, known.get(row["key"]), before) for row in rows]
            news = [row for row in made if row is not None]
            upsert(connection, batches, news)
        return len(news)

    def overviews(self, *, only: str | None = None) -> dict[str, dict[str, Any]]:
        """Of each model with a monitored window: `newest`, `metric` and `points`; and the start of the first window that a version served
        in, `served_since`, and the end of the newest one whose outcomes are known, `realised_until`, or None.
        """
        chosen = select(overviews.c.model, overviews.c.detail)
        chosen = chosen if only is None else chosen.where(overviews.c.model == only)
        with self._database.connect() as connection:
            return {row.model: told for row in connection.execute(chosen).all() if (told := json.loads(row.detail))}

    def newest_versions(self, *, only: str | None = None) -> dict[str, dict[str, Any]]:
        """Of each model with a version, the newest: `version`, `trained_at` and its verdict."""
        newest = select(versions.c.model, func.max(versions.c.version).label("version")).group_by(versions.c.model)
        heads = (newest if only is None else newest.where(versions.c.model == only)).subquery()
        chosen = select(versions.c.model, versions.c.version, versions.c.trained_at, versions.c.verdict)
        chosen = chosen.join(heads, (versions.c.model == heads.c.model) & (versions.c.version == heads.c.version))
        with self._database.connect() as connection:
            return {
                row.model: {"version": row.version, "trained_at": row.trained_at} | _verdict(row.verdict)
                for row in connection.execute(chosen)
            }

    def holdout_metrics(self, pairs: Collection[tuple[str, int]]) -> dict[str, dict[str, Any]]:
        """Of each (model, version), by model: the gates' metric on the holdout; nothing where that is not known."""
        wanted, found = list(pairs), {}
        with self._database.connect() as connection:
            for at in range(0, len(wanted), _MOST_PAIRS):
                chosen = select(versions.c.model, versions.c.metric, versions.c.value, versions.c.trained_at)
                chosen = chosen.where(tuple_(versions.c.model, versions.c.version).in_(wanted[at : at + _MOST_PAIRS]))
                for row in connection.execute(chosen.where(versions.c.value.is_not(None))):
                    found[row.model] = {"name": row.metric, "value": row.value, "kind": "holdout", "at": row.trained_at}
        return found

    def windows(self, model: str, *, most: int) -> list[dict[str, Any]]:
        """The newest windows, oldest first."""
        return self._newest(windows, model, most)

    def batches(self, model: str, *, most: int) -> list[dict[str, Any]]:
        """The newest batches, oldest first."""
        return self._newest(batches, model, most)

    def versions(self, model: str) -> list[dict[str, Any]]:
        """All versions, newest first."""
        chosen = select(versions).where(versions.c.model == model).order_by(versions.c.version.desc())
        with self._database.connect() as connection:
            rows = connection.execute(chosen).all()
        columns = ("version", "digest", "trained_at", "metric", "value")
        return [{name: row._mapping[name] for name in columns} | json.loads(row.detail) | _verdict(row.verdict) for row in rows]

    def rollout(self, model: str) -> dict[str, Any] | None:
        """What was recorded last of a rollout; it may be over."""
        with self._database.connect() as connection:
            found = connection.scalars(select(rollouts.c.detail).where(rollouts.c.model == model)).first()
        return None if found is None else dict(json.loads(found))

    def rollouts(self) -> dict[str, dict[str, Any]]:
        """What was recorded last of a rollout, by model; it may be over."""
        with self._database.connect() as connection:
            return {row.model: json.loads(row.detail) for row in connection.execute(select(rollouts)).all()}

    def _newest(self, table: Table, model: str, most: int) -> list[dict[str, Any]]:
        chosen = select(table.c.detail).where(table.c.model == model).order_by(table.c.end_time.desc(), table.c.key.desc()).limit(most)
        with self._database.connect() as connection:
            return [json.loads(detail) for detail in connection.scalars(chosen)][::-1]

    def _change_version(self, model: str, version: int, change: Callable[[Row[Any]], Mapping[str, Any]]) -> None:
        """Read and write a version as one step, whoever else does the same."""
        mine = (versions.c.model == model) & (versions.c.version == version)
        with self._database.connect() as connection, connection.begin():
            lock(connection, versions, model=model, version=version)
            known = connection.execute(select(versions).where(mine)).one()
            connection.execute(update(versions).where(mine).values(**change(known)))


def _put_windows(connection: Connection, model: str, summaries: Sequence[Mapping[str, Any]]) -> None:
    """Replace windows, and with them what the overview shows of the model; they must not come apart."""
    lock(connection, overviews, model=model)
    known = json.loads(connection.scalars(select(overviews.c.detail).where(overviews.c.model == model)).one())
    news = [plain(told) for told in summaries]
    upsert(connection, windows, [_window_row(model, told) for told in news])
    served = [told["start"] for told in news if told["version"] is not None]
    if known.get("served_since"):
        served.append(known["served_since"])
    mine = windows.c.model == model
    by_time = (windows.c.end_time.desc(), windows.c.decided_at.desc().nulls_last(), windows.c.key.desc())
    newest = connection.scalars(select(windows.c.detail).where(mine).order_by(*by_time).limit(1)).one()
    measured = mine & windows.c.value.is_not(None)
    metric = connection.scalars(select(windows.c.metric).where(measured).order_by(*by_time).limit(1)).first()
    shown = select(windows.c.end_time, windows.c.value, windows.c.kind).where(measured, windows.c.metric == metric)
    points = [list(point) for point in connection.execute(shown.order_by(*by_time).limit(_SPARKLINE))][::-1]
    realised = select(windows.c.end_time).where(mine, windows.c.kind == "realised")
    told = json.loads(newest)
    detail = {
        "newest": {name: told[name] for name in _SHOWN} | {name: _cut(told[name]) for name in ("reason", "alert")},
        "metric": metric,
        "points": points,
        "served_since": min(served, default=None),
        "realised_until": connection.scalars(realised.order_by(*by_time).limit(1)).first(),
    }
    upsert(connection, overviews, {"model": model, "detail": as_json(detail)})


def _cut(text: str) -> str:
    return text if len(text) <= _SHORT else text[: _SHORT - 1] + "…"


def _window_row(model: str, told: Mapping[str, Any]) -> dict[str, Any]:
    value, kind = key_metric(told)
    columns = {"end_time": told["end"], "decided_at": told["decided_at"], "metric": told["metric"], "value": value, "kind": kind}
    return {"model": model, "key": told["key"], **columns, "detail": as_json(told)}


def _batch_row(model: str, made: Mapping[str, Any]) -> dict[str, Any]:
    window = made["window"]
    detail = {"key": window.key, "start": window.start, "end": window.end} | {k: v for k, v in made.items() if k != "window"}
    at = as_text(made["at"]) if made["at"] else None
    return {"model": model, "key": window.key, "end_time": as_text(window.end), "at": at, "detail": as_json(detail)}


def _known(connection: Connection, table: Table, model: str, keys: Sequence[str]) -> dict[str, dict[str, Any]]:
    chosen = select(table.c.key, table.c.detail).where(table.c.model == model, table.c.key.in_(keys))
    return {row.key: json.loads(row.detail) for row in connection.execute(chosen)}


def _filled_window(told: Mapping[str, Any], known: Mapping[str, Any] | None, before: datetime) -> dict[str, Any] | None:
    """What a window's row should be; None where it is that already, or was recorded later."""
    if known is None:
        return dict(told)
    if known["decided_at"] and known["decided_at"] >= as_text(before):
        return None
    made = dict(told)
    if all(known[name] == told[name] for name in ("decision", "reason")):
        made |= {name: known[name] or told[name] for name in ("alert", "decided_at", "report")}
    return made if made != known else None


def _filled_batch(row: Mapping[str, Any], known: Mapping[str, Any] | None, before: datetime) -> dict[str, Any] | None:
    if known is None:
        return dict(row)
    if known["at"] and known["at"] >= as_text(before):
        return None
    told = json.loads(row["detail"])
    made = dict(told)
    if all(known[name] == told[name] for name in ("rows", "quarantined", "refused")):
        made |= {name: known[name] or told[name] for name in ("reasons", "report", "run", "at")}
    return {**row, "at": made["at"], "detail": as_json(made)} if made != known else None


def _of_manifest(manifest: Mapping[str, Any]) -> dict[str, Any]:
    snapshot, rows = manifest.get("snapshot") or {}, manifest.get("rows") or {}
    found: dict[str, Any] = {"recalibrated_from": manifest.get("recalibrated_from")}
    for part in ("train", "holdout"):
        window = Window.from_extra(snapshot.get(part) or {})
        found |= {f"{part}_start": window.start if window else None, f"{part}_end": window.end if window else None}
    return found | {"training_rows": rows.get("training"), "holdout_rows": rows.get("holdout")}


def _gate_metric(manifest: Mapping[str, Any], metrics: Mapping[str, Any]) -> str | None:
    """The scorer that the gates used: as configured, or the task's usual one."""
    from windvane.evaluate_model import METRICS

    configured = ((manifest.get("config") or {}).get("gates") or {}).get("metric")
    usual = METRICS.get(str(manifest.get("task")), ())
    # bundles of earlier releases do not hold their config, but a metric that is not usual was asked for
    asked = [name for name in metrics if name not in usual and name != "base_rate"]
    return configured or next(iter([*asked, *usual]), None)


def _verdict(text: str | None) -> dict[str, Any]:
    found = json.loads(text) if text else {}
    return {"passed": found.get("passed"), "verdict": found.get("reason")}
