"""What every operator of a model shares: its config, its settings, its window, and links to what it made and to the model's page."""

import difflib
import json
from collections.abc import Collection, Mapping, Sequence
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import quote, urlsplit

from airflow.sdk import BaseOperator, BaseOperatorLink, Context, conf

from windvane.config import ModelConfig, code_path
from windvane.errors import ConfigError
from windvane.load_config import load_model_config
from windvane.model_code import ModelCode, load_model_code
from windvane.settings import Settings
from windvane.store_files import Place, place_of, relative_place, write_bytes
from windvane.windows import Window, resolve_window
from windvane_airflow.storage_connection import task_settings


class MadeLink(BaseOperatorLink):
    """A button on the task's page that leads to what the task made."""

    name = "Result"

    def get_link(self, operator: BaseOperator, *, ti_key: Any) -> str:
        """Return the address that the operator set while it ran."""
        return getattr(operator, "made", "")


class ModelLink(BaseOperatorLink):
    """The button that leads to the model's page; a subclass leads to the tab where the task's work shows."""

    name = "Model"
    tab: ClassVar[str] = ""

    def get_link(self, operator: BaseOperator, *, ti_key: Any) -> str:
        """Return the address of the page; of the overview, where a task belongs to no model."""
        model = getattr(operator, "model", "")
        return web_path("/plugin/models" + (f"/{model}" if model else "") + (f"?tab={self.tab}" if self.tab else ""))


class ModelOperator(BaseOperator):
    """An operator that works on one model.

    Subclasses implement `run`, which returns small JSON: ids, URIs, counts.

    Args:
        model: Name of the model.
        project: Directory that holds `dags/configs`, `expectations` and `include/models`.
    """

    operator_extra_links: Collection[BaseOperatorLink] = (MadeLink(), ModelLink())
    ui_color: ClassVar[str] = "#e8f1f8"

    def __init__(self, *, model: str, project: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.model = model
        self.project = project
        self.made = ""

    @cached_property
    def settings(self) -> Settings:
        """Where things are on this machine."""
        from dataclasses import replace

        return replace(task_settings(), project=Path(self.project))

    @cached_property
    def config(self) -> ModelConfig:
        """The model's config as it is now."""
        return load_model_config(Path(self.project), self.model)

    @cached_property
    def code(self) -> ModelCode:
        """The model's Python file as it is now."""
        return load_model_code(code_path(Path(self.project), self.model), self.model)

    @cached_property
    def lake(self) -> Any:
        """The model's Delta tables."""
        from windvane.lake import Lake

        return Lake(self.settings.lake)

    @cached_property
    def ledger(self) -> Any:
        """The release ledger."""
        from windvane.ledger import Ledger

        return Ledger(self.settings.database)

    @cached_property
    def catalog(self) -> Any:
        """What the Models page shows of batches, windows and versions."""
        from windvane.catalog import Catalog

        return Catalog(self.settings.database)

    def execute(self, context: Context) -> dict[str, Any]:
        """Run the capability, keep its result as a file that the task links to, and return it."""
        refuse_unknown_conf(context)
        result = self.run(context)
        self.made = self.link_to(result) or self._keep(result, context)
        return result

    def run(self, context: Context) -> dict[str, Any]:
        """Do the work.

        Returns:
            Small JSON for the tasks that follow.
        """
        raise NotImplementedError

    def link_to(self, result: Mapping[str, Any]) -> str | None:
        """Return the address of what was made; None leads to the result as JSON."""
        return None

    def report_url(self, place: Place | str) -> str:
        """Return the address under which the web server shows a file of the reports."""
        return web_path(f"/windvane/reports/{quote(self.report_path(place))}")

    def report_path(self, place: Place | str) -> str:
        """Return a file's path within the reports, as the catalog keeps it."""
        return relative_place(place_of(place) if isinstance(place, str) else place, self.settings.reports)

    def _keep(self, result: Mapping[str, Any], context: Context) -> str:
        run = quote(context["run_id"], safe="")
        number = getattr(context.get("ti"), "map_index", -1)
        name = self.task_id if number < 0 else f"{self.task_id}-{number}"
        place = self.settings.reports / self.model / "runs" / self.dag_id / run / f"{name}.json"
        write_bytes(place, json.dumps(result, indent=2, default=str).encode())
        return self.report_url(place)


def web_path(path: str) -> str:
    """The path at which people find a page, also where Airflow is served under a path of its own."""
    return urlsplit(conf.get("api", "base_url", fallback="")).path.rstrip("/") + path


def run_of(context: Context) -> str:
    """The run, as ledger and catalog name it: `<dag_id>/<run_id>`."""
    run = context["dag_run"]
    return f"{run.dag_id}/{run.run_id}"


def actor_of(context: Context) -> str:
    """Who does this, for the ledger and the lake: the run, and the user who triggered it where Airflow knows one."""
    user = getattr(context["dag_run"], "triggering_user_name", None)
    return run_of(context) + (f" by {user}" if user else "")


def refuse_unknown_conf(context: Context) -> None:
    """Refuse what a person or the REST API gave a run and its DAG has no param for: Airflow passes it on without a word.

    Raises:
        ConfigError: With what was meant, if it can be guessed.
    """
    given = context["dag_run"].conf or {}
    known = sorted(context["dag"].params)
    problems = []
    for key in given:
        if key not in known:
            close = difflib.get_close_matches(key, known, n=1)
            hint = f" - did you mean '{close[0]}'?" if close else f"; allowed: {', '.join(known) or 'none'}"
            problems.append(f"conf: unknown key '{key}'{hint}")
    if problems:
        raise ConfigError(problems)


def event_extras(context: Context) -> list[Mapping[str, Any]]:
    """The extras of the asset events that triggered this run, oldest first; empty for any other run."""
    triggering = context.get("triggering_asset_events") or {}
    return [event.extra for events in triggering.values() for event in events]


def requested_window(context: Context) -> Window | None:
    """The window that a person, the REST API or an event asked for; None when nobody did."""
    events = event_extras(context)
    params = context["params"]
    if params.get("window_start") or params.get("window_end") or any(Window.from_extra(extra) for extra in events):
        return resolve_window(params=params, events=events)
    return None


def run_window(context: Context, config: ModelConfig, *, default: Window | None) -> Window:
    """The window this run works on; an interval in which the source has no data by config does not count."""
    start, end = context.get("data_interval_start"), context.get("data_interval_end")
    interval = (start, end) if start and end and overlaps(config, start, end) else None
    return resolve_window(params=context["params"], events=event_extras(context), data_interval=interval, default=default)


def overlaps(config: ModelConfig, start: datetime, end: datetime) -> bool:
    """Whether the source has data in the interval, as far as `data.start` and `data.end` tell."""
    return (config.data.start is None or end > config.data.start) and (config.data.end is None or start < config.data.end)


def since_watermark(config: ModelConfig, watermark: datetime | None) -> Window | None:
    """From the last committed data to the newest; None when there is nothing new or no beginning is known."""
    start = watermark or config.data.start
    end = min(filter(None, [config.data.end, datetime.now(UTC)]))
    return Window(start, end) if start and start < end else None


def newest_window(windows: Sequence[Any]) -> Window | None:
    """The window of data that was committed last in data time."""
    return max((committed.window for committed in windows), key=lambda window: window.end, default=None)
