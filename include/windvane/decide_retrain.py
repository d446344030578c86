"""The decision about one window of a served model: a table of rules over the evidence, first match wins."""

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Literal

from windvane.config import ModelConfig
from windvane.windows import Window, as_utc

if TYPE_CHECKING:
    from windvane.detect_drift import Drift
    from windvane.estimate_performance import Estimate
    from windvane.find_harm import Harm
    from windvane.try_refit import Candidate, Trial

DecisionName = Literal["ok", "wait", "ignore", "fix_data", "recalibrate", "retrain"]
TRAININGS: tuple[DecisionName, ...] = ("retrain", "recalibrate")
"""Decisions after which a challenger is made."""

_SHOWN = 5
_RECALIBRATED = "recalibrated"


@dataclass(frozen=True)
class Performance:
    """The metric that was realised by what really served, on the requests whose outcome is known.

    Attributes:
        metric: scikit-learn scorer name; more is better.
        value: The metric over all versions; NaN when it is not defined.
        low: Lower end of the 95 % bootstrap interval.
        high: Upper end of the 95 % bootstrap interval.
        scored: Scored rows of the window.
        rows: Scored rows whose outcome is known.
        versions: Version -> metric, for the versions with enough rows.
        problem: Why there is no value; empty when there is one.
    """

    metric: str
    value: float = math.nan
    low: float = math.nan
    high: float = math.nan
    scored: int = 0
    rows: int = 0
    versions: dict[str, float] = field(default_factory=dict)
    problem: str = ""


@dataclass(frozen=True)
class Evidence:
    """Everything that a decision rests on; times are data time.

    Attributes:
        window: The window that is decided about.
        rows: Committed raw rows of the window.
        outcomes: The newest rows with complete outcomes, on which the champion is judged; None when there are none.
        labelled_rows: Labelled rows within `outcomes`.
        champion: Version that serves; None when nothing serves.
        champion_trained_until: End of the rows that trained and judged the champion.
        bad_inputs: What is wrong with the data, one line each.
        held: The spans of the rows that are bad: nothing is trained on them unless a person releases them.
        released: Whether a person said that the window's rows are good.
        drifted: Columns whose distribution left the champion's reference, worst first.
        compared: Number of columns that were compared.
        moved: How the drifted columns moved, worst first.
        drift_seen: In how many of the last three windows there was drift; 0 if there is none now.
        drift_told: Whether drift was an alarm already in one of the ten windows before.
        harm: The champion's loss against that of its training; None where no outcome is known.
        harm_seen: In how many of the last three windows the loss was up; 0 if it is not now.
        harm_confirmed: Whether it was up often or long enough to act on.
        harm_told: Whether harm was confirmed already in one of the ten windows before.
        estimate: The metric as it is estimated without outcomes; None where it cannot be.
        estimate_trusted: Whether earlier estimates were right.
        estimate_trust: Why, or why not.
        realised: What the served predictions were worth.
        trial: What a refit would bring; None when there was no reason to try.
        cannot_repair: End of the newest earlier window after which a trial repaired nothing.
        last_retrain: End of the newest earlier window that was decided `retrain` or `recalibrate`.
        retrains_in_a_day: Such decisions within the last day of data time.
        drift: All that was measured about drift.
    """

    window: Window
    rows: int
    outcomes: Window | None = None
    labelled_rows: int = 0
    champion: int | None = None
    champion_trained_until: datetime | None = None
    bad_inputs: tuple[str, ...] = ()
    held: tuple[Window, ...] = ()
    released: bool = False
    drifted: tuple[str, ...] = ()
    compared: int = 0
    moved: tuple[str, ...] = ()
    drift_seen: int = 0
    drift_told: bool = False
    harm: "Harm | None" = None
    harm_seen: int = 0
    harm_confirmed: bool = False
    harm_told: bool = False
    estimate: "Estimate | None" = None
    estimate_trusted: bool = False
    estimate_trust: str = ""
    realised: Performance | None = None
    trial: "Trial | None" = None
    cannot_repair: datetime | None = None
    last_retrain: datetime | None = None
    retrains_in_a_day: int = 0
    drift: "Drift | None" = field(default=None, compare=False, repr=False)

    @property
    def is_bad(self) -> bool:
        """Whether the data is bad and nobody released it."""
        return bool(self.bad_inputs) and not self.released

    @property
    def drift_confirmed(self) -> bool:
        """Whether drift was seen in two of three windows."""
        return self.drift_seen >= 2

    @property
    def alarm(self) -> bool:
        """Whether this window is the first to say that something changed; a lasting change is told once."""
        return not self.is_bad and ((self.drift_confirmed and not self.drift_told) or (self.harm_confirmed and not self.harm_told))

    @property
    def choice(self) -> "Candidate | None":
        """What would repair the champion."""
        return self.trial.choice if self.trial else None

    @property
    def plan(self) -> dict[str, Any] | None:
        """How the training that follows should go; None where none follows."""
        if self.choice is None or self.trial is None or self.trial.judged_start is None:
            return None
        return {
            "train_start": self.choice.train_start.isoformat(),
            "holdout_start": self.trial.judged_start.isoformat(),
            "recalibrate": self.choice.name == _RECALIBRATED,
        }

    def but(self, **changes: Any) -> "Evidence":
        """The same with some fields changed."""
        return replace(self, **changes)

    def as_json(self) -> dict[str, Any]:
        """A form for JSON: windows and times as text, numbers that are not finite as None."""
        told = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "drift"}
        made = {name: _plain(value if not hasattr(value, "__dataclass_fields__") else asdict(value)) for name, value in told.items()}
        return {**made, "alarm": self.alarm, "plan": self.plan}


