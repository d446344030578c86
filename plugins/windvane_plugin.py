"""Registers Windvane's pages in Airflow's web server and its pool in the scheduler, no more: every task process executes this file too."""

import sys
from functools import cached_property
from typing import Any

from airflow.plugins_manager import AirflowPlugin


class WindvanePlugin(AirflowPlugin):
    """Puts the Models page into the navigation, and its files, reports and API under /windvane, for logged-in users."""

    name = "windvane"

    @cached_property
    def fastapi_apps(self) -> list[dict[str, Any]]:
        """The web application, built only in the API server."""
        if "api-server" not in sys.argv:
            return []
        from windvane_airflow.ui.build_app import build_app
        from windvane_airflow.ui.log_actions import log_actions_aside

        log_actions_aside()
        return [{"app": build_app(), "url_prefix": "/windvane", "name": "Windvane"}]

    @cached_property
    def react_apps(self) -> list[dict[str, Any]]:
        """The Models page in the navigation; an item that Airflow does not like would make the whole plugin vanish from it."""
        if "api-server" not in sys.argv:
            return []
        from windvane_airflow.ui.serve_page import models_page

        return [models_page()]

    @cached_property
    def listeners(self) -> list[Any]:
        """What makes the pool of trainings, only in the scheduler."""
        if "scheduler" not in sys.argv:
            return []
        from windvane_airflow.make_pools import PoolMaker

        return [PoolMaker()]
