import math

import numpy as np
import pytest

from windvane.config import Calibration
from windvane.gate_calibration import calibration_error, judge_calibration


def judge(outcomes, scores, *, at_most=0.05):
    return judge_calibration(Calibration(at_most=at_most), outcomes=outcomes, scores=scores, confidence=0.95, seed=7)


def events(n, *, off=0.0, seed=0):
    """Outcomes, and what was forecast of them, too high by so much."""
    random = np.random.default_rng(seed)
    chances = random.uniform(0.1, 0.8, n)
    return (random.random(n) < chances).astype(float), chances + off


def test_the_error_is_the_mean_distance_of_probability_and_share():
    # two bins of equal probabilities: 0.2 happens in 2 of 4, 0.9 in 4 of 4 cases
    scores = np.array([0.2] * 4 + [0.9] * 4)
    assert calibration_error(np.array([1, 1, 0, 0, 1, 1, 1, 1]), scores) == pytest.approx((4 * 0.3 + 4 * 0.1) / 8)
    assert math.isnan(calibration_error(np.zeros(0), np.zeros(0)))


def test_several_classes_are_judged_by_the_predicted_one():
    scores = np.array([[0.6, 0.3, 0.1]] * 10)
    assert calibration_error(np.array([0] * 6 + [1] * 4), scores) == pytest.approx(0)
    assert calibration_error(np.array([0] * 1 + [1] * 9), scores) == pytest.approx(0.5)


def test_kept_exceeded_and_inconclusive():
    kept, exceeded, few = judge(*events(20_000)), judge(*events(20_000, off=0.1)), judge(*events(200))
    assert [gate.passed for gate in (kept, exceeded, few)] == [True, False, False]
    assert "surely kept" in kept.reason
    assert "surely exceeded" in exceeded.reason
    assert "inconclusive, and that never promotes" in few.reason
    assert exceeded.value == pytest.approx(0.1, abs=0.01)


def test_a_model_that_is_wrong_by_just_what_is_allowed_seldom_passes_and_a_right_one_does():
    wrong = sum(judge(*events(2000, off=0.05, seed=s)).passed for s in range(60))
    right = sum(judge(*events(2000, seed=s)).passed for s in range(60))
    assert wrong <= 7
    assert right >= 45


@pytest.mark.parametrize(
    ("outcomes", "scores"),
    [
        pytest.param(np.zeros(0), np.zeros(0), id="no rows"),
        pytest.param(np.zeros(0), np.zeros((0, 3)), id="no rows of several classes"),
        pytest.param(np.zeros(19), np.zeros(19), id="too few rows"),
        pytest.param(np.zeros(100), np.full(100, np.nan), id="NaN"),
        pytest.param(np.full(100, np.nan), np.zeros(100), id="unknown labels"),
        pytest.param(np.zeros(100), np.full(100, np.inf), id="infinity"),
        pytest.param(np.zeros(100), np.full(100, 7.0), id="no probabilities"),
        pytest.param(np.arange(100) % 2, np.full(100, 0.9), id="constant and wrong"),
    ],
)
def test_what_cannot_be_told_or_is_wrong_does_not_pass(outcomes, scores):
    assert not judge(outcomes, scores).passed


def test_a_constant_that_is_right_is_calibrated():
    assert judge((np.arange(5000) % 10 == 0).astype(float), np.full(5000, 0.1)).passed
