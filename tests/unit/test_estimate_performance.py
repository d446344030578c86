import json
import math
from dataclasses import asdict, replace

import numpy as np
import pandas as pd
import pytest

from windvane.calibrate_scores import calibrate, make_grid
from windvane.compare_models import score_outcomes
from windvane.encode_inputs import Encoding
from windvane.estimate_performance import Estimate, Estimator, fit_estimator, judge_trust
from windvane.expect_metric import can_expect, expect_metric, expectable
from windvane.score_rows import _FAST, weighted_score

BINARY = [(name, 2) for name in expectable(classes=2)]
MULTICLASS = [(name, 3) for name in expectable(classes=3)]


def draw_binary(rows: int, seed: int, *, sharpness: float = 1.0, shift: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
    """Outcomes and scores; with a sharpness of 1 the scores are the chances."""
    random = np.random.default_rng(seed)
    logits = random.normal(shift, 1.5, rows)
    outcomes = (random.random(rows) < 1 / (1 + np.exp(-logits))).astype(float)
    return outcomes, 1 / (1 + np.exp(-sharpness * logits))


def estimate(value: float, low: float, high: float) -> Estimate:
    return Estimate("roc_auc", value, low, high, 500, 0.8)


RIGHT = (estimate(0.8, 0.75, 0.85), 0.81)
WRONG = (estimate(0.8, 0.75, 0.85), 0.73)
FAR = (estimate(0.8, 0.75, 0.85), 0.60)


@pytest.mark.parametrize(("metric", "classes"), BINARY + MULTICLASS)
def test_each_outcome_counts_with_its_chance(metric: str, classes: int) -> None:
    random = np.random.default_rng(1)
    chances = random.dirichlet(np.ones(classes), 60)
    scores = np.round(random.random(60), 1) if classes == 2 else random.dirichlet(np.ones(classes), 60)

    found = expect_metric(metric, chances, scores)

    every_outcome = np.repeat(np.arange(classes), 60).astype(float)
    soft = weighted_score(metric, every_outcome, np.concatenate([scores] * classes))(chances.T.ravel())
    assert found.value == pytest.approx(soft, abs=1e-9)


@pytest.mark.parametrize(("metric", "classes"), BINARY + MULTICLASS)
def test_slope_is_the_derivative(metric: str, classes: int) -> None:
    random = np.random.default_rng(2)
    chances = random.dirichlet(np.ones(classes), 60)
    scores = np.round(random.random(60), 1) if classes == 2 else random.dirichlet(np.ones(classes), 60)
    step = random.normal(size=chances.shape) * 1e-5
    step -= step.mean(axis=1, keepdims=True)

    found = expect_metric(metric, chances, scores)

    moved = expect_metric(metric, chances + step, scores).value - expect_metric(metric, chances - step, scores).value
    assert 2 * float((found.slope * step).sum()) == pytest.approx(moved, rel=2e-3, abs=1e-12)


def test_accuracy_of_sure_rows_is_literal() -> None:
    chances = np.array([[0.1, 0.9], [0.8, 0.2], [0.5, 0.5], [0.0, 1.0]])
    scores = np.array([0.9, 0.2, 0.6, 0.1])
    # right with .9, .8, .5 and 0
    assert expect_metric("accuracy", chances, scores).value == pytest.approx(0.55)
    # 2.6 positives are expected, of which .9 + .5 are found
    assert expect_metric("recall", chances, scores).value == pytest.approx(1.4 / 2.6)
    assert expect_metric("precision", chances, scores).value == pytest.approx(1.4 / 2)


@pytest.mark.parametrize(("metric", "ndim"), sorted(_FAST))
def test_every_fast_metric_can_be_estimated(metric: str, ndim: int) -> None:
    regression = metric in ("r2", "neg_mean_squared_error", "neg_root_mean_squared_error", "neg_mean_absolute_error")
    random = np.random.default_rng(3)
    if regression:
        scores = random.normal(size=200)
        outcomes, task = scores + random.normal(size=200), "regression"
    elif ndim == 1:
        (outcomes, scores), task = draw_binary(200, 3), "binary_classification"
    else:
        scores = random.dirichlet(np.ones(3), 200)
        outcomes, task = np.array([random.choice(3, p=p) for p in scores], dtype=float), "multiclass_classification"

    found = fit_estimator(task, metric, outcomes=outcomes, scores=scores, inputs=None, seed=0).estimate(scores)

    assert not found.problem
    assert found.low < found.value < found.high or found.value == found.high
    # the same rows, so nothing moved
    assert found.value == found.expected
    assert found.value == pytest.approx(score_outcomes(metric, outcomes, scores), rel=0.2)


@pytest.mark.parametrize("metric", ["roc_auc", "accuracy", "neg_log_loss", "f1"])
def test_scores_are_calibrated_where_that_helps(metric: str) -> None:
    outcomes, scores = draw_binary(3000, 4, sharpness=3.0)
    later, said = draw_binary(5000, 5, sharpness=3.0, shift=0.7)

    found = fit_estimator("binary_classification", metric, outcomes=outcomes, scores=scores, inputs=None, seed=0).estimate(said)

    realised = score_outcomes(metric, later, said)
    uncalibrated = expect_metric(metric, np.column_stack([1 - said, said]), said).value
    assert abs(found.value - realised) < 0.3 * abs(uncalibrated - realised)
    assert found.low <= realised <= found.high


def test_estimate_follows_a_covariate_shift() -> None:
    outcomes, scores = draw_binary(3000, 6)
    later, said = draw_binary(3000, 7, shift=2.5)

    found = fit_estimator("binary_classification", "accuracy", outcomes=outcomes, scores=scores, inputs=None, seed=0).estimate(said)

    assert found.low > found.expected
    assert found.low <= score_outcomes("accuracy", later, said) <= found.high


@pytest.mark.parametrize("metric", ["roc_auc", "accuracy"])
def test_band_holds_the_realised_metric(metric: str) -> None:
    inside = []
    for seed in range(40):
        outcomes, scores = draw_binary(600, 100 + seed)
        later, said = draw_binary(300, 900 + seed)
        found = fit_estimator("binary_classification", metric, outcomes=outcomes, scores=scores, inputs=None, seed=0).estimate(said)
        inside.append(found.low <= score_outcomes(metric, later, said) <= found.high)
    assert np.mean(inside) >= 0.88


def test_inputs_tell_what_the_score_does_not() -> None:
    random = np.random.default_rng(8)

    def draw(rows: int, share: float) -> tuple[np.ndarray, np.ndarray, pd.DataFrame]:
        odd = random.random(rows) < share
        scores = random.uniform(0.6, 1.0, rows)
        outcomes = (random.random(rows) < np.where(odd, 0.5, scores)).astype(float)
        return outcomes, scores, pd.DataFrame({"group": np.where(odd, "odd", "usual"), "noise": random.normal(size=rows)})

    outcomes, scores, inputs = draw(2000, 0.2)
    later, said, given = draw(2000, 0.9)
    estimator = fit_estimator("binary_classification", "accuracy", outcomes=outcomes, scores=scores, inputs=inputs, seed=0)

    realised = score_outcomes("accuracy", later, said)
    assert abs(estimator.estimate(said, given).value - realised) < 0.04
    assert abs(estimator.estimate(said).value - realised) > 0.1


def test_loss_follows_the_inputs_of_a_regression() -> None:
    random = np.random.default_rng(9)

    def draw(rows: int, share: float) -> tuple[np.ndarray, np.ndarray, pd.DataFrame]:
        noisy = random.random(rows) < share
        scores = random.normal(size=rows)
        inputs = pd.DataFrame({"kind": np.where(noisy, "noisy", "calm"), "when": pd.Timestamp("2026-01-01"), "x": scores})
        return scores + random.normal(size=rows) * np.where(noisy, 3.0, 0.5), scores, inputs

    outcomes, scores, inputs = draw(4000, 0.3)
    later, said, given = draw(4000, 0.9)
    for metric in ("neg_mean_absolute_error", "neg_root_mean_squared_error", "neg_mean_squared_error"):
        found = fit_estimator("regression", metric, outcomes=outcomes, scores=scores, inputs=inputs, seed=0).estimate(said, given)
        realised = score_outcomes(metric, later, said)
        assert found.high < found.expected
        assert found.value == pytest.approx(realised, rel=0.15)


def test_same_seed_same_estimate() -> None:
    outcomes, scores = draw_binary(500, 10)
    made = [fit_estimator("binary_classification", "roc_auc", outcomes=outcomes, scores=scores, inputs=None, seed=3) for _ in range(2)]
    assert made[0].estimate(scores) == made[1].estimate(scores)


@pytest.mark.parametrize(
    ("task", "metric", "rows", "told"),
    [
        pytest.param("binary_classification", "jaccard", 100, "jaccard of task binary_classification cannot be estimated", id="no formula"),
        pytest.param("binary_classification", "no_such", 100, "cannot be estimated", id="no such scorer"),
        pytest.param("regression", "max_error", 100, "cannot be estimated", id="regression"),
        pytest.param("binary_classification", "roc_auc", 30, "the reference has 30 rows", id="few rows"),
    ],
)
def test_what_cannot_be_estimated_says_so(task: str, metric: str, rows: int, told: str) -> None:
    outcomes, scores = draw_binary(rows, 11)
    found = fit_estimator(task, metric, outcomes=outcomes, scores=scores, inputs=None, seed=0).estimate(scores)
    assert told in found.problem
    assert math.isnan(found.value)


def test_one_class_in_the_reference_is_a_problem_not_an_error() -> None:
    scores = np.linspace(0.01, 0.99, 100)
    found = fit_estimator("binary_classification", "roc_auc", outcomes=np.zeros(100), scores=scores, inputs=None, seed=0)
    assert found.estimate(scores).problem == "roc_auc is not defined on the reference"


def test_rows_without_a_finite_score_do_not_count() -> None:
    outcomes, scores = draw_binary(200, 12)
    outcomes[0], scores[1] = np.nan, np.inf
    estimator = fit_estimator("binary_classification", "roc_auc", outcomes=outcomes, scores=scores, inputs=None, seed=0)
    said = np.concatenate([scores[2:100], [np.nan, np.inf]])
    assert estimator.estimate(said) == estimator.estimate(scores[2:100])
    assert estimator.estimate(np.full(50, np.nan)).problem == "0 rows with a score, at least 20 are needed"


@pytest.mark.parametrize("constant", [0.0, 0.5, 1.0])
def test_constant_scores_make_no_error(constant: float) -> None:
    outcomes, _ = draw_binary(200, 13)
    found = fit_estimator("binary_classification", "accuracy", outcomes=outcomes, scores=np.full(200, constant), inputs=None, seed=0)
    known = found.estimate(np.full(100, constant))
    assert known.value == pytest.approx(found.expected, abs=0.03)
    assert known.high - known.low > 0.1


def test_a_perfect_regression_has_no_loss() -> None:
    scores = np.linspace(0, 1, 100)
    found = fit_estimator("regression", "neg_mean_absolute_error", outcomes=scores, scores=scores, inputs=None, seed=0).estimate(scores)
    assert (found.value, found.low, found.high) == (0.0, 0.0, 0.0)


def test_isotonic_calibration_is_literal() -> None:
    scores = np.array([0.1, 0.1, 0.2, 0.2, 0.8, 0.8])
    outcomes = np.array([0.0, 1.0, 0.0, 0.0, 1.0, 1.0])
    fitted = calibrate("isotonic", outcomes, scores, np.ones(6), make_grid(scores))
    # .5 at .1 and 0 at .2 pool to a quarter
    assert fitted.chances(np.array([0.1, 0.2, 0.8]))[:, 1] == pytest.approx([0.25, 0.25, 1.0])


def test_platt_scaling_finds_what_made_the_scores_too_sure() -> None:
    outcomes, scores = draw_binary(20_000, 14, sharpness=2.0)
    fitted = calibrate("platt", outcomes, scores, np.ones(len(scores)), make_grid(scores))
    logits = np.array([-2.0, 0.0, 2.0])
    assert fitted.chances(1 / (1 + np.exp(-logits)))[:, 1] == pytest.approx(1 / (1 + np.exp(-logits / 2)), abs=0.02)


def test_chances_of_many_classes_sum_to_one() -> None:
    random = np.random.default_rng(15)
    scores = random.dirichlet(np.ones(4), 300)
    fitted = calibrate("isotonic", random.integers(0, 4, 300), scores, np.ones(300), make_grid(scores))
    assert fitted.chances(scores).sum(axis=1) == pytest.approx(np.ones(300))


def test_inputs_of_any_type_become_numbers() -> None:
    frame = pd.DataFrame(
        {
            "text": ["b", "a", None, "b"],
            "number": pd.array([1, None, 3, 4], dtype="Int64"),
            "flag": [True, False, True, True],
            "when": pd.to_datetime(["2026-01-01"] * 4),
            "wide": [np.inf, 1.0, 2.0, 3.0],
        }
    )
    encoding = Encoding.of(frame, np.array([2.0, 1.0, 0.0, 2.0]))
    encoded = encoding.encode(np.zeros(4), frame)
    nan = np.nan
    expected = [[0, 1, 1, 1, nan], [0, 0, nan, 0, 1], [0, nan, 3, 1, 2], [0, 1, 4, 1, 3]]
    np.testing.assert_array_equal(encoded, np.array(expected, dtype=float))
    without = encoding.encode(np.zeros(1), pd.DataFrame({"text": ["new"]}))
    np.testing.assert_array_equal(without, np.array([[0, nan, nan, nan, nan]]))


@pytest.mark.parametrize(
    ("pairs", "trusted"),
    [
        pytest.param([], True, id="nothing to compare yet"),
        pytest.param([RIGHT] * 6, True, id="right"),
        pytest.param([RIGHT] * 5 + [WRONG], True, id="once outside"),
        pytest.param([RIGHT] * 4 + [WRONG] * 2, False, id="the last two outside"),
        pytest.param([WRONG, RIGHT, WRONG, RIGHT, WRONG, RIGHT], False, id="three of six outside"),
        pytest.param([RIGHT] * 5 + [FAR], False, id="far outside"),
        pytest.param([WRONG] * 6 + [RIGHT] * 4, True, id="right again"),
        pytest.param([WRONG] * 9 + [RIGHT] * 2, False, id="not yet right again"),
        pytest.param([(replace(RIGHT[0], value=math.nan), 0.5), (RIGHT[0], math.nan)], True, id="nothing finite"),
    ],
)
def test_trust_follows_the_last_windows(pairs: list[tuple[Estimate, float]], trusted: bool) -> None:
    assert judge_trust(pairs).trusted is trusted


def test_trust_says_how_wrong_the_estimates_were() -> None:
    trust = judge_trust([RIGHT, WRONG, WRONG])
    assert trust.error == pytest.approx((0.01 + 0.07 + 0.07) / 3)
    assert trust.reason.startswith("the realised metric was outside the estimate's band in 2 of the last 3 windows, mean error 0.0500")


def test_trust_reads_json_too() -> None:
    told = [(json.loads(json.dumps(asdict(made))), realised) for made, realised in [RIGHT, WRONG, WRONG]]
    assert judge_trust(told) == judge_trust([RIGHT, WRONG, WRONG])
    assert judge_trust([({"value": None, "low": None, "high": None}, 0.5)]).error is None


def test_concept_drift_ends_the_trust() -> None:
    outcomes, scores = draw_binary(2000, 16)
    estimator = fit_estimator("binary_classification", "roc_auc", outcomes=outcomes, scores=scores, inputs=None, seed=0)

    def window(seed: int, *, flipped: bool) -> tuple[Estimate, float]:
        later, said = draw_binary(500, seed)
        return estimator.estimate(said), score_outcomes("roc_auc", 1 - later if flipped else later, said)

    before = [window(seed, flipped=False) for seed in range(20, 26)]
    during = [window(seed, flipped=True) for seed in range(30, 32)]
    after = [window(seed, flipped=False) for seed in range(40, 46)]
    assert judge_trust(before).trusted
    assert not judge_trust(before + during).trusted
    assert judge_trust(before + during + after).trusted


def test_can_expect_tells_binary_from_multiclass() -> None:
    assert can_expect("roc_auc", classes=2)
    assert not can_expect("roc_auc", classes=3)
    assert can_expect("roc_auc_ovr", classes=7)


def test_an_estimator_without_a_model_only_tells_its_problem() -> None:
    assert Estimator("f1", math.nan, "no rows").estimate(np.ones(30)).problem == "no rows"
