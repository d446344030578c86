"""Watches a served model over one window of data time: collects, checks, compares, measures, decides and remembers."""

import contextlib
import functools
import json
import logging
import math
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import pandas as pd

from windvane.bundle import open_bundle, read_reference
from windvane.catalog import Catalog
from windvane.check_inputs import conform_each, parse_served_inputs
from windvane.collect_predictions import collect_predictions, join_outcomes
from windvane.config import ModelConfig
from windvane.decide_retrain import Policy, decide
from windvane.decision_evidence import DecisionName, Evidence, Past
from windvane.detect_drift import MAX_ROWS
from windvane.draw_report import draw_report
from windvane.draw_rows import Chosen, count_chosen, draw_rows
from windvane.errors import BundleError
from windvane.lake import Lake
from windvane.ledger import Ledger
from windvane.measure_performance import measure_performance
from windvane.model_code import ModelCode
from windvane.predictor import load_predictor
from windvane.release_window import is_released, unreleased_windows
from windvane.settings import Settings
from windvane.snapshot import labels_of
from windvane.store_files import Place, write_bytes
from windvane.survey_window import Survey
from windvane.watch_window import Budget, Observed, watch_window
from windvane.watched_champion import Champion
from windvane.windows import Window

log = logging.getLogger(__name__)

_MOST_ROWS = 500_000
_MOST_LOGGED = 200_000
_SERVED_MIN_ROWS = 50
_REMEMBERED = 500


@dataclass(frozen=True)
class MonitorResult:
    """The outcome of one monitored window.

    Attributes:
        decision: What should happen.
        reason: One sentence for people.
        alert: What people must be told; empty when nothing.
        evidence: What the decision rests on.
        report_path: The report; None when there was nothing to compare.
        window: The window of data time.
    """

    decision: DecisionName
    reason: str
    alert: str
    evidence: Evidence
    report_path: Place | None
    window: Window

    def as_json(self) -> dict[str, Any]:
        """The form that tasks hand to each other."""
        return {
            "decision": self.decision,
            "reason": self.reason,
            "alert": self.alert,
            "evidence": self.evidence.as_json(),
            "report_path": str(self.report_path) if self.report_path else None,
            **self.window.as_extra(),
        }


def monitor_window(
    config: ModelConfig, code: ModelCode, settings: Settings, lake: Lake, ledger: Ledger, *, window: Window
) -> MonitorResult:
    """Decide about one window and store the decision with its evidence; doing it again replaces the decision of that window.

    Of windows of more than half a million rows an even sample is looked at, and all rows for what a sample hides.

    Raises:
        BundleError: If the bundle that serves is missing or damaged.
        ModelCodeError: If the model's own code fails in the trial refit.
        StorageError: If a request log, a report or a table cannot be read or written.
    """
    collect_predictions(config, settings, lake)
    champion = _load_champion(config, settings, ledger)
    survey = Survey(champion.inputs if champion else [], name=config.data.id)
    key = [config.data.id] if config.data.id else []
    drawn = draw_rows(lake, config.model, "raw", Chosen(window, config.data.time), most=_MOST_ROWS, key=key, see=survey.see)
    rows = drawn.rows
    rows = rows.sort_values(config.data.time, kind="stable", ignore_index=True) if config.data.time in rows.columns else rows
    held = unreleased_windows(config, lake, before=window.end)
    watermark = lake.watermark(config.model)
    seen = Observed(
        window=window,
        rows=conform_each(rows, champion.signature) if champion else rows,
        labelled=LabelledRows(config, lake, held),
        known_until=(window.end if watermark is None else min(window.end, watermark - config.data.label_delay)),
        past=_past(config, lake, window),
        realised=_realised(config, lake, champion, window),
        served=_served_inputs(config, lake, champion, window),
        released=is_released(config, lake, window),
        survey=survey if drawn.is_sampled else None,
    )
    evidence = watch_window(config, code, champion, seen, Budget.of(config, window.end - window.start))
    decision = decide(evidence, Policy.of(config))
    log.info("%s %s: %s: %s", config.model, window, decision.decision, decision.reason)
    report = _draw(config, settings, champion, seen, evidence, decision.decision, decision.reason)
    result = MonitorResult(decision.decision, decision.reason, decision.alert, evidence, report, window)
    _remember(config, settings, lake, result)
    return result


