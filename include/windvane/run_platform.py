"""Starts, watches and stops the embedded platform: Airflow standalone, MLflow and the reconciler, all on 127.0.0.1."""

import fcntl
import os
import sqlite3
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from windvane import prepare_platform
from windvane.check_health import ask, check_health, good_configs
from windvane.errors import ConfigError, ServiceUnavailable, StorageError
from windvane.load_config import read_target
from windvane.manage_processes import Managed, holder_of, is_alive, listening, start_process, stop_processes
from windvane.record_platform import Platform, read_platform, write_platform
from windvane.settings import Settings

_START_SECONDS = 240
_PATIENCE_SECONDS = 15
_POLL_SECONDS = 0.2

Say = Callable[[str], None]


def start_platform(settings: Settings, *, say: Say = print, environ: Mapping[str, str] = os.environ) -> Platform:
    """Start what does not run yet and wait until all of it answers; when all of it does, nothing is done.

    Raises:
        ConfigError: If a setting of the environment is wrong, before anything is touched; if a port is taken, or another
            `windvane up` is at work.
        ServiceUnavailable: If something does not start; with the end of its log.
    """
    read_target(environ)
    for setting, _ in (prepare_platform.AIRFLOW_PORT, prepare_platform.MLFLOW_PORT):
        prepare_platform.asked_port(setting, environ)
    _make_directories(settings)
    with _only_one(settings.var):
        fingerprint = prepare_platform.fingerprint(settings, environ=environ)
        before = read_platform(settings.var)
        if before and any(map(is_alive, before.processes)) and before.fingerprint != fingerprint:
            say("The platform's code or settings changed since it was started: restarting it")
            stop_processes(before.processes)
        platform = _start_missing(settings, before, fingerprint=fingerprint, say=say, environ=environ)
        _wait_until_healthy(settings, platform, say=say)
        exposed = [f"{host}:{port}" for host, port in listening(platform.processes) if host not in ("127.0.0.1", "::1")]
        if exposed:
            stop_processes(platform.processes)
            raise ServiceUnavailable(f"platform: something listens outside this machine, on {', '.join(exposed)}; it was stopped again")
        return platform


def stop_platform(settings: Settings) -> int:
    """Stop exactly what `start_platform` started, with all children.

    Returns:
        The number of processes and containers that were stopped.

    Raises:
        ServiceUnavailable: If containers were started and the Docker engine does not answer now.
    """
    platform = read_platform(settings.var)
    if platform is None:
        # the platform is Compose's to stop, the models are not
        return _stop_containers(settings) if settings.network else 0
    with _only_one(settings.var):
        # the reconciler first: it would start again what is stopped after it
        stopped = stop_processes(process for process in platform.processes if process.name == "reconciler")
        return stopped + stop_processes(platform.processes) + _stop_containers(settings)


def _start_missing(settings: Settings, before: Platform | None, *, fingerprint: str, say: Say, environ: Mapping[str, str]) -> Platform:
    alive = {process.name: process for process in before.processes if is_alive(process)} if before else {}
    if before:
        for name in _sick(settings, before, alive):
            say(f"{name} runs but does not work: restarting it")
            del alive[name]
        stop_processes(process for process in before.processes if process.name not in alive)  # with orphans of what was killed
    ports = _choose_ports(settings, before, alive, say=say, environ=environ)
    keys = prepare_platform.load_secrets(settings.var)
    added = prepare_platform.platform_environment(settings, keys, airflow_port=ports["airflow"], mlflow_port=ports["mlflow"])
    whole = prepare_platform.process_environment(added, var=settings.var, environ=environ)
    prepare_platform.write_private(settings.var / "platform.env", "".join(f"{name}='{value}'\n" for name, value in added.items()))
    prepare_platform.write_airflow_command(settings.var)
    processes: dict[str, Managed] = {}
    for name, command in _commands(settings, ports).items():
        if name not in alive:
            say(f"Starting {name}")
            log = settings.var / "logs" / f"{name}.log"
            alive[name] = start_process(name, command, environ=whole, directory=settings.var, log=log)
        processes[name] = alive[name]
        write_platform(settings.var, Platform(ports, tuple(processes.values()), fingerprint, str(settings.project)))
    return Platform(ports, tuple(processes.values()), fingerprint, str(settings.project))


def _sick(settings: Settings, platform: Platform, alive: Mapping[str, Managed]) -> list[str]:
    """The processes that should be ready by now and are not, also when they are asked again for a while."""
    old = {name for name, process in alive.items() if time.time() - process.created > _START_SECONDS}
    give_up = time.monotonic() + _PATIENCE_SECONDS
    while True:
        health = check_health(settings, platform)
        parts = {
            "mlflow": [health["mlflow"]],
            "airflow": [health.get(part, "") for part in ("airflow", "scheduler", "dag processor", "triggerer")],
        }
        sick = [name for name in sorted(old) if any(state != "ready" for state in parts.get(name, []))]
        if not sick or time.monotonic() > give_up:
            return sick
        time.sleep(1)


