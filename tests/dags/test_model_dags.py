"""Each config becomes five DAGs, from one DAG file; a bad config becomes a visible one and hides nothing."""

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from airflow.sdk import DAG
from airflow.serialization.serialized_objects import DagSerialization
from jinja2 import Environment

from windvane.errors import ConfigError
from windvane.settings import REPOSITORY
from windvane_airflow.build_dags import build_dags
from windvane_airflow.build_platform_dags import build_platform_dags
from windvane_airflow.operators.model_operator import refuse_unknown_conf

MINIMAL = "model: {model}\ntask: regression\ndata: {{time: at, label: y{data}}}\n"


def project_with(tmp_path: Path, **configs: str) -> Path:
    directory = tmp_path / "dags" / "configs"
    directory.mkdir(parents=True)
    for model, text in configs.items():
        (directory / f"{model}.yaml").write_text(text)
    return tmp_path


def edges(dag: DAG) -> dict[str, set[str]]:
    return {task.task_id: set(task.downstream_task_ids) for task in dag.tasks}


def test_the_dag_bag_has_no_import_errors() -> None:
    from airflow.dag_processing.dagbag import DagBag

    bag = DagBag(str(REPOSITORY / "dags"))
    assert bag.import_errors == {}
    assert {f"flight_delay__{kind}" for kind in ("ingest", "train", "deploy", "monitor", "score")} < set(bag.dags)
    assert "windvane__reconcile" in bag.dags


def test_the_tasks_of_each_dag() -> None:
    dags = build_dags(REPOSITORY)
    assert edges(dags["flight_delay__ingest"]) == {"extract": {"validate"}, "validate": {"commit"}, "commit": set()}
    assert list(dags["flight_delay__train"].task_ids) == ["plan", "train", "register", "gate"]
    assert list(dags["flight_delay__deploy"].task_ids) == ["package", "rehearse", "rollout", "promote"]
    assert edges(dags["flight_delay__monitor"]) == {"collect": {"decide"}, "decide": set()}


SEARCHING = (
    MINIMAL.format(model="shared", data="").replace("{", "{{").replace("}", "}}")
    + "train: {{search: {{trials: {trials}, workers: {workers}}}}}\n"
)


def test_a_shared_search_is_mapped_over_the_workers_of_the_train_queue(tmp_path: Path) -> None:
    config = SEARCHING.format(trials=10, workers=3)
    dag = build_dags(project_with(tmp_path, shared=config), only="shared__train")["shared__train"]
    assert edges(dag) == {
        "plan": {"search", "train", "gate"},
        "search": {"train"},
        "train": {"register"},
        "register": {"gate"},
        "gate": set(),
    }
    # without a plan it has no success, and does not run
    assert dag.get_task("train").trigger_rule == "all_done_min_one_success"
    search = dag.get_task("search")
    assert search.is_mapped
    assert search.queue == dag.get_task("train").queue == "train"
    assert search.pool == dag.get_task("train").pool
    assert search.retries == dag.get_task("train").retries > 0
    assert search.retry_policy is dag.get_task("train").retry_policy
    # rendered by the task; the number of instances is in the serialised DAG that the scheduler reads
    again = DagSerialization.deserialize_dag(json.loads(json.dumps(DagSerialization.serialize_dag(dag)))).get_task("search")
    assert again.get_parse_time_mapped_ti_count() == 3
    context = {"ti": SimpleNamespace(map_index=1)}
    assert Environment().from_string(search.map_index_template).render(context) == "worker 2 of 3"


@pytest.mark.parametrize(("trials", "workers", "tasks"), [(10, 1, 0), (1, 8, 0), (4, 8, 4)])
def test_a_search_has_no_more_tasks_than_trials(tmp_path: Path, trials: int, workers: int, tasks: int) -> None:
    config = SEARCHING.format(trials=trials, workers=workers)
    dag = build_dags(project_with(tmp_path, shared=config), only="shared__train")["shared__train"]
    assert "search" in dag.task_ids if tasks else list(dag.task_ids) == ["plan", "train", "register", "gate"]
    assert {task.trigger_rule for task in dag.tasks if not tasks or task.task_id != "train"} == {"all_success"}
    if tasks:
        assert dag.get_task("search").expand_input.value == {"worker": list(range(tasks))}


