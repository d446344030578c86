"""`flight_delay__train` as an Airflow DAG, from trigger to registered challenger, against the same steps as one plain script.

    python benchmarks/loop_overhead.py [--rounds 3]

Both are measured in turns on the same machine and data, each time on another window, so that nothing is adopted. The plain
script is a fresh interpreter, as somebody who runs `python train.py` would have it: its imports count. The platform runs on
state of its own in a temporary directory and is stopped at the end.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

from windvane.airflow_client import AirflowClient
from windvane.settings import REPOSITORY, load_settings
from windvane.windows import Window

MODEL = "flight_delay"
WINDOW = Window("2013-01-01", "2013-04-01")  # type: ignore[arg-type]


def ingest() -> None:
    """Commit the flights of the window, with the capabilities alone."""
    from windvane.commit_data import commit_data
    from windvane.config import code_path
    from windvane.extract_data import extract_data
    from windvane.lake import Lake
    from windvane.load_config import load_model_config
    from windvane.model_code import load_model_code
    from windvane.validate_data import validate_data

    settings = load_settings()
    config = load_model_config(settings.project, MODEL)
    code = load_model_code(code_path(settings.project, MODEL), MODEL)
    staged = extract_data(config, code, settings, window=WINDOW, connection_uri=None)
    commit_data(config, Lake(settings.lake), validate_data(config, settings, staged, known_schema=None))


def train_plainly(window: Window) -> None:
    """The steps of the DAG, one after the other, in this process."""
    from windvane.bundle import open_bundle
    from windvane.config import code_path
    from windvane.gate_challenger import gate_challenger
    from windvane.lake import Lake
    from windvane.load_config import load_model_config
    from windvane.model_code import load_model_code
    from windvane.register_model import register_model
    from windvane.snapshot import plan_training
    from windvane.train_model import train_model

    settings = load_settings()
    config = load_model_config(settings.project, MODEL)
    code = load_model_code(code_path(settings.project, MODEL), MODEL)
    lake = Lake(settings.lake)
    snapshot = plan_training(config, code, lake, window=window, settings=settings)
    result = train_model(config, code, settings, lake, snapshot)
    register_model(config, settings, bundle_digest=result.bundle_digest, run_id=result.run_id)
    challenger = open_bundle(settings.bundles, result.bundle_digest)
    gate_challenger(config, settings, lake, snapshot, challenger=challenger, champion=None)


def wait_for_success(client: AirflowClient, dag_id: str, run_id: str, *, seconds: float = 300) -> None:
    """Return when the run has succeeded; the state is asked for ten times a second."""
    give_up = time.monotonic() + seconds
    while time.monotonic() < give_up:
        state = next(run["state"] for run in client.runs(limit=20) if run["dag_id"] == dag_id and run["dag_run_id"] == run_id)
        if state == "success":
            return
        if state == "failed":
            raise SystemExit(f"{dag_id} {run_id} failed")
        time.sleep(0.1)
    raise SystemExit(f"{dag_id} {run_id} did not end within {seconds:.0f} s")


def measure(rounds: int) -> None:
    """Start a platform, measure in turns, print the figures."""
    from windvane.prepare_platform import load_secrets, platform_environment, process_environment
    from windvane.run_platform import start_platform, stop_platform

    var = Path(tempfile.mkdtemp(prefix="windvane-bench-"))
    environ = {name: value for name, value in os.environ.items() if not name.startswith(("WINDVANE_", "AIRFLOW", "MLFLOW_TRACKING"))}
    settings = load_settings({**environ, "WINDVANE_VAR": str(var)})
    platform = start_platform(settings, environ=environ)
    try:
        ports = platform.ports
        added = platform_environment(settings, load_secrets(var), airflow_port=ports["airflow"], mlflow_port=ports["mlflow"])
        plain = process_environment(added, var=var, environ=environ)
        subprocess.run([sys.executable, __file__, "--ingest"], env=plain, check=True)
        client = AirflowClient(platform.airflow_url, user="admin", password=load_secrets(var).passwords["admin"])
        # deployments are another figure: they must not run beside the measurement
        client.pause(f"{MODEL}__deploy")
        script_seconds, dag_seconds = [], []
        for turn in range(rounds + 1):
            window = Window(WINDOW.start, WINDOW.end - timedelta(hours=2 * turn))
            began = time.monotonic()
            subprocess.run([sys.executable, __file__, "--plain", window.start.isoformat(), window.end.isoformat()], env=plain, check=True)
            script = time.monotonic() - began
            window = replace(window, end=window.end - timedelta(hours=1))
            began = time.monotonic()
            run_id = client.trigger(f"{MODEL}__train", conf=window.as_extra())
            wait_for_success(client, f"{MODEL}__train", run_id)
            dag = time.monotonic() - began
            note = " (not counted: caches are cold)" if turn == 0 else ""
            print(f"turn {turn}: script {script:.2f} s, DAG {dag:.2f} s{note}", flush=True)
            if turn:
                script_seconds.append(script)
                dag_seconds.append(dag)
        ratio = statistics.median(dag_seconds) / statistics.median(script_seconds)
        print(f"median: script {statistics.median(script_seconds):.2f} s, DAG {statistics.median(dag_seconds):.2f} s, ratio {ratio:.2f}")
        for task in sorted(client.tasks(f"{MODEL}__train", run_id), key=lambda task: str(task["start_date"])):
            print(f"  task {task['task_id']}: {task['duration']:.2f} s")
    finally:
        stop_platform(settings)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3, help="turns that count; default 3")
    parser.add_argument("--ingest", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--plain", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    os.chdir(REPOSITORY)
    if arguments.ingest:
        ingest()
    elif arguments.plain:
        train_plainly(Window(*arguments.plain))
    else:
        measure(arguments.rounds)
