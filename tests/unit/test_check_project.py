"""`windvane check` reports every problem of a project, each on a line that names the file."""

import json
from pathlib import Path

import pytest

from windvane.check_project import check_project
from windvane.settings import REPOSITORY

CODE = "def build_pipeline(params):\n    return None\n\n\ndef read(window, connection):\n    return None\n"


def _model(project: Path, name: str, *, port: int = 8100, more: str = "", code: str | None = CODE) -> None:
    configs, models = project / "dags" / "configs", project / "include" / "models"
    for directory in (configs, models):
        directory.mkdir(parents=True, exist_ok=True)
    (configs / f"{name}.yaml").write_text(f"model: {name}\ntask: regression\ndata: {{time: t, label: y{more}}}\ndeploy: {{port: {port}}}\n")
    if code is not None:
        (models / f"{name}.py").write_text(code)


def test_the_project_that_is_shipped_has_no_problems() -> None:
    assert check_project(REPOSITORY) == []


def test_a_small_right_project_has_no_problems(tmp_path: Path) -> None:
    _model(tmp_path, "one")
    assert check_project(tmp_path) == []


def test_no_config_at_all_is_a_problem(tmp_path: Path) -> None:
    assert "has no *.yaml" in check_project(tmp_path)[0]


def test_problems_of_all_files_are_reported_at_once(tmp_path: Path) -> None:
    _model(tmp_path, "one", more=", nonsense: 1")
    _model(tmp_path, "two", code=None)
    _model(tmp_path, "three", code="x = 1\n")
    text = "\n".join(check_project(tmp_path))
    assert "unknown field 'nonsense'" in text
    assert "two.py: the model file is missing" in text
    assert "three.py: has no function build_pipeline" in text


def test_a_port_used_twice_names_both_models(tmp_path: Path) -> None:
    _model(tmp_path, "one", port=8123)
    _model(tmp_path, "two", port=8123)
    assert check_project(tmp_path) == ["dags/configs/two.yaml: deploy.port: 8123 is the port of one too; choose another"]


@pytest.mark.parametrize(
    ("code", "problem"),
    [
        pytest.param("def build_pipeline(params):\n    return None\n", "has no function read(window, connection)", id="no read"),
        pytest.param(CODE.replace("(params)", "()"), "build_pipeline takes ()", id="wrong arguments"),
        pytest.param(CODE + "features = 3\n", "features is not a function", id="not a function"),
        pytest.param("import nonexistent_module\n", "does not import", id="import fails"),
    ],
)
def test_model_files_are_checked(tmp_path: Path, code: str, problem: str) -> None:
    _model(tmp_path, "one", code=code)
    assert problem in "\n".join(check_project(tmp_path))


def test_a_search_needs_a_search_space(tmp_path: Path) -> None:
    _model(tmp_path, "one")
    with (tmp_path / "dags" / "configs" / "one.yaml").open("a") as config:
        config.write("train: {search: {trials: 3}}\n")
    assert "has no function search_space(trial)" in check_project(tmp_path)[0]


def test_a_missing_suite_is_named(tmp_path: Path) -> None:
    _model(tmp_path, "one", more=", suite: raw")
    assert check_project(tmp_path) == ["expectations/one/raw.json: is missing; create it or remove data.suite from one.yaml"]


def test_an_unknown_expectation_is_reported(tmp_path: Path) -> None:
    _model(tmp_path, "one", more=", suite: raw")
    suite = tmp_path / "expectations" / "one" / "raw.json"
    suite.parent.mkdir(parents=True)
    suite.write_text(json.dumps({"name": "raw", "expectations": [{"type": "expect_column_to_exits", "kwargs": {"column": "y"}}]}))
    assert "expect_column_to_exist" in "\n".join(check_project(tmp_path))


def test_files_that_nothing_reads_are_reported(tmp_path: Path) -> None:
    _model(tmp_path, "one")
    (tmp_path / "dags" / "configs" / "two.yml").write_text("model: two\n")
    (tmp_path / "include" / "models" / "three.py").write_text(CODE)
    assert check_project(tmp_path) == [
        "dags/configs/two.yml: is not read, configs end in .yaml; rename it to two.yaml",
        "include/models/three.py: no config uses it; create dags/configs/three.yaml or remove it",
    ]
