"""Tells of every model at once how it is: what serves, its metric, the newest decision, and the state that follows from them.

A model may be in several states; `ORDER` says which one is shown. What is *degraded*: the newest ledger row took a version back
or refused one; harm is confirmed; or the newest decision asks for something (`fix_data`, `retrain`, `recalibrate`) and nothing was promoted
since. Whoever knows more (failed runs, open approvals, configs with mistakes) adds it with `state_of`. One exception: a decision
to train is not what is shown once its challenger waits for an approval or rolls out; that is what comes of it.
"""

from collections.abc import Mapping, Sequence
from contextlib import closing
from datetime import datetime
from typing import Any

from windvane.catalog import Catalog
from windvane.ledger import Ledger
from windvane.record_answer import REJECTED
from windvane.settings import Settings
from windvane.survey_releases import Standing, survey_releases
from windvane.windows import as_utc

ORDER = ("config_error", "degraded", "waiting_for_approval", "rolling_out", "not_serving", "never_trained", "serving")
"""All states, what needs a person first."""

_TRAININGS = {"retrain": "a training", "recalibrate": "a new calibration"}


def state_of(
    causes: Sequence[Mapping[str, Any]],
    *,
    problems: Sequence[str] = (),
    failed: Sequence[Mapping[str, Any]] = (),
    approval: Mapping[str, Any] | None = None,
) -> tuple[str, str]:
    """The state that is shown of a model, and the sentence that says why.

    Args:
        causes: What `describe_models` found: `state`, `reason`, and `training` where it is a decision to train.
        problems: Lines of the config's mistakes.
        failed: Runs that were the newest of their kind and failed: `dag_id`, `run_id`, `at`.
        approval: The question that waits for an answer: `subject`.
    """
    found = list(causes)
    if problems:
        found.append({"state": "config_error", "reason": problems[0]})
    if failed:
        run = max(failed, key=lambda run: str(run.get("at") or ""))
        found.append({"state": "degraded", "reason": f"the newest run of {run['dag_id']} failed: {run['run_id']}"})
    if approval:
        found.append({"state": "waiting_for_approval", "reason": str(approval.get("subject") or "a challenger waits for approval")})
    if any(cause["state"] in ("waiting_for_approval", "rolling_out") for cause in found):
        found = [cause for cause in found if not cause.get("training")]
    # of two equals the first counts
    first = min(found, key=lambda cause: ORDER.index(cause["state"]))
    return first["state"], first["reason"]


def describe_models(settings: Settings, *, now: datetime, only: str | None = None) -> dict[str, dict[str, Any]]:
    """What ledger and catalog know of each model; the number of queries does not grow with the models.

    Args:
        now: The clock on the wall.
        only: Look at this model alone.

    Returns:
        By model: `causes` (for `state_of`), `frozen`, `version`, `since`, `traffic`, `rollout_until`,
        `metric`, `sparkline`, `decision`, `last_release`. A model of which nothing is known is not in it: see `describe_nothing`.

    Raises:
        StorageError: If an SQLite file cannot be read.
        ServiceUnavailable: If another database does not answer.
    """
    with closing(Ledger(settings.database)) as ledger, closing(Catalog(settings.database)) as catalog:
        standings = survey_releases(ledger, only=only)
        watched = catalog.overviews(only=only)
        trained = catalog.newest_versions(only=only)
        serving = {model: standing.serving for model, standing in standings.items()}
        unmeasured = {(m, v) for m, v in serving.items() if v is not None and not _is_measured(watched.get(m), v)}
        holdouts = catalog.holdout_metrics(unmeasured)
    return {
        model: _row(model, standings.get(model), watched.get(model), trained.get(model), holdouts.get(model), now)
        for model in sorted({*standings, *watched, *trained})
    }


def describe_nothing(model: str, *, now: datetime) -> dict[str, Any]:
    """The row of a model of which neither ledger nor catalog know anything."""
    return _row(model, None, None, None, None, now)


def _row(
    model: str,
    standing: Standing | None,
    watched: Mapping[str, Any] | None,
    trained: Mapping[str, Any] | None,
    holdout: Mapping[str, Any] | None,
    now: datetime,
) -> dict[str, Any]:
    newest, points = (watched["newest"], watched["points"]) if watched else (None, [])
    metric: Mapping[str, Any] | None = holdout
    if watched and points and (holdout is None or _is_measured(watched, standing.serving if standing else None)):
        end, value, kind = points[-1]
        metric = {"name": watched["metric"], "value": value, "kind": kind, "at": end}
    last = standing.last if standing else None
    return {
        "causes": _causes(model, standing, newest, trained, now),
        "frozen": _frozen(standing.frozen) if standing and standing.frozen else None,
        "version": standing.serving if standing else None,
        "since": standing.since if standing else None,
        "traffic": dict(last["traffic"]) if last else {},
        "rollout_until": last["until"] if last else None,
        "metric": metric,
        "sparkline": points,
        "decision": _decision(newest) if newest else None,
        "last_release": _release(last) if last else None,
    }


