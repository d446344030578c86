"""Turns raw input columns into numbers for a small model about another model's errors."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

_MOST_CATEGORIES = 50


@dataclass(frozen=True)
class Encoding:
    """Turns raw columns into numbers: categories into their place by the mean of a target, times into nothing.

    Attributes:
        columns: Name, and its categories with their places or None for a column of numbers.
    """

    columns: tuple[tuple[str, Mapping[Any, float] | None], ...]

    @classmethod
    def of(cls, inputs: pd.DataFrame | None, target: np.ndarray) -> "Encoding":
        """Learn the categories.

        Args:
            target: Shape (n,): what orders the categories, the most frequent fifty of a column.
        """
        kept: list[tuple[str, Mapping[Any, float] | None]] = []
        for name in [] if inputs is None else inputs.columns:
            column = inputs[name] if inputs is not None else None
            if column is None or pd.api.types.is_datetime64_any_dtype(column) or pd.api.types.is_timedelta64_dtype(column):
                continue
            if pd.api.types.is_numeric_dtype(column):
                kept.append((name, None))
            else:
                texts = column.astype(str).where(column.notna().to_numpy())
                common = texts.value_counts().index[:_MOST_CATEGORIES]
                means = pd.Series(target, index=texts.index).groupby(texts).mean().reindex(common).sort_values()
                kept.append((name, {value: float(place) for place, value in enumerate(means.index)}))
        return cls(tuple(kept))

    def encode(self, scores: np.ndarray, inputs: pd.DataFrame | None) -> np.ndarray:
        """Shape (n, 1 + columns): the scores first; a column that is not there is missing in each row."""
        made = [scores]
        for name, categories in self.columns:
            if inputs is None or name not in inputs.columns:
                made.append(np.full(len(scores), np.nan))
            elif categories is None:
                made.append(pd.to_numeric(inputs[name], errors="coerce").to_numpy(dtype=float, na_value=np.nan))
            else:
                made.append(inputs[name].astype(str).map(categories).to_numpy(dtype=float))
        encoded: np.ndarray = np.column_stack(made)
        encoded[~np.isfinite(encoded)] = np.nan
        return encoded
