"""Replays history under one or more policies: trains on the first rows, then walks window by window and reads the past only.

Windvane's policy is the code that runs in production: `watch_window`, `decide`, the gates. The others are what people do without it.
"""

import math
import time as clock_time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any

import numpy as np
import pandas as pd

from windvane.backtest_defaults import POLICIES, Span
from windvane.compare_models import align_classes, finite_or_none, outcomes_of, score_outcomes, scores_of
from windvane.config import ModelConfig
from windvane.decide_retrain import Policy, decide
from windvane.decision_evidence import TRAININGS, Past
from windvane.errors import ConfigError, DataError, ModelCodeError
from windvane.fit_baselines import fit_baselines
from windvane.fit_in_memory import Trainer
from windvane.gate_challenger import Judged, judge_quality, judge_sanity
from windvane.measure_psi import largest_psi
from windvane.model_code import ModelCode
from windvane.predictor import Predictions
from windvane.row_losses import row_losses
from windvane.walk_history import History, Step, walk
from windvane.watch_window import Budget, Observed, watch_window
from windvane.watched_champion import Champion
from windvane.windows import Window

_HOLDOUT_SHARE = 0.4
_FIRST_HOLDOUT_SHARE = 0.2
_WEEK_WINDOWS = 7
_PSI = 0.2


@dataclass
class Served:
    """What a policy has so far."""

    champion: Champion
    trainings: int = 0
    promotions: int = 0
    alarms: int = 0
    past: list[Past] = field(default_factory=list)
    held: list[Window] = field(default_factory=list)
    last_fit: Step | None = None


@dataclass(frozen=True)
class Outcome:
    """What a policy did at the end of a window."""

    decision: str
    reason: str
    evidence: dict[str, Any]
    alarm: bool = False
    trained: bool = False
    promoted: bool = False


