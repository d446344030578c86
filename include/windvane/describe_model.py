"""Tells everything of one model: its releases, versions, windows, batches, last challenger, and the rollout that is under way."""

import json
import re
from collections.abc import Mapping, Sequence
from contextlib import closing
from datetime import datetime
from typing import Any
from urllib.parse import quote

from windvane.catalog import Catalog
from windvane.catalog_tables import plain
from windvane.config import MODEL_PATTERN
from windvane.errors import StorageError
from windvane.find_served import find_served
from windvane.ledger import Ledger, Release, settled_row
from windvane.settings import Settings

_MOST_RELEASES = 500
_MOST_WINDOWS = 1000
_KEY = re.compile(r"\d{8}T\d{6}Z-\d{8}T\d{6}Z")
_RUN = re.compile(r"(?P<dag_id>[\w.-]+__[\w.-]+)/(?P<run_id>\S+)(?: by (?P<user>.+))?")
_PERSON = re.compile(r"(?:airflow|cli)/(?P<user>.+)")


def describe_model(settings: Settings, model: str) -> dict[str, Any]:
    """What ledger and catalog know of a model, as JSON values; lists are empty where nothing is known.

    Returns:
        `releases` and `versions`, newest first; `windows` and `batches`, oldest first; `challenger` and `rollout`, or None.

    Raises:
        StorageError: If an SQLite file or a bundle cannot be read.
        ServiceUnavailable: If another database does not answer.
    """
    from windvane.describe_challenger import describe_challenger

    with closing(Ledger(settings.database)) as ledger, closing(Catalog(settings.database)) as catalog:
        history = ledger.history(model)
        found = {
            "releases": [describe_release(row) for row in history[: -_MOST_RELEASES - 1 : -1]],
            "versions": _versions(settings, model, catalog.versions(model), history),
            "windows": [_with_report(told) for told in catalog.windows(model, most=_MOST_WINDOWS)],
            "batches": [_with_report(told) | {"run": run_of(told["run"])[0]} for told in catalog.batches(model, most=_MOST_WINDOWS)],
            "rollout": _rollout(history, catalog.rollout(model)),
        }
    return found | {"challenger": describe_challenger(settings, model)}


