"""Everything of one model: from the ledger, from what tasks recorded, and from what `windvane reindex` finds again."""

import hashlib
import json
import os
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pandas as pd
import pytest
from sqlalchemy import create_engine, text
from typer.testing import CliRunner

from windvane.catalog import Catalog
from windvane.cli import app
from windvane.config import ModelConfig
from windvane.decision_evidence import Evidence, Performance
from windvane.describe_model import describe_model, describe_served_at, describe_window
from windvane.describe_models import describe_models
from windvane.errors import StorageError
from windvane.lake import Lake
from windvane.ledger import Ledger
from windvane.monitor_model import MonitorResult, _remember
from windvane.reindex_catalog import Reindexed, reindex_model
from windvane.settings import load_settings
from windvane.windows import Window

START = datetime(2026, 1, 1, tzinfo=UTC)
DAY = timedelta(days=1)
HOSTILE = '<script>alert("1")</script>\' \u202e🔥'
CONFIG = ModelConfig.model_validate(
    {"model": "churn", "task": "binary_classification", "data": {"time": "at", "label": "y"}, "train": {"window": "60d", "holdout": "10d"}}
)


def window(day):
    return Window(START + day * DAY, START + (day + 1) * DAY)


@pytest.fixture
def settings(tmp_path):
    made = load_settings({"WINDVANE_VAR": str(tmp_path / "var"), "WINDVANE_PROJECT": str(tmp_path), "MLFLOW_TRACKING_URI": "http://mlflow"})
    made.var.mkdir()
    return made


@pytest.fixture
def ledger(settings):
    with closing(Ledger(settings.database)) as opened:
        yield opened


@pytest.fixture
def catalog(settings):
    with closing(Catalog(settings.database)) as opened:
        yield opened


def add(ledger, action="promote", version=1, traffic=None, *, actor="churn__deploy/manual__1", reason="because", digest=None, **more):
    last = ledger.last("churn")
    return ledger.append(
        "churn",
        expected_epoch=last.epoch if last else 0,
        action=action,
        version=version,
        digest=digest or f"{version:064d}",
        traffic={version: 100} if traffic is None else traffic,
        actor=actor,
        reason=reason,
        **more,
    )


def monitor(settings, day, decision="ok", *, reason="because", alert="", value=0.7, report=False):
    """What the monitor stores of a day."""
    place = settings.reports / "churn" / window(day).key / "drift.html"
    if report:
        place.parent.mkdir(parents=True)
        place.write_text("<h1>drift</h1>")
    evidence = Evidence(window(day), 90, champion=1, realised=Performance("roc_auc", value, value, value, 90, 90), bad_inputs=(HOSTILE,))
    result = MonitorResult(decision, reason, alert, evidence, place if report else None, window(day))
    _remember(CONFIG, settings, Lake(settings.lake), result)
    return result


def ingest(settings, day, *, rows=3, quarantined=1, digest="d" * 64):
    """What ingest commits of a day, with the result of its validation."""
    times = pd.to_datetime([window(day).start] * rows, utc=True).as_unit("us")
    frame = pd.DataFrame({"at": times, "y": range(rows)})
    note = {"digest": digest, "quarantined": str(quarantined), "source": "csv"}
    Lake(settings.lake).overwrite_window("churn", "raw", frame, window=window(day), time="at", metadata=note)
    validate(settings, day, digest, refused=False, reasons=["age: not null: 1 of 4 rows"], invalid_rows=quarantined)


def validate(settings, day, digest, **result):
    name = settings.reports / "churn" / window(day).key / f"validation-{digest[:12]}"
    name.parent.mkdir(parents=True, exist_ok=True)
    name.with_suffix(".json").write_text(json.dumps({**window(day).as_extra(), **result}))
    name.with_suffix(".html").write_text("<h1>validation</h1>")
    return name.with_suffix(".json")


