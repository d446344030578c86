"""Compares the inputs of a window with the reference of the bundle that serves, and draws Evidently's report of it.

Evidently writes category values and column names into its HTML as they come. So it never sees them as they come: it gets
a bounded, seeded sample whose texts are neutralised and whose rare categories are pooled.
"""

import json
import logging
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
import pandas as pd

from windvane.store_files import write_bytes

log = logging.getLogger(__name__)

MAX_ROWS = 5_000
_MAX_CATEGORIES = 40
_MAX_TEXT = 60
# Distances with a fixed threshold: unlike p-values they do not grow with the number of rows
_METHODS = {"number": ("wasserstein", 0.1), "category": ("jensenshannon", 0.1)}
_PLAIN_SIGNS = frozenset(" _-.,:+/()%#@=")
_POLICY = (
    "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; script-src 'unsafe-inline' 'unsafe-eval'; "
    "style-src 'unsafe-inline'; img-src data: blob:; font-src data:\">"
)

Kind = Literal["number", "category"]


@dataclass(frozen=True)
class ColumnDrift:
    """How far one column is from its reference.

    Attributes:
        column: Name of the column, neutralised.
        method: Name of the distance.
        score: The distance; 0 is equal.
        threshold: Where drift begins.
        drifted: Whether the distance reaches the threshold.
    """

    column: str
    method: str
    score: float
    threshold: float
    drifted: bool


@dataclass(frozen=True)
class Drift:
    """The drift of a window.

    Attributes:
        columns: The columns that were compared.
        lost: Columns of the reference that the window has not, or has without a usable value: always drift.
        skipped: Columns that say nothing about drift, with the reason.
        html: Evidently's report; None when there was nothing to compare.
        json: The same as numbers.
    """

    columns: tuple[ColumnDrift, ...] = ()
    lost: tuple[str, ...] = ()
    skipped: tuple[str, ...] = ()
    html: Path | None = None
    json: Path | None = None

    @property
    def compared(self) -> int:
        """The number of columns that could drift."""
        return len(self.columns) + len(self.lost)

    @property
    def drifted(self) -> tuple[str, ...]:
        """The names of the drifted columns, the worst first."""
        worst = sorted((c for c in self.columns if c.drifted), key=lambda c: -c.score / c.threshold)
        return (*self.lost, *(c.column for c in worst))


