"""What the gates said about a challenger, kept beside its bundle."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from windvane.bundle import write_atomically
from windvane.compare_models import finite_or_none


@dataclass(frozen=True)
class Gate:
    """One question that was asked of a challenger.

    Attributes:
        reason: A sentence with the numbers.
        value: What was measured; None where nothing could be.
        threshold: What it was measured against.
    """

    name: str
    passed: bool
    reason: str
    value: float | None = None
    threshold: float | None = None

    def as_json(self) -> dict[str, Any]:
        """The form for XCom and files; what is not finite becomes null."""
        return {
            "name": self.name,
            "passed": self.passed,
            "reason": self.reason,
            "value": finite_or_none(self.value),
            "threshold": finite_or_none(self.threshold),
        }


@dataclass(frozen=True)
class Verdict:
    """All gates of one challenger.

    Attributes:
        passed: Whether it may be deployed: there is at least one gate, and all passed.
        challenger: Digest of its bundle.
        champion: Digest of the bundle that served; None when none did.
        metric: The gates' scikit-learn scorer.
        rows: Labelled holdout rows.
    """

    passed: bool
    gates: tuple[Gate, ...]
    challenger: str
    champion: str | None
    metric: str
    rows: int

    def as_json(self) -> dict[str, Any]:
        """The form for XCom and files."""
        return {
            "passed": self.passed,
            "challenger": self.challenger,
            "champion": self.champion,
            "metric": self.metric,
            "rows": self.rows,
            "gates": [gate.as_json() for gate in self.gates],
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> "Verdict":
        """Read what `as_json` wrote."""
        return cls(**{**value, "gates": tuple(Gate(**gate) for gate in value["gates"])})

    def table(self) -> str:
        """A table for the task's log."""
        rows = [("gate", "result", "value", "threshold", "reason")]
        rows += [(g.name, "passed" if g.passed else "FAILED", _number(g.value), _number(g.threshold), g.reason) for g in self.gates]
        widths = [max(len(row[i]) for row in rows) for i in range(4)]
        lines = ["  ".join([*(cell.ljust(width) for cell, width in zip(row[:4], widths, strict=True)), row[4]]) for row in rows]
        lines.insert(1, "-" * max(map(len, lines)))
        return "\n".join([*lines, f"verdict: {'passed' if self.passed else 'not passed'}"])


def verdict_path(bundles: Path, digest: str) -> Path:
    """Where the verdict of a bundle is."""
    return bundles / "verdicts" / f"{digest}.json"


def store_verdict(bundles: Path, verdict: Verdict) -> Path:
    """Keep the verdict beside the bundle and return its path.

    Raises:
        StorageError: If the disk is full or not writable.
    """
    path = verdict_path(bundles, verdict.challenger)
    write_atomically(path, json.dumps(verdict.as_json(), indent=2, allow_nan=False).encode())
    return path


def load_verdict(bundles: Path, digest: str) -> Verdict | None:
    """The stored verdict of a bundle, or None."""
    path = verdict_path(bundles, digest)
    return Verdict.from_json(json.loads(path.read_text())) if path.is_file() else None


def _number(value: float | None) -> str:
    return "-" if finite_or_none(value) is None else f"{value:.4f}"