@dataclass(frozen=True)
class Past:
    """What later windows need to know of an earlier one.

    Attributes:
        version: Version that served.
        drifted: Whether there was a signal of drift.
        harmed: Whether there was a signal of harm.
        loss: Mean loss of the champion; NaN when not known.
        bias: Its mean of outcome minus prediction; NaN when not known.
        judged_rows: Rows with an outcome that these are of.
        estimate: The estimate of the metric, as in JSON; None when there was none.
        realised: The metric that was realised; NaN when not known.
        tried_why: What a trial was about; empty when there was none.
        tried_rows: Rows since the change when it was tried.
        in_vain: Whether nothing that was tried helps.
        train_start: From when to train, if that was decided.
    """

    window: Window
    decision: str
    version: int | None = None
    outcomes: Window | None = None
    drifted: bool = False
    drift_seen: int = 0
    harmed: bool = False
    harm_confirmed: bool = False
    loss: float = math.nan
    bias: float = math.nan
    judged_rows: int = 0
    estimate: Mapping[str, Any] | None = None
    realised: float = math.nan
    tried_why: str = ""
    tried_rows: int = 0
    in_vain: bool = False
    train_start: datetime | None = None

    @property
    def tried_in_vain(self) -> bool:
        """Whether a trial because of harm found nothing that helps."""
        return self.tried_why == "harm" and self.in_vain

    @classmethod
    def of(cls, decision: str, evidence: Mapping[str, Any]) -> "Past":
        """Read what `Evidence.as_json` wrote; fields that an earlier release did not have are as if nothing was seen."""
        harm, trial, realised = (evidence.get(name) or {} for name in ("harm", "trial", "realised"))
        window = Window.from_extra(evidence["window"])
        assert window is not None
        plan = evidence.get("plan") if decision in TRAININGS else None
        return cls(
            window=window,
            decision=decision,
            version=evidence.get("champion"),
            outcomes=Window.from_extra(evidence.get("outcomes") or {}),
            drifted=bool(evidence.get("drifted")),
            drift_seen=int(evidence.get("drift_seen") or 0),
            harmed=bool(harm.get("rose") or harm.get("biased")),
            harm_confirmed=bool(evidence.get("harm_confirmed")),
            loss=_number(harm.get("loss")),
            bias=_number(harm.get("bias")),
            judged_rows=int(harm.get("rows") or 0),
            estimate=evidence.get("estimate"),
            realised=_number(realised.get("value")),
            tried_why=str(trial.get("why", "")),
            tried_rows=int(trial.get("rows_since") or 0) if trial.get("candidates") else 0,
            in_vain=bool(trial.get("candidates")) and decision == "ignore",
            train_start=as_utc(plan["train_start"]) if plan else None,
        )


@dataclass(frozen=True)
class Policy:
    """What the config of a model says about decisions.

    Attributes:
        min_rows: Fewest labelled rows on which anything but `wait` or `fix_data` is decided.
        cooldown: Shortest data time between two decisions to train.
        per_day: Most decisions to train within a day of data time.
    """

    min_rows: int
    cooldown: timedelta = timedelta(0)
    per_day: int = 4

    @classmethod
    def of(cls, config: ModelConfig) -> "Policy":
        """The policy that a config asks for."""
        return cls(config.monitor.min_rows, config.retrain.cooldown, config.retrain.per_day)


