"""Waits for a file, deferred to the triggerer."""

from collections.abc import Sequence
from glob import glob
from pathlib import Path
from typing import Any

from airflow.providers.standard.triggers.file import FileTrigger
from airflow.sdk import BaseSensorOperator, Context

from windvane.config import FileWait
from windvane.load_config import load_model_config
from windvane.source_path import source_path
from windvane_airflow.operators.model_operator import ModelLink, refuse_unknown_conf, run_window, since_watermark
from windvane_airflow.storage_connection import task_settings


class WaitForFileSensor(BaseSensorOperator):
    """Wait until `data.wait_for.path` exists for the run's window; needs a path and no connection.

    Args:
        model: Name of the model.
        project: Directory that holds the team's files; a relative path starts there.
    """

    template_fields: Sequence[str] = ()
    operator_extra_links = (ModelLink(),)

    def __init__(self, *, model: str, project: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.model = model
        self.project = project

    def execute(self, context: Context) -> str:
        """Return the path, at once or after the triggerer saw it."""
        from windvane.lake import Lake

        refuse_unknown_conf(context)
        config = load_model_config(Path(self.project), self.model)
        wait = config.data.wait_for
        if not isinstance(wait, FileWait):
            return ""
        watermark = Lake(task_settings().lake).watermark(self.model)
        window = run_window(context, config, default=since_watermark(config, watermark))
        path = source_path(Path(self.project), wait.path, window)
        if not glob(path):
            self.log.info("Waiting for %s", path)
            self.defer(
                trigger=FileTrigger(filepath=path, poke_interval=wait.poke.total_seconds()),
                method_name="execute_complete",
                timeout=wait.timeout,
            )
        return path

    def execute_complete(self, context: Context, event: Any = None) -> str:
        """Go on when the file is there."""
        self.log.info("The file is there")
        return "arrived"
