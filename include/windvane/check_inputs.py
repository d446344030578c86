"""Tells whether the rows of a window are broken rather than merely different: such rows are mended, not learned."""

import contextlib
import json
import logging
import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from windvane.check_column import CHANCE, Finding, Problem, check_column
from windvane.detect_drift import neutralise
from windvane.errors import DataError
from windvane.known_column import SAMPLED, Known, as_numbers, kind_of, natural_share, noise
from windvane.signature import Column, conform

if TYPE_CHECKING:
    from windvane.survey_window import Survey

log = logging.getLogger(__name__)

__all__ = ["Problem", "check_inputs", "check_labels", "conform_each", "parse_served_inputs"]

_REPEATED, _HARDLY_ANY, _LOADED_TWICE = 0.1, 0.01, 0.5
_COLLAPSED, _COLLAPSED_WITH_INPUTS = 0.1, 0.02
_NEW_CLASS = 0.2
_STUCK_SHARE, _STUCK_CHANCE, _LONGER = 0.2, 1e-9, 3


def check_inputs(
    frame: pd.DataFrame,
    reference: pd.DataFrame | None,
    *,
    required: Sequence[str] = (),
    where: str = "",
    skip: Sequence[str] = (),
    stands_for: int | None = None,
    may_repeat: bool = False,
    survey: "Survey | None" = None,
) -> tuple[Problem, ...]:
    """List what is broken in the inputs of a window; a mere shift of a distribution is not.

    Args:
        frame: The rows of the window.
        reference: The same columns as they were in training, in time order; None when nothing serves yet.
        required: Columns that must be there, besides those of the reference.
        where: Put before each problem: which rows these are.
        skip: Columns not to check, such as the row's own time, which always moves on.
        stands_for: Number of rows that the reference is an even sample of; None when not known. With it, values that come in
            long runs by nature, such as zeros at night, are told from those that are stuck.
        may_repeat: Whether equal rows are no problem: clients may ask twice for the same.
        survey: What all rows of the window showed, where `frame` is a sample of them.

    Returns:
        The problems, in the order of the columns; no text of any row is in them.
    """
    if frame.empty:
        return ()
    columns = dict.fromkeys([*required, *(map(str, reference.columns) if reference is not None else ())])
    problems: list[Problem] = []
    for column in columns:
        if column in skip:
            continue
        name = neutralise(column)
        if column not in frame.columns:
            problems.append(Problem("lost", name, len(frame), f"{where}column {name} is lost; the model needs it"))
            continue
        then = reference[column] if reference is not None and column in reference.columns and len(reference) else None
        found = check_column(frame[column], then, stands_for=stands_for)
        problems += [Problem(f.check, name, f.rows, f"{where}column {name} {f.text}") for f in found]
    if survey is not None:
        infinite = [(neutralise(column), count) for column, count in survey.infinite.items() if count and column not in skip]
        problems = [problem for problem in problems if problem.check != "infinite"]
        problems += [
            Problem("infinite", name, n, f"{where}column {name} has {n} infinite values in {survey.rows} rows") for name, n in infinite
        ]
    if reference is not None and not may_repeat and not problems:
        names = [column for column in columns if column in reference.columns and column in frame.columns and column not in skip]
        problems += (
            _check_repeats(frame[names], reference[names], where) if survey is None else _check_survey(survey, reference[names], where)
        )
    return tuple(problems)


def check_labels(
    labels: "pd.Series[Any]",
    earlier: "pd.Series[Any]",
    *,
    previous: "pd.Series[Any] | None" = None,
    classifier: bool,
    inputs_moved: bool = False,
    min_rows: int = 50,
    stands_for: int | None = None,
    previous_stands: float = 1.0,
) -> tuple[Problem, ...]:
    """List what is broken in the outcomes of a window: a class that all but vanished or took over, values replaced by one.

    A rate that changed is no problem, and neither is what the window before showed as well: that came from no accident, or was
    released by a person.

    Args:
        labels: Outcomes of the window in time order; nulls are not yet known and not judged.
        earlier: Outcomes that the model was trained on, in time order; empty when not known.
        previous: Outcomes of the window before, in time order; without those that are held back as bad data.
        classifier: Whether the outcomes are classes.
        inputs_moved: Whether the inputs drifted: the outcomes may follow them, so only an almost complete collapse counts.
        min_rows: Fewer known outcomes than this are not judged.
        stands_for: Number of rows, as thinned as `labels`, that `earlier` is an even sample of; None when not known.
        previous_stands: For how many of `labels` each of `previous` stands: more than 1 where it is the more thinned sample.
    """
    now, then = labels.dropna(), earlier.dropna()
    if len(now) < min_rows:
        return ()
    before = previous.dropna() if previous is not None else None
    before = before if before is not None and len(before) >= min_rows else None
    find = _find_in_classes if classifier else _find_in_values
    found = find(now, then, before, inputs_moved, stands_for, previous_stands)
    if found and before is not None:
        as_thinned = max(1, round(stands_for / previous_stands)) if stands_for else None
        known = {(f.check, f.about) for f in find(before, then, None, inputs_moved, as_thinned, 1.0)}
        # no model can be trained on infinite outcomes, whoever finds them good
        found = [f for f in found if f.check == "infinite" or (f.check, f.about) not in known]
    return tuple(Problem(f.check, None, f.rows, f.text) for f in found)


