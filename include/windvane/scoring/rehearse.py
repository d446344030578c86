"""`python -m windvane.scoring.rehearse`: a candidate shows, in the runtime that would serve it, what it does.

It scores its golden rows, which must come out as they did when it was made, and with `--replay` the rows of earlier requests. It needs
no network, and nothing that a scoring service does not have. What a replay means is judged elsewhere (`windvane.judge_rollout`).
"""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import argparse
import contextlib
import json
import re
import resource
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from windvane.bundle import Bundle
from windvane.encode_rows import encode_rows
from windvane.errors import StorageError, WindvaneError
from windvane.measure_latency import Latency, measure_latency
from windvane.scoring.parse_request import MAX_ROWS
from windvane.scoring.request_error import RequestError
from windvane.scoring.score_request import score_request
from windvane.scoring.serve_version import Served, Wanted, load_version
from windvane.settings import load_settings
from windvane.shared_folder import BundleRoot

TOLERANCE = 1e-6
_TIMEOUT_SECONDS = 110.0
_SINGLE_ROWS = 200
_REPLAY_SINGLES = 300
_FEWEST_SINGLES = 100
_REPLAY_SINGLE_SECONDS = 20.0
_REPLAY_SECONDS = 60.0
_BATCH_ROWS = 500


@dataclass(frozen=True)
class Replay:
    """What a candidate said to the rows of earlier requests.

    Attributes:
        rows: Rows that were replayed; fewer than there are when the time was up.
        refused: Rows that a request would get a 4xx for.
        errors: Rows that a request would get a 5xx for.
        timed: Requests of one row whose time was taken.
        p99_ms: Their 99th percentile, from bytes to bytes; None if there were none.
        p99_low_ms: The lower end of its confidence interval, see `Latency`.
        mean_ms: Their mean.
        classes: Labels of a classifier, in the order of its probabilities.
        scores: Per row P(positive class), the value of a regression, or for more than two classes the place of the predicted one; None
            where there is no answer.
    """

    rows: int
    refused: int
    errors: int
    timed: int
    p99_ms: float | None
    p99_low_ms: float | None
    mean_ms: float | None
    classes: list[Any] | None
    scores: list[float | None]


@dataclass(frozen=True)
class Rehearsal:
    """What a rehearsal found.

    Attributes:
        ok: Whether it loads and its golden rows are equal.
        rows: Golden rows that were scored.
        max_difference: Largest difference from the bundle's own predictions; of a regression relative to values beyond 1; 1 for
            another label. None if nothing was scored.
        seconds: From start to end, loading included.
        peak_rss_mb: Most memory that the process held.
        p99_ms: 99th percentile of requests of one golden row, from bytes to bytes.
        runtime: What computes the predictions, `onnx` or `skops`; None if it does not load.
        error: Why it is not ok.
        replay: What it said to earlier requests; None if there were none to replay or it is not ok.
    """

    ok: bool
    rows: int
    max_difference: float | None
    seconds: float
    peak_rss_mb: float
    p99_ms: float | None
    runtime: str | None
    error: str | None
    replay: Replay | None = None

    def as_json(self) -> dict[str, Any]:
        """The values as JSON; `p99` repeats `p99_ms` under its short name."""
        values = asdict(self) | {"p99": self.p99_ms}
        return values if self.replay else {name: value for name, value in values.items() if name != "replay"}


def rehearse_bundle(bundles: BundleRoot, digest: str, *, tolerance: float = TOLERANCE, replay: Path | None = None) -> Rehearsal:
    """Load a bundle and send rows through the path of a request: JSON bytes in, JSON bytes out.

    Args:
        bundles: Where all bundles are.
        digest: The candidate.
        tolerance: Largest difference of a golden row that is still equal. Another label is equal only where the two most probable
            classes are this close.
        replay: Arrow IPC file whose column `features` holds a JSON object for each row of earlier requests.

    Returns:
        What was found; a candidate that cannot be loaded or cannot score is not ok, and never an exception.
    """
    began = time.perf_counter()
    rows, largest, latency, runtime, error, replayed = 0, None, None, None, None, None
    try:
        served = load_version(bundles, Wanted(0, digest), model=None)
        runtime = str(served.predictor.runtime)
        golden = _read_golden(served.predictor.bundle)
        rows = golden.num_rows
        texts = encode_rows(golden, served.predictor.signature)
        largest = _largest_difference(served, golden, texts, tolerance=tolerance)
        latency = _time_singles(served, [texts[n % rows] for n in range(_SINGLE_ROWS)] if rows else [])
        if rows == 0:
            error = "the bundle has no golden rows"
        elif not largest <= tolerance:
            error = f"golden rows differ by up to {largest:.3g}, allowed is {tolerance:g}; the libraries differ from those of the training"
        elif replay is not None:
            replayed = replay_rows(served, _read_replay(replay))
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
        p99_ms=latency.p99_ms if latency else None,
        runtime=runtime,
        error=error,
        replay=replayed,
    )