def detect_drift(current: pd.DataFrame, reference: pd.DataFrame, *, directory: Path, seed: int, max_rows: int = MAX_ROWS) -> Drift:
    """Compare the columns of the reference with those of the window and store the report as `drift.html` and `drift.json`.

    Args:
        current: Inputs of the window.
        reference: The same columns as they were in training; columns that only `current` has are not compared.
        directory: Where the two files go; they are replaced as a whole.
        seed: Seed of the samples.
        max_rows: Largest number of rows of either side that are compared.

    Raises:
        StorageError: If the report cannot be written.
    """
    started = time.perf_counter()
    if current.empty or reference.empty:
        return Drift(skipped=("the window has no rows" if current.empty else "the bundle's reference has no rows",))
    now, then = _sample(current, max_rows=max_rows, seed=seed), _sample(reference, max_rows=max_rows, seed=seed)
    kinds: dict[str, Kind] = {}
    lost, skipped = [], []
    for column in map(str, reference.columns):
        kind = _kind_of(then[column])
        if kind is None:
            skipped.append(f"{neutralise(column)}: a time, or without a usable value in the reference")
        elif column not in now.columns or not _usable(now[column], kind).any():
            lost.append(neutralise(column))
        elif kind == "category" and then[column].nunique() > max(_MAX_CATEGORIES, len(then) // 2):
            skipped.append(f"{neutralise(column)}: almost every row has its own value")
        else:
            kinds[column] = kind
    if not kinds:
        return Drift(lost=tuple(lost), skipped=tuple(skipped))

    inert = _unique_names(kinds)
    pairs = {inert[c]: _prepare(then[c], now[c], kind) for c, kind in kinds.items()}
    html, measured = _run_evidently(
        pd.DataFrame({c: p[1] for c, p in pairs.items()}),
        pd.DataFrame({c: p[0] for c, p in pairs.items()}),
        kinds={inert[c]: k for c, k in kinds.items()},
    )
    columns = tuple(
        ColumnDrift(inert[c], _METHODS[kind][0], score := measured[inert[c]], _METHODS[kind][1], not score < _METHODS[kind][1])
        for c, kind in kinds.items()
    )
    numbers = {
        "rows": len(now),
        "reference_rows": len(then),
        "columns": [vars(c) | {"score": c.score if np.isfinite(c.score) else None} for c in columns],
        "lost": lost,
        "skipped": skipped,
    }
    drift = Drift(columns, tuple(lost), tuple(skipped), directory / "drift.html", directory / "drift.json")
    write_bytes(directory / "drift.html", html.replace("<head>", f"<head>{_POLICY}", 1).encode("utf-8", errors="replace"))
    write_bytes(directory / "drift.json", json.dumps(numbers, indent=1).encode())
    seconds = time.perf_counter() - started
    log.info("drift: %d of %d columns, %d against %d rows, %.1f s", len(drift.drifted), drift.compared, len(now), len(then), seconds)
    return drift


def neutralise(text: object, *, limit: int = _MAX_TEXT) -> str:
    """Make a text inert in HTML, scripts, Markdown and logs: only letters, digits and a few signs stay, the rest becomes `·`."""
    inert = "".join(c if c.isalnum() or c in _PLAIN_SIGNS else "·" for c in str(text)[: limit + 1])
    return inert if len(inert) <= limit else inert[: limit - 1] + "…"


def _sample(frame: pd.DataFrame, *, max_rows: int, seed: int) -> pd.DataFrame:
    return frame if len(frame) <= max_rows else frame.sample(max_rows, random_state=seed)


def _kind_of(values: "pd.Series[Any]") -> Kind | None:
    if isinstance(values.dtype, pd.DatetimeTZDtype) or pd.api.types.is_datetime64_any_dtype(values.dtype):
        return None
    kind: Kind = "number" if pd.api.types.is_numeric_dtype(values.dtype) and not pd.api.types.is_bool_dtype(values.dtype) else "category"
    return kind if _usable(values, kind).any() else None


def _usable(values: "pd.Series[Any]", kind: Kind) -> "pd.Series[bool]":
    """The values that count; infinite ones do not: they make every distance 0 or undefined."""
    return cast("pd.Series[bool]", np.isfinite(_numbers(values)) if kind == "number" else values.notna())


def _numbers(values: "pd.Series[Any]") -> "pd.Series[float]":
    return pd.to_numeric(values, errors="coerce").astype("float64")


def _prepare(then: "pd.Series[Any]", now: "pd.Series[Any]", kind: Kind) -> tuple["pd.Series[Any]", "pd.Series[Any]"]:
    """Both sides of a column as Evidently may see them, without missing values, rows renumbered."""
    sides = [side[_usable(side, kind)].reset_index(drop=True) for side in (then, now)]
    if kind == "number":
        return _numbers(sides[0]), _numbers(sides[1])
    shares = pd.concat([side.astype(str).value_counts(normalize=True) for side in sides], axis=1).max(axis=1)
    names = _unique_names(list(shares.sort_values(ascending=False, kind="stable").index[:_MAX_CATEGORIES]))
    pooled = [side.astype(str).map(names).fillna("(other)").astype(object) for side in sides]
    return pooled[0], pooled[1]


def _unique_names(texts: Mapping[str, Any] | list[str]) -> dict[str, str]:
    """Inert names that differ where the texts differ."""
    names: dict[str, str] = {}
    for text in texts:
        name, number = neutralise(text), 1
        while name in names.values() or name == "(other)":
            number += 1
            name = f"{neutralise(text)} ({number})"
        names[text] = name
    return names


def _run_evidently(current: pd.DataFrame, reference: pd.DataFrame, *, kinds: Mapping[str, Kind]) -> tuple[str, dict[str, float]]:
    os.environ.setdefault("DO_NOT_TRACK", "1")
    import warnings

    with warnings.catch_warnings():
        # what it imports in turn is deprecated here and there: nothing that its caller can mend
        warnings.simplefilter("ignore")
        from evidently import DataDefinition, Dataset, Report
        from evidently.presets import DataDriftPreset
    definition = DataDefinition(
        numerical_columns=[c for c, kind in kinds.items() if kind == "number"],
        categorical_columns=[c for c, kind in kinds.items() if kind == "category"],
    )
    preset = DataDriftPreset(
        num_method=_METHODS["number"][0],
        num_threshold=_METHODS["number"][1],
        cat_method=_METHODS["category"][0],
        cat_threshold=_METHODS["category"][1],
    )
    with warnings.catch_warnings():
        # divisions by an empty or constant side: the result is read as drift below, not as a warning
        warnings.simplefilter("ignore")
        snapshot = Report([preset]).run(
            Dataset.from_pandas(current, data_definition=definition), Dataset.from_pandas(reference, data_definition=definition)
        )
        html = snapshot.get_html_str(as_iframe=False)
        metrics = snapshot.dict()["metrics"]
    scores = {m["config"]["column"]: float(m["value"]) for m in metrics if "column" in m["config"]}
    return html, {column: scores.get(column, float("nan")) for column in kinds}