def describe_window(settings: Settings, model: str, key: str) -> dict[str, Any] | None:
    """The stored decision about a window with all of its evidence; None when there is none.

    Raises:
        StorageError: If it cannot be read.
    """
    # both become parts of a path
    if not re.fullmatch(MODEL_PATTERN, model) or not _KEY.fullmatch(key):
        return None
    place = settings.reports / model / key / "decision.json"
    try:
        told = json.loads(place.read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as exc:
        raise StorageError(f"{place}: the decision cannot be read: {exc!s:.200}; run {model}__monitor for the window again") from exc
    if not isinstance(told, dict):
        raise StorageError(f"{place}: the decision cannot be read: it is no object; run {model}__monitor for the window again")
    name = re.split(r"[\\/]", str(told.pop("report_path", None) or ""))[-1]
    found: dict[str, Any] = plain(told)
    return found | {"report_url": report_url(f"{model}/{key}/{name}" if name else None)}


def describe_served_at(settings: Settings, model: str, moment: datetime) -> dict[str, Any]:
    """What served at a moment on the wall, since when, and the newest row of the ledger at that time; nothing where there was none."""
    with closing(Ledger(settings.database)) as ledger:
        found = find_served(ledger, model, moment) if ledger.last(model) else None
    row = found.release if found else None
    told: dict[str, Any] = plain(
        {
            "at": moment,
            "shares": [vars(share) for share in found.shares] if found else [],
            "since": found.since if found else None,
            "row": {name: getattr(row, name) for name in ("epoch", "action", "version", "actor", "reason")} | {"at": row.time}
            if row
            else None,
        }
    )
    return told


def describe_release(row: Release) -> dict[str, Any]:
    """A row of the ledger for people: with the run and the user behind it, the approval, and the checks that it rests on."""
    run, user = run_of(row.actor)
    approval = row.evidence.get("approval")
    approval = approval if isinstance(approval, Mapping) else None
    told: dict[str, Any] = plain(
        {
            "epoch": row.epoch,
            "action": row.action,
            "version": row.version,
            "digest": row.digest,
            "traffic": {str(version): percent for version, percent in row.traffic.items()},
            "at": row.time,
            "until": row.until,
            "actor": row.actor,
            "user": user or (approval.get("by") if approval else None),
            "reason": row.reason,
            "run": run,
            "approval": {name: approval.get(name) for name in ("by", "at", "reason")} if approval else None,
            "checks": _checks(row.evidence),
        }
    )
    return told


def run_of(actor: str | None) -> tuple[dict[str, str] | None, str | None]:
    """The run and the user that an actor names: `<dag_id>/<run_id>`, perhaps with ` by <user>`, or `airflow/<user>`, `cli/<user>`."""
    if run := _RUN.fullmatch(actor or ""):
        return {"dag_id": run["dag_id"], "run_id": run["run_id"]}, run["user"]
    person = _PERSON.fullmatch(actor or "")
    return None, person["user"] if person else None


def report_url(report: str | None) -> str | None:
    """Where the web server shows a file of the reports directory."""
    return f"/windvane/reports/{quote(report)}" if report else None


def _with_report(told: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in told.items() if name != "report"} | {"report_url": report_url(told["report"])}


def _checks(evidence: Mapping[str, Any]) -> list[dict[str, Any]]:
    """What the judge of a rollout said: of the step before, or of the rehearsal."""
    step = evidence.get("step")
    for found in (evidence.get("judgement"), step.get("judgement") if isinstance(step, Mapping) else None):
        checks = found.get("checks") if isinstance(found, Mapping) else None
        if isinstance(checks, list):
            return [{name: check.get(name) for name in ("name", "verdict", "reason")} for check in checks if isinstance(check, Mapping)]
    return []


def _versions(settings: Settings, model: str, known: Sequence[Mapping[str, Any]], history: Sequence[Release]) -> list[dict[str, Any]]:
    """The versions of the catalog, and those that only the ledger knows, newest first."""
    promoted = {row.version: row.time for row in history if row.action == "promote"}
    served = {row.version for row in history if row.action in ("promote", "rollback")}
    digests = {row.version: row.digest for row in history}
    missing = [
        {"version": version, "digest": digest} for version, digest in digests.items() if version not in {v["version"] for v in known}
    ]
    return [
        _version(settings, model, told) | plain({"promoted_at": promoted.get(told["version"]), "served": told["version"] in served})
        for told in sorted([*known, *missing], key=lambda told: -told["version"])
    ]


_VERSION = (
    *("version", "digest", "trained_at", "train_start", "train_end", "holdout_start", "holdout_end", "metric", "value"),
    *("training_rows", "holdout_rows", "seconds", "size_bytes", "passed", "verdict", "recalibrated_from"),
)


def _version(settings: Settings, model: str, told: Mapping[str, Any]) -> dict[str, Any]:
    place = f"models/{model}/versions/{told['version']}"
    if told.get("run_id") and told.get("experiment_id"):
        place = f"experiments/{quote(str(told['experiment_id']), safe='')}/runs/{quote(str(told['run_id']), safe='')}"
    return {name: told.get(name) for name in _VERSION} | {
        "metrics": told.get("metrics") or {},
        "run": run_of(told.get("run"))[0],
        "mlflow_url": f"{settings.mlflow_link}/#/{place}",
    }


def _rollout(history: Sequence[Release], progress: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """The rollout that is under way: as it was recorded last, or, where nothing was recorded of its step yet, as the ledger says."""
    last = history[-1] if history else None
    if last is None or last.until is None:
        return None
    if progress and (progress.get("epoch"), progress.get("version")) == (last.epoch, last.version):
        return dict(progress)
    settled = settled_row(history)
    told: dict[str, Any] = plain(
        {
            "epoch": last.epoch,
            "version": last.version,
            "champion": settled.serving if settled else None,
            "percent": last.traffic.get(last.version, 0),
            "step": None,
            "steps": [],
            "began": last.time,
            "rollout_began": None,
            "elapsed_seconds": None,
            "bake_seconds": None,
            "limit_seconds": None,
            "verdict": None,
            "reason": "nothing was measured of this step yet",
            "updated_at": None,
            "figures": {str(version): _no_figures(percent) for version, percent in last.traffic.items()},
        }
    )
    return told


def _no_figures(percent: int) -> dict[str, Any]:
    return {"percent": percent, **dict.fromkeys(("requests", "failed", "refused", "error_rate", "p50_ms", "p99_ms"))}
