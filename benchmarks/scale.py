"""How each cost grows: with 10 to 500 models in the one DAG file, and with 1,000 to 100,000 releases in one ledger.

    python benchmarks/scale.py [--quick] [--part dags|start|ledger|rows]

- `dags`: what the DAG processor does with all models (parse in a child process, write to Airflow's database), what a task process parses,
  and one loop of the scheduler, while nothing is due and while every model has a run that waits. Airflow's own classes with the
  repository's settings; each database (SQLite, and PostgreSQL where `initdb` is installed) is new and holds nothing else.
- `start`: from a trigger over the REST API to the moment at which the task starts and the run ends, with one model and with the most:
  a web server, a scheduler with LocalExecutor and a DAG processor run, which goes on parsing meanwhile.
- `ledger`: the ledger's own queries, with the releases spread over many models, and all in one.
- `rows`: a monitored window of 10 million rows, and trainings on more rows than memory holds, within 4 GiB: benchmarks/large_windows.py.

Everything is in temporary directories and on 127.0.0.1.
"""

import argparse
import json
import os
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, nullcontext
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psutil

REPOSITORY = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(REPOSITORY / "tests"), str(REPOSITORY / "plugins")]

# as a team writes it: data every week, an approval for some, tuning and slices
CONFIG = """\
# yaml-language-server: $schema=./schema.json
model: {model}
description: Will this customer of {model} leave within the next month?
owner: team-{team}
tags: [customers, team-{team}]
task: binary_classification             # or multiclass_classification, regression
data:
  source: {{type: python}}                # read() of include/models/{model}.py
  schedule: "@weekly"
  start: {start}
  id: customer_id                       # never a feature
  time: at
  label: left
  label_delay: 7d
  suite: raw
train: {{window: 180d, holdout: 28d, search: {{trials: 20, timeout: 10m}}}}
gates:
  metric: roc_auc
  at_least: 0.6
  slices: {{columns: [country, plan], max_drop: 0.05, min_rows: 200}}
approval: {{required: {approval}}}
deploy: {{target: process, port: {port}, rollout: {{steps: [10, 50, 100], bake: 30s}}}}
monitor: {{min_rows: 500}}
retrain: {{on: [decision], cooldown: 7d}}
"""
LATER, SINCE_LONG = "2090-01-01", "2024-01-01"
LOOP_SECONDS = 8


def name_of(number: int) -> str:
    return f"model_{number:04d}"


def write_configs(root: Path, count: int, *, start: str) -> None:
    """Lay out a team's directory with so many models."""
    configs = root / "team" / "dags" / "configs"
    configs.mkdir(parents=True, exist_ok=True)
    shutil.copy(REPOSITORY / "dags" / "model_dags.py", configs.parent)
    for number in range(count):
        text = CONFIG.format(
            model=name_of(number), team=number // 20, start=start, approval=str(number % 3 == 0).lower(), port=30_000 + number
        )
        (configs / f"{name_of(number)}.yaml").write_text(text, encoding="utf-8")


def environment(root: Path, database: str | None, port: int = 0) -> dict[str, str]:
    """What the processes of the platform are given, over a team's directory and a database."""
    from seed_models import seeded_environment

    added = {"PYTHONWARNINGS": "ignore", "OMP_NUM_THREADS": "1"}
    if database:
        # psycopg speaks both ways
        added |= {f"AIRFLOW__DATABASE__SQL_ALCHEMY_CONN{way}": database for way in ("", "_ASYNC")}
    return seeded_environment(root, port) | added


def child(command: str, environ: Mapping[str, str], argument: object) -> dict[str, Any]:
    """Run a measurement of tests/measure_airflow.py in a process of its own, and return what it found."""
    measured = [sys.executable, str(REPOSITORY / "tests" / "measure_airflow.py"), command, str(argument)]
    done = subprocess.run(measured, env=dict(environ), capture_output=True, text=True, timeout=900)
    if done.returncode:
        raise SystemExit(f"{command}: ended with {done.returncode}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}")
    return dict(json.loads(done.stdout.splitlines()[-1]))


