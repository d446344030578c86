"""Remembers what was started: in `platform.json`, so that another process finds it again."""

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from windvane.errors import StorageError
from windvane.manage_processes import Managed, is_alive
from windvane.prepare_platform import write_private
from windvane.settings import Settings


@dataclass(frozen=True)
class Platform:
    """What runs, and where.

    Attributes:
        ports: Port of `airflow` and `mlflow`.
        processes: What was started.
        fingerprint: Digest of what the processes read only once.
        project: The team's directory that it runs.
    """

    ports: Mapping[str, int]
    processes: tuple[Managed, ...]
    fingerprint: str
    project: str

    @property
    def airflow_url(self) -> str:
        """Address of Airflow's UI and REST API."""
        return f"http://127.0.0.1:{self.ports['airflow']}"

    @property
    def mlflow_url(self) -> str:
        """Address of MLflow."""
        return f"http://127.0.0.1:{self.ports['mlflow']}"

    def process(self, name: str) -> Managed | None:
        """The process of that name that still runs."""
        return next((process for process in self.processes if process.name == name and is_alive(process)), None)


def read_platform(var: Path) -> Platform | None:
    """What was started last, whether it still runs or not; None when nothing ever was."""
    try:
        value = json.loads((var / "platform.json").read_text(encoding="utf-8"))
        return Platform(
            ports={name: int(port) for name, port in value["ports"].items()},
            processes=tuple(Managed.from_json(process) for process in value["processes"]),
            fingerprint=str(value["fingerprint"]),
            project=str(value["project"]),
        )
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError, AttributeError) as exc:
        raise StorageError(f"{var / 'platform.json'}: cannot be read ({exc}); end what runs by hand and remove the file") from exc


def write_platform(var: Path, platform: Platform) -> None:
    """Replace the record."""
    value: dict[str, Any] = {
        "project": platform.project,
        "fingerprint": platform.fingerprint,
        "ports": dict(platform.ports),
        "processes": [process.as_json() for process in platform.processes],
    }
    write_private(var / "platform.json", json.dumps(value, indent=2))


def of_platform(settings: Settings, *, environ: Mapping[str, str] = os.environ) -> Settings:
    """The settings with the address of the MLflow that was started here, unless the environment names another."""
    platform = read_platform(settings.var)
    if platform is None or environ.get("MLFLOW_TRACKING_URI"):
        return settings
    return replace(settings, mlflow_uri=platform.mlflow_url)
