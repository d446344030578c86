"""When the champion's errors count as harm."""

import numpy as np
import pytest

from windvane.find_harm import Earlier, Errors, find_harm

RANDOM = np.random.default_rng(1)


def errors(rate=0.3, told=0.3, rows=1000, task="binary_classification", seed=1):
    """Errors of a model that says `told` of rows whose outcome is 1 with the chance `rate`, in time order."""
    random = np.random.default_rng([seed, rows])
    return Errors.of(task, (random.random(rows) < rate).astype(float), np.full(rows, told))


def harm(now, holdout=None, earlier=(), chance=0.02, task="binary_classification"):
    return find_harm(task, now, holdout or errors(seed=2), earlier=earlier, chance=chance)


def test_errors_of_a_classifier_and_of_a_regression():
    outcomes, scores = np.array([1.0, 0.0]), np.array([0.8, 0.4])

    classes, values = Errors.of("binary_classification", outcomes, scores), Errors.of("regression", outcomes, scores)

    assert classes.losses == pytest.approx([-np.log(0.8), -np.log(0.6)])
    assert classes.residuals[:, 0] == pytest.approx([0.2, -0.4])
    assert values.losses == pytest.approx([0.04, 0.16])
    several = Errors.of("multiclass_classification", np.array([2.0]), np.array([[0.1, 0.2, 0.7]]))
    assert several.residuals[0] == pytest.approx([-0.1, -0.2, 0.3])


def test_same_world_is_no_harm():
    found = harm(errors())

    assert not found.signal
    assert found.loss == pytest.approx(found.expected, rel=0.15)


def test_a_loss_that_rose_is_harm_that_lasts():
    found = harm(errors(rate=0.9))

    assert (found.signal, found.lasting, found.rows) == (True, True, 1000)
    assert found.p < 1e-6


def test_a_base_rate_that_fell_is_harm_though_the_loss_fell_too():
    found = harm(errors(rate=0.05))

    assert found.loss < found.expected
    assert found.signal
    assert found.bias == pytest.approx(-0.25, abs=0.03)


def test_harm_that_is_over_at_the_end_does_not_last():
    odd, usual = errors(rate=1.0, rows=500), errors(rows=500)
    passed = Errors(np.concatenate([odd.losses, usual.losses]), np.concatenate([odd.residuals, usual.residuals]))

    assert not harm(passed).lasting


def test_a_sure_difference_that_is_too_small_to_matter_is_no_harm():
    tiny = Errors(np.full(1000, 0.0011), np.zeros((1000, 1)))
    then = Errors(np.full(1000, 0.0010), np.zeros((1000, 1)))

    found = harm(tiny, then)

    assert (found.p, found.signal) == (0.0, False)


def test_windows_that_always_differ_explain_a_rise():
    risen = errors(rate=0.45)
    swings = [Earlier(loss, 0.0, 1000, harmed=True) for loss in (0.55, 0.75, 0.5, 0.8, 0.55, 0.7, 0.5)]

    assert harm(risen).p < 0.01
    assert harm(risen, earlier=swings).p > 0.05


@pytest.mark.parametrize("rows", [0, 3, 30])
def test_few_rows_tell_nothing(rows):
    assert not harm(errors(rate=1.0, rows=rows)).signal


def test_unharmed_windows_rarely_give_a_signal():
    given = [harm(errors(rows=500, seed=n), errors(rows=800, seed=n + 10_000)).signal for n in range(500)]

    assert np.mean(given) <= 0.04


def test_the_first_calm_windows_correct_a_lucky_holdout():
    lucky, usual = errors(rate=0.25, seed=2, rows=400), errors(rate=0.3)
    calm = [Earlier(loss=usual.losses.mean(), bias=usual.residuals.mean(), rows=1000, harmed=False)] * 3

    alone, together = harm(usual, lucky), harm(usual, lucky, earlier=calm)

    assert together.expected > alone.expected
    assert together.p > alone.p
    assert harm(errors(rate=0.5), lucky, earlier=calm).signal
