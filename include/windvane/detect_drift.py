"""Tells whether the rows of a window differ from a reference by more than windows without drift do.

How much undrifted windows differ is learned from the reference itself: runs of its consecutive rows are drawn instead of
single rows (the block bootstrap: Kuensch, Annals of Statistics 1989; with random multipliers: Buecher and Kojadinovic,
Bernoulli 2016), so that rows that are alike because they follow each other, and swings from day to day, count as usual. The
reference's own sampling error is drawn too. All distances of all columns share one budget: the threshold is taken from the
greatest of the standardised distances (Westfall and Young, Resampling-Based Multiple Testing, 1993), not from p-values, which
shrink with the number of rows.
"""

import logging
import math
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pandas as pd

from windvane.profile_rows import MAX_ENCODED_ROWS, ColumnProfile, Counted, Kind, Profile, count_rows

log = logging.getLogger(__name__)

MAX_ROWS = 5_000
MULTIVARIATE = "all columns together"
_MAX_TEXT = 60
_PLAIN_SIGNS = frozenset(" _-.,:+/()%#@=")
_DRAWS = 1_000
# Below, counts are drawn as counts; above, they are normal enough
_FEW_ROWS = 1_000
_MOST_KEPT = 64
# An unlucky reference would raise an alarm in every window, so its error is taken for larger than it is
_REFERENCE_CAUTION = 1.5
# Runs of fewer would say little about how much they differ
_FEWEST_RUNS = 6
# A constant must last longer than it ever did in the reference, by this factor, before the column counts as lost
_LONGER = 3

Distance = Literal["Kolmogorov-Smirnov", "Wasserstein", "total variation", "largest change of a share", "reconstruction error"]


@dataclass(frozen=True)
class ColumnDrift:
    """How far one column is from its reference.

    Attributes:
        column: Name of the column, neutralised.
        kind: Whether its order counts.
        score: The distance; 0 is equal. Of a number that distance of two which is nearer to, or farther beyond, its threshold.
        threshold: What the distance exceeds in undrifted windows within the false-alarm budget only.
        drifted: Whether the distance exceeds the threshold.
        how: One inert sentence: what changed most.
        distance: Name of the distance.
    """

    column: str
    kind: Kind
    score: float
    threshold: float
    drifted: bool
    how: str
    distance: Distance = "Kolmogorov-Smirnov"

    def as_json(self) -> dict[str, Any]:
        """The form for evidence."""
        return vars(self).copy()


@dataclass(frozen=True)
class Drift:
    """The drift of a window.

    Attributes:
        columns: The columns that were compared, in the order of the reference.
        lost: Columns of the reference that the window has not, or has without a usable value, or with one value only where
            the reference has many: always drift.
        skipped: Columns that say nothing about drift, with the reason.
        multivariate: Whether relations between columns broke; None where that cannot be told.
        rows: Rows of the window.
    """

    columns: tuple[ColumnDrift, ...] = ()
    lost: tuple[str, ...] = ()
    skipped: tuple[str, ...] = ()
    multivariate: ColumnDrift | None = None
    rows: int = 0

    @property
    def signal(self) -> bool:
        """Whether anything at all drifted or was lost."""
        return bool(self.drifted)

    @property
    def compared(self) -> int:
        """The number of columns that could drift."""
        return len(self.columns) + len(self.lost)

    @property
    def drifted(self) -> tuple[str, ...]:
        """The names of what drifted, the worst first; lost columns before all."""
        every = (*self.columns, *((self.multivariate,) if self.multivariate else ()))
        worst = sorted((c for c in every if c.drifted), key=lambda c: -c.score / c.threshold)
        return (*self.lost, *(c.column for c in worst))

    def as_json(self) -> dict[str, Any]:
        """The form for evidence."""
        return {
            "rows": self.rows,
            "drifted": list(self.drifted),
            "columns": [column.as_json() for column in self.columns],
            "lost": list(self.lost),
            "skipped": list(self.skipped),
            "multivariate": self.multivariate.as_json() if self.multivariate else None,
        }