def measure_dags(quick: bool) -> None:
    """Parse, write, and loop, for growing numbers of models."""
    counts = (2, 10) if quick else (10, 50, 100, 500)
    for label, database in databases():
        with tempfile.TemporaryDirectory(prefix="windvane-scale-") as directory, database() as url:
            root, rows = Path(directory), list[dict[str, float]]()
            environ = environment(root, url) | {"AIRFLOW__DAG_PROCESSOR__MIN_FILE_PROCESS_INTERVAL": "0"}
            write_configs(root, 1, start=LATER)
            subprocess.run([airflow(), "db", "migrate"], env=environ, check=True, capture_output=True, timeout=300)
            for count in counts:
                write_configs(root, count, start=LATER)
                parsed = child("parse", environ, 2)
                own = child("task", environ, f"{name_of(count - 1)}__ingest")
                looped = child("loops", environ, LOOP_SECONDS)
                rows.append(
                    {
                        "models": count,
                        "DAGs": parsed["again"]["dags"],
                        "parse s": parsed["again"]["parse_s"],
                        "parse CPU s": parsed["parse_cpu_s"],
                        "new CPU s": parsed["first"]["write_cpu_s"],
                        "write s": parsed["again"]["write_s"],
                        "write CPU s": parsed["again"]["write_cpu_s"],
                        "MiB": parsed["again"]["bytes"] / 2**20,
                        "peak MiB": parsed["parse_rss_mib"],
                        "task CPU ms": own["ms"],
                        "loop ms": looped["whole_ms"],
                        "loop CPU ms": looped["cpu_ms"],
                    }
                )
                show_row(rows)
            show_growth(f"DAGs, {label}", rows, per="models")
            burst(root, counts[-1], environ, label)


def burst(root: Path, count: int, environ: Mapping[str, str], label: str) -> None:
    """Every model is due at once."""
    write_configs(root, count, start=SINCE_LONG)
    changed = child("parse", environ, 1)["first"]
    due = child("loops", environ, 3 * LOOP_SECONDS)
    print(
        f"{label}: all {count} configs changed: parsed in {changed['parse_s']:.1f} s, written in {changed['write_s']:.1f} s. "
        f"{due['runs']} runs due at once: created and queued by loops of at most {due['worst_ms']:.0f} ms, "
        f"then {due['ms']:.0f} ms a loop while they wait; {load()}",
        flush=True,
    )


def measure_start(quick: bool) -> None:
    """From a trigger to the start of the task."""
    rows: list[dict[str, float]] = []
    for count in (1, 5 if quick else 500):
        with tempfile.TemporaryDirectory(prefix="windvane-scale-") as directory:
            rows.append({"models": count, **start_times(Path(directory), count, 3 if quick else 15)})
            show_row(rows)
    show_growth("from trigger to task start, SQLite, LocalExecutor", rows, per="models")


def start_times(root: Path, count: int, rounds: int) -> dict[str, float]:
    from windvane.airflow_client import AirflowClient

    write_configs(root, count, start=LATER)
    port = free_port()
    environ = environment(root, None, port)
    subprocess.run([airflow(), "db", "migrate"], env=environ, check=True, capture_output=True, timeout=300)
    with ExitStack() as running:
        began = time.monotonic()
        for command in (
            ["api-server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"],
            ["scheduler", "--skip-serve-logs"],
            ["dag-processor"],
        ):
            running.enter_context(process([airflow(), *command], environ, root / f"{command[0]}.log"))
        client = AirflowClient(f"http://127.0.0.1:{port}", user="admin", password="admin")
        dag_id = f"{name_of(count - 1)}__score"
        run = ready(client, dag_id, seconds=300 + 2 * count)
        known = time.monotonic() - began
        started, ended = [], []
        for _ in range(rounds + 1):
            asked = datetime.now(UTC)
            run = client.trigger(dag_id)
            done = wait(lambda run=run: finished(client, dag_id, run), seconds=300)
            started.append((as_time(done["start_date"]) - asked).total_seconds())
            ended.append((as_time(done["end_date"]) - asked).total_seconds())
    return {
        "DAGs": 5 * count,
        "up s": known,
        "start s": statistics.median(started[1:]),
        "worst s": max(started[1:]),
        "end s": statistics.median(ended[1:]),
    }


