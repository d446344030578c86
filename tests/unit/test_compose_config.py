"""Compose itself reads docker-compose.yaml, with the settings that `make compose-up` writes."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def compose() -> list[str]:
    command = ["docker", "compose"]
    try:
        found = subprocess.run([*command, "version"], capture_output=True, check=False).returncode == 0
    except FileNotFoundError:
        found = False
    if not found:
        (pytest.fail if os.environ.get("WINDVANE_REQUIRE_DOCKER") else pytest.skip)("Docker Compose is not here")
    return command


def run_config(compose: list[str], env_file: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    # settings of this machine must not stand in for those of the file
    environ = {name: value for name, value in os.environ.items() if name in ("PATH", "HOME", "DOCKER_CONFIG")}
    command = [*compose, "--env-file", str(env_file), *arguments]
    return subprocess.run(command, cwd=REPOSITORY, env=environ, capture_output=True, text=True, timeout=60, check=False)


@pytest.mark.parametrize("profiles", [(), ("demo",), ("demo", "grafana")], ids=["plain", "demo", "grafana"])
def test_compose_finds_the_file_right_with_the_settings_of_first_use(compose: list[str], tmp_path: Path, profiles: tuple[str, ...]) -> None:
    env_file = tmp_path / "env"
    prepare = [sys.executable, "include/docker/prepare_env.py", "--env-file", str(env_file), "--state", str(tmp_path / "state")]
    subprocess.run(prepare, cwd=REPOSITORY, check=True, capture_output=True)
    assert env_file.stat().st_mode & 0o777 == 0o600
    chosen = [part for profile in profiles for part in ("--profile", profile)]
    done = run_config(compose, env_file, *chosen, "config", "--services")
    assert (done.returncode, done.stderr) == (0, "")
    assert {"api-server", "worker-train", "worker-deploy", *profiles} <= set(done.stdout.split())


def test_without_settings_compose_says_what_to_run(compose: list[str], tmp_path: Path) -> None:
    (tmp_path / "env").touch()
    done = run_config(compose, tmp_path / "env", "config", "--quiet")
    assert done.returncode != 0
    assert "make compose-up" in done.stderr
