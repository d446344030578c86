"""Replays a model's history under policies."""

from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

from airflow.sdk import Context

from windvane_airflow.operators.model_operator import MadeLink, ModelLink, ModelOperator


class BacktestLink(MadeLink):
    """The button that leads to the picture and the tables."""

    name = "Backtest"


class RunBacktestOperator(ModelOperator):
    """Replay what a model has ingested, or another table, and keep the picture.

    The model is a param of the run, not of the operator: one DAG serves all models.

    Args:
        project: Directory that holds `dags/configs`, `expectations` and `include/models`.
    """

    operator_extra_links = (BacktestLink(), ModelLink())

    def __init__(self, *, project: str, **kwargs: Any) -> None:
        super().__init__(model="", project=project, **kwargs)

    def run(self, context: Context) -> dict[str, Any]:
        """Return the summary and where the page is."""
        from windvane.backtest import run_backtest
        from windvane.backtest_command import choose_spans, read_history
        from windvane.report_backtest import report_backtest
        from windvane.walk_history import History

        params = context["params"]
        self.model = str(params["model"])
        config, code = self.config, self.code
        frame = read_history(self.settings, config, params["data"])
        given = {name: params[name] for name in ("first", "window", "label_delay")}
        spans: dict[str, Any] = choose_spans(config, len(frame), History(config, frame).has_clock, **given)
        records: list[dict[str, Any]] = []
        for record in run_backtest(config, code, frame, **spans, policies=params["policies"], seed=params["seed"]):
            records.append(record)
            if "summary" not in record and (record["decision"] != "ok" or record["window"] % 10 == 0):
                self.log.info("%s, window %d: %s: %s", record["policy"], record["window"], record["decision"], record["reason"])
        summary = records.pop()["summary"]
        directory = self.settings.reports / self.model / "backtests" / quote(context["run_id"], safe="")
        page = report_backtest(records, summary, directory=directory, title=f"Backtest of {self.model}: {config.metric}")
        return {"model": self.model, "summary": summary, "report": str(page)}

    def link_to(self, result: Mapping[str, Any]) -> str | None:
        """Lead to the page."""
        return self.report_url(result["report"])
