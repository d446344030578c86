"""Gathers the evidence about one window of a served model, from rows in memory: the same for the live monitor and for a backtest."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any, Protocol

import numpy as np
import pandas as pd

from windvane.check_inputs import check_inputs, check_labels
from windvane.config import ModelConfig
from windvane.decision_evidence import TRAININGS, Evidence, Past, Performance
from windvane.detect_drift import Drift
from windvane.estimate_performance import Trust, judge_trust
from windvane.find_harm import Earlier, Errors, find_harm
from windvane.model_code import ModelCode
from windvane.survey_window import Survey
from windvane.try_refit import NEWEST, TRIED_ROWS, Trial, try_refit
from windvane.watched_champion import Champion
from windvane.windows import Window, as_utc

_OF_LAST = 3
_REMINDED = 10
_LONG = timedelta(days=7)
_DOUBT, _DOUBT_LONG = 0.02, 1.0
_GROWTH = 1.5
_RISEN = 1.2
_SLIPPED = 1.05
_HOLDOUT_SHARE = 0.4
_CHANCE = 0.01
_LEAST_GAIN = {"harm": 0.0, "grown": 0.01, "renewed": 0.03}
_ESTIMATED_ROWS = 20_000
_MOST_A_WINDOW = 0.05


class Labelled(Protocol):
    """The rows of a model whose outcome is known, without those that are held back as bad data."""

    @property
    def begin(self) -> datetime:
        """Time of the first row."""

    def count(self, start: datetime, end: datetime) -> int:
        """The number of rows with start <= time < end."""

    def between(self, start: datetime, end: datetime, *, most: int | None = None) -> pd.DataFrame:
        """The rows with start <= time < end, sorted by time, labels in the type that the model predicts.

        Args:
            most: Return at most so many, evenly over the time.
        """


@dataclass(frozen=True)
class Budget:
    """How often a window that is as it should be may raise an alarm.

    Attributes:
        alarms: Chance of an alarm per window.
    """

    alarms: float

    @classmethod
    def of(cls, config: ModelConfig, length: timedelta, *, windows_per_90d: float | None = None) -> "Budget":
        """The share of the config's budget that a window of this length has, at most 5 %."""
        windows = windows_per_90d or timedelta(days=90) / length
        return cls(min(_MOST_A_WINDOW, config.monitor.false_alarms_per_90d / windows))

    @property
    def signal(self) -> float:
        """The chance of a signal: an alarm takes two signals within three windows, and harm and drift share the budget.

        Signals of independent windows would come together with a chance of 3 p^2. They are not quite independent, because all are
        compared with one reference: so half of that p.
        """
        return 0.5 * math.sqrt(self.alarms / 6)

    @property
    def certain(self) -> float:
        """The chance of a signal that is an alarm at once."""
        return self.alarms / 2


@dataclass(frozen=True)
class Observed:
    """What is known at the end of a window.

    Attributes:
        rows: Inputs of the window, or of an even sample of its rows.
        labelled: The rows with an outcome.
        known_until: Outcomes before this moment are complete.
        past: Earlier windows of the model, in time order.
        realised: What the served predictions were worth; None where they are not known yet.
        served: Inputs as they were sent for scoring; None where they are the rows themselves.
        released: Whether a person said that the window's rows are good.
        survey: What all rows showed, where `rows` is a sample; None where it is not.
    """

    window: Window
    rows: pd.DataFrame
    labelled: Labelled
    known_until: datetime
    past: Sequence[Past] = ()
    realised: Performance | None = None
    served: pd.DataFrame | None = None
    released: bool = False
    survey: Survey | None = None

    @property
    def count(self) -> int:
        """Rows of the window."""
        return self.survey.rows if self.survey else len(self.rows)

    @property
    def thinned(self) -> float:
        """For how many rows of the window each of `rows` stands."""
        return self.count / len(self.rows) if self.survey else 1.0