def _commands(settings: Settings, ports: Mapping[str, int]) -> dict[str, Sequence[str]]:
    python, mlflow = sys.executable, settings.var / "mlflow"
    return {
        "airflow": [python, str(Path(python).parent / "airflow"), "standalone"],
        "mlflow": [
            *(python, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(ports["mlflow"]), "--workers", "1"),
            *("--backend-store-uri", f"sqlite:///{mlflow / 'mlflow.db'}", "--artifacts-destination", str(mlflow / "artifacts")),
        ],
        "reconciler": [python, "-m", "windvane.cli", "reconcile", "--every", "10"],
    }


def _choose_ports(
    settings: Settings, before: Platform | None, alive: Mapping[str, Managed], *, say: Say, environ: Mapping[str, str]
) -> dict[str, int]:
    models = list(good_configs(settings))
    ports: dict[str, int] = {}
    for name, what, setting in (
        ("airflow", "Airflow", prepare_platform.AIRFLOW_PORT),
        ("mlflow", "MLflow", prepare_platform.MLFLOW_PORT),
    ):
        kept = before.ports.get(name) if before else None
        if name in alive and kept:
            ports[name] = kept
            continue
        reserved = [*ports.values(), *(config.deploy.port for config in models)]
        ports[name], note = prepare_platform.choose_port(what, setting, environ=environ, reserved=reserved, before=kept)
        if note:
            say(note)
    if "reconciler" not in alive:
        for config in models:
            if config.deploy.target == "process":
                _stop_containers(settings, config.model)  # they would keep the port
        problems = [
            f"dags/configs/{config.model}.yaml: deploy.port: {config.deploy.port} is taken by {holder_of(config.deploy.port)}; "
            "stop it or choose a free port"
            for config in models
            if config.deploy.target == "process" and not prepare_platform.is_free(config.deploy.port)
        ]
        if problems:
            raise ConfigError(problems)
    return ports


def _stop_containers(settings: Settings, model: str | None = None) -> int:
    """Stop the containers of all models or of one, if there ever were any."""
    from windvane.docker_target import proxy_directory, stop_containers

    if not proxy_directory(settings, model or "any").parent.is_dir() or (model and not proxy_directory(settings, model).is_dir()):
        return 0
    return len(stop_containers(settings, model))


def _wait_until_healthy(settings: Settings, platform: Platform, *, say: Say) -> None:
    began, ready, warmed = time.monotonic(), set[str](), False
    while True:
        health = check_health(settings, platform)
        for part, state in health.items():
            if state == "ready" and part not in ready:
                ready.add(part)
                say(f"{part} is ready ({time.monotonic() - began:.1f} s)")
        if "airflow" in ready and not warmed:
            # the first request builds the API of the tasks, which would delay the first task
            warmed = ask(f"{platform.airflow_url}/execution/health") == "ready"
        if all(state == "ready" for state in health.values()):
            return
        dead = [process.name for process in platform.processes if not is_alive(process)]
        if dead or time.monotonic() - began > _START_SECONDS:
            missing = [f"{part}: {state}" for part, state in health.items() if state != "ready"]
            late = dead[0] if dead else missing[0].split(":")[0]
            log = settings.var / "logs" / f"{late if late in ('mlflow', 'reconciler') else 'airflow'}.log"
            what = f"{', '.join(dead)} ended" if dead else f"not ready after {_START_SECONDS} s: {'; '.join(missing)}"
            raise ServiceUnavailable(f"platform: {what}. The end of {log}:\n{_last_lines(log)}\n`windvane up` tries again")
        time.sleep(_POLL_SECONDS)


def _make_directories(settings: Settings) -> None:
    try:
        for path in (settings.var, settings.var / "logs", settings.var / "mlflow" / "artifacts", settings.bundles, settings.reports):
            if isinstance(path, Path):
                path.mkdir(parents=True, exist_ok=True)
        settings.var.chmod(0o700)
        # its default journal makes readers and writers wait for each other; the mode stays with the file
        connection = sqlite3.connect(settings.var / "mlflow" / "mlflow.db", timeout=10)
        connection.execute("PRAGMA journal_mode=WAL")
        connection.close()
    except (OSError, sqlite3.Error) as exc:
        raise StorageError(f"{settings.var}: cannot be used for state: {exc}; free space, mend permissions, or set WINDVANE_VAR") from exc


@contextmanager
def _only_one(var: Path) -> Iterator[None]:
    with (var / "platform.lock").open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as exc:
            raise ConfigError([f"{lock.name}: another `windvane up` or `windvane down` is at work here; wait until it is done"]) from exc
        yield


def _last_lines(log: Path, count: int = 15) -> str:
    try:
        return "\n".join(log.read_text(encoding="utf-8", errors="replace").splitlines()[-count:])
    except OSError as exc:
        return f"(no log: {exc.strerror})"
