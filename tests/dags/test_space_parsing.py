"""How often the DAG processor parses: it rests longer the more models there are."""

import importlib.util
import os
import sys
from pathlib import Path

import pytest
from airflow.configuration import conf

from windvane.settings import REPOSITORY

SETTING = "AIRFLOW__DAG_PROCESSOR__MIN_FILE_PROCESS_INTERVAL"
STALE = "AIRFLOW__DAG_PROCESSOR__STALE_DAG_THRESHOLD"


@pytest.mark.parametrize(
    ("models", "asked", "seconds"),
    [
        pytest.param(0, None, 5, id="as in airflow.cfg"),
        pytest.param(20, None, 5, id="few"),
        pytest.param(120, None, 24, id="many"),
        pytest.param(120, "60", 60, id="somebody asked for more"),
    ],
)
def test_the_more_models_the_longer_the_rest(
    models: int, asked: str | None, seconds: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    start_processor(tmp_path, monkeypatch, models=models, **({SETTING: asked} if asked else {}))
    assert conf.getint("dag_processor", "min_file_process_interval") == seconds


@pytest.mark.parametrize(
    ("models", "parsing"), [pytest.param(0, 0.5, id="none"), pytest.param(40, 2, id="some"), pytest.param(500, 11, id="hundreds")]
)
def test_dags_go_after_the_second_parsing_without_them_and_not_after_one(
    models: int, parsing: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    start_processor(tmp_path, monkeypatch, models=models)
    turn = conf.getint("dag_processor", "min_file_process_interval") + parsing
    # Airflow compares the end of the newest parsing, failed or not, with when the DAG was last seen
    assert turn < conf.getint("dag_processor", "stale_dag_threshold") < 2 * turn


def test_a_longer_patience_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    start_processor(tmp_path, monkeypatch, models=40, **{STALE: "600"})
    assert conf.getint("dag_processor", "stale_dag_threshold") == 600


def test_other_processes_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(SETTING, "7")
    monkeypatch.setattr(sys, "argv", ["airflow", "api-server"])
    load_settings()
    assert os.environ[SETTING] == "7"


def start_processor(folder: Path, monkeypatch: pytest.MonkeyPatch, *, models: int, **asked: str) -> None:
    (folder / "configs").mkdir()
    for number in range(models):
        (folder / "configs" / f"model_{number}.yaml").touch()
    monkeypatch.setenv("AIRFLOW__CORE__DAGS_FOLDER", str(folder))
    for setting in (SETTING, STALE):
        # set first, so that what is set in between is undone
        monkeypatch.setenv(setting, asked.get(setting, ""))
        if setting not in asked:
            monkeypatch.delenv(setting)
    monkeypatch.setattr(sys, "argv", ["airflow", "dag-processor"])
    load_settings()


def load_settings() -> None:
    spec = importlib.util.spec_from_file_location("local_settings_of_parsing", REPOSITORY / "config" / "airflow_local_settings.py")
    assert spec is not None
    assert spec.loader is not None
    spec.loader.exec_module(importlib.util.module_from_spec(spec))
