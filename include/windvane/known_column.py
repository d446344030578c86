"""What a column was in training, as far as its values in a later window can be judged by it: shares, ranges, and natural swings."""

import functools
import math
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pandas as pd

Kind = Literal["number", "truth", "time", "text"]

MAX_CATEGORIES = 1_000
SAMPLED = 5_000
_STANDARD_ERRORS = 4.0
_SHORTEST_STRETCH = 20
_CLUSTERED = 0.1
_TIES, _DISTINCT = 0.05, 50
_WANDERS = 0.1
_RARELY_ELSE = 0.95


def kind_of(values: "pd.Series[Any]") -> Kind:
    """What a column holds, by its type, or by its values where the type says nothing."""
    dtype = values.dtype
    if isinstance(dtype, pd.CategoricalDtype):
        dtype = dtype.categories.dtype
    if pd.api.types.is_bool_dtype(dtype):
        return "truth"
    if pd.api.types.is_numeric_dtype(dtype):
        return "number"
    if pd.api.types.is_datetime64_any_dtype(dtype):
        return "time"
    inferred = pd.api.types.infer_dtype(values, skipna=True) if pd.api.types.is_object_dtype(dtype) else "string"
    return _INFERRED.get(inferred, "text")


_INFERRED: dict[str, Kind] = {
    "boolean": "truth",
    "date": "time",
    "datetime": "time",
    "datetime64": "time",
    "decimal": "number",
    "floating": "number",
    "integer": "number",
    "mixed-integer-float": "number",
    "empty": "number",
}


def as_numbers(values: "pd.Series[Any]") -> np.ndarray:
    """The values as floats of shape (n,); what is no number is NaN."""
    return pd.to_numeric(values.astype(object) if values.dtype == "category" else values, errors="coerce").to_numpy(
        dtype=np.float64, na_value=np.nan
    )


def noise(share: float, rows: int, reference_rows: int) -> float:
    """Four standard errors of the difference of two shares, with the share kept off 0 and 1 (Agresti and Caffo, 2000)."""
    p = min(max(share, 1.0 / (rows + 2)), 1.0 - 1.0 / (rows + 2))
    return _STANDARD_ERRORS * math.sqrt(p * (1.0 - p) * (1.0 / max(rows, 1) + 1.0 / max(reference_rows, 1)))


def natural_share(hits: np.ndarray, stretch: int) -> float:
    """The share of rows of a kind that is natural in a window: the mean, or, where such rows come together, the most of any stretch.

    Rows come together where their autocorrelation at lag 1 is beyond chance (Box and Jenkins, Time Series Analysis, 1970).

    Args:
        hits: Shape (n,): whether a row of the reference is of that kind, in time order.
        stretch: How many rows of the reference are as long as the window.
    """
    n, p = len(hits), float(hits.mean())
    if n < 2 * _SHORTEST_STRETCH or p in (0.0, 1.0):
        return p
    together = (float((hits[1:] & hits[:-1]).mean()) - p * p) / (p * (1.0 - p))
    if together < max(_CLUSTERED, 5.0 / math.sqrt(n)):
        return p
    counts = np.concatenate([[0], np.cumsum(hits)])
    return float((counts[stretch:] - counts[:-stretch]).max()) / stretch


