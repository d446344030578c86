"""A config that did not change is not parsed again."""

import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from windvane import reload_config as module
from windvane.config import ModelConfig
from windvane.errors import ConfigError
from windvane.reload_config import reload_config

TEXT = "model: churn\ntask: regression\ndata: {time: at, label: left}\nowner: OWNER\n"


@pytest.fixture
def parsed(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The files that were parsed."""
    found: list[Path] = []
    load: Callable[[Path], ModelConfig] = module.load_config

    def remember(path: Path) -> ModelConfig:
        found.append(path)
        return load(path)

    monkeypatch.setattr(module, "load_config", remember)
    return found


def write(tmp_path: Path, owner: str, *, age_seconds: float = 60) -> Path:
    path = tmp_path / "churn.yaml"
    path.write_text(TEXT.replace("OWNER", owner))
    moment = time.time() - age_seconds
    os.utime(path, (moment, moment))
    return path


def test_an_unchanged_file_is_parsed_once(tmp_path: Path, parsed: list[Path]) -> None:
    path = write(tmp_path, "ann")
    assert [reload_config(path).owner for _ in range(3)] == ["ann"] * 3
    assert parsed == [path]


def test_a_change_is_seen(tmp_path: Path, parsed: list[Path]) -> None:
    assert reload_config(write(tmp_path, "ann")).owner == "ann"
    assert reload_config(write(tmp_path, "bob", age_seconds=30)).owner == "bob"


def test_a_file_that_was_written_just_now_is_parsed_again(tmp_path: Path, parsed: list[Path]) -> None:
    path = write(tmp_path, "ann", age_seconds=0)
    before = path.stat()
    reload_config(path)
    path.write_text(TEXT.replace("OWNER", "bob"))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert reload_config(path).owner == "bob"


def test_problems_are_remembered_too(tmp_path: Path, parsed: list[Path]) -> None:
    path = write(tmp_path, "{}")
    told = []
    for _ in range(2):
        with pytest.raises(ConfigError) as caught:
            reload_config(path)
        told.append(caught.value.problems)
    assert told[0] == told[1]
    assert "owner" in told[0][0]
    assert parsed == [path]


def test_another_target_is_another_config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path, "ann")
    assert reload_config(path).deploy.target == "process"
    monkeypatch.setenv("WINDVANE_TARGET", "docker")
    assert reload_config(path).deploy.target == "docker"


def test_a_file_that_is_gone_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        reload_config(tmp_path / "gone.yaml")
