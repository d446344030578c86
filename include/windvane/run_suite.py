"""Lets Great Expectations judge a frame."""

import json
import logging
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import pandas as pd

from windvane.check_suite import columns_of
from windvane.load_gx import load_gx, quiet_context

_log = logging.getLogger(__name__)

_HIDDEN = {"column", "column_A", "column_B", "column_list", "batch_id", "mostly"}


@dataclass(frozen=True)
class Judged:
    """What came out of one expectation; it carries counts and the suite's own text, never a value of the data.

    Attributes:
        name: Expectation type with its arguments, shortened.
        columns: The columns it is about, joined.
        severity: `critical` counts, `warning` and `info` are only reported.
        unexpected: Rows that fail it; None when it is not about rows.
        problem: Why it could not be evaluated; empty when it could.
        positions: The rows that fail it; empty unless `failed_rows`.
        mostly: Share of rows that must pass.
    """

    name: str
    columns: str
    success: bool
    severity: str
    unexpected: int | None
    problem: str
    mostly: float
    positions: tuple[int, ...] = field(repr=False)

    @property
    def counts(self) -> bool:
        """Whether the failure of this expectation has consequences."""
        return not self.success and self.severity == "critical"

    @property
    def blames_rows(self) -> bool:
        """Whether the failure is one of single rows: an expectation with `mostly` is about the batch as a whole."""
        return self.counts and bool(self.positions) and self.mostly >= 1

    def as_json(self) -> dict[str, Any]:
        """The form in which it is stored."""
        return {key: value for key, value in asdict(self).items() if key != "positions"}


def run_suite(frame: pd.DataFrame, expectations: Sequence[dict[str, Any]]) -> list[Judged]:
    """Evaluate every expectation on a frame.

    Args:
        frame: Rows; positions in the results count from 0.
        expectations: Entries of a suite file that `check_suite` has no problem with.

    Returns:
        One result per expectation, in the order of the suite.
    """
    if not expectations:
        return []
    gx = load_gx()
    source = quiet_context().data_sources.add_pandas("staged")
    batch = (
        source.add_dataframe_asset("batch")
        .add_batch_definition_whole_dataframe("whole")
        .get_batch({"dataframe": frame.reset_index(drop=True)})
    )
    # GX gives the results in an order of its own: the id says which is which
    entries = [{**entry, "id": str(place)} for place, entry in enumerate(expectations)]
    suite = gx.ExpectationSuite(name="suite", expectations=entries)
    outcome = batch.validate(suite, result_format={"result_format": "COMPLETE", "return_unexpected_index_query": False})
    results = {str(result.expectation_config.id): result for result in outcome.results}
    return [_judged(entry, results[entry["id"]]) for entry in entries]


def _judged(entry: dict[str, Any], result: Any) -> Judged:
    kwargs = entry.get("kwargs", {})
    counted = result.result or {}
    unexpected = counted.get("unexpected_count")
    mostly = kwargs.get("mostly", 1.0)
    return Judged(
        name=f"{entry['type']}{_arguments(kwargs)}",
        columns=", ".join(columns_of(kwargs)) or "table",
        success=bool(result.success),
        severity=str(entry.get("severity") or "critical"),
        unexpected=None if unexpected is None else int(unexpected),
        problem=_problem(result.exception_info or {}),
        mostly=float(mostly) if isinstance(mostly, (int, float)) else 1.0,
        positions=() if result.success else tuple(sorted({int(place) for place in counted.get("unexpected_index_list") or ()})),
    )


def _arguments(kwargs: dict[str, Any]) -> str:
    shown = json.dumps({key: value for key, value in kwargs.items() if key not in _HIDDEN and value is not None}, default=str)[1:-1]
    return f" ({shown[:117] + '...' if len(shown) > 120 else shown})" if shown else ""


def _problem(info: dict[str, Any]) -> str:
    """Why an expectation could not be evaluated: the kind of error only, since GX's message may quote a value."""
    raised = [info] if "raised_exception" in info else list(info.values())
    for entry in raised:
        if isinstance(entry, dict) and entry.get("raised_exception"):
            _log.debug("%s", entry.get("exception_message"))
            lines = str(entry.get("exception_traceback") or "").strip().splitlines()
            kind = re.match(r"[\w.]+", lines[-1]) if lines else None
            name = kind.group().rsplit(".", 1)[-1] if kind else "error"
            return f"could not be evaluated ({name}); check its arguments and the column's type"
    return ""