@dataclass(frozen=True)
class Known:
    """What a column was in training.

    Attributes:
        values: The distinct values, in the order of their first row; infinite ones left out.
        codes: Shape (n,): place in `values` of each row in time order; -1 is null.
        scale: How many rows of the stream a row of the reference stands for; NaN when not known.
    """

    kind: Kind
    values: np.ndarray
    codes: np.ndarray
    scale: float

    @classmethod
    def of(cls, then: "pd.Series[Any]", kind: Kind, stands_for: int | None) -> "Known":
        """Count the values of a reference's column."""
        codes, values = coded(then, kind)
        rows = max(len(codes), 1)
        # a reference that is as long as references may be is a sample of who knows how much
        scale = stands_for / rows if stands_for else (1.0 if rows < SAMPLED else math.nan)
        return cls(kind, values, codes, max(scale, 1.0))

    @property
    def rows(self) -> int:
        """Number of rows of the reference."""
        return len(self.codes)

    @property
    def is_empty(self) -> bool:
        """Whether it holds no value at all."""
        return not len(self.values)

    @functools.cached_property
    def null_share(self) -> float:
        """The share of nulls."""
        return float((self.codes < 0).mean())

    @functools.cached_property
    def shares(self) -> np.ndarray:
        """Share of each of `values` among the rows that are not null."""
        counts = np.bincount(self.codes[self.codes >= 0], minlength=len(self.values))
        return np.asarray(counts / max(counts.sum(), 1))

    @functools.cached_property
    def sorted(self) -> np.ndarray:
        """The numbers, sorted."""
        return np.sort(self.values[self.codes[self.codes >= 0]])

    @functools.cached_property
    def is_continuous(self) -> bool:
        """Whether hardly any number occurs often."""
        return len(self.values) >= _DISTINCT and float(self.shares.max()) <= _TIES

    @functools.cached_property
    def wanders(self) -> bool:
        """Whether new rows went on leaving the range of all rows before, as a counter or a trend does."""
        rows = self.values[self.codes[self.codes >= 0]]
        block = len(rows) // 20
        if block < 10:
            return False
        low, high = np.minimum.accumulate(rows), np.maximum.accumulate(rows)
        left = [
            np.mean((rows[at : at + block] < low[at - 1]) | (rows[at : at + block] > high[at - 1]))
            for at in range(2 * block, len(rows) - block + 1, block)
        ]
        return float(np.mean(left)) > _WANDERS

    def is_slow(self, rows: int) -> bool:
        """Whether it mostly held one value for as long as a window of so many rows, and another later: a season, a price list, a site."""
        length, codes = self.stretch(rows), self.codes[self.codes >= 0]
        if len(self.values) < 2 or len(codes) < max(2 * length, 4 * _SHORTEST_STRETCH) or self.shares.max() >= _RARELY_ELSE:
            return False
        changes = np.concatenate([[0], np.cumsum(codes[1:] != codes[:-1])])
        return float((changes[length - 1 :] == changes[: len(changes) - length + 1]).mean()) >= 0.5

    def stretch(self, rows: int) -> int:
        """How many rows of the reference are as long as a window of so many rows; the shortest there is when the scale is not known."""
        length = _SHORTEST_STRETCH if math.isnan(self.scale) else round(rows / self.scale)
        return max(1, min(max(length, _SHORTEST_STRETCH), self.rows // 2))

    def share_of(self, value: Any) -> float:
        """The share of a value among the rows that are not null."""
        at = np.flatnonzero(self.values == value)
        return float(self.shares[at[0]]) if len(at) else 0.0

    def natural(self, value: Any, rows: int) -> float:
        """The share of a value that is natural in a window of so many rows; of one that is new, the most that new ones ever had."""
        at = np.flatnonzero(self.values == value)
        return natural_share(self.codes == at[0], self.stretch(rows)) if len(at) else self._newcomer(rows)

    def _newcomer(self, rows: int) -> float:
        """The largest share that one value had from its first row on, as long as a window is, after the first tenth of the rows."""
        length, n = self.stretch(rows), self.rows
        codes, first = np.unique(self.codes[: n - length + 1], return_index=True)
        late = [(code, at) for code, at in zip(codes.tolist(), first.tolist(), strict=True) if code >= 0 and at >= n // 10]
        often = [(code, at) for code, at in late if self.shares[code] * n >= 2][:MAX_CATEGORIES]
        return max((float((self.codes[at : at + length] == code).mean()) for code, at in often), default=0.0)

    def novelty(self, rows: int) -> float:
        """The largest share of values not seen before in any stretch as long as a window, after the first tenth of the rows."""
        length, n = self.stretch(rows), self.rows
        starts = np.unique(np.linspace(n // 10, n - length, 40).astype(int)) if n - length > n // 10 else np.array([], int)
        # codes are numbered in the order of their first row
        return max((float((self.codes[at : at + length] > self.codes[:at].max()).mean()) for at in starts if at), default=0.0)


def coded(values: "pd.Series[Any]", kind: Kind) -> tuple[np.ndarray, np.ndarray]:
    """Number the distinct values in the order of their first row; nulls and infinite numbers are -1.

    Returns:
        The number of each row, shape (n,), and the distinct values: floats, or texts.
    """
    if kind == "number":
        numbers = as_numbers(values)
        codes, distinct = pd.factorize(np.where(np.isinf(numbers), np.nan, numbers))
        return np.asarray(codes), np.asarray(distinct)
    codes, index = pd.factorize(values)
    texts = np.asarray([str(value) for value in index], dtype=object)
    return np.asarray(codes), texts
