"""Writes the file from which MLflow's server reads how people sign in, and becomes the server.

The file exists only in the container's memory: it has the database's password in it, which MLflow takes from nowhere else.
"""

import os
import sys
from pathlib import Path

_PATH = Path("/tmp/mlflow_auth.ini")


def main(command: list[str]) -> None:
    """Write the file, then run the command in place of this process."""
    _PATH.touch(mode=0o600)
    # whoever is not the administrator gets what he was given, and nothing by himself
    _PATH.write_text(
        "[mlflow]\n"
        "default_permission = NO_PERMISSIONS\n"
        f"database_uri = {os.environ['MLFLOW_BACKEND_STORE_URI'].replace('%', '%%')}\n"
        "authorization_function = mlflow.server.auth:authenticate_request_basic_auth\n"
        # a password is compared slowly, on purpose; every call of a training has one
        "auth_cache_ttl_seconds = 60\n",
        encoding="utf-8",
    )
    os.environ["MLFLOW_AUTH_CONFIG_PATH"] = str(_PATH)
    os.execvp(command[0], command)


if __name__ == "__main__":
    main(sys.argv[1:])
