"""Rules of the decision table: one test per rule, and that it is pure."""

import json
import math
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from windvane.decide_retrain import Evidence, Performance, Policy, Refit, decide
from windvane.windows import Window

MAY = Window(datetime(2013, 5, 1, tzinfo=UTC), datetime(2013, 6, 1, tzinfo=UTC))
BETTER = Refit("roc_auc", champion=0.60, refit=0.68, difference=0.08, low=0.05, high=0.11, rows=9000, train_rows=60000)
NO_BETTER = replace(BETTER, refit=0.60, difference=0.0, low=-0.02, high=0.02)
GOOD = Evidence(
    window=MAY,
    rows=28_000,
    judged=MAY.tail(timedelta(days=14)),
    labelled_rows=9000,
    champion=1,
    champion_trained_until=datetime(2013, 2, 14, tzinfo=UTC),
    compared=4,
    refit=NO_BETTER,
)
POLICY = Policy(min_rows=500)
DAYS_31, DAYS_40 = timedelta(days=31), timedelta(days=40)


@pytest.mark.parametrize(
    ("evidence", "policy", "decision", "says"),
    [
        pytest.param(GOOD, POLICY, "ok", "does not help", id="nothing happened"),
        pytest.param(replace(GOOD, bad_inputs=("column dest is lost",), refit=BETTER), POLICY, "fix_data", "lost", id="bad data wins"),
        pytest.param(replace(GOOD, champion=None, labelled_rows=0), POLICY, "wait", "nothing serves yet", id="no champion"),
        pytest.param(replace(GOOD, labelled_rows=499, refit=BETTER), POLICY, "wait", "499 rows", id="one row too few"),
        pytest.param(replace(GOOD, labelled_rows=500, refit=BETTER), POLICY, "retrain", "0.6800 against 0.6000", id="just enough rows"),
        pytest.param(replace(GOOD, champion_trained_until=GOOD.judged.start, refit=None), POLICY, "ok", "newer", id="champion is newest"),
        pytest.param(replace(GOOD, refit=None), POLICY, "wait", "not known", id="no refit"),
        pytest.param(replace(GOOD, refit=Refit("roc_auc", problem="one class")), POLICY, "wait", "one class", id="refit impossible"),
        pytest.param(replace(GOOD, refit=BETTER), POLICY, "retrain", "+0.0500 to +0.1100", id="refit is better"),
        pytest.param(replace(GOOD, refit=BETTER, drifted=("dest",)), POLICY, "retrain", "better", id="refit is better and drift"),
        pytest.param(replace(GOOD, drifted=("dest", "carrier")), POLICY, "ignore", "2 of 4 columns", id="drift without gain"),
        pytest.param(replace(GOOD, refit=BETTER), Policy(500, margin=0.06), "ok", "does not help", id="better by less than the margin"),
        pytest.param(replace(GOOD, refit=replace(BETTER, low=0.0)), POLICY, "ok", "does not help", id="interval touches zero"),
        pytest.param(
            replace(GOOD, refit=BETTER, last_retrain=MAY.start), Policy(500, cooldown=DAYS_40), "wait", "cooldown", id="cools down"
        ),
        pytest.param(
            replace(GOOD, refit=BETTER, last_retrain=MAY.start), Policy(500, cooldown=DAYS_31), "retrain", "better", id="cooled down"
        ),
    ],
)
def test_rule(evidence, policy, decision, says):
    found = decide(evidence, policy)

    assert (found.decision, says in found.reason) == (decision, True), found.reason
    assert decide(evidence, policy) == found


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("place", ["difference", "low"])
def test_a_number_that_is_not_finite_never_retrains(number, place):
    assert decide(replace(GOOD, refit=replace(BETTER, **{place: number})), POLICY).decision == "wait"


def test_evidence_is_strict_json():
    evidence = replace(GOOD, refit=Refit("roc_auc", problem="x"), realised=Performance("roc_auc", math.inf, versions={"1": math.nan}))

    text = json.dumps(evidence.as_json(), allow_nan=False)

    found = json.loads(text)
    assert found["window"] == MAY.as_extra()
    assert found["refit"]["low"] is None
    assert found["realised"]["versions"] == {"1": None}
    assert found["champion_trained_until"] == "2013-02-14T00:00:00+00:00"
