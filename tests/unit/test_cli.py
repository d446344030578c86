"""The command line prints for people, JSON with `--json`, and tells by its exit status."""

import json
import sqlite3
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path

import pytest
from typer.testing import CliRunner

from windvane.cli import app
from windvane.ledger import Ledger
from windvane.new_model import new_model
from windvane.report_state import Report, write_report
from windvane.settings import load_settings


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("WINDVANE_DB", "WINDVANE_LAKE", "WINDVANE_BUNDLES", "MLFLOW_TRACKING_URI", "WINDVANE_TARGET"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("WINDVANE_PROJECT", str(tmp_path))
    monkeypatch.setenv("WINDVANE_VAR", str(tmp_path / "var"))
    return tmp_path


@pytest.fixture
def ledger(project: Path):
    book = Ledger(f"sqlite:///{project / 'var' / 'windvane.db'}")
    book.append(
        "churn",
        expected_epoch=0,
        action="promote",
        version=3,
        digest="d" * 64,
        traffic={3: 100},
        actor="churn__deploy/[manual]",
        reason="passed",
    )
    yield book
    book.close()


def _run(*arguments: str):
    return CliRunner().invoke(app, list(arguments))


def test_check_ends_with_1_and_lists_problems(project: Path) -> None:
    result = _run("check", "--json")
    assert result.exit_code == 1
    assert "has no *.yaml" in json.loads(result.stdout)["problems"][0]


def test_check_ends_with_0_when_all_is_right(project: Path) -> None:
    new_model(project, "churn")
    assert _run("check").exit_code == 0


def test_the_ledger_is_shown_to_people_and_as_json(ledger: Ledger) -> None:
    shown = _run("ledger", "churn")
    assert shown.exit_code == 0
    assert "version 3 100%" in shown.stdout
    assert "[manual]" in shown.stdout
    value = json.loads(_run("ledger", "--json").stdout)
    assert value["problems"] == []
    assert value["releases"][0]["traffic"] == {"3": 100}


def test_served_at_tells_what_served_then(ledger: Ledger) -> None:
    assert json.loads(_run("served-at", "churn", "2999-01-01", "--json").stdout)["version"] == 3
    assert "Nothing of churn served" in _run("served-at", "churn", "2001-01-01").stdout


def test_the_ledger_is_verified_and_says_so(ledger: Ledger, project: Path) -> None:
    newest = ledger.last("churn").hash
    assert _run("ledger", "churn", "--verify").stdout == f"churn: 1 rows, untouched, newest hash {newest}\n"
    with sqlite3.connect(project / "var" / "windvane.db") as raw:
        raw.execute("DROP TRIGGER releases_no_update")
        raw.execute("UPDATE releases SET version = 9")
    raw.close()
    touched = _run("ledger", "churn", "--verify")
    assert touched.exit_code == 1
    assert "churn: 1 rows, the record was touched" in touched.stdout
    assert "epoch 1 does not match its hash" in touched.stdout


@pytest.mark.parametrize("command", [("ledger", "chrun"), ("served-at", "chrun", "2026-01-01")], ids=["ledger", "served-at"])
def test_a_model_that_the_ledger_does_not_know_is_named(ledger: Ledger, command: tuple[str, ...]) -> None:
    result = _run(*command)
    assert result.exit_code == 1
    assert "there is no model 'chrun'; known models: churn" in result.stderr


def test_served_at_names_every_share_with_its_bundle_and_the_zone(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    until = datetime(2999, 1, 1, tzinfo=UTC)
    ledger.append(
        "churn", expected_epoch=1, action="shift", version=4, digest="e" * 64, traffic={3: 90, 4: 10}, until=until, actor="t", reason="r"
    )
    shown = _run("served-at", "churn", "2998-01-01T12:00").stdout.splitlines()
    assert shown[0] == "2998-01-01 12:00:00 UTC has not come yet; this is what the last row says:"
    assert shown[1].startswith("churn at 2998-01-01 12:00:00 UTC: version 3, 90% of the traffic, since ")
    assert shown[1].endswith(f"bundle {'d' * 64}")
    assert shown[2].startswith("churn at 2998-01-01 12:00:00 UTC: version 4, 10% of the traffic, since ")
    assert shown[2].endswith(f"bundle {'e' * 64}")


@pytest.mark.parametrize(
    ("arguments", "shown"),
    [
        (["2998-01-01T12:00"], "2998-01-01 12:00:00 UTC (2998-01-01 13:00:00 CET)"),
        (["2998-01-01T12:00", "--local"], "2998-01-01 11:00:00 UTC (2998-01-01 12:00:00 CET)"),
        (["2998-01-01T12:00+05:00"], "2998-01-01 07:00:00 UTC (2998-01-01 08:00:00 CET)"),
        (["2998-01-01T12:00Z", "--local"], "2998-01-01 12:00:00 UTC (2998-01-01 13:00:00 CET)"),
    ],
    ids=["no zone is UTC", "local", "a zone of its own", "a zone wins"],
)
def test_served_at_says_which_time_it_means(ledger: Ledger, monkeypatch: pytest.MonkeyPatch, arguments: list[str], shown: str) -> None:
    monkeypatch.setenv("TZ", "CET-1")
    time.tzset()
    try:
        assert shown in _run("served-at", "churn", *arguments).stdout
    finally:
        monkeypatch.undo()
        time.tzset()


def test_before_the_first_row_the_beginning_is_named(ledger: Ledger) -> None:
    shown = _run("served-at", "churn", "2001-01-01").stdout
    assert shown.startswith("Nothing of churn served at 2001-01-01 00:00:00 UTC: its ledger begins at 20")


def test_a_model_is_frozen_and_unfrozen_with_a_reason(ledger: Ledger) -> None:
    assert _run("freeze", "churn").exit_code == 2, "a reason is needed"
    assert "churn is frozen: only a rollback" in _run("freeze", "churn", "--reason", "audit").stdout
    assert json.loads(_run("unfreeze", "churn", "--reason", "done", "--json").stdout)["action"] == "unfreeze"
    assert [(row.action, row.reason) for row in ledger.history("churn")[1:]] == [("freeze", "audit"), ("unfreeze", "done")]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "no earlier version to roll back to"),
        (["--to", "9"], "version 9 never served; those that did: 3; to deploy it, trigger churn__deploy with version: 9"),
    ],
    ids=["nothing before", "never served"],
)
def test_a_rollback_that_cannot_be_is_refused_and_changes_nothing(project: Path, ledger: Ledger, arguments: list[str], said: str) -> None:
    new_model(project, "churn")
    result = _run("rollback", "churn", *arguments)
    assert result.exit_code == 1
    assert said in result.stderr
    assert len(ledger.history("churn")) == 1


