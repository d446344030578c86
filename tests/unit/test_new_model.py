"""`windvane new-model` writes files that pass `windvane check`."""

from pathlib import Path

import pytest

from windvane.check_project import check_project
from windvane.errors import ConfigError
from windvane.load_config import load_model_config
from windvane.new_model import new_model


def test_a_new_model_passes_the_check(tmp_path: Path) -> None:
    written = new_model(tmp_path, "churn")
    assert [path.relative_to(tmp_path).as_posix() for path in written] == ["dags/configs/churn.yaml", "include/models/churn.py"]
    assert check_project(tmp_path) == []


def test_each_new_model_gets_a_port_of_its_own(tmp_path: Path) -> None:
    for name in ("one", "two"):
        new_model(tmp_path, name)
    assert {load_model_config(tmp_path, name).deploy.port for name in ("one", "two")} == {8100, 8101}


def test_existing_files_are_never_overwritten(tmp_path: Path) -> None:
    path = new_model(tmp_path, "churn")[1]
    path.write_text("mine")
    with pytest.raises(ConfigError, match="is there already"):
        new_model(tmp_path, "churn")
    assert path.read_text() == "mine"


@pytest.mark.parametrize("name", ["Churn", "class", "../churn", "a-b", ""])
def test_a_bad_name_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigError, match="allowed are names such as"):
        new_model(tmp_path, name)
    assert list(tmp_path.iterdir()) == []