def detect_drift(rows: pd.DataFrame | Iterable[pd.DataFrame], profile: Profile, *, false_alarm_rate: float) -> Drift:
    """Compare the rows of a window with a reference.

    Args:
        rows: The window, as a whole or in batches; batches are counted and forgotten. Columns that the profile has not are
            not compared.
        profile: The reference.
        false_alarm_rate: Chance that a window without drift gives a signal on anything at all, between 0 and 1.
    """
    if not 0 < false_alarm_rate < 1:
        raise ValueError(f"false_alarm_rate: {false_alarm_rate} is not between 0 and 1")
    started = time.perf_counter()
    counted = count_rows([rows] if isinstance(rows, pd.DataFrame) else rows, profile)
    names = unique_names([column.name for column in profile.columns] + [name for name, _ in profile.skipped])
    skipped = [f"{names[name]}: {reason}" for name, reason in profile.skipped]
    if not counted.rows or not profile.rows:
        return Drift(skipped=("the window has no rows" if profile.rows else "the bundle's reference has no rows", *skipped))
    lost = {place for place in range(len(profile.columns)) if _is_lost(place, counted, profile)}
    null = _null_of(profile, counted.rows, _alike(counted, profile))
    limits = null.thresholds(false_alarm_rate)
    deltas = counted.counts / counted.rows - profile.shares
    columns = []
    for place, (column, span) in enumerate(zip(profile.columns, profile.spans, strict=True)):
        if place in lost:
            continue
        measured = [(name, float(value[0])) for name, value in _distances(column, deltas[None, span])]
        distance, score, threshold = max(
            ((name, score, limits[place, name]) for name, score in measured), key=lambda found: found[1] / found[2]
        )
        how = _how(column, place, counted, profile.shares[span], counted.counts[span] / counted.rows)
        columns.append(ColumnDrift(names[column.name], column.kind, score, threshold, score > threshold, how, distance))
    multivariate = None if lost else _multivariate(counted, profile, limits)
    drift = Drift(tuple(columns), tuple(names[profile.columns[p].name] for p in sorted(lost)), tuple(skipped), multivariate, counted.rows)
    seconds = time.perf_counter() - started
    log.info("drift: %d of %d columns in %d rows, %.3f s", len(drift.drifted), drift.compared, counted.rows, seconds)
    return drift


def neutralise(text: object, *, limit: int = _MAX_TEXT) -> str:
    """Make a text inert in HTML, scripts, Markdown and logs: only letters, digits and a few signs stay, the rest becomes `·`."""
    inert = "".join(c if c.isalnum() or c in _PLAIN_SIGNS else "·" for c in str(text)[: limit + 1])
    return inert if len(inert) <= limit else inert[: limit - 1] + "…"


def unique_names(texts: Iterable[str]) -> dict[str, str]:
    """Inert names that differ where the texts differ."""
    names: dict[str, str] = {}
    taken = {"(other)", MULTIVARIATE}
    for text in texts:
        name, number = neutralise(text), 1
        while name in taken:
            number += 1
            name = f"{neutralise(text)} ({number})"
        names[text] = name
        taken.add(name)
    return names


def _is_lost(place: int, counted: Counted, profile: Profile) -> bool:
    """Whether the window has no usable value of the column, or only one where the reference never had one for so long."""
    column = profile.columns[place]
    if column.name in counted.absent:
        return True
    if not counted.usable[place]:
        return counted.rows > _LONGER * column.missing_run * profile.every
    one_value = counted.low[place] == counted.high[place] if column.kind == "number" else len(counted.texts[place]) == 1
    varies = column.constant_run * 2 < profile.rows
    return bool(one_value and varies and counted.usable[place] > max(20.0, _LONGER * column.constant_run * profile.every))


# --- distances -------------------------------------------------------------------------------------------------------------


def _distances(column: ColumnProfile, deltas: np.ndarray) -> list[tuple[Distance, np.ndarray]]:
    """The distances of a column.

    Args:
        deltas: Share in each bin less that of the reference, shape (draws, bins of the column).

    Returns:
        Name and value of each distance, shape (draws,).
    """
    if column.kind == "category":
        changes = np.abs(deltas)
        return [("total variation", changes.sum(axis=1) / 2), ("largest change of a share", changes.max(axis=1))]
    steps = column.steps()
    cumulated = np.cumsum(deltas[:, :-1], axis=1)
    largest = np.abs(cumulated).max(axis=1)
    # what is missing is put at the median: a distance has no place for it
    middle = int(np.searchsorted(column.edges, column.median, side="left"))
    cumulated[:, middle:] += deltas[:, -1:]
    return [("Kolmogorov-Smirnov", largest), ("Wasserstein", np.abs(cumulated[:, :-1]) @ steps)]