def watch_window(
    config: ModelConfig, code: ModelCode, champion: Champion | None, seen: Observed, budget: Budget, *, clock: bool = True
) -> Evidence:
    """Check the inputs, measure drift, harm and performance, and try a refit where its result can change the decision.

    Args:
        champion: What serves; None when nothing does.
        seen: What is known.
        budget: How often a false alarm may be raised.
        clock: Whether data time is real time, not a number of rows.

    Raises:
        ModelCodeError: If the model's own code fails.
    """
    if champion is None:
        problems = check_inputs(seen.rows, None, skip=(config.data.time, config.data.label), survey=seen.survey)
        return Evidence(
            seen.window,
            seen.count,
            sampled=len(seen.rows) if seen.survey else 0,
            bad_inputs=tuple(map(str, problems)),
            held=(seen.window,) if problems else (),
            released=seen.released,
        )
    scores = champion.try_to_score(seen.rows) if len(seen.rows) else None
    drift = champion.drift(seen.rows, scores, chance=budget.signal / 2, thinned=seen.thinned) if len(seen.rows) else Drift()
    own = [past for past in seen.past if past.version == champion.version]
    outcomes = _newest_outcomes(config, champion, seen)
    known: dict[str, Any] = {"required": champion.inputs, "skip": (config.data.time,)}
    reference = champion.reference[champion.inputs]
    found = list(check_inputs(seen.rows, reference, stands_for=_stands_for(champion, seen.thinned), survey=seen.survey, **known))
    bad_labels = _check_labels(config, champion, seen, outcomes, inputs_moved=drift.signal)
    if seen.served is not None:
        known |= {"stands_for": _stands_for(champion), "where": "served rows: ", "may_repeat": True}
        found += check_inputs(seen.served, reference, **known)
    harm, is_bad = None, bool(found or bad_labels) and not seen.released
    if len(outcomes) and not is_bad:
        truth, chances = champion.score(outcomes)
        now = Errors.of(config.task, truth, chances)
        harm = find_harm(
            config.task,
            now,
            champion.holdout_errors,
            earlier=[Earlier(p.loss, p.bias, p.judged_rows, p.harmed) for p in own],
            chance=budget.signal,
        )
    span = _span(config, outcomes, seen.known_until)
    evidence = Evidence(
        window=seen.window,
        rows=seen.count,
        sampled=len(seen.rows) if seen.survey else 0,
        outcomes=span,
        labelled_rows=len(outcomes),
        known_until=seen.known_until,
        champion=champion.version,
        champion_trained_until=champion.holdout_end,
        bad_inputs=tuple(map(str, [*found, *bad_labels])),
        held=tuple(w for w in ((seen.window if found else None), (span if bad_labels else None)) if w),
        released=seen.released,
        drifted=drift.drifted,
        compared=drift.compared,
        moved=tuple(f"{c.column}: {c.how}" for c in drift.columns if c.drifted),
        drift_seen=_seen(own, drift.signal, "drifted"),
        drift_told=any(past.drift_seen >= 2 for past in own[-_REMINDED:]),
        harm=harm,
        harm_seen=_seen(own, harm is not None and harm.signal, "harmed"),
        harm_told=any(past.harm_confirmed for past in own[-_REMINDED:]),
        realised=seen.realised,
        last_retrain=max((p.window.end for p in seen.past if p.decision in TRAININGS), default=None),
        retrains_in_a_day=sum(p.decision in TRAININGS and seen.window.end - p.window.end < timedelta(days=1) for p in seen.past)
        if clock
        else 0,
        cannot_repair=next((p.window.end for p in reversed(own) if p.tried_in_vain), None),
        has_clock=clock,
        drift=drift,
        **({} if is_bad else _estimate(champion, seen, scores, own)),
    )
    evidence = _confirm(evidence, budget, clock=clock)
    return evidence if is_bad or len(outcomes) < config.monitor.min_rows else _try(config, code, champion, seen, own, evidence)


def _newest_outcomes(config: ModelConfig, champion: Champion, seen: Observed) -> pd.DataFrame:
    """The newest labelled rows that did not make the champion: as many as a window has, or `monitor.min_rows` where that is more."""
    earliest, length = champion.holdout_end, seen.window.end - seen.window.start
    start = max(earliest, seen.known_until - length)
    if start >= seen.known_until:
        return pd.DataFrame()
    rows = seen.labelled.between(start, seen.known_until)
    extended = False
    while len(rows) < config.monitor.min_rows and start > earliest:
        length, extended = 2 * length, True
        start = max(earliest, seen.known_until - length)
        rows = seen.labelled.between(start, seen.known_until)
    return rows.tail(config.monitor.min_rows).reset_index(drop=True) if extended else rows


