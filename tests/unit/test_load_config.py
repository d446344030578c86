"""The config is parsed strictly; every problem of a file is reported at once, with its line."""

from datetime import UTC, datetime
from pathlib import Path

import pytest

from windvane.config import ModelConfig
from windvane.errors import ConfigError
from windvane.load_config import list_configs, load_config, load_model_config, read_config
from windvane.settings import REPOSITORY

MINIMAL = """\
model: churn
task: binary_classification
data:
  time: at
  label: left
"""


def write(tmp_path: Path, text: str, name: str = "churn") -> Path:
    path = tmp_path / "dags" / "configs" / f"{name}.yaml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def problems(tmp_path: Path, text: str) -> tuple[str, ...]:
    with pytest.raises(ConfigError) as caught:
        load_config(write(tmp_path, text))
    return caught.value.problems


def test_five_lines_are_a_config(tmp_path: Path) -> None:
    config = load_config(write(tmp_path, MINIMAL))
    assert (config.model, config.metric, config.deploy.target, config.train.window.days) == ("churn", "roc_auc", "process", 90)


def test_every_shipped_config_is_valid() -> None:
    paths = list_configs(REPOSITORY)
    assert [load_config(path).model for path in paths] == [path.stem for path in paths]
    assert paths


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        pytest.param(
            MINIMAL + "deploy:\n  rollout: {stepz: [100]}\n",
            "dags/configs/churn.yaml:7: deploy.rollout: unknown field 'stepz' - did you mean 'steps'?",
            id="unknown-field",
        ),
        pytest.param(
            MINIMAL.replace("binary_classification", "binary"),
            "dags/configs/churn.yaml:2: task: got 'binary', allowed is "
            "'binary_classification', 'multiclass_classification' or 'regression'",
            id="literal",
        ),
        pytest.param(
            MINIMAL.replace("  label: left\n", ""), "dags/configs/churn.yaml:3: data.label: is required and missing; add it", id="missing"
        ),
        pytest.param(
            MINIMAL + "train: {seed: many}\n",
            "dags/configs/churn.yaml:6: train.seed: got 'many', allowed is a whole number",
            id="type",
        ),
        pytest.param(
            MINIMAL + "train: {window: 9q}\n",
            "dags/configs/churn.yaml:6: train.window: got '9q', allowed is a duration such as 90d, 12h, 10m or 1h30m (units w, d, h, m, s)",
            id="duration",
        ),
        pytest.param(
            MINIMAL.replace("churn", "other", 1),
            "dags/configs/churn.yaml:1: model: got 'other', but the file is named 'churn.yaml'; make the two equal",
            id="name",
        ),
        pytest.param(
            MINIMAL + "retrain: {on: [schedule]}\n",
            "dags/configs/churn.yaml:6: retrain: on has 'schedule', but retrain.schedule is not set; give a cron such as '0 3 * * 1'",
            id="schedule-without-cron",
        ),
        pytest.param(
            MINIMAL + "deploy:\n  port: '8101'\n",
            "dags/configs/churn.yaml:7: deploy.port: got '8101', allowed is a whole number, without quotes",
            id="number-in-quotes",
        ),
        pytest.param(
            MINIMAL + "gates: {at_least: .nan}\n", "dags/configs/churn.yaml:6: gates.at_least: got nan, allowed is a number", id="nan"
        ),
        pytest.param(
            MINIMAL + "gates: {beat_baseline: 1}\n",
            "dags/configs/churn.yaml:6: gates.beat_baseline: got 1, allowed is true or false",
            id="truth-value",
        ),
        pytest.param(
            MINIMAL + "deploy: {rollout: {steps: ['50', 100]}}\n",
            "dags/configs/churn.yaml:6: deploy.rollout.steps: got '50', allowed is a whole number, without quotes",
            id="number-in-quotes-in-a-list",
        ),
        pytest.param(
            MINIMAL + "train: {seed: -1}\n", "dags/configs/churn.yaml:6: train.seed: got -1, allowed is a number from 0 on", id="too-small"
        ),
        pytest.param(MINIMAL + "tags: foo\n", "dags/configs/churn.yaml:6: tags: got 'foo', allowed is a list, such as [foo]", id="no-list"),
        pytest.param(
            MINIMAL + "alerts: [x]\n",
            "dags/configs/churn.yaml:6: alerts: got ['x'], it must be empty in this version; remove it",
            id="alerts",
        ),
        pytest.param(
            MINIMAL + "train: 3\n",
            "dags/configs/churn.yaml:6: train: got 3, allowed is a section of fields, or leave it out",
            id="no-section",
        ),
        pytest.param(MINIMAL + "owner: 3\n", "dags/configs/churn.yaml:6: owner: got 3, allowed is a text; put it in quotes", id="no-text"),
        pytest.param(
            MINIMAL + "  suite: Raw\n",
            "dags/configs/churn.yaml:6: data.suite: got 'Raw', allowed is the name of a suite without .json: "
            "small letters, digits and '_', such as raw",
            id="pattern",
        ),
        pytest.param(
            MINIMAL + "  schedule: '99 9 * * *'\n",
            "dags/configs/churn.yaml:6: data.schedule: got '99 9 * * *', allowed is a cron of five fields in UTC, such as '0 3 * * 1' for "
            "Mondays at 3:00, or one of @hourly, @daily, @weekly, @monthly, @quarterly, @yearly",
            id="cron",
        ),
        pytest.param(
            MINIMAL + "  start: 2026-13-01\n",
            "dags/configs/churn.yaml:6: data.start: got '2026-13-01' (month must be in 1..12), allowed is a date such as 2013-01-01 or "
            "2013-01-01T06:00:00Z",
            id="date",
        ),
        pytest.param(
            MINIMAL + "  start: 2026-02-01\n  end: 2026-01-01\n",
            "dags/configs/churn.yaml:7: data: end must be after start (2026-02-01), got 2026-01-01",
            id="end-before-start",
        ),
        pytest.param(
            MINIMAL.replace("left", "at"),
            "dags/configs/churn.yaml:4: data: time and label are both 'at'; name a column of its own for each",
            id="time-is-label",
        ),
        pytest.param(
            MINIMAL + "  id: left\n",
            "dags/configs/churn.yaml:6: data: id and label are both 'left'; name a column of its own for each",
            id="id-is-label",
        ),
        pytest.param(
            MINIMAL + "retrain: {schedule: '0 3 * * 1'}\n",
            "dags/configs/churn.yaml:6: retrain: schedule is set, but on does not have 'schedule'; "
            "write on: [decision, schedule] or remove schedule",
            id="cron-without-schedule",
        ),
        pytest.param(
            MINIMAL + "  source: {type: cvs}\n",
            "dags/configs/churn.yaml:6: data.source.type: got 'cvs', allowed is 'python', 'csv', 'parquet', 'delta', 'sql' "
            "- did you mean 'csv'?",
            id="source",
        ),
        pytest.param("", "dags/configs/churn.yaml: got nothing, allowed is a mapping that starts with 'model: <name>'", id="empty"),
        pytest.param(
            MINIMAL + "model: churn\n",
            'dags/configs/churn.yaml:6: not valid YAML: found duplicate key "model" with value "churn" (original value: "churn")',
            id="duplicate-key",
        ),
        pytest.param(
            MINIMAL + "tags: &t [a]\n",
            "dags/configs/churn.yaml:6: anchors (&) and aliases (*) are not allowed; write the value out",
            id="anchor",
        ),
        pytest.param(MINIMAL + "tags: " + "[" * 30 + "]" * 30, "dags/configs/churn.yaml:6: nested more than 20 levels deep", id="depth"),
    ],
)
def test_a_problem_names_file_line_field_and_fix(tmp_path: Path, text: str, expected: str) -> None:
    assert problems(tmp_path, text) == (expected,)


