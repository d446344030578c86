"""Means with standard errors that know about neighbours."""

import math

import numpy as np
import pytest

from windvane.compare_means import block_mean, chance_of_excess


def test_mean_of_independent_values_has_the_textbook_error():
    values = np.random.default_rng(1).normal(2.0, 3.0, 20_000)

    found = block_mean(values)

    assert found.value == pytest.approx(2.0, abs=0.1)
    # 20 blocks tell a standard error to within about a sixth
    assert found.error == pytest.approx(3.0 / math.sqrt(20_000), rel=0.4)
    assert (found.freedom, found.rows) == (19, 20_000)


def test_neighbours_that_are_alike_make_the_error_larger():
    random = np.random.default_rng(2)
    alike = np.repeat(random.normal(0, 1, 200), 50)
    shuffled = random.permutation(alike)

    assert block_mean(alike).error > 3 * block_mean(shuffled).error


@pytest.mark.parametrize("values", [[], [1.0] * 49, [math.nan] * 100, [math.inf] + [0.0] * 99])
def test_what_cannot_be_told_is_no_excess(values):
    found = block_mean(np.array(values))

    assert math.isnan(found.error)
    assert chance_of_excess(found) == 1.0


def test_constant_values_are_certain():
    assert chance_of_excess(block_mean(np.full(100, 0.5))) == 0.0
    assert chance_of_excess(block_mean(np.zeros(100))) == 1.0
    assert chance_of_excess(block_mean(np.full(100, -0.5))) == 1.0


def test_equal_means_are_rarely_called_different_and_different_ones_nearly_always():
    random = np.random.default_rng(3)
    equal = [chance_of_excess(block_mean(random.exponential(1, 500)), block_mean(random.exponential(1, 800))) for _ in range(1000)]
    larger = [chance_of_excess(block_mean(random.exponential(1.5, 500)), block_mean(random.exponential(1, 800))) for _ in range(200)]

    assert np.mean(np.array(equal) < 0.05) == pytest.approx(0.05, abs=0.025)
    assert np.mean(np.array(larger) < 0.05) > 0.95


def test_a_spread_that_is_there_anyway_explains_a_difference():
    values = np.random.default_rng(4).normal(1.0, 1.0, 1000)

    assert chance_of_excess(block_mean(values)) < 1e-6
    assert chance_of_excess(block_mean(values), spread=1.0) > 0.1
