"""What the gates said about a challenger, kept beside its bundle."""

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from windvane.compare_models import finite_or_none
from windvane.shared_folder import BundleRoot
from windvane.store_files import Place, write_bytes


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
class Measured:
    """A metric of both models on the same holdout rows; None where it is not defined, or where nothing served."""

    name: str
    challenger: float | None
    champion: float | None


@dataclass(frozen=True)
class Slice:
    """The gate's metric of both models on the rows that share a value of a column.

    Attributes:
        value: As text, cut off where it is long.
        champion: None when nothing served.
        passed: Whether the challenger does not surely lose more than is allowed.
    """

    column: str
    value: str
    rows: int
    challenger: float
    champion: float | None
    passed: bool

    @property
    def loss(self) -> float:
        """How much worse the challenger is; minus infinity when nothing served."""
        return -math.inf if self.champion is None else self.champion - self.challenger


@dataclass(frozen=True)
class Disparity:
    """How differently both models treat the groups of a sensitive column; None where that is not defined."""

    column: str
    measure: str
    challenger: float | None
    champion: float | None
    at_most: float


@dataclass(frozen=True)
class Verdict:
    """All gates of one challenger.

    Attributes:
        passed: Whether it may be deployed: there is at least one gate, and all passed.
        challenger: Digest of its bundle.
        champion: Digest of the bundle that served; None when none did.
        metric: The gates' scikit-learn scorer.
        rows: Labelled holdout rows.
        measured: The metrics of both models.
        slices: Those with the largest loss first, a bounded number.
        disparities: One per sensitive column.
        latency: `challenger_ms` and `champion_ms`: the median time to predict one row, measured side by side; empty when not measured.
    """

    passed: bool
    gates: tuple[Gate, ...]
    challenger: str
    champion: str | None
    metric: str
    rows: int
    measured: tuple[Measured, ...] = ()
    slices: tuple[Slice, ...] = ()
    disparities: tuple[Disparity, ...] = ()
    latency: Mapping[str, float | None] = field(default_factory=dict, hash=False)

    def as_json(self) -> dict[str, Any]:
        """The form for XCom and files."""
        return {
            "passed": self.passed,
            "challenger": self.challenger,
            "champion": self.champion,
            "metric": self.metric,
            "rows": self.rows,
            "gates": [gate.as_json() for gate in self.gates],
            **{name: [asdict(part) for part in getattr(self, name)] for name in _PARTS},
            "latency": dict(self.latency),
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> "Verdict":
        """Read what `as_json` wrote, also before it told of slices, groups and latency."""
        parts = {name: tuple(kind(**part) for part in value.get(name, ())) for name, kind in _PARTS.items()}
        return cls(**{**value, **parts, "gates": tuple(Gate(**gate) for gate in value["gates"])})

    def table(self) -> str:
        """A table for the task's log."""
        rows = [("gate", "result", "value", "threshold", "reason")]
        rows += [(g.name, "passed" if g.passed else "FAILED", _number(g.value), _number(g.threshold), g.reason) for g in self.gates]
        widths = [max(len(row[i]) for row in rows) for i in range(4)]
        lines = ["  ".join([*(cell.ljust(width) for cell, width in zip(row[:4], widths, strict=True)), row[4]]) for row in rows]
        lines.insert(1, "-" * max(map(len, lines)))
        return "\n".join([*lines, f"verdict: {'passed' if self.passed else 'not passed'}"])


_PARTS: dict[str, type[Measured] | type[Slice] | type[Disparity]] = {"measured": Measured, "slices": Slice, "disparities": Disparity}


def verdict_path(bundles: BundleRoot, digest: str) -> Place:
    """Where the verdict of a bundle is kept."""
    return bundles / "verdicts" / f"{digest}.json"


def store_verdict(bundles: BundleRoot, verdict: Verdict) -> Place:
    """Keep the verdict beside the bundle and return where it is.

    Raises:
        StorageError: If the disk is full or not writable.
    """
    path = verdict_path(bundles, verdict.challenger)
    write_bytes(path, json.dumps(verdict.as_json(), indent=2, allow_nan=False).encode())
    return path


def load_verdict(bundles: BundleRoot, digest: str) -> Verdict | None:
    """The stored verdict of a bundle, or None."""
    path = verdict_path(bundles, digest)
    return Verdict.from_json(json.loads(path.read_text())) if path.is_file() else None


def _number(value: float | None) -> str:
    return "-" if finite_or_none(value) is None else f"{value:.4f}"
