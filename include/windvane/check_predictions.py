"""Checks of what a candidate predicts: the distribution of its scores, and its quality. Pure functions; they never act."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from windvane.compare_models import interval, paired_bootstrap, score_outcomes
from windvane.config import ModelConfig
from windvane.estimate_quality import estimate_increase, estimate_loss
from windvane.rollout_check import Check, Figure

FEWEST_ROWS = 50
# fewer different scores than this come from a few requests sent again and again, and have no distribution
FEWEST_DISTINCT = 20
ALPHA = 0.001
DISTANCE = 0.6
SKEW = 0.2
SKEW_ALONE = 0.5
SPREAD = 0.05
WORSE_SHARE = 0.05
LOSS = 0.3
LOSS_ALONE = 0.5
LOSS_INCREASE = 0.1
LIVE_LOSS_INCREASE = 0.2
SAME_SCORE = 1e-5
OTHER_SCORES_SHARE = 0.01
_RESAMPLES = 500


@dataclass(frozen=True)
class Paired:
    """Rows that candidate and champion both answered.

    Attributes:
        candidate: Shape (n,).
        champion: Shape (n,).
        outcomes: Shape (n,), NaN where the outcome is not known.
        held_out: Shape (n,): whether the row was held out when the candidate was trained; else it is one of an earlier request.
    """

    candidate: np.ndarray
    champion: np.ndarray
    outcomes: np.ndarray
    held_out: np.ndarray

    def of(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Scores of champion and candidate on some of the rows."""
        return self.champion[rows], self.candidate[rows]


def distance(task: str, first: ArrayLike, second: ArrayLike) -> tuple[float, float]:
    """How far two samples of scores are apart, from 0 to 1, and the p-value that they come from one distribution.

    Numbers: the two-sample statistic of Kolmogorov and Smirnov, its p-value asymptotic (Hodges, The significance probability of the
    Smirnov two-sample test, 1958). Classes: the total variation distance, with the chi-squared test of homogeneity (Pearson, 1900).
    """
    from scipy.stats import chi2_contingency, ks_2samp

    a, b = np.asarray(first, dtype=float), np.asarray(second, dtype=float)
    if task != "multiclass_classification":
        found = ks_2samp(a, b, method="asymp")
        return float(found.statistic), float(found.pvalue)
    classes = np.unique(np.concatenate([a, b]))
    counts = np.array([[(values == c).sum() for c in classes] for values in (a, b)])
    apart = float(np.abs(counts[0] / len(a) - counts[1] / len(b)).sum() / 2)
    return apart, float(chi2_contingency(counts).pvalue) if len(classes) > 1 else 1.0


def check_distribution(task: str, candidate: np.ndarray, champion: np.ndarray | None) -> Check:
    """The scores of the same rows: they may differ as those of an honest challenger of another season do, and not beyond.

    What is refused is an answer that hardly depends on the row, and a distribution that has next to nothing in common with the
    champion's. A distance is judged by its size, so that many rows do not turn a trifle into a reason.
    """
    figures: dict[str, Figure] = {"rows": len(candidate), "spread": _spread(candidate)}
    if len(candidate) < FEWEST_ROWS:
        return Check("predictions", "inconclusive", _too_few(len(candidate)), figures)
    if champion is None:
        if np.ptp(candidate) > 0:
            return Check("predictions", "advance", "its answers depend on the row", figures)
        return Check("predictions", "revert", f"it gives the same answer to all {len(candidate)} rows", figures)
    apart, chance = distance(task, candidate, champion)
    figures |= {"champion_spread": _spread(champion), "distance": apart, "allowed": DISTANCE, "p_value": chance}
    if _spread(candidate) <= SPREAD * _spread(champion):
        return Check("predictions", "revert", "its answers hardly depend on the row, the champion's do", figures)
    told = f"its scores are {apart:.2f} away from the champion's on the same {len(candidate)} rows, allowed are {DISTANCE}"
    return Check("predictions", "revert" if apart > DISTANCE and chance < ALPHA else "advance", told, figures)


