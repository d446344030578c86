"""Judges a candidate at each step of a rollout. It is passive: it looks at figures and says what they mean; others act.

What is missing, not finite or too little never advances: it is inconclusive at best. As in a canary analysis, the candidate is compared
with the champion on the same rows or at the same time, so that what happens to both is not held against one (Davidovič and Beyer,
Canary Analysis Service, ACM Queue 16(1), 2018).
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from windvane.check_predictions import (
    FEWEST_ROWS,
    Paired,
    check_distribution,
    check_first_quality,
    check_quality,
    check_rescored,
    check_skew,
    finite_scores,
)
from windvane.check_serving import FEWEST_TIMED, allowed_p99, check_errors, check_latency, check_memory, check_refused
from windvane.compare_models import finite_or_none
from windvane.config import ModelConfig
from windvane.estimate_quality import estimate_loss
from windvane.rollout_check import Check, LiveFigures, Verdict

__all__ = ["Check", "Judgement", "LiveFigures", "Rescored", "Verdict", "judge_rehearsal", "judge_step", "summarize_replay"]

FEWEST_REQUESTS = 30
_QUANTILES = 101


@dataclass(frozen=True)
class Judgement:
    """All checks of one step.

    Attributes:
        verdict: `revert` if any check says so, else `inconclusive` if any could not tell, else `advance`.
    """

    verdict: Verdict
    checks: tuple[Check, ...]

    @property
    def reason(self) -> str:
        """One line: the checks that decided, and what they saw."""
        if self.verdict == "advance":
            return f"{len(self.checks)} checks passed: {', '.join(check.name for check in self.checks)}"
        return "; ".join(f"{check.name}: {check.reason}" for check in self.checks if check.verdict == self.verdict)

    def as_json(self) -> dict[str, Any]:
        """A small, finite form for XCom and the ledger's evidence."""
        return {"verdict": self.verdict, "reason": self.reason, "checks": [check.as_json() for check in self.checks]}


@dataclass(frozen=True)
class Rescored:
    """Rows that the candidate answered live, and what rehearsals say of the same rows.

    Attributes:
        live: The scores that were answered.
        candidate: JSON of the candidate's rehearsal over these rows; None if there was none.
        champion: The same of the champion.
    """

    live: Sequence[float]
    candidate: Mapping[str, Any] | None
    champion: Mapping[str, Any] | None


# scores may be so large that sums of them overflow: the infinity that comes of it is judged as one
@np.errstate(over="ignore", invalid="ignore")
def judge_rehearsal(
    candidate: Mapping[str, Any],
    champion: Mapping[str, Any] | None,
    *,
    outcomes: Sequence[float | None],
    held_out: int,
    config: ModelConfig,
) -> Judgement:
    """Judge what a candidate said to replayed rows, beside the champion.

    Args:
        candidate: The JSON of its rehearsal with a replay.
        champion: The champion's over the same rows; None for a first version only.
        outcomes: What came of each row: a number, or the place of the label among the candidate's classes; None where it is not known.
        held_out: How many rows, the last ones, are held-out rows of the candidate; those before are earlier requests.
        config: The model's config.
    """
    if candidate.get("ok") is not True:
        return _judgement([Check("golden rows", "revert", str(candidate.get("error") or "the rehearsal did not pass"))])
    ours = finite_scores(candidate)
    if ours is None or len(ours) != len(outcomes) or not held_out <= len(ours):
        problem = "it replayed nothing" if ours is None else f"{len(ours)} rows were replayed, {len(outcomes)} were given"
        return _judgement([Check("replay", "inconclusive", f"the candidate's rehearsal cannot be judged: {problem}")])
    theirs = _aligned(candidate, champion)
    if champion is not None and (theirs is None or len(theirs) != len(ours)):
        return _judgement([Check("replay", "inconclusive", "the champion was not rehearsed with the same rows")])
    if not all(_has_counts(rehearsal["replay"]) for rehearsal in (candidate, champion) if rehearsal is not None):
        return _judgement([Check("replay", "inconclusive", "a rehearsal does not say how many rows were replayed, refused or failed")])
    mine, other = _as_figures(candidate), _as_figures(champion)
    checks = [_complete(mine, ours), check_errors(mine, other), check_refused(mine, other), check_latency(mine, other)]
    checks.append(check_memory(candidate, config))
    truth = np.array([math.nan if value is None else float(value) for value in outcomes], dtype=float)
    if theirs is None:
        checks.append(check_distribution(config.task, ours[np.isfinite(ours)], None))
        checks.append(check_first_quality(config, ours, truth))
        return _judgement(checks)
    both = np.isfinite(ours) & np.isfinite(theirs)
    checks.append(check_distribution(config.task, ours[both], theirs[both]))
    checks.append(check_quality(config, Paired(ours[both], theirs[both], truth[both], _is_held_out(len(ours), held_out)[both])))
    return _judgement(checks)


