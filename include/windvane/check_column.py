"""Finds what is broken in one column, as opposed to merely different: such values are mended, not learned.

Drift measures are blind here: a lost column gives no drift and infinite values give a distance of 0. And drift alone breaks no rule
here: a value counts as a placeholder, and a share as jumped, only where no shift of a distribution would bring it about. What the
reference did by itself is no problem either: rows of a kind that come together, values that come anew with time.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from windvane.known_column import MAX_CATEGORIES, Kind, Known, as_numbers, coded, kind_of, natural_share, noise

CHANCE = 1e-6
_MOST_ROWS = 200_000
_NULLS_JUMP, _FIRST_NULLS_JUMP = 0.1, 0.05
_FAR_CODE_JUMP, _CODE_JUMP, _NEAR_CODE_JUMP, _STUCK_JUMP, _GROUP_JUMP = 0.02, 0.05, 0.15, 0.12, 0.25
_COMMON, _MOSTLY = 0.1, 0.8
_SAME_REST, _FEWEST_OTHERS = 0.2, 30
_SKEWED = 0.25
_OUTSIDE_JUMP, _MUCH_OUTSIDE_JUMP, _SHRUNK_JUMP = 0.03, 0.16, 0.15
_NEW_CATEGORIES_JUMP = 0.15
_CODES = frozenset({-1.0, 0.0} | {sign * code for sign in (-1.0, 1.0) for code in (99, 200, 999, 8888, 9999, 99_999, 999_999, 1e9)})
_EMPTY_TEXTS = frozenset(
    {"", "-", "--", "?", "n/a", "na", "nan", "nat", "nil", "none", "null", "<na>", "#n/a", "missing", "unknown", "undefined"}
    | {"-1", "-99", "-200", "-999", "-9999", "999", "9999", "99999"}
)


@dataclass(frozen=True)
class Problem:
    """Something that is broken in the data of a window.

    Attributes:
        check: Name of the rule: lost, type, nulls, empty, infinite, constant, sentinel, range, categories, repeated, vanished, stuck.
        column: The column, inert; None where it is about whole rows or the label.
        rows: Number of rows concerned.
        text: One sentence for people: what was seen and what training had; no text of any row.
    """

    check: str
    column: str | None
    rows: int
    text: str

    def __str__(self) -> str:
        return self.text


@dataclass(frozen=True)
class Finding:
    """A problem of a column that is not named yet; `text` goes on after the column's name.

    Attributes:
        about: What it is about besides the column: the same trouble has the same.
    """

    check: str
    rows: int
    text: str
    about: str = ""


def check_column(now: "pd.Series[Any]", then: "pd.Series[Any] | None", *, stands_for: int | None = None) -> Iterator[Finding]:
    """Yield what is broken in a column.

    Args:
        now: The values of the window.
        then: The values as they were in training, in time order; None when not known.
        stands_for: Number of rows that `then` is an even sample of; None when not known.
    """
    kind, n = kind_of(now), len(now)
    before = None if then is None else kind_of(then)
    missing = now.isna().to_numpy()
    if before is not None and not missing.all() and _differ(kind, before):
        yield _type_change(now, kind, before)
        return
    known = None
    if then is not None and before is not None:
        known = Known.of(then, "number" if kind == "number" and not missing.all() else before, stands_for)
    if missing.all():
        usual = known.null_share if known else 0.0
        if known is None or n * math.log(max(usual, 1.0 / (known.rows + 2))) < math.log(CHANCE):
            text = f"has no value in any of {n} rows" + (f", {usual:.1%} were missing in training" if known else "")
            yield Finding("empty", n, text)
        return
    if kind == "number":
        numbers = as_numbers(now)
        infinite = np.isinf(numbers)
        if count := int(infinite.sum()):
            yield Finding("infinite", count, f"has {count} infinite values in {n} rows")
        now = pd.Series(numbers[~infinite & ~missing])
    else:
        now = now[~missing]
    if known is None or known.is_empty:
        return
    share = float(missing.mean())
    allowed = _NULLS_JUMP if known.null_share else _FIRST_NULLS_JUMP
    if share - known.null_share > allowed + noise(known.null_share, n, known.rows):
        usual = natural_share(known.codes < 0, known.stretch(n))
        if share > usual + allowed + noise(known.null_share, n, known.rows):
            text = f"is missing in {share:.1%} of {n} rows, {known.null_share:.1%} in training"
            yield Finding("nulls", int(missing.sum()), text)
    if len(now):
        yield from _check_values(now, known)


def _differ(kind: Kind, before: Kind) -> bool:
    return kind != before and {kind, before} != {"number", "truth"}


def _type_change(now: "pd.Series[Any]", kind: Kind, before: Kind) -> Finding:
    words = {"number": "a number", "truth": "true or false", "time": "a time", "text": "a text"}
    wrong = int((now.notna().to_numpy() & np.isnan(as_numbers(now))).sum()) if before == "number" and kind == "text" else len(now)
    if before == "number":
        return Finding("type", wrong, f"is no number any more, but was one in training: {wrong} of {len(now)} rows hold {words[kind]}")
    return Finding("type", wrong, f"is {words[kind]}, but was {words[before]} in training")


def _check_values(now: "pd.Series[Any]", known: Known) -> Iterator[Finding]:
    n = len(now)
    # what changes from one stretch of time to the next takes one new value after the other: that is drift, no fault
    if known.is_slow(n):
        return
    codes, values = coded(now.iloc[:: -(-n // _MOST_ROWS)], known.kind)
    seen = np.bincount(codes[codes >= 0], minlength=len(values)) / max(len(codes), 1)
    if len(values) == 1 and len(known.values) > 1:
        usual = known.share_of(values[0])
        is_luck = n * math.log(max(usual, 1.0 / (known.rows + 2))) >= math.log(CHANCE)
        # what was mostly so can be wholly so by a shift; the drift measures tell of it
        if usual < _MOSTLY and not is_luck and known.natural(values[0], n) < 1.0:
            yield Finding("constant", n, f"has the same value in all {n} rows; it had {len(known.values)} in training")
            return
    if known.kind == "number":
        yield from _check_numbers(values, seen, n, known)
    elif known.kind in ("text", "truth"):
        yield from _check_texts(values, seen, n, known)


def _check_numbers(values: np.ndarray, seen: np.ndarray, n: int, known: Known) -> Iterator[Finding]:
    low, high = float(known.sorted[0]), float(known.sorted[-1])
    width = high - low
    found = [value for value in _frequent(values, seen) if _is_placeholder(value, values, seen, n, known)]
    for value in found[:3]:
        share = float(seen[values == value][0])
        text = f"holds the number {value:g} in {share:.1%} of {n} rows, {known.share_of(value):.1%} in training"
        yield Finding("sentinel", round(share * n), text, f"{value:g}")
    if found or not width:
        return
    limit = (10.0 if known.wanders else 1.0) * width
    is_beyond = (values < low - limit) | (values > high + limit)
    beyond, luck = float(seen[is_beyond].sum()), noise(0.0, n, known.rows)
    # a skewed column that shifts has some rows there too, but then the others moved as well
    is_skewed = low >= 0.0 and float(np.median(known.sorted)) - low < _SKEWED * width
    few = beyond > _OUTSIDE_JUMP + luck and (not is_skewed or _is_rest_same(is_beyond, values, seen, n, known))
    if few or beyond > _MUCH_OUTSIDE_JUMP + luck:
        text = f"is far outside the range of training in {beyond:.1%} of {n} rows: another unit?"
        yield Finding("range", round(beyond * n), text)
    elif low > 0.0 and not known.wanders:
        shrunk = float(seen[(values > 0.0) & (values < low / 10)].sum())
        if shrunk > _SHRUNK_JUMP + luck:
            text = f"is less than a tenth of the least value of training in {shrunk:.1%} of {n} rows: another unit?"
            yield Finding("range", round(shrunk * n), text)


def _frequent(values: np.ndarray, seen: np.ndarray) -> list[float]:
    most = np.argsort(-seen, kind="stable")[:10]
    return [float(values[at]) for at in most if seen[at] > _FAR_CODE_JUMP]


def _is_placeholder(value: float, values: np.ndarray, seen: np.ndarray, n: int, known: Known) -> bool:
    """Whether one number took the place of many: a code for what is not known, or a sensor that is stuck."""
    low, high = float(known.sorted[0]), float(known.sorted[-1])
    width, is_code = high - low, value in _CODES
    share, usual = float(seen[values == value][0]), known.share_of(value)
    if low <= value <= high:
        # zeros and bounds that were common can become more so: a bound collects what moves towards it
        at_bound = value in (low, high)
        if (usual >= _COMMON and (at_bound or not value)) or (not known.is_continuous and len(known.values) < 5):
            return False
        allowed = _STUCK_JUMP if usual < _COMMON and (known.is_continuous or is_code) else _GROUP_JUMP
        alone = not known.is_continuous or at_bound
        if at_bound and (1.0 - share) * n < _FEWEST_OTHERS:
            return False
    else:
        beyond = float(seen[values < low].sum() if value < low else seen[values > high].sum())
        distance = low - value if value < low else value - high
        never_negative = value < 0.0 <= low
        # a distribution that moves out of its range has many values there
        if share < 0.4 * beyond or (not width and (not is_code or abs(value) <= 1.0)) or (known.wanders and distance < 3 * width):
            return False
        if distance >= 3 * width > 0.0:
            allowed, alone = _FAR_CODE_JUMP, False
        elif distance >= width or is_code or never_negative:
            allowed, alone = _CODE_JUMP, False
        else:
            allowed, alone = _NEAR_CODE_JUMP, True
    if share <= usual + allowed + noise(usual, n, known.rows):
        return False
    if share <= known.natural(value, n) + allowed + noise(usual, n, known.rows):
        return False
    return not alone or _is_rest_same(values == value, values, seen, n, known)


def _is_rest_same(replaced: np.ndarray, values: np.ndarray, seen: np.ndarray, n: int, known: Known) -> bool:
    """Whether the rows without some values are distributed as they were: then those took the place of others, and nothing else moved.

    The distance is the total variation over tenths of the reference.
    """
    rest = ~replaced
    share = float(seen[rest].sum())
    then = known.sorted[~np.isin(known.sorted, values[replaced])] if replaced.sum() == 1 else known.sorted
    if share * n < _FEWEST_OTHERS or len(then) < _FEWEST_OTHERS:
        return True
    edges = np.unique(np.quantile(then, np.linspace(0.1, 0.9, 9)))
    ours = np.bincount(np.searchsorted(edges, values[rest]), weights=seen[rest], minlength=len(edges) + 1) / share
    theirs = np.bincount(np.searchsorted(edges, then), minlength=len(edges) + 1) / len(then)
    return 0.5 * float(np.abs(ours - theirs).sum()) < _SAME_REST + math.sqrt(len(edges) / (share * n)) / 2


def _check_texts(values: np.ndarray, seen: np.ndarray, n: int, known: Known) -> Iterator[Finding]:
    for at in np.argsort(-seen, kind="stable")[:10]:
        share, usual = float(seen[at]), known.share_of(values[at])
        allowed = _CODE_JUMP + noise(usual, n, known.rows)
        is_empty = str(values[at]).strip().lower() in _EMPTY_TEXTS
        if is_empty and share > usual + allowed and share > known.natural(values[at], n) + allowed:
            text = f"holds an empty text or a placeholder in {share:.1%} of {n} rows, {usual:.1%} in training"
            yield Finding("sentinel", round(share * n), text)
            return
    if len(known.values) > min(MAX_CATEGORIES, known.rows // 2):
        return
    new = float(seen[~np.isin(values.astype(str), known.values.astype(str))].sum())
    allowed = _NEW_CATEGORIES_JUMP + noise(0.0, n, known.rows)
    if new > allowed and new > known.novelty(n) + allowed:
        yield Finding("categories", round(new * n), f"has categories that training never saw in {new:.1%} of {n} rows")
