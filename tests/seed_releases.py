"""Writes stories into the release ledger and the catalog."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Pool, create_engine, event
from tell_stories import HOSTILE, Story, Training, Week

from windvane import ledger as ledgers
from windvane.catalog import Catalog
from windvane.settings import Settings
from windvane.summarize_decision import summarize_decision
from windvane.verdict import Disparity, Gate, Measured, Slice, Verdict, store_verdict
from windvane.windows import Window

_REPORTED = 3
_REPORT = "<!doctype html><title>Report</title><h1>Drift</h1><p>{}</p>"


def seed_ledger(url: str, stories: list[Story]) -> None:
    """Append the changes of all stories at the times that they tell; the ledger itself knows no other time than now."""
    opened = ledgers.Ledger(url)
    opened.models()  # makes the table
    opened.close()
    engine = create_engine(url)
    with engine.begin() as connection:
        rows = [values for story in stories for values in _rows(story)]
        if rows:
            connection.execute(ledgers.Ledger.table.insert(), rows)
    engine.dispose()


def _rows(story: Story) -> list[dict[str, Any]]:
    digests = {made.version: made.digest for made in story.trainings}
    rows: list[dict[str, Any]] = []
    for epoch, change in enumerate(story.changes, 1):
        row = ledgers.Release(
            model=story.model,
            epoch=epoch,
            action=change.action,  # type: ignore[arg-type]
            version=change.version,
            digest=digests[change.version],
            traffic=change.traffic,
            until=change.until,
            actor=change.actor,
            reason=HOSTILE if story.end == "hostile" and change.action == "promote" else change.reason,
            evidence=change.evidence,
            time=change.at,
            previous_hash=rows[-1]["hash"] if rows else ledgers._NO_HASH,
            hash="",
        )
        values = ledgers._row_values(row)
        values["hash"] = ledgers._hash_of(values)
        rows.append(ledgers._row_values(replace(row, hash=values["hash"])))
    return rows


def seed_catalog(settings: Settings, stories: list[Story], now: datetime) -> None:
    """Record what the tasks of the stories would have recorded, and write the newest reports."""
    catalog = Catalog(settings.database)
    with _unsynced():
        _record(catalog, settings, stories, now)
    catalog.close()


@contextmanager
def _unsynced() -> Iterator[None]:
    """Spare the disk: what is made up need not survive a power cut."""

    def relax(connection: Any, *_: Any) -> None:
        connection.execute("PRAGMA synchronous=OFF")

    event.listen(Pool, "checkout", relax)
    try:
        yield
    finally:
        event.remove(Pool, "checkout", relax)


def _record(catalog: Catalog, settings: Settings, stories: list[Story], now: datetime) -> None:
    for story in stories:
        summaries = [_summary(settings, story, number, week) for number, week in enumerate(story.weeks)]
        catalog.fill_windows(story.model, summaries, before=now)
        catalog.fill_batches(story.model, [_batch(story, week) for week in story.weeks], before=now)
        for made in story.trainings:
            _record_version(catalog, story, made)
        if len(story.trainings) > 1 and story.end != "not_serving":
            store_verdict(settings.bundles, _verdict(story))
        if story.end == "rolling_out" and story.changes[-1].until:
            catalog.record_rollout(story.model, _progress(story, now))


def _summary(settings: Settings, story: Story, number: int, week: Week) -> dict[str, Any]:
    evidence = _evidence(story, week)
    decided = week.window.end + timedelta(minutes=4)
    summary = summarize_decision(week.window, decision=week.decision, reason=week.reason, alert=week.alert, evidence=evidence)
    report = None
    if number >= len(story.weeks) - _REPORTED:
        report = f"{story.model}/{week.window.key}/drift.html"
        directory = (settings.reports / report).parent
        directory.mkdir(parents=True, exist_ok=True)
        text = "<script>top.document.title='owned'</script>" if story.end == "hostile" else week.reason
        (directory / "drift.html").write_text(_REPORT.format(text), encoding="utf-8")
        told = {"decision": week.decision, "reason": week.reason, "alert": week.alert, "evidence": evidence}
        path = str(directory / "drift.html")
        (directory / "decision.json").write_text(json.dumps(told | {"report_path": path} | week.window.as_extra()), encoding="utf-8")
    return summary | {"report": report, "decided_at": decided.isoformat(timespec="microseconds")}


def _evidence(story: Story, week: Week) -> dict[str, Any]:
    """The parts of `Evidence.as_json` that people see."""
    bad = week.decision == "fix_data"
    realised, near = week.realised, {"metric": story.metric}
    return {
        "window": week.window.as_extra(),
        "rows": week.rows,
        "labelled_rows": week.rows - 200 if realised is not None else 0,
        "champion": week.version,
        "bad_inputs": ["`amount`: 61 % are missing, 0.4 % were in the training"] if bad else [],
        "released": False,
        "drifted": list(week.drifted),
        "compared": 10,
        "moved": [f"{column}: the mean went from 41.2 to 63.9" for column in week.drifted],
        "harm": None if realised is None else {"loss": 0.41, "expected": 0.38, "p": 0.3, "rows": week.rows - 200},
        "harm_confirmed": week.decision == "retrain",
        "realised": None if realised is None else near | {"value": realised, "low": realised - 0.02, "high": realised + 0.02, "rows": 900},
        "estimate": near | {"value": week.estimated, "low": week.estimated - 0.03, "high": week.estimated + 0.03, "problem": ""},
        "estimate_trusted": story.end != "fix_data",
        "estimate_trust": "the last 6 estimates were off by 0.006" if story.end != "fix_data" else "the last estimates were off by 0.09",
        "trial": {"candidates": [{"name": "since the change", "train_rows": 9000, "gain": 0.021, "p": 0.0004}]}
        if week.decision == "retrain"
        else None,
    }


def _batch(story: Story, week: Week) -> dict[str, Any]:
    reasons = ["expect_column_values_to_not_be_null(amount): 61 % are null"] if week.refused else []
    return {
        "window": week.window,
        "rows": 0 if week.refused else week.rows,
        "quarantined": week.quarantined,
        "refused": week.refused,
        "reasons": reasons,
        "report": None,
        "version": None if week.refused else 1,
        "run": f"{story.model}__ingest/scheduled__{week.window.start.isoformat()}",
        "at": week.window.end + timedelta(minutes=2),
    }


def _record_version(catalog: Catalog, story: Story, made: Training) -> None:
    train = Window(made.at - timedelta(days=208), made.at - timedelta(days=35))
    holdout = Window(train.end, train.end + timedelta(days=28))
    metrics = {story.metric: made.value, "brier_score": 0.17, "log_loss": 0.44, "base_rate": 0.21}
    user = "manual" if made.version % 4 == 0 else "asset_triggered"
    catalog.record_version(
        story.model,
        version=made.version,
        digest=made.digest,
        manifest={
            "metrics": metrics,
            "task": "binary_classification",
            "config": {"gates": {"metric": story.metric}},
            "snapshot": {"train": train.as_extra(), "holdout": holdout.as_extra()},
            "rows": {"training": 41_000 + made.version, "holdout": 7_000},
        },
        run_id=made.digest[:32],
        experiment_id="7",
        seconds=31.0 + 4 * made.version,
        size_bytes=180_000 + 900 * made.version,
        run=f"{story.model}__train/{user}__v{made.version}",
        trained_at=made.at,
    )
    waits = story.end == "not_serving" and made is story.trainings[-1]
    if not waits:
        catalog.record_verdict(story.model, version=made.version, passed=made.passed, reason=made.why)


def _verdict(story: Story) -> Verdict:
    """What the gates said of the newest version."""
    *_, before, made = story.trainings
    worst = made.value if made.passed else before.value - 0.07
    return Verdict(
        passed=made.passed,
        gates=(
            Gate("floor", True, f"{story.metric} {made.value:.3f}, at least -0.9 is asked", made.value, -0.9),
            Gate("baseline", True, "a dummy has 0.500, a linear model 0.641", made.value, 0.641),
            Gate("versus champion", True, "better by 0.012 (0.004 to 0.021) on the same 7000 rows", 0.012, 0.0),
            Gate("slices", made.passed, "none is worse by more than 0.05" if made.passed else made.why, worst - before.value, -0.05),
        ),
        challenger=made.digest,
        champion=before.digest,
        metric=story.metric,
        rows=7000,
        measured=(
            Measured(story.metric, made.value, before.value),
            Measured("brier_score", 0.171, 0.179),
            Measured("log_loss", 0.43, None),
        ),
        slices=(
            Slice("origin", "JFK" if story.end != "hostile" else HOSTILE[:80], 2_100, worst, before.value, made.passed),
            Slice("origin", "LGA", 2_600, made.value + 0.01, before.value, True),
            Slice("carrier", "UA", 900, made.value, before.value - 0.02, True),
        ),
        disparities=(Disparity("sex", "equalized_odds_difference", 0.06, 0.08, 0.1),),
        latency={"challenger_ms": 1.9, "champion_ms": 1.7},
    )


def _progress(story: Story, now: datetime) -> dict[str, Any]:
    """What a bake writes every second."""
    last = story.changes[-1]
    old, new = (str(version) for version in sorted(last.traffic))
    figures = {"requests": 1_840, "failed": 0, "refused": 2, "error_rate": 0.0, "p50_ms": 4.1, "p99_ms": 11.7}
    return {
        "epoch": len(story.changes),
        "version": last.version,
        "champion": int(old),
        "percent": last.traffic[last.version],
        "step": 1,
        "steps": [10, 50, 100],
        "began": last.at.isoformat(),
        "rollout_began": last.at.isoformat(),
        "elapsed_seconds": 41.0,
        "bake_seconds": 60.0,
        "limit_seconds": 300.0,
        "verdict": "inconclusive",
        "reason": "requests: 204 of at least 500 were seen",
        "updated_at": now.isoformat(),
        "figures": {
            old: figures | {"percent": last.traffic[int(old)]},
            new: figures | {"percent": last.traffic[int(new)], "requests": 204, "failed": 1, "error_rate": 0.0049, "p99_ms": 14.2},
        },
    }
