"""Model files are loaded by path; what is wrong with one is said with its path."""

from pathlib import Path

import pytest

from windvane.config import code_path
from windvane.errors import ModelCodeError
from windvane.model_code import load_model_code
from windvane.settings import REPOSITORY


def test_the_shipped_model_file_has_all_functions() -> None:
    code = load_model_code(code_path(REPOSITORY, "flight_delay"), "flight_delay")
    assert code.read is not None
    assert code.search_space is not None
    assert code.module.__name__ == "windvane_model_flight_delay"


def test_features_are_optional(tmp_path: Path) -> None:
    path = tmp_path / "m.py"
    path.write_text("def build_pipeline(params): return params\n")
    code = load_model_code(path, "m")
    assert code.features("frame") == "frame"
    assert code.read is None


@pytest.mark.parametrize(
    ("text", "message"),
    [
        pytest.param(None, "the model file is missing", id="missing"),
        pytest.param("import nothing_like_this", "does not import: ModuleNotFoundError", id="import"),
        pytest.param("def build(:", "does not import: SyntaxError", id="syntax"),
        pytest.param("x = 1", "has no function build_pipeline", id="function"),
    ],
)
def test_what_is_wrong_is_said_with_the_path(tmp_path: Path, text: str | None, message: str) -> None:
    path = tmp_path / "m.py"
    if text is not None:
        path.write_text(text)
    with pytest.raises(ModelCodeError, match=f"{path}: {message}"):
        load_model_code(path, "m")