def replay_rows(served: Served, texts: Sequence[str], *, seconds: float = _REPLAY_SECONDS) -> Replay:
    """Send rows as requests: some hundreds one by one, for the latency, and the rest in batches.

    Args:
        texts: A JSON object for each row.
        seconds: When to stop; what was not replayed until then is not counted.
    """
    until = time.perf_counter() + seconds
    singles_until = min(until, time.perf_counter() + _REPLAY_SINGLE_SECONDS)
    scores: list[float | None] = [None] * len(texts)
    counts = {"refused": 0, "errors": 0}
    times: list[float] = []
    done = 0
    while done < min(len(texts), _REPLAY_SINGLES) and time.perf_counter() < singles_until:
        began = time.perf_counter()
        scores[done] = _replay_batch(served, texts[done : done + 1], counts, until)[0]
        times.append((time.perf_counter() - began) * 1000)
        done += 1
    # a percentile needs more requests than a small model may have rows
    while 0 < len(times) < _FEWEST_SINGLES and time.perf_counter() < singles_until:
        began = time.perf_counter()
        _replay_batch(served, [texts[len(times) % len(texts)]], {"refused": 0, "errors": 0}, until)
        times.append((time.perf_counter() - began) * 1000)
    while done < len(texts) and time.perf_counter() < until:
        part = texts[done : done + _BATCH_ROWS]
        scores[done : done + len(part)] = _replay_batch(served, part, counts, until)
        done += len(part)
    latency = measure_latency(times)
    classes = served.predictor.classes
    return Replay(
        rows=done,
        **counts,
        timed=len(times),
        p99_ms=latency.p99_ms if latency else None,
        p99_low_ms=latency.p99_low_ms if latency else None,
        mean_ms=latency.mean_ms if latency else None,
        classes=None if classes is None else list(classes),
        scores=scores,
    )


def _replay_batch(served: Served, texts: Sequence[str], counts: dict[str, int], until: float) -> list[float | None]:
    """Scores of some rows; a batch that is not answered is halved until the rows are found that are to blame."""
    try:
        return _scores(served, json.loads(_score(served, _body(texts))))
    except RequestError as exc:
        kind = "refused" if exc.status < 500 else "errors"
    # the bundle's own code may raise anything: a service answers that with a 5xx
    except Exception:  # noqa: BLE001
        kind = "errors"
    if len(texts) == 1 or time.perf_counter() > until:
        counts[kind] += len(texts)
        return [None] * len(texts)
    half = len(texts) // 2
    return _replay_batch(served, texts[:half], counts, until) + _replay_batch(served, texts[half:], counts, until)


def _scores(served: Served, answer: Mapping[str, Any]) -> list[float | None]:
    classes, values = served.predictor.classes, answer["predictions"]
    if classes is None:
        return [_short(value) for value in values]
    probabilities = answer.get("probabilities")
    if len(classes) == 2 and probabilities is not None:
        return [_short(row[1]) for row in probabilities]
    places = {label: float(place) for place, label in enumerate(classes)}
    return [places.get(value) for value in values]


def _short(value: float) -> float:
    return float(f"{value:.9g}")


def _read_replay(path: Path) -> list[str]:
    try:
        with pa.memory_map(str(path)) as source:
            texts: list[str] = pa.ipc.open_file(source).read_all()["features"].to_pylist()
    except (pa.ArrowException, OSError, KeyError) as exc:
        raise StorageError(f"{path}: the rows to replay cannot be read: {type(exc).__name__}; allowed is what write_replay makes") from exc
    return texts


def _read_golden(bundle: Bundle) -> pa.Table:
    # read_table would bring in the dataset module, and with it pandas
    return pq.ParquetFile(bundle.path / "golden.parquet").read()


