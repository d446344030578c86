"""How often the DAG processor parses: it rests longer the more models there are."""

import importlib.util
import os
import sys
from pathlib import Path

import pytest
from airflow.configuration import conf

from windvane.settings import REPOSITORY

SETTING = "AIRFLOW__DAG_PROCESSOR__MIN_FILE_PROCESS_INTERVAL"


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
    (tmp_path / "configs").mkdir()
    for number in range(models):
        (tmp_path / "configs" / f"model_{number}.yaml").touch()
    monkeypatch.setenv("AIRFLOW__CORE__DAGS_FOLDER", str(tmp_path))
    monkeypatch.setenv(SETTING, asked or "")
    if asked is None:
        monkeypatch.delenv(SETTING)
    monkeypatch.setattr(sys, "argv", ["airflow", "dag-processor"])
    load_settings()
    assert conf.getint("dag_processor", "min_file_process_interval") == seconds


def test_other_processes_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(SETTING, "7")
    monkeypatch.setattr(sys, "argv", ["airflow", "api-server"])
    load_settings()
    assert os.environ[SETTING] == "7"


def load_settings() -> None:
    spec = importlib.util.spec_from_file_location("local_settings_of_parsing", REPOSITORY / "config" / "airflow_local_settings.py")
    assert spec is not None
    assert spec.loader is not None
    spec.loader.exec_module(importlib.util.module_from_spec(spec))
