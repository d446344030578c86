"""What `make compose-up` writes into `.env`."""

import importlib.util
import re
import socket
import stat
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def preparing() -> ModuleType:
    spec = importlib.util.spec_from_file_location("prepare_env", REPOSITORY / "include" / "docker" / "prepare_env.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def environ(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, str]]:
    # the path of a socket may have few characters
    monkeypatch.chdir(tmp_path)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind("docker.sock")
        yield {"DOCKER_HOST": f"unix://{tmp_path / 'docker.sock'}"}


def read(path: Path) -> dict[str, str]:
    return dict(line.split("=", 1) for line in path.read_text().splitlines() if "=" in line and not line.startswith("#"))


def test_everything_that_the_compose_file_must_have_is_written_once(preparing: ModuleType, environ: dict[str, str], tmp_path: Path) -> None:
    path, state = tmp_path / ".env", tmp_path / "state"
    added = preparing.prepare_env(path, state=state, environ=environ)
    needed = set(re.findall(r"\$\{(\w+):\?", (REPOSITORY / "docker-compose.yaml").read_text()))
    assert needed
    assert needed <= set(added)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(state.stat().st_mode) == 0o700
    values = read(path)
    assert values["WINDVANE_STATE"] == str(state)
    assert values["AIRFLOW_UID"] not in ("", "0")
    passwords = [value for name, value in values.items() if "PASSWORD" in name or "SECRET" in name or "KEY" in name]
    assert len(set(passwords)) == len(passwords) >= 14
    # what a shell, make and a URL take as it is
    assert all(re.fullmatch(r"[A-Za-z0-9_-]{20,}=?", password) for password in passwords)
    assert preparing.prepare_env(path, state=state, environ=environ) == []
    assert read(path) == values


def test_what_is_there_is_kept(preparing: ModuleType, environ: dict[str, str], tmp_path: Path) -> None:
    path = tmp_path / ".env"
    path.write_text("# mine\nWINDVANE_AIRFLOW_PORT=9090\nREDIS_PASSWORD=chosen-by-hand\n")
    path.chmod(0o644)
    added = preparing.prepare_env(path, state=tmp_path / "state", environ=environ)
    assert "REDIS_PASSWORD" not in added
    assert path.read_text().startswith("# mine\nWINDVANE_AIRFLOW_PORT=9090\nREDIS_PASSWORD=chosen-by-hand\n")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_without_a_socket_nothing_is_written(preparing: ModuleType, tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="start Docker"):
        preparing.prepare_env(tmp_path / ".env", state=tmp_path / "state", environ={"DOCKER_HOST": f"unix://{tmp_path}/none.sock"})
    assert not (tmp_path / ".env").exists()


def test_a_relative_state_is_refused(preparing: ModuleType, environ: dict[str, str], tmp_path: Path) -> None:
    path = tmp_path / ".env"
    path.write_text("WINDVANE_STATE=state\n")
    with pytest.raises(SystemExit, match="absolute"):
        preparing.prepare_env(path, state=tmp_path / "state", environ=environ)
