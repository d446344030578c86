"""Scores a window in batch with the champion."""

from dataclasses import asdict
from typing import Any

from airflow.sdk import Context

from windvane_airflow import assets
from windvane_airflow.operators.model_operator import ModelOperator, newest_window, run_window


class ScoreWindowOperator(ModelOperator):
    """Score a committed window with the champion's bundle into the `scores` table."""

    def run(self, context: Context) -> dict[str, Any]:
        """Return the version, its digest, the number of rows and the table version."""
        from windvane.score_window import score_window

        window = run_window(context, self.config, default=newest_window(self.lake.windows(self.model)))
        scored = score_window(self.config, self.settings, self.lake, self.ledger, window=window)
        extra = {**window.as_extra(), **asdict(scored)}
        context["outlet_events"][assets.scores(self.model)].extra = extra
        return extra
