"""`windvane check` reports every problem of a project, each on a line that names the file."""

import json
from pathlib import Path

import pytest

from windvane.check_project import check_project, find_warnings
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
    assert check_project(tmp_path) == [
        "dags/configs/two.yaml:4: deploy.port: 8123 is the port of dags/configs/one.yaml:4 too; give one of the two another, such as 8100"
    ]


@pytest.mark.parametrize(
    ("code", "problem"),
    [
        pytest.param("def build_pipeline(params):\n    return None\n", "has no function read(window, connection)", id="no read"),
        pytest.param(
            CODE.replace("(params)", "()"),
            "include/models/one.py:1: build_pipeline must take one argument, got build_pipeline(); write `def build_pipeline(params):`",
            id="wrong arguments",
        ),
        pytest.param(CODE + "features = 3\n", "features is not a function", id="not a function"),
        pytest.param("import nonexistent_module\n", "does not import", id="import fails"),
    ],
)
def test_model_files_are_checked(tmp_path: Path, code: str, problem: str) -> None:
    _model(tmp_path, "one", code=code)
    assert problem in "\n".join(check_project(tmp_path))


@pytest.mark.parametrize(("environ", "port"), [({}, 8080), ({}, 5000), ({"WINDVANE_AIRFLOW_PORT": "9001"}, 9001)])
def test_the_platform_s_own_ports_are_taken(tmp_path: Path, environ: dict[str, str], port: int) -> None:
    _model(tmp_path, "one", port=port)
    (problem,) = check_project(tmp_path, environ=environ)
    assert problem.startswith(f"dags/configs/one.yaml:4: deploy.port: {port} is the port of ")
    assert "WINDVANE_MLFLOW_PORT" in problem if port == 5000 else "WINDVANE_AIRFLOW_PORT" in problem


def test_wrong_settings_are_reported_beside_the_rest(tmp_path: Path) -> None:
    _model(tmp_path, "one", more=", nonsense: 1")
    found = check_project(tmp_path, environ={"WINDVANE_TARGET": "foo", "WINDVANE_MLFLOW_PORT": "http"})
    assert [problem.split(":")[0] for problem in found] == ["WINDVANE_MLFLOW_PORT", "WINDVANE_TARGET", "dags/configs/one.yaml"]


def test_every_mistake_of_a_model_is_found_at_once(tmp_path: Path) -> None:
    code = CODE.replace("(params)", "()").replace("(window, connection)", "(window)")
    _model(tmp_path, "one", port=8080, more=", suite: raw", code=code)
    with (tmp_path / "dags" / "configs" / "one.yaml").open("a") as config:
        config.write('gates: {min_rows: many, at_least: "0.6", metric: rocauc}\ntags: foo\n')
    text = "\n".join(check_project(tmp_path, environ={}))
    for wanted in (
        "one.yaml:5: gates.min_rows: got 'many'",
        "one.yaml:5: gates.at_least: got '0.6'",
        "one.yaml:5: gates.metric: scikit-learn has no scorer 'rocauc' - did you mean 'roc_auc'?",
        "one.yaml:6: tags: got 'foo'",
        "one.yaml:4: deploy.port: 8080 is the port of Airflow",
        "expectations/one/raw.json: is missing",
        "one.py:1: build_pipeline must take one argument",
        "one.py:5: read must take two arguments, got read(window)",
    ):
        assert wanted in text


def test_what_is_wrong_in_the_config_is_not_blamed_on_the_model_file(tmp_path: Path) -> None:
    _model(tmp_path, "one", more=", source: {type: cvs}", code="def build_pipeline(params): ...\n")
    (problem,) = check_project(tmp_path, environ={})
    assert "data.source.type: got 'cvs'" in problem


def test_a_broken_yaml_does_not_hide_a_broken_model_file(tmp_path: Path) -> None:
    _model(tmp_path, "one", more=", x: [", code="import nonexistent_module\n")
    found = check_project(tmp_path, environ={})
    assert len(found) == 2
    assert "not valid YAML" in found[0]
    assert found[1].startswith("include/models/one.py: does not import")


def test_a_metric_for_classes_does_not_judge_a_regression(tmp_path: Path) -> None:
    _model(tmp_path, "one")
    with (tmp_path / "dags" / "configs" / "one.yaml").open("a") as config:
        config.write("gates: {metric: roc_auc}\n")
    assert check_project(tmp_path, environ={}) == [
        "dags/configs/one.yaml:5: gates.metric: 'roc_auc' is for classes, and task is regression; choose another, such as r2"
    ]


def test_a_placeholder_that_no_window_has_is_reported(tmp_path: Path) -> None:
    _model(tmp_path, "one", more=", source: {type: csv, path: 'in/{day}.csv'}")
    (problem,) = check_project(tmp_path, environ={})
    assert problem.startswith("dags/configs/one.yaml:3: data.source.path: path 'in/{day}.csv'")


@pytest.mark.parametrize(
    ("path", "warned"), [("in/x.csv", True), ("in/{start:%Y}.csv", False), ("in/*.csv", True), ("in/there.csv", False)]
)
def test_a_file_that_is_not_there_is_a_warning(tmp_path: Path, path: str, warned: bool) -> None:
    _model(tmp_path, "one", more=f", source: {{type: csv, path: '{path}'}}")
    if path == "in/there.csv":
        (tmp_path / "in").mkdir()
        (tmp_path / path).write_text("t,y\n")
    assert check_project(tmp_path, environ={}) == []
    expected = f"dags/configs/one.yaml:3: data.source.path: no file matches '{path}' yet (relative to {tmp_path})"
    assert find_warnings(tmp_path) == ([expected] if warned else [])


def test_an_approver_whom_airflow_does_not_know_is_a_warning_with_its_line(tmp_path: Path) -> None:
    _model(tmp_path, "one")
    with (tmp_path / "dags" / "configs" / "one.yaml").open("a") as config:
        config.write("approval: {required: true, approvers: [adda]}\n")
    environ = {"AIRFLOW_HOME": str(tmp_path), "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_USERS": "ada:user"}
    assert check_project(tmp_path, environ=environ) == []
    (warning,) = find_warnings(tmp_path, environ=environ)
    assert warning.startswith("dags/configs/one.yaml:5: approval.approvers: got 'adda', which is no user of Airflow; allowed are ada")


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