@dataclass(frozen=True)
class Decision:
    """One word, the sentence behind it, and what people must be told.

    Attributes:
        alert: What people must be told once; empty when nothing.
    """

    decision: DecisionName
    reason: str
    alert: str = ""


def decide(evidence: Evidence, policy: Policy) -> Decision:
    """Decide about one window; pure, so the same evidence under the same policy gives the same decision."""
    rule = next(rule for rule in RULES if rule.applies(evidence, policy))
    return Decision(rule.decision, rule.reason(evidence, policy), rule.alert(evidence, policy))


@dataclass(frozen=True)
class Rule:
    """One row of the table.

    Attributes:
        when: In words, for the docs.
    """

    decision: DecisionName
    when: str
    applies: Callable[[Evidence, Policy], bool]
    reason: Callable[[Evidence, Policy], str]
    alert: Callable[[Evidence, Policy], str] = lambda e, p: ""


def _is_newest(e: Evidence, p: Policy) -> bool:
    return e.rows > 0 and e.labelled_rows == 0 and e.champion_trained_until is not None and e.champion_trained_until >= e.window.end


def _may_not_train(e: Evidence, p: Policy) -> bool:
    return e.choice is not None and (_cools_down(e, p) or e.retrains_in_a_day >= p.per_day)


def _cools_down(e: Evidence, p: Policy) -> bool:
    return e.last_retrain is not None and e.window.end - e.last_retrain < p.cooldown


def _needs_calibration(e: Evidence, p: Policy) -> bool:
    return e.choice is not None and e.choice.name == _RECALIBRATED


def _is_unconfirmed(e: Evidence, p: Policy) -> bool:
    return e.harm is not None and e.harm.signal and not e.harm_confirmed


def _could_not_try(e: Evidence, p: Policy) -> bool:
    return e.harm_confirmed and e.trial is not None and (bool(e.trial.problem) or e.trial.is_unsure)


def _estimate_fell(e: Evidence, p: Policy) -> bool:
    return e.estimate is not None and e.estimate_trusted and not e.estimate.problem and e.estimate.high < e.estimate.expected


def _bad_data(e: Evidence, p: Policy) -> str:
    shown = "; ".join(e.bad_inputs[:_SHOWN])
    more = len(e.bad_inputs) - _SHOWN
    return f"the data is bad, so nothing is learned from it: {shown}{f'; and {more} more' if more > 0 else ''}"


def _newest(e: Evidence, p: Policy) -> str:
    return (
        f"version {e.champion} was trained on rows until {e.champion_trained_until:%Y-%m-%d %H:%M}: a refit could read none that are newer"
    )


def _too_few(e: Evidence, p: Policy) -> str:
    where = f" in {e.outcomes}" if e.outcomes else ""
    few = f"{e.labelled_rows} rows with a known outcome{where}, and monitor.min_rows asks for {p.min_rows}"
    if _estimate_fell(e, p):
        return f"{few}; without outcomes, {_estimated(e)}"
    return f"{few}; {_drift(e)}" if e.drift_confirmed else few


def _estimated(e: Evidence) -> str:
    if e.estimate is None:
        return "no estimate"
    return (
        f"{e.estimate.metric} is estimated at {e.estimate.value:.4f} ({e.estimate.low:.4f} to {e.estimate.high:.4f}), "
        f"expected was {e.estimate.expected:.4f}"
    )


def _drift(e: Evidence) -> str:
    named = ", ".join(e.drifted[:_SHOWN]) + (", ..." if len(e.drifted) > _SHOWN else "")
    return f"{len(e.drifted)} of {e.compared} columns drifted ({named})"


def _harm(e: Evidence) -> str:
    h = e.harm
    if h is None:
        return "what serves cannot be judged"
    if not h.signal and not e.harm_confirmed:
        return f"version {e.champion} does as well as in its training: loss {h.loss:.4f} on {h.rows} rows, expected {h.expected:.4f}"
    if h.biased and not h.rose:
        return (
            f"version {e.champion} is biased: outcome minus prediction is {h.bias:+.4f} on average of {h.rows} rows, "
            f"in its training it was {h.expected_bias:+.4f} (p {h.bias_p:.1g})"
        )
    return (
        f"version {e.champion} does worse than in its training: loss {h.loss:.4f} on {h.rows} rows, expected {h.expected:.4f} (p {h.p:.1g})"
    )