def _is_measured(watched: Mapping[str, Any] | None, version: int | None) -> bool:
    """Whether the newest window says how a version does; after a rollback it is about the one before."""
    return bool(watched and watched["points"] and watched["newest"]["version"] in (None, version))


def _causes(
    model: str, standing: Standing | None, newest: Mapping[str, Any] | None, trained: Mapping[str, Any] | None, now: datetime
) -> list[dict[str, Any]]:
    """Everything that is so of a model; at least one."""
    found: list[dict[str, Any]] = []
    last, version = (standing.last, standing.serving) if standing else (None, None)
    # a person's no was an answer, not a failure
    if last and last["action"] in ("revert", "refuse") and not last["reason"].startswith(REJECTED):
        what = "was taken back" if last["action"] == "revert" else "was refused"
        found.append({"state": "degraded", "reason": f"version {last['version']} {what}: {last['reason']}"})
    if newest and _is_open(newest, standing):
        found += _asked(model, newest, trained)
    if last and last["until"]:
        found.append({"state": "rolling_out", "reason": _rolls_out(last, now)})
    if version is None:
        found.append(_idle(model, standing, trained))
    else:
        known = newest is not None and newest["version"] == version
        told = f"{newest['decision']}: {newest['reason']}" if newest and known else "no window was monitored with it yet"
        found.append({"state": "serving", "reason": f"version {version} serves; {told}"})
    return found


def _is_open(newest: Mapping[str, Any], standing: Standing | None) -> bool:
    """Whether a decision is about what serves now, not about what served before a promotion."""
    promoted = standing.promoted if standing else None
    if newest["decided_at"] and promoted and newest["decided_at"] <= promoted:
        return False
    return newest["decision"] == "fix_data" or newest["version"] in (None, standing.serving if standing else None)


def _asked(model: str, newest: Mapping[str, Any], trained: Mapping[str, Any] | None) -> list[dict[str, Any]]:
    """What a decision asks of people or of the platform."""
    decision, reason = newest["decision"], newest["reason"]
    if decision == "fix_data":
        return [{"state": "degraded", "reason": f"fix_data: {reason}; mend the source and ingest the window again, or release it"}]
    if decision in _TRAININGS:
        return [{"state": "degraded", "reason": f"{decision}: {reason}; {_next(model, newest, trained)}", "training": True}]
    if newest["harmed"]:
        return [{"state": "degraded", "reason": f"{decision}: {reason}"}]
    return []


def _next(model: str, newest: Mapping[str, Any], trained: Mapping[str, Any] | None) -> str:
    """What follows on a decision to train."""
    what = _TRAININGS[newest["decision"]]
    if trained is None or not (trained["trained_at"] and newest["decided_at"] and trained["trained_at"] > newest["decided_at"]):
        return f"{what} by {model}__train comes next"
    version = trained["version"]
    if trained["passed"] is None:
        return f"version {version} was made since and is not judged yet"
    if trained["passed"]:
        return f"version {version} was made since and passed its gates: {model}__deploy comes next"
    return f"version {version} was made since, and its gates refused it: {trained['verdict']}"


def _rolls_out(last: Mapping[str, Any], now: datetime) -> str:
    until = as_utc(last["until"])
    if until <= now:
        return f"version {last['version']} was not promoted until {until:%Y-%m-%d %H:%M:%S} UTC; the reconciler takes it back"
    share = last["traffic"].get(str(last["version"]), 0)
    return f"version {last['version']} has {share} % of the traffic until {until:%Y-%m-%d %H:%M:%S} UTC at the latest"


def _idle(model: str, standing: Standing | None, trained: Mapping[str, Any] | None) -> dict[str, Any]:
    """Why nothing serves."""
    if trained is None and standing is None:
        return {"state": "never_trained", "reason": f"nothing was trained yet: ingest data, then trigger {model}__train"}
    if trained is None:
        return {"state": "not_serving", "reason": f"nothing serves: {standing.last['reason'] if standing else ''}"}
    version = trained["version"]
    if trained["passed"] is None:
        return {"state": "not_serving", "reason": f"nothing serves; version {version} was trained and is not judged yet"}
    told = f"passed its gates and is not deployed: trigger {model}__deploy" if trained["passed"] else f"was refused: {trained['verdict']}"
    return {"state": "not_serving", "reason": f"nothing serves; version {version} {told}"}


def _decision(newest: Mapping[str, Any]) -> dict[str, Any]:
    window = {"window_key": newest["key"], "window_start": newest["start"], "window_end": newest["end"]}
    return {name: newest[name] for name in ("decision", "reason", "alert", "decided_at")} | window


def _release(last: Mapping[str, Any]) -> dict[str, Any]:
    return {name: last[name] for name in ("epoch", "action", "version", "actor", "reason")} | {"at": last["time"]}


def _frozen(row: Mapping[str, Any]) -> dict[str, Any]:
    return {"since": row["time"], "by": row["actor"], "reason": row["reason"]}
