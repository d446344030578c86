"""Registers Windvane's pages in Airflow's web server, nothing else: every task process executes this file too."""

import sys
from typing import Any

from airflow.plugins_manager import AirflowPlugin


class WindvanePlugin(AirflowPlugin):
    """Serves reports to logged-in users under /windvane."""

    name = "windvane"

    @property
    def fastapi_apps(self) -> list[dict[str, Any]]:
        """The web application, built only in the API server."""
        if "api-server" not in sys.argv:
            return []
        from windvane_airflow.ui.serve_reports import build_app

        return [{"app": build_app(), "url_prefix": "/windvane", "name": "Windvane"}]
