"""What must be done before Airflow starts, on every start: the databases' schema, and a user for each role."""

import subprocess
import sys
from pathlib import Path


def main() -> None:
    """Do it, and fail if any of it fails."""
    subprocess.run(["airflow", "db", "migrate"], check=True)
    # the users' tables are those of the migration
    subprocess.run([sys.executable, str(Path(__file__).with_name("create_users.py"))], check=True)


if __name__ == "__main__":
    main()
