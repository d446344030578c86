"""Replays history under one or more policies: trains on the first rows, then walks window by window and reads the past only.

Windvane's policy is the code that runs in production: `watch_window`, `decide`, the gates. The others are what people do without it.
"""

import math
import time as clock_time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pandas as pd

from windvane.backtest_defaults import POLICIES, Span
from windvane.compare_models import align_classes, finite_or_none, outcomes_of, score_outcomes, scores_of
from windvane.config import ModelConfig
from windvane.decide_retrain import TRAININGS, Past, Policy, decide
from windvane.errors import ConfigError, DataError, ModelCodeError
from windvane.fit_baselines import fit_baselines
from windvane.fit_pipeline import fit_pipeline
from windvane.gate_challenger import Judged, judge_quality, judge_sanity
from windvane.measure_psi import largest_psi
from windvane.model_code import ModelCode
from windvane.predictor import Predictions, make_features, predict_features, predict_rows
from windvane.recalibrate import Recalibration, fit_recalibration
from windvane.row_losses import row_losses
from windvane.signature import Column, conform, describe_columns, keep_used_columns
from windvane.snapshot import labels_of
from windvane.tune_model import tune_model
from windvane.watch_window import Budget, Champion, Observed, watch_window
from windvane.windows import Window

_EPOCH = datetime(2000, 1, 1, tzinfo=UTC)
_REFERENCE_ROWS = 5_000
_HOLDOUT_SHARE = 0.4
_FIRST_HOLDOUT_SHARE = 0.2
_WEEK_WINDOWS = 7
_PSI = 0.2


@dataclass(frozen=True)
class Step:
    """One window of the walk.

    Attributes:
        rows: Places of its rows in the history.
        known_until: Outcomes of rows before this moment are known at its end.
    """

    number: int
    rows: slice
    window: Window
    known_until: datetime


