"""What a decision rests on, and what later windows remember of it."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Literal

from windvane.backtest_defaults import ROW_EPOCH
from windvane.windows import Window, as_utc

if TYPE_CHECKING:
    from windvane.detect_drift import Drift
    from windvane.estimate_performance import Estimate
    from windvane.find_harm import Harm
    from windvane.try_refit import Candidate, Trial

DecisionName = Literal["ok", "wait", "ignore", "fix_data", "recalibrate", "retrain"]
TRAININGS: tuple[DecisionName, ...] = ("retrain", "recalibrate")
"""Decisions after which a challenger is made."""

RECALIBRATED = "recalibrated"
"""Name of the candidate that is the champion with a new calibration."""


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
        drawn_from: Of how many scored rows `scored` is an even sample; 0 where it is all.
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
    drawn_from: int = 0


@dataclass(frozen=True)
class Evidence:
    """Everything that a decision rests on; times are data time.

    Attributes:
        window: The window that is decided about.
        rows: Committed raw rows of the window.
        sampled: How many of them were looked at, drawn evenly over the time; 0 where all were.
        outcomes: The newest rows with complete outcomes, on which the champion is judged; None when there are none.
        labelled_rows: Labelled rows within `outcomes`.
        known_until: Outcomes are unknown since this moment.
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
        has_clock: Whether data time is real time, not a number of rows.
        drift: All that was measured about drift.
    """

    window: Window
    rows: int
    outcomes: Window | None = None
    labelled_rows: int = 0
    known_until: datetime | None = None
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
    has_clock: bool = True
    sampled: int = 0
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
            "recalibrate": self.choice.name == RECALIBRATED,
        }

    def at(self, moment: datetime) -> str:
        """A moment of data time for people."""
        return f"{moment:%Y-%m-%d %H:%M}" if self.has_clock else f"row {(moment - ROW_EPOCH) // timedelta(seconds=1)}"

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