class LabelledRows:
    """The committed rows with an outcome, read from the lake as they are needed; of more than half a million an even sample.

    Args:
        held: Windows whose rows are held back as bad data.
    """

    def __init__(self, config: ModelConfig, lake: Lake, held: list[Window]) -> None:
        self._config, self._lake, self._held = config, lake, held

    @functools.cached_property
    def begin(self) -> datetime:
        """Start of the first committed window."""
        return min(committed.window.start for committed in self._lake.windows(self._config.model))

    def count(self, start: datetime, end: datetime) -> int:
        """The number of rows with start <= time < end."""
        return count_chosen(self._lake, self._config.model, "raw", self._chosen(start, end)).rows if start < end else 0

    def between(self, start: datetime, end: datetime, *, most: int | None = None) -> pd.DataFrame:
        """The rows with start <= time < end, sorted by time; at most so many, evenly over the time."""
        if start >= end:
            return pd.DataFrame()
        config, key = self._config, [self._config.data.id] if self._config.data.id else []
        rows = draw_rows(self._lake, config.model, "raw", self._chosen(start, end), most=_MOST_ROWS, key=key).rows
        if rows.empty:
            return rows
        order = [config.data.time, *key]
        rows = rows.sort_values(order, kind="stable", ignore_index=True)
        rows = rows.iloc[:: -(-len(rows) // most)].reset_index(drop=True) if most and len(rows) > most else rows
        return rows.assign(**{config.data.label: labels_of(rows[config.data.label], config)})

    def _chosen(self, start: datetime, end: datetime) -> Chosen:
        return Chosen(Window(start, end), self._config.data.time, known=self._config.data.label, without=tuple(self._held))


def _load_champion(config: ModelConfig, settings: Settings, ledger: Ledger) -> Champion | None:
    release = ledger.last(config.model)
    version = release.serving if release else None
    if version is None:
        return None
    digest = ledger.digest_of(config.model, version)
    if digest is None:
        raise BundleError(f"{config.model}: version {version} serves, but the ledger has no bundle digest of it; deploy it again")
    bundle = open_bundle(settings.bundles, digest)
    predictor, manifest = load_predictor(bundle), bundle.manifest
    train, holdout = (Window.from_extra(manifest["snapshot"][part]) for part in ("train", "holdout"))
    if train is None or holdout is None:
        raise BundleError(f"{bundle.path}/bundle.json: the snapshot has no windows; restore the bundle or train again")
    rows = manifest.get("rows", {})
    return Champion(
        version=version,
        predict=predictor.predict,
        classes=predictor.classes,
        signature=predictor.signature,
        params=manifest["params"],
        reference=read_reference(bundle),
        train=train,
        train_rows=int(rows.get("training_of") or rows.get("training", 0)),
        holdout_end=holdout.end,
        holdout_rows=int(rows.get("holdout_of") or rows.get("holdout", 0)),
        label=config.data.label,
        task=config.task,
        metric=config.metric,
        seed=config.train.seed,
        time=config.data.time,
    )


def _realised(config: ModelConfig, lake: Lake, champion: Champion | None, window: Window) -> Any:
    if champion is None:
        return None
    joined = join_outcomes(config, lake, window, most=_MOST_ROWS)
    return measure_performance(
        config,
        joined.rows,
        classes=champion.classes,
        min_rows=config.gates.min_rows,
        drawn_from=joined.of if joined.is_sampled else 0,
    )


def _served_inputs(config: ModelConfig, lake: Lake, champion: Champion | None, window: Window) -> pd.DataFrame | None:
    if champion is None:
        return None
    # by their places: rows of a request are alike, and whole requests would be few
    served = draw_rows(lake, config.model, "predictions", Chosen(window, "time"), most=_MOST_LOGGED, columns=["features"]).rows["features"]
    if len(served) < _SERVED_MIN_ROWS:
        return None
    return conform_each(parse_served_inputs(served, max_rows=MAX_ROWS, seed=config.train.seed), champion.signature)


def _past(config: ModelConfig, lake: Lake, window: Window) -> list[Past]:
    """The newest decisions about earlier windows, in time order; this window's own does not count."""
    rows = lake.read(config.model, "decisions", columns=["window_end", "decision", "evidence"])
    if rows.empty:
        return []
    earlier = rows[rows["window_end"] < window.end].sort_values("window_end").tail(_REMEMBERED)
    return [Past.of(str(d), json.loads(e)) for d, e in zip(earlier["decision"], earlier["evidence"], strict=True)]


def _draw(
    config: ModelConfig, settings: Settings, champion: Champion | None, seen: Observed, evidence: Evidence, decision: str, reason: str
) -> Place | None:
    if champion is None or evidence.drift is None or seen.rows.empty:
        return None
    inputs = [column for column in champion.inputs if column in seen.rows.columns]
    return draw_report(
        seen.rows[inputs],
        champion.reference[champion.inputs],
        evidence.drift,
        decision=decision,
        reason=reason,
        evidence=describe_evidence(evidence),
        path=settings.reports / config.model / seen.window.key / "drift.html",
        seed=config.train.seed,
    )


def describe_evidence(evidence: Evidence) -> list[str]:
    """The evidence as sentences for people."""
    lines = [f"data: {problem}" for problem in evidence.bad_inputs]
    if evidence.sampled:
        lines.append(f"looked at {evidence.sampled:,} of {evidence.rows:,} rows, drawn evenly; infinite values and repeats sought in all")
    harm, estimate, realised, trial = evidence.harm, evidence.estimate, evidence.realised, evidence.trial
    if harm is not None:
        expected = f"{harm.expected:.4f} in its training (p {harm.p:.2g})"
        lines.append(f"loss of version {evidence.champion}: {harm.loss:.4f} on {harm.rows} rows, {expected}")
    if realised is not None and math.isfinite(realised.value):
        lines.append(
            f"realised {realised.metric}: {realised.value:.4f} ({realised.low:.4f} to {realised.high:.4f}) on {realised.rows} requests"
            + (f", a sample of {realised.scored:,} of {realised.drawn_from:,}" if realised.drawn_from else "")
        )
    elif evidence.known_until is not None and evidence.known_until < evidence.window.end:
        lines.append(f"outcomes are unknown since {evidence.known_until:%Y-%m-%d %H:%M}")
    if estimate is not None and not estimate.problem:
        trust = "" if evidence.estimate_trusted else f"; not trusted: {evidence.estimate_trust}"
        lines.append(
            f"estimated {estimate.metric} without outcomes: {estimate.value:.4f} ({estimate.low:.4f} to {estimate.high:.4f}){trust}"
        )
    lines += [f"drift: {text}" for text in evidence.moved]
    if trial is not None:
        lines += [f"tried {c.name}: {c.train_rows} rows, gain {c.gain:+.4f} (p {c.p:.2g})" for c in trial.candidates]
    return lines


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
    with contextlib.closing(Catalog(settings.database)) as catalog:
        catalog.record_window(config.model, result)
