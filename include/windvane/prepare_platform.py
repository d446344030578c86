"""What the processes of the platform are given: ports, secrets and environment; nothing is started here."""

import hashlib
import json
import os
import secrets
import socket
import sys
from base64 import urlsafe_b64encode
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from windvane.errors import ConfigError
from windvane.manage_processes import holder_of
from windvane.settings import REPOSITORY, Settings

AIRFLOW_PORT = ("WINDVANE_AIRFLOW_PORT", 8080)
MLFLOW_PORT = ("WINDVANE_MLFLOW_PORT", 5000)
_PORTS_TRIED = 200

# nothing that is shipped reports to anybody; threads of numeric libraries are worth less than whole tasks
_ALWAYS = {
    "DO_NOT_TRACK": "1",
    "GX_ANALYTICS_ENABLED": "false",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
    "MLFLOW_ENABLE_AI_GATEWAY": "false",
    "SCARF_ANALYTICS": "false",
    "OMP_NUM_THREADS": "1",
    "PYTHONUNBUFFERED": "1",
}


@dataclass(frozen=True)
class Secrets:
    """The keys of one installation; made once, kept in a file that only its owner reads."""

    fernet_key: str
    jwt_secret: str
    api_secret_key: str
    passwords: Mapping[str, str]

    def __repr__(self) -> str:
        return "Secrets(...)"


def load_secrets(var: Path) -> Secrets:
    """Read the keys and the passwords of Airflow's users, and make what is missing."""
    path, passwords_path = var / "secrets.json", passwords_file(var)
    known = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    made = {
        "fernet_key": known.get("fernet_key") or urlsafe_b64encode(os.urandom(32)).decode(),
        "jwt_secret": known.get("jwt_secret") or secrets.token_urlsafe(48),
        "api_secret_key": known.get("api_secret_key") or secrets.token_urlsafe(48),
    }
    passwords = json.loads(passwords_path.read_text(encoding="utf-8") or "{}") if passwords_path.is_file() else {}
    passwords = {user: passwords.get(user) or secrets.token_urlsafe(12) for user in ("admin", "viewer")} | passwords
    for file, value in ((path, made), (passwords_path, passwords)):
        write_private(file, json.dumps(value))
    return Secrets(**made, passwords=passwords)


def passwords_file(var: Path) -> Path:
    """The file from which Airflow's simple auth manager reads its users' passwords."""
    return var / "airflow_passwords.json"


def write_private(path: Path, text: str) -> None:
    """Replace a file by one that only its owner reads, at once or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    with suppress(FileNotFoundError):
        temporary.unlink()
    with open(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def is_free(port: int) -> bool:
    """Whether somebody could listen on a port of 127.0.0.1."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def asked_port(name: str, environ: Mapping[str, str]) -> int | None:
    """The port that a setting asks for; None when it asks for none.

    Raises:
        ConfigError: If it is no port.
    """
    asked = environ.get(name)
    if asked and (not asked.isdigit() or not 1 <= int(asked) <= 65535):
        raise ConfigError([f"{name}: got {asked!r}, allowed is a port from 1 to 65535"])
    return int(asked) if asked else None


def choose_port(
    what: str, setting: tuple[str, int], *, environ: Mapping[str, str], reserved: Iterable[int], before: int | None = None
) -> tuple[int, str | None]:
    """Choose a port on 127.0.0.1: the one that was asked for, else the default or the next free one.

    Args:
        what: Who will listen, for messages.
        setting: Name of the environment variable, and the default.
        environ: Where the variable is looked up.
        reserved: Ports that belong to others of this installation.
        before: The port of last time, kept if it is free.

    Returns:
        The port, and what to tell people if it is not the default.

    Raises:
        ConfigError: If the port that was asked for is taken or is no port.
    """
    name, default = setting
    asked = asked_port(name, environ)
    if asked:
        if not is_free(asked):
            raise ConfigError([f"{name}: port {asked} for {what} is taken by {holder_of(asked)}; stop it or set {name} to a free port"])
        return asked, None
    taken = set(reserved)
    for port in ([before] if before else []) + list(range(default, min(default + _PORTS_TRIED, 65536))):
        if port not in taken and is_free(port):
            note = f"port {default} is taken by {holder_of(default)}: {what} uses {port} (set {name} to choose)"
            return port, note if port != default else None
    raise ConfigError([f"{name}: no port from {default} on is free for {what}; set {name} to a free port"])