@np.errstate(over="ignore", invalid="ignore")
def summarize_replay(
    candidate: Mapping[str, Any], champion: Mapping[str, Any] | None, *, held_out: int, config: ModelConfig
) -> dict[str, Any]:
    """What `judge_step` needs of the rehearsals, in about 2 kB of JSON: quantiles instead of scores.

    Live scores are compared with those of earlier requests, or, where there are too few, with those of the held-out rows.
    """
    ours, theirs = finite_scores(candidate), _aligned(candidate, champion)
    if ours is None or not _has_counts(candidate["replay"]):
        return {}
    rows = ~_is_held_out(len(ours), held_out)
    rows = rows if np.isfinite(ours[rows]).sum() >= FEWEST_ROWS else np.ones(len(ours), dtype=bool)
    loss = None
    if theirs is not None and len(theirs) == len(ours):
        both = rows & np.isfinite(ours) & np.isfinite(theirs)
        loss = finite_or_none(estimate_loss(config.task, theirs[both], ours[both])) if both.sum() >= FEWEST_ROWS else None
    return {
        "candidate": _summary(candidate, ours[rows]),
        "champion": _summary(champion, theirs[rows]) if champion and theirs is not None and len(theirs) == len(ours) else None,
        "loss": loss,
    }


@np.errstate(over="ignore", invalid="ignore")
def judge_step(
    *,
    candidate: LiveFigures,
    champion: LiveFigures | None,
    replay: Mapping[str, Any] | None,
    min_requests: int,
    config: ModelConfig,
    rescored: Rescored | None = None,
) -> Judgement:
    """Judge a step at the end of its bake.

    Below `min_requests` the replayed rows count as evidence beside the live requests, so that a model with little traffic can be
    promoted; what live requests are too few for is then judged by the replay alone.

    Args:
        candidate: Its live figures since the step began.
        champion: The champion's at the same time, or, where it has no traffic beside the candidate, from before; None for a first version.
        replay: What `summarize_replay` returned.
        min_requests: Requests that the step must see; of the live ones and the replayed ones together.
        config: The model's config.
        rescored: Live rows that were scored again.
    """
    if not _sound(candidate) or not _sound(champion):
        return _judgement([Check("evidence", "inconclusive", "the live figures contradict themselves")])
    summary = replay or {}
    ours, theirs = _from_summary(summary.get("candidate")), _from_summary(summary.get("champion"))
    wanted = max(min_requests, FEWEST_REQUESTS)
    enough = candidate.requests >= wanted
    checks = [_evidence(candidate, ours, wanted)]
    checks.append(check_errors(candidate, champion) if candidate.requests else check_errors(ours, theirs))
    checks.append(check_refused(candidate, champion) if candidate.requests else check_refused(ours, theirs))
    checks.append(_latency(candidate, champion, ours, theirs))
    if enough or len(candidate.scores) >= FEWEST_ROWS:
        checks.append(
            check_skew(
                config.task,
                live=_finite(candidate.scores),
                rows=candidate.rows,
                replayed=ours.scores,
                champion_live=_finite(champion.scores) if champion else (),
                champion_replayed=theirs.scores if champion else (),
            )
        )
    if rescored is not None and (enough or len(rescored.live) >= FEWEST_ROWS):
        live = np.array([math.nan if score is None else float(score) for score in rescored.live], dtype=float)
        again, other = finite_scores(rescored.candidate), finite_scores(rescored.champion)
        same_length = all(scores is None or len(scores) == len(live) for scores in (again, other))
        checks.append(
            check_rescored(config.task, live, again, other, expected=summary.get("loss"))
            if same_length
            else Check("live answers", "inconclusive", "not all live rows were scored again")
        )
    return _judgement(checks)


def _judgement(checks: Iterable[Check]) -> Judgement:
    made = tuple(checks)
    found = {check.verdict for check in made}
    verdict: Verdict = "revert" if "revert" in found else "inconclusive" if "inconclusive" in found or not made else "advance"
    return Judgement(verdict, made)


def _complete(figures: LiveFigures, scores: np.ndarray) -> Check:
    scored = int(np.isfinite(scores).sum())
    seen = {"rows": len(scores), "replayed": figures.requests, "scored": scored}
    if len(scores) < FEWEST_ROWS:
        return Check("replay", "inconclusive", f"{len(scores)} rows were there to replay, at least {FEWEST_ROWS} are needed", seen)
    if figures.requests < len(scores):
        return Check("replay", "revert", f"{figures.requests} of {len(scores)} rows were answered in time", seen)
    if scored + figures.refused + figures.server_errors != len(scores):
        return Check("replay", "inconclusive", f"{scored} of {len(scores)} rows have a score, and the others no reason to have none", seen)
    return Check("replay", "advance", f"{len(scores)} rows were replayed", seen)


def _has_counts(replay: Mapping[str, Any]) -> bool:
    return all(isinstance(replay.get(name), int) and replay[name] >= 0 for name in ("rows", "refused", "errors"))


def _sound(figures: LiveFigures | None) -> bool:
    return figures is None or (
        figures.server_errors >= 0 and figures.refused >= 0 and figures.server_errors + figures.refused <= figures.requests
    )


