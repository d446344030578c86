"""Monitor windows of up to 10 million rows and trainings on up to 30 million, within 4 GiB: how time and memory grow.

    python benchmarks/large_windows.py [--quick] [--root DIRECTORY]

Every measurement is a process of its own; its peak is the most memory that it ever had in use (VmHWM), imports and libraries included. Each
row of a monitored window was scored, so that inputs, logged inputs, predictions and outcomes are of that size alike; nothing has drifted,
and a trial refit is due. A training is planned, fitted, evaluated, bundled and recorded in MLflow on SQLite. `as a frame` is what the rows
would take as one DataFrame. The exit status is 1 if a peak is above the limit.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

for _threads in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[_threads] = "1"

LIMIT = 4 * 2**30
START = datetime(2024, 1, 1, tzinfo=UTC)
DAY = timedelta(days=1)
FIRST_ROWS = 100_000
BATCH = 250_000
NUMBERS = [f"x{place}" for place in range(8)]
MODEL = "large"
CODE = """
from sklearn.compose import make_column_selector, make_column_transformer
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder


def build_pipeline(params):
    texts = OneHotEncoder(handle_unknown="ignore", sparse_output=False)
    columns = make_column_transformer((texts, ["site", "kind"]), ("passthrough", make_column_selector(dtype_include="number")))
    return make_pipeline(columns, HistGradientBoostingClassifier(max_iter=40, max_leaf_nodes=15))
"""


@dataclass(frozen=True)
class Sizes:
    """Rows of the windows to monitor and to train on, and what to sample them to; None: the defaults."""

    monitored: tuple[int, ...] = (1_000_000, 3_000_000, 10_000_000)
    trained: tuple[int, ...] = (1_000_000, 3_000_000, 10_000_000, 30_000_000)
    max_rows: int | None = None

    @property
    def every(self) -> tuple[int, ...]:
        """The sizes of the windows in the table."""
        return tuple(sorted({*self.monitored, *self.trained}))

    def window(self, rows: int) -> Any:
        """The week with so many rows."""
        from windvane.windows import Window

        start = START + (31 + 7 * self.every.index(rows)) * DAY
        return Window(start, start + 7 * DAY)


QUICK = Sizes(monitored=(100_000, 1_200_000), trained=(100_000, 1_200_000), max_rows=300_000)


def make_batches(start: datetime, length: timedelta, rows: int) -> Iterator[Any]:
    """Rows in the order of time whose label follows from the numbers and the site."""
    import numpy as np
    import pyarrow as pa

    first, step = int(start.timestamp() * 1_000_000), length // timedelta(microseconds=1) / rows
    for begin in range(0, rows, BATCH):
        n = min(BATCH, rows - begin)
        random = np.random.default_rng([first, begin])
        numbers = {name: np.round(random.normal(size=n), 4) for name in NUMBERS}
        site, kind = random.integers(0, 12, n), random.integers(0, 4, n)
        signal = 2 * np.abs(numbers["x0"]) + numbers["x1"] - (site == 3) - 1.5
        label = (random.random(n) < 1 / (1 + np.exp(-signal))).astype(float)
        places = np.arange(begin, begin + n)
        texts = {"site": (site, [f"site-{i}" for i in range(12)]), "kind": (kind, list("abcd"))}
        yield pa.record_batch(
            {
                "key": pa.array(places + first // 1_000_000 * 100_000_000).cast(pa.string()),
                "at": pa.array(first + (places * step).astype(np.int64), pa.timestamp("us", tz="UTC")),
                **{name: pa.array(values) for name, values in numbers.items()},
                **{name: pa.DictionaryArray.from_arrays(codes, known).cast(pa.string()) for name, (codes, known) in texts.items()},
                "y": label,
            }
        )


def log_batches(rows: Iterator[Any]) -> Iterator[Any]:
    """What the scoring service would have logged of these rows."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.compute as pc

    for number, batch in enumerate(rows):
        n = batch.num_rows
        parts: list[Any] = ['{"x0": ', pc.cast(batch["x0"], pa.string())]
        for name in NUMBERS[1:]:
            parts += [f', "{name}": ', pc.cast(batch[name], pa.string())]
        for name in ("site", "kind"):
            parts += [f', "{name}": "', batch[name], '"']
        features = pc.binary_join_element_wise(*parts, "}", "")
        score = 1 / (1 + np.exp(-(2 * np.abs(batch["x0"].to_numpy()) + batch["x1"].to_numpy() - 1.5)))
        yield pa.record_batch(
            {
                "segment": pa.repeat(f"{number:08d}", n),
                "request_id": batch["key"],
                "row": pa.repeat(0, n),
                "received": batch["at"],
                "version": pa.repeat(1, n),
                "digest": pa.repeat("-", n),
                "id": batch["key"],
                "time": batch["at"],
                "features": features,
                "prediction": pa.array((score > 0.5).astype(int)).cast(pa.string()),
                "score": score,
                "probabilities": pa.nulls(n, pa.string()),
            }
        )