@pytest.mark.parametrize(
    ("kind", "asset"), [("train", "flight_delay/retrain"), ("deploy", "flight_delay/challenger"), ("monitor", "flight_delay/data")]
)
def test_the_loop_is_closed_by_assets(kind: str, asset: str) -> None:
    schedule = DagSerialization.serialize_dag(build_dags(REPOSITORY)[f"flight_delay__{kind}"])
    assert asset in json.dumps(schedule["timetable"])


def test_one_run_at_a_time_except_for_deploy() -> None:
    runs = {dag_id: dag.max_active_runs for dag_id, dag in build_dags(REPOSITORY).items()}
    assert runs.pop("flight_delay__deploy") > 1
    assert set(runs.values()) == {1}


def test_a_task_process_builds_its_own_dag_only(monkeypatch: pytest.MonkeyPatch) -> None:
    assert list(build_dags(REPOSITORY, only="flight_delay__train")) == ["flight_delay__train"]
    assert build_dags(REPOSITORY, only="something_else") == {}


def test_params_are_the_dags_and_their_defaults_are_right() -> None:
    """Airflow checks neither, because tasks that hold copies, and a check for each model, are most of parsing many of them."""
    for dag_id, dag in build_dags(REPOSITORY).items():
        assert set(dag.params.validate().values()) == {None}, dag_id
        assert not any(task.params for task in dag.tasks), dag_id


def test_a_run_gives_its_tasks_the_params_of_the_dag() -> None:
    from airflow.sdk.definitions.param import process_params

    dag = build_dags(REPOSITORY)["flight_delay__deploy"]
    given = process_params(dag, dag.get_task("package"), {"version": 3}, suppress_exception=False)
    assert given == {"version": 3}


def test_serialisation_is_deterministic() -> None:
    once, twice = ({i: DagSerialization.serialize_dag(d) for i, d in build_dags(REPOSITORY).items()} for _ in range(2))
    assert json.dumps(once, sort_keys=True, default=str) == json.dumps(twice, sort_keys=True, default=str)


def test_a_bad_config_becomes_a_visible_dag_and_hides_no_other(tmp_path: Path) -> None:
    project = project_with(
        tmp_path, bad=MINIMAL.format(model="bad", data="", x=1) + "extra: 1\n", good=MINIMAL.format(model="good", data="")
    )
    dags = build_dags(project)
    assert {dag_id for dag_id in dags if dag_id.startswith("bad")} == {"bad__config_error"}
    assert "unknown field 'extra'" in (dags["bad__config_error"].doc_md or "")
    assert len([dag_id for dag_id in dags if dag_id.startswith("good__")]) == 5
    with pytest.raises(Exception, match="unknown field 'extra'"):
        dags["bad__config_error"].get_task("config_error").execute({})


def test_waiting_for_a_file_comes_first(tmp_path: Path) -> None:
    config = MINIMAL.format(model="waits", data=", wait_for: {type: file, path: 'in/{start:%Y}.csv'}")
    dag = build_dags(project_with(tmp_path, waits=config), only="waits__ingest")["waits__ingest"]
    assert edges(dag)["wait"] == {"extract"}


def test_scheduled_retraining_has_a_clock(tmp_path: Path) -> None:
    config = MINIMAL.format(model="weekly", data="") + "retrain: {schedule: '0 3 * * 1', on: [schedule, decision]}\n"
    dag = build_dags(project_with(tmp_path, weekly=config))["weekly__train"]
    assert "0 3 * * 1" in json.dumps(DagSerialization.serialize_dag(dag)["timetable"])


def test_an_approval_comes_before_everything(tmp_path: Path) -> None:
    config = MINIMAL.format(model="asked", data="") + "approval: {required: true}\n"
    dag = build_dags(project_with(tmp_path, asked=config))["asked__deploy"]
    assert edges(dag)["approve"] == {"package"}
    assert dag.get_task("approve").upstream_task_ids == set()


