"""Asks every part of the platform whether it works."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import requests

from windvane.call_local import local_session
from windvane.config import ModelConfig
from windvane.errors import ConfigError
from windvane.ledger import Ledger
from windvane.load_config import list_configs
from windvane.manage_processes import holder_of, listening
from windvane.record_platform import Platform
from windvane.reload_config import reload_config
from windvane.report_state import read_report
from windvane.settings import Settings

_SILENT_SECONDS = 60.0
_AIRFLOW_PARTS = {"metadatabase": None, "scheduler": "scheduler", "dag_processor": "dag processor", "triggerer": "triggerer"}


def check_health(settings: Settings, platform: Platform) -> dict[str, str]:
    """Look at every part once.

    Returns:
        For each part `ready`, or what it lacks.
    """
    parts = {"airflow": _ask_ours(platform, "airflow", f"{platform.airflow_url}/api/v2/version"), **_airflow_parts(platform)}
    parts["mlflow"] = _ask_ours(platform, "mlflow", f"{platform.mlflow_url}/health")
    parts["reconciler"] = _reconciler_state(settings, platform)
    serving = _serving(settings, platform)
    for config in _local(settings):
        # HAProxy always answers, and is there only when something serves
        if config.deploy.target == "process" or config.model in serving:
            url = f"http://127.0.0.1:{config.deploy.port}/health"
            parts[f"endpoint of {config.model}"] = ask(url, any_status=config.model not in serving)
    return parts


def _serving(settings: Settings, platform: Platform) -> set[str]:
    """The models that must serve by the ledger, once the reconciler had the time to bring them in line."""
    process = platform.process("reconciler")
    if process is None or datetime.now(UTC) - datetime.fromtimestamp(process.created, UTC) < timedelta(seconds=_SILENT_SECONDS):
        return set()
    return _in_ledger(settings)


def _in_ledger(settings: Settings) -> set[str]:
    ledger = Ledger(settings.database)
    try:
        rows = {model: ledger.last(model) for model in ledger.models()}
    finally:
        ledger.close()
    return {model for model, row in rows.items() if row is not None and row.traffic}


def silent_endpoints(settings: Settings) -> list[str]:
    """Tell, for people, of each endpoint that must serve by the ledger and does not."""
    serving = _in_ledger(settings)
    urls = {config.model: f"http://127.0.0.1:{config.deploy.port}/health" for config in _local(settings) if config.model in serving}
    answers = {model: ask(url) for model, url in urls.items()}
    return [f"{model}: the ledger says that it serves, and {urls[model]} {said}" for model, said in answers.items() if said != "ready"]


def _reconciler_state(settings: Settings, platform: Platform) -> str:
    """A reconciler that runs and does not look is as good as none."""
    process = platform.process("reconciler")
    if process is None:
        return "not running"
    seen = read_report(settings).seen
    began = datetime.fromtimestamp(process.created, UTC)
    silent_seconds = (datetime.now(UTC) - max(began, seen or began)).total_seconds()
    return "ready" if silent_seconds < _SILENT_SECONDS else f"has looked at nothing for {silent_seconds:.0f} s"


def _airflow_parts(platform: Platform) -> dict[str, str]:
    process = platform.process("airflow")
    if process is None:
        return {"scheduler": "not running"}
    try:
        health = local_session().get(f"{platform.airflow_url}/api/v2/monitor/health", timeout=5).json()
    except (requests.RequestException, ValueError):
        return {"scheduler": "does not answer"}
    states = {}
    for part, name in _AIRFLOW_PARTS.items():
        value = health.get(part) or {}
        beat = value.get(f"latest_{part}_heartbeat") if name else None
        # a heartbeat from before a crash still counts as healthy for a while
        fresh = name is None or (beat and datetime.fromisoformat(beat) > datetime.fromtimestamp(process.created, UTC))
        states[name or part] = "ready" if value.get("status") == "healthy" and fresh else "no heartbeat yet"
    return states


def _ask_ours(platform: Platform, name: str, url: str) -> str:
    """Like `ask`, and what answers must be what was started: another installation may have taken the port meanwhile."""
    process, port = platform.process(name), platform.ports[name]
    answer = ask(url)
    if answer != "ready" or (process and port in {taken for _, taken in listening([process])}):
        return answer
    return f"port {port} is taken by {holder_of(port)}" if process else "not running"


def ask(url: str, *, any_status: bool = False) -> str:
    """Get an address: `ready`, or what is wrong."""
    try:
        response = local_session().get(url, timeout=5)
    except requests.RequestException:
        return "does not answer"
    return "ready" if any_status or response.ok else f"answers {response.status_code}"


def _local(settings: Settings) -> Iterator[ModelConfig]:
    """The models that answer on this host: what serves in a cluster is looked at where it is brought in line."""
    return (config for config in good_configs(settings) if config.deploy.target != "kubernetes")


def good_configs(settings: Settings) -> Iterator[ModelConfig]:
    """The configs of a project that can be read."""
    for path in list_configs(settings.project):
        try:
            yield reload_config(path)
        except ConfigError:
            continue  # it shows in Airflow as <model>__config_error, and hides no other
