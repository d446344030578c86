"""The lower end of the 99th percentile is below the true one nearly always, and a few slow requests do not move it."""

import numpy as np
import pytest

from windvane.measure_latency import measure_latency


def test_no_times_have_no_latency():
    assert measure_latency([]) is None
    assert measure_latency([float("nan")]) is None


def test_one_time_is_all_there_is():
    found = measure_latency([3.0])
    assert (found.p99_ms, found.p99_low_ms, found.mean_ms) == (3.0, 3.0, 3.0)


@pytest.mark.parametrize("n", [100, 300, 2000])
def test_the_lower_end_exceeds_the_true_percentile_in_at_most_five_of_a_hundred_cases(n):
    random = np.random.default_rng(n)
    truth = -np.log(0.01)
    above = np.mean([measure_latency(random.exponential(size=n)).p99_low_ms > truth for _ in range(600)])
    assert above <= 0.07


def test_three_slow_requests_of_three_hundred_are_noise_and_ten_are_not():
    assert measure_latency([1.0] * 297 + [500.0] * 3).p99_low_ms == 1.0
    assert measure_latency([1.0] * 290 + [500.0] * 10).p99_low_ms == 500.0