def ready(client: Any, dag_id: str, *, seconds: float) -> Any:
    """Wait until Airflow answers and knows the DAG."""
    import requests

    from windvane.errors import WindvaneError

    def known() -> Any:
        try:
            return client._request("GET", f"/dags/{dag_id}")
        except (WindvaneError, requests.RequestException):
            return None

    return wait(known, seconds=seconds)


def finished(client: Any, dag_id: str, run_id: str) -> dict[str, Any] | None:
    """The only task of a run, once it ended; nothing serves, so it fails, which is as good."""
    tasks: list[dict[str, Any]] = client.tasks(dag_id, run_id)
    return tasks[0] if tasks and tasks[0]["state"] in ("success", "failed") else None


def measure_ledger(quick: bool) -> None:
    """The queries of one ledger that grows, with the releases spread over many models and all of one."""
    counts = (100, 1_000) if quick else (1_000, 10_000, 100_000)
    for models_of in (lambda count: max(1, count // 200), lambda count: 1):
        for label, database in databases():
            rows: list[dict[str, float]] = []
            for count in counts:
                with tempfile.TemporaryDirectory(prefix="windvane-scale-") as directory, database() as url:
                    models = models_of(count)
                    rows.append(
                        {"releases": count, "models": models, **ledger_times(url or f"sqlite:///{directory}/ledger.db", count, models)}
                    )
                show_row(rows)
            show_growth(f"ledger, {label}", rows, per="releases")


def ledger_times(url: str, count: int, models: int) -> dict[str, float]:
    """Milliseconds of what is asked of a ledger with so many rows."""
    from windvane.ledger import Ledger
    from windvane.survey_releases import survey_releases

    fill_ledger(url, count, models)
    ledger, model = Ledger(url), name_of(models // 2)
    epoch, digest = count // models, "d" * 64

    def append() -> None:
        nonlocal epoch
        common = {"version": 3, "digest": digest, "traffic": {3: 100}, "actor": "benchmark", "reason": "measured"}
        epoch = ledger.append(model, expected_epoch=epoch, action="promote", **common).epoch  # type: ignore[arg-type]

    try:
        found = {
            "last ms": milliseconds(lambda: ledger.last(model), 200),
            "append ms": milliseconds(append, 50),
            "standing ms": milliseconds(lambda: ledger.standing(model), 200),
            "digest ms": milliseconds(lambda: ledger.digest_of(model, 2), 200),
            "history ms": milliseconds(lambda: ledger.history(model), 5),
            "verify ms": milliseconds(lambda: ledger.verify(model), 3),
            "all models ms": milliseconds(ledger.models, 5),
            "page ms": milliseconds(lambda: survey_releases(ledger), 5),
        }
        if ledger.verify(model):
            raise SystemExit(f"the ledger of {model} is broken: {ledger.verify(model)[0]}")
        return found
    finally:
        ledger.close()


def fill_ledger(url: str, count: int, models: int) -> None:
    """Write rows as the ledger does, a rollout of four and a promotion each, in few transactions."""
    from datetime import timedelta

    from sqlalchemy import create_engine, text

    from windvane import ledger as ledgers

    opened = ledgers.Ledger(url)
    opened.models()  # makes the table
    opened.close()
    begin = datetime(2024, 1, 1, tzinfo=UTC)
    evidence = {"run": "model__deploy/scheduled__2024", "verdict": {gate: {"passed": True, "value": 0.81} for gate in "abcdef"}}
    engine = create_engine(url)
    for number in range(models):
        before, rows = ledgers._NO_HASH, []
        for epoch in range(1, count // models + 1):
            version, step = 1 + epoch // 4, epoch % 4
            share = (10, 50, 90, 100)[step] if version > 1 else 100
            row = ledgers.Release(
                model=name_of(number), epoch=epoch, action="promote" if step == 3 else "shift", version=version, digest=f"{version:064d}",
                traffic={version: share} if share == 100 else {version - 1: 100 - share, version: share},
                until=None if step == 3 else begin + timedelta(hours=epoch), actor=f"{name_of(number)}__deploy", reason="better by 0.02",
                evidence=evidence, time=begin + timedelta(hours=epoch), previous_hash=before, hash="",
            )  # fmt: skip
            values = ledgers._row_values(row)
            before = values["hash"] = ledgers._hash_of(values)
            rows.append(values)
        with engine.begin() as connection:
            connection.execute(ledgers.Ledger.table.insert(), rows)
    with engine.begin() as connection:
        # what a database does by itself in time
        connection.execute(text("ANALYZE"))
    engine.dispose()


def milliseconds(call: Callable[[], object], rounds: int) -> float:
    """Median of a call, once it was called."""
    call()
    taken = []
    for _ in range(rounds):
        began = time.perf_counter()
        call()
        taken.append(time.perf_counter() - began)
    return statistics.median(taken) * 1000


def databases() -> Iterator[tuple[str, Callable[[], Any]]]:
    """SQLite, and PostgreSQL where it is installed: a name, and a context that gives the URL of an empty one; None for a file."""
    from postgres_server import find_postgres, serve_postgres

    yield "SQLite", lambda: nullcontext(None)
    if find_postgres():
        yield "PostgreSQL", serve_postgres
    else:
        print("PostgreSQL is not installed: left out")


@contextmanager
def process(command: list[str], environ: Mapping[str, str], log: Path) -> Iterator[None]:
    """A process of the platform, ended with all its children."""
    with log.open("wb") as output:
        started = subprocess.Popen(command, env=dict(environ), stdout=output, stderr=output, start_new_session=True)
    try:
        yield
    finally:
        family = psutil.Process(started.pid).children(recursive=True) if started.poll() is None else []
        started.terminate()
        try:
            started.wait(20)
        except subprocess.TimeoutExpired:
            started.kill()
        for left in psutil.wait_procs(family, timeout=5)[1]:
            left.kill()


def wait(look: Callable[[], Any], *, seconds: float) -> Any:
    give_up = time.monotonic() + seconds
    while time.monotonic() < give_up:
        if found := look():
            return found
        time.sleep(0.2)
    raise SystemExit(f"not within {seconds:.0f} s")


def airflow() -> str:
    return str(Path(sys.executable).parent / "airflow")


def as_time(text: str) -> datetime:
    return datetime.fromisoformat(text)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def load() -> str:
    return f"load average {os.getloadavg()[0]:.1f}"


def show_row(rows: list[dict[str, float]]) -> None:
    """The newest row of a table, and its head before the first."""
    if len(rows) == 1:
        print("".join(f"{name:>13}" for name in rows[0]), flush=True)
    cells = (f"{value:>13,}" if isinstance(value, int) else f"{value:>13.2f}" for value in rows[-1].values())
    print("".join(cells) + f"   {load()}", flush=True)


def show_growth(what: str, rows: list[dict[str, float]], *, per: str) -> None:
    """By how much each cost is multiplied from the first row to the last."""
    first, last = rows[0], rows[-1]
    ratios = (f"{name} x{last[name] / first[name]:.2f}" for name in first if name != per and first[name])
    print(f"{what}: {per} x{last[per] / first[per]:.0f}: {', '.join(ratios)}\n", flush=True)


def measure_rows(quick: bool) -> None:
    subprocess.run([sys.executable, str(Path(__file__).with_name("large_windows.py")), *(["--quick"] if quick else [])], check=True)


PARTS: dict[str, Callable[[bool], None]] = {
    "dags": measure_dags,
    "start": measure_start,
    "ledger": measure_ledger,
    "rows": measure_rows,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="few models and releases")
    parser.add_argument("--part", choices=PARTS, action="append", help="only this part; default all")
    asked = parser.parse_args()
    for name in asked.part or PARTS:
        PARTS[name](asked.quick)


if __name__ == "__main__":
    main()
