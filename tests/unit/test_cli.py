"""The command line prints for people, JSON with `--json`, and tells by its exit status."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from windvane.cli import app
from windvane.ledger import Ledger
from windvane.new_model import new_model


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
