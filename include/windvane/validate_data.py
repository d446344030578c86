"""Judges a staged batch: which rows are valid, which go to quarantine and why, or that the whole batch is refused."""

import hashlib
import json
import logging
import math
import time as clock
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import date, datetime
from typing import Any

import numpy as np
import pyarrow as pa

from windvane.check_suite import columns_of, load_suite
from windvane.column_types import TIME
from windvane.config import ModelConfig, suite_path
from windvane.errors import DataError
from windvane.extract_data import Staged
from windvane.guard_data import RowFailure, guard_data
from windvane.render_validation import render_validation
from windvane.run_suite import Judged, run_suite
from windvane.settings import Settings
from windvane.store_files import Place, as_parquet, place_of, read_parquet, write_bytes

_log = logging.getLogger(__name__)

_MAX_REASONS = 10
_QUARANTINE = pa.schema(
    [
        ("window_key", pa.string()),
        ("window_start", TIME),
        ("window_end", TIME),
        ("id", pa.string()),
        ("reason", pa.string()),
        ("row", pa.string()),
        ("digest", pa.string()),
    ]
)


@dataclass(frozen=True)
class Validation:
    """What is to be committed of a staged batch.

    Attributes:
        valid_rows: Rows for the table `raw`; 0 when the batch is refused.
        invalid_rows: Rows for the table `quarantine`; all of them when the batch is refused.
        refused: Whether nothing of the batch may be committed.
        reasons: What is wrong, at most ten lines, without values of the data.
        result_path: The result as JSON.
        report_path: The result as an HTML page.
        valid_path: Parquet file of the valid rows; `valid_digest` is its SHA-256.
        quarantine_path: Parquet file of the quarantined rows; `quarantine_digest` is its SHA-256.
    """

    staged: Staged
    valid_rows: int
    invalid_rows: int
    refused: bool
    reasons: tuple[str, ...]
    result_path: Place
    report_path: Place
    valid_path: Place
    valid_digest: str
    quarantine_path: Place
    quarantine_digest: str

    def read_valid(self) -> pa.Table:
        """The rows to commit."""
        return read_parquet(self.valid_path, sha256=self.valid_digest)

    def read_quarantine(self) -> pa.Table:
        """The rows to quarantine, each with its reason."""
        return read_parquet(self.quarantine_path, sha256=self.quarantine_digest)

    def raise_if_refused(self) -> None:
        """Stop here when the batch is refused.

        Raises:
            DataError: With the reasons and where the report is.
        """
        if self.refused:
            lines = "".join(f"\n- {reason}" for reason in self.reasons)
            raise DataError(
                f"window {self.staged.window}: the batch of {self.staged.rows} rows is refused:{lines}\nReport: {self.report_path}"
            )

    def as_json(self) -> dict[str, Any]:
        """The form in which tasks hand it on."""
        plain = {key: str(value) if isinstance(value, Place) else value for key, value in vars(self).items()}
        return {**plain, "staged": self.staged.as_json(), "reasons": list(self.reasons)}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> "Validation":
        """Read what `as_json` wrote."""
        paths = {key: place_of(value[key]) for key in ("result_path", "report_path", "valid_path", "quarantine_path")}
        return cls(**{**value, **paths, "staged": Staged.from_json(value["staged"]), "reasons": tuple(value["reasons"])})


def validate_data(config: ModelConfig, settings: Settings, staged: Staged, *, known_schema: Mapping[str, str] | None) -> Validation:
    """Judge a staged batch by the guards that hold for all data, then by the model's expectation suite.

    Args:
        known_schema: Column name to Arrow type of the model's table `raw`, as `Lake.columns` gives it; None before the first commit.

    Returns:
        The judgement; a refused batch is one too, see `Validation.raise_if_refused`.

    Raises:
        ConfigError: If the suite is missing or wrong.
        DataError: If the staged file changed.
        StorageError: If the result cannot be stored.
    """
    started = clock.perf_counter()
    path = suite_path(settings.project, config.model, config.data.suite) if config.data.suite else None
    expectations = load_suite(path) if path else []
    suite_columns = [name for entry in expectations for name in columns_of(entry.get("kwargs", {}))]
    guarded = guard_data(staged.read(), config.data, window=staged.window, known_schema=known_schema, suite_columns=suite_columns)
    problems, failures, judged = list(guarded.problems), list(guarded.failures), list[Judged]()
    if not problems:
        clean = np.setdiff1d(np.arange(staged.rows), [place for failure in failures for place in failure.positions])
        if len(clean):
            judged = run_suite(guarded.table.take(pa.array(clean)).to_pandas(), expectations)
            failures += [RowFailure(_about(entry), clean[list(entry.positions)].tolist()) for entry in judged if entry.blames_rows]
            problems += [_batch_problem(entry, rows=len(clean)) for entry in judged if entry.counts and not entry.blames_rows]
    validation = _store(config, settings, staged, table=guarded.table, problems=problems, failures=failures, judged=judged)
    passed = sum(entry.success for entry in judged)
    _log.info("Expectations passed: %d of %d, in %.2f s", passed, len(judged), clock.perf_counter() - started)
    for reason in validation.reasons:
        _log.warning("%s", reason)
    _log.info(
        "Rows: %d valid, %d quarantined%s", validation.valid_rows, validation.invalid_rows, " (refused)" if validation.refused else ""
    )
    return validation