def bundle(settings, **manifest):
    """The manifest of a bundle, without its other files; its digest."""
    made = {
        "model": "churn",
        "task": "binary_classification",
        "metrics": {"roc_auc": 0.71, "accuracy": 0.8},
        "snapshot": {"train": Window(START, START + 60 * DAY).as_extra(), "holdout": Window(START + 60 * DAY, START + 70 * DAY).as_extra()},
        "rows": {"training": 600, "holdout": 100},
        **manifest,
    }
    data = json.dumps(made).encode()
    digest = hashlib.sha256(data).hexdigest()
    (settings.bundles / digest).mkdir(parents=True)
    (settings.bundles / digest / "bundle.json").write_bytes(data)
    return digest


def forget(settings):
    """Empty the catalog."""
    engine = create_engine(settings.database)
    with engine.begin() as connection:
        for name in ("overviews", "windows", "batches", "versions", "rollouts"):
            connection.execute(text(f"DELETE FROM catalog_{name}"))
    engine.dispose()


def test_a_model_of_which_nothing_is_known_has_empty_lists(settings):
    found = describe_model(settings, "churn")

    assert found == {"releases": [], "versions": [], "windows": [], "batches": [], "rollout": None, "challenger": None}


@pytest.mark.parametrize(
    ("actor", "run", "user"),
    [
        ("churn__deploy/manual__2026-01-01T00:00:00+00:00", "manual__2026-01-01T00:00:00+00:00", None),
        ("churn__deploy/manual__1 by Ann O'Neil", "manual__1", "Ann O'Neil"),
        ("airflow/ann", None, "ann"),
        ("cli/root", None, "root"),
        ("reconciler", None, None),
    ],
)
def test_a_release_names_its_run_and_its_user(settings, ledger, actor, run, user):
    add(ledger, actor=actor)

    [told] = describe_model(settings, "churn")["releases"]
    assert told["run"] == ({"dag_id": "churn__deploy", "run_id": run} if run else None)
    assert (told["user"], told["actor"]) == (user, actor)


def test_releases_come_newest_first_with_approval_and_checks(settings, ledger):
    judgement = {
        "verdict": "advance",
        "reason": "fine",
        "checks": [{"name": "errors", "verdict": "advance", "reason": HOSTILE, "figures": {}}],
    }
    approval = {"by": "ann", "at": "2026-01-01T00:00:00+00:00", "reason": "looks good"}
    until = datetime.now(UTC) + timedelta(minutes=5)
    add(ledger, "promote", evidence={"approval": approval})
    add(ledger, "shift", 2, {1: 90, 2: 10}, until=until, evidence={"judgement": judgement})
    add(ledger, "shift", 2, {1: 50, 2: 50}, until=until, evidence={"step": {"judgement": judgement}})
    add(ledger, "revert", 2, {1: 100}, reason=HOSTILE, evidence={"judgement": "not what it was", "plan": 1})

    newest, half, tenth, first = describe_model(settings, "churn")["releases"]
    assert (newest["epoch"], newest["action"], newest["traffic"], newest["reason"], newest["checks"]) == (
        4,
        "revert",
        {"1": 100},
        HOSTILE,
        [],
    )
    assert half["checks"] == tenth["checks"] == [{"name": "errors", "verdict": "advance", "reason": HOSTILE}]
    assert datetime.fromisoformat(tenth["until"]) == until
    assert (first["approval"], first["user"]) == (approval, "ann")


def test_at_most_five_hundred_releases_are_told(settings, ledger):
    for _ in range(501):
        add(ledger)

    told = describe_model(settings, "churn")["releases"]
    assert [told[0]["epoch"], told[-1]["epoch"], len(told)] == [501, 2, 500]


