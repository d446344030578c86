"""Builds and fits a model file's pipeline reproducibly."""

import random
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from windvane.errors import ModelCodeError
from windvane.model_code import ModelCode


def fit_pipeline(code: ModelCode, params: Mapping[str, Any], made: pd.DataFrame, labels: "pd.Series[Any]", *, seed: int) -> Any:
    """Fit `build_pipeline(params)` on features; the same seed gives the same model.

    Raises:
        ModelCodeError: If building or fitting fails, or what was built is not a pipeline.
    """
    random.seed(seed)
    np.random.seed(seed)
    try:
        pipeline = code.build_pipeline(dict(params))
        unset = {name: seed for name, value in pipeline.get_params(deep=True).items() if _is_seed(name) and value is None}
        return pipeline.set_params(**unset).fit(made, labels)
    except Exception as exc:
        # the text of the error may quote data; the type and its cause in the log tell the author enough
        raise ModelCodeError(
            f"{code.path}: build_pipeline() or fit failed with {type(exc).__name__} on {len(made)} rows of "
            f"{list(made.columns)[:30]}; mend the pipeline"
        ) from exc


def _is_seed(name: str) -> bool:
    return name == "random_state" or name.endswith("__random_state")
