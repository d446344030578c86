import time

import numpy as np
import pytest
from scipy import stats
from sklearn import metrics

from windvane.compare_models import interval, outcomes_of, paired_bootstrap, score_metric, score_outcomes
from windvane.errors import ConfigError, DataError
from windvane.predictor import Predictions
from windvane.score_rows import weighted_score

RANDOM = np.random.default_rng(0)
N = 400
BINARY = (RANDOM.random(N) < 0.3).astype(int)
# rounding makes ties
CHANCES = np.clip(np.round(0.3 + 0.2 * BINARY + 0.2 * RANDOM.normal(size=N), 2), 0, 1)
THREE = RANDOM.integers(0, 3, N)
THREE_CHANCES = RANDOM.dirichlet([1, 1, 1], N) * 0.7 + 0.3 * np.eye(3)[THREE]
NUMBERS = RANDOM.normal(size=N)
GUESSES = NUMBERS + RANDOM.normal(size=N)
WEIGHTS = RANDOM.integers(0, 4, N).astype(float)


@pytest.mark.parametrize(
    ("metric", "y", "scores", "expected"),
    [
        ("roc_auc", BINARY, CHANCES, metrics.roc_auc_score(BINARY, CHANCES, sample_weight=WEIGHTS)),
        ("average_precision", BINARY, CHANCES, metrics.average_precision_score(BINARY, CHANCES, sample_weight=WEIGHTS)),
        ("neg_log_loss", BINARY, CHANCES, -metrics.log_loss(BINARY, CHANCES, sample_weight=WEIGHTS)),
        ("neg_brier_score", BINARY, CHANCES, -metrics.brier_score_loss(BINARY, CHANCES, sample_weight=WEIGHTS)),
        ("accuracy", BINARY, CHANCES, metrics.accuracy_score(BINARY, CHANCES > 0.5, sample_weight=WEIGHTS)),
        ("f1", BINARY, CHANCES, metrics.f1_score(BINARY, CHANCES > 0.5, sample_weight=WEIGHTS)),
        ("balanced_accuracy", BINARY, CHANCES, metrics.balanced_accuracy_score(BINARY, CHANCES > 0.5, sample_weight=WEIGHTS)),
        ("neg_log_loss", THREE, THREE_CHANCES, -metrics.log_loss(THREE, THREE_CHANCES, sample_weight=WEIGHTS)),
        ("f1_macro", THREE, THREE_CHANCES, metrics.f1_score(THREE, THREE_CHANCES.argmax(1), average="macro", sample_weight=WEIGHTS)),
        ("r2", NUMBERS, GUESSES, metrics.r2_score(NUMBERS, GUESSES, sample_weight=WEIGHTS)),
        ("neg_root_mean_squared_error", NUMBERS, GUESSES, -metrics.root_mean_squared_error(NUMBERS, GUESSES, sample_weight=WEIGHTS)),
        ("neg_mean_absolute_error", NUMBERS, GUESSES, -metrics.mean_absolute_error(NUMBERS, GUESSES, sample_weight=WEIGHTS)),
        ("neg_median_absolute_error", NUMBERS, GUESSES, -metrics.median_absolute_error(NUMBERS, GUESSES, sample_weight=WEIGHTS)),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_every_metric_equals_scikit_learn_with_weights(metric, y, scores, expected):
    assert weighted_score(metric, np.asarray(y, dtype=float), scores)(WEIGHTS) == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("average", ["macro", "weighted"])
def test_multiclass_auc_equals_scikit_learn(average):
    name = "roc_auc_ovr" if average == "macro" else "roc_auc_ovr_weighted"
    expected = metrics.roc_auc_score(THREE, THREE_CHANCES / THREE_CHANCES.sum(1, keepdims=True), multi_class="ovr", average=average)
    assert score_outcomes(name, THREE, THREE_CHANCES / THREE_CHANCES.sum(1, keepdims=True)) == pytest.approx(expected, abs=1e-12)


def test_max_error_without_weights_is_resampled_by_repeating_rows():
    assert weighted_score("neg_max_error", NUMBERS, GUESSES)(np.ones(N)) == pytest.approx(-metrics.max_error(NUMBERS, GUESSES))


def test_better_worse_and_inconclusive():
    good, bad = BINARY + RANDOM.normal(size=N), BINARY * 0.1 + RANDOM.normal(size=N)
    better = paired_bootstrap("roc_auc", BINARY, good, bad, confidence=0.95, seed=1)
    worse = paired_bootstrap("roc_auc", BINARY, bad, good, confidence=0.95, seed=1)
    nearly = paired_bootstrap("roc_auc", BINARY, good, good + 0.001 * RANDOM.normal(size=N), confidence=0.95, seed=1)
    assert (better.verdict, worse.verdict, nearly.verdict) == ("better", "worse", "inconclusive")
    assert better.low < better.difference < better.high
    assert better.n == N


def test_margin_moves_the_verdict():
    good, bad = BINARY + RANDOM.normal(size=N), BINARY * 0.7 + RANDOM.normal(size=N)
    assert paired_bootstrap("roc_auc", BINARY, good, bad, confidence=0.95, seed=1, margin=0.5).verdict == "inconclusive"
    assert paired_bootstrap("roc_auc", BINARY, good, good, confidence=0.95, seed=1, margin=-0.01).verdict == "not_worse"


@pytest.mark.parametrize(
    ("y", "a"),
    [
        pytest.param(np.zeros(50), np.linspace(0, 1, 50), id="one class"),
        pytest.param(np.array([0, 1] * 25), np.full(50, np.nan), id="NaN"),
        pytest.param(np.array([0, 1] * 25), np.full(50, np.inf), id="infinity"),
        pytest.param(np.array([0, 1] * 25, dtype=float) * np.nan, np.linspace(0, 1, 50), id="unknown labels"),
        pytest.param(np.array([0, 1]), np.array([0.1, 0.9]), id="two rows"),
        pytest.param(np.array([]), np.array([]), id="no rows"),
    ],
)
def test_what_cannot_be_told_is_inconclusive(y, a):
    result = paired_bootstrap("roc_auc", y, a, np.zeros(len(y)), confidence=0.95, seed=1)
    assert result.verdict == "inconclusive"
    assert result.as_json()["low"] is None


def test_equal_models_are_called_better_about_five_times_in_a_hundred():
    calls = 0
    for seed in range(100):
        random = np.random.default_rng(seed)
        y = random.integers(0, 2, 150)
        signal = y + random.normal(size=150)
        a, b = signal + 0.5 * random.normal(size=150), signal + 0.5 * random.normal(size=150)
        calls += paired_bootstrap("roc_auc", y, a, b, confidence=0.95, seed=seed, resamples=200).verdict == "better"
    assert 1 <= calls <= 12


def chances_right(y, right):
    """Probabilities whose label is right on the named rows."""
    return np.where(right, 0.9 * y + 0.05, 0.95 - 0.9 * y)


@pytest.mark.parametrize(("wins", "losses"), [(10, 2), (20, 12), (7, 0), (30, 20)])
def test_accuracy_is_compared_by_the_mid_p_value_of_who_is_right_alone(wins, losses):
    y, rows = np.arange(200) % 2, np.arange(200)
    a, b = chances_right(y, rows >= losses), chances_right(y, (rows < losses) | (rows >= losses + wins))
    found = paired_bootstrap("accuracy", y, a, b, confidence=0.95, seed=1)
    p = stats.binom.sf(wins, wins + losses, 0.5) + stats.binom.pmf(wins, wins + losses, 0.5) / 2
    assert found.verdict == ("better" if p < 0.05 else "inconclusive")
    assert found.difference == pytest.approx((wins - losses) / 200)
    assert found.low < found.difference <= found.high + 1e-12
    assert found.high <= (wins + losses) / 200
    back = paired_bootstrap("accuracy", y, b, a, confidence=0.95, seed=1)
    assert (back.low, back.high) == (pytest.approx(-found.high), pytest.approx(-found.low))


def test_models_that_give_the_same_labels_are_equally_accurate():
    y = np.arange(200) % 2
    found = paired_bootstrap("accuracy", y, np.full(200, 0.6), np.full(200, 0.7), confidence=0.95, seed=1)
    assert (found.low, found.high, found.verdict) == (0.0, 0.0, "inconclusive")


def test_accuracy_of_several_classes():
    right, wrong = np.eye(3)[THREE], np.eye(3)[(THREE + 1) % 3]
    found = paired_bootstrap("accuracy", THREE, right, np.where(np.arange(N)[:, None] < 40, wrong, right), confidence=0.95, seed=1)
    assert found.verdict == "better"
    assert found.difference == pytest.approx(0.1)


def test_time_grows_with_the_rows_and_not_with_their_square():
    def seconds(rows):
        random = np.random.default_rng(1)
        y = random.integers(0, 2, rows)
        first, second = (y + random.normal(size=rows) for _ in range(2))
        began = time.process_time()
        paired_bootstrap("roc_auc", y, first, second, confidence=0.95, seed=1)
        return time.process_time() - began

    few, many = (min(seconds(rows) for _ in range(2)) for rows in (2_000, 16_000))
    assert many < 40 * few, "of eight times the rows, all pairs are 64 times as many"


def test_labels_are_matched_to_classes_by_value():
    assert outcomes_of([1.0, 0.0, 1.0], "binary_classification", [0, 1]).tolist() == [1, 0, 1]
    assert outcomes_of(["b", "a"], "binary_classification", ["a", "b"]).tolist() == [1, 0]
    with pytest.raises(DataError, match="1 of 2 rows"):
        outcomes_of(["b", "c"], "binary_classification", ["a", "b"])


def test_score_metric_of_predictions():
    predictions = Predictions(values=np.array([0, 1]), probabilities=np.array([[0.9, 0.1], [0.2, 0.8]]))
    assert score_metric("roc_auc", "binary_classification", [0, 1], predictions, [0, 1]) == 1.0
    assert score_metric("neg_mean_absolute_error", "regression", [1, 3], Predictions(np.array([1.0, 2.0]), None), None) == -0.5


def test_unknown_metric_names_a_close_one():
    with pytest.raises(ConfigError, match="did you mean 'roc_auc'"):
        score_outcomes("roc_uac", [0, 1], np.array([0.1, 0.9]))


def test_interval_holds_the_value():
    value, low, high = interval("roc_auc", BINARY, CHANCES, confidence=0.95, seed=3)
    assert low < value < high
