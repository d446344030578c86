"""Rules of the decision table: one test per rule, and that it is pure."""

import json
import math
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from windvane.decide_retrain import RULES, Policy, decide
from windvane.decision_evidence import RECALIBRATED, Evidence, Past, Performance
from windvane.estimate_performance import Estimate
from windvane.find_harm import Harm
from windvane.settings import REPOSITORY
from windvane.try_refit import Candidate, Trial
from windvane.windows import Window

MAY = Window(datetime(2013, 5, 1, tzinfo=UTC), datetime(2013, 6, 1, tzinfo=UTC))
UNHARMED = Harm(
    loss=0.50, expected=0.50, p=0.6, bias=0.0, expected_bias=0.0, bias_p=0.7, rose=False, biased=False, lasting=False, rows=9000
)
HARMED = replace(UNHARMED, loss=0.70, p=1e-6, rose=True, lasting=True)
BIASED = replace(UNHARMED, loss=0.45, bias=0.12, bias_p=1e-9, biased=True)
REFIT = Candidate("usual window", MAY.start - timedelta(days=60), 60_000, 0.52, 0.18, 1e-8, 0.71, 0.05, better=True)
VAIN = replace(REFIT, loss=0.70, gain=0.001, p=0.4, metric_low=math.nan, better=False)
TRIED = Trial(
    "harm", 4000, MAY.start, 9000, "roc_auc", 0.70, 0.60, (REFIT,), chosen=REFIT.name, judged_start=MAY.tail(timedelta(days=9)).start
)
GOOD = Evidence(
    window=MAY,
    rows=28_000,
    outcomes=MAY,
    labelled_rows=9000,
    champion=1,
    champion_trained_until=datetime(2013, 2, 14, tzinfo=UTC),
    compared=4,
    harm=UNHARMED,
)
BAD = replace(GOOD, harm=HARMED, harm_seen=2, harm_confirmed=True)
DRIFTED = {"drifted": ("dest", "carrier"), "drift_seen": 2}
POLICY = Policy(min_rows=500)
DAYS_31, DAYS_40 = timedelta(days=31), timedelta(days=40)
LOW = Estimate("roc_auc", 0.60, 0.58, 0.62, 9000, 0.70)


@pytest.mark.parametrize(
    ("evidence", "policy", "decision", "says"),
    [
        pytest.param(GOOD, POLICY, "ok", "as well as in its training", id="nothing happened"),
        pytest.param(replace(BAD, bad_inputs=("column dest is lost",), trial=TRIED), POLICY, "fix_data", "lost", id="bad data wins"),
        pytest.param(replace(BAD, bad_inputs=("x",), released=True, trial=TRIED), POLICY, "retrain", "refit", id="a person released it"),
        pytest.param(replace(GOOD, champion=None, labelled_rows=0), POLICY, "wait", "nothing serves yet", id="no champion"),
        pytest.param(replace(GOOD, labelled_rows=499), POLICY, "wait", "499 rows", id="one row too few"),
        pytest.param(
            replace(GOOD, labelled_rows=0, known_until=MAY.start), POLICY, "wait", "unknown since 2013-05-01", id="outcomes are late"
        ),
        pytest.param(replace(GOOD, labelled_rows=500), POLICY, "ok", "as well", id="just enough rows"),
        pytest.param(
            replace(GOOD, labelled_rows=9, estimate=LOW, estimate_trusted=True), POLICY, "wait", "estimated at 0.6000", id="estimate fell"
        ),
        pytest.param(replace(GOOD, labelled_rows=9, estimate=LOW), POLICY, "wait", "asks for 500", id="estimate is not trusted"),
        pytest.param(replace(GOOD, labelled_rows=9, **DRIFTED), POLICY, "wait", "2 of 4 columns", id="drift, outcomes are late"),
        pytest.param(
            replace(GOOD, labelled_rows=0, champion_trained_until=MAY.end), POLICY, "ok", "none that are newer", id="champion is newest"
        ),
        pytest.param(replace(BAD, trial=TRIED), POLICY, "retrain", "0.7000 to 0.5200", id="a refit repairs it"),
        pytest.param(replace(BAD, trial=TRIED, **DRIFTED), POLICY, "retrain", "refit", id="a refit repairs it, and drift"),
        pytest.param(
            replace(BAD, trial=replace(TRIED, candidates=(replace(REFIT, name=RECALIBRATED),), chosen=RECALIBRATED)),
            POLICY,
            "recalibrate",
            "the ranking holds",
            id="a calibration repairs it",
        ),
        pytest.param(replace(GOOD, harm=BIASED, harm_seen=2, harm_confirmed=True), POLICY, "ignore", "+0.1200", id="bias is told"),
        pytest.param(replace(GOOD, harm=HARMED, harm_seen=1), POLICY, "wait", "1 of the last 3", id="harm may pass"),
        pytest.param(
            replace(BAD, trial=replace(TRIED, candidates=(), chosen="", problem="40 rows")), POLICY, "wait", "40 rows", id="too few to try"
        ),
        pytest.param(
            replace(BAD, trial=replace(TRIED, candidates=(replace(VAIN, p=0.03),), chosen="")), POLICY, "wait", "more rows", id="unsure"
        ),
        pytest.param(
            replace(BAD, trial=replace(TRIED, candidates=(VAIN,), chosen="")), POLICY, "ignore", "does not help", id="nothing repairs it"
        ),
        pytest.param(replace(GOOD, **DRIFTED), POLICY, "ignore", "2 of 4 columns", id="drift without harm"),
        pytest.param(replace(GOOD, drifted=("dest",), drift_seen=1), POLICY, "ok", "as well", id="drift once"),
        pytest.param(replace(BAD, trial=TRIED, last_retrain=MAY.start), Policy(500, cooldown=DAYS_40), "wait", "cooldown", id="cools down"),
        pytest.param(
            replace(BAD, trial=TRIED, last_retrain=MAY.start), Policy(500, cooldown=DAYS_31), "retrain", "refit", id="cooled down"
        ),
        pytest.param(replace(BAD, trial=TRIED, retrains_in_a_day=4), POLICY, "wait", "per_day is 4", id="budget of the day is spent"),
    ],
)
def test_rule(evidence, policy, decision, says):
    found = decide(evidence, policy)

    assert (found.decision, says in found.reason) == (decision, True), found.reason
    assert decide(evidence, policy) == found