def check_skew(
    task: str,
    *,
    live: Sequence[float],
    replayed: Sequence[float],
    champion_live: Sequence[float],
    champion_replayed: Sequence[float],
    rows: int | None = None,
) -> Check:
    """Live scores against replayed ones: if they moved, did the champion's move as far at the same time?

    A move that the champion makes as well comes from the requests; one that only the candidate makes comes from how it is served.
    Each different row counts once: those that are asked about again and again, as by what watches an endpoint, are no distribution.
    `rows` is how many there were with these; None if all are different.
    """
    figures: dict[str, Figure] = {"rows": len(live), "replayed_rows": len(replayed), "champion_rows": len(champion_live)}
    if len(live) < FEWEST_ROWS <= min(rows or 0, len(replayed)):
        return Check("predictions", "advance", f"{len(live)} different rows were asked about, too few to compare their scores", figures)
    if min(len(live), len(replayed)) < FEWEST_ROWS:
        return Check("predictions", "inconclusive", _too_few(min(len(live), len(replayed))), figures)
    if task != "multiclass_classification" and len(set(live)) < FEWEST_DISTINCT <= len(set(replayed)):
        told = f"its live scores have {len(set(live))} different values, too few to compare how they are spread"
        return Check("predictions", "advance", told, figures)
    moved, chance = distance(task, live, replayed)
    figures |= {"moved": moved, "p_value": chance}
    if min(len(champion_live), len(champion_replayed)) < FEWEST_ROWS:
        told = (
            f"its live scores are {moved:.2f} away from its replayed ones, allowed are {SKEW_ALONE}; the champion had no traffic beside it"
        )
        return Check("predictions", "revert" if moved > SKEW_ALONE and chance < ALPHA else "advance", told, figures)
    usual, _ = distance(task, champion_live, champion_replayed)
    apart, beside = distance(task, live, champion_live)
    expected, _ = distance(task, replayed, champion_replayed)
    figures |= {"champion_moved": usual, "apart": apart, "apart_replayed": expected}
    # the distances themselves are samples: the critical value of the two-sample test at 5 % (Smirnov 1948) is their noise
    allowed = SKEW + 1.36 * math.sqrt(1 / len(live) + 1 / len(replayed))
    figures |= {"allowed": allowed}
    told = f"its live scores moved by {moved:.2f} (champion: {usual:.2f}), "
    told += f"and are {apart:.2f} away from the champion's (replayed: {expected:.2f})"
    skewed = (moved - usual > allowed and chance < ALPHA) or (apart - expected > allowed and beside < ALPHA)
    return Check("predictions", "revert" if skewed else "advance", f"{told}; allowed are {allowed:.2f} more", figures)


def check_rescored(
    task: str, live: np.ndarray, candidate: np.ndarray | None, champion: np.ndarray | None, *, expected: float | None
) -> Check:
    """Live answers against those that the same rows get in a rehearsal: the candidate's own must be equal.

    This finds what a distribution cannot: an input that reaches the model scrambled leaves the distribution of the scores as it was.
    Without a rehearsal of its own, the loss that the champion estimates on these rows is compared with that on replayed ones.

    Args:
        live: Scores that the candidate gave to live rows.
        candidate: Its scores of these rows in a rehearsal.
        champion: The champion's scores of these rows in a rehearsal.
        expected: The estimated loss on replayed rows; None if it is not known.
    """
    figures: dict[str, Figure] = {"rows": len(live)}
    if len(live) < FEWEST_ROWS:
        return Check("live answers", "inconclusive", _too_few(len(live)), figures)
    if candidate is not None:
        both = np.isfinite(live) & np.isfinite(candidate)
        other = 1 - float((np.abs(live - candidate)[both] <= SAME_SCORE * np.maximum(1, np.abs(candidate[both]))).sum()) / len(live)
        figures |= {"other": other, "allowed": OTHER_SCORES_SHARE}
        told = f"{other:.1%} of {len(live)} live answers differ from what it says of the same rows in a rehearsal"
        return Check("live answers", "revert" if other > OTHER_SCORES_SHARE else "advance", told, figures)
    both = np.isfinite(live) & (np.isfinite(champion) if champion is not None else False)
    loss = estimate_loss(task, champion[both], live[both]) if champion is not None and both.sum() >= FEWEST_ROWS else math.nan
    figures |= {"loss": loss, "expected_loss": expected, "allowed": LIVE_LOSS_INCREASE}
    if expected is None or not math.isfinite(loss):
        return Check("live answers", "inconclusive", "nobody scored enough of the live rows again", figures)
    told = f"{loss:.0%} of the champion's skill is lost in its own eyes on live rows, on replayed ones {expected:.0%}"
    return Check("live answers", "revert" if loss - expected > LIVE_LOSS_INCREASE else "advance", told, figures)


