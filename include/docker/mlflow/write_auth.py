"""Prepares what MLflow's server needs, and becomes the server: its database at its own revision, and how people sign in.

The file for that exists only in the container's memory: it has the database's password in it, which MLflow takes from nowhere else.
"""

import os
import sys
import tempfile
from collections.abc import MutableMapping
from pathlib import Path

# the platform's names of the object store's credentials, and those that MLflow's clients read
_NAMES = {
    "AWS_REGION": "AWS_DEFAULT_REGION",
    "GOOGLE_SERVICE_ACCOUNT": "GOOGLE_APPLICATION_CREDENTIALS",
    "AZURE_STORAGE_CLIENT_ID": "AZURE_CLIENT_ID",
    "AZURE_STORAGE_CLIENT_SECRET": "AZURE_CLIENT_SECRET",
    "AZURE_STORAGE_TENANT_ID": "AZURE_TENANT_ID",
    "AZURE_STORAGE_SAS_KEY": "AZURE_STORAGE_SAS_TOKEN",
}


def main(command: list[str]) -> None:
    """Prepare everything, then run the command in place of this process."""
    uri = os.environ["MLFLOW_BACKEND_STORE_URI"]
    upgrade_database(uri)
    translate_names(os.environ)
    # whoever is not the administrator gets what he was given, and nothing by himself
    auth = _write(
        "mlflow_auth.ini",
        "[mlflow]\n"
        "default_permission = NO_PERMISSIONS\n"
        f"database_uri = {uri.replace('%', '%%')}\n"
        "authorization_function = mlflow.server.auth:authenticate_request_basic_auth\n"
        # a password is compared slowly, on purpose; every call of a training has one
        "auth_cache_ttl_seconds = 60\n",
    )
    os.environ["MLFLOW_AUTH_CONFIG_PATH"] = str(auth)
    os.execvp(command[0], command)


def upgrade_database(uri: str) -> None:
    """Run `mlflow db upgrade`, which makes the tables of an empty database and leaves those of today alone.

    The server itself only refuses tables that are too old, unless some are missing.

    Raises:
        SystemExit: If the database was written by a newer MLflow.
    """
    from alembic.util import CommandError

    # not as a command: its arguments, and so the password, could be read by others
    from mlflow.db import upgrade

    try:
        upgrade.main(args=[uri], standalone_mode=False)
    except CommandError as exc:
        raise SystemExit(
            f"MLflow's database cannot be upgraded: {exc}; "
            "a revision that is not known is of a newer MLflow: start that one, or restore the backup from before the upgrade"
        ) from exc


def translate_names(environ: MutableMapping[str, str]) -> None:
    """Give MLflow's clients the credentials under their names too; what is there under these is kept."""
    for ours, theirs in _NAMES.items():
        if environ.get(ours):
            environ.setdefault(theirs, environ[ours])
    key = environ.get("GOOGLE_SERVICE_ACCOUNT_KEY")
    if key and "GOOGLE_APPLICATION_CREDENTIALS" not in environ:
        environ["GOOGLE_APPLICATION_CREDENTIALS"] = str(_write("google_key.json", key))


def _write(name: str, text: str) -> Path:
    path = Path(tempfile.gettempdir()) / name
    path.touch(mode=0o600)
    path.write_text(text, encoding="utf-8")
    return path


if __name__ == "__main__":
    main(sys.argv[1:])