def test_every_rule_is_reached_by_a_case_above():
    cases = next(mark.args[1] for mark in test_rule.pytestmark if mark.name == "parametrize")

    reached = {next(n for n, rule in enumerate(RULES) if rule.applies(*case.values[:2])) for case in cases}

    assert reached == set(range(len(RULES)))


def test_people_are_told_once_that_nothing_helps():
    vain = replace(BAD, trial=replace(TRIED, candidates=(VAIN,), chosen=""))

    assert "new information is needed" in decide(vain, POLICY).alert
    assert decide(replace(vain, cannot_repair=MAY.start), POLICY).alert == ""


@pytest.mark.parametrize(
    ("evidence", "alarm"),
    [
        pytest.param(GOOD, False, id="nothing"),
        pytest.param(replace(GOOD, **DRIFTED), True, id="drift"),
        pytest.param(replace(GOOD, **DRIFTED, drift_told=True), False, id="drift was told"),
        pytest.param(BAD, True, id="harm"),
        pytest.param(replace(BAD, harm_told=True), False, id="harm was told"),
        pytest.param(replace(GOOD, harm=HARMED, harm_seen=1), False, id="harm once"),
        pytest.param(replace(BAD, bad_inputs=("x",)), False, id="bad data is no drift"),
    ],
)
def test_an_alarm_tells_a_change_once(evidence, alarm):
    assert evidence.alarm is alarm


def test_evidence_is_strict_json_and_becomes_the_past():
    trial = replace(TRIED, champion_metric=math.nan)
    evidence = replace(BAD, trial=trial, estimate=LOW, realised=Performance("roc_auc", math.inf, versions={"1": math.nan}))

    found = json.loads(json.dumps(evidence.as_json(), allow_nan=False))

    assert found["window"] == MAY.as_extra()
    assert found["trial"]["champion_metric"] is None
    assert found["realised"]["versions"] == {"1": None}
    assert found["champion_trained_until"] == "2013-02-14T00:00:00+00:00"
    assert found["plan"] == {
        "train_start": REFIT.train_start.isoformat(),
        "holdout_start": "2013-05-23T00:00:00+00:00",
        "recalibrate": False,
    }
    past = Past.of("retrain", found)
    assert (past.window, past.version, past.outcomes, past.harmed, past.harm_confirmed) == (MAY, 1, MAY, True, True)
    assert (past.loss, past.tried_why, past.tried_rows, past.train_start) == (0.70, "harm", 9000, REFIT.train_start)
    assert math.isnan(past.realised)


def test_evidence_of_an_earlier_release_is_as_if_nothing_was_seen():
    past = Past.of("retrain", {"window": MAY.as_extra(), "champion": 3, "refit": {"low": 0.1}})

    assert (past.version, past.harmed, past.drift_seen, past.tried_rows, past.train_start) == (3, False, 0, 0, None)


def test_the_docs_have_every_rule():
    text = (REPOSITORY / "docs" / "decisions.md").read_text()

    assert [f"| {n} | {rule.when} | `{rule.decision}` |" in text for n, rule in enumerate(RULES, 1)] == [True] * len(RULES)
