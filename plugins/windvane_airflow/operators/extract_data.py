"""Reads a window of rows from the source into a staged batch."""

from typing import Any

from airflow.sdk import Connection, Context

from windvane.config import PythonSource, SqlSource
from windvane_airflow.operators.model_operator import ModelOperator, run_window, since_watermark


class ExtractDataOperator(ModelOperator):
    """Read the rows of the run's window and stage them; nothing is visible to others yet."""

    def run(self, context: Context) -> dict[str, Any]:
        """Return the staged batch: its directory, window, rows and digest."""
        from windvane.extract_data import extract_data

        window = run_window(context, self.config, default=since_watermark(self.config, self.lake.watermark(self.model)))
        staged = extract_data(self.config, self.code, self.settings, window=window, connection_uri=self._connection_uri())
        self.log.info("Staged %s rows of %s", f"{staged.rows:,}", window)
        return staged.as_json()

    def _connection_uri(self) -> str | None:
        source = self.config.data.source
        if isinstance(source, PythonSource | SqlSource) and source.connection:
            return str(Connection.get(source.connection).get_uri())
        return None
