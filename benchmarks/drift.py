"""Drift of 22 columns against Evidently's `DataDriftPreset`, and the rate of false alarms of undrifted streams.

    python benchmarks/drift.py [--quick] [--no-evidently]

Both are measured in one process on the same rows. The streams are independent rows and rows that resemble their neighbours
(AR(1)); each window of each stream is one chance of a false alarm.
"""

import argparse
import resource
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from windvane.detect_drift import detect_drift
from windvane.draw_report import draw_report
from windvane.profile_rows import Profile

RATES = (0.05, 0.01)
REFERENCE_ROWS = 5_000


def goal(text: str, figure: str, met: bool) -> None:
    print(f"{'met    ' if met else 'NOT met'}  {text}: {figure}", flush=True)


def cpu_seconds(work: Callable[[], Any], *, rounds: int = 3) -> float:
    """Median CPU time of the work."""
    taken = []
    for _ in range(rounds):
        started = time.process_time()
        work()
        taken.append(time.process_time() - started)
    return statistics.median(taken)


def table(rows: int, seed: int) -> pd.DataFrame:
    """22 columns: 16 numbers, 6 categories."""
    random = np.random.default_rng(seed)
    numbers = {f"n{k}": random.gamma(1 + k, size=rows) for k in range(16)}
    return pd.DataFrame(numbers | {f"c{k}": random.choice([f"v{i}" for i in range(4 + 6 * k)], rows) for k in range(6)})


def stream(random: np.random.Generator, rows: int, phi: float) -> pd.DataFrame:
    """10 columns of many kinds, without drift; phi is the correlation of a row with the next."""
    from scipy.signal import lfilter

    burn = 1_000
    noise = random.normal(0, np.sqrt(1 - phi * phi), (rows + burn, 10))
    v = lfilter([1.0], [1.0, -phi], noise, axis=0)[burn:]
    letters = np.array(list("abcdefgh"))
    return pd.DataFrame(
        {
            "normal": v[:, 0],
            "skewed": np.exp(v[:, 1]),
            "whole": np.round(2 * v[:, 2]),
            "gaps": np.where(v[:, 3] > 1.8, np.nan, v[:, 3]),
            "plain": v[:, 4],
            "related": 0.9 * v[:, 4] + 0.44 * v[:, 5],
            "letter": letters[np.clip(2 * (v[:, 6] + 2), 0, 7).astype(int)],
            "other": letters[np.clip(2 * (v[:, 7] + 2), 0, 7).astype(int)],
            "flag": v[:, 8] > 1.5,
            "many": np.char.add("v", np.clip(60 * v[:, 9] ** 2, 0, 399).astype(int).astype(str)),
        }
    )


def false_alarms(rows: int, phi: float, references: int, windows: int, *, every: int = 1) -> None:
    """Print the rate of false alarms of windows of so many rows."""
    random = np.random.default_rng([rows, int(100 * phi), every])
    alarms, first = dict.fromkeys(RATES, 0), REFERENCE_ROWS * every
    for seed in range(references):
        whole = stream(random, first + rows * windows, phi)
        profile = Profile.of(whole[:first:every].reset_index(drop=True), seed=seed, history_rows=first)
        for start in range(first, len(whole), rows):
            for rate in RATES:
                alarms[rate] += detect_drift(whole[start : start + rows], profile, false_alarm_rate=rate).signal
    total = references * windows
    for rate, count in alarms.items():
        text = f"false alarms at {rate}, {rows:,} rows a window, phi {phi}, a reference of every {every}. row"
        goal(text, f"{count} of {total} = {count / total:.4f}", count / total <= rate)


def power(rows: int) -> None:
    """Print how often half a standard deviation in one of ten columns is found."""
    random, found = np.random.default_rng(1), 0
    for seed in range(10):
        profile = Profile.of(stream(random, REFERENCE_ROWS, 0.0), seed=seed)
        for _ in range(10):
            found += (
                "normal"
                in detect_drift(
                    stream(random, rows, 0.0).assign(normal=lambda f: f["normal"] + 0.5), profile, false_alarm_rate=0.01
                ).drifted
            )
    goal(f"a shift of 0.5 standard deviations in one of 10 columns at {rows:,} rows", f"{found} of 100", found > 95)


def speed(*, evidently: bool) -> None:
    """Print the costs."""
    small = table(REFERENCE_ROWS, 0).iloc[:, 10:20]
    taken = cpu_seconds(lambda: Profile.of(small, seed=1))
    goal("a profile of 5,000 rows x 10", f"{1_000 * taken:.0f} ms", taken < 0.5)
    profile, window = Profile.of(small, seed=1), table(1_000, 1).iloc[:, 10:20]
    taken = cpu_seconds(lambda: detect_drift(window, profile, false_alarm_rate=0.01), rounds=1)
    print(f"         the first window of a size, 1,000 x 10: {1_000 * taken:.0f} ms")
    taken = cpu_seconds(lambda: detect_drift(window, profile, false_alarm_rate=0.01), rounds=9)
    goal("a window of 1,000 x 10", f"{1_000 * taken:.1f} ms", taken < 0.01)

    now, then = table(100_000, 1), table(100_000, 2)
    ours = cpu_seconds(lambda: detect_drift(now, Profile.of(then, seed=1), false_alarm_rate=0.01))
    print(f"         22 columns x (100,000 + 100,000) rows, the profile included: {ours:.2f} CPU s")
    profile = Profile.of(then, seed=1)
    alone = cpu_seconds(lambda: detect_drift(now, profile, false_alarm_rate=0.01))
    print(f"         22 columns x 100,000 rows, against a stored profile: {alone:.2f} CPU s")
    if evidently:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            from evidently import Dataset, Report
            from evidently.presets import DataDriftPreset

            theirs = cpu_seconds(lambda: Report([DataDriftPreset()]).run(Dataset.from_pandas(now), Dataset.from_pandas(then)), rounds=1)
        figure = f"{theirs:.2f} CPU s, {theirs / ours:.0f} times ours with the profile, {theirs / alone:.0f} times without"
        goal("at least 20 times less than Evidently", figure, theirs / ours >= 20)

    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    started = time.process_time()
    detect_drift((table(50_000, seed) for seed in range(20)), profile, false_alarm_rate=0.01)
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    goal(
        "memory for 1,000,000 rows in batches", f"{grown:.0f} MiB more, {time.process_time() - started:.1f} s with making them", grown < 200
    )

    drift = detect_drift(now, profile, false_alarm_rate=0.01)
    with tempfile.TemporaryDirectory() as directory:
        started = time.perf_counter()
        path = Path(directory) / "drift.html"
        draw_report(now, then, drift, decision="ok", reason="", evidence=(), path=path, seed=1)
        goal("the report of 22 columns", f"{time.perf_counter() - started:.1f} s", time.perf_counter() - started < 5)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer windows")
    parser.add_argument("--no-evidently", action="store_true", help="do not measure Evidently's preset")
    options = parser.parse_args()
    speed(evidently=not options.no_evidently)
    for rows in (500, 1_000):
        power(rows)
    share = 4 if options.quick else 1
    for phi in (0.0, 0.9, 0.98):
        for rows, references, windows in ((500, 40, 10), (5_000, 40, 8), (50_000, 100, 3)):
            false_alarms(rows, phi, references // share, windows)
    for phi in (0.0, 0.9, 0.98):
        false_alarms(1_000, phi, 40 // share, 10, every=10)


if __name__ == "__main__":
    main()