def _peak_rss_mb() -> float:
    # getrusage also counts what the parent held when this process was forked; VmHWM does not, but only Linux has it
    try:
        status = Path("/proc/self/status").read_text()
    except OSError:
        return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, 1)
    return round(int(re.findall(r"VmHWM:\s+(\d+) kB", status)[0]) / 1024, 1)


def _largest_difference(served: Served, golden: pa.Table, texts: Sequence[str], *, tolerance: float) -> float:
    largest = 0.0
    classes = served.predictor.classes
    names = [name for name in (f"probability_{label}" for label in classes or ()) if name in golden.column_names]
    wanted = golden["prediction"].to_pylist()
    chances = np.column_stack([golden[name].to_pylist() for name in names]) if names else None
    for start in range(0, len(texts), MAX_ROWS):
        part = slice(start, start + MAX_ROWS)
        answer = json.loads(_score(served, _body(texts[part])))
        found = answer["predictions"]
        if len(found) != len(wanted[part]):
            return 1.0
        if classes is None:
            values = np.asarray(wanted[part], dtype=float)
            largest = _larger(largest, np.abs(np.asarray(found, dtype=float) - values) / np.maximum(1.0, np.abs(values)))
            continue
        if chances is not None:
            largest = _larger(largest, np.abs(np.asarray(answer["probabilities"]) - chances[part]))
        for row in (n for n, (a, b) in enumerate(zip(found, wanted[part], strict=True)) if a != b):
            if chances is None or not _tied(chances[start + row], tolerance):
                return 1.0
    return largest


def _larger(largest: float, differences: np.ndarray) -> float:
    return max(largest, float(differences.max())) if np.isfinite(differences).all() else 1.0


def _tied(chances: np.ndarray, tolerance: float) -> bool:
    first, second = np.sort(chances)[::-1][:2]
    return bool(first - second <= 2 * tolerance)


def _time_singles(served: Served, texts: Sequence[str]) -> Latency | None:
    times = []
    for body in [_body([text]) for text in texts]:
        began = time.perf_counter()
        _score(served, body)
        times.append((time.perf_counter() - began) * 1000)
    return measure_latency(times)


def _score(served: Served, body: bytes) -> bytes:
    return bytes(score_request(served, body, "application/json", request_id="rehearsal", received=datetime.now(UTC)).body)


def _body(texts: Sequence[str]) -> bytes:
    return ('{"dataframe_records":[' + ",".join(texts) + "]}").encode()


def _give_up(digest: str, seconds: float) -> None:
    """End a process whose model hangs, with the one line that its caller waits for."""
    found = Rehearsal(False, 0, None, seconds, _peak_rss_mb(), None, None, f"{digest}: the rehearsal did not end within {seconds:g} s")
    os.write(1, (json.dumps(found.as_json()) + "\n").encode())
    os._exit(1)


def main(arguments: Sequence[str] | None = None) -> int:
    """Rehearse one bundle and print the result as one line of JSON; returns 0 if it is ok, else 1."""
    parser = argparse.ArgumentParser(
        prog="python -m windvane.scoring.rehearse", description="Score a bundle's golden rows, and earlier requests, as a request would."
    )
    parser.add_argument("--bundle", required=True, help="digest of the bundle")
    parser.add_argument("--tolerance", type=float, default=TOLERANCE, help=f"largest difference that is still equal; default {TOLERANCE:g}")
    parser.add_argument("--replay", type=Path, help="Arrow IPC file whose column `features` holds the rows of earlier requests")
    parser.add_argument("--timeout", type=float, default=_TIMEOUT_SECONDS, help=f"seconds to give up after; default {_TIMEOUT_SECONDS:g}")
    options = parser.parse_args(arguments)
    watchdog = threading.Timer(options.timeout, _give_up, [options.bundle, options.timeout])
    watchdog.daemon = True
    watchdog.start()
    # the model's own code may print; the one line of JSON stays alone on the standard output
    with contextlib.redirect_stdout(sys.stderr):
        found = rehearse_bundle(load_settings().bundles, options.bundle, tolerance=options.tolerance, replay=options.replay)
    watchdog.cancel()
    print(json.dumps(found.as_json(), allow_nan=False), flush=True)
    return 0 if found.ok else 1


if __name__ == "__main__":
    sys.exit(main())
