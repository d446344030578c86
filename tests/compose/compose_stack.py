"""A stack of docker-compose.yaml under a name of its own: brought up from nothing, asked, harmed, and removed."""

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import requests

from windvane.airflow_client import AirflowClient

REPOSITORY = Path(__file__).resolve().parents[2]
MODEL = "flight_delay"
ROW = {
    "flight_id": "2013-08-01-UA-1545-EWR",
    "scheduled_departure": "2013-08-01T21:15:00Z",
    "carrier": "UA",
    "origin": "EWR",
    "dest": "IAH",
    "distance": 1400.0,
}
_PORTS = range(1, 65_536)
_PASSED = ("PATH", "HOME", "DOCKER_HOST", "DOCKER_CONFIG", "XDG_CONFIG_HOME", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY")
# ends what the container's first process started: to the engine that is a crash, and not somebody's wish as `docker kill` is
_CRASH = "import os; os.kill(int(open('/proc/1/task/1/children').read().split()[0]), 9)"
_CRASH_BY_SHELL = "kill -9 $(cut -d' ' -f1 /proc/1/task/1/children)"


def free_port() -> int:
    """A port of 127.0.0.1 where nobody listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def addresses() -> list[str]:
    """The machine's own addresses: its loopback, and those where others reach it."""
    output = subprocess.run(["hostname", "-I"], capture_output=True, text=True, check=True).stdout
    return ["127.0.0.1", *(address for address in output.split() if ":" not in address)]


def open_ports(address: str) -> set[int]:
    """The TCP ports of an address, of all 65,535, where somebody answers."""

    def is_open(port: int) -> bool:
        with socket.socket() as probe:
            probe.settimeout(2)
            return probe.connect_ex((address, port)) == 0

    with ThreadPoolExecutor(64) as pool:
        return {port for port, found in zip(_PORTS, pool.map(is_open, _PORTS, chunksize=64), strict=True) if found}


@dataclass
class Stack:
    """One stack.

    Attributes:
        name: Compose's name of the project.
        root: A directory for its settings, its state and the team's files.
        ports: Of Airflow, MLflow and the model.
        open_before: Address of the machine -> ports that were open there before.
    """

    name: str
    root: Path
    ports: dict[str, int] = field(default_factory=lambda: {name: free_port() for name in ("airflow", "mlflow", "model")})

    open_before: dict[str, set[int]] = field(default_factory=lambda: {address: open_ports(address) for address in addresses()})

    def prepare(self) -> None:
        """Write the settings as `make compose-up` does, and a project whose model answers on a free port."""
        team = self.root / "team"
        for part in ("dags", "expectations", "include/models"):
            shutil.copytree(REPOSITORY / part, team / part, ignore=shutil.ignore_patterns("__pycache__"))
        config = team / "dags" / "configs" / f"{MODEL}.yaml"
        config.write_text(
            re.sub(r"(?m)^  port: \d+$", f"  port: {self.ports['model']}", config.read_text(encoding="utf-8")), encoding="utf-8"
        )
        for folder in [team, *(path for path in team.rglob("*") if path.is_dir())]:
            folder.chmod(0o755)
        self.env_file.write_text(
            f"WINDVANE_AIRFLOW_PORT={self.ports['airflow']}\nWINDVANE_MLFLOW_PORT={self.ports['mlflow']}\nWINDVANE_PROJECT={team}\n",
            encoding="utf-8",
        )
        command = [sys.executable, "include/docker/prepare_env.py", "--env-file", str(self.env_file), "--state", str(self.root / "state")]
        subprocess.run(command, cwd=REPOSITORY, check=True)

    @property
    def env_file(self) -> Path:
        return self.root / "env"

    @property
    def settings(self) -> dict[str, str]:
        """What is in its file."""
        return dict(line.split("=", 1) for line in self.env_file.read_text(encoding="utf-8").splitlines() if "=" in line and line[0] != "#")

    def command(self, *arguments: str) -> list[str]:
        return ["docker", "compose", "--project-name", self.name, "--env-file", str(self.env_file), *arguments]

    @property
    def environment(self) -> Mapping[str, str]:
        # settings of the machine's own stack must not win over those of the file
        return {name: value for name, value in os.environ.items() if name in _PASSED} | {"COMPOSE_PROJECT_NAME": self.name}

    def run(self, *arguments: str, seconds: float = 600) -> str:
        """Run `docker compose`, and return what it printed."""
        done = subprocess.run(
            self.command(*arguments), cwd=REPOSITORY, env=self.environment, capture_output=True, text=True, timeout=seconds, check=False
        )
        assert done.returncode == 0, f"docker compose {' '.join(arguments)}: {done.stdout[-3000:]}{done.stderr[-3000:]}"
        return done.stdout

    def failure(self, *arguments: str, seconds: float = 300) -> str:
        """What `docker compose` printed when it failed, as it should."""
        done = subprocess.run(
            self.command(*arguments), cwd=REPOSITORY, env=self.environment, capture_output=True, text=True, timeout=seconds, check=False
        )
        assert done.returncode != 0, done.stdout
        return done.stdout + done.stderr

    def containers(self, service: str) -> list[dict[str, Any]]:
        """What the engine says of the containers of a service."""
        ids = self.run("ps", "--all", "--quiet", service).split()
        found: list[dict[str, Any]] = json.loads(_docker("inspect", *ids)) if ids else []
        return found

    def windvane(self, *arguments: str) -> str:
        """Run a command of Windvane where the engine is reached."""
        return self.run("exec", "-T", "worker-deploy", "windvane", *arguments)

    def new_key(self) -> dict[str, str]:
        """The headers with a new API key of the model, once its scorers know it."""
        headers = {"X-API-Key": self.windvane("key", "add", MODEL).splitlines()[0]}
        asking = requests.Session()
        asking.trust_env = False
        body = {"dataframe_records": [ROW]}

        def known() -> bool:
            return asking.post(f"{self.endpoint}/invocations", json=body, headers=headers, timeout=10).status_code == 200

        # they read new keys within a second
        wait_for(known, "the key is known", seconds=3, every=0.2)
        return headers

    def crash(self, container: str) -> None:
        """Let a container's main process die by SIGKILL; what restarts it is its restart policy."""
        image = json.loads(_docker("inspect", container))[0]["Config"]["Image"]
        crash = ["python", "-c", _CRASH] if "windvane" in image else ["sh", "-c", _CRASH_BY_SHELL]
        subprocess.run(["docker", "exec", container, *crash], capture_output=True, check=False)

    def client(self, user: str = "admin") -> AirflowClient:
        return AirflowClient(self.airflow, user=user, password=self.settings[f"AIRFLOW_{user.upper()}_PASSWORD"])

    @property
    def airflow(self) -> str:
        return f"http://127.0.0.1:{self.ports['airflow']}"

    @property
    def mlflow(self) -> str:
        return f"http://127.0.0.1:{self.ports['mlflow']}"

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.ports['model']}"

    def remove(self) -> None:
        """Remove all of it: the containers of the models, those of Compose, volumes, networks and the state."""
        if self.containers("worker-deploy"):
            subprocess.run(self.command("stop", "worker-deploy"), cwd=REPOSITORY, env=self.environment, capture_output=True, check=False)
            arguments = ("run", "--rm", "--no-deps", "-T", "--entrypoint", "windvane", "worker-deploy", "down")
            subprocess.run(self.command(*arguments), cwd=REPOSITORY, env=self.environment, capture_output=True, check=False)
        self.run("--profile", "demo", "down", "--volumes", "--timeout", "20")


def wait_for(condition: Callable[[], Any], what: str, *, seconds: float, every: float = 1.0) -> Any:
    """Look until there is something."""
    give_up = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < give_up, f"{what}: not within {seconds:.0f} s"
        time.sleep(every)
    return value


def engine_answers() -> bool:
    """Whether there is Docker with Compose."""
    commands: Sequence[Sequence[str]] = (["docker", "info"], ["docker", "compose", "version"])
    try:
        return all(subprocess.run(command, capture_output=True, check=False).returncode == 0 for command in commands)
    except FileNotFoundError:
        return False


def _docker(*arguments: str) -> str:
    return subprocess.run(["docker", *arguments], capture_output=True, text=True, check=True).stdout
