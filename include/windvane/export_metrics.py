"""Tells Prometheus what serves, how it does and what was decided, from the release ledger and the catalog.

Ages are left to Prometheus: a moment is exported as a timestamp, by the clock on the wall unless it says data time. A database that does
not answer shows as `windvane_up 0` and as nothing else: no figure is made up or kept.
"""

import logging
import shutil
from collections.abc import Iterator, Mapping
from contextlib import closing
from datetime import UTC, datetime
from typing import Any, get_args

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from sqlalchemy import func, select

from windvane.catalog import Catalog
from windvane.config import ModelConfig
from windvane.describe_models import ORDER, describe_models, state_of
from windvane.errors import ConfigError, WindvaneError
from windvane.ledger import Action, Ledger
from windvane.load_config import list_configs
from windvane.reload_config import reload_config
from windvane.settings import Settings
from windvane.windows import as_utc

log = logging.getLogger(__name__)

_DECISIONS = ("ok", "wait", "ignore", "fix_data", "recalibrate", "retrain")


class ModelMetrics:
    """A collector for `prometheus_client`: asks the database whenever Prometheus asks it; a fixed number of queries for all models."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    def collect(self) -> Iterator[Metric]:
        """The figures of this moment."""
        up = GaugeMetricFamily("windvane_up", "Whether the release ledger and the catalog answer.")
        try:
            found = list(self._read())
        except WindvaneError as exc:
            log.warning("the figures of the models are not known now: %s", exc)
            found = []
            up.add_metric([], 0)
        else:
            up.add_metric([], 1)
        yield up
        yield from self._disk()
        yield from found

    def _read(self) -> Iterator[Metric]:
        settings = self._settings
        rows = describe_models(settings, now=datetime.now(UTC))
        with closing(Catalog(settings.database)) as catalog:
            watched, rollouts = catalog.overviews(), catalog.rollouts()
        yield from _states(rows)
        yield from _serving(rows)
        yield from _watching(rows, watched, {config.model: config for config in _configs(settings)})
        yield from _rolling_out(rows, rollouts)
        yield _released(settings)

    def _disk(self) -> Iterator[Metric]:
        """Space where state is kept."""
        free = GaugeMetricFamily("windvane_disk_free_bytes", "Bytes that are free where state is kept.")
        size = GaugeMetricFamily("windvane_disk_size_bytes", "Bytes that there are where state is kept.")
        try:
            usage = shutil.disk_usage(self._settings.var)
        except OSError as exc:
            log.warning("%s: its free space is not known: %s", self._settings.var, exc)
            return
        free.add_metric([], usage.free)
        size.add_metric([], usage.total)
        yield from (free, size)


def _states(rows: Mapping[str, Mapping[str, Any]]) -> Iterator[Metric]:
    states = GaugeMetricFamily("windvane_model_state", "1 for the state that a model is in.", labels=["model", "state"])
    frozen = GaugeMetricFamily("windvane_model_frozen", "Whether only a rollback may change what serves.", labels=["model"])
    for model, row in rows.items():
        state, _ = state_of(row["causes"])
        for name in ORDER:
            states.add_metric([model, name], name == state)
        frozen.add_metric([model], row["frozen"] is not None)
    yield from (states, frozen)


def _serving(rows: Mapping[str, Mapping[str, Any]]) -> Iterator[Metric]:
    version = GaugeMetricFamily("windvane_champion_version", "Version with most traffic by the ledger; 0 for none.", labels=["model"])
    since = GaugeMetricFamily("windvane_champion_since_timestamp_seconds", "Since when it serves without a break.", labels=["model"])
    traffic = GaugeMetricFamily("windvane_traffic_ratio", "Share of the traffic that a version should get.", labels=["model", "version"])
    last = GaugeMetricFamily("windvane_last_release_timestamp_seconds", "Time of the newest ledger row.", labels=["model", "action"])
    for model, row in rows.items():
        version.add_metric([model], row["version"] or 0)
        _add_time(since, [model], row["since"])
        for number, percent in row["traffic"].items():
            traffic.add_metric([model, str(number)], percent / 100)
        if row["last_release"]:
            _add_time(last, [model, row["last_release"]["action"]], row["last_release"]["at"])
    yield from (version, since, traffic, last)


def _watching(
    rows: Mapping[str, Mapping[str, Any]], watched: Mapping[str, Mapping[str, Any]], configs: Mapping[str, ModelConfig]
) -> Iterator[Metric]:
    told = "The key metric: of the newest window, or of the holdout before there is one."
    metric = GaugeMetricFamily("windvane_model_metric", told, labels=["model", "metric", "kind"])
    decision = GaugeMetricFamily("windvane_decision", "1 for the newest decision.", labels=["model", "decision"])
    decided = GaugeMetricFamily("windvane_decided_timestamp_seconds", "When it was decided last.", labels=["model"])
    end = GaugeMetricFamily("windvane_window_end_data_timestamp_seconds", "End of the newest monitored window.", labels=["model"])
    lag = GaugeMetricFamily(
        "windvane_outcomes_lag_seconds",
        "From the newest window with realised performance, or else the first that was served, to the newest, less `data.label_delay`.",
        labels=["model"],
    )
    drifted = GaugeMetricFamily("windvane_drifted_columns", "Columns that left the reference in the newest window.", labels=["model"])
    for model, row in rows.items():
        if row["metric"]:
            metric.add_metric([model, row["metric"]["name"] or "", row["metric"]["kind"]], row["metric"]["value"])
        if row["decision"] is None or model not in watched:
            continue
        for name in _DECISIONS:
            decision.add_metric([model, name], name == row["decision"]["decision"])
        _add_time(decided, [model], row["decision"]["decided_at"])
        _add_time(end, [model], row["decision"]["window_end"])
        drifted.add_metric([model], watched[model]["newest"]["drifted_count"])
        known = watched[model].get("realised_until") or watched[model].get("served_since")
        if model in configs and known:
            since = _seconds(known) + configs[model].data.label_delay.total_seconds()
            lag.add_metric([model], max(_seconds(row["decision"]["window_end"]) - since, 0.0))
    yield from (metric, decision, decided, end, lag, drifted)


def _rolling_out(rows: Mapping[str, Mapping[str, Any]], rollouts: Mapping[str, Mapping[str, Any]]) -> Iterator[Metric]:
    requests = GaugeMetricFamily("windvane_rollout_requests", "Requests of this step to a version.", labels=["model", "version"])
    failed = GaugeMetricFamily("windvane_rollout_failed_requests", "Those of them that failed.", labels=["model", "version"])
    for model, progress in rollouts.items():
        if model not in rows or not rows[model]["rollout_until"]:
            continue
        for version, figures in (progress.get("figures") or {}).items():
            requests.add_metric([model, str(version)], figures.get("requests") or 0)
            failed.add_metric([model, str(version)], figures.get("failed") or 0)
    yield from (requests, failed)


def _released(settings: Settings) -> Metric:
    """All actions of every model in the ledger: Prometheus sees no increase in a series that is born at 1, such as the first revert."""
    rows = CounterMetricFamily("windvane_releases", "Ledger rows by action.", labels=["model", "action"])
    with closing(Ledger(settings.database)) as ledger:
        table = ledger.table
        chosen = select(table.c.model, table.c.action, func.count().label("rows")).group_by(table.c.model, table.c.action)
        with ledger.connect() as connection:
            counts = {(row.model, row.action): row.rows for row in connection.execute(chosen)}
    for model in sorted({model for model, _ in counts}):
        for action in get_args(Action):
            rows.add_metric([model, action], counts.get((model, action), 0))
    return rows


def _configs(settings: Settings) -> Iterator[ModelConfig]:
    for path in list_configs(settings.project):
        try:
            yield reload_config(path)
        except ConfigError as exc:
            log.debug("%s: %s", path, exc)


def _add_time(metric: GaugeMetricFamily, labels: list[str], moment: str | None) -> None:
    if moment:
        metric.add_metric(labels, _seconds(moment))


def _seconds(moment: str) -> float:
    return as_utc(moment).timestamp()
