"""Every task leads to what it made and to the page of its model, also where Airflow is served under a path of its own."""

from pathlib import Path
from types import SimpleNamespace

import pytest
from airflow.sdk import DAG, BaseOperator

from windvane.settings import REPOSITORY
from windvane_airflow.build_dags import build_dags
from windvane_airflow.build_platform_dags import build_platform_dags
from windvane_airflow.operators.model_operator import ModelOperator

CONFIG = "model: asked\ntask: regression\ndata: {time: at, label: y, wait_for: {type: file, path: 'in.csv'}}\napproval: {required: true}\n"


@pytest.fixture
def dags(tmp_path: Path) -> dict[str, DAG]:
    directory = tmp_path / "dags" / "configs"
    directory.mkdir(parents=True)
    (directory / "asked.yaml").write_text(CONFIG)
    (directory / "wrong.yaml").write_text("model: wrong\n")
    return build_dags(tmp_path)


def links(task: BaseOperator) -> dict[str, str]:
    """The buttons of a task and where they lead before anything ran."""
    return {link.name: link.get_link(task, ti_key=None) for link in task.operator_extra_links}


@pytest.mark.parametrize(
    ("dag", "task", "made"),
    [
        ("ingest", "wait", set()),
        ("ingest", "extract", {"Result"}),
        ("ingest", "validate", {"Validation result"}),
        ("ingest", "commit", {"Batches", "Result"}),
        ("train", "plan", {"Snapshot"}),
        ("train", "train", {"MLflow run"}),
        ("train", "register", {"Model version"}),
        ("train", "gate", {"Verdict", "Result"}),
        ("deploy", "approve", {"Challenger"}),
        ("deploy", "package", {"Result", "Releases"}),
        ("deploy", "rehearse", {"Endpoint", "Releases"}),
        ("deploy", "rollout", {"Endpoint", "Releases"}),
        ("deploy", "promote", {"Endpoint", "Releases"}),
        ("monitor", "collect", {"Result"}),
        ("monitor", "decide", {"Report"}),
        ("score", "score", {"Result"}),
    ],
)
def test_each_task_leads_to_what_it_made_and_to_its_model(dags: dict[str, DAG], dag: str, task: str, made: set[str]) -> None:
    found = links(dags[f"asked__{dag}"].get_task(task))
    assert set(found) == made | {"Model"}
    assert found["Model"] == "/plugin/models/asked"


def test_every_task_of_a_model_leads_to_its_page(dags: dict[str, DAG]) -> None:
    without = [
        f"{dag.dag_id}.{task.task_id}"
        for dag in dags.values()
        for task in dag.tasks
        if "/plugin/models/" not in links(task).get("Model", "")
    ]
    assert without == []


def test_a_task_has_no_two_links_that_overwrite_each_other(dags: dict[str, DAG]) -> None:
    for dag in dags.values():
        for task in dag.tasks:
            keys = [link.xcom_key for link in task.operator_extra_links]
            assert len(keys) == len(set(keys)), task.task_id


def test_a_config_that_cannot_be_used_leads_to_the_page_that_says_so(dags: dict[str, DAG]) -> None:
    assert links(dags["wrong__config_error"].get_task("config_error")) == {"Model": "/plugin/models/wrong"}


def test_some_links_open_the_tab_that_shows_the_work(dags: dict[str, DAG]) -> None:
    assert links(dags["asked__ingest"].get_task("commit"))["Batches"] == "/plugin/models/asked?tab=data"
    assert links(dags["asked__train"].get_task("gate"))["Verdict"] == "/plugin/models/asked?tab=challenger"


def test_the_platforms_own_tasks_lead_to_all_models() -> None:
    dags = build_platform_dags(project=REPOSITORY)
    assert links(dags["windvane__reconcile"].get_task("reconcile")) == {"Models": "/plugin/models"}
    assert set(links(dags["windvane__backtest"].get_task("backtest"))) == {"Backtest", "Model"}


@pytest.mark.parametrize("base_url", ["https://here.example/airflow", "https://here.example/airflow/"])
def test_links_start_with_the_path_that_airflow_is_served_under(
    dags: dict[str, DAG], base_url: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("AIRFLOW__API__BASE_URL", base_url)
    monkeypatch.setenv("WINDVANE_VAR", str(tmp_path))
    task = dags["asked__train"].get_task("gate")
    assert links(task)["Model"] == "/airflow/plugin/models/asked"
    assert task.report_url(tmp_path / "reports" / "asked" / "a b.html") == "/airflow/windvane/reports/asked/a%20b.html"


def test_the_result_of_a_task_is_kept_where_its_link_leads(dags: dict[str, DAG], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("WINDVANE_VAR", str(tmp_path))
    monkeypatch.setattr(ModelOperator, "run", lambda self, context: {"rows": 7})
    dag = dags["asked__score"]
    task = ModelOperator(task_id="made", model="asked", project=str(tmp_path), dag=dag)
    run = SimpleNamespace(conf={}, dag_id=dag.dag_id, run_id="manual__2024-01-01T00:00:00+00:00")
    task.execute({"dag": dag, "dag_run": run, "run_id": run.run_id})
    path = links(task)["Result"].removeprefix("/windvane/reports/")
    kept = tmp_path / "reports" / "asked" / "runs" / "asked__score" / "manual__2024-01-01T00%3A00%3A00%2B00%3A00" / "made.json"
    assert path == "asked/runs/asked__score/manual__2024-01-01T00%253A00%253A00%252B00%253A00/made.json"
    assert kept.read_text() == '{\n  "rows": 7\n}'