class Backtest:
    """One walk over the history under one policy after the other."""

    def __init__(
        self, config: ModelConfig, code: ModelCode, frame: pd.DataFrame, *, first: Span, window: Span, label_delay: Span, seed: int | None
    ) -> None:
        if seed is not None:
            config = config.model_copy(update={"train": config.train.model_copy(update={"seed": seed})})
        self.history = History(config, frame)
        self.steps = walk(self.history, first=first, window=window, label_delay=label_delay)
        self.config = config if self.history.has_clock else _in_rows(config, first)
        self.history.config = self.config
        self.code, self.trainer = code, Trainer(self.config, code)
        self.first = self._train(self.history.labelled(slice(0, self.steps[0].rows.start)), version=1)

    def run(self, policy: str) -> Iterator[dict[str, Any]]:
        """Walk under a policy; one record per window, and the summary as the last one."""
        started = clock_time.perf_counter()
        state = Served(self.first)
        act: Callable[[Served, Step], Outcome] = getattr(self, "_" + policy.replace("-", "_"))
        losses, metrics, weights = [], [], []
        for step in self.steps:
            if policy == "oracle":
                self._see_the_future(state, step)
            metric, loss, rows = self._measure(state.champion, step)
            served = state.champion.version
            outcome = act(state, step)
            state.alarms += outcome.alarm
            if math.isfinite(loss):
                losses.append(loss)
                weights.append(rows)
            if math.isfinite(metric):
                metrics.append(metric)
            if state.past:
                state.past[-1] = replace(state.past[-1], realised=metric)
            yield {
                "policy": policy,
                "window": step.number,
                **self._ends(step),
                "rows": step.rows.stop - step.rows.start,
                "decision": outcome.decision,
                "reason": outcome.reason,
                "evidence": outcome.evidence,
                "alarm": outcome.alarm,
                "trained": outcome.trained,
                "promoted": outcome.promoted,
                "served_version": served,
                "metric": finite_or_none(metric),
                "loss": finite_or_none(loss),
            }
        yield {
            "mean_loss": finite_or_none(float(np.average(losses, weights=weights))) if losses else None,
            "mean_metric": finite_or_none(float(np.mean(metrics))) if metrics else None,
            "trainings": state.trainings,
            "promotions": state.promotions,
            "alarms": state.alarms,
            "seconds": round(clock_time.perf_counter() - started, 3),
        }

    # -- policies -------------------------------------------------------------------------------------------------------------------

    def _windvane(self, state: Served, step: Step) -> Outcome:
        config, history = self.config, self.history.without(state.held)
        length = step.window.end - step.window.start
        budget = Budget.of(config, length, windows_per_90d=None if history.has_clock else 90)
        known = [p if p.window.end <= step.known_until else replace(p, realised=math.nan) for p in state.past]
        seen = Observed(step.window, history.frame.iloc[step.rows], history, step.known_until, past=known)
        evidence = watch_window(config, self.code, state.champion, seen, budget, clock=history.has_clock)
        found = decide(evidence, Policy.of(config))
        told = evidence.as_json()
        state.past.append(Past.of(found.decision, told))
        if evidence.is_bad:
            state.held.extend(evidence.held)
        trained = found.decision in TRAININGS
        promoted = trained and evidence.plan is not None and self._challenge(state, step, history, evidence.plan, told)
        return Outcome(found.decision, found.reason, told | {"alert": found.alert}, evidence.alarm, trained, bool(promoted))

    def _challenge(self, state: Served, step: Step, history: History, plan: dict[str, Any], told: dict[str, Any]) -> bool:
        """Train a challenger as planned and gate it; whether it was promoted, with the gates in the evidence."""
        state.trainings += 1
        rows = history.between(datetime.fromisoformat(plan["train_start"]), step.known_until)
        cut = datetime.fromisoformat(plan["holdout_start"])
        version = state.trainings + 1
        if plan["recalibrate"]:
            challenger = self.trainer.recalibrate(state.champion, rows, cut=cut, version=version)
        else:
            challenger = self.trainer.fit(rows, cut=cut, hidden=history.hidden, version=version)
        newer = (rows[self.config.data.time] >= challenger.train.end).to_numpy()
        gates = self._gate(challenger, state.champion, rows[~newer], rows[newer], recalibrated=bool(plan["recalibrate"]))
        told["gates"] = [gate.as_json() for gate in gates]
        if not all(gate.passed for gate in gates):
            return False
        state.champion, state.promotions = challenger, state.promotions + 1
        return True

    def _gate(
        self, challenger: Champion, champion: Champion, train: pd.DataFrame, newest: pd.DataFrame, *, recalibrated: bool
    ) -> list[Any]:
        config = self.config
        predictions = challenger.predict(newest)
        gates = judge_sanity(config, newest[config.data.label], predictions, challenger.classes)
        if not all(gate.passed for gate in gates):
            return gates
        classes = sorted({*(challenger.classes or ()), *(champion.classes or ())}) if config.is_classifier else None
        known = newest[config.data.label].isin(classes).to_numpy() if classes else np.ones(len(newest), dtype=bool)

        def scores(given: Predictions, own: Sequence[Any] | None) -> np.ndarray:
            aligned: np.ndarray = scores_of(align_classes(given, own, classes), config.task)[known]
            return aligned

        baselines = (
            fit_baselines(config, self.code, challenger.signature, train=train, holdout=newest)
            if config.gates.beat_baseline and not recalibrated
            else {}
        )
        judged = Judged(
            config=config,
            rows=newest[known],
            outcomes=outcomes_of(newest[config.data.label][known], config.task, classes),
            challenger=scores(predictions, challenger.classes),
            champion=scores(champion.predict(newest), champion.classes),
            recalibrated=recalibrated,
        )
        return gates + judge_quality(judged, {name: scores(given, own) for name, (given, own) in baselines.items()}, first=False)

    def _never(self, state: Served, step: Step) -> Outcome:
        return Outcome("ok", "this policy never retrains", {})

    def _every_window(self, state: Served, step: Step) -> Outcome:
        return self._refit(state, step, "this policy retrains after every window")

    def _weekly(self, state: Served, step: Step) -> Outcome:
        last = state.last_fit
        if self.history.has_clock:
            due = step.window.end - (last.window.end if last else self.steps[0].window.start) >= timedelta(days=7)
        else:
            due = step.number - (last.number if last else -1) >= _WEEK_WINDOWS
        return self._refit(state, step, "a week has passed") if due else Outcome("ok", "the week is not over", {})

    def _drift_psi(self, state: Served, step: Step) -> Outcome:
        champion = state.champion
        column, psi = largest_psi(champion.reference[champion.inputs], self.history.frame.iloc[step.rows])
        told = {"psi": finite_or_none(psi), "column": column}
        if psi <= _PSI:
            return Outcome("ok", f"the largest PSI is {psi:.3f}, allowed is {_PSI}", told)
        done = self._refit(state, step, f"the PSI of {column} is {psi:.3f}, allowed is {_PSI}")
        return replace(done, evidence=told, alarm=True)

    def _oracle(self, state: Served, step: Step) -> Outcome:
        return Outcome("ok", "this policy has seen the future", {})

    def _see_the_future(self, state: Served, step: Step) -> None:
        """Serve a window with the one of several models that turns out to be the best on it."""
        if step.number == 0:
            return
        known = self.steps[step.number - 1].known_until
        starts = {self._usual_start(known), self.history.begin, self.steps[step.number - 1].window.start}
        pool = [state.champion]
        for start in sorted(starts):
            rows = self.history.between(start, known) if start < known else pd.DataFrame()
            made = self._try_to_train(rows, version=state.champion.version + 1)
            if made is not None:
                pool.append(made)
        losses = [self._measure(champion, step)[1] for champion in pool]
        best = int(np.nanargmin(losses)) if np.isfinite(losses).any() else 0
        if best:
            state.champion, state.trainings, state.promotions = pool[best], state.trainings + 1, state.promotions + 1

    # -- parts ----------------------------------------------------------------------------------------------------------------------

    def _refit(self, state: Served, step: Step, reason: str) -> Outcome:
        """Train on the usual window and serve it at once, as people do who have no gates."""
        made = self._try_to_train(
            self.history.between(self._usual_start(step.known_until), step.known_until), version=state.champion.version + 1
        )
        if made is None:
            return Outcome("wait", f"{reason}, but there are too few rows with an outcome", {})
        state.champion, state.last_fit = made, step
        state.trainings, state.promotions = state.trainings + 1, state.promotions + 1
        return Outcome("retrain", reason, {}, trained=True, promoted=True)

    def _usual_start(self, known: datetime) -> datetime:
        return max(self.history.begin, known - self.config.train.window)

    def _try_to_train(self, rows: pd.DataFrame, *, version: int) -> Champion | None:
        few = len(rows) < self.config.gates.min_rows
        if few or (self.config.is_classifier and rows[self.config.data.label].nunique() < 2):
            return None
        try:
            return self.trainer.fit(rows, cut=None, hidden=self.history.hidden, version=version)
        except (DataError, ModelCodeError):
            return None

    def _train(self, rows: pd.DataFrame, *, version: int) -> Champion:
        times = rows[self.config.data.time]
        if rows.empty:
            raise DataError("--first: none of the first rows has a label; give more")
        span = (times.iloc[-1] - times.iloc[0]).to_pytimedelta()
        # the newest rows judge, as in production; enough of them where there are enough
        few = times.iloc[-min(self.config.gates.min_rows, max(1, int(_HOLDOUT_SHARE * len(times))))].to_pydatetime()
        cut = min(few, times.iloc[-1].to_pydatetime() - min(self.config.train.holdout, _HOLDOUT_SHARE * span))
        return self.trainer.fit(rows, cut=cut, hidden=self.history.hidden, version=version)

    def _measure(self, champion: Champion, step: Step) -> tuple[float, float, int]:
        """The metric and the mean loss of a model on what happened in a window, and the rows they are of."""
        rows = self.history.evaluated(step.rows)
        if rows.empty:
            return math.nan, math.nan, 0
        try:
            outcomes, scores = champion.score(rows)
        except (DataError, ModelCodeError):
            # as the scoring service does: rows that the model cannot take are refused, the others are answered
            whole = rows.dropna(subset=[c.name for c in champion.signature if c.name in rows.columns and not c.nullable])
            try:
                outcomes, scores = champion.score(whole) if len(whole) else (np.empty(0), np.empty(0))
            except (DataError, ModelCodeError):
                return math.nan, math.nan, 0
        if not len(outcomes):
            return math.nan, math.nan, 0
        loss = float(np.mean(row_losses(self.config.task, outcomes, scores)))
        return score_outcomes(self.config.metric, outcomes, scores), loss, len(outcomes)

    def _ends(self, step: Step) -> dict[str, Any]:
        if self.history.has_clock:
            return {"start": step.window.start.isoformat(), "end": step.window.end.isoformat()}
        return {"start": step.rows.start, "end": step.rows.stop}


