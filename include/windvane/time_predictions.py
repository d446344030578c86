"""Measures how long two models take to predict one row: in one process, on the same rows, turn by turn."""

import statistics
import time
from typing import TYPE_CHECKING

from windvane.signature import arrays_of, conform

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd

    from windvane.predictor import Predictor

_MOST_ROWS = 100
_MOST_SECONDS = 1.0


def time_predictions(rows: "pd.DataFrame", *, challenger: "Predictor", champion: "Predictor | None") -> dict[str, float | None]:
    """Return `challenger_ms` and `champion_ms`: the median of one row's prediction, without network and parsing.

    Both take turns, so that whatever else the machine does meets both alike. It ends after a second at the latest, or as soon after as
    each has predicted one row.

    Args:
        rows: Rows that both can predict, at least one.
        champion: None when nothing serves, or when it cannot predict these rows.
    """
    models = {"challenger_ms": challenger} | ({} if champion is None else {"champion_ms": champion})
    taken: dict[str, list[float]] = {name: [] for name in models}
    sample = rows.iloc[:: -(-len(rows) // _MOST_ROWS)]
    inputs = {name: _single_rows(model, sample) for name, model in models.items()}
    for name, model in models.items():
        model.predict_columns(inputs[name][0])  # the first one also loads what is loaded late
    end = time.monotonic() + _MOST_SECONDS
    for turn in range(len(sample)):
        for name in list(models) if turn % 2 else list(reversed(models)):
            began = time.perf_counter()
            models[name].predict_columns(inputs[name][turn])
            taken[name].append(1000 * (time.perf_counter() - began))
        if time.monotonic() > end:
            break
    medians: dict[str, float | None] = {name: round(statistics.median(times), 4) for name, times in taken.items()}
    return {"champion_ms": None} | medians


def _single_rows(model: "Predictor", sample: "pd.DataFrame") -> "list[dict[str, np.ndarray]]":
    columns = arrays_of(conform(sample, model.signature), model.signature)
    return [{name: values[row : row + 1] for name, values in columns.items()} for row in range(len(sample))]
