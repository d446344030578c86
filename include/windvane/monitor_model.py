"""Watches a served model over one window of data time: collects, checks, compares, measures, decides and remembers."""

import json
import logging
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any

import pandas as pd

from windvane.bundle import open_bundle, read_reference
from windvane.check_inputs import check_inputs, check_labels, conform_each, parse_served_inputs
from windvane.collect_predictions import collect_predictions, join_outcomes
from windvane.config import ModelConfig
from windvane.decide_retrain import DecisionName, Evidence, Policy, decide
from windvane.detect_drift import MAX_ROWS, Drift, detect_drift
from windvane.errors import BundleError
from windvane.lake import Lake
from windvane.ledger import Ledger
from windvane.measure_performance import measure_performance
from windvane.model_code import ModelCode
from windvane.predictor import Predictor, load_predictor
from windvane.settings import Settings
from windvane.snapshot import labels_of
from windvane.store_files import write_bytes
from windvane.try_refit import try_refit
from windvane.windows import Window, as_utc

log = logging.getLogger(__name__)

_SERVED_MIN_ROWS = 50


@dataclass(frozen=True)
class MonitorResult:
    """The outcome of one monitored window.

    Attributes:
        decision: What should happen.
        reason: One sentence for people.
        evidence: What the decision rests on.
        report_path: Evidently's report; None when there was nothing to compare.
        window: The window of data time.
    """

    decision: DecisionName
    reason: str
    evidence: Evidence
    report_path: Path | None
    window: Window

    def as_json(self) -> dict[str, Any]:
        """The form that tasks hand to each other."""
        return {
            "decision": self.decision,
            "reason": self.reason,
            "evidence": self.evidence.as_json(),
            "report_path": str(self.report_path) if self.report_path else None,
            **self.window.as_extra(),
        }


@dataclass(frozen=True)
class _Champion:
    version: int
    predictor: Predictor
    reference: pd.DataFrame

    @property
    def inputs(self) -> list[str]:
        return [column.name for column in self.predictor.signature]

    @property
    def trained_until(self) -> datetime:
        """End of the rows that it was fitted on; the holdout of its snapshot lies after them."""
        return as_utc(self.predictor.bundle.manifest["snapshot"]["train"]["window_end"])


def monitor_window(
    config: ModelConfig, code: ModelCode, settings: Settings, lake: Lake, ledger: Ledger, *, window: Window
) -> MonitorResult:
    """Decide about one window and store the decision with its evidence; doing it again replaces the decision of that window.

    Raises:
        BundleError: If the bundle that serves is missing or damaged.
        ModelCodeError: If the model's own code fails in the trial refit.
        StorageError: If a request log, a report or a table cannot be read or written.
    """
    collect_predictions(config, settings, lake)
    champion = _load_champion(config, settings, ledger)
    rows = lake.read(config.model, "raw", window=window, time=config.data.time)
    rows = conform_each(rows, champion.predictor.signature) if champion else rows
    judged_window = _judged_window(config, lake, window)
    judged = _labelled(config, lake, judged_window)
    drift, realised = Drift(), None
    problems = _check(config, rows, lake, window, champion)
    if champion:
        drift = _measure_drift(config, settings, rows, champion, window)
        realised = measure_performance(
            config, join_outcomes(config, lake, window), classes=champion.predictor.classes, min_rows=config.gates.min_rows
        )
    evidence = Evidence(
        window=window,
        rows=len(rows),
        judged=judged_window,
        labelled_rows=len(judged),
        champion=champion.version if champion else None,
        champion_trained_until=champion.trained_until if champion else None,
        bad_inputs=problems,
        drifted=drift.drifted,
        compared=drift.compared,
        realised=realised,
        last_retrain=_last_retrain(config, lake, window),
    )
    # the refit is the expensive part: it is tried only where its result can change the decision
    if champion and judged_window and not problems and len(judged) >= config.monitor.min_rows and not evidence.champion_is_newest:
        train = _labelled(config, lake, _refit_window(config, judged_window))
        refit = try_refit(config, code, champion.predictor, train=train, judged=judged)
        evidence = replace(evidence, refit=refit)
    decision = decide(evidence, Policy.of(config))
    log.info("%s %s: %s: %s", config.model, window, decision.decision, decision.reason)
    result = MonitorResult(decision.decision, decision.reason, evidence, drift.html, window)
    _remember(config, settings, lake, result)
    return result


