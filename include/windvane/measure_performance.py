"""Measures what the served predictions were worth, once their outcomes are known."""

import json
import logging
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from windvane.compare_models import interval, outcomes_of, score_outcomes
from windvane.config import ModelConfig
from windvane.decision_evidence import Performance

log = logging.getLogger(__name__)

_TWO_SIDED_95 = 0.975
_RESAMPLES = 200


def measure_performance(
    config: ModelConfig, joined: pd.DataFrame, *, classes: Sequence[Any] | None, min_rows: int, drawn_from: int = 0
) -> Performance:
    """Score the requests of a window against their outcomes.

    Args:
        config: The model's config: its metric, task and seed.
        joined: The rows that `join_outcomes` returns.
        classes: Labels in the order of the probabilities; None for a regression.
        min_rows: A version with fewer known outcomes gets no number of its own.
        drawn_from: Of how many scored rows they are a sample; 0 where they are all.

    Returns:
        The metric with its 95 % bootstrap interval, over all versions that served and per version.

    Raises:
        ConfigError: If scikit-learn has no such scorer, or it does not suit the task.
    """
    scored = len(joined)
    known, scores = _usable(config, joined, classes)
    if known.empty:
        problem = "no request of this window was scored" if not scored else f"none of {scored} scored rows has a known outcome yet"
        return Performance(config.metric, scored=scored, problem=problem, drawn_from=drawn_from)
    outcomes = outcomes_of(known["label"], config.task, classes)
    value, low, high = interval(config.metric, outcomes, scores, confidence=_TWO_SIDED_95, seed=config.train.seed, resamples=_RESAMPLES)
    versions = {
        str(version): score_outcomes(config.metric, outcomes[places], scores[places])
        for version, places in known.reset_index(drop=True).groupby("version").indices.items()
        if len(places) >= min_rows
    }
    problem = "" if np.isfinite(value) else f"{config.metric} is not defined on these {len(known)} rows, as when all have one outcome"
    log.info("%s: served %s %.4f on %d of %d scored rows", config.model, config.metric, value, len(known), scored)
    return Performance(config.metric, value, low, high, scored, len(known), versions, problem, drawn_from)


def _usable(config: ModelConfig, joined: pd.DataFrame, classes: Sequence[Any] | None) -> tuple[pd.DataFrame, np.ndarray]:
    """The rows with an outcome that the model knows and a finite score, and the scores."""
    known = joined[joined["label"].notna()]
    if classes is not None:
        known = known[known["label"].isin(list(classes))]
    if known.empty:
        return known, np.empty(0)
    if config.task == "multiclass_classification" and classes is not None:
        scores = np.array([_probabilities(text, len(classes)) for text in known["probabilities"]])
        finite = np.isfinite(scores).all(axis=1)
    else:
        scores = known["score"].to_numpy(dtype=float)
        finite = np.isfinite(scores)
    return known[finite], scores[finite]


def _probabilities(text: Any, size: int) -> list[float]:
    """The logged probabilities of a row; NaN for a row of a version with other classes."""
    values = json.loads(text) if isinstance(text, str) else None
    values = list(values.values()) if isinstance(values, dict) else values
    return [float(v) for v in values] if isinstance(values, list) and len(values) == size else [np.nan] * size
