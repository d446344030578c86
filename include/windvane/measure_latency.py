"""Says how slow requests were, and how sure that is."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

_QUANTILE = 0.99
_ALPHA = 0.05


@dataclass(frozen=True)
class Latency:
    """How long requests took.

    Attributes:
        p50_ms: Their median.
        p99_ms: Their 99th percentile.
        p99_low_ms: Lower end of its one-sided 95 % confidence interval: a slower 99th percentile is more than a few unlucky requests.
        mean_ms: Their mean.
    """

    p50_ms: float
    p99_ms: float
    p99_low_ms: float
    mean_ms: float


def measure_latency(milliseconds: Sequence[float]) -> Latency | None:
    """Summarise the times of requests; None when there are none.

    The lower end is an order statistic, free of any assumption about the distribution (Conover, Practical Nonparametric Statistics,
    3rd edition 1999, section 3.2): the number of requests beyond the true percentile is binomial.
    """
    times = np.sort(np.asarray(milliseconds, dtype=float))
    times = times[np.isfinite(times)]
    if not len(times):
        return None
    return Latency(
        p50_ms=round(float(np.median(times)), 3),
        p99_ms=round(float(np.percentile(times, 100 * _QUANTILE)), 3),
        p99_low_ms=round(float(times[max(0, len(times) - _beyond(len(times)))]), 3),
        mean_ms=round(float(times.mean()), 3),
    )


def _beyond(n: int) -> int:
    """The smallest m so that m or more of n requests lie beyond the percentile with a chance of at most alpha."""
    chance = 1 - _QUANTILE
    term = (1 - chance) ** n
    below, m = term, 1
    while 1 - below > _ALPHA and m < n:
        term *= (n - m + 1) / m * chance / (1 - chance)
        below += term
        m += 1
    return m
