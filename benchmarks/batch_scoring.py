"""`score_window` on the flights, from Delta to Delta, against mlflow.pyfunc and bare onnxruntime from Parquet to Parquet, on one core.

    python benchmarks/batch_scoring.py [--years 8] [--rounds 2]

Each measurement is a process of its own that is bound to one core with all its threads, readers and writers too; imports do not
count, loading the model does. The flights of 2013 are repeated year after year, 364 days later each time, with ids and times of
their own; a batch spans less than a year, so no flight meets its copy. Peers get the model's features ready made, in one
Parquet file that was written from the same rows, and write id, time and predictions; Windvane makes the features itself, and
its scores are committed. `distinct` is the share of feature rows in a batch that differ: the others are computed once.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from serving import FEATURES, MODEL, prepare

from windvane.settings import REPOSITORY, load_settings

START = datetime(2013, 1, 1, 5, tzinfo=UTC)
YEAR = timedelta(days=364)
ROWS_AT_ONCE = 100_000
LABELS = {
    "windvane": "Windvane, ONNX, Delta to Delta",
    "windvane_unarranged": "  the same, every row computed as it comes",
    "windvane_skops": "Windvane, skops, Delta to Delta",
    "io": "  reading and writing alone",
    "mlflow": "mlflow.pyfunc, Parquet to Parquet",
    "onnxruntime": "onnxruntime, Parquet to Parquet",
}


def make_rows(root: Path, years: int) -> None:
    """Commit the repeated flights to a lake of their own, and write their features to `features.parquet`."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    from windvane.config import code_path
    from windvane.lake import Lake
    from windvane.model_code import load_model_code
    from windvane.predictor import make_features
    from windvane.windows import Window

    code = load_model_code(code_path(load_settings().project, MODEL), MODEL)
    flights = code.read(Window(START, START + YEAR), None).sort_values("scheduled_departure", kind="stable")  # type: ignore[misc]
    flights["scheduled_departure"] = flights["scheduled_departure"].dt.as_unit("us")
    lake, writer = Lake(str(root / "flights")), None
    for year in range(years):
        window = Window(START + year * YEAR, START + (year + 1) * YEAR)
        rows = flights.assign(flight_id=f"{year}-" + flights["flight_id"], scheduled_departure=flights["scheduled_departure"] + year * YEAR)
        lake.overwrite_window(MODEL, "raw", rows, window=window, time="scheduled_departure")
        ready = pa.Table.from_pandas(make_features(code, rows)[["flight_id", "scheduled_departure", *FEATURES]], preserve_index=False)
        writer = writer or pq.ParquetWriter(root / "peer.parquet", ready.schema)
        writer.write_table(ready, row_group_size=131_072)
    assert writer is not None
    writer.close()


def score_with_windvane(root: Path, digest: str, years: int, *, arranged: bool = True) -> int:
    """Score all years; returns the number of rows."""
    from windvane import onnx_predictor
    from windvane.lake import Lake
    from windvane.ledger import Ledger
    from windvane.load_config import load_model_config
    from windvane.score_window import score_window
    from windvane.windows import Window

    if not arranged:
        onnx_predictor._ARRANGED_ROWS = 10**9
    settings = load_settings({**os.environ, "WINDVANE_VAR": str(root)})
    ledger = Ledger(f"sqlite:///{root}/{os.getpid()}.db")
    ledger.append(MODEL, expected_epoch=0, action="promote", version=1, digest=digest, traffic={1: 100}, actor="benchmark", reason="-")
    config, window = load_model_config(settings.project, MODEL), Window(START, START + years * YEAR)
    lake = Lake(str(root / "flights"))
    # what an earlier measurement wrote is replaced as a rerun would do it, but never taken for this one's
    lake.overwrite_window_by(MODEL, "scores", list, schema=_scores_schema(), rows=0, window=window, time=config.data.time, metadata={})
    return measured(lambda: score_window(config, settings, lake, ledger, window=window).rows)


def copy_rows(root: Path, years: int) -> int:
    """Read what scoring reads and write as much as it writes."""
    import numpy as np
    import pyarrow as pa

    from windvane.lake import Lake
    from windvane.windows import Window

    lake, window = Lake(str(root / "flights")), Window(START, START + years * YEAR)
    columns = ["flight_id", "scheduled_departure", "carrier", "origin", "dest", "distance"]

    def work() -> int:
        scan = lake.scan(MODEL, "raw", window=window, time="scheduled_departure")
        assert scan is not None
        random = np.random.default_rng(os.getpid())

        def batches() -> Any:
            for batch in scan.batches(columns, texts=columns[2:5], rows_at_once=ROWS_AT_ONCE):
                score = random.random(batch.num_rows)
                made = [*batch.columns[:2], (score > 0.5).astype(np.int64), np.ones(batch.num_rows, np.int64), 1 - score, score]
                yield pa.record_batch([pa.array(column) for column in made], names=_scores_schema().names).cast(_scores_schema())

        lake.overwrite_window_by(
            MODEL,
            "copied",
            batches,
            schema=_scores_schema(),
            rows=scan.rows,
            window=window,
            time="scheduled_departure",
            metadata={"run": str(os.getpid())},
        )
        return scan.rows

    return measured(work)