def test_data_errors_fail_fast_and_infrastructure_is_retried() -> None:
    from airflow.sdk import RetryAction

    from windvane.errors import DataError, ServiceUnavailable

    task = build_dags(REPOSITORY)["flight_delay__ingest"].get_task("extract")
    assert task.retries > 0
    decide = task.retry_policy.evaluate
    assert decide(DataError("empty"), 1, 3).action is RetryAction.FAIL
    assert decide(ServiceUnavailable("MLflow"), 1, 3).action is RetryAction.RETRY
    assert decide(OSError("unknown"), 1, 3).action is RetryAction.DEFAULT


def trigger(dag: DAG, conf: dict[str, object]) -> dict[str, object]:
    """What the first task of a run sees when it was triggered with a conf, as far as it looks at it."""
    return {"dag": dag, "dag_run": SimpleNamespace(conf=conf), "params": {**dag.params.dump(), **conf}}


def first_task(dag: DAG) -> Any:
    (root,) = dag.roots
    return root


@pytest.mark.parametrize("kind", ["ingest", "train", "deploy", "monitor", "score", "wait", "approve"])
def test_a_key_that_the_dag_does_not_know_fails_its_first_task(tmp_path: Path, kind: str) -> None:
    config = MINIMAL.format(model="strict", data=", wait_for: {type: file, path: 'in/{start:%Y}.csv'}" if kind == "wait" else "")
    config += "approval: {required: true}\n" if kind == "approve" else ""
    dag = build_dags(project_with(tmp_path, strict=config))[f"strict__{ {'wait': 'ingest', 'approve': 'deploy'}.get(kind, kind) }"]
    known = "version" if "version" in dag.params else "window_start"
    mistyped = known[:-2] + known[-1] + known[-2]
    with pytest.raises(ConfigError, match=f"conf: unknown key '{mistyped}' - did you mean '{known}'"):
        first_task(dag).execute(trigger(dag, {mistyped: "previous", known: None}))


def test_a_run_of_the_reconciler_takes_no_conf() -> None:
    dag = build_platform_dags(project=REPOSITORY)["windvane__reconcile"]
    with pytest.raises(ConfigError, match="conf: unknown key 'model'; allowed: none"):
        first_task(dag).execute(trigger(dag, {"model": "churn"}))
    assert first_task(dag).retries == 0


@pytest.mark.parametrize("conf", [None, {}, {"window_start": None, "window_end": None}])
def test_keys_that_the_dag_knows_are_let_through(conf: dict[str, object] | None) -> None:
    dag = build_dags(REPOSITORY)["flight_delay__train"]
    refuse_unknown_conf({"dag": dag, "dag_run": SimpleNamespace(conf=conf)})


def test_a_config_error_is_not_retried() -> None:
    from airflow.sdk import RetryAction

    for dag in build_dags(REPOSITORY).values():
        assert first_task(dag).retry_policy.evaluate(ConfigError(["conf: unknown key 'versoin'"]), 1, 3).action is RetryAction.FAIL


def test_a_cron_that_no_clock_knows_hides_no_other_model(tmp_path: Path) -> None:
    project = project_with(
        tmp_path, bad=MINIMAL.format(model="bad", data=", schedule: '99 9 * * *'"), good=MINIMAL.format(model="good", data="")
    )
    assert {dag_id.split("__")[1] for dag_id in build_dags(project) if dag_id.startswith("bad")} == {"config_error"}


def test_parsing_imports_nothing_heavy() -> None:
    heavy = ["pandas", "numpy", "pyarrow", "deltalake", "sklearn", "mlflow", "great_expectations", "evidently", "docker", "optuna"]
    program = (
        "import sys; from pathlib import Path; import airflow.sdk.definitions.dag; before = set(sys.modules);"
        "from windvane_airflow.build_dags import build_dags;"
        f"build_dags(Path({str(REPOSITORY)!r})); print([m for m in {heavy} if m in set(sys.modules) - before])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "PYTHONPATH": "plugins"},
        cwd=REPOSITORY,
    )
    assert done.stdout.strip().splitlines()[-1] == "[]", done.stderr[-2000:]
