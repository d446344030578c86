"""The decision about one window of a served model: a table of rules over the evidence, first match wins."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta

from windvane.config import ModelConfig
from windvane.decision_evidence import RECALIBRATED, DecisionName, Evidence

_SHOWN = 5


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
    return e.choice is not None and e.choice.name == RECALIBRATED


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
    until = e.at(e.champion_trained_until) if e.champion_trained_until else "now"
    return f"version {e.champion} was trained on rows until {until}: a refit could read none that are newer"


def _too_few(e: Evidence, p: Policy) -> str:
    where = f" since {e.at(e.outcomes.start)}" if e.outcomes else ""
    few = f"{e.labelled_rows} rows with a known outcome{where}, and monitor.min_rows asks for {p.min_rows}"
    if e.known_until is not None and e.known_until < e.window.end:
        few = f"{few}; outcomes are unknown since {e.at(e.known_until)}"
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
    why = {
        "grown": f"there are more rows since the change that version {e.champion} was trained after",
        "renewed": "it was time to try newer rows",
    }
    return why.get(e.trial.why, _harm(e)) if e.trial else _harm(e)


def _recalibrate(e: Evidence, p: Policy) -> str:
    return f"{_why(e)}; the ranking holds and a new calibration {_gain(e)}; a refit is not better than that"


def _retrain(e: Evidence, p: Policy) -> str:
    assert e.choice is not None
    return f"{_why(e)}; a refit on {e.choice.train_rows} rows ({e.choice.name}) {_gain(e)}"


def _held(e: Evidence, p: Policy) -> str:
    told = f"a training would help ({_gain(e)}), but "
    if e.last_retrain is not None and _cools_down(e, p):
        return f"{told}one was decided at {e.at(e.last_retrain)} and retrain.cooldown is {p.cooldown}"
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
    since = f"; at {e.at(e.cannot_repair)} a refit did not help" if e.cannot_repair else ""
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