# --- what undrifted windows look like --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Null:
    """Distances of undrifted windows of one size from undrifted references.

    Attributes:
        tests: Place of the column (-1: all together) and name of the distance.
        levels: For each length of the runs that were drawn: mean and standard deviation of each distance, each of shape
            (tests,), and the greatest standardised distance of each draw, sorted, shape (draws,).
    """

    tests: tuple[tuple[int, Distance], ...]
    levels: tuple[tuple[np.ndarray, np.ndarray, np.ndarray], ...]

    def thresholds(self, rate: float) -> dict[tuple[int, Distance], float]:
        """The threshold of each distance; the greatest over the lengths of runs, as the right length is not known."""
        limits = [mean + _upper(greatest, rate) * deviation for mean, deviation, greatest in self.levels]
        return dict(zip(self.tests, map(float, np.max(limits, axis=0)), strict=True)) if self.tests else {}


def _upper(greatest: np.ndarray, rate: float) -> float:
    """The value that is exceeded at this rate; beyond the ninth decile by an exponential tail, which more often errs upwards."""
    if rate >= 0.1:
        return float(np.quantile(greatest, 1 - rate))
    start = float(np.quantile(greatest, 0.9))
    return start + float((greatest[greatest > start] - start).mean()) * math.log(0.1 / rate)


def _null_of(profile: Profile, rows: int, alike: tuple[int, ...] = ()) -> _Null:
    """What undrifted windows look like; one calculation serves windows of about the same size.

    Args:
        alike: For each column how alike the window's rows are that follow each other: rounded logarithms to base 2 of the
            factor by which that raises a variance; none where the reference is whole.
    """
    # rounded down: a smaller window differs more, so that the threshold errs upwards
    step = max(0, math.floor(4 * math.log2(rows)))
    if (step, alike) not in profile.thresholds:
        if len(profile.thresholds) >= _MOST_KEPT:
            profile.thresholds.clear()
        factors = 2.0 ** np.array(alike or [0] * len(profile.columns))
        profile.thresholds[step, alike] = _draw(profile, min(rows, math.ceil(2 ** (step / 4))), factors)
    found: _Null = profile.thresholds[step, alike]
    return found


