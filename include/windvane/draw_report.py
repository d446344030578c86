"""Draws the report of a window: the decision, its evidence and the drift on top, and Evidently's plot of each column below.

Evidently writes category values and column names into its HTML as they come. So it never sees them as they come: it gets
bounded, seeded samples whose texts are neutralised and whose rare categories are pooled. It is not asked whether a column
drifted: each column gets a test that answers with the verdict that exists already.
"""

import logging
import os
import re
import threading
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from html import escape
from typing import Any

import numpy as np
import pandas as pd

from windvane.detect_drift import MAX_ROWS, ColumnDrift, Drift, unique_names
from windvane.profile_rows import Kind, numbers_of, text_of
from windvane.store_files import Place, write_bytes

log = logging.getLogger(__name__)

_MAX_CATEGORIES = 40
_MAX_PLOTS = 40
_MAX_LINES = 100
_MAX_LINE = 2_000
_POLICY = (
    "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; script-src 'unsafe-inline' 'unsafe-eval'; "
    "style-src 'unsafe-inline'; img-src data: blob:; font-src data:\">"
)
_STYLE = (
    "<style>.windvane{font:15px/1.5 system-ui,sans-serif;max-width:1100px;margin:24px auto;padding:0 16px;color:#1b1f24}"
    ".windvane h1{font-size:24px;margin:0 0 8px}.windvane table{border-collapse:collapse;width:100%;margin-top:12px}"
    ".windvane th,.windvane td{text-align:left;padding:4px 10px 4px 0;border-bottom:1px solid #d8dee4;vertical-align:top}"
    ".windvane td.n{text-align:right;font-variant-numeric:tabular-nums}.windvane tr.drifted td{font-weight:600}</style>"
)
_EMPTY_PAGE = "<!DOCTYPE html><html><head><meta charset='utf-8'></head><body></body></html>"
# Evidently keeps its tests in one place for the whole process
_LOCK = threading.Lock()


def draw_report(
    current: pd.DataFrame,
    reference: pd.DataFrame,
    drift: Drift,
    *,
    decision: str,
    reason: str,
    evidence: Sequence[str],
    path: Place,
    seed: int,
) -> Place:
    """Draw the report of a window as one HTML file and return its path.

    Args:
        current: Inputs of the window; a sample of them is drawn.
        reference: The reference that the drift was measured against.
        drift: What `detect_drift` found; nothing is judged anew.
        decision: The decision of the window.
        reason: Its reason.
        evidence: Lines of evidence.
        path: The file; it is replaced as a whole.
        seed: Seed of the samples.

    Raises:
        StorageError: If the file cannot be written.
    """
    started = time.perf_counter()
    head = _head(drift, decision=decision, reason=reason, evidence=evidence)
    now, then = (_sample(frame, seed) for frame in (current, reference))
    names = unique_names(map(str, reference.columns))
    verdicts = {verdict.column: verdict for verdict in drift.columns}
    # what drifted is always drawn, however many columns there are
    shown = sorted((c for c in verdicts.values()), key=lambda c: -c.score / c.threshold)[:_MAX_PLOTS]
    wanted = {verdict.column for verdict in shown}
    pairs: dict[str, tuple[pd.Series[Any], pd.Series[Any]]] = {}
    for column in reference.columns:
        name = names[str(column)]
        if name in wanted and column in current.columns:
            pair = _prepare(then[column], now[column], verdicts[name].kind)
            if len(pair[0]) and len(pair[1]):
                pairs[name] = pair
    page = _EMPTY_PAGE
    if pairs:
        try:
            page = _plot(pairs, [verdict for verdict in shown if verdict.column in pairs])
        except (ValueError, ArithmeticError) as exc:
            # such as equal numbers so large that no histogram can tell them apart: the decision must not be lost with its picture
            log.warning("report: Evidently cannot draw the columns: %s: %.200s", type(exc).__name__, exc)
            head += f"<p class='windvane'>The columns could not be drawn: {_inert(type(exc).__name__)}.</p>"
    page = page.replace("<head>", f"<head>{_POLICY}{_STYLE}", 1)
    page = re.sub("<body[^>]*>", lambda tag: tag.group() + head, page, count=1)
    write_bytes(path, page.encode("utf-8", errors="replace"))
    log.info("report: %d of %d columns drawn, %.1f s", len(pairs), drift.compared, time.perf_counter() - started)
    return path