def _check_labels(config: ModelConfig, champion: Champion, seen: Observed, outcomes: pd.DataFrame, *, inputs_moved: bool) -> list[Any]:
    if outcomes.empty:
        return []
    start = as_utc(outcomes[config.data.time].iloc[0].to_pydatetime())
    earliest = max(champion.holdout_end, start - (seen.window.end - seen.window.start))
    before = seen.labelled.between(earliest, start)
    # outcomes may be of another window than the inputs, and each is a sample of its own or none
    thinned = max(1.0, seen.labelled.count(start, seen.known_until) / len(outcomes))
    thinned_before = max(1.0, seen.labelled.count(earliest, start) / len(before)) if len(before) else 1.0
    earlier = champion.reference[config.data.label]
    return list(
        check_labels(
            outcomes[config.data.label],
            earlier,
            previous=before[config.data.label] if len(before) else None,
            classifier=config.is_classifier,
            inputs_moved=inputs_moved,
            stands_for=_stands_for(champion, thinned),
            previous_stands=thinned_before / thinned,
        )
    )


def _stands_for(champion: Champion, thinned: float = 1.0) -> int | None:
    """Of how many rows, as thinned as those of the window, the reference is an even sample; None when not known."""
    rows = champion.train_rows + champion.holdout_rows
    return max(1, round(rows / thinned)) if rows else None


def _span(config: ModelConfig, outcomes: pd.DataFrame, known_until: datetime) -> Window | None:
    if outcomes.empty:
        return None
    return Window(as_utc(outcomes[config.data.time].iloc[0].to_pydatetime()), known_until)


def _seen(own: Sequence[Past], now: bool, what: str) -> int:
    """In how many of the last three windows, this one included, there was a signal; windows with bad data do not count."""
    told = [bool(getattr(past, what)) for past in own if past.decision != "fix_data"]
    return int(now) + sum(told[-(_OF_LAST - 1) :]) if now else 0


