"""What the tasks do shows on the Models page: batches, versions and verdicts go into the catalog, once however often a task runs."""

from collections import defaultdict
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import small_bundle
from airflow.sdk import DAG

from windvane.catalog import Catalog
from windvane.errors import DataError, StorageError
from windvane.settings import load_settings
from windvane.verdict import Gate, Verdict
from windvane.windows import Window
from windvane_airflow.build_dags import build_dags
from windvane_airflow.operators.train_model import RegisterModelOperator

CONFIG = """\
model: churn
task: binary_classification
data: {source: {type: csv, path: rows.csv}, id: customer, time: seen, label: left}
gates: {min_rows: 50}
"""
WINDOW = {"window_start": "2024-01-01T00:00:00Z", "window_end": "2024-01-02T00:00:00Z"}
KEY = "20240101T000000Z-20240102T000000Z"


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("WINDVANE_VAR", str(tmp_path / "var"))
    (tmp_path / "dags" / "configs").mkdir(parents=True)
    (tmp_path / "include" / "models").mkdir(parents=True)
    (tmp_path / "dags" / "configs" / "churn.yaml").write_text(CONFIG)
    (tmp_path / "include" / "models" / "churn.py").write_text(small_bundle.MODEL_FILE)
    return tmp_path


@pytest.fixture
def catalog(project: Path) -> Catalog:
    return Catalog(load_settings().database)


def write_rows(project: Path, rows: list[str]) -> None:
    (project / "rows.csv").write_text("customer,seen,calls,left\n" + "".join(f"{row}\n" for row in rows))


def context_of(dag: DAG, **params: Any) -> dict[str, Any]:
    run = SimpleNamespace(conf=params, dag_id=dag.dag_id, run_id="manual__1", triggering_user_name="ann")
    return {
        "dag": dag,
        "dag_run": run,
        "run_id": run.run_id,
        "params": {**dag.params.dump(), **params},
        "outlet_events": defaultdict(lambda: SimpleNamespace(extra=None, add=lambda *a, **k: None)),
    }


def ingest(project: Path) -> dict[str, Any]:
    """Run the three tasks as Airflow would, what one returns being given to the next."""
    dag = build_dags(project)["churn__ingest"]
    context = context_of(dag, **WINDOW)
    extract, validate, commit = (dag.get_task(task) for task in ("extract", "validate", "commit"))
    validate.staged = extract.execute(context)
    commit.validation = validate.execute(context)
    return dict(commit.execute(context))


def test_a_committed_batch_is_recorded_once(project: Path, catalog: Catalog) -> None:
    write_rows(project, ["a,2024-01-01T01:00:00Z,1.0,0", "b,2024-01-01T02:00:00Z,2.0,1", "b,2024-01-01T02:00:00Z,2.0,1"])
    ingest(project)
    ingest(project)
    (batch,) = catalog.batches("churn", most=10)
    assert (batch["key"], batch["rows"], batch["quarantined"], batch["refused"]) == (KEY, 2, 1, False)
    assert batch["reasons"] == ["customer: the same row again: 1 of 3 rows"]
    assert batch["run"] == "churn__ingest/manual__1"
    assert batch["version"] == 1
    assert (load_settings().reports / batch["report"]).is_file()


def test_a_refused_batch_is_recorded_with_its_reasons(project: Path, catalog: Catalog) -> None:
    write_rows(project, ["a,2024-01-01T01:00:00Z,,0", "b,2024-01-01T02:00:00Z,,1"])
    with pytest.raises(DataError, match="is refused"):
        ingest(project)
    (batch,) = catalog.batches("churn", most=10)
    assert (batch["rows"], batch["quarantined"], batch["refused"], batch["version"]) == (0, 2, True, None)
    assert "column 'calls' holds only nulls" in batch["reasons"][0]
    assert batch["run"] == "churn__ingest/manual__1"


def test_a_batch_that_was_refused_and_then_mended_is_committed(project: Path, catalog: Catalog) -> None:
    write_rows(project, ["a,2024-01-01T01:00:00Z,,0", "b,2024-01-01T02:00:00Z,,1"])
    with pytest.raises(DataError):
        ingest(project)
    write_rows(project, ["a,2024-01-01T01:00:00Z,3.0,0", "b,2024-01-01T02:00:00Z,4.0,1"])
    ingest(project)
    (batch,) = catalog.batches("churn", most=10)
    assert (batch["rows"], batch["quarantined"], batch["refused"], batch["reasons"]) == (2, 0, False, [])