def _head(drift: Drift, *, decision: str, reason: str, evidence: Sequence[str]) -> str:
    """The part above the plots; every text is escaped."""
    lines = [str(line) for line in evidence[:_MAX_LINES]]
    if len(evidence) > _MAX_LINES:
        lines.append(f"and {len(evidence) - _MAX_LINES} more")
    every = (*((drift.multivariate,) if drift.multivariate else ()), *drift.columns)
    table = sorted(every, key=lambda c: -c.score / c.threshold)
    rows = [_row(name, "lost", "", "", "no usable values, or one value only") for name in drift.lost]
    rows += [
        _row(c.column, "drifted" if c.drifted else "usual", f"{c.score:.3g}", f"{c.threshold:.3g}", f"{c.how} ({c.distance})")
        for c in table
    ]
    parts = [
        "<div class='windvane'>",
        f"<h1>Decision: {_inert(decision)}</h1>",
        f"<p>{_inert(reason)}</p>",
        "<ul>" + "".join(f"<li>{_inert(line)}</li>" for line in lines) + "</ul>" if lines else "",
        f"<p>{len(drift.lost) + sum(c.drifted for c in drift.columns)} of {drift.compared} columns drifted, in {drift.rows} rows.</p>",
        "<table><tr><th>Column</th><th>Verdict</th><th>Distance</th><th>Threshold</th><th>What changed most</th></tr>"
        + "".join(rows)
        + "</table>"
        if rows
        else "",
        "<p>Not compared: " + "; ".join(map(_inert, drift.skipped)) + "</p>" if drift.skipped else "",
        "</div>",
    ]
    return "".join(parts)


def _row(name: str, verdict: str, score: str, threshold: str, how: str) -> str:
    marked = "" if verdict == "usual" else " class='drifted'"
    cells = f"<td>{_inert(name)}</td><td>{verdict}</td><td class='n'>{score}</td><td class='n'>{threshold}</td><td>{_inert(how)}</td>"
    return f"<tr{marked}>{cells}</tr>"


def _inert(text: object) -> str:
    shown = str(text)
    return escape(shown if len(shown) <= _MAX_LINE else shown[: _MAX_LINE - 1] + "…")


def _sample(frame: pd.DataFrame, seed: int) -> pd.DataFrame:
    return frame if len(frame) <= MAX_ROWS else frame.sample(MAX_ROWS, random_state=seed)


def _prepare(then: "pd.Series[Any]", now: "pd.Series[Any]", kind: Kind) -> tuple["pd.Series[Any]", "pd.Series[Any]"]:
    """Both sides of a column as Evidently may see them, without missing values, rows renumbered."""
    if kind == "number":
        numbers = [numbers_of(side) for side in (then, now)]
        kept = [side[np.isfinite(side)] for side in numbers]
        return pd.Series(kept[0]), pd.Series(kept[1])
    texts = [side.dropna().map(text_of).astype(object).reset_index(drop=True) for side in (then, now)]
    shares = pd.concat([side.value_counts(normalize=True) for side in texts], axis=1).max(axis=1)
    names = unique_names(list(shares.sort_values(ascending=False, kind="stable").index[:_MAX_CATEGORIES]))
    pooled = [side.map(names).fillna("(other)").astype(object) for side in texts]
    return pooled[0], pooled[1]


def _plot(pairs: Mapping[str, tuple["pd.Series[Any]", "pd.Series[Any]"]], verdicts: Sequence[ColumnDrift]) -> str:
    """Evidently's page with one plot for each column, under the verdicts given."""
    os.environ.setdefault("DO_NOT_TRACK", "1")
    with warnings.catch_warnings():
        # what it imports in turn is deprecated here and there: nothing that its caller can mend
        warnings.simplefilter("ignore")
        from evidently import DataDefinition, Dataset, Report
        from evidently.legacy.calculations.stattests import StatTest, register_stattest
        from evidently.legacy.core import ColumnType
        from evidently.metrics import ValueDrift
    definition = DataDefinition(
        numerical_columns=[verdict.column for verdict in verdicts if verdict.kind == "number"],
        categorical_columns=[verdict.column for verdict in verdicts if verdict.kind == "category"],
    )
    metrics = []
    with _LOCK, warnings.catch_warnings():
        # constant columns have no density: the plot is plain then
        warnings.simplefilter("ignore")
        for place, verdict in enumerate(verdicts):
            test = StatTest(
                name=f"windvane_{place}",
                display_name=f"{verdict.distance}, threshold {verdict.threshold:.3g}",
                allowed_feature_types=[ColumnType.Numerical, ColumnType.Categorical],
                default_threshold=verdict.threshold,
            )
            register_stattest(test, default_impl=_answer(verdict))
            metrics.append(ValueDrift(column=verdict.column, method=test.name, threshold=verdict.threshold))
        sides = [pd.DataFrame({name: pair[side] for name, pair in pairs.items()}) for side in (1, 0)]
        snapshot = Report(metrics, include_tests=False).run(*(Dataset.from_pandas(side, data_definition=definition) for side in sides))
        return str(snapshot.get_html_str(as_iframe=False))


def _answer(verdict: ColumnDrift) -> Callable[..., tuple[float, bool]]:
    def answer(*_: Any) -> tuple[float, bool]:
        return verdict.score, verdict.drifted

    return answer
