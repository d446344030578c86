"""Tells what of the platform runs, where it answers, and what each model serves."""

from dataclasses import asdict, dataclass
from typing import Any

from windvane.check_health import check_health
from windvane.endpoint_url import public_url
from windvane.errors import ConfigError
from windvane.ledger import Ledger
from windvane.load_config import list_configs, load_config
from windvane.manage_processes import is_alive
from windvane.record_platform import read_platform
from windvane.settings import Settings


@dataclass(frozen=True)
class Part:
    """A part of the platform: its state is `ready` or what it lacks."""

    name: str
    state: str
    address: str


@dataclass(frozen=True)
class Serving:
    """What a model serves by the ledger."""

    model: str
    version: str
    since: str
    reason: str
    endpoint: str


@dataclass(frozen=True)
class PlatformState:
    """The whole of it."""

    parts: tuple[Part, ...]
    serving: tuple[Serving, ...]

    @property
    def is_up(self) -> bool:
        """Whether every part is ready."""
        return bool(self.parts) and all(part.state == "ready" for part in self.parts)

    def as_json(self) -> dict[str, Any]:
        """The state as JSON values."""
        return {"up": self.is_up, **asdict(self)}


def describe_platform(settings: Settings) -> PlatformState:
    """Look once at everything; starts and changes nothing."""
    return PlatformState(parts=_parts(settings), serving=_serving(settings))


def _parts(settings: Settings) -> tuple[Part, ...]:
    platform = read_platform(settings.var)
    if platform is None or not any(map(is_alive, platform.processes)):
        return (Part("platform", "not running; `make up` starts it", ""),)
    addresses = {"airflow": platform.airflow_url, "mlflow": platform.mlflow_url}
    return tuple(Part(name, state, addresses.get(name, "")) for name, state in check_health(settings, platform).items())


def _serving(settings: Settings) -> tuple[Serving, ...]:
    found = []
    ledger = Ledger(settings.database)
    for path in list_configs(settings.project):
        try:
            config = load_config(path)
        except ConfigError as exc:
            found.append(Serving(path.stem, "?", "", exc.problems[0], ""))
            continue
        row = ledger.last(config.model)
        endpoint = f"{public_url(config)}/invocations"
        if row is None or row.serving is None:
            found.append(Serving(config.model, "nothing", "", "no version was promoted yet", endpoint))
        else:
            shares = ", ".join(f"{version} ({percent}%)" if percent < 100 else str(version) for version, percent in row.traffic.items())
            found.append(Serving(config.model, shares, f"{row.time:%Y-%m-%d %H:%M:%S}", row.reason, endpoint))
    ledger.close()
    return tuple(found)
