"""Tells whether the rows of a window are broken rather than merely different: such rows are mended, not learned.

Drift measures are blind here: a lost column gives no drift and infinite values give a distance of 0. A share counts as
jumped only when it changed by more than an allowance plus four standard errors, so that small windows do not cry wolf.
"""

import contextlib
import json
import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pandas as pd

from windvane.detect_drift import neutralise
from windvane.errors import DataError
from windvane.signature import Column, conform

_CHANCE = 1e-6
_STANDARD_ERRORS = 4.0
_NULL_JUMP = 0.05
_SENTINEL_JUMP = 0.05
_SENTINEL_IN_RANGE_JUMP = 0.2
_NEW_CATEGORIES = 0.25
_LABEL_COLLAPSE = 0.1
_MAX_CATEGORIES = 1_000
_SENTINELS = frozenset({-1.0, 0.0, 99.0, -99.0, 999.0, -999.0, 9999.0, -9999.0, 99999.0, -99999.0, 1e9, -1e9})
_EMPTY_TEXTS = frozenset({"", "-", "?", "na", "n/a", "nan", "none", "null", "unknown", "undefined"})


def check_inputs(
    frame: pd.DataFrame, reference: pd.DataFrame | None, *, required: Sequence[str] = (), where: str = "", skip: Sequence[str] = ()
) -> tuple[str, ...]:
    """List what is wrong with the inputs of a window.

    Args:
        frame: The rows of the window.
        reference: The same columns as they were in training; None when nothing serves yet.
        required: Columns that must be there, besides those of the reference.
        where: Put before each problem: which rows these are.
        skip: Columns not to check, such as the row's own time, which always moves on.

    Returns:
        One line per problem: the column, what was seen, what was expected; no values of any row.
    """
    if frame.empty:
        return ()
    columns = dict.fromkeys([*required, *(map(str, reference.columns) if reference is not None else ())])
    problems = []
    for column in columns:
        if column in skip:
            continue
        then = reference[column] if reference is not None and column in reference.columns and len(reference) else None
        if column not in frame.columns:
            problems.append(f"{where}column {neutralise(column)} is lost; the model needs it")
            continue
        problems += [f"{where}column {neutralise(column)} {problem}" for problem in _check_column(frame[column], then)]
    return tuple(problems)


def check_labels(labels: "pd.Series[Any]", earlier: "pd.Series[Any]", *, classifier: bool, min_rows: int = 50) -> tuple[str, ...]:
    """List what is wrong with the outcomes of a window: a class that all but vanished, a constant value.

    Args:
        labels: Outcomes of the window; nulls are not yet known and not judged.
        earlier: Outcomes that the model was trained on; empty when not known.
        classifier: Whether the outcomes are classes.
        min_rows: Fewer known outcomes than this are not judged.
    """
    now, then = labels.dropna(), earlier.dropna()
    if len(now) < min_rows:
        return ()
    if not classifier:
        numbers = _as_numbers(now)
        return ("the label is the same in every row",) if numbers.nunique() == 1 and (then.empty or then.nunique() > 1) else ()
    if then.empty:
        return ("the label has a single class",) if now.nunique() == 1 else ()
    shares, problems = now.value_counts(normalize=True), []
    for label, share in then.value_counts(normalize=True).items():
        seen = float(shares.get(label, 0.0))
        if seen <= _LABEL_COLLAPSE * share and _luck(seen, float(share), len(now)) < _CHANCE:
            problems.append(f"class {neutralise(label)} of the label fell from {share:.1%} to {seen:.2%} of the outcomes")
    return tuple(problems)


def parse_served_inputs(features: "pd.Series[Any]", *, max_rows: int, seed: int) -> pd.DataFrame:
    """Turn logged inputs (one JSON object per row) into columns; at most `max_rows`, drawn with `seed`."""
    drawn = features.dropna()
    drawn = drawn.sample(max_rows, random_state=seed) if len(drawn) > max_rows else drawn
    return pd.DataFrame.from_records([json.loads(text) for text in drawn])


def conform_each(frame: pd.DataFrame, columns: Sequence[Column]) -> pd.DataFrame:
    """Bring columns into the types in which the reference holds them; one that is missing or does not fit stays as it is."""
    made = frame.copy(deep=False)
    for column in columns:
        if column.name in frame.columns:
            # what does not fit is what the checks are there to name
            with contextlib.suppress(DataError):
                made[column.name] = conform(frame[[column.name]], [column])[column.name]
    return made


