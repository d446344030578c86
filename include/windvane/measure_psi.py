"""The population stability index, as many teams use it to start a retraining: what Windvane is compared with.

Siddiqi, Credit Risk Scorecards, 2006: the sum over bins of (share now - share then) x ln(share now / share then).
"""

import math

import numpy as np
import pandas as pd

_BINS = 10
_LEAST_SHARE = 1e-4


def largest_psi(reference: pd.DataFrame, rows: pd.DataFrame) -> tuple[str, float]:
    """The column that moved most and its index; ("", 0.0) where there is nothing to compare.

    Args:
        reference: Inputs as they were in training; numbers are cut at their deciles there.
        rows: The same columns now.
    """
    found = {str(c): _psi(reference[c], rows[c]) for c in reference.columns if c in rows.columns}
    told = {column: psi for column, psi in found.items() if math.isfinite(psi)}
    column = max(told, key=lambda c: told[c], default="")
    return column, told.get(column, 0.0)


def _psi(then: "pd.Series", now: "pd.Series") -> float:
    then, now = then.dropna(), now.dropna()
    if then.empty or now.empty or pd.api.types.is_datetime64_any_dtype(then.dtype):
        return math.nan
    if pd.api.types.is_numeric_dtype(then.dtype) and not pd.api.types.is_bool_dtype(then.dtype):
        values, newer = then.to_numpy(dtype=float), pd.to_numeric(now, errors="coerce").to_numpy(dtype=float)
        inner = np.unique(np.quantile(values, np.linspace(0, 1, _BINS + 1)[1:-1]))
        counts: list[np.ndarray] = [np.bincount(np.searchsorted(inner, v, side="right"), minlength=len(inner) + 1) for v in (values, newer)]
    else:
        every = pd.Index(then.astype(str).unique()).union(pd.Index(now.astype(str).unique()))
        counts = [v.astype(str).value_counts().reindex(every, fill_value=0).to_numpy() for v in (then, now)]
    before, after = (np.clip(c / c.sum(), _LEAST_SHARE, None) for c in counts)
    return float(np.sum((after - before) * np.log(after / before)))
