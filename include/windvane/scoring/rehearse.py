"""`python -m windvane.scoring.rehearse`: a candidate shows, in the runtime that would serve it, that it is the model that was judged."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import argparse
import contextlib
import json
import math
import re
import resource
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from windvane.bundle import read_golden
from windvane.errors import WindvaneError
from windvane.scoring.parse_request import MAX_ROWS
from windvane.scoring.score_request import score_request
from windvane.scoring.serve_version import Served, Wanted, load_version
from windvane.settings import load_settings

TOLERANCE = 1e-6
_SINGLE_ROWS = 200


@dataclass(frozen=True)
class Rehearsal:
    """What a rehearsal found.

    Attributes:
        ok: Whether the candidate may take traffic.
        rows: Golden rows that were scored.
        max_difference: Largest difference from the bundle's own predictions; of a regression relative to values beyond 1; 1 for
            another label. None if nothing was scored.
        seconds: From start to end, loading included.
        peak_rss_mb: Most memory that the process held.
        p99_ms: 99th percentile of single-row requests, from bytes to bytes.
        error: Why it is not ok.
    """

    ok: bool
    rows: int
    max_difference: float | None
    seconds: float
    peak_rss_mb: float
    p99_ms: float | None
    error: str | None

    def as_json(self) -> dict[str, Any]:
        """The values as JSON; `p99` repeats `p99_ms` under its short name."""
        return asdict(self) | {"p99": self.p99_ms}


def rehearse_bundle(bundles: Path, digest: str, *, tolerance: float = TOLERANCE) -> Rehearsal:
    """Load a bundle and send its golden rows through the path of a request: JSON bytes in, JSON bytes out.

    Args:
        bundles: Directory of all bundles.
        digest: The candidate.
        tolerance: Largest difference that is still equal.

    Returns:
        What was found; a candidate that cannot be loaded or cannot score is not ok, and never an exception.
    """
    began = time.perf_counter()
    rows, largest, p99, error = 0, None, None, None
    try:
        served = load_version(bundles, Wanted(0, digest), model=None)
        golden = read_golden(served.predictor.bundle)
        rows = len(golden)
        largest = _largest_difference(served, golden)
        p99 = _p99_ms(served, golden)
        if rows == 0:
            error = "the bundle has no golden rows"
        elif not largest <= tolerance:
            error = f"golden rows differ by up to {largest:.3g}, allowed is {tolerance:g}; the libraries differ from those of the training"
    except WindvaneError as exc:
        error = str(exc)
    # the bundle's own code runs here and may raise anything: all of it means that the candidate must not serve
    except Exception as exc:  # noqa: BLE001
        error = f"{digest}: {type(exc).__name__} in rehearsal"
    return Rehearsal(
        ok=error is None,
        rows=rows,
        max_difference=largest,
        seconds=round(time.perf_counter() - began, 3),
        peak_rss_mb=_peak_rss_mb(),
        p99_ms=p99,
        error=error,
    )


def _peak_rss_mb() -> float:
    # getrusage also counts what the parent held when this process was forked; VmHWM does not, but only Linux has it
    try:
        status = Path("/proc/self/status").read_text()
    except OSError:
        return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, 1)
    return round(int(re.findall(r"VmHWM:\s+(\d+) kB", status)[0]) / 1024, 1)


def _largest_difference(served: Served, golden: pd.DataFrame) -> float:
    largest = 0.0
    classes = served.predictor.classes
    for start in range(0, len(golden), MAX_ROWS):
        part = golden.iloc[start : start + MAX_ROWS]
        answer = _ask(served, part)
        found, wanted = answer["predictions"], part["prediction"].tolist()
        if len(found) != len(wanted):
            return 1.0
        if classes is None:
            largest = max(largest, *(abs(a - b) / max(1.0, abs(b)) for a, b in zip(found, wanted, strict=True)))
        elif found != wanted:
            return 1.0
        names = [f"probability_{label}" for label in classes or ()]
        if set(names) & set(part.columns):
            largest = max(largest, float(np.abs(np.asarray(answer["probabilities"]) - part[names].to_numpy()).max()))
    return largest


def _p99_ms(served: Served, golden: pd.DataFrame) -> float | None:
    bodies = [_encode(served, golden.iloc[[number % len(golden)]]) for number in range(_SINGLE_ROWS)] if len(golden) else []
    times = []
    for body in bodies:
        began = time.perf_counter()
        _score(served, body)
        times.append(time.perf_counter() - began)
    return round(float(np.percentile(times, 99)) * 1000, 3) if times else None


def _ask(served: Served, rows: pd.DataFrame) -> Mapping[str, Any]:
    answer: Mapping[str, Any] = json.loads(_score(served, _encode(served, rows)))
    return answer


def _score(served: Served, body: bytes) -> bytes:
    return score_request(served, body, "application/json", request_id="rehearsal", received=datetime.now(UTC)).body


def _encode(served: Served, rows: pd.DataFrame) -> bytes:
    columns = {column.name: [_as_json(value, column.type) for value in rows[column.name]] for column in served.layout.columns}
    return json.dumps({"inputs": columns}, allow_nan=False).encode()


def _as_json(value: Any, kind: str) -> Any:
    if value is None or value is pd.NaT or (isinstance(value, float) and math.isnan(value)):
        return None
    if kind == "datetime":
        return pd.Timestamp(value).isoformat()
    convert = {"string": str, "double": float, "long": int, "boolean": bool}[kind]
    return convert(value)


def main(arguments: Sequence[str] | None = None) -> int:
    """Rehearse one bundle and print the result as one line of JSON; returns 0 if it may take traffic, else 1."""
    parser = argparse.ArgumentParser(
        prog="python -m windvane.scoring.rehearse", description="Score a bundle's golden rows as a request would."
    )
    parser.add_argument("--bundle", required=True, help="digest of the bundle")
    parser.add_argument("--tolerance", type=float, default=TOLERANCE, help=f"largest difference that is still equal; default {TOLERANCE:g}")
    options = parser.parse_args(arguments)
    # the model's own code may print; the one line of JSON stays alone on the standard output
    with contextlib.redirect_stdout(sys.stderr):
        found = rehearse_bundle(load_settings().bundles, options.bundle, tolerance=options.tolerance)
    print(json.dumps(found.as_json(), allow_nan=False), flush=True)
    return 0 if found.ok else 1


if __name__ == "__main__":
    sys.exit(main())
