"""What must be done before Airflow starts, on every start: the databases' schema, the pool of trainings, a user for each role."""

import os
import subprocess
import sys
from pathlib import Path


def main() -> None:
    """Do it, and fail if any of it fails."""
    subprocess.run(["airflow", "db", "migrate"], check=True)
    # so that no training waits for a scheduler to make it; `-m` finds what lies beside the installed package only by the path
    plugins = Path(__file__).parents[3] / "plugins"
    subprocess.run([sys.executable, "-m", "windvane_airflow.make_pools"], check=True, env={**os.environ, "PYTHONPATH": str(plugins)})
    # the users' tables are those of the migration
    subprocess.run([sys.executable, str(Path(__file__).with_name("create_users.py"))], check=True)


if __name__ == "__main__":
    main()