def platform_environment(settings: Settings, keys: Secrets, *, airflow_port: int, mlflow_port: int) -> dict[str, str]:
    """The variables that the platform's processes see besides those that are there anyway."""
    airflow, var = f"http://127.0.0.1:{airflow_port}", settings.var
    return {
        **_ALWAYS,
        "AIRFLOW_HOME": str(REPOSITORY),
        **settings.as_environment(),
        "MLFLOW_TRACKING_URI": f"http://127.0.0.1:{mlflow_port}",
        "AIRFLOW__CORE__DAGS_FOLDER": str(settings.project / "dags"),
        "AIRFLOW__CORE__EXECUTION_API_SERVER_URL": f"{airflow}/execution/",
        "AIRFLOW__CORE__FERNET_KEY": keys.fernet_key,
        "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_PASSWORDS_FILE": str(passwords_file(var)),
        "AIRFLOW__API__BASE_URL": airflow,
        "AIRFLOW__API__PORT": str(airflow_port),
        "AIRFLOW__API__SECRET_KEY": keys.api_secret_key,
        "AIRFLOW__API_AUTH__JWT_SECRET": keys.jwt_secret,
        # one writer at a time: the others wait so many seconds before they fail
        "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": f"sqlite:///{var / 'airflow.db'}?timeout=60",
        "AIRFLOW__DAG_PROCESSOR__DAG_BUNDLE_STORAGE_PATH": str(var / "bundles_of_dags"),
        "AIRFLOW__LOGGING__BASE_LOG_FOLDER": str(var / "logs"),
        "AIRFLOW__LOGGING__DAG_PROCESSOR_CHILD_PROCESS_LOG_DIRECTORY": str(var / "logs" / "dag_processor"),
    }


def process_environment(added: Mapping[str, str], *, var: Path, environ: Mapping[str, str] = os.environ) -> dict[str, str]:
    """The whole environment of a process of the platform."""
    # without byte code every import of every process would compile the whole stack again
    inherited = {name: value for name, value in environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    path = os.pathsep.join([str(var / "bin"), str(Path(sys.executable).parent), inherited.get("PATH", os.defpath)])
    return {**inherited, **added, "PATH": path}


def write_airflow_command(var: Path) -> Path:
    """Write the `airflow` that `airflow standalone` finds first on its PATH.

    The log servers of scheduler and triggerer listen on all interfaces and cannot be told otherwise. The web server reads the
    logs from the same disk, so they are left out.
    """
    airflow = Path(sys.executable).parent / "airflow"
    path = var / "bin" / "airflow"
    path.parent.mkdir(parents=True, exist_ok=True)
    text = f"""#!/bin/sh
case "$1" in
  scheduler|triggerer) exec "{sys.executable}" "{airflow}" "$@" --skip-serve-logs ;;
  *) exec "{sys.executable}" "{airflow}" "$@" ;;
esac
"""
    if not path.is_file() or path.read_text(encoding="utf-8") != text:
        temporary = path.with_name(f".airflow.{os.getpid()}")
        temporary.write_text(text, encoding="utf-8")
        temporary.chmod(0o755)
        temporary.replace(path)
    return path


def fingerprint(settings: Settings, *, environ: Mapping[str, str] = os.environ) -> str:
    """Digest of what running processes read only once: the platform's code, its settings and the environment that is for it."""
    digest = hashlib.sha256()
    # where MLflow is becomes known only when it is started
    places = replace(settings, mlflow_uri="").as_environment().values()
    for value in (*places, environ.get("WINDVANE_TARGET", "")):
        digest.update(f"{value}\0".encode())
    code = [path for part in ("include/windvane", "plugins", "config") for path in (REPOSITORY / part).rglob("*.py")]
    for path in sorted([*code, REPOSITORY / "airflow.cfg", REPOSITORY / "requirements.txt"]):
        if path.is_file():
            digest.update(f"{path.relative_to(REPOSITORY)}\0".encode() + path.read_bytes())
    return digest.hexdigest()