def _store(
    config: ModelConfig,
    settings: Settings,
    staged: Staged,
    *,
    table: pa.Table,
    problems: Sequence[str],
    failures: Sequence[RowFailure],
    judged: Sequence[Judged],
) -> Validation:
    invalid = {place for failure in failures for place in failure.positions}
    nothing_left = bool(failures) and len(invalid) == staged.rows
    refused = bool(problems) or nothing_left or (bool(invalid) and config.data.on_invalid == "quarantine_batch")
    lines = [*problems, *(f"{failure.reason}: {len(failure.positions)} of {staged.rows} rows" for failure in failures)]
    if nothing_left and not problems:
        lines.insert(0, "no valid row is left")
    why = "the batch was refused: " + "; ".join(lines[:3]) if refused else ""
    quarantined = _quarantine(table, config, staged, failures=failures, rows=range(staged.rows) if refused else sorted(invalid), why=why)
    valid = table.slice(0, 0) if refused else table.take(pa.array(sorted(set(range(staged.rows)) - invalid), pa.int64()))
    judgement = hashlib.sha256(repr((lines, refused, [entry.as_json() for entry in judged])).encode()).hexdigest()[:12]
    reports = settings.reports / config.model / staged.window.key
    contents = {name: as_parquet(rows) for name, rows in (("valid", valid), ("quarantine", quarantined))}
    validation = Validation(
        staged=staged,
        valid_rows=valid.num_rows,
        invalid_rows=quarantined.num_rows,
        refused=refused,
        reasons=_bounded(lines),
        result_path=reports / f"validation-{staged.digest[:12]}.json",
        report_path=reports / f"validation-{staged.digest[:12]}.html",
        # named by the judgement too: another suite on the same batch must not change files that a commit is about to read
        valid_path=staged.directory / f"valid-{judgement}.parquet",
        valid_digest=hashlib.sha256(contents["valid"]).hexdigest(),
        quarantine_path=staged.directory / f"quarantine-{judgement}.parquet",
        quarantine_digest=hashlib.sha256(contents["quarantine"]).hexdigest(),
    )
    result = {
        "model": config.model,
        **staged.window.as_extra(),
        "digest": staged.digest,
        "rows": staged.rows,
        **{key: value for key, value in asdict(validation).items() if key in ("valid_rows", "invalid_rows", "refused")},
        "reasons": list(validation.reasons),
        "expectations": [entry.as_json() for entry in judged],
    }
    write_bytes(validation.valid_path, contents["valid"])
    write_bytes(validation.quarantine_path, contents["quarantine"])
    write_bytes(validation.result_path, json.dumps(result, indent=1).encode())
    write_bytes(validation.report_path, render_validation(result).encode())
    return validation


def _quarantine(
    table: pa.Table, config: ModelConfig, staged: Staged, *, failures: Sequence[RowFailure], rows: Sequence[int], why: str
) -> pa.Table:
    reasons: dict[int, list[str]] = {place: [] for place in rows}
    for failure in failures:
        for place in failure.positions:
            reasons[place].append(failure.reason)
    picked = table.take(pa.array(rows, pa.int64())).to_pylist()
    id_ = config.data.id
    made = [
        {
            "window_key": staged.window.key,
            "window_start": staged.window.start,
            "window_end": staged.window.end,
            "id": None if id_ is None or row.get(id_) is None else str(row[id_]),
            "reason": ("; ".join(reasons[place]) or why)[:500],
            "row": json.dumps({name: _plain(value) for name, value in row.items()}, ensure_ascii=False),
            "digest": staged.digest,
        }
        for place, row in zip(rows, picked, strict=True)
    ]
    return pa.Table.from_pylist(made, schema=_QUARANTINE)


def _plain(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, (datetime, date)):
        return value.isoformat()
    return value.hex() if isinstance(value, bytes) else value


def _about(entry: Judged) -> str:
    return f"{entry.columns}: {entry.name}"


def _batch_problem(entry: Judged, *, rows: int) -> str:
    if entry.problem:
        return f"{_about(entry)}: {entry.problem}"
    if entry.unexpected is not None:
        at_least = f", allowed are at most {1 - entry.mostly:.2%}" if entry.mostly < 1 else ""
        return f"{_about(entry)}: failed, {entry.unexpected} of {rows} rows{at_least}"
    return f"{_about(entry)}: failed"


def _bounded(lines: Sequence[str]) -> tuple[str, ...]:
    kept = [line[:400] for line in lines]
    return tuple(kept) if len(kept) <= _MAX_REASONS else (*kept[: _MAX_REASONS - 1], f"and {len(kept) - _MAX_REASONS + 1} more")
