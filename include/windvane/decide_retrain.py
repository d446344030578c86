"""The decision about one window of a served model: a table of rules over the evidence, first match wins."""

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from datetime import datetime, timedelta
from typing import Any, Literal

from windvane.config import ModelConfig
from windvane.windows import Window

DecisionName = Literal["ok", "wait", "ignore", "fix_data", "recalibrate", "retrain"]
_SHOWN = 5


@dataclass(frozen=True)
class Refit:
    """What a trial refit on the newest rows would bring, on still newer rows that neither model saw.

    Attributes:
        metric: scikit-learn scorer name; more is better.
        champion: Metric of what serves, on the judged rows.
        refit: Metric of the trial refit, on the same rows.
        difference: `refit - champion`.
        low: Lower end of the paired interval of the difference.
        high: Upper end of the paired interval of the difference.
        rows: Judged rows.
        train_rows: Rows that the trial refit was fitted on.
        problem: Why there is no comparison; empty when there is one.
    """

    metric: str
    champion: float = math.nan
    refit: float = math.nan
    difference: float = math.nan
    low: float = math.nan
    high: float = math.nan
    rows: int = 0
    train_rows: int = 0
    problem: str = ""


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
        judged: The newest rows with complete outcomes, on which models are compared; None when there are none.
        labelled_rows: Labelled rows within `judged`.
        champion: Version that serves; None when nothing serves.
        champion_trained_until: End of the champion's training rows.
        bad_inputs: What is wrong with the data, one line each.
        drifted: Columns whose distribution left the champion's reference.
        compared: Number of columns that were compared.
        realised: What the served predictions were worth.
        refit: The trial refit; None when it was not needed.
        last_retrain: End of the newest earlier window that was decided `retrain`.
    """

    window: Window
    rows: int
    judged: Window | None = None
    labelled_rows: int = 0
    champion: int | None = None
    champion_trained_until: datetime | None = None
    bad_inputs: tuple[str, ...] = ()
    drifted: tuple[str, ...] = ()
    compared: int = 0
    realised: Performance | None = None
    refit: Refit | None = None
    last_retrain: datetime | None = None

    @property
    def champion_is_newest(self) -> bool:
        """Whether a refit would have no row that the champion was not already trained on."""
        return bool(self.judged and self.champion_trained_until and self.champion_trained_until >= self.judged.start)

    def as_json(self) -> dict[str, Any]:
        """A form for JSON: windows and times as text, numbers that are not finite as None."""
        return {name: _plain(value) for name, value in asdict(self).items()}


@dataclass(frozen=True)
class Policy:
    """What the config of a model says about decisions.

    Attributes:
        min_rows: Fewest labelled rows on which anything but `wait` or `fix_data` is decided.
        margin: By how much the refit must surely be better, in the metric's unit; never below zero.
        cooldown: Shortest data time between two `retrain` decisions.
    """

    min_rows: int
    margin: float = 0.0
    cooldown: timedelta = timedelta(0)

    @classmethod
    def of(cls, config: ModelConfig) -> "Policy":
        """The policy that a config asks for."""
        return cls(config.monitor.min_rows, max(0.0, config.gates.versus_champion.margin), config.retrain.cooldown)


@dataclass(frozen=True)
class Decision:
    """One word and the sentence behind it."""

    decision: DecisionName
    reason: str


@dataclass(frozen=True)
class _Rule:
    decision: DecisionName
    applies: Callable[[Evidence, Policy], bool]
    reason: Callable[[Evidence, Policy], str]


def decide(evidence: Evidence, policy: Policy) -> Decision:
    """Decide about one window; pure, so the same evidence under the same policy gives the same decision."""
    for rule in _RULES:
        if rule.applies(evidence, policy):
            return Decision(rule.decision, rule.reason(evidence, policy))
    return Decision("ok", _nothing_to_gain(evidence, policy))


def _refit_is_better(evidence: Evidence, policy: Policy) -> bool:
    refit = evidence.refit
    return refit is not None and not _refit_is_unknown(evidence, policy) and refit.low > policy.margin


def _refit_is_unknown(evidence: Evidence, policy: Policy) -> bool:
    refit = evidence.refit
    # NaN and infinity are no answer, so they are never "better"
    return refit is None or bool(refit.problem) or not (math.isfinite(refit.difference) and math.isfinite(refit.low))


def _cools_down(evidence: Evidence, policy: Policy) -> bool:
    return evidence.last_retrain is not None and evidence.window.end - evidence.last_retrain < policy.cooldown


def _bad_data(evidence: Evidence, policy: Policy) -> str:
    shown = "; ".join(evidence.bad_inputs[:_SHOWN])
    more = len(evidence.bad_inputs) - _SHOWN
    return f"the data is bad, so nothing is learned from it: {shown}{f'; and {more} more' if more > 0 else ''}"


def _too_few(evidence: Evidence, policy: Policy) -> str:
    where = f" in {evidence.judged}" if evidence.judged else ""
    return f"{evidence.labelled_rows} rows with a known outcome{where}, and monitor.min_rows asks for {policy.min_rows}"


def _newest(evidence: Evidence, policy: Policy) -> str:
    trained = f"{evidence.champion_trained_until:%Y-%m-%d %H:%M}"
    return f"version {evidence.champion} was trained on rows until {trained}: a refit could read none that are newer"


def _unknown(evidence: Evidence, policy: Policy) -> str:
    problem = evidence.refit.problem if evidence.refit else ""
    return f"whether a refit would help is not known: {problem or 'the comparison gave no finite number'}"


def _comparison(evidence: Evidence) -> str:
    r = evidence.refit
    if r is None:
        return "no trial refit"
    return (
        f"{r.metric} of a trial refit is {r.refit:.4f} against {r.champion:.4f} of version {evidence.champion} "
        f"on the same {r.rows} newest rows (difference {r.difference:+.4f}, interval {r.low:+.4f} to {r.high:+.4f})"
    )


def _cooling(evidence: Evidence, policy: Policy) -> str:
    last = f"{evidence.last_retrain:%Y-%m-%d}"
    return f"{_comparison(evidence)}, but a retraining was decided at {last} and retrain.cooldown is {policy.cooldown}"


def _better(evidence: Evidence, policy: Policy) -> str:
    return f"a refit is better beyond noise: {_comparison(evidence)}"


def _drift_without_gain(evidence: Evidence, policy: Policy) -> str:
    named = ", ".join(evidence.drifted[:_SHOWN]) + (", ..." if len(evidence.drifted) > _SHOWN else "")
    return f"{len(evidence.drifted)} of {evidence.compared} columns drifted ({named}), but a refit does not help: {_comparison(evidence)}"


def _nothing_to_gain(evidence: Evidence, policy: Policy) -> str:
    return f"no drift, and a refit does not help: {_comparison(evidence)}"


# Read from top to bottom: the first rule that applies decides.
_RULES: tuple[_Rule, ...] = (
    _Rule("fix_data", lambda e, p: bool(e.bad_inputs), _bad_data),
    _Rule("wait", lambda e, p: e.champion is None, lambda e, p: "nothing serves yet"),
    _Rule("wait", lambda e, p: e.labelled_rows < p.min_rows, _too_few),
    _Rule("ok", lambda e, p: e.champion_is_newest, _newest),
    _Rule("wait", _refit_is_unknown, _unknown),
    _Rule("wait", lambda e, p: _refit_is_better(e, p) and _cools_down(e, p), _cooling),
    _Rule("retrain", _refit_is_better, _better),
    _Rule("ignore", lambda e, p: bool(e.drifted), _drift_without_gain),
)


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
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
