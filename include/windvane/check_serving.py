"""Checks of how a candidate serves: errors, refused inputs, latency, memory. Pure functions of figures; they never act."""

import math
from collections.abc import Mapping
from typing import Any

from windvane.config import ModelConfig
from windvane.rollout_check import Check, LiveFigures, Verdict

ERROR_SHARE = 0.001
REFUSED_SHARE = 0.01
FIRST_REFUSED_SHARE = 0.5
ALPHA = 0.01
P99_FACTOR = 2.0
P99_SLACK_MS = 20.0
FIRST_P99_MS = 1000.0
FEWEST_TIMED = 100
MEMORY_SHARE = 0.9
_UNITS = {"k": 1 / 1024, "m": 1.0, "g": 1024.0}


def check_errors(candidate: LiveFigures, champion: LiveFigures | None) -> Check:
    """Server errors: more than one request in a thousand, unless the champion has as many.

    Against a champion that has errors, too, Fisher's exact test decides (Fisher, Statistical Methods for Research Workers, 1934, section
    21.02). So a single error among fewer than a thousand requests is one too many where the champion has none.
    """
    figures = {**_shares(candidate, champion, "server_errors"), "allowed": ERROR_SHARE}
    share = _share(candidate.server_errors, candidate.requests)
    if share is None:
        return Check("errors", "inconclusive", "the candidate had no request", figures)
    told = f"{candidate.server_errors} server errors in {candidate.requests} requests"
    if share <= ERROR_SHARE:
        return Check("errors", "advance", f"{told}, at most {ERROR_SHARE:.1%} are allowed", figures)
    if champion and champion.server_errors:
        chance = _more_than(candidate.server_errors, candidate.requests, champion.server_errors, champion.requests)
        if chance >= ALPHA:
            reason = f"{told}, the champion has {champion.server_errors} in {champion.requests}: no more beyond noise"
            return Check("errors", "advance", reason, figures)
    others = f"the champion has {champion.server_errors} in {champion.requests}" if champion else f"allowed are {ERROR_SHARE:.1%}"
    return Check("errors", "revert", f"{told}, {others}", figures)


def check_refused(candidate: LiveFigures, champion: LiveFigures | None) -> Check:
    """Refused inputs: a share that is larger than the champion's by more than a point and beyond noise (Fisher's exact test).

    A first version has nobody to be compared with: it may refuse up to half of what comes, because clients are still being written.
    """
    figures = _shares(candidate, champion, "refused")
    share = _share(candidate.refused, candidate.requests)
    if share is None:
        return Check("refused inputs", "inconclusive", "the candidate had no request", figures)
    told = f"{candidate.refused} of {candidate.requests} requests were refused"
    if champion is None:
        verdict: Verdict = "advance" if share <= FIRST_REFUSED_SHARE else "revert"
        return Check("refused inputs", verdict, f"{told}, of a first version at most {FIRST_REFUSED_SHARE:.0%} may be", figures)
    usual = _share(champion.refused, champion.requests) or 0.0
    told += f", by the champion {champion.refused} of {champion.requests}"
    if share - usual <= REFUSED_SHARE:
        return Check("refused inputs", "advance", told, figures)
    chance = _more_than(candidate.refused, candidate.requests, champion.refused, champion.requests)
    if champion.requests and chance >= ALPHA:
        return Check("refused inputs", "advance", f"{told}: no more beyond noise", figures)
    return Check("refused inputs", "revert", f"{told}, at most {REFUSED_SHARE:.0%} more are allowed", figures)


def check_latency(candidate: LiveFigures, champion: LiveFigures | None) -> Check:
    """The 99th percentile: at most twice the champion's or 20 ms more, whichever is larger; of a first version at most 1 s.

    Too slow is a candidate whose percentile is above that beyond noise, by its confidence interval. With fewer than a hundred requests
    there is no 99th percentile to speak of.
    """
    timed = candidate.requests if candidate.timed is None else candidate.timed
    p99, low = candidate.p99_ms, candidate.p99_low_ms if candidate.p99_low_ms is not None else candidate.p99_ms
    usual = champion.p99_ms if champion else None
    figures: dict[str, float | int | None] = {"p99_ms": p99, "p99_low_ms": low, "champion_p99_ms": usual, "requests": timed}
    if p99 is None or low is None or not (math.isfinite(p99) and math.isfinite(low)) or timed < FEWEST_TIMED:
        return Check("latency", "inconclusive", f"{timed} requests were timed, at least {FEWEST_TIMED} are needed", figures)
    if champion is not None and (usual is None or not math.isfinite(usual)):
        return Check("latency", "inconclusive", "the champion's latency is not known", figures)
    allowed = allowed_p99(usual)
    figures["allowed_ms"] = allowed
    told = f"99 % of requests took at most {p99:.1f} ms, allowed are {allowed:.1f} ms"
    told += "" if usual is None else f" (champion: {usual:.1f} ms)"
    return Check("latency", "advance" if low <= allowed else "revert", told, figures)


def allowed_p99(champion_ms: float | None) -> float:
    """The largest 99th percentile, in milliseconds, beside a champion's."""
    return FIRST_P99_MS if champion_ms is None else max(P99_FACTOR * champion_ms, champion_ms + P99_SLACK_MS)


def check_memory(rehearsal: Mapping[str, Any], config: ModelConfig) -> Check:
    """The most memory of the rehearsal: at most 90 % of a container's limit, so that a busy hour has room; of a process no limit."""
    peak = rehearsal.get("peak_rss_mb")
    if not isinstance(peak, int | float) or not math.isfinite(peak):
        return Check("memory", "inconclusive", "the rehearsal's memory is not known", {"peak_mb": None})
    if config.deploy.target == "process":
        return Check("memory", "advance", f"{peak:.0f} MiB; target process has no limit", {"peak_mb": peak})
    limit = int(config.deploy.limits.memory[:-1]) * _UNITS[config.deploy.limits.memory[-1]]
    figures = {"peak_mb": peak, "limit_mb": limit, "allowed_mb": MEMORY_SHARE * limit}
    reason = f"{peak:.0f} MiB, allowed are {MEMORY_SHARE * limit:.0f} MiB, which is {MEMORY_SHARE:.0%} of deploy.limits.memory"
    return Check("memory", "advance" if peak <= MEMORY_SHARE * limit else "revert", reason, figures)


def _shares(candidate: LiveFigures, champion: LiveFigures | None, name: str) -> dict[str, int | float | None]:
    return {
        name: getattr(candidate, name),
        "requests": candidate.requests,
        f"champion_{name}": getattr(champion, name) if champion else None,
        "champion_requests": champion.requests if champion else None,
    }


def _share(count: int, requests: int) -> float | None:
    return count / requests if requests > 0 else None


def _more_than(count: int, requests: int, other_count: int, other_requests: int) -> float:
    """One-sided p-value of Fisher's exact test that the first share is not the larger one."""
    from scipy.stats import fisher_exact

    table = [[count, max(0, requests - count)], [other_count, max(0, other_requests - other_count)]]
    return float(fisher_exact(table, alternative="greater").pvalue)