def test_versions_join_what_was_trained_and_what_served(settings, ledger, catalog):
    for version in (1, 2):
        catalog.record_version(
            "churn",
            version=version,
            digest=f"{version:064d}",
            manifest={"task": "binary_classification", "metrics": {"roc_auc": 0.7}, "recalibrated_from": "a" * 64},
            run_id="run/1",
            experiment_id="7",
            seconds=12.5,
            size_bytes=99,
            run="churn__train/manual__1",
        )
    catalog.record_verdict("churn", version=2, passed=False, reason="at_least: no")
    promoted = add(ledger)
    add(ledger, version=3)

    third, second, first = describe_model(settings, "churn")["versions"]
    assert (first["promoted_at"], first["served"]) == (promoted.time.isoformat(timespec="microseconds"), True)
    assert (second["passed"], second["verdict"], second["served"], second["promoted_at"]) == (False, "at_least: no", False, None)
    assert first["mlflow_url"] == "http://mlflow/#/experiments/7/runs/run%2F1"
    assert first["run"] == {"dag_id": "churn__train", "run_id": "manual__1"}
    assert (first["recalibrated_from"], first["seconds"], first["size_bytes"]) == ("a" * 64, 12.5, 99)
    assert (third["digest"], third["metric"], third["served"]) == (f"{3:064d}", None, True)
    assert third["mlflow_url"] == "http://mlflow/#/models/churn/versions/3"
    assert third.keys() == first.keys()


def test_the_monitor_records_what_the_page_shows(settings):
    monitor(settings, 1, "fix_data", reason=HOSTILE, alert="look", report=True)
    monitor(settings, 0)

    first, second = describe_model(settings, "churn")["windows"]
    assert (first["key"], first["decision"], first["report_url"]) == (window(0).key, "ok", None)
    assert (second["reason"], second["alert"], second["held"]) == (HOSTILE, "look", True)
    assert second["report_url"] == f"/windvane/reports/churn/{window(1).key}/drift.html"
    assert "report" not in second


def test_a_window_is_told_with_its_whole_evidence(settings):
    monitor(settings, 0, "fix_data", reason=HOSTILE, report=True)

    told = describe_window(settings, "churn", window(0).key)
    assert (told["decision"], told["reason"]) == ("fix_data", HOSTILE)
    assert told["evidence"]["bad_inputs"] == [HOSTILE]
    assert told["report_url"] == f"/windvane/reports/churn/{window(0).key}/drift.html"
    assert "report_path" not in told


@pytest.mark.parametrize(
    "key", ["..", "../..", "20260101T000000Z-20260102T000000Z/../x", "", "20260101T000000Z", "/etc", "%2e%2e", "a\x00b"]
)
def test_a_key_that_no_window_has_is_not_looked_for(settings, key):
    (settings.var / "reports" / "decision.json").parent.mkdir(parents=True)
    (settings.var / "reports" / "decision.json").write_text("{}")
    monitor(settings, 0)

    assert describe_window(settings, "churn", key) is None
    assert describe_window(settings, "../churn", window(0).key) is None
    assert describe_window(settings, "churn", window(5).key) is None


def test_a_decision_that_cannot_be_read_says_what_to_do(settings):
    monitor(settings, 0)
    place = settings.reports / "churn" / window(0).key / "decision.json"
    for content in ("{", "[]"):
        place.write_text(content)
        with pytest.raises(StorageError, match="run churn__monitor for the window again"):
            describe_window(settings, "churn", window(0).key)


def test_what_served_at_a_moment(settings, ledger):
    first = add(ledger)
    second = add(ledger, "shift", 2, {1: 90, 2: 10}, until=datetime.now(UTC) + timedelta(minutes=5))

    told = describe_served_at(settings, "churn", second.time)
    assert told["shares"] == [{"version": 1, "percent": 90, "digest": f"{1:064d}"}, {"version": 2, "percent": 10, "digest": f"{2:064d}"}]
    assert (told["row"]["epoch"], told["since"]) == (2, second.time.isoformat(timespec="microseconds"))
    before = describe_served_at(settings, "churn", first.time - DAY)
    assert (before["shares"], before["since"], before["row"]) == ([], None, None)
    assert describe_served_at(settings, "nobody", first.time)["row"] is None