def test_keys_are_made_listed_and_removed(project: Path) -> None:
    new_model(project, "churn")
    assert "churn has no keys" in _run("key", "list", "churn").stdout
    made = [json.loads(_run("key", "add", "churn", "--json").stdout) for _ in range(2)]
    third = _run("key", "add", "churn")
    assert third.exit_code == 1
    assert "allowed are 2" in third.stderr
    stored = (project / "var" / "keys" / "churn" / "keys.json").read_text()
    assert all(key["key"] not in stored for key in made)
    listed = json.loads(_run("key", "list", "churn", "--json").stdout)
    assert [key["id"] for key in listed] == [key["id"] for key in made]
    assert json.loads(_run("key", "remove", "churn", made[0]["id"], "--json").stdout)["left"] == [made[1]["id"]]
    assert _run("key", "remove", "churn", made[0]["id"]).exit_code == 1


def test_a_key_for_a_model_that_is_not_there_is_refused(project: Path) -> None:
    new_model(project, "churn")
    result = _run("key", "add", "chrun")
    assert result.exit_code == 1
    assert "there is no model 'chrun'; known models: churn" in result.stderr
    assert not (project / "var" / "keys" / "chrun").exists()


def test_an_error_is_its_message_and_no_stack_trace(project: Path) -> None:
    result = _run("served-at", "churn", "yesterday")
    assert result.exit_code == 1
    assert "allowed is ISO 8601" in result.stderr
    assert "Traceback" not in result.stderr


def test_status_without_a_platform_ends_with_3_and_says_how_to_start(project: Path) -> None:
    new_model(project, "churn")
    result = _run("status", "--json")
    assert result.exit_code == 3
    value = json.loads(result.stdout)
    assert value["up"] is False
    assert "make up" in value["parts"][0]["state"]
    assert value["serving"][0]["version"] == "nothing"


def test_status_tells_what_the_reconciler_saw(project: Path) -> None:
    new_model(project, "churn")
    report = Report().after(done=["churn: warning: somebody changed the alias"], problems=["churn: the target is not in line"])
    write_report(load_settings(), report)
    shown = _run("status").stdout
    assert "problem: churn: the target is not in line" in shown
    assert "churn: warning: somebody changed the alias" in shown
    assert json.loads(_run("status", "--json").stdout)["reconciler"]["problems"] == ["churn: the target is not in line"]


def test_status_tells_what_serves(project: Path, ledger: Ledger) -> None:
    new_model(project, "churn")
    assert json.loads(_run("status", "--json").stdout)["serving"][0]["version"] == "3"


def test_down_stops_nothing_when_nothing_was_started(project: Path) -> None:
    assert json.loads(_run("down", "--json").stdout) == {"stopped": 0}


def test_new_model_names_what_it_wrote(project: Path) -> None:
    assert "include/models/churn.py" in _run("new-model", "churn").stdout.replace("\n", "")


@pytest.mark.parametrize("until", ["2013-02", "2014-01", "july"])
def test_demo_refuses_a_month_without_a_story(project: Path, until: str) -> None:
    result = _run("demo", "--until", until)
    assert result.exit_code == 1
    assert "allowed is a month from 2013-03 to 2013-12" in result.stderr


def test_help_imports_nothing_heavy() -> None:
    heavy = ["pandas", "mlflow", "great_expectations", "sklearn", "deltalake", "sqlalchemy", "psutil"]
    code = f"import sys, windvane.cli; print([name for name in {heavy!r} if name in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"