def parse_served_inputs(features: "pd.Series[Any]", *, max_rows: int, seed: int) -> pd.DataFrame:
    """Turn logged inputs (one JSON object per row) into columns; at most `max_rows`, drawn with `seed`."""
    drawn = features.dropna()
    drawn = drawn.sample(max_rows, random_state=seed) if len(drawn) > max_rows else drawn
    return pd.DataFrame.from_records([json.loads(text) for text in drawn])


def conform_each(frame: pd.DataFrame, columns: Sequence[Column]) -> pd.DataFrame:
    """Bring columns into the types in which the reference holds them; one that is missing or does not fit stays as it is."""
    made = frame.copy(deep=False)
    for column in columns:
        if column.name in frame.columns:
            # what does not fit is what the checks are there to name
            with contextlib.suppress(DataError):
                made[column.name] = conform(frame[[column.name]], [column])[column.name]
    return made


def _check_repeats(frame: pd.DataFrame, reference: pd.DataFrame, where: str) -> Iterator[Problem]:
    """Rows that are repeated entirely, where training had hardly any."""
    n, m = len(frame), len(reference)
    if not frame.shape[1] or n < 2 or m < 2:
        return
    # rows cannot repeat more than their values do
    distinct = {str(column): reference[column].nunique() for column in reference.columns}
    repeated = n - frame[max(distinct, key=lambda column: distinct[column])].nunique(dropna=False)
    if repeated <= _REPEATED * n:
        return
    luck = _repeats_by_luck(reference, n)
    share = float(frame.duplicated().mean())
    if luck is not None and share > _REPEATED + luck + noise(0.0, n, m):
        yield _repeated(share, n, where)


def _check_survey(survey: "Survey", reference: pd.DataFrame, where: str) -> Iterator[Problem]:
    """The same of all rows of a window that is looked at in a sample; rows that repeat another's name as well do so by no chance."""
    n, m = survey.rows, len(reference)
    if not reference.shape[1] or n < 2 or m < 2:
        return
    if survey.repeated_named > _REPEATED:
        rows = round(survey.repeated_named * survey.named)
        text = f"{where}{survey.repeated_named:.1%} of {survey.named} rows repeat another row entirely, their id included"
        yield Problem("repeated", None, rows, text)
        return
    luck = _repeats_by_luck(reference, n)
    if luck is None:
        return
    if _REPEATED + luck >= _LOADED_TWICE:
        told = ", unless with their ids" if survey.named else "; name the column of a row's id in data.id"
        log.warning("%s%d rows: too many for %d rows of training to tell whether they were loaded twice%s", where, n, m, told)
    if survey.repeated > _REPEATED + luck + noise(0.0, n, m):
        yield _repeated(survey.repeated, n, where)


def _repeated(share: float, n: int, where: str) -> Problem:
    text = f"{where}{share:.1%} of {n} rows repeat another row entirely, hardly any in training"
    return Problem("repeated", None, round(share * n), text)


def _repeats_by_luck(reference: pd.DataFrame, n: int) -> float | None:
    """Bound on the share of rows that repeat another by chance; None where more than hardly any did in training.

    The more rows there are, the more are equal by chance: that is bounded by the pairs of the reference.
    """
    m = len(reference)
    counts = reference.groupby(list(reference.columns), dropna=False, observed=True, sort=False).size().to_numpy()
    if 1 - len(counts) / m > _HARDLY_ANY:
        return None
    pairs = float((counts * (counts - 1) / 2).sum())
    return n / 2 * (pairs + 5 * math.sqrt(pairs + 1)) / (m * (m - 1) / 2)