def test_a_rollout_is_told_while_it_is_under_way(settings, ledger, catalog):
    add(ledger)
    shifted = add(ledger, "shift", 2, {1: 90, 2: 10}, until=datetime.now(UTC) + timedelta(minutes=5))
    told = describe_model(settings, "churn")["rollout"]
    assert (told["version"], told["champion"], told["percent"], told["updated_at"]) == (2, 1, 10, None)
    assert told["figures"]["1"] == {
        "percent": 90,
        "requests": None,
        "failed": None,
        "refused": None,
        "error_rate": None,
        "p50_ms": None,
        "p99_ms": None,
    }

    catalog.record_rollout("churn", {"epoch": shifted.epoch, "version": 2, "elapsed_seconds": 3.0})
    assert describe_model(settings, "churn")["rollout"]["elapsed_seconds"] == 3.0
    add(ledger, "shift", 2, {1: 50, 2: 50}, until=datetime.now(UTC) + timedelta(minutes=5))
    assert describe_model(settings, "churn")["rollout"]["percent"] == 50
    add(ledger, "revert", 2, {1: 100})
    assert describe_model(settings, "churn")["rollout"] is None


def test_everything_is_json(settings, ledger):
    add(ledger, reason=HOSTILE * 50, evidence={"approval": {"by": HOSTILE, "at": None, "reason": float("nan")}})
    monitor(settings, 0, value=float("nan"))

    found = describe_model(settings, "churn") | describe_models(settings, now=datetime.now(UTC))["churn"]
    assert json.loads(json.dumps(found, allow_nan=False)) == found