def _check_column(now: "pd.Series[Any]", then: "pd.Series[Any] | None") -> Iterator[str]:
    numeric = _is_number(now)
    if then is not None and then.notna().any() and now.notna().any() and _is_number(then) != numeric:
        yield f"is {'a number' if numeric else 'no number any more'}, but was {'a number' if _is_number(then) else 'none'} in training"
        return
    if now.isna().all():
        before = 0.0 if then is None else float(then.isna().mean())
        if before == 0.0 or before ** len(now) < _CHANCE:
            yield f"has no value in any of {len(now)} rows" + (f", {before:.1%} were missing in training" if then is not None else "")
        return
    if numeric and (infinite := int(np.isinf(_as_numbers(now)).sum())):
        yield f"has {infinite} infinite values in {len(now)} rows"
    if then is None or then.notna().sum() == 0:
        return
    missing, before = float(now.isna().mean()), float(then.isna().mean())
    if missing - before > _NULL_JUMP + _noise(before, len(now), len(then)):
        yield f"is missing in {missing:.1%} of {len(now)} rows, {before:.1%} in training"
    yield from _check_values(now.dropna(), then.dropna(), numeric=numeric)


def _check_values(now: "pd.Series[Any]", then: "pd.Series[Any]", *, numeric: bool) -> Iterator[str]:
    if numeric:
        now, then = _as_numbers(now), _as_numbers(then)
    elif not _is_time(now):
        now, then = now.astype(str), then.astype(str)
    seen, known = now.value_counts(normalize=True), then.value_counts(normalize=True)
    if len(seen) == 1 and len(known) > 1:
        before = float(known.get(seen.index[0], 0.0))
        if len(now) * math.log(max(before, 1.0 / (len(then) + 1))) < math.log(_CHANCE):
            yield f"has the same value in all {len(now)} rows; it had {len(known)} in training"
            return
    if _is_time(now):
        return
    jumped = _sentinel_jump(seen, known, then if numeric else None, sizes=(len(now), len(then)))
    if jumped:
        yield jumped
    elif not numeric and len(known) <= min(_MAX_CATEGORIES, len(then) // 2):
        new = float(seen[~seen.index.isin(known.index)].sum())
        if new > _NEW_CATEGORIES + _noise(0.0, len(now), len(then)):
            yield f"has categories that training never saw in {new:.1%} of {len(now)} rows"


def _sentinel_jump(
    seen: "pd.Series[float]", known: "pd.Series[float]", numbers: "pd.Series[float] | None", *, sizes: tuple[int, int]
) -> str | None:
    """Whether one value took the place of many: a placeholder for what is not known."""
    low, high = (float(numbers.min()), float(numbers.max())) if numbers is not None else (0.0, 0.0)
    for value, share in seen.head(10).items():
        before = float(known.get(value, 0.0))
        if numbers is None:
            suspicious, allowed = str(value).strip().lower() in _EMPTY_TEXTS, _SENTINEL_JUMP
        else:
            number = float(str(value))
            outside = not low <= number <= high
            suspicious, allowed = outside or number in _SENTINELS, _SENTINEL_JUMP if outside else _SENTINEL_IN_RANGE_JUMP
        if suspicious and math.isfinite(share) and share - before > allowed + _noise(before, *sizes):
            kind = "an empty text or a placeholder" if numbers is None else "one placeholder-like number"
            return f"holds {kind} in {share:.1%} of {sizes[0]} rows, {before:.1%} in training"
    return None


def _noise(share: float, rows: int, reference_rows: int) -> float:
    """Four standard errors of the difference of two shares, with the share kept off 0 and 1 (Agresti and Caffo, 2000)."""
    p = min(max(share, 1.0 / (rows + 2)), 1.0 - 1.0 / (rows + 2))
    return _STANDARD_ERRORS * math.sqrt(p * (1.0 - p) * (1.0 / max(rows, 1) + 1.0 / max(reference_rows, 1)))


def _luck(seen: float, share: float, rows: int) -> float:
    """Bound on the chance to see a share this far below the true one (Chernoff, 1952)."""
    if share >= 1.0:
        return 0.0
    divergence = (seen * math.log(seen / share) if seen else 0.0) + (1.0 - seen) * math.log((1.0 - seen) / (1.0 - share))
    return math.exp(-rows * divergence)


def _is_number(values: "pd.Series[Any]") -> bool:
    return bool(pd.api.types.is_numeric_dtype(values.dtype)) and not pd.api.types.is_bool_dtype(values.dtype)


def _is_time(values: "pd.Series[Any]") -> bool:
    return bool(pd.api.types.is_datetime64_any_dtype(values.dtype))


def _as_numbers(values: "pd.Series[Any]") -> "pd.Series[float]":
    numbers: pd.Series[float] = pd.to_numeric(values, errors="coerce").astype("float64")
    return numbers