def test_all_problems_of_a_file_are_reported_at_once(tmp_path: Path) -> None:
    found = problems(tmp_path, MINIMAL.replace("label", "labl") + "train: {seed: -1}\nextra: 1\n")
    assert len(found) == 4
    assert "did you mean 'label'?" in found[1] + found[0]


def test_a_wrong_field_hides_no_clash_of_others(tmp_path: Path) -> None:
    text = MINIMAL.replace("left", "at") + "  id: 3\ntrain: {seed: many, holdout: 90d}\nretrain: {cooldown: 3, on: [schedule]}\n"
    found = problems(tmp_path, text)
    assert [problem.split(": ")[0].rpartition(":")[2] + problem.split(":")[2] for problem in found] == [
        *("6 data.id", "7 train.seed", "8 retrain.cooldown"),
        *("4 data", "7 train", "8 retrain"),
    ]


def test_what_follows_from_a_problem_is_not_told_as_another(tmp_path: Path) -> None:
    """Without its window, the default would be compared with the holdout."""
    (found,) = problems(tmp_path, MINIMAL + "train: {window: year, holdout: 200d}\n")
    assert "train.window: got 'year'" in found


@pytest.mark.parametrize(
    "text",
    ["model: churn\n", "model: []\n", "data: 3\n", MINIMAL + "  source: []\n", MINIMAL + "  source: {type: csv, wait: 1}\n", "x: 1\n"],
)
def test_hardly_anything_right_ends_in_problems_too(tmp_path: Path, text: str) -> None:
    reading = read_config(write(tmp_path, text))
    assert reading.problems
    assert reading.config is not None