def score_with_a_peer(root: Path, load: Callable[[], Callable[[Any], Any]]) -> int:
    """Read features, predict and write, a batch at a time; `load` returns what predicts a record batch."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    def work() -> int:
        predict, rows, writer = load(), 0, None
        for batch in pq.ParquetFile(root / "peer.parquet").iter_batches(ROWS_AT_ONCE):
            found = predict(batch.select(FEATURES))
            made = pa.record_batch([*batch.columns[:2], pa.array(found)], names=[*batch.schema.names[:2], "prediction"])
            writer = writer or pq.ParquetWriter(root / f"{os.getpid()}.parquet", made.schema)
            writer.write_batch(made)
            rows += batch.num_rows
        assert writer is not None
        writer.close()
        return rows

    return measured(work)


def load_mlflow(root: Path) -> Callable[[Any], Any]:
    """The model as MLflow loads it."""
    import mlflow.pyfunc

    model = mlflow.pyfunc.load_model(str(root / "mlflow_model"))
    return lambda batch: model.predict(batch.to_pandas())


def load_onnxruntime(root: Path, digest: str) -> Callable[[Any], Any]:
    """The bundle's `model.onnx` in onnxruntime as it comes, with one thread."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(root / "bundles" / digest / "model.onnx"), options)
    names = [item.name for item in session.get_inputs()]
    return lambda batch: session.run(None, {name: batch[name].to_numpy(zero_copy_only=False)[:, None] for name in names})[0][:, 1]


def distinct_share(root: Path) -> float:
    """Which share of the feature rows of a batch differ, on average."""
    import pyarrow.parquet as pq

    shares = [
        1 - float(batch.to_pandas().duplicated().mean())
        for batch in pq.ParquetFile(root / "peer.parquet").iter_batches(ROWS_AT_ONCE, columns=FEATURES)
    ]
    return statistics.mean(shares)


def _scores_schema() -> Any:
    import pyarrow as pa

    names = [("flight_id", pa.string()), ("scheduled_departure", pa.timestamp("us", "UTC")), ("prediction", pa.int64())]
    return pa.schema([*names, ("version", pa.int64()), ("probability_0", pa.float64()), ("probability_1", pa.float64())])


def measured(work: Callable[[], int]) -> int:
    """Run and print rows, seconds, processor seconds and peak memory as one JSON line."""
    import pyarrow as pa

    pa.set_cpu_count(1)
    pa.set_io_thread_count(1)
    began, spent = time.perf_counter(), time.process_time()
    rows = work()
    seconds, processor = time.perf_counter() - began, time.process_time() - spent
    # not ru_maxrss, which a process inherits
    peak = int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]) // 1024
    print(json.dumps({"rows": rows, "seconds": seconds, "cpu_seconds": processor, "peak_mib": peak}))
    return rows


def run_one(name: str, root: Path, digests: list[str], years: int) -> None:
    """What a process of its own does."""
    table: dict[str, Callable[[], int]] = {
        "windvane": lambda: score_with_windvane(root, digests[0], years),
        "windvane_unarranged": lambda: score_with_windvane(root, digests[0], years, arranged=False),
        "windvane_skops": lambda: score_with_windvane(root, digests[1], years),
        "io": lambda: copy_rows(root, years),
        "mlflow": lambda: score_with_a_peer(root, lambda: load_mlflow(root)),
        "onnxruntime": lambda: score_with_a_peer(root, lambda: load_onnxruntime(root, digests[0])),
    }
    table[name]()


def measure(years: int, rounds: int) -> None:
    """Prepare, measure in turns, print the figures."""
    environ = {name: value for name, value in os.environ.items() if not name.startswith(("WINDVANE_", "AIRFLOW", "MLFLOW_TRACKING"))}
    environ |= {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    core = max(os.sched_getaffinity(0))
    with tempfile.TemporaryDirectory(prefix="windvane-bench-") as directory:
        root = Path(directory)
        digests = list(prepare(root))
        make_rows(root, years)
        share = distinct_share(root)
        print(f"bound to core {core} of {os.cpu_count()}; load of the machine before: {os.getloadavg()[0]:.2f}", flush=True)
        found: dict[str, list[dict[str, float]]] = {name: [] for name in LABELS}
        for turn in range(rounds):
            for name in LABELS:
                command = ["taskset", "-c", str(core), sys.executable, __file__, "--run", name, str(root), *digests, "--years", str(years)]
                ended = subprocess.run(command, env=environ, capture_output=True, text=True, check=False)
                if ended.returncode:
                    raise SystemExit(f"{name}: {ended.stderr[-2000:]}")
                found[name].append(json.loads(ended.stdout.splitlines()[-1]))
                print(f"turn {turn}: {name} {found[name][-1]['rows'] / found[name][-1]['seconds']:,.0f} rows/s", flush=True)
    rates = {name: statistics.median(one["rows"] / one["seconds"] for one in each) for name, each in found.items()}
    per_cpu = {name: statistics.median(one["rows"] / one["cpu_seconds"] for one in each) for name, each in found.items()}
    peaks = {name: max(one["peak_mib"] for one in each) for name, each in found.items()}
    print(f"\n{found['windvane'][0]['rows']:,} flights, distinct {share:.0%}")
    for name, label in LABELS.items():
        print(f"{label:<44} {rates[name]:>10,.0f} rows/s, {peaks[name]:,.0f} MiB, {rates[name] / rates['mlflow']:.1f} times mlflow.pyfunc")
    figures = {"rows_per_second": rates, "rows_per_cpu_second": per_cpu, "peak_mib": peaks}
    print(json.dumps({"rows": found["windvane"][0]["rows"], "distinct": share, **figures}))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--years", type=int, default=8, help="how often the year is repeated; default 8 (2.7 million flights)")
    parser.add_argument("--rounds", type=int, default=2, help="turns that count; default 2")
    parser.add_argument("--run", nargs=4, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    os.chdir(REPOSITORY)
    if arguments.run:
        name, root, *digests = arguments.run
        run_one(name, Path(root), digests, arguments.years)
    else:
        measure(arguments.years, arguments.rounds)
