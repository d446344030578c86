"""WINDVANE_TARGET stands in for `deploy.target` of every config."""

from pathlib import Path

import pytest

from windvane.errors import ConfigError
from windvane.load_config import load_config


@pytest.fixture
def path(tmp_path: Path) -> Path:
    file = tmp_path / "churn.yaml"
    file.write_text("model: churn\ntask: regression\ndata: {time: t, label: y}\ndeploy: {target: process, port: 8123}\n")
    return file


@pytest.mark.parametrize(("value", "target"), [("docker", "docker"), ("kubernetes", "kubernetes"), ("process", "process"), ("", "process")])
def test_the_environment_chooses_the_target_and_nothing_else(path: Path, monkeypatch: pytest.MonkeyPatch, value: str, target: str) -> None:
    monkeypatch.setenv("WINDVANE_TARGET", value)
    assert (load_config(path).deploy.target, load_config(path).deploy.port) == (target, 8123)


def test_an_unknown_target_names_the_setting(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WINDVANE_TARGET", "nomad")
    with pytest.raises(ConfigError, match="WINDVANE_TARGET: got 'nomad', allowed are process, docker, kubernetes;"):
        load_config(path)
