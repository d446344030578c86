"""Looks through all rows of a window for what a sample of them hides: single infinite values, and rows that are repeated."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

_MOST_KEPT = 200_000
# a column has one type in all batches, whether or not one of its values is null: else equal values would have different hashes
_WITH_NULLS: dict[pa.DataType, Any] = {
    pa.int8(): pd.Int8Dtype(),
    pa.int16(): pd.Int16Dtype(),
    pa.int32(): pd.Int32Dtype(),
    pa.int64(): pd.Int64Dtype(),
    pa.bool_(): pd.BooleanDtype(),
}


class Survey:
    """Counts in batches that pass by the infinite values, and the rows that repeat another.

    Args:
        columns: The columns to look at.
        name: The column that names a row; None when there is none.

    Attributes:
        rows: Rows that passed by.
        named: Those of them that have a name.
        infinite: Column -> number of infinite values.
    """

    def __init__(self, columns: Sequence[str], *, name: str | None = None) -> None:
        self._columns, self._name = list(columns), name
        self._distinct, self._distinct_named = _Distinct(), _Distinct()
        self.rows = self.named = 0
        self.infinite: Counter[str] = Counter()

    def see(self, batch: pa.RecordBatch, _: int = 0) -> None:
        """Take a batch into account."""
        names = [name for name in self._columns if name in batch.schema.names]
        self.rows += batch.num_rows
        for name in names:
            if pa.types.is_floating(batch.schema.field(name).type):
                self.infinite[name] += pc.sum(pc.is_inf(batch[name])).as_py() or 0
        if not names or not batch.num_rows:
            return
        hashes = _hash(_as_frame(batch.select(names)))
        self._distinct.add(hashes)
        if self._name in batch.schema.names:
            own = _as_frame(batch.select([self._name])).iloc[:, 0]
            is_named = own.notna().to_numpy(dtype=bool)
            self.named += int(is_named.sum())
            self._distinct_named.add(_hash(pd.DataFrame({"row": hashes, "name": own})[is_named]))

    @property
    def repeated(self) -> float:
        """The share of rows that repeat another in all columns; within 1 % of the rows where they are many."""
        return self._distinct.share_of_others(self.rows)

    @property
    def repeated_named(self) -> float:
        """The share of the rows with a name that repeat another in all columns and in the name."""
        return self._distinct_named.share_of_others(self.named)


class _Distinct:
    """Estimates how many distinct hashes there are from those below a bound that is halved as often as they are too many.

    However often a hash comes, it is kept once: so the memory is bounded whatever the values (Bar-Yossef et al., Counting distinct
    elements in a data stream, 2002).
    """

    def __init__(self) -> None:
        self._kept = np.empty(0, np.uint64)
        self._bound = 2**64 - 1

    def add(self, hashes: np.ndarray) -> None:
        both = np.sort(np.concatenate([self._kept, hashes[hashes <= np.uint64(self._bound)]]))
        self._kept = both[np.append(True, both[1:] != both[:-1])] if len(both) else both
        while len(self._kept) > _MOST_KEPT:
            self._bound //= 2
            self._kept = self._kept[self._kept <= np.uint64(self._bound)]

    def share_of_others(self, n: int) -> float:
        """The share of `n` hashes that came before."""
        return max(0.0, 1.0 - len(self._kept) * (2**64 / (self._bound + 1)) / n) if n else 0.0


def _as_frame(batch: pa.RecordBatch) -> pd.DataFrame:
    frame: pd.DataFrame = batch.to_pandas(types_mapper=_WITH_NULLS.get, strings_to_categorical=True)
    return frame


def _hash(rows: pd.DataFrame) -> np.ndarray:
    return np.asarray(pd.util.hash_pandas_object(rows, index=False).to_numpy())