class TestReindex:
    """What the catalog is after it was lost."""

    @pytest.fixture
    def stored(self, settings, ledger, catalog):
        """A model of which everything is stored, as its tasks recorded it."""
        digest = bundle(settings)
        add(ledger, digest=digest)
        path = settings.bundles / "verdicts" / f"{digest}.json"
        path.parent.mkdir()
        path.write_text(json.dumps({"passed": False, "gates": [{"name": "at_least", "passed": False, "reason": "0.5 < 0.6"}]}))
        for day in range(3):
            monitor(settings, day, "retrain" if day == 2 else "ok", alert="look" if day == 2 else "", report=day == 1)
            ingest(settings, day, digest=str(day) * 64)
        refused = validate(settings, 3, "f" * 64, refused=True, reasons=["a column is gone"], invalid_rows=9)
        os.utime(refused, (1e9, 1e9))
        return digest

    def test_everything_comes_back(self, settings, stored):
        before = describe_model(settings, "churn")["windows"]
        forget(settings)
        assert reindex_model(settings, "churn") == Reindexed(windows=3, batches=4, versions=1, changed=8)

        found = describe_model(settings, "churn")
        assert [told | {"decided_at": None} for told in found["windows"]] == [told | {"decided_at": None} for told in before]
        for told, known in zip(found["windows"], before, strict=True):
            assert abs(datetime.fromisoformat(told["decided_at"]) - datetime.fromisoformat(known["decided_at"])) < timedelta(seconds=10)
        first, _, _, refused = found["batches"]
        assert (first["rows"], first["quarantined"], first["refused"], first["reasons"]) == (3, 1, False, ["age: not null: 1 of 4 rows"])
        assert first["report_url"] == f"/windvane/reports/churn/{window(0).key}/validation-000000000000.html"
        assert (refused["rows"], refused["quarantined"], refused["refused"], refused["reasons"]) == (0, 9, True, ["a column is gone"])
        [version] = found["versions"]
        assert (version["digest"], version["metric"], version["value"], version["training_rows"]) == (stored, "roc_auc", 0.71, 600)
        assert (version["passed"], version["verdict"]) == (False, "at_least: 0.5 < 0.6")
        assert describe_models(settings, now=datetime.now(UTC))["churn"]["decision"]["alert"] == "look"

    def test_a_second_time_changes_nothing(self, settings, stored):
        forget(settings)
        reindex_model(settings, "churn")
        found = describe_model(settings, "churn")

        assert reindex_model(settings, "churn").changed == 0
        assert describe_model(settings, "churn") == found

    def test_what_tasks_recorded_stays(self, settings, stored, catalog):
        catalog.record_version(
            "churn",
            version=1,
            digest=stored,
            manifest=json.loads((settings.bundles / stored / "bundle.json").read_bytes()),
            run_id="r",
            experiment_id="7",
            seconds=99.0,
            size_bytes=5,
            run="churn__train/manual__1",
        )
        catalog.record_batch(
            "churn", window=window(0), rows=3, quarantined=1, refused=False, reasons=["x"], report=None, version=0, run="churn__ingest/m"
        )
        before = describe_model(settings, "churn")
        reindex_model(settings, "churn")
        found = describe_model(settings, "churn")

        assert found["windows"] == before["windows"]
        assert found["versions"][0] == before["versions"][0] | {"passed": False, "verdict": "at_least: 0.5 < 0.6"}
        assert found["batches"][0]["run"] == {"dag_id": "churn__ingest", "run_id": "m"}

    def test_a_batch_that_was_refused_after_a_good_one_is_the_newest(self, settings, stored):
        forget(settings)
        later = validate(settings, 0, "e" * 64, refused=True, reasons=["empty"], invalid_rows=0)
        ahead = (datetime.now(UTC) + timedelta(minutes=1)).timestamp()
        os.utime(later, (ahead, ahead))
        reindex_model(settings, "churn")

        assert describe_model(settings, "churn")["batches"][0]["reasons"] == ["empty"]

    def test_many_windows_are_read_in_parts(self, settings, stored, monkeypatch):
        monkeypatch.setattr("windvane.reindex_catalog._WINDOWS_AT_ONCE", 2)
        forget(settings)

        assert reindex_model(settings, "churn") == Reindexed(windows=3, batches=4, versions=1, changed=8)

    def test_a_bundle_that_is_gone_or_changed_is_left_out(self, settings, ledger, stored):
        forget(settings)
        (settings.bundles / stored / "bundle.json").write_text("{}")
        add(ledger, version=2)

        assert reindex_model(settings, "churn").changed == 7
        assert [version["metric"] for version in describe_model(settings, "churn")["versions"]] == [None, None]

    def test_the_command_tells_its_progress(self, settings, stored, monkeypatch, tmp_path):
        forget(settings)
        (tmp_path / "dags" / "configs").mkdir(parents=True)
        for model in ("churn", "price"):
            (tmp_path / "dags" / "configs" / f"{model}.yaml").write_text(f"model: {model}\n")
        for name, value in {"WINDVANE_VAR": settings.var, "WINDVANE_PROJECT": tmp_path}.items():
            monkeypatch.setenv(name, str(value))

        told = CliRunner().invoke(app, ["reindex"])
        assert told.exit_code == 0
        assert "1 of 2  churn: 3 windows, 4 batches, 1 versions; 8 new or mended" in told.stdout
        assert "2 of 2  price: 0 windows" in told.stdout
        found = json.loads(CliRunner().invoke(app, ["reindex", "churn", "--json"]).stdout)
        assert found["models"] == {"churn": {"windows": 3, "batches": 4, "versions": 1, "changed": 0}}
        assert CliRunner().invoke(app, ["reindex", "nobody"]).exit_code == 1

    def test_a_table_that_cannot_be_read_hides_no_other_model(self, settings, stored, monkeypatch, tmp_path):
        (tmp_path / "dags" / "configs").mkdir(parents=True)
        for model in ("broken", "churn"):
            (tmp_path / "dags" / "configs" / f"{model}.yaml").write_text(f"model: {model}\n")
        log = settings.var / "lake" / "broken" / "decisions" / "_delta_log"
        log.mkdir(parents=True)
        (log / "00000000000000000000.json").write_text("no json")
        monkeypatch.setenv("WINDVANE_VAR", str(settings.var))
        monkeypatch.setenv("WINDVANE_PROJECT", str(tmp_path))

        told = CliRunner().invoke(app, ["reindex", "--json"])
        assert told.exit_code == 1
        found = json.loads(told.stdout)
        assert found["models"].keys() == {"churn"}
        assert len(found["problems"]) == 1
        assert found["problems"][0].startswith("broken: ")


def test_a_result_whose_report_is_elsewhere_names_it_all_the_same(settings, catalog, tmp_path):
    result = monitor(settings, 0, report=True)
    catalog.record_window("churn", replace(result, report_path=tmp_path / "odd name?.html"))

    [told] = describe_model(settings, "churn")["windows"]
    assert told["report_url"] == f"/windvane/reports/churn/{window(0).key}/odd%20name%3F.html"