def _gain(e: Evidence) -> str:
    c, t = e.choice, e.trial
    if c is None or t is None:
        return ""
    return (
        f"lowers the loss from {t.champion_loss:.4f} to {c.loss:.4f} on the {t.rows} newest rows (p {c.p:.1g}), "
        f"{t.metric} {t.champion_metric:.4f} to {c.metric:.4f}"
    )


def _why(e: Evidence) -> str:
    why = {"grown": f"there are more rows since the change that version {e.champion} was trained after", "renewed": "the rows were renewed"}
    return why.get(e.trial.why, _harm(e)) if e.trial else _harm(e)


def _recalibrate(e: Evidence, p: Policy) -> str:
    return f"{_why(e)}; the ranking holds and a new calibration {_gain(e)}; a refit is not better than that"


def _retrain(e: Evidence, p: Policy) -> str:
    assert e.choice is not None
    return f"{_why(e)}; a refit on {e.choice.train_rows} rows ({e.choice.name}) {_gain(e)}"


def _held(e: Evidence, p: Policy) -> str:
    told = f"a training would help ({_gain(e)}), but "
    if e.last_retrain is not None and _cools_down(e, p):
        return f"{told}one was decided at {e.last_retrain:%Y-%m-%d %H:%M} and retrain.cooldown is {p.cooldown}"
    return f"{told}{e.retrains_in_a_day} were decided within a day and retrain.per_day is {p.per_day}"


def _unconfirmed(e: Evidence, p: Policy) -> str:
    return f"{_harm(e)}; seen in {e.harm_seen} of the last 3 windows, 2 are needed: it may pass"


def _not_tried(e: Evidence, p: Policy) -> str:
    assert e.trial is not None
    if e.trial.problem:
        return f"{_harm(e)}; whether a training helps is not known yet: {e.trial.problem}"
    best = e.trial.candidates[0]
    return f"{_harm(e)}; {best.name} may help (gain {best.gain:+.4f} on {e.trial.rows} rows, p {best.p:.1g}): more rows will tell"


def _in_vain(e: Evidence, p: Policy) -> str:
    if e.trial is not None:
        best = e.trial.candidates[0]
        tried = f"the best of {len(e.trial.candidates)} candidates ({best.name}) gains {best.gain:+.4f} (p {best.p:.1g})"
        return f"{_harm(e)}; retraining does not help: {tried}"
    since = f"; {e.cannot_repair:%Y-%m-%d %H:%M} a refit did not help" if e.cannot_repair else ""
    return f"{_harm(e)}{since}; it is tried again with half as many rows more"


def _tell_in_vain(e: Evidence, p: Policy) -> str:
    return "" if e.cannot_repair else f"retraining does not help: new information is needed; {_harm(e)}"


def _harmless(e: Evidence, p: Policy) -> str:
    return f"{_drift(e)}, but {_harm(e)}"


# Read from top to bottom: the first rule that applies decides.
RULES: tuple[Rule, ...] = (
    Rule("fix_data", "the data is bad and nobody released it", lambda e, p: e.is_bad, _bad_data, _bad_data),
    Rule("wait", "nothing serves", lambda e, p: e.champion is None, lambda e, p: "nothing serves yet"),
    Rule("ok", "the champion was trained on all that is known", _is_newest, _newest),
    Rule("wait", "too few outcomes are known", lambda e, p: e.labelled_rows < p.min_rows, _too_few),
    Rule("wait", "a training would help, but the cooldown or the budget of a day forbids it", _may_not_train, _held),
    Rule("recalibrate", "a new calibration repairs the champion, and a refit is not better", _needs_calibration, _recalibrate),
    Rule("retrain", "a refit is better beyond noise on the newest rows", lambda e, p: e.choice is not None, _retrain),
    Rule("wait", "there is harm, but not in two of three windows: it may pass", _is_unconfirmed, _unconfirmed),
    Rule("wait", "there is harm, and too few rows to tell whether a training helps", _could_not_try, _not_tried),
    Rule("ignore", "there is harm that no training repairs: told once", lambda e, p: e.harm_confirmed, _in_vain, _tell_in_vain),
    Rule("ignore", "inputs drifted without harm", lambda e, p: e.drift_confirmed, _harmless),
    Rule("ok", "nothing of all that", lambda e, p: True, lambda e, p: _harm(e)),
)


def _number(value: Any) -> float:
    return float(value) if isinstance(value, int | float) else math.nan


def _plain(value: Any) -> Any:
    if isinstance(value, Window):
        return value.as_extra()
    if isinstance(value, Mapping):
        if value.keys() == {"start", "end"}:
            return Window(value["start"], value["end"]).as_extra()
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
