"""Summarises the rows of a reference in blocks of consecutive rows, and counts the rows of a window in the same bins.

The blocks are what tells later how much undrifted windows differ from each other: rows that follow each other are alike, and
a day differs from the next, so that single rows drawn at random would promise too much.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from itertools import pairwise
from typing import Any, Literal

import numpy as np
import pandas as pd

Kind = Literal["number", "category"]

_MAX_CATEGORIES = 40
# What fewer rows of the reference show is pooled: whether it shows up in a window is chance
_RARE_ROWS = 10
_QUANTILES = (0.002, 0.005, 0.01, 0.02, *np.linspace(0.04, 0.96, 24), 0.98, 0.99, 0.995, 0.998)
# Edges beyond the range of the reference, in its spreads from its median: what lies there is seen however far away it is
_FAR = (5.0, 8.0, 12.0, 20.0, 50.0, 100.0, 1_000.0)
_FARTHEST = 1e6
_BLOCKS = 96
_FEWEST_BLOCK_ROWS = 5
_COUNTER = 0.999
# Components are found from every other of these parts of the reference and judged on the rest
_STRETCHES = 8
# Share of the variance that the components keep, as NannyML does; the rest is where broken relations show
_KEPT_VARIANCE = 0.65
_MAX_ROWS = 20_000
MAX_ENCODED_ROWS = 5_000
_STRETCH_ROWS = 500
_PARTS = 4


@dataclass(frozen=True)
class ColumnProfile:
    """One column of a reference.

    Attributes:
        name: The column's name as it came: not inert.
        kind: Whether its order counts.
        edges: Of a number: bins are at most the first edge, between two edges (the upper one included), above the last one.
        values: Of a category: the values with a bin of their own; one more bin is for all rare and all new ones.
        median: Of a number; 0 for a category.
        scale: Of a number: its robust spread.
        mean: Of the finite values.
        deviation: Standard deviation of the finite values.
        constant_run: Most consecutive rows of the reference with one and the same value.
        missing_run: Most consecutive rows of the reference without a usable value.
        encoding: Of a category: what each bin counts as in the principal components: its share, standardised.
    """

    name: str
    kind: Kind
    edges: tuple[float, ...] = ()
    values: tuple[str, ...] = ()
    median: float = 0.0
    scale: float = 1.0
    mean: float = 0.0
    deviation: float = 0.0
    constant_run: int = 0
    missing_run: int = 0
    encoding: tuple[float, ...] = ()

    @property
    def bins(self) -> int:
        """Bins of the column; the last one is for missing values."""
        return (len(self.edges) + 1 if self.kind == "number" else len(self.values) + 1) + 1

    def codes(self, values: "pd.Series[Any]") -> np.ndarray:
        """The bin of each row, shape (n,)."""
        if self.kind == "number":
            numbers = numbers_of(values)
            return np.where(np.isfinite(numbers), np.searchsorted(self.edges, numbers, side="left"), self.bins - 1)
        found, uniques = _factorize(values)
        places = {value: place for place, value in enumerate(self.values)}
        # a place more for what factorize gives -1: a missing value
        bins = np.array([*(places.get(text_of(value), len(self.values)) for value in uniques), self.bins - 1])
        return np.asarray(bins[found])

    def steps(self) -> np.ndarray:
        """Of a number: width of each bin on a scale that is linear near the median and logarithmic far from it, shape (edges,)."""
        with np.errstate(over="ignore"):
            distances = np.clip((np.array(self.edges) - self.median) / self.scale, -_FARTHEST, _FARTHEST)
        places = np.sign(distances) * np.log1p(np.abs(distances))
        return np.asarray(np.diff(places, append=places[-1] + 1.0))

    def functions(self, shares: np.ndarray) -> np.ndarray:
        """What rows that follow each other are alike in first, for each bin, shape (bins, functions).

        Of a number: smooth functions of its rank, and whether it is missing; of a category: each value.
        """
        if self.kind == "category":
            return np.eye(self.bins)
        ranks = np.cumsum(shares[:-1]) - shares[:-1] / 2
        return np.column_stack([*(np.append(np.cos(math.pi * k * ranks), 0.0) for k in (1, 2)), np.eye(self.bins)[-1]])

    def encode(self, values: "pd.Series[Any]") -> np.ndarray:
        """The rows as the principal components need them, shape (n,); what is missing is usual."""
        if self.kind == "category":
            return np.asarray(np.array(self.encoding)[self.codes(values)])
        with np.errstate(over="ignore"):
            distances = (numbers_of(values) - self.median) / self.scale
        encoded = np.sign(distances) * np.log1p(np.abs(distances))
        encoded[~np.isfinite(encoded)] = 0.0
        return np.asarray(np.clip(encoded, -8.0, 8.0))


@dataclass(frozen=True)
class Components:
    """Principal components of a reference, which rows are rebuilt from.

    Attributes:
        mean: Shape (columns,), of the encoded columns.
        scale: Shape (columns,).
        axes: Shape (kept, columns).
        error: Mean distance of a row from what is rebuilt of it.
        deviation: Standard deviation of that distance.
    """

    mean: tuple[float, ...]
    scale: tuple[float, ...]
    axes: tuple[tuple[float, ...], ...]
    error: float = 0.0
    deviation: float = 1.0

    def errors(self, encoded: np.ndarray) -> np.ndarray:
        """Distance of each row from what the components rebuild of it, shape (n,)."""
        rows = (encoded - self._mean) / self._scale
        rows -= (rows @ self._axes.T) @ self._axes
        return np.asarray(np.sqrt(np.einsum("ij,ij->i", rows, rows)))

    @cached_property
    def _mean(self) -> np.ndarray:
        return np.array(self.mean)

    @cached_property
    def _scale(self) -> np.ndarray:
        return np.array(self.scale)

    @cached_property
    def _axes(self) -> np.ndarray:
        return np.array(self.axes)


@dataclass(frozen=True, eq=False)
class Profile:
    """A reference in blocks of consecutive rows.

    Attributes:
        columns: The columns that can drift.
        skipped: Names of those that cannot, with the reason.
        counts: Rows of each block in each bin of each column, shape (blocks, bins of all columns).
        block_rows: Rows of each block, shape (blocks,).
        components: Principal components; None where there are too few columns or rows.
        block_errors: Mean reconstruction error of each of the blocks that the components were not found from, shape (judged,).
        every: Rows of the history for each row of the reference.
        seed: Seed of all that is drawn.
    """

    columns: tuple[ColumnProfile, ...]
    skipped: tuple[tuple[str, str], ...]
    counts: np.ndarray
    block_rows: np.ndarray
    components: Components | None
    block_errors: np.ndarray
    every: float
    seed: int
    thresholds: dict[Any, Any] = field(default_factory=dict, repr=False)

    @property
    def rows(self) -> int:
        """Rows of the reference."""
        return int(self.block_rows.sum())

    @cached_property
    def spans(self) -> tuple[slice, ...]:
        """The bins of each column within `counts`."""
        ends = np.cumsum([0, *(column.bins for column in self.columns)])
        return tuple(slice(int(start), int(end)) for start, end in pairwise(ends))

    @cached_property
    def shares(self) -> np.ndarray:
        """Share of the reference's rows in each bin, shape (bins of all columns,)."""
        return np.asarray(self.counts.sum(axis=0) / max(self.rows, 1))

    @classmethod
    def of(cls, frame: pd.DataFrame, *, seed: int, history_rows: int | None = None) -> "Profile":
        """Summarise a reference.

        Args:
            frame: Only the columns to compare, in the order of time. Of more than 20,000 rows an evenly spaced part is used.
            seed: Seed of all that is drawn.
            history_rows: Rows of the history that the rows of the frame are an evenly spaced part of; None: the frame is all.
                A window of n rows then lasts as long as n * len(frame) / history_rows rows of the frame.
        """
        history = max(history_rows or 0, len(frame))
        if len(frame) > _MAX_ROWS:
            frame = frame.iloc[np.linspace(0, len(frame) - 1, _MAX_ROWS).astype(int)]
        columns, skipped = [], []
        for place, name in enumerate(map(str, frame.columns)):
            found = _describe(name, frame.iloc[:, place])
            if isinstance(found, ColumnProfile):
                columns.append((found, frame.iloc[:, place]))
            else:
                skipped.append((name, found))
        blocks = max(1, min(_BLOCKS, len(frame) // _FEWEST_BLOCK_ROWS))
        starts = np.linspace(0, len(frame), blocks + 1).astype(int)[:-1]
        owner = np.repeat(np.arange(blocks), np.diff(starts, append=len(frame)))
        tables = [
            np.bincount(owner * column.bins + column.codes(values), minlength=blocks * column.bins).reshape(blocks, column.bins)
            for column, values in columns
        ]
        profiles = tuple(column for column, _ in columns)
        components, errors = _rebuild([(column, values) for column, values in columns], owner, blocks)
        return cls(
            columns=profiles,
            skipped=tuple(skipped),
            counts=np.concatenate(tables, axis=1) if tables else np.zeros((blocks, 0), dtype=int),
            block_rows=np.bincount(owner, minlength=blocks),
            components=components,
            block_errors=errors,
            every=history / len(frame) if len(frame) else 1.0,
            seed=seed,
        )

    def as_json(self) -> dict[str, Any]:
        """The form for a file; `from_json` reads it back."""
        return {
            "columns": [asdict(column) for column in self.columns],
            "skipped": [list(pair) for pair in self.skipped],
            "counts": self.counts.tolist(),
            "block_rows": self.block_rows.tolist(),
            "components": asdict(self.components) if self.components else None,
            "block_errors": self.block_errors.tolist(),
            "every": self.every,
            "seed": self.seed,
        }

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> "Profile":
        """Read what `as_json` wrote."""
        lists = ("edges", "values", "encoding")
        columns = tuple(ColumnProfile(**(one | {key: tuple(one[key]) for key in lists})) for one in stored["columns"])
        parts = stored["components"]
        components = None
        if parts:
            axes = tuple(tuple(axis) for axis in parts["axes"])
            components = Components(tuple(parts["mean"]), tuple(parts["scale"]), axes, parts["error"], parts["deviation"])
        bins = sum(column.bins for column in columns)
        return cls(
            columns=columns,
            skipped=tuple((name, reason) for name, reason in stored["skipped"]),
            counts=np.array(stored["counts"], dtype=int).reshape(len(stored["block_rows"]), bins),
            block_rows=np.array(stored["block_rows"], dtype=int),
            components=components,
            block_errors=np.array(stored["block_errors"], dtype=float),
            every=stored["every"],
            seed=stored["seed"],
        )


@dataclass
class Counted:
    """What is kept of the rows of a window.

    Attributes:
        rows: Rows seen.
        counts: In the bins of the profile, shape (bins of all columns,).
        absent: Names of columns that no batch had.
        sums: Count, sum and sum of squares of the finite values of each number, around the reference's median, shape (columns, 3).
        usable: Rows with a usable value, of each column, shape (columns,).
        low: Smallest finite value of each number, shape (columns,).
        high: Greatest.
        texts: First value of each category, None once there are two.
        encoded: A sample for the principal components, shape (at most MAX_ENCODED_ROWS, columns).
        stretches: Bins of some stretches of consecutive rows, each of shape (rows, columns); none where the reference is whole.
    """

    rows: int
    counts: np.ndarray
    absent: frozenset[str]
    sums: np.ndarray
    usable: np.ndarray
    low: np.ndarray
    high: np.ndarray
    texts: list[set[str]]
    encoded: np.ndarray
    stretches: list[np.ndarray]


def count_rows(batches: Iterable[pd.DataFrame], profile: Profile) -> Counted:
    """Count the rows of a window in the bins of the profile, batch by batch, at bounded memory."""
    width = len(profile.columns)
    counted = Counted(
        rows=0,
        counts=np.zeros(profile.counts.shape[1]),
        absent=frozenset(),
        sums=np.zeros((width, 3)),
        usable=np.zeros(width, dtype=int),
        low=np.full(width, np.inf),
        high=np.full(width, -np.inf),
        texts=[set() for _ in range(width)],
        encoded=np.zeros((0, width)),
        stretches=[],
    )
    seen: set[str] = set()
    random, keys = np.random.default_rng(profile.seed), np.zeros(0)
    for batch in batches:
        if not len(batch):
            continue
        counted.rows += len(batch)
        names = {str(name): place for place, name in enumerate(batch.columns)}
        seen |= names.keys()
        lacking = pd.Series(np.full(len(batch), np.nan))
        columns = [batch.iloc[:, names[c.name]] if c.name in names else lacking for c in profile.columns]
        for place, (column, values, span) in enumerate(zip(profile.columns, columns, profile.spans, strict=True)):
            _count(counted, place, column, values, span)
        if profile.every > 1 and width:
            _keep_stretches(counted, profile, columns)
        if profile.components is not None:
            drawn = random.random(len(batch))
            chosen = _smallest(drawn, MAX_ENCODED_ROWS)
            rows = np.column_stack([c.encode(v.iloc[chosen]) for c, v in zip(profile.columns, columns, strict=True)])
            keys, counted.encoded = np.concatenate([keys, drawn[chosen]]), np.concatenate([counted.encoded, rows])
            kept = _smallest(keys, MAX_ENCODED_ROWS)
            keys, counted.encoded = keys[kept], counted.encoded[kept]
    counted.absent = frozenset(c.name for c in profile.columns if c.name not in seen)
    return counted


def numbers_of(values: "pd.Series[Any]") -> np.ndarray:
    """The values as floats, shape (n,); what is no number is NaN."""
    if isinstance(values.dtype, np.dtype) and values.dtype.kind in "fiu":
        return values.to_numpy(dtype=float)
    if isinstance(values.dtype, np.dtype) and values.dtype.kind in "cmM":
        return np.full(len(values), np.nan)
    return np.asarray(pd.to_numeric(values, errors="coerce").astype("Float64").to_numpy(dtype=float, na_value=np.nan))


def text_of(value: Any) -> str:
    """A category as text; a whole number is written the same as an integer and as a float."""
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value)


def _factorize(values: "pd.Series[Any]") -> tuple[np.ndarray, Any]:
    try:
        return pd.factorize(values)
    except TypeError:
        # lists and the like
        return pd.factorize(values.map(str, na_action="ignore"))


def _smallest(keys: np.ndarray, most: int) -> np.ndarray:
    return np.arange(len(keys)) if len(keys) <= most else np.sort(np.argpartition(keys, most)[:most])


def _count(counted: Counted, place: int, column: ColumnProfile, values: "pd.Series[Any]", span: slice) -> None:
    counts = np.bincount(column.codes(values), minlength=column.bins)
    counted.counts[span] += counts
    counted.usable[place] += len(values) - counts[-1]
    if column.kind == "number":
        numbers = numbers_of(values)
        numbers = numbers[np.isfinite(numbers)]
        if len(numbers):
            with np.errstate(over="ignore", invalid="ignore"):
                near = numbers - column.median
                counted.sums[place] += (len(numbers), near.sum(), near @ near)
            counted.low[place] = min(counted.low[place], numbers.min())
            counted.high[place] = max(counted.high[place], numbers.max())
    elif len(counted.texts[place]) < 2:
        # two are enough to know that it is not constant; the bin of rare and new values alone may hold many
        found = [value for value, count in zip(column.values, counts, strict=False) if count][:2]
        if counts[-2]:
            found += ["a rare or new value"] if found else [text_of(value) for value in _factorize(values)[1][:2]]
        counted.texts[place] |= set(found)


def _keep_stretches(counted: Counted, profile: Profile, columns: Sequence["pd.Series[Any]"]) -> None:
    rows = len(columns[0])
    for start in np.linspace(0, max(rows - _STRETCH_ROWS, 0), _PARTS).astype(int):
        if sum(map(len, counted.stretches)) < _PARTS * _STRETCH_ROWS:
            part = slice(int(start), int(start) + _STRETCH_ROWS)
            counted.stretches.append(np.column_stack([c.codes(v.iloc[part]) for c, v in zip(profile.columns, columns, strict=True)]))
        if rows <= _STRETCH_ROWS:
            break


def _describe(name: str, values: "pd.Series[Any]") -> ColumnProfile | str:
    """The profile of a column, or why it says nothing about drift."""
    dtype = values.dtype
    if isinstance(dtype, pd.DatetimeTZDtype | pd.PeriodDtype) or (isinstance(dtype, np.dtype) and dtype.kind in "mMc"):
        return "a time, or without a usable value in the reference"
    if pd.api.types.is_numeric_dtype(dtype) and not pd.api.types.is_bool_dtype(dtype):
        return _describe_number(name, numbers_of(values))
    return _describe_category(name, values)


def _describe_number(name: str, numbers: np.ndarray) -> ColumnProfile | str:
    finite = np.isfinite(numbers)
    known = numbers[finite]
    if not len(known):
        return "a time, or without a usable value in the reference"
    if len(known) > 2 * _RARE_ROWS and _grows(known):
        return "grows or falls from row to row, as a time or a counter does"
    median = float(np.median(known))
    quantiles = np.quantile(known, _QUANTILES, method="inverted_cdf")
    with np.errstate(over="ignore", invalid="ignore"):
        scale = float(np.quantile(known, 0.75) - np.quantile(known, 0.25)) / 1.349
        mean, deviation = (value if math.isfinite(value) else 0.0 for value in (float(known.mean()), float(known.std())))
    scale = next((s for s in (scale, deviation, abs(median)) if math.isfinite(s) and s > 0), 1.0)
    edges, repeats = np.unique(quantiles, return_counts=True)
    # a value that many rows share gets a bin of its own
    atoms = np.nextafter(edges[repeats > 1], -np.inf)
    low, high = float(known.min()), float(known.max())
    with np.errstate(over="ignore"):
        far = [edge for step in _FAR for edge in (median - step * scale, median + step * scale) if edge < low or edge > high]
    edges = np.unique([*edges, *atoms, high, np.nextafter(low, -np.inf), *(edge for edge in far if math.isfinite(edge))])
    return ColumnProfile(
        name=name,
        kind="number",
        edges=tuple(map(float, edges)),
        median=median,
        scale=scale,
        mean=mean,
        deviation=deviation,
        constant_run=_longest_run(known),
        missing_run=_longest_run(finite.astype(float), of=0.0),
    )


def _grows(known: np.ndarray) -> bool:
    """Whether the values are in order nearly from row to row."""
    order = np.argsort(known, kind="stable")
    ordered = known[order]
    if known[0] == known[-1] or (ordered[1:] > ordered[:-1]).sum() < len(known) // 2:
        return False
    return abs(float(np.corrcoef(order, np.arange(len(order)))[0, 1])) > _COUNTER


def _describe_category(name: str, values: "pd.Series[Any]") -> ColumnProfile | str:
    found, uniques = _factorize(values)
    usable = found >= 0
    if not usable.any():
        return "a time, or without a usable value in the reference"
    if len(uniques) > max(_MAX_CATEGORIES, len(values) // 2):
        return "almost every row has its own value"
    counts = pd.Series(np.bincount(found[usable]), index=[text_of(value) for value in uniques]).groupby(level=0).sum()
    counts = counts.sort_values(ascending=False, kind="stable")
    kept = counts[counts >= min(_RARE_ROWS, int(counts.iloc[0]))].iloc[:_MAX_CATEGORIES]
    shares = [*kept, max(int(counts.sum() - kept.sum()), 1), max(int((~usable).sum()), 1)]
    return ColumnProfile(
        name=name,
        kind="category",
        values=tuple(map(str, kept.index)),
        constant_run=_longest_run(found[usable].astype(float)),
        missing_run=_longest_run(usable.astype(float), of=0.0),
        encoding=tuple(float(share) / len(values) for share in shares),
    )


def _longest_run(values: np.ndarray, *, of: float | None = None) -> int:
    """Most consecutive rows with one value, or with a certain one."""
    ends = np.append(np.flatnonzero(values[1:] != values[:-1]), len(values) - 1)
    lengths = np.diff(ends, prepend=-1)
    return int(lengths[slice(None) if of is None else values[ends] == of].max(initial=0))


def _rebuild(
    columns: Sequence[tuple[ColumnProfile, "pd.Series[Any]"]], owner: np.ndarray, blocks: int
) -> tuple[Components | None, np.ndarray]:
    """Principal components from every other stretch of blocks, and the errors of the stretches between, which they did not see."""
    if len(columns) < 2 or len(owner) < max(2 * blocks, 10 * len(columns), 50):
        return None, np.zeros(0)
    rows = np.column_stack([column.encode(values) for column, values in columns])
    judging = (np.arange(blocks) // max(1, blocks // _STRETCHES)) % 2 == 1
    fitted, judged = rows[~judging[owner]], rows[judging[owner]]
    mean, scale = fitted.mean(axis=0), fitted.std(axis=0)
    scale[scale < 1e-9] = 1.0
    _, strengths, axes = np.linalg.svd((fitted - mean) / scale, full_matrices=False)
    explained = np.cumsum(strengths**2)
    if not len(judged) or not explained[-1] > 0:
        return None, np.zeros(0)
    kept = min(int(np.searchsorted(explained / explained[-1], _KEPT_VARIANCE)) + 1, len(columns) - 1)
    found = Components(tuple(map(float, mean)), tuple(map(float, scale)), tuple(tuple(map(float, axis)) for axis in axes[:kept]))
    errors = found.errors(judged)
    if not float(errors.std()) > 1e-9:
        return None, np.zeros(0)
    owners = owner[judging[owner]]
    means = np.bincount(owners, errors, minlength=blocks)[judging] / np.bincount(owners, minlength=blocks)[judging]
    return replace(found, error=float(errors.mean()), deviation=float(errors.std())), means
