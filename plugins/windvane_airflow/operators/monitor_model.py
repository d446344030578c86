"""Watches what serves: collects scored rows, reports on a window and decides."""

from collections.abc import Mapping
from typing import Any

from airflow.sdk import AssetAlias, Context

from windvane_airflow import assets
from windvane_airflow.operators.model_operator import MadeLink, ModelLink, ModelOperator, actor_of, newest_window, run_window


class ReportLink(MadeLink):
    """The button that leads to the report of the window."""

    name = "Report"


class CollectPredictionsOperator(ModelOperator):
    """Move what the scoring service logged into the `predictions` table."""

    def run(self, context: Context) -> dict[str, Any]:
        """Return the number of rows collected."""
        from windvane.collect_predictions import collect_predictions

        return {"rows": collect_predictions(self.config, self.settings, self.lake)}


class MonitorModelOperator(ModelOperator):
    """Check the inputs, report drift, measure performance, try a refit, and decide; `retrain` and `recalibrate` become events.

    The param `release` holds the reason for which a person calls the rows of the window good; it is released before it is looked at.
    """

    operator_extra_links = (ReportLink(), ModelLink())

    def run(self, context: Context) -> dict[str, Any]:
        """Return the decision, its reason and where the report is."""
        from windvane.decision_evidence import TRAININGS
        from windvane.monitor_model import monitor_window
        from windvane.release_window import release_window

        window = run_window(context, self.config, default=newest_window(self.lake.windows(self.model)))
        if reason := (context["params"].get("release") or "").strip():
            release_window(self.config, self.lake, window, actor=actor_of(context), reason=reason)
        result = monitor_window(self.config, self.code, self.settings, self.lake, self.ledger, window=window)
        self.log.info("%s: %s because %s", window, result.decision, result.reason)
        if result.alert:
            self.log.warning("%s", result.alert)
        if result.decision in TRAININGS:
            extra = {**window.as_extra(), "reason": result.reason}
            context["outlet_events"][AssetAlias(f"{self.model}/retrain")].add(assets.retrain(self.model), extra=extra)
        return {
            **window.as_extra(),
            "decision": result.decision,
            "reason": result.reason,
            "report": str(result.report_path) if result.report_path else None,
        }

    def link_to(self, result: Mapping[str, Any]) -> str | None:
        """Lead to the report."""
        return self.report_url(result["report"]) if result["report"] else None