class History:
    """All rows, sorted by time, with the outcomes that a policy may see.

    Args:
        frame: Input columns, label, and the config's time column if the data has one; without it the order of the rows is the time, one
            row a second.
    """

    def __init__(self, config: ModelConfig, frame: pd.DataFrame) -> None:
        self.config = config
        label, time = config.data.label, config.data.time
        if label not in frame.columns:
            raise DataError(f"the data has no column '{label}', which data.label names; it has {', '.join(map(str, frame.columns[:20]))}")
        self.has_clock = time in frame.columns and not pd.api.types.is_numeric_dtype(frame[time].dtype)
        if self.has_clock:
            frame = frame.assign(**{time: pd.to_datetime(frame[time], utc=True).astype("datetime64[us, UTC]")})
            if frame[time].isna().any():
                raise DataError(f"column '{time}' has {int(frame[time].isna().sum())} rows without a time; remove them")
            frame = frame.sort_values(time, kind="stable", ignore_index=True)
        else:
            order = frame.sort_values(time, kind="stable", ignore_index=True) if time in frame.columns else frame.reset_index(drop=True)
            moments = pd.Timestamp(_EPOCH) + pd.to_timedelta(np.arange(len(order)), unit="s")
            frame = order.assign(**{time: pd.DatetimeIndex(moments).astype("datetime64[us, UTC]")})
        self.hidden = () if self.has_clock else (time,)
        known = frame[label].notna().to_numpy()
        self.frame = frame
        self.times = frame[time].astype("int64").to_numpy()
        self._usable = known.copy()
        self._known = known
        labels = labels_of(frame.loc[known, label], config)
        self.labels = labels.reindex(frame.index) if not known.all() else labels

    def without(self, held: Sequence[Window]) -> "History":
        """The same history without the outcomes of some windows."""
        made = object.__new__(History)
        made.__dict__ = dict(self.__dict__)
        usable = self._known.copy()
        for window in held:
            usable[self.place(window.start) : self.place(window.end)] = False
        made._usable = usable
        return made

    def place(self, moment: datetime) -> int:
        """The number of rows before a moment."""
        return int(np.searchsorted(self.times, int(pd.Timestamp(moment).value // 1000), side="left"))

    def moment(self, place: int) -> datetime:
        """The time of a row; behind the last row, just after it."""
        at = self.times[place] if place < len(self.times) else self.times[-1] + 1_000_000
        return pd.Timestamp(int(at), unit="us", tz="UTC").to_pydatetime()

    @property
    def begin(self) -> datetime:
        """Time of the first row."""
        return self.moment(0)

    def count(self, start: datetime, end: datetime) -> int:
        """The number of labelled rows with start <= time < end that are not held back."""
        return int(self._usable[self.place(start) : self.place(end)].sum())

    def between(self, start: datetime, end: datetime, *, most: int | None = None) -> pd.DataFrame:
        """Labelled rows with start <= time < end that are not held back; at most so many, evenly over the time."""
        low = self.place(start)
        return self.labelled(slice(low, max(low, self.place(end))), most=most)

    def labelled(self, rows: slice, *, most: int | None = None) -> pd.DataFrame:
        """Labelled rows of some places that are not held back."""
        places = rows.start + np.flatnonzero(self._usable[rows])
        places = places[:: -(-len(places) // most)] if most and len(places) > most else places
        labels = self.labels.iloc[places].infer_objects()
        found: pd.DataFrame = self.frame.iloc[places].assign(**{self.config.data.label: labels}).reset_index(drop=True)
        return found

    def evaluated(self, rows: slice) -> pd.DataFrame:
        """All rows with a label, also those that are held back: they are what happened."""
        known = self._known[rows]
        happened: pd.DataFrame = self.frame.iloc[rows][known].assign(
            **{self.config.data.label: self.labels.iloc[rows][known].infer_objects()}
        )
        return happened


def walk(history: History, *, first: Span, window: Span, label_delay: Span) -> list[Step]:
    """Cut what comes after the first rows into windows, by rows or by time.

    Raises:
        ConfigError: If a length of time is given and the data has no time, or nothing is left to walk over.
    """
    for name, span in (("--first", first), ("--window", window), ("--label-delay", label_delay)):
        if isinstance(span, timedelta) and span and not history.has_clock:
            raise ConfigError(
                [f"{name}: got a length of time, but the data has no column '{history.config.data.time}'; give a number of rows"]
            )
    n = len(history.times)
    low = first if isinstance(first, int) else history.place(history.moment(0) + first)
    begin = history.moment(min(low, n)) if isinstance(first, int) else history.moment(0) + first
    if low < 2 or low >= n:
        raise ConfigError([f"--first: got {low} rows of {n}, allowed is a number of rows that leaves some to walk over"])
    steps: list[Step] = []
    while low < n:
        if isinstance(window, int):
            high = min(n, low + window)
            begin, end = history.moment(low), history.moment(high)
        else:
            end = begin + window
            high = history.place(end)
        end = max(end, begin + timedelta(microseconds=1))
        known = end
        if label_delay:
            known = history.moment(max(0, high - label_delay)) if isinstance(label_delay, int) else end - label_delay
        if high - low == window or not isinstance(window, int) or high - low >= window / 2:
            steps.append(Step(len(steps), slice(low, high), Window(begin, end), known))
        low, begin = high, end
    return steps


class Trainer:
    """Makes versions from spans of the history, each once."""

    def __init__(self, config: ModelConfig, code: ModelCode) -> None:
        self.config, self.code = config, code
        self._made: dict[tuple[Any, ...], Champion] = {}

    def fit(self, rows: pd.DataFrame, *, cut: datetime | None, hidden: tuple[str, ...], version: int = 1) -> Champion:
        """Tune and fit the pipeline on labelled rows in time order; those from `cut` on are not fitted on.

        Raises:
            DataError: If there are no rows to fit on, or of one class only.
            ModelCodeError: If the model's own code fails.
        """
        config, time, label = self.config, self.config.data.time, self.config.data.label
        if len(rows) < 2:
            raise DataError(f"{len(rows)} labelled rows are too few to train on")
        start, end = rows[time].iloc[0].to_pydatetime(), rows[time].iloc[-1].to_pydatetime() + timedelta(microseconds=1)
        cut = cut or end
        key = (start, end, len(rows), cut)
        if key in self._made:
            return replace(self._made[key], version=version)
        newer = (rows[time] >= cut).to_numpy()
        train, held = rows[~newer].reset_index(drop=True), rows[newer].reset_index(drop=True)
        if config.is_classifier and train[label].nunique() < 2:
            raise DataError(f"the {len(train)} rows to train on have a single class")
        every = describe_columns(rows, exclude=(config.data.id, label, *hidden))
        inputs = conform(train, every)
        made = make_features(self.code, inputs)
        params = tune_model(config, self.code, made, train[label])
        pipeline = fit_pipeline(self.code, params, made, train[label], seed=config.train.seed)

        def predict(features: pd.DataFrame) -> np.ndarray:
            found = predict_features(pipeline, features, where=str(self.code.path), classifier=config.is_classifier)
            return found.values if found.probabilities is None else found.probabilities

        columns = keep_used_columns(every, inputs, features=self.code.features, predict=predict)
        both = pd.concat([train.assign(holdout=False), held.assign(holdout=True)], ignore_index=True)
        champion = Champion(
            version=version,
            predict=lambda frame: predict_rows(pipeline, self.code, conform(frame, columns), classifier=config.is_classifier),
            classes=pipeline.classes_.tolist() if config.is_classifier else None,
            signature=columns,
            params=params,
            reference=_reference(both, columns, label),
            train=Window(start, max(cut, start + timedelta(microseconds=1))),
            train_rows=len(train),
            holdout_end=end,
            holdout_rows=len(held),
            label=label,
            task=config.task,
            metric=config.metric,
            seed=config.train.seed,
            time=time,
            hidden=hidden,
        )
        self._made[key] = champion
        return champion

    def recalibrate(self, champion: Champion, rows: pd.DataFrame, *, cut: datetime, version: int) -> Champion:
        """The champion with a calibration that fits labelled rows; those from `cut` on are not fitted on."""
        time = self.config.data.time
        end = rows[time].iloc[-1].to_pydatetime() + timedelta(microseconds=1)
        newer = (rows[time] >= cut).to_numpy()
        train = rows[~newer]
        outcomes, scores = champion.score(train)
        calibration = fit_recalibration(self.config.task, outcomes, scores)
        both = pd.concat([train.assign(holdout=False), rows[newer].assign(holdout=True)], ignore_index=True)
        return replace(
            champion,
            version=version,
            predict=lambda frame: _recalibrated(champion, calibration, frame),
            reference=_reference(both, champion.signature, self.config.data.label),
            train=Window(train[time].iloc[0].to_pydatetime(), cut),
            train_rows=len(train),
            holdout_end=end,
            holdout_rows=int(newer.sum()),
        )


def _recalibrated(champion: Champion, calibration: Recalibration, frame: pd.DataFrame) -> Predictions:
    found = champion.predict(frame)
    scores = calibration.apply(scores_of(found, champion.task))
    if champion.task == "regression":
        return Predictions(scores, None)
    chances = np.column_stack([1 - scores, scores]) if scores.ndim == 1 else scores
    return Predictions(np.asarray(champion.classes)[chances.argmax(axis=1)], chances)


def _reference(both: pd.DataFrame, columns: Sequence[Column], label: str) -> pd.DataFrame:
    sample = both.iloc[np.linspace(0, len(both) - 1, min(_REFERENCE_ROWS, len(both))).astype(int)].reset_index(drop=True)
    return conform(sample, columns).assign(**{label: sample[label], "holdout": sample["holdout"]})


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
