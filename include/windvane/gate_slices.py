"""The gate on slices: the challenger may not be much worse than the champion on the rows that share a value of a column."""

import math

import numpy as np
import pandas as pd

from windvane.compare_models import paired_bootstrap, score_outcomes
from windvane.config import ModelConfig, Slices
from windvane.verdict import Gate, Slice

_NAME = "slices"
_MOST_NAMED = 5
_MOST_CHARACTERS = 200


def find_slices(
    config: ModelConfig, *, rows: pd.DataFrame, outcomes: np.ndarray, challenger: np.ndarray, champion: np.ndarray | None
) -> tuple[Slice, ...]:
    """Score both models on every slice of `gates.slices` that is large enough: the largest loss first, without a champion the lowest score.

    Args:
        rows: n rows with the columns of the slices.
        outcomes: Shape (n,), from `compare_models.outcomes_of`.
        challenger: From `compare_models.scores_of`: shape (n,) or (n, k).
        champion: The same; None when there is none.

    Returns:
        Slices on which the metric is not defined are left out; none without `gates.slices`.
    """
    rule, found = config.gates.slices, []
    for column in rule.columns if rule else ():
        if rule is None or column not in rows.columns:
            continue
        codes, values = pd.factorize(rows[column], use_na_sentinel=False)
        for code, value in enumerate(values):
            members = codes == code
            n = int(members.sum())
            if n < rule.min_rows:
                continue
            ours = score_outcomes(config.metric, outcomes[members], challenger[members])
            theirs = None if champion is None else score_outcomes(config.metric, outcomes[members], champion[members])
            if not math.isfinite(ours) or (theirs is not None and not math.isfinite(theirs)):
                continue
            lost = champion is not None and theirs is not None and theirs - ours > rule.max_drop
            sure = lost and champion is not None and _is_sure(config, outcomes[members], challenger[members], champion[members])
            found.append(Slice(column, str(value)[:_MOST_CHARACTERS], n, ours, theirs, not sure))
    return tuple(sorted(found, key=lambda part: (part.passed, -part.loss, part.challenger)))


def judge_slices(rule: Slices, slices: tuple[Slice, ...], *, columns: pd.Index) -> Gate:
    """Refuse a challenger that surely loses more than is allowed on a slice.

    Args:
        slices: From `find_slices`.
        columns: Of the data.
    """
    lost = [name for name in rule.columns if name not in columns]
    if lost:
        return Gate(_NAME, False, f"The data has no column {', '.join(lost)}; mend gates.slices.columns.")
    worst = max([0.0, *(part.loss for part in slices)])
    bad = sorted((part for part in slices if not part.passed), key=lambda part: -part.loss)
    if not bad:
        reason = f"{len(slices)} slices of at least {rule.min_rows} rows: the largest loss against the champion is {worst:.4f}"
        chance = ", which may be chance" if worst > rule.max_drop else ""
        return Gate(_NAME, True, f"{reason}{chance}; {rule.max_drop:g} is allowed.", worst, rule.max_drop)
    named = "; ".join(f"{part.column}={part.value:.40} loses {part.loss:.4f} on {part.rows} rows" for part in bad[:_MOST_NAMED])
    return Gate(_NAME, False, f"{len(bad)} of {len(slices)} slices lose more than {rule.max_drop:g}: {named}.", worst, rule.max_drop)


def _is_sure(config: ModelConfig, outcomes: np.ndarray, challenger: np.ndarray, champion: np.ndarray) -> bool:
    """Whether the challenger's loss is more than chance."""
    confidence, seed = config.gates.versus_champion.confidence, config.train.seed
    found = paired_bootstrap(config.metric, outcomes, challenger, champion, confidence=confidence, seed=seed)
    return not found.high >= 0