def _find_in_classes(
    now: "pd.Series[Any]",
    then: "pd.Series[Any]",
    before: "pd.Series[Any] | None",
    inputs_moved: bool,
    stands_for: int | None,
    previous_stands: float,
) -> list[Finding]:
    n = len(now)
    shares = now.value_counts(normalize=True)
    if then.empty:
        return [Finding("constant", n, "the label has a single class")] if len(shares) == 1 else []
    usual, found = then.value_counts(normalize=True), []
    for label, share in usual.items():
        seen, least = float(shares.get(label, 0.0)), _least(then, label, n, stands_for)
        least = min([least, *([float((before == label).mean())] if before is not None else [])])
        most = (_COLLAPSED_WITH_INPUTS if inputs_moved else _COLLAPSED) * least
        if seen <= most and _luck(seen, least, n) < CHANCE:
            text = f"class {neutralise(label)} of the label fell from {share:.1%} to {seen:.2%} of the outcomes"
            found.append(Finding("vanished", n, text, str(label)))
    new = float(shares[~shares.index.isin(usual.index)].sum())
    if new > _NEW_CLASS + noise(0.0, n, len(then)):
        found.append(Finding("categories", round(new * n), f"classes that training never saw are {new:.1%} of the outcomes"))
    return found or ([] if inputs_moved else _find_stuck(now, then, before, previous_stands))


def _find_stuck(now: "pd.Series[Any]", then: "pd.Series[Any]", before: "pd.Series[Any] | None", previous_stands: float) -> list[Finding]:
    """A part of the window in which the label is one and the same class, though classes alternate."""
    if before is None and len(then) >= SAMPLED:  # an even sample of rows does not tell how long runs are
        return []
    run, label = _longest_run(now)
    usual = max(float((rows == label).mean()) for rows in (then, before) if rows is not None)
    if run < _STUCK_SHARE * len(now) or usual in (0.0, 1.0) or math.log(len(now)) + run * math.log(usual) > math.log(_STUCK_CHANCE):
        return []
    longest: float = _longest_run(then)[0]
    if before is not None:
        # a run by its nature is as many times longer as the rows are less thinned, one by chance is not: the longer of both counts
        longest = max(longest, _longest_run(before)[0] * max(1.0, previous_stands))
    if run <= _LONGER * longest:
        return []
    return [Finding("stuck", run, f"class {neutralise(label)} of the label is the outcome of {run} rows one after another", str(label))]


def _longest_run(values: "pd.Series[Any]") -> tuple[int, Any]:
    codes, distinct = pd.factorize(values)
    starts = np.flatnonzero(np.concatenate([[True], codes[1:] != codes[:-1]]))
    lengths = np.diff(np.append(starts, len(codes)))
    at = int(lengths.argmax())
    return int(lengths[at]), distinct[codes[starts[at]]]


def _find_in_values(
    now: "pd.Series[Any]",
    then: "pd.Series[Any]",
    before: "pd.Series[Any] | None",
    inputs_moved: bool,
    stands_for: int | None,
    previous_stands: float,
) -> list[Finding]:
    numbers = as_numbers(now)
    if then.empty:
        return [Finding("constant", len(now), "the label is the same in every row")] if len(np.unique(numbers)) == 1 else []
    found = check_column(pd.Series(numbers), pd.Series(as_numbers(then)), stands_for=stands_for)
    return [Finding(f.check, f.rows, _SAME if f.check == "constant" else f"the label {f.text}", f.about) for f in found]


_SAME = "the label is the same in every row"


def _least(then: "pd.Series[Any]", label: Any, rows: int, stands_for: int | None) -> float:
    """The least share of a class that is natural in a window of so many rows."""
    known = Known.of(then, kind_of(then), stands_for)
    return 1.0 - natural_share((then != label).to_numpy(dtype=bool), known.stretch(rows))


def _luck(seen: float, share: float, rows: int) -> float:
    """Bound on the chance to see a share this far below the true one (Chernoff, 1952)."""
    if share >= 1.0:
        return 0.0
    if share <= 0.0:
        return 1.0
    divergence = (seen * math.log(seen / share) if seen else 0.0) + (1.0 - seen) * math.log((1.0 - seen) / (1.0 - share))
    return math.exp(-rows * divergence)
