"""Makes the state of any number of models and a year, and serves Airflow's pages over it: to develop, to test, to measure.

    python tests/seed_models.py --models 30 --port 18093

No scheduler runs: what is triggered stays queued. Users are admin, editor and viewer; each one's password is their name.
"""

import argparse
import json
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from tempfile import mkdtemp

if __name__ == "__main__":
    sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[1] / "plugins")]

from seed_releases import seed_catalog, seed_ledger
from seed_team import write_team
from tell_stories import Story, tell_stories

from windvane.prepare_platform import load_secrets, passwords_file, platform_environment, process_environment
from windvane.settings import Settings, load_settings

USERS = {"admin": "admin", "editor": "user", "viewer": "viewer"}


def seeded_settings(root: Path) -> Settings:
    """Where the state under a directory is."""
    return load_settings({"WINDVANE_PROJECT": str(root / "team"), "WINDVANE_VAR": str(root / "var")})


def seeded_environment(root: Path, port: int) -> dict[str, str]:
    """The environment of the server over that state."""
    settings = seeded_settings(root)
    settings.var.mkdir(parents=True, exist_ok=True)
    passwords_file(settings.var).write_text(json.dumps({user: user for user in USERS}), encoding="utf-8")
    added = platform_environment(settings, load_secrets(settings.var), airflow_port=port, mlflow_port=5000)
    added["AIRFLOW__LOGGING__LOGGING_LEVEL"] = "WARNING"
    added["AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_USERS"] = ",".join(f"{user}:{role}" for user, role in USERS.items())
    outside = {name: value for name, value in os.environ.items() if not name.startswith(("AIRFLOW", "WINDVANE_", "MLFLOW_"))}
    return process_environment(added, var=settings.var, environ=outside)


def fill(root: Path, models: int, *, seed: int = 7, now: datetime | None = None) -> list[Story]:
    """Make the state; Airflow's settings must be in this process's environment already."""
    now = now or datetime.now(UTC)
    settings, stories = seeded_settings(root), list(tell_stories(models, now=now, seed=seed))
    write_team(root / "team", stories)
    seed_ledger(settings.database, stories)
    seed_catalog(settings, stories, now)
    from airflow.utils.db import initdb
    from airflow.utils.session import create_session
    from seed_airflow import seed_airflow

    initdb()
    with create_session() as session:
        seed_airflow(session, root / "team", stories, now)
    return stories


@contextmanager
def seeded_server(root: Path, models: int, *, plugins: Path | None = None) -> Iterator[str]:
    """A server over a fresh state, until the block ends; its address.

    Args:
        plugins: Directory of plugins; None for the repository's.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    command = [sys.executable, __file__, "--models", str(models), "--port", str(port), "--root", str(root)]
    command += ["--plugins", str(plugins)] if plugins else []
    root.mkdir(parents=True, exist_ok=True)
    with (root / "server.log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
        try:
            url = f"http://127.0.0.1:{port}"
            _wait_for(url, process, root / "server.log", seconds=120 + models)
            yield url
        finally:
            process.terminate()
            process.wait(timeout=30)


def _wait_for(url: str, process: subprocess.Popen[bytes], log: Path, *, seconds: float) -> None:
    give_up = time.monotonic() + seconds
    while time.monotonic() < give_up and process.poll() is None:
        try:
            with urllib.request.urlopen(f"{url}/api/v2/version", timeout=5):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.3)
    raise RuntimeError(f"the server did not start:\n{log.read_text(errors='replace')[-3000:]}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", type=int, default=30)
    parser.add_argument("--port", type=int, default=18093)
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--root", type=Path, help="directory of the state; one that is filled already is served as it is")
    parser.add_argument("--plugins", type=Path, help="directory of plugins instead of the repository's")
    asked = parser.parse_args()
    root = (asked.root or Path(mkdtemp(prefix="windvane-seed-"))).resolve()
    environment = seeded_environment(root, asked.port)
    if asked.plugins:
        environment["AIRFLOW__CORE__PLUGINS_FOLDER"] = str(asked.plugins)
    os.environ.clear()
    os.environ.update(environment)
    if not (root / "filled").exists():
        began = time.monotonic()
        fill(root, asked.models, seed=asked.seed)
        (root / "filled").touch()
        print(f"{asked.models} models in {root} ({time.monotonic() - began:.0f} s)", flush=True)
    print(f"http://127.0.0.1:{asked.port}/plugin/models  users and passwords: {', '.join(f'{u}/{u}' for u in USERS)}", flush=True)
    airflow = str(Path(sys.executable).parent / "airflow")
    os.execve(airflow, [airflow, "api-server", "--port", str(asked.port), "--host", "127.0.0.1", "--workers", "1"], environment)


if __name__ == "__main__":
    main()