def test_a_catalog_that_cannot_be_written_fails_the_task(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_rows(project, ["a,2024-01-01T01:00:00Z,1.0,0", "b,2024-01-01T02:00:00Z,2.0,1"])
    monkeypatch.setenv("WINDVANE_DB", f"sqlite:///{project}/no-file")
    (project / "no-file").mkdir()
    with pytest.raises(StorageError, match="catalog"):
        ingest(project)


def training(digest: str, **fields: Any) -> dict[str, Any]:
    return {"bundle_digest": digest, "run_id": "r1", "experiment_id": "7", "adopted": False, "seconds": {"fit": 2.0, "read": 0.5}, **fields}


def register(project: Path, given: dict[str, Any]) -> None:
    dag = build_dags(project)["churn__train"]
    task = dag.get_task("register")
    assert isinstance(task, RegisterModelOperator)
    task.training = given
    task.execute(context_of(dag))


@pytest.fixture
def digest(project: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setattr("windvane.register_model.register_model", lambda *a, **k: 3)
    monkeypatch.setenv("WINDVANE_PROJECT", str(project))
    return small_bundle.make_bundle(load_settings(), passed=None).digest


def test_a_version_is_recorded_with_what_its_training_cost(project: Path, catalog: Catalog, digest: str) -> None:
    register(project, training(digest))
    (version,) = catalog.versions("churn")
    assert (version["version"], version["digest"], version["seconds"]) == (3, digest, 2.5)
    assert (version["run"], version["run_id"], version["experiment_id"]) == ("churn__train/manual__1", "r1", "7")
    assert version["size_bytes"] > 1_000


def test_a_training_that_adopts_the_bundle_keeps_what_it_cost(project: Path, catalog: Catalog, digest: str) -> None:
    register(project, training(digest))
    register(project, training(digest, run_id="r2", adopted=True, seconds={}))
    (version,) = catalog.versions("churn")
    assert (version["seconds"], version["run_id"]) == (2.5, "r1")


@pytest.mark.parametrize(
    ("gates", "passed", "reason"),
    [
        ((Gate("size", True, "It is small."), Gate("floor", True, "It is good.")), True, "passed size, floor"),
        (
            (Gate("size", True, "It is small."), Gate("floor", False, "It is 0.4."), Gate("champion", False, "No better.")),
            False,
            "floor: It is 0.4.; champion: No better.",
        ),
    ],
    ids=["passed", "refused"],
)
def test_a_verdict_is_recorded_with_what_refused_it(
    project: Path,
    catalog: Catalog,
    digest: str,
    monkeypatch: pytest.MonkeyPatch,
    gates: tuple[Gate, ...],
    passed: bool,
    reason: str,
) -> None:
    verdict = Verdict(passed=passed, gates=gates, challenger=digest, champion=None, metric="roc_auc", rows=80)
    monkeypatch.setattr("windvane.gate_challenger.gate_challenger", lambda *a, **k: verdict)
    monkeypatch.setattr("windvane.snapshot.Snapshot.from_json", lambda value: None)
    register(project, training(digest))
    dag = build_dags(project)["churn__train"]
    task = dag.get_task("gate")
    task.registered, task.snapshot = {"version": 3, "bundle_digest": digest}, {}
    for _ in range(2):
        task.execute(context_of(dag))
    (version,) = catalog.versions("churn")
    assert (version["passed"], version["verdict"], version["seconds"]) == (passed, reason, 2.5)


def test_the_window_of_the_batch_is_the_one_that_was_asked_for(project: Path, catalog: Catalog) -> None:
    write_rows(project, ["a,2024-01-01T01:00:00Z,1.0,0", "b,2024-01-01T02:00:00Z,2.0,1"])
    made = ingest(project)
    asked = Window.from_extra(WINDOW)
    assert Window.from_extra(made) == asked
    assert [batch["key"] for batch in catalog.batches("churn", most=10)] == [asked.key if asked else None]