def _evidence(candidate: LiveFigures, replayed: LiveFigures, wanted: int) -> Check:
    figures = {"requests": candidate.requests, "replayed": replayed.requests, "needed": wanted}
    if candidate.requests >= wanted:
        return Check("evidence", "advance", f"{candidate.requests} live requests", figures)
    told = f"{candidate.requests} live requests and {replayed.requests} replayed rows, {wanted} are needed: deploy.rollout.min_requests"
    return Check("evidence", "advance" if candidate.requests + replayed.requests >= wanted else "inconclusive", told, figures)


def _latency(candidate: LiveFigures, champion: LiveFigures | None, ours: LiveFigures, theirs: LiveFigures) -> Check:
    """Live against live; where one of them has too few requests, replay against replay and the live ones against the stated bound."""
    if _timed(candidate) >= FEWEST_TIMED and (champion is None or _timed(champion) >= FEWEST_TIMED):
        return check_latency(candidate, champion)
    if _timed(candidate) >= FEWEST_TIMED:
        slow = check_latency(candidate, None)
        if slow.verdict != "advance":
            return slow
    elif candidate.p50_ms is not None:
        # a slow version is one that answers few; one moment in which the machine stood still is in a few requests, and not in half of them
        comparable = champion is not None and _timed(champion) >= FEWEST_TIMED and _timed(candidate) >= FEWEST_REQUESTS
        usual = champion.p99_ms if champion is not None and comparable else None
        allowed = allowed_p99(usual)
        if candidate.p50_ms > allowed:
            figures = {"p50_ms": candidate.p50_ms, "p99_ms": candidate.p99_ms, "requests": _timed(candidate), "allowed_ms": allowed}
            return Check("latency", "revert", f"half of {_timed(candidate)} requests took more than {allowed:.1f} ms", figures)
    found = check_latency(ours, theirs if champion is not None else None)
    return Check(found.name, found.verdict, f"in the replay: {found.reason}", found.figures)


def _finite(scores: Sequence[float]) -> list[float]:
    return [score for score in scores if math.isfinite(score)]


def _timed(figures: LiveFigures) -> int:
    if figures.p99_ms is None:
        return 0
    return figures.requests if figures.timed is None else figures.timed


def _as_figures(rehearsal: Mapping[str, Any] | None) -> Any:
    """The replay of a rehearsal as if its rows were requests."""
    if rehearsal is None:
        return None
    replay = rehearsal["replay"]
    rows = int(replay.get("rows") or 0)
    return LiveFigures(
        requests=rows,
        server_errors=int(replay.get("errors") or 0),
        refused=int(replay.get("refused") or 0),
        scores=(),
        p99_ms=replay.get("p99_ms"),
        p99_low_ms=replay.get("p99_low_ms"),
        timed=int(replay.get("timed") or 0),
    )


def _summary(rehearsal: Mapping[str, Any], scores: np.ndarray) -> dict[str, Any]:
    figures, known = _as_figures(rehearsal), scores[np.isfinite(scores)]
    kept = np.quantile(known, np.linspace(0, 1, _QUANTILES), method="nearest") if len(known) else known
    return {
        "rows": figures.requests,
        "errors": figures.server_errors,
        "refused": figures.refused,
        "p99_ms": figures.p99_ms,
        "p99_low_ms": figures.p99_low_ms,
        "timed": figures.timed,
        "scored": len(known),
        "quantiles": [float(f"{value:.6g}") for value in kept],
    }


def _from_summary(summary: Mapping[str, Any] | None) -> LiveFigures:
    if not summary:
        return LiveFigures.none()
    return LiveFigures(
        requests=int(summary["rows"]),
        server_errors=int(summary["errors"]),
        refused=int(summary["refused"]),
        scores=_spread_out(summary["quantiles"], int(summary["scored"])),
        p99_ms=summary["p99_ms"],
        p99_low_ms=summary["p99_low_ms"],
        timed=int(summary["timed"]),
    )


def _spread_out(quantiles: Sequence[float], rows: int) -> list[float]:
    """As many scores as there were, with these quantiles."""
    if rows <= 0 or not quantiles:
        return []
    return [quantiles[round(place)] for place in np.linspace(0, len(quantiles) - 1, rows)]


def _aligned(candidate: Mapping[str, Any], champion: Mapping[str, Any] | None) -> np.ndarray | None:
    """The champion's scores; places of classes become those of the candidate's, and one of a class that it does not know -1."""
    scores = finite_scores(champion)
    if champion is None or scores is None:
        return None
    ours, theirs = (rehearsal["replay"].get("classes") for rehearsal in (candidate, champion))
    if not ours or not theirs or ours == theirs:
        return scores
    if len(ours) == 2 or len(theirs) == 2:
        return None
    places = {label: float(place) for place, label in enumerate(ours)}
    moved = np.array([places.get(label, -1.0) for label in theirs])
    known = np.isfinite(scores)
    scores[known] = moved[scores[known].astype(int)]
    return scores


def _is_held_out(rows: int, held_out: int) -> np.ndarray:
    return np.arange(rows) >= rows - held_out