def _estimate(champion: Champion, seen: Observed, scores: np.ndarray | None, own: Sequence[Past]) -> dict[str, Any]:
    estimator = champion.estimator
    if estimator is None or scores is None:
        return {}
    step = -(-len(scores) // _ESTIMATED_ROWS)
    rows = seen.rows[[c for c in champion.inputs if c in seen.rows.columns]].iloc[::step]
    estimate = estimator.estimate(scores[::step], rows)
    pairs = [(past.estimate, past.realised) for past in own if past.estimate is not None and math.isfinite(past.realised)]
    trust: Trust = judge_trust(pairs)
    return {"estimate": estimate, "estimate_trusted": trust.trusted, "estimate_trust": trust.reason}


def _confirm(evidence: Evidence, budget: Budget, *, clock: bool) -> Evidence:
    """Whether harm was seen often enough to act on: in two of three windows, or beyond doubt throughout one."""
    harm = evidence.harm
    if harm is None:
        return evidence
    doubt = _DOUBT_LONG if clock and evidence.window.end - evidence.window.start >= _LONG else _DOUBT
    at_once = harm.rose and harm.lasting and harm.p < budget.certain * doubt
    return evidence.but(harm_confirmed=(harm.signal and evidence.harm_seen >= 2) or at_once)


def _try(config: ModelConfig, code: ModelCode, champion: Champion, seen: Observed, own: Sequence[Past], evidence: Evidence) -> Evidence:
    asked = _ask(config, champion, seen, own, evidence)
    if asked is None:
        return evidence
    judged_start = _judged_start(config, champion, seen, asked.since)
    judged = seen.labelled.between(judged_start, seen.known_until)
    middle = asked.since + (judged_start - asked.since) / 2
    starts = {
        "since the change": asked.since if asked.why != "renewed" else None,
        NEWEST: middle if asked.why != "renewed" else None,
        "usual window": _usual_start(config, seen) if asked.why != "grown" else None,
        "all history": seen.labelled.begin if asked.why == "harm" else None,
    }
    trains = _distinct(
        {
            name: seen.labelled.between(start, judged_start, most=TRIED_ROWS)
            for name, start in starts.items()
            if start and start < judged_start
        }
    )
    trial = try_refit(
        config,
        code,
        champion,
        trains=trains,
        judged=judged,
        asked=replace(asked, judged_start=judged_start),
        chance=_CHANCE,
        least_gain=_LEAST_GAIN[asked.why],
    )
    return evidence.but(trial=trial)


def _judged_start(config: ModelConfig, champion: Champion, seen: Observed, since: datetime) -> datetime:
    """Where the rows begin that judge: 40 % of what is there since the change, at most `train.holdout`, more where those are too few."""
    earliest = max(champion.train.end, since)
    length = min(config.train.holdout, _HOLDOUT_SHARE * (seen.known_until - since))
    start = max(earliest, seen.known_until - length)
    while start > earliest and seen.labelled.count(start, seen.known_until) < config.gates.min_rows:
        length *= 1.1
        start = max(earliest, seen.known_until - length)
    return start


def _ask(config: ModelConfig, champion: Champion, seen: Observed, own: Sequence[Past], evidence: Evidence) -> Trial | None:
    """What a trial would be about; None when there is no reason to try, or not yet enough new rows since the last one."""
    had = champion.train_rows + champion.holdout_rows
    new = seen.labelled.count(champion.holdout_end, seen.known_until) if seen.known_until > champion.holdout_end else 0
    # trained on little, because of a change: with more rows of the same kind it can be better
    is_young = (
        any(p.train_start == champion.train.start for p in seen.past) and champion.holdout_end - champion.train.start < config.train.window
    )
    if evidence.harm is not None and evidence.harm.signal and not evidence.harm_confirmed:
        # it may pass; a trial now would learn from what may be odd
        return None
    if evidence.harm_confirmed:
        since = _onset(own, evidence)
        why, rows = "harm", seen.labelled.count(since, seen.known_until)
    elif is_young and new >= (_GROWTH - 1) * had:
        why, since, rows = "grown", champion.train.start, had + new
    elif new >= had or _slipped(evidence):
        why, since, rows = "renewed", _usual_start(config, seen), new
    else:
        return None
    # a change that came after an earlier trial is another one, and so is a loss that went on rising
    tried = [p.tried_rows for p in own if p.tried_why == why and not (why == "harm" and _is_another(p, since, evidence))]
    if tried and rows < _GROWTH * tried[-1]:
        return None
    return Trial(why, 0, since, rows, config.metric)


def _slipped(evidence: Evidence) -> bool:
    """Whether the loss is higher than expected, though by chance perhaps: where losses swing, a trial row by row tells more."""
    return evidence.harm is not None and evidence.harm.loss > _SLIPPED * evidence.harm.expected


def _is_another(past: Past, since: datetime, evidence: Evidence) -> bool:
    """Whether a change is not the one that an earlier trial was about."""
    return past.window.end <= since or (evidence.harm is not None and evidence.harm.loss > _RISEN * past.loss)


def _usual_start(config: ModelConfig, seen: Observed) -> datetime:
    return max(seen.labelled.begin, seen.known_until - config.train.window)


def _onset(own: Sequence[Past], evidence: Evidence) -> datetime:
    """Start of the first of the windows with a signal of harm that lead to this one."""
    assert evidence.outcomes is not None
    start = evidence.outcomes.start
    for past in reversed(own):
        if past.decision == "fix_data":
            continue
        if not past.harmed or past.outcomes is None:
            break
        start = min(start, past.outcomes.start)
    return start


def _distinct(trains: Mapping[str, pd.DataFrame]) -> dict[str, pd.DataFrame]:
    """Without candidates that have hardly other rows than one before."""
    kept: dict[str, pd.DataFrame] = {}
    for name, rows in trains.items():
        if not any(0.9 * len(other) <= len(rows) <= 1.1 * len(other) for other in kept.values()):
            kept[name] = rows
    return kept