def check_quality(config: ModelConfig, rows: Paired) -> Check:
    """Is the candidate worse than the champion on the same rows?

    Where outcomes are known, a paired bootstrap of the config's metric tells: worse is an upper end (one-sided, confidence of
    gates.versus_champion) below zero by more than 5 % of the champion's own skill, or by more than a negative gates margin allows. Where
    they are not, the champion's confidence estimates what would be lost (see `estimate_quality`). A challenger that disagrees with a
    stale champion is no reason: it loses much in the champion's eyes, and yet is better where outcomes are known. So a loss
    counts if the candidate is no better there, or if it is larger on newer requests than on the held-out rows.
    """
    known, requests = np.isfinite(rows.outcomes), ~rows.held_out
    tests = {"held_out": known & rows.held_out, "logged": known & requests}
    found = {name: _compare(config, rows, chosen) for name, chosen in tests.items() if chosen.sum() >= FEWEST_ROWS}
    loss, loss_held_out = (_estimate(config, rows, chosen) for chosen in (requests, rows.held_out))
    figures: dict[str, Figure] = {"metric": _metric(config), "loss": loss, "loss_held_out": loss_held_out}
    for name, (test, skill, margin) in found.items():
        values = {"rows": test.n, "difference": test.difference, "high": test.high, "low": test.low, "margin": margin, "skill": skill}
        figures |= {f"{name}_{key}": value for key, value in values.items()}
    for name, (test, _, margin) in found.items():
        if test.high < -margin:
            reason = f"{_metric(config)} {test.difference:+.4f} against the champion on {test.n} {_ROWS[name]} (at best {test.high:+.4f})"
            return Check("quality", "revert", f"{reason}, {-margin:+.4f} is allowed", figures)
    told = [f"{_metric(config)} {test.difference:+.4f} on {test.n} {_ROWS[name]}" for name, (test, _, _) in found.items()]
    worst = loss if math.isfinite(loss) else loss_held_out
    if math.isfinite(worst):
        told.append(f"{worst:.0%} of the champion's skill is lost in its own eyes")
    tested = [test for test, _, _ in found.values() if math.isfinite(test.difference)]
    better = "logged" in found and found["logged"][0].low > 0
    if not better and math.isfinite(loss) and math.isfinite(loss_held_out):
        increase, low = estimate_increase(
            config.task,
            rows.of(rows.held_out),
            rows.of(requests),
            confidence=config.gates.versus_champion.confidence,
            seed=config.train.seed,
        )
        figures |= {"increase": increase, "increase_low": low}
        if low > LOSS_INCREASE:
            return Check("quality", "revert", f"{'; '.join(told)}, on held-out rows it was {loss_held_out:.0%}", figures)
    if tested and worst > LOSS and not any(test.difference > 0 for test in tested):
        return Check("quality", "revert", f"{'; '.join(told)}, and it is no better where outcomes are known", figures)
    if not tested and worst > LOSS_ALONE:
        return Check("quality", "revert", f"{'; '.join(told)}, and no outcome is known", figures)
    if not tested and not worst <= LOSS:
        return Check("quality", "inconclusive", "; ".join(told) or "too few rows that both models answered", figures)
    return Check("quality", "advance", "; ".join(told), figures)


