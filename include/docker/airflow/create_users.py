"""Creates the four users of Airflow, one for each role, or gives them the passwords of `.env` again."""

import os

from airflow.providers.fab.auth_manager.cli_commands.utils import get_application_builder

_ROLES = {"viewer": "Viewer", "user": "User", "op": "Op", "admin": "Admin"}


def main() -> None:
    """Create or update every user."""
    with get_application_builder() as builder:
        manager = builder.sm
        for name, role in _ROLES.items():
            password, found = os.environ[f"AIRFLOW_{name.upper()}_PASSWORD"], manager.find_user(username=name)
            if found:
                manager.reset_password(found.id, password)
            elif not manager.add_user(name, name, "Windvane", f"{name}@localhost", manager.find_role(role), password):
                raise SystemExit(f"user {name} could not be created; the log above says why")
            print(f"user {name}: role {role}")


if __name__ == "__main__":
    main()