class Platform:
    """One installation in a directory."""

    def __init__(self, root: Path, sizes: Sizes) -> None:
        from windvane.config import ModelConfig
        from windvane.lake import Lake
        from windvane.ledger import Ledger
        from windvane.model_code import load_model_code
        from windvane.settings import load_settings

        environment = {
            "WINDVANE_PROJECT": str(root),
            "WINDVANE_VAR": str(root / "var"),
            "MLFLOW_TRACKING_URI": f"sqlite:///{root}/mlflow.db",
        }
        self.settings, self.sizes, self.root = load_settings(environment), sizes, root
        self.settings.var.mkdir(parents=True, exist_ok=True)
        path = root / "large.py"
        path.write_text(CODE)
        self.code = load_model_code(path, MODEL)
        self.lake, self.ledger = Lake(self.settings.lake), Ledger(self.settings.database)
        self.config = ModelConfig.model_validate(
            {
                "model": MODEL,
                "task": "binary_classification",
                "data": {"id": "key", "time": "at", "label": "y"},
                "train": {"window": "31d", "holdout": "1d"} | ({"max_rows": sizes.max_rows} if sizes.max_rows else {}),
            }
        )

    def write(self, table: str, window: Any, rows: int) -> None:
        """Write the rows of a window, or their log, in chunks."""

        def made() -> Iterator[Any]:
            batches = make_batches(window.start, window.end - window.start, rows)
            return batches if table == "raw" else log_batches(batches)

        schema, time_column = next(made()).schema, "at" if table == "raw" else "time"
        self.lake.overwrite_window_by(
            MODEL, table, made, schema=schema, rows=rows, window=window, time=time_column, metadata={"source": "benchmark"}
        )

    def prepare(self) -> None:
        """Fill the tables, train a champion on the first month and let it serve."""
        from windvane.windows import Window

        first = Window(START, START + 31 * DAY)
        self.write("raw", first, FIRST_ROWS)
        for rows in self.sizes.every:
            began = time.perf_counter()
            self.write("raw", self.sizes.window(rows), rows)
            if rows in self.sizes.monitored:
                self.write("predictions", self.sizes.window(rows), rows)
            print(f"{rows:>12,} rows written in {time.perf_counter() - began:.0f} s", file=sys.stderr, flush=True)
        digest = self.train(first)["digest"]
        self.ledger.append(
            MODEL, expected_epoch=0, action="promote", version=1, digest=digest, traffic={1: 100}, actor="benchmark", reason="-"
        )

    def train(self, window: Any) -> dict[str, Any]:
        """Plan and train on a window."""
        from windvane.bundle import open_bundle
        from windvane.snapshot import plan_training
        from windvane.train_model import train_model

        snapshot = plan_training(self.config, self.code, self.lake, window=window, settings=self.settings)
        result = train_model(self.config, self.code, self.settings, self.lake, snapshot)
        manifest = open_bundle(self.settings.bundles, result.bundle_digest).manifest
        return {"digest": result.bundle_digest, "rows": manifest["rows"], "seconds": result.seconds, "metrics": result.metrics}

    def monitor(self, window: Any) -> dict[str, Any]:
        """Decide about a window."""
        from windvane.monitor_model import monitor_window

        evidence = monitor_window(self.config, self.code, self.settings, self.lake, self.ledger, window=window)
        told = evidence.as_json()
        realised = told["evidence"]["realised"]
        return {
            "decision": told["decision"],
            "reason": told["reason"],
            "sampled": told["evidence"]["sampled"],
            "realised": realised and [realised["value"], realised["rows"], realised["drawn_from"]],
            "tried": bool(told["evidence"]["trial"]),
        }


def measure(what: str, rows: int, root: Path, sizes: Sizes) -> None:
    """One measurement in this process; prints it as JSON."""
    platform = Platform(root, sizes)
    if what == "prepare":
        platform.prepare()
        return
    began, cpu = time.perf_counter(), time.process_time()
    found = getattr(platform, what)(sizes.window(rows))
    seconds, cpu = time.perf_counter() - began, time.process_time() - cpu
    status = Path("/proc/self/status").read_text()
    peak = next(int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmHWM"))
    print(json.dumps({"seconds": seconds, "cpu": cpu, "peak": peak, "found": found}))


def frame_size(rows: int) -> int:
    """Bytes of so many rows as one DataFrame, by those of a batch."""
    frame = next(make_batches(START, DAY, BATCH)).to_pandas()
    return int(frame.memory_usage(deep=True).sum() / len(frame) * rows)


def main() -> int:
    """Measure everything and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("--quick", action="store_true", help="small windows")
    parser.add_argument("--root", type=Path, help="keep the tables here, and take those that are there")
    parser.add_argument("--measure", nargs=2, metavar=("WHAT", "ROWS"), help=argparse.SUPPRESS)
    given = parser.parse_args()
    sizes = QUICK if given.quick else Sizes()
    if given.measure:
        measure(given.measure[0], int(given.measure[1]), given.root, sizes)
        return 0
    with tempfile.TemporaryDirectory(prefix="windvane-large-") as temporary:
        root = given.root or Path(temporary)

        def run(what: str, rows: int) -> Any:
            command = [sys.executable, __file__, "--root", str(root), "--measure", what, str(rows), *(["--quick"] if given.quick else [])]
            done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
            return json.loads(done.stdout.splitlines()[-1]) if done.stdout.strip() else None

        if not (root / "var").exists():
            run("prepare", 0)
        print(f"{'':8} {'rows':>11} {'as a frame':>11} {'peak':>10} {'of limit':>8} {'seconds':>8} {'CPU s':>7}  found")
        worst = 0.0
        for what, wanted in (("monitor", sizes.monitored), ("train", sizes.trained)):
            for rows in wanted:
                found = run(what, rows)
                share = found["peak"] / LIMIT
                worst = max(worst, share)
                print(
                    f"{what:8} {rows:>11,} {frame_size(rows) / 2**20:>7,.0f} MiB {found['peak'] / 2**20:>6,.0f} MiB {share:>8.2f} "
                    f"{found['seconds']:>8.1f} {found['cpu']:>7.1f}  {json.dumps(found['found'])}",
                    flush=True,
                )
        print(f"highest peak: {worst:.2f} of 4 GiB; load {', '.join(f'{load:.1f}' for load in os.getloadavg())}")
    return int(worst > 1)


if __name__ == "__main__":
    raise SystemExit(main())