def _alike(counted: Counted, profile: Profile) -> tuple[int, ...]:
    """How alike rows of the window are that follow each other, which a thinned reference cannot show."""
    size = math.ceil(2 * profile.every)
    size = min(max(size, 10), 50)
    parts = [part[: len(part) // size * size] for part in counted.stretches if len(part) >= 2 * size]
    if not parts:
        return ()
    rows = np.concatenate(parts)
    found = []
    for place, (column, span) in enumerate(zip(profile.columns, profile.spans, strict=True)):
        values = column.functions(profile.shares[span])[rows[:, place]]
        values = values - values.mean(axis=0)
        alone, together = (values**2).mean(axis=0), (values.reshape(-1, size, values.shape[1]).mean(axis=1) ** 2).mean(axis=0) * size
        known = alone > 1e-3
        if column.kind == "category":
            factor = together.sum() / alone.sum() if known.any() else 1.0
        else:
            factor = (together[known] / alone[known]).max(initial=1.0)
        found.append(round(math.log2(max(factor, 1.0))))
    return tuple(found)


def _draw(profile: Profile, rows: int, alike: np.ndarray) -> _Null:
    random = np.random.default_rng([profile.seed, rows])
    # a window lasts as long as this many rows of the reference
    lasts = rows / profile.every
    judged = profile.rows * len(profile.block_errors) // len(profile.block_rows)
    sampled = _sampling_error(profile, rows / alike, min(rows / alike.max(initial=1.0), MAX_ENCODED_ROWS), judged, random)
    shares = profile.counts / profile.block_rows[:, None] - profile.shares
    errors = _standard_errors(profile)
    block_rows = profile.rows / len(shares)
    tests: tuple[tuple[int, Distance], ...] = ()
    levels, length = [], 1
    while length == 1 or length <= len(shares) // _FEWEST_RUNS:
        own = min(length, max(1, math.ceil(lasts / block_rows)))
        runs_in_window = max(1.0, lasts / (own * block_rows))
        parts = []
        for blocks in (shares, errors):
            if len(blocks):
                window, reference = 1 / math.sqrt(runs_in_window), _REFERENCE_CAUTION * math.sqrt(length / len(blocks))
                if own == length:
                    # the sum of two normal draws of one covariance is a normal draw
                    parts.append(_swings(profile, blocks, length, random) * math.hypot(window, reference))
                else:
                    swings = _swings(profile, blocks, own, random) * window
                    parts.append(swings + _swings(profile, blocks, length, random) * reference)
        found = _all_distances(profile, np.column_stack(parts) + sampled)
        if not found:
            break
        tests = tuple(test for test, _ in found)
        values = np.column_stack([value for _, value in found])
        mean, deviation = values.mean(axis=0), np.maximum(values.std(axis=0), 1e-9)
        levels.append((mean, deviation, np.sort(((values - mean) / deviation).max(axis=1))))
        length *= 2
    return _Null(tests, tuple(levels))


def _standard_errors(profile: Profile) -> np.ndarray:
    """Standardised mean reconstruction errors of the blocks that were judged, shape (judged, 1); (0, 1) without components."""
    parts = profile.components
    return ((profile.block_errors - parts.error) / parts.deviation)[:, None] if parts else np.zeros((0, 1))


def _runs(blocks: np.ndarray, length: int) -> np.ndarray:
    """Mean of every run of so many blocks, shape (runs, bins)."""
    length = min(length, len(blocks))
    sums = np.cumsum(np.concatenate([np.zeros((1, blocks.shape[1])), blocks]), axis=0)
    return np.asarray(sums[length:] - sums[:-length]) / length


def _swings(profile: Profile, blocks: np.ndarray, length: int, random: np.random.Generator) -> np.ndarray:
    """Deviations of single runs beyond those of rows drawn one by one, shape (draws, bins): normal, with the covariance of the runs."""
    runs = _runs(blocks, length)
    independent = max(len(blocks) / length, 1.0)
    # deviations from a mean of few runs are too small, as they took part in it
    runs = runs / math.sqrt(max(1 - 1 / independent, 0.25))
    runs = (runs * _beyond_sampling(profile, runs, length, independent) / math.sqrt(len(runs))).astype(np.float32)
    drawn = random.standard_normal((_DRAWS, len(runs)), dtype=np.float32) @ runs
    # few runs say little about the covariance either: Student's t
    freedom = max(independent - 1, 3.0)
    return np.asarray(drawn / np.sqrt(random.chisquare(freedom, size=(_DRAWS, 1)) / freedom))


def _beyond_sampling(profile: Profile, runs: np.ndarray, length: int, independent: float) -> np.ndarray:
    """The part of the standard deviation of runs that drawing rows one by one does not explain, shape (bins,)."""
    rows = length * profile.rows / len(profile.block_rows)
    if profile.every > 1:
        # rows between those of the reference are more alike than it can show: what chance may add counts as theirs
        independent = math.inf
    if runs.shape[1] == 1:
        return np.sqrt([_unexplained((runs**2).mean(axis=0) * rows, independent)])
    parts = np.zeros(runs.shape[1])
    for column, span in zip(profile.columns, profile.spans, strict=True):
        shares = profile.shares[span]
        functions = column.functions(shares)
        means = shares @ functions
        expected = (shares @ functions**2 - means**2) / rows
        found = ((runs[:, span] @ functions) ** 2).mean(axis=0)
        known = expected * rows > 1e-3
        parts[span] = _unexplained(found[known] / expected[known], independent)
    return np.sqrt(parts)


def _unexplained(inflations: np.ndarray, independent: float) -> float:
    """The part of the greatest of some variances, given as multiples of the expected ones, that neither they nor chance explain."""
    # what chance adds to the greatest of several variances, each of so few runs
    chance = 1 + math.sqrt(2 / independent) * math.sqrt(1 + 2 * math.log(max(len(inflations), 1)))
    return max(0.0, 1 - chance / float(inflations.max(initial=1.0)))


def _sampling_error(profile: Profile, rows: np.ndarray, encoded: float, judged: float, random: np.random.Generator) -> np.ndarray:
    """Deviations of a window from a reference where rows are drawn one by one, shape (draws, bins), last the reconstruction error.

    Args:
        rows: How many are drawn of each column for the window, shape (columns,).
        encoded: How many are drawn of the reconstruction error for the window.
        judged: The same for the reference.
    """
    deltas = []
    for span, size in zip(profile.spans, np.maximum(rows.round(), 1.0), strict=True):
        # half a row more in each bin: what was never seen may exist all the same
        seen = profile.counts[:, span].sum(axis=0) + 0.5
        shares = seen / seen.sum()
        normal, delta = 0.0, np.zeros((_DRAWS, len(shares)))
        for draws, caution in ((int(size), 1.0), (profile.rows, _REFERENCE_CAUTION)):
            if draws < _FEW_ROWS:
                delta += caution * (random.multinomial(draws, shares, size=_DRAWS) / draws - shares)
            else:
                normal += caution**2 / draws
        if normal:
            noise = random.standard_normal((_DRAWS, len(shares)), dtype=np.float32) * np.sqrt(shares * normal).astype(np.float32)
            delta += noise - noise.sum(axis=1, keepdims=True) * shares
        deltas.append(delta)
    if profile.components is not None:
        scale = math.sqrt(1 / max(encoded, 1.0) + _REFERENCE_CAUTION**2 / max(judged, 1.0))
        deltas.append(random.standard_normal((_DRAWS, 1)) * scale)
    return np.concatenate(deltas, axis=1) if deltas else np.zeros((_DRAWS, 0))


def _all_distances(profile: Profile, deltas: np.ndarray) -> list[tuple[tuple[int, Distance], np.ndarray]]:
    """Each distance of each column for many draws; the place of the multivariate one is -1."""
    found: list[tuple[tuple[int, Distance], np.ndarray]] = []
    for place, (column, span) in enumerate(zip(profile.columns, profile.spans, strict=True)):
        found += [((place, name), values) for name, values in _distances(column, deltas[:, span])]
    if profile.components is not None:
        found.append(((-1, "reconstruction error"), np.abs(deltas[:, -1])))
    return found


# --- what changed ----------------------------------------------------------------------------------------------------------


def _multivariate(counted: Counted, profile: Profile, limits: Mapping[tuple[int, Distance], float]) -> ColumnDrift | None:
    parts = profile.components
    if parts is None or not len(counted.encoded):
        return None
    error = float(parts.errors(counted.encoded).mean())
    score, threshold = abs(error - parts.error) / parts.deviation, limits[-1, "reconstruction error"]
    how = f"error of rows rebuilt from {len(parts.axes)} of {len(parts.mean)} principal components {parts.error:.3g} -> {error:.3g}"
    return ColumnDrift(MULTIVARIATE, "number", score, threshold, score > threshold, how, "reconstruction error")


def _how(column: ColumnProfile, place: int, counted: Counted, shares: np.ndarray, window: np.ndarray) -> str:
    """What changed most, in one sentence."""
    change = window - shares
    if column.kind == "category":
        names = [*column.values, "new and rare values"]
        # where one value took the place of another, the new one says more
        most = len(column.values) if change[-2] > 0.9 * np.abs(change).max() else int(np.abs(change).argmax())
        if most < len(names):
            return f"share of {neutralise(names[most])} {_percent(shares[most])} -> {_percent(window[most])}"
        return f"missing {_percent(shares[-1])} -> {_percent(window[-1])}"
    count, total, squares = map(float, counted.sums[place])
    if not count or abs(change[-1]) > np.abs(np.cumsum(change[:-1])).max() / 1.5:
        return f"missing {_percent(shares[-1])} -> {_percent(window[-1])}"
    offset = total / count
    mean = column.median + offset
    deviation = math.sqrt(max(squares / count - offset * offset, 0.0))
    moved = (mean - column.mean) / column.deviation if column.deviation > 0 else math.inf
    widened = abs(math.log(deviation / column.deviation)) if deviation > 0 and column.deviation > 0 else math.inf
    if math.isfinite(moved) and (abs(moved) > widened / 2 or not math.isfinite(widened)):
        return f"mean {column.mean:.3g} -> {mean:.3g}, {round(moved, 1) + 0.0:+.1f} standard deviations"
    if math.isfinite(deviation) and column.deviation > 0:
        return f"standard deviation {column.deviation:.3g} -> {deviation:.3g}"
    most = int(np.abs(change[:-1]).argmax())
    edge = column.edges[min(most, len(column.edges) - 1)]
    return f"share near {edge:.3g} {_percent(shares[most])} -> {_percent(window[most])}"


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"
