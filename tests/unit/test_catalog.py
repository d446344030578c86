"""The catalog: written twice, out of order or by several at once, it says what was recorded last."""

import json
import math
import multiprocessing
import sqlite3
from datetime import UTC, datetime, timedelta

import pytest

from windvane.catalog import Catalog
from windvane.decision_evidence import Evidence, Performance
from windvane.errors import StorageError
from windvane.estimate_performance import Estimate
from windvane.find_harm import Harm
from windvane.monitor_model import MonitorResult
from windvane.try_refit import Candidate, Trial
from windvane.windows import Window

START = datetime(2026, 1, 1, tzinfo=UTC)
DAY = timedelta(days=1)
NAN = math.nan
HOSTILE = "<script>alert('1')</script> \"quoted\" \u202ertl\u202c 🔥 \x00 \ud800 % {} --"


def window(day, days=1):
    return Window(START + day * DAY, START + (day + days) * DAY)


def decided(day, decision="ok", *, reason="because", value=NAN, estimate=NAN, alert="", report=None, **evidence):
    """The result of a monitored day."""
    realised = Performance("roc_auc", value, value - 0.1, value + 0.1, 200, 100)
    guess = Estimate("roc_auc", estimate, estimate, estimate, 200, 0.7, "" if math.isfinite(estimate) else "too few rows")
    made = Evidence(window(day), 200, champion=3, realised=realised, estimate=guess, **evidence)
    return MonitorResult(decision, reason, alert, made, report, window(day))


def record(url, model, days):
    """Runs in a process of its own."""
    catalog = Catalog(url)
    for day in days:
        catalog.record_window(model, decided(day, value=day / 1000))
    catalog.close()


@pytest.fixture
def url(database):
    return database


@pytest.fixture
def catalog(url):
    opened = Catalog(url)
    yield opened
    opened.close()


def points(catalog, model="churn"):
    return [(round((datetime.fromisoformat(end) - START) / DAY) - 1, value) for end, value, _ in catalog.overviews()[model]["points"]]


def test_an_empty_catalog_knows_nothing(catalog):
    assert catalog.overviews() == {}
    assert catalog.newest_versions() == {}
    assert catalog.holdout_metrics({("churn", 1)}) == {}
    assert (catalog.windows("churn", most=9), catalog.batches("churn", most=9), catalog.versions("churn")) == ([], [], [])
    assert catalog.rollout("churn") is None


def test_a_window_is_kept_with_its_figures(catalog, tmp_path):
    tried = Candidate("usual window", START, 900, 0.4, 0.0123, 0.004, 0.7, 0.01, True)
    result = decided(
        0,
        "retrain",
        value=0.71,
        alert="look",
        report=tmp_path / "churn" / window(0).key / "drift.html",
        labelled_rows=150,
        drifted=("amount", "age"),
        compared=12,
        moved=("amount rose",),
        harm=Harm(0.6, 0.5, 0.001, 0.1, 0.0, 0.5, True, False, True, 150),
        harm_confirmed=True,
        trial=Trial("harm", 150, START, 150, "roc_auc", 0.6, 0.6, (tried,), "usual window", judged_start=START),
    )
    catalog.record_window("churn", result)

    [told] = catalog.windows("churn", most=9)
    assert (told["key"], told["start"], told["end"]) == (
        window(0).key, "2026-01-01T00:00:00.000000+00:00", "2026-01-02T00:00:00.000000+00:00"
    )  # fmt: skip
    assert (told["decision"], told["reason"], told["alert"], told["version"]) == ("retrain", "because", "look", 3)
    assert (told["rows"], told["labelled_rows"], told["compared"], told["drifted"]) == (200, 150, 12, ["amount", "age"])
    assert told["realised"] == {"value": 0.71, "low": 0.71 - 0.1, "high": 0.71 + 0.1, "rows": 100}
    assert told["estimated"] is None
    assert told["loss"] == {"value": 0.6, "expected": 0.5, "p": 0.001}
    assert (told["harmed"], told["released"], told["held"]) == (True, False, False)
    assert told["tried"] == ["usual window: 900 rows, gain +0.0123 (p 0.004)"]
    assert told["report"] == f"churn/{window(0).key}/drift.html"