def _load_champion(config: ModelConfig, settings: Settings, ledger: Ledger) -> _Champion | None:
    release = ledger.last(config.model)
    version = release.serving if release else None
    if version is None:
        return None
    digest = ledger.digest_of(config.model, version)
    if digest is None:
        raise BundleError(f"{config.model}: version {version} serves, but the ledger has no bundle digest of it; deploy it again")
    bundle = open_bundle(settings.bundles, digest)
    return _Champion(version, load_predictor(bundle), read_reference(bundle))


def _judged_window(config: ModelConfig, lake: Lake, window: Window) -> Window | None:
    """The newest rows of the window whose outcomes are complete; None when none can be."""
    watermark = lake.watermark(config.model)
    end = window.end if watermark is None else min(window.end, watermark - config.data.label_delay)
    start = end - config.train.holdout
    return Window(start, end) if watermark is not None and end > window.start else None


def _refit_window(config: ModelConfig, judged: Window) -> Window:
    """The rows that a training on the judged window's end would read, without the judged rows themselves."""
    return Window(judged.end - config.train.window, judged.start)


def _labelled(config: ModelConfig, lake: Lake, window: Window | None) -> pd.DataFrame:
    if window is None:
        return pd.DataFrame()
    rows = lake.read(config.model, "raw", window=window, time=config.data.time)
    if rows.empty:
        return rows
    order = [column for column in (config.data.time, config.data.id) if column]
    rows = rows[rows[config.data.label].notna()].sort_values(order, kind="stable", ignore_index=True)
    return rows.assign(**{config.data.label: labels_of(rows[config.data.label], config)})


def _check(config: ModelConfig, rows: pd.DataFrame, lake: Lake, window: Window, champion: _Champion | None) -> tuple[str, ...]:
    time = config.data.time
    if champion is None:
        return check_inputs(rows, None, required=list(rows.columns), skip=(time, config.data.label))
    reference = champion.reference
    inputs = [column for column in champion.inputs if column in reference.columns]
    problems = check_inputs(rows, reference[inputs], required=champion.inputs, skip=(time,))
    if not rows.empty and config.data.label in rows.columns:
        earlier = reference[config.data.label] if config.data.label in reference.columns else pd.Series(dtype="float64")
        problems += check_labels(rows[config.data.label], earlier, classifier=config.is_classifier)
    served = lake.read(config.model, "predictions", window=window, time="time", columns=["features"])["features"]
    if len(served) >= _SERVED_MIN_ROWS:
        sent = conform_each(parse_served_inputs(served, max_rows=MAX_ROWS, seed=config.train.seed), champion.predictor.signature)
        problems += check_inputs(sent, reference[inputs], required=champion.inputs, where="served rows: ", skip=(time,))
    return problems


def _measure_drift(config: ModelConfig, settings: Settings, rows: pd.DataFrame, champion: _Champion, window: Window) -> Drift:
    inputs = [column for column in champion.inputs if column in champion.reference.columns and column != config.data.time]
    directory = settings.reports / config.model / window.key
    return detect_drift(rows, champion.reference[inputs], directory=directory, seed=config.train.seed)


def _last_retrain(config: ModelConfig, lake: Lake, window: Window) -> datetime | None:
    """The end of the newest earlier window that was decided `retrain`; this window's own decision does not count."""
    decisions = lake.read(config.model, "decisions", columns=["window_end", "decision"])
    if decisions.empty:
        return None
    earlier = decisions[(decisions["decision"] == "retrain") & (decisions["window_end"] < window.end)]
    return None if earlier.empty else as_utc(earlier["window_end"].max().to_pydatetime())


def _remember(config: ModelConfig, settings: Settings, lake: Lake, result: MonitorResult) -> None:
    evidence = json.dumps(result.evidence.as_json(), sort_keys=True, allow_nan=False)
    row = pd.DataFrame(
        {
            "window_key": [result.window.key],
            "window_start": pd.to_datetime([result.window.start], utc=True).as_unit("us"),
            "window_end": pd.to_datetime([result.window.end], utc=True).as_unit("us"),
            "decision": [result.decision],
            "reason": [result.reason],
            "evidence": [evidence],
            "version": pd.array([result.evidence.champion], dtype="Int64"),
        }
    )
    path = settings.reports / config.model / result.window.key / "decision.json"
    write_bytes(path, json.dumps(result.as_json(), indent=1, allow_nan=False).encode())
    lake.replace_rows(config.model, "decisions", row, key="window_key", values=[result.window.key])
