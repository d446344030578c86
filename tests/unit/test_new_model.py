"""`windvane new-model` writes files that pass `windvane check`."""

from pathlib import Path

import pytest

from windvane.check_project import check_project, find_warnings
from windvane.errors import ConfigError
from windvane.load_config import load_model_config
from windvane.model_code import load_model_code
from windvane.new_model import new_model


def test_a_new_model_passes_the_check(tmp_path: Path) -> None:
    written = new_model(tmp_path, "churn")
    assert [path.relative_to(tmp_path).as_posix() for path in written] == ["dags/configs/churn.yaml", "include/models/churn.py"]
    assert check_project(tmp_path) == []


def test_a_template_starts_no_run_and_is_named_until_it_is_filled_in(tmp_path: Path) -> None:
    path = new_model(tmp_path, "churn")[1]
    assert load_model_config(tmp_path, "churn").data.schedule is None
    (warning,) = find_warnings(tmp_path)
    assert warning.startswith("include/models/churn.py: read() is still the template's")
    code = load_model_code(path, "churn")
    with pytest.raises(NotImplementedError, match="write read"):
        code.read(None, None)
    path.write_text(path.read_text().replace('raise NotImplementedError("write read() first")', "return None"))
    assert find_warnings(tmp_path) == []


def test_the_port_of_a_config_with_problems_is_taken_too(tmp_path: Path) -> None:
    config = new_model(tmp_path, "one")[0]
    config.write_text(config.read_text() + "extra: 1\n")
    new_model(tmp_path, "two")
    assert load_model_config(tmp_path, "two").deploy.port == 8101


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