@pytest.mark.parametrize(
    ("value", "estimate", "trusted", "expected"),
    [
        pytest.param(0.71, 0.6, True, [0.71, "realised"], id="realised"),
        pytest.param(NAN, 0.6, True, [0.6, "estimated"], id="trusted"),
        pytest.param(NAN, 0.6, False, [0.6, "estimated"], id="not-trusted"),
        pytest.param(math.inf, NAN, True, None, id="nothing-finite"),
    ],
)
def test_a_window_stands_for_what_was_realised_else_for_the_estimate(catalog, value, estimate, trusted, expected):
    catalog.record_window("churn", decided(0, value=value, estimate=estimate, estimate_trusted=trusted))

    assert [point[1:] for point in catalog.overviews()["churn"]["points"]] == ([expected] if expected else [])


def test_a_window_recorded_twice_is_one_window(catalog):
    for _ in range(2):
        catalog.record_window("churn", decided(0, value=0.7))

    assert len(catalog.windows("churn", most=9)) == 1
    assert points(catalog) == [(0, 0.7)]


def test_windows_that_come_out_of_order_stand_in_the_order_of_data_time(catalog):
    for day in (2, 0, 3, 1):
        catalog.record_window("churn", decided(day, "fix_data" if day == 3 else "ok", value=day / 10))
    catalog.record_window("churn", decided(1, "retrain", value=0.9))

    assert points(catalog) == [(0, 0.0), (1, 0.9), (2, 0.2), (3, 0.3)]
    assert catalog.overviews()["churn"]["newest"]["decision"] == "fix_data"
    assert [told["decision"] for told in catalog.windows("churn", most=3)] == ["retrain", "ok", "fix_data"]


def test_the_overview_has_the_newest_thirty_windows_with_a_figure(catalog):
    for day in range(40):
        catalog.record_window("churn", decided(day, value=NAN if day == 35 else 0.5))

    assert [day for day, _ in points(catalog)] == [*range(9, 35), *range(36, 40)]
    assert catalog.overviews()["churn"]["newest"]["key"] == window(39).key


def test_figures_of_another_metric_are_not_in_one_line(catalog):
    catalog.record_window("churn", decided(0, value=0.7))
    other = decided(1)
    accuracy = Performance("accuracy", 0.9, 0.8, 0.95, 200, 100)
    catalog.record_window("churn", MonitorResult("ok", "r", "", other.evidence.but(realised=accuracy), None, other.window))

    assert catalog.overviews()["churn"]["metric"] == "accuracy"
    assert points(catalog) == [(1, 0.9)]