def _in_rows(config: ModelConfig, first: Span) -> ModelConfig:
    """The config with lengths of time that stand for rows, one a second: the first rows are the training window."""
    assert isinstance(first, int)
    holdout = max(1, int(_FIRST_HOLDOUT_SHARE * first))
    train = config.train.model_copy(update={"window": timedelta(seconds=first), "holdout": timedelta(seconds=holdout)})
    retrain = config.retrain.model_copy(update={"cooldown": timedelta(0)})
    return config.model_copy(update={"train": train, "retrain": retrain})


def run_backtest(
    config: ModelConfig,
    code: ModelCode,
    frame: pd.DataFrame,
    *,
    first: Span,
    window: Span,
    label_delay: Span = 0,
    policies: Sequence[str] = POLICIES,
    seed: int | None = None,
) -> Iterator[dict[str, Any]]:
    """Replay history under policies.

    Args:
        config: The model's config.
        code: The model file.
        frame: All rows; with the config's time column they are sorted by it, without one their order is the time.
        first: Rows, or time, to train version 1 on.
        window: Rows, or time, of a window.
        label_delay: Rows, or time, after which an outcome is known.
        policies: Names from `POLICIES`.
        seed: Seed of everything random; None: that of the config.

    Yields:
        One record per policy and window, then `{"summary": {policy: {...}}}`.

    Raises:
        ConfigError: If a policy is unknown, or a length does not suit the data.
        DataError: If the data lacks a column, or the first rows cannot be trained on.
        ModelCodeError: If the model's own code fails.
    """
    unknown = [policy for policy in policies if policy not in POLICIES]
    if unknown:
        raise ConfigError([f"--policy: got '{unknown[0]}', allowed are {', '.join(POLICIES)}"])
    backtest = Backtest(config, code, frame, first=first, window=window, label_delay=label_delay, seed=seed)
    summary: dict[str, dict[str, Any]] = {}
    for policy in dict.fromkeys(policies):
        for record in backtest.run(policy):
            if "policy" in record:
                yield record
            else:
                summary[policy] = record
    best = summary.get("oracle", {}).get("mean_loss")
    for told in summary.values():
        told["regret_to_oracle"] = None if best is None or told["mean_loss"] is None else told["mean_loss"] - best
    yield {"summary": summary}