@pytest.mark.parametrize("written", ["2013-01-01", "2013-01-01T00:00:00Z", "'2013-01-01'", "2013-01-01 00:00:00"])
def test_dates_are_read_as_utc(tmp_path: Path, written: str) -> None:
    assert load_config(write(tmp_path, MINIMAL + f"  start: {written}\n")).data.start == datetime(2013, 1, 1, tzinfo=UTC)


def test_whole_numbers_are_numbers(tmp_path: Path) -> None:
    config = load_config(write(tmp_path, MINIMAL + "gates: {at_least: 0, size_mb: 100}\n"))
    assert (config.gates.at_least, config.gates.size_mb) == (0.0, 100.0)


@pytest.mark.parametrize("value", ["no", "on", "012", "1:30", "0x10"])
def test_scalars_are_yaml_1_2(tmp_path: Path, value: str) -> None:
    """YAML 1.1 would turn these into booleans, octal, hexadecimal and base-60 numbers."""
    path = write(
        tmp_path, MINIMAL + f"description: {value!s}\n" if value in ("no", "on", "1:30") else MINIMAL + f"train: {{seed: {value}}}\n"
    )
    config = load_config(path)
    assert config.description == value if value in ("no", "on", "1:30") else config.train.seed == int(value, 16 if "x" in value else 10)


def test_an_unknown_model_is_answered_with_the_nearest(tmp_path: Path) -> None:
    write(tmp_path, MINIMAL)
    with pytest.raises(ConfigError, match="there is no model 'chrun' - did you mean 'churn'"):
        load_model_config(tmp_path, "chrun")


@pytest.mark.parametrize("name", ["Churn", "1churn", "class", "a__b", "a" * 64])
def test_names_are_identifiers(name: str) -> None:
    with pytest.raises(ValueError, match="model"):
        ModelConfig.model_validate({"model": name, "task": "regression", "data": {"time": "t", "label": "y"}})


def test_the_digest_changes_only_with_what_changes_the_model(tmp_path: Path) -> None:
    digest = load_config(write(tmp_path, MINIMAL)).digest()
    assert load_config(write(tmp_path, MINIMAL + "owner: somebody\n")).digest() == digest
    assert load_config(write(tmp_path, MINIMAL + "train: {seed: 8}\n")).digest() != digest
