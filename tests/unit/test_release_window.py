"""A person can release what is held back as bad data; nothing else changes what may be trained on."""

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pandas as pd
import pytest
from typer.testing import CliRunner

from windvane.cli import app
from windvane.config import ModelConfig
from windvane.errors import ConfigError
from windvane.lake import Lake
from windvane.new_model import new_model
from windvane.release_window import held_windows, is_released, release_window, unreleased_windows
from windvane.windows import Window

DAY = timedelta(days=1)
START = datetime(2013, 1, 1, tzinfo=UTC)
FIRST, SECOND, THIRD = (Window(START + i * DAY, START + (i + 1) * DAY) for i in range(3))
CONFIG = ModelConfig.model_validate({"model": "churn", "task": "binary_classification", "data": {"id": "key", "time": "at", "label": "y"}})


def decide(lake, window, decision, held=()):
    """Store a decision as the monitor does."""
    row = pd.DataFrame(
        {
            "window_key": [window.key],
            "window_start": pd.to_datetime([window.start], utc=True).as_unit("us"),
            "window_end": pd.to_datetime([window.end], utc=True).as_unit("us"),
            "decision": [decision],
            "reason": ["column x is lost"],
            "evidence": [json.dumps({"held": [span.as_extra() for span in held]})],
        }
    )
    lake.replace_rows("churn", "decisions", row, key="window_key", values=[window.key])


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    made = Lake(str(tmp_path / "var" / "lake"))
    for window, decision in [(FIRST, "fix_data"), (SECOND, "ok"), (THIRD, "fix_data")]:
        decide(made, window, decision)
    return made


def release(lake, window, reason="checked by hand"):
    release_window(CONFIG, lake, window, actor="ann", reason=reason)


def test_nothing_is_held_back_before_the_first_decision(tmp_path):
    lake = Lake(str(tmp_path))

    assert unreleased_windows(CONFIG, lake) == []
    assert not is_released(CONFIG, lake, FIRST)


def test_windows_with_bad_data_are_held_back_until_a_person_releases_them(lake):
    assert unreleased_windows(CONFIG, lake) == [FIRST, THIRD]

    release(lake, FIRST)

    assert unreleased_windows(CONFIG, lake) == [THIRD]
    assert [is_released(CONFIG, lake, window) for window in (FIRST, SECOND, THIRD)] == [True, False, False]


def test_the_record_tells_who_released_what_when_and_why(lake):
    before = datetime.now(UTC)
    release(lake, FIRST, " a new meter ")

    (row,) = lake.read("churn", "released").to_dict("records")

    assert (row["window_key"], row["window_start"], row["window_end"]) == (FIRST.key, FIRST.start, FIRST.end)
    assert (row["actor"], row["reason"]) == ("ann", "a new meter")
    assert before - DAY < row["time"] < datetime.now(UTC) + DAY


def test_a_second_release_changes_nothing(lake):
    release(lake, FIRST)
    version = lake.version("churn", "released")

    release_window(CONFIG, lake, FIRST, actor="bob", reason="another reason")

    assert lake.version("churn", "released") == version
    assert lake.read("churn", "released")["actor"].tolist() == ["ann"]


def test_a_window_that_is_decided_again_is_held_back_by_its_newest_decision_only(lake):
    decide(lake, FIRST, "ok")
    decide(lake, SECOND, "fix_data")

    assert unreleased_windows(CONFIG, lake) == [SECOND, THIRD]


@pytest.mark.parametrize(
    ("window", "reason", "problem"),
    [
        pytest.param(
            SECOND, "fine", r"not held back; held back of churn: 2013-01-01T00:00:00Z to 2013-01-02T00:00:00Z, 2013-01-03", id="ok"
        ),
        pytest.param(Window(FIRST.start, SECOND.end), "fine", "not held back", id="no decision about it"),
        pytest.param(FIRST, " ", "got no reason", id="no reason"),
    ],
)
def test_only_a_window_that_is_held_back_is_released_and_for_a_reason(lake, window, reason, problem):
    with pytest.raises(ConfigError, match=problem):
        release(lake, window, reason)

    assert not lake.exists("churn", "released")


def test_bad_labels_hold_back_the_rows_that_they_belong_to(lake):
    span = Window(START - 5 * DAY, START - 4 * DAY)
    decide(lake, FIRST, "fix_data", held=[span])

    assert [(held.window, held.spans) for held in held_windows(CONFIG, lake)] == [(FIRST, (span,)), (THIRD, (THIRD,))]
    assert unreleased_windows(CONFIG, lake) == [span, THIRD]

    release(lake, FIRST)

    assert unreleased_windows(CONFIG, lake) == [THIRD]


def test_a_window_that_is_decided_again_does_not_see_itself_or_what_came_later(lake):
    assert unreleased_windows(CONFIG, lake, before=THIRD.end) == [FIRST]
    assert unreleased_windows(CONFIG, lake, before=FIRST.end) == []


def test_a_released_window_releases_the_parts_of_it(lake):
    whole = Window(FIRST.start, THIRD.end)
    decide(lake, whole, "fix_data")

    release(lake, whole)

    assert unreleased_windows(CONFIG, lake) == []


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("WINDVANE_DB", "WINDVANE_LAKE", "WINDVANE_BUNDLES", "MLFLOW_TRACKING_URI"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("WINDVANE_PROJECT", str(tmp_path))
    monkeypatch.setenv("WINDVANE_VAR", str(tmp_path / "var"))
    new_model(tmp_path, "churn")
    return tmp_path


def run(window, *more):
    ends = ["--window-start", window.start.isoformat(), "--window-end", window.end.isoformat()]
    return CliRunner().invoke(app, ["release", "churn", *ends, *more])


def test_the_command_releases_and_says_how_to_go_on(project, lake):
    result = run(FIRST, "--reason", "checked by hand")

    assert result.exit_code == 0, result.output
    assert "the window 2013-01-01..2013-01-02 is released; 1 left" in result.stdout
    assert "trigger churn__monitor" in result.stdout
    assert lake.read("churn", "released")["actor"].str.startswith("cli").all()


def test_the_command_prints_json(project, lake):
    told = json.loads(run(FIRST, "--reason", "checked by hand", "--json").stdout)

    assert told == {"model": "churn", **FIRST.as_extra(), "reason": "checked by hand", "held": [THIRD.as_extra()]}


def test_the_command_names_what_could_be_released(project, lake):
    result = run(SECOND, "--reason", "fine")

    assert result.exit_code == 1
    assert "held back of churn: 2013-01-01T00:00:00Z to 2013-01-02T00:00:00Z, 2013-01-03T00:00:00Z" in result.output
    assert not is_released(CONFIG, lake, SECOND)
