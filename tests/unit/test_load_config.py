"""The config is parsed strictly; every problem of a file is reported at once, with its line."""

from pathlib import Path

import pytest

from windvane.config import ModelConfig
from windvane.errors import ConfigError
from windvane.load_config import list_configs, load_config, load_model_config
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
            "dags/configs/churn.yaml:6: train.seed: Input should be a valid integer, unable to parse string as an integer, got 'many'",
            id="type",
        ),
        pytest.param(
            MINIMAL + "train: {window: 9q}\n",
            "dags/configs/churn.yaml:6: train.window: got '9q', allowed is a duration such as 90d, 12h, 10m or 1h30m (units w, d, h, m, s)",
            id="duration",
        ),
        pytest.param(
            MINIMAL.replace("churn", "other", 1),
            "dags/configs/churn.yaml: model: got 'other', but the file is named 'churn.yaml'; make the two equal",
            id="name",
        ),
        pytest.param(
            MINIMAL + "retrain: {on: [schedule]}\n",
            "dags/configs/churn.yaml:6: retrain: on has 'schedule', but retrain.schedule is not set; give a cron such as '0 3 * * 1'",
            id="schedule-without-cron",
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