def check_first_quality(config: ModelConfig, candidate: np.ndarray, outcomes: np.ndarray) -> Check:
    """The quality of a first version: its metric is defined on held-out rows, and not below gates.at_least beyond noise."""
    known = np.isfinite(outcomes) & np.isfinite(candidate)
    figures: dict[str, Figure] = {"metric": _metric(config), "rows": int(known.sum()), "at_least": config.gates.at_least}
    if known.sum() < FEWEST_ROWS:
        return Check("quality", "inconclusive", f"{int(known.sum())} rows have an outcome, at least {FEWEST_ROWS} are needed", figures)
    metric, y, scores = _metric_inputs(config, outcomes[known], candidate[known])
    confidence = config.gates.versus_champion.confidence
    value, _, high = interval(metric, y, scores, confidence=confidence, seed=config.train.seed, resamples=_RESAMPLES)
    # an accuracy is computed as minus its mean error
    value, high = (value + 1, high + 1) if config.task == "multiclass_classification" else (value, high)
    figures |= {"value": value, "high": high}
    if not (math.isfinite(value) and math.isfinite(high)):
        return Check("quality", "inconclusive", f"{_metric(config)} is not defined on these {int(known.sum())} rows", figures)
    told = f"{_metric(config)} {value:.4f} on {int(known.sum())} rows with an outcome"
    floor = None if config.task == "multiclass_classification" else config.gates.at_least
    if floor is not None and high < floor:
        return Check("quality", "revert", f"{told}, at least {floor:g} is needed", figures)
    return Check("quality", "advance", told, figures)


_ROWS = {"held_out": "held-out rows", "logged": "requests whose outcome is known"}


def _compare(config: ModelConfig, rows: Paired, chosen: np.ndarray) -> tuple[Any, float, float]:
    """The paired test, the champion's skill on these rows, and by how much the candidate may be worse."""
    y, candidate, champion = rows.outcomes[chosen], rows.candidate[chosen], rows.champion[chosen]
    metric, truth, ours = _metric_inputs(config, y, candidate)
    theirs = _metric_inputs(config, y, champion)[2]
    gate = config.gates.versus_champion
    test = paired_bootstrap(metric, truth, ours, theirs, confidence=gate.confidence, seed=config.train.seed, resamples=_RESAMPLES)
    skill = score_outcomes(metric, truth, theirs) - score_outcomes(metric, truth, _guess(config, y))
    share = WORSE_SHARE * skill if math.isfinite(skill) and skill > 0 else 0.0
    return test, skill, max(share, -gate.margin)


def _guess(config: ModelConfig, y: np.ndarray) -> np.ndarray:
    """What one would say without looking at the row."""
    if config.task == "multiclass_classification":
        values, counts = np.unique(y, return_counts=True)
        return np.asarray(y == values[counts.argmax()], dtype=float)
    return np.full(len(y), y.mean())


def _metric(config: ModelConfig) -> str:
    return "accuracy" if config.task == "multiclass_classification" else config.metric


def _metric_inputs(config: ModelConfig, y: np.ndarray, scores: np.ndarray) -> tuple[str, np.ndarray, np.ndarray]:
    """Metric, outcomes and scores; of more than two classes only the predicted one is known, and its accuracy counts."""
    if config.task == "multiclass_classification":
        return "neg_mean_absolute_error", np.ones(len(y)), (scores == y).astype(float)
    return config.metric, y, scores


def _estimate(config: ModelConfig, rows: Paired, chosen: np.ndarray) -> float:
    return estimate_loss(config.task, *rows.of(chosen)) if chosen.sum() >= FEWEST_ROWS else math.nan


def _spread(scores: np.ndarray) -> float:
    return float(np.std(scores)) if len(scores) else 0.0


def _too_few(rows: int) -> str:
    return f"{rows} rows were scored, at least {FEWEST_ROWS} are needed"


def finite_scores(rehearsal: Mapping[str, Any] | None) -> np.ndarray | None:
    """The scores of a rehearsal's replay, NaN where there is none; None without a replay."""
    replay = (rehearsal or {}).get("replay")
    scores = replay.get("scores") if isinstance(replay, Mapping) else None
    if not isinstance(scores, Sequence):
        return None
    return np.array([math.nan if score is None else float(score) for score in scores], dtype=float)
