"""What a judge of a rollout looks at, and the form of what it says about it."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

Verdict = Literal["advance", "revert", "inconclusive"]
Figure = float | int | str | None


@dataclass(frozen=True)
class Check:
    """One question that was asked of a candidate.

    Attributes:
        reason: One line for people.
        figures: What was measured, by name; shares are parts of 1.
    """

    name: str
    verdict: Verdict
    reason: str
    figures: Mapping[str, Figure] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        """The form for evidence; what is not finite becomes null."""
        figures = {name: _short(value) for name, value in self.figures.items()}
        return {"name": self.name, "verdict": self.verdict, "reason": self.reason, "figures": figures}


@dataclass(frozen=True)
class LiveFigures:
    """What one version did with live requests since some moment.

    Attributes:
        requests: Requests that reached it, answered or not.
        server_errors: Those that it answered with a 5xx, or not at all.
        refused: Those that it answered with a 4xx.
        scores: Of the newest different rows, as a rehearsal reports them: P(positive class), a value, or the place of the predicted class.
        p99_ms: 99th percentile of the time that it took; None if it was not measured.
        p99_low_ms: The lower end of its confidence interval; None if it was not measured.
        timed: Requests whose time is known; None if it is all of them.
        p50_ms: Median of the time that it took; None if it was not measured.
        rows: Rows with a score, one that was asked about again counted again; None if it is as many as there are scores.
    """

    requests: int
    server_errors: int
    refused: int
    scores: Sequence[float]
    p99_ms: float | None
    p99_low_ms: float | None = None
    timed: int | None = None
    p50_ms: float | None = None
    rows: int | None = None

    @classmethod
    def none(cls) -> "LiveFigures":
        """Figures of a version that had no requests."""
        return cls(0, 0, 0, (), None, None)


def _short(value: Figure) -> Figure:
    if isinstance(value, float):
        return float(f"{value:.6g}") if math.isfinite(value) else None
    return value