def test_writers_in_several_processes_lose_nothing(url, catalog):
    spawning = multiprocessing.get_context("spawn")
    writers = [spawning.Process(target=record, args=(url, "churn", range(first, 40, 2))) for first in (0, 1)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join(120)

    assert [writer.exitcode for writer in writers] == [0, 0]
    assert len(catalog.windows("churn", most=99)) == 40
    assert points(catalog) == [(day, day / 1000) for day in range(10, 40)]


def test_whatever_a_text_holds_comes_back_as_text(catalog):
    names = tuple(f"{HOSTILE}{number}" for number in range(300))
    catalog.record_window(
        "churn", decided(0, "fix_data", reason=HOSTILE * 300, alert=HOSTILE, drifted=names, bad_inputs=(HOSTILE,), compared=300)
    )
    found = {"rows": 0, "quarantined": 9, "refused": True, "reasons": [HOSTILE, "x" * 10_000]}
    catalog.record_batch("churn", window=window(0), **found, report=f"churn/{HOSTILE}.html", version=None, run=None)
    catalog.record_verdict("churn", version=1, passed=False, reason=HOSTILE)

    [told], [batch], [version] = catalog.windows("churn", most=9), catalog.batches("churn", most=9), catalog.versions("churn")
    kept = HOSTILE.replace("\ud800", "?")
    assert told["reason"].startswith(kept)
    assert len(told["reason"]) == 2000
    assert (told["bad_inputs"], told["drifted"][0], told["drifted_count"]) == ([kept], kept + "0", 300)
    assert told["held"]
    assert (batch["reasons"][0], len(batch["reasons"][1])) == (kept, 2000)
    assert version["verdict"] == kept
    assert json.dumps([told, batch, version], ensure_ascii=False).encode()
    assert len(json.dumps(catalog.overviews())) < 3000


def test_the_newest_batch_of_a_window_counts(catalog):
    common = {"window": window(0), "report": "churn/a.html", "run": "churn__ingest/manual__1"}
    catalog.record_batch("churn", **common, rows=0, quarantined=100, refused=True, reasons=["a column is gone"], version=None)
    for _ in range(2):
        catalog.record_batch("churn", **common, rows=90, quarantined=10, refused=False, reasons=[], version=4)

    [told] = catalog.batches("churn", most=9)
    assert (told["rows"], told["quarantined"], told["refused"], told["reasons"], told["version"]) == (90, 10, False, [], 4)
    assert told["run"] == "churn__ingest/manual__1"
    assert datetime.fromisoformat(told["at"]) <= datetime.now(UTC)


def trained(catalog, *, version=1, digest="a" * 64, seconds=30.0, metrics=None, **manifest):
    made = {
        "task": "binary_classification",
        "metrics": {"accuracy": 0.8, "roc_auc": 0.7, "base_rate": NAN} if metrics is None else metrics,
        "snapshot": {"train": window(0, 60).as_extra(), "holdout": window(60, 10).as_extra()},
        "rows": {"training": 600, "holdout": 100},
        **manifest,
    }
    catalog.record_version(
        "churn",
        version=version,
        digest=digest,
        manifest=made,
        run_id="r1",
        experiment_id="7",
        seconds=seconds,
        size_bytes=1234,
        run="churn__train/manual__1",
    )


def test_a_version_keeps_what_was_recorded_first_of_its_training(catalog):
    trained(catalog)
    [first] = catalog.versions("churn")
    trained(catalog, seconds=0.1)

    assert catalog.versions("churn") == [first]
    assert (first["digest"], first["metric"], first["value"], first["seconds"]) == ("a" * 64, "roc_auc", 0.7, 30.0)
    assert first["metrics"] == {"accuracy": 0.8, "roc_auc": 0.7, "base_rate": None}
    assert (first["train_start"][:10], first["holdout_end"][:10], first["training_rows"]) == ("2026-01-01", "2026-03-12", 600)
    assert (first["passed"], first["verdict"]) == (None, None)


@pytest.mark.parametrize("verdict_first", [True, False])
def test_a_verdict_may_come_before_its_version_or_after(catalog, verdict_first):
    steps = [lambda: trained(catalog), lambda: catalog.record_verdict("churn", version=1, passed=False, reason="at_least: 0.7 < 0.8")]
    for step in reversed(steps) if verdict_first else steps:
        step()

    [told] = catalog.versions("churn")
    assert (told["value"], told["passed"], told["verdict"]) == (0.7, False, "at_least: 0.7 < 0.8")
    assert catalog.newest_versions()["churn"]["verdict"] == "at_least: 0.7 < 0.8"


def test_a_number_that_another_bundle_got_starts_anew(catalog):
    trained(catalog)
    catalog.record_verdict("churn", version=1, passed=True, reason="passed")
    trained(catalog, digest="b" * 64, seconds=5.0)

    [told] = catalog.versions("churn")
    assert (told["digest"], told["seconds"], told["passed"]) == ("b" * 64, 5.0, None)


@pytest.mark.parametrize(
    ("manifest", "metrics", "expected"),
    [
        pytest.param({"config": {"gates": {"metric": "accuracy"}}}, None, "accuracy", id="configured"),
        pytest.param({"config": {"gates": {"metric": None}}}, None, "roc_auc", id="usual"),
        pytest.param({}, {"roc_auc": 0.7, "f1": 0.5, "base_rate": 0.1}, "f1", id="older-bundle"),
        pytest.param({"task": "regression"}, {"r2": 0.5}, "r2", id="regression"),
        pytest.param({}, {}, "roc_auc", id="no-metric-is-defined"),
    ],
)
def test_the_gates_metric_is_found(catalog, manifest, metrics, expected):
    trained(catalog, metrics=metrics, **manifest)

    assert catalog.versions("churn")[0]["metric"] == expected


def test_the_newest_version_and_the_holdout_are_found_of_many_models(catalog):
    for version in (1, 2, 3):
        trained(catalog, version=version, digest=f"{version:064d}", metrics={"roc_auc": version / 10} if version < 3 else {})

    assert catalog.newest_versions()["churn"]["version"] == 3
    assert catalog.holdout_metrics({("churn", 2), ("price", 1)})["churn"]["value"] == 0.2
    assert catalog.holdout_metrics({("churn", 3)}) == {}


def test_a_rollout_is_replaced(catalog):
    for elapsed in (1.0, 2.0):
        catalog.record_rollout("churn", {"epoch": 3, "elapsed_seconds": elapsed, "figures": {"2": {"error_rate": NAN}}})

    assert catalog.rollout("churn") == {"epoch": 3, "elapsed_seconds": 2.0, "figures": {"2": {"error_rate": None}}}
    assert catalog.rollouts() == {"churn": catalog.rollout("churn")}


def test_a_fill_leaves_alone_what_was_recorded_since(catalog):
    before = datetime.now(UTC)
    catalog.record_window("churn", decided(0, "retrain", value=0.7, alert="look"))
    catalog.record_batch("churn", window=window(0), rows=9, quarantined=0, refused=False, reasons=[], report=None, version=1, run="r")
    [told], [batch] = catalog.windows("churn", most=9), catalog.batches("churn", most=9)
    other = {**told, "decision": "ok", "decided_at": None}
    refused = {**batch, "window": window(0), "rows": 0, "refused": True, "at": before}

    assert (catalog.fill_windows("churn", [other], before=before), catalog.fill_batches("churn", [refused], before=before)) == (0, 0)
    assert (catalog.windows("churn", most=9), catalog.batches("churn", most=9)) == ([told], [batch])


def test_a_fill_corrects_and_keeps_what_it_does_not_know(catalog):
    catalog.record_window("churn", decided(0, "retrain", value=0.7, alert="look"))
    [told] = catalog.windows("churn", most=9)
    later = datetime.now(UTC)

    same = {**told, "alert": "", "decided_at": None, "rows": 201}
    assert catalog.fill_windows("churn", [same], before=later) == 1
    assert catalog.windows("churn", most=9) == [{**told, "rows": 201}]
    assert catalog.fill_windows("churn", [same], before=later) == 0
    assert catalog.fill_windows("churn", [{**same, "decision": "ok"}], before=later) == 1
    assert catalog.windows("churn", most=9)[0]["alert"] == ""
    assert catalog.overviews()["churn"]["newest"]["decision"] == "ok"


def test_a_database_that_cannot_be_written_says_so(tmp_path):
    path = tmp_path / "windvane.db"
    path.write_text("this is no database, but long enough to be read as one " * 20)
    catalog = Catalog(f"sqlite:///{path}")

    with pytest.raises(StorageError, match=r"catalog sqlite:.*WINDVANE_DB"):
        catalog.record_rollout("churn", {})
    catalog.close()


def test_a_writer_waits_no_longer_than_it_may(url, catalog, tmp_path):
    if not url.startswith("sqlite"):
        pytest.skip("only SQLite has one writer at a time")
    catalog.record_rollout("churn", {"epoch": 1})
    other = sqlite3.connect(tmp_path / "new" / "windvane.db", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    hasty = Catalog(url, patience_seconds=0.2)
    began = datetime.now(UTC)

    with pytest.raises(StorageError, match="locked"):
        hasty.record_rollout("churn", {"epoch": 2})
    assert datetime.now(UTC) - began < timedelta(seconds=5)
    other.close()
    hasty.close()
