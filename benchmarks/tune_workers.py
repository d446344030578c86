"""A hyperparameter search with one worker and with two, on PostgreSQL: the same trials, each worker a process of its own.

    python benchmarks/tune_workers.py [--trials 12] [--fit 1.0] [--rounds 1]

Prints, per round, how long one worker takes, how long two take, and the ratio; the load of the machine stands beside it, because two
workers need two idle cores. What the busiest worker computed is not stretched by others on the machine, and says what idle cores would
give but for waiting. It needs `initdb` and `postgres`: a server of its own is started in a temporary directory. The time is that
of the trials, without the start of the processes, and every trial fits a model that computes for about `--fit` seconds.
"""

import argparse
import os
import subprocess
import sys
import time
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(REPOSITORY / "tests"))

WORKER = """
import sys, time

import numpy as np
from sklearn.ensemble import HistGradientBoostingRegressor

from windvane.share_search import SharedSearch
from windvane.store_trials import TrialStore

database, key = sys.argv[1:3]
trials, worker, rows, rounds = map(int, sys.argv[3:])
random = np.random.default_rng(7)
inputs = random.normal(size=(rows, 10))
outcomes = inputs[:, 0] * inputs[:, 1] + random.normal(size=rows)
older, newer = slice(0, int(rows * 0.8)), slice(int(rows * 0.8), None)


def space(trial):
    return {"learning_rate": trial.suggest_float("learning_rate", 0.02, 0.3, log=True), "max_leaf_nodes": 31}


def judge(params):
    model = HistGradientBoostingRegressor(**params, max_iter=rounds, early_stopping=False, random_state=7)
    return model.fit(inputs[older], outcomes[older]).score(inputs[newer], outcomes[newer])


store = TrialStore(database)
shared = SharedSearch(store, key, model="bench", trials=trials, seed=7)
judge({"learning_rate": 0.1, "max_leaf_nodes": 31})
print("ready", flush=True)
sys.stdin.readline()
before = time.process_time()
tried = shared.work(space, judge, worker=worker, timeout_seconds=3600)
print(tried, time.process_time() - before, flush=True)
store.close()
"""


def measure(database: str, *, key: str, workers: int, trials: int, rows: int, rounds: int) -> tuple[float, float, list[int]]:
    """Seconds until the last of the workers is done, that the busiest computed, and how many trials each of them tried."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", WORKER, database, key, str(trials), str(worker), str(rows), str(rounds)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment,
        )
        for worker in range(workers)
    ]  # fmt: skip
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n", "a worker did not start"
    started = time.perf_counter()
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    said = [process.communicate()[0].split() for process in processes]
    took, tried = time.perf_counter() - started, [int(words[0]) for words in said]
    assert sum(tried) == trials, f"{tried} trials instead of {trials}"
    return took, max(float(words[1]) for words in said), tried


def rounds_for(seconds: float, rows: int) -> int:
    """How many boosting rounds compute for about so long on this machine."""
    import numpy as np
    from sklearn.ensemble import HistGradientBoostingRegressor

    random = np.random.default_rng(7)
    inputs, sample = random.normal(size=(int(rows * 0.8), 10)), 20
    started = time.process_time()
    HistGradientBoostingRegressor(max_iter=sample, early_stopping=False).fit(inputs, inputs[:, 0] * inputs[:, 1])
    return max(sample, int(sample * seconds / (time.process_time() - started)))


def main() -> None:
    """Measure and print."""
    from postgres_server import serve_postgres

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=12)
    parser.add_argument("--fit", type=float, default=1.0, help="seconds that a fit computes")
    parser.add_argument("--rounds", type=int, default=1)
    given = parser.parse_args()
    rows = 20_000
    rounds = rounds_for(given.fit, rows)
    with serve_postgres() as database:
        for number in range(given.rounds):
            took, computed = {}, {}
            for workers in (1, 2):
                load = os.getloadavg()[0]
                key = f"{number:x}{workers:x}".ljust(64, "0")
                took[workers], computed[workers], tried = measure(
                    database, key=key, workers=workers, trials=given.trials, rows=rows, rounds=rounds
                )
                split = " + ".join(map(str, tried))
                print(
                    f"{workers} worker{'s' * (workers > 1)}: {took[workers]:6.1f} s for {split} trials, of which the busiest computed "
                    f"{computed[workers]:.1f} s; load before {load:.1f}",
                    flush=True,
                )
            print(f"two are {took[1] / took[2]:.2f} times as fast as one; by what was computed {computed[1] / computed[2]:.2f} times")


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    main()
