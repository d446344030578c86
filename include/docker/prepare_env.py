"""Writes what docker-compose.yaml needs into `.env`: secrets, and what differs by machine. What is there already is kept.

Needs nothing but Python. `.env` is read by its owner only, and belongs in no repository.
"""

import argparse
import base64
import os
import secrets
import stat
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
_AIRFLOW_UID = 50000
_HEAD = "# Made by include/docker/prepare_env.py for docker-compose.yaml. Keep it: without it the volumes cannot be read.\n"


def _password() -> str:
    return secrets.token_urlsafe(18)


def _secret() -> str:
    return secrets.token_urlsafe(48)


def _fernet_key() -> str:
    return base64.urlsafe_b64encode(os.urandom(32)).decode()


_SECRETS: Mapping[str, Callable[[], str]] = {
    "POSTGRES_PASSWORD": _password,
    "AIRFLOW_DB_PASSWORD": _password,
    "MLFLOW_DB_PASSWORD": _password,
    "WINDVANE_DB_PASSWORD": _password,
    "REDIS_PASSWORD": _password,
    "AIRFLOW_FERNET_KEY": _fernet_key,
    "AIRFLOW_JWT_SECRET": _secret,
    "AIRFLOW_API_SECRET_KEY": _secret,
    "AIRFLOW_VIEWER_PASSWORD": _password,
    "AIRFLOW_USER_PASSWORD": _password,
    "AIRFLOW_OP_PASSWORD": _password,
    "AIRFLOW_ADMIN_PASSWORD": _password,
    "MLFLOW_ADMIN_PASSWORD": _password,
    "MLFLOW_SECRET_KEY": _secret,
    "GRAFANA_ADMIN_PASSWORD": _password,
}


def prepare_env(path: Path, *, state: Path, environ: Mapping[str, str] = os.environ) -> list[str]:
    """Add what is missing to the file, and make the state directory.

    Args:
        path: The file.
        state: Where the state is to be, unless the file says so already.

    Returns:
        The names of what was added.

    Raises:
        SystemExit: If there is no Docker socket.
    """
    text = path.read_text(encoding="utf-8") if path.is_file() else _HEAD
    known = dict(line.split("=", 1) for line in text.splitlines() if "=" in line and not line.lstrip().startswith("#"))
    made = {name: make() for name, make in _SECRETS.items()} | _machine(state, known, environ)
    added = {name: value for name, value in made.items() if name not in known}
    if added:
        text = text.rstrip("\n") + "\n" + "".join(f"{name}={value}\n" for name, value in added.items())
        temporary = path.with_name(f".{path.name}.{os.getpid()}")
        with open(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
            file.write(text)
        temporary.replace(path)
    path.chmod(0o600)
    whole = known | added
    _make_state(Path(whole["WINDVANE_STATE"]), int(whole["AIRFLOW_UID"]))
    return list(added)


def _machine(state: Path, known: Mapping[str, str], environ: Mapping[str, str]) -> dict[str, str]:
    asked = known.get("DOCKER_SOCKET") or environ.get("DOCKER_HOST", "").removeprefix("unix://")
    socket = Path(asked if asked.startswith("/") else "/var/run/docker.sock")
    try:
        found = socket.stat()
    except OSError as exc:
        raise SystemExit(f"{socket}: {exc.strerror}; start Docker, or write DOCKER_SOCKET=<its socket> into .env") from exc
    if not stat.S_ISSOCK(found.st_mode):
        raise SystemExit(f"{socket}: is no socket; write DOCKER_SOCKET=<the socket of Docker> into .env")
    # files of the state then belong to whoever runs this; root runs nothing
    uid = os.getuid() or _AIRFLOW_UID
    return {
        "AIRFLOW_UID": str(uid),
        "DOCKER_GID": str(found.st_gid),
        "DOCKER_SOCKET": str(socket),
        # the same path inside and outside: the Docker engine mounts parts of it into the models' containers
        "WINDVANE_STATE": str(state),
    }


def _make_state(state: Path, uid: int) -> None:
    if not state.is_absolute():
        raise SystemExit(f"WINDVANE_STATE: got {str(state)!r}, allowed is an absolute path")
    state.mkdir(mode=0o700, parents=True, exist_ok=True)
    # mounted by itself, for Prometheus: it must be there, and others than its owner may read it
    (state / "scrape").mkdir(mode=0o755, exist_ok=True)
    for directory in (state, state / "scrape"):
        if os.getuid() == 0 and directory.stat().st_uid != uid:
            os.chown(directory, uid, 0)
    if state.stat().st_uid != uid:
        raise SystemExit(
            f"{state}: belongs to user {state.stat().st_uid}, needed is AIRFLOW_UID ({uid}) of .env; change its owner, or AIRFLOW_UID"
        )


def main() -> int:
    """Read the command line."""
    parser = argparse.ArgumentParser(description="Write what docker-compose.yaml needs into .env; what is there is kept.")
    parser.add_argument("--env-file", type=Path, default=REPOSITORY / ".env", help="default: .env of this repository")
    parser.add_argument("--state", type=Path, default=REPOSITORY / "var-compose", help="directory of the state, default: var-compose")
    options = parser.parse_args()
    added = prepare_env(options.env_file, state=options.state.resolve())
    print(f"{options.env_file}: {f'added {len(added)} settings' if added else 'has all that is needed'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
