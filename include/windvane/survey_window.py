"""Looks through all rows of a window for what a sample of them hides: single infinite values, and rows that are repeated."""

from collections import Counter
from collections.abc import Sequence

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from windvane.check_inputs import MOST_REPEATS, most_distinct

_LARGEST = 2**40


class Survey:
    """Keeps of batches that pass by the number of infinite values, and of the rows all those that equal each other.

    Args:
        reference: The columns to look at, as they were in training.

    Attributes:
        rows: Rows that passed by.
        infinite: Column -> number of infinite values.
    """

    def __init__(self, reference: pd.DataFrame) -> None:
        self._columns: Sequence[str] = [str(column) for column in reference.columns]
        self._key = most_distinct(reference) if len(reference.columns) else None
        self._every = 1
        self._kept: list[pd.DataFrame] = []
        self.rows = 0
        self.infinite: Counter[str] = Counter()

    def see(self, batch: pa.RecordBatch, _: int = 0) -> None:
        """Take a batch into account."""
        names = [name for name in self._columns if name in batch.schema.names]
        self.rows += batch.num_rows
        for name in names:
            if pa.types.is_floating(batch.schema.field(name).type):
                self.infinite[name] += pc.sum(pc.is_inf(batch[name])).as_py() or 0
        if self._key in names:
            frame = batch.select(names).to_pandas()
            self._kept.append(frame[self._is_chosen(frame)])
            while sum(map(len, self._kept)) > MOST_REPEATS and self._every < _LARGEST:
                self._every *= 2
                self._kept = [part[self._is_chosen(part)] for part in self._kept]

    @property
    def alike(self) -> pd.DataFrame:
        """Rows of which none that equals one of them was left out, at most 200,000 of them."""
        return pd.concat(self._kept, ignore_index=True) if self._kept else pd.DataFrame(columns=list(self._columns))

    def _is_chosen(self, frame: pd.DataFrame) -> np.ndarray:
        # equal rows have equal keys, so that rows chosen by their key keep all that equal them
        hashes = pd.util.hash_pandas_object(frame[self._key], index=False).to_numpy()
        return np.asarray(hashes % np.uint64(self._every) == 0)
