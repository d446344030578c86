import math
from typing import get_args

import fairlearn.metrics
import numpy as np
import pandas as pd
import pytest
from pydantic import ValidationError

from windvane.config import Fairness, Gates, Measure
from windvane.gate_fairness import difference_of, judge_fairness


def judge(rows, outcomes, scores, *, task="binary_classification", **rule):
    rule = Fairness(**{"sensitive": ("group",), "at_most": 0.1, **rule})
    return judge_fairness(rule, task=task, rows=rows, outcomes=outcomes, scores=scores, confidence=0.95, seed=7)


def people(n, *, selected, seed=0):
    """Two groups with half positives each, of which a share is selected, whatever the outcome."""
    random = np.random.default_rng(seed)
    group = random.choice(["a", "b"], n)
    scores = (random.random(n) < np.where(group == "a", *selected)).astype(float)
    return pd.DataFrame({"group": group}), random.integers(0, 2, n).astype(float), scores


def test_the_measures_are_those_of_fairlearn():
    assert sorted(get_args(Measure)) == [name for name in sorted(dir(fairlearn.metrics)) if name.endswith("_difference")]


@pytest.mark.parametrize("measure", get_args(Measure))
def test_every_measure_is_fairlearns_own_value(measure):
    rows, outcomes, scores = people(500, selected=(0.3, 0.6))
    wanted = getattr(fairlearn.metrics, measure)(outcomes, scores, sensitive_features=rows["group"])
    assert judge(rows, outcomes, scores, measure=measure).value == pytest.approx(wanted)
    right = measure.startswith(("accuracy", "zero"))
    y, chosen = (np.ones(500, dtype=int), scores == outcomes) if right else (outcomes, scores)
    counts = np.histogramdd(np.column_stack([rows["group"] == "b", y, chosen]), bins=(2, 2, 2), range=[(0, 1)] * 3)[0]
    assert difference_of(measure, counts[None]) == pytest.approx([wanted])


def test_kept_exceeded_and_inconclusive():
    kept = judge(*people(5000, selected=(0.5, 0.5)))
    exceeded = judge(*people(5000, selected=(0.3, 0.6)))
    few = judge(*people(200, selected=(0.5, 0.5)))
    assert [gate.passed for gate in (kept, exceeded, few)] == [True, False, False]
    assert "surely kept" in kept.reason
    assert "surely exceeded" in exceeded.reason
    assert "inconclusive, and that never promotes" in few.reason
    assert exceeded.value == pytest.approx(0.3, abs=0.05)


def test_each_column_must_be_fair():
    rows, outcomes, scores = people(5000, selected=(0.3, 0.6))
    rows["other"] = np.random.default_rng(1).choice(["x", "y"], 5000)
    assert judge(rows, outcomes, scores, sensitive=("other",)).passed
    both = judge(rows, outcomes, scores, sensitive=("other", "group"))
    assert not both.passed
    assert "other differs by" in both.reason


def test_a_small_group_is_said_and_left_out_and_missing_values_are_a_group():
    rows, outcomes, scores = people(5000, selected=(0.5, 0.5))
    rows.loc[:30, "group"], scores[:31] = "c", 1.0
    gate = judge(rows, outcomes, scores)
    assert gate.passed
    assert "1 with fewer than 50 rows are not judged" in gate.reason
    rows.loc[:300, "group"], scores[:301] = None, 1.0
    assert not judge(rows, outcomes, scores).passed


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        pytest.param({"sensitive": ("gender", "age")}, "no column gender, age", id="lost columns"),
        pytest.param({"min_rows": 4000}, "0 groups of at least 4000 rows", id="groups too small"),
        pytest.param({"task": "regression"}, "defined for a classifier", id="regression"),
        pytest.param({"task": "multiclass_classification"}, "defined for a binary classification", id="several classes"),
    ],
)
def test_what_is_not_defined_does_not_pass(change, reason):
    gate = judge(*people(5000, selected=(0.5, 0.5)), **change)
    assert not gate.passed
    assert reason in gate.reason
    assert math.isnan(gate.value)


def test_a_group_without_an_outcome_does_not_pass():
    rows, outcomes, scores = people(5000, selected=(0.5, 0.5))
    outcomes[rows["group"] == "a"] = 0.0
    assert "group=a has no row with the outcome 1" in judge(rows, outcomes, scores).reason
    assert judge(rows, outcomes, scores, measure="false_positive_rate_difference").passed


def test_accuracy_is_judged_with_several_classes():
    random = np.random.default_rng(0)
    outcomes, group = random.integers(0, 3, 5000), random.choice(["a", "b"], 5000)
    scores = np.eye(3)[np.where((group == "a") & (random.random(5000) < 0.3), (outcomes + 1) % 3, outcomes)]
    gate = judge(pd.DataFrame({"group": group}), outcomes, scores, task="multiclass_classification", measure="accuracy_score_difference")
    assert gate.value == pytest.approx(0.3, abs=0.03)
    assert not gate.passed


def test_a_difference_of_just_what_is_allowed_seldom_passes():
    passed = sum(judge(*people(1000, selected=(0.45, 0.55), seed=s), measure="demographic_parity_difference").passed for s in range(40))
    assert passed <= 6


def test_the_config_names_what_is_allowed():
    assert Gates.model_validate({"fairness": {"sensitive": ["gender"], "at_most": 0.1}}).fairness.measure == "equalized_odds_difference"
    for odd in ({"measure": "equalised_odds"}, {"at_most": 2}, {"at_most": "0.1"}, {"sensitive": []}):
        with pytest.raises(ValidationError):
            Gates.model_validate({"fairness": {"sensitive": ["gender"], "at_most": 0.1, **odd}})
