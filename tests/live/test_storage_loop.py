"""The loop on two hosts that share nothing but an object store, PostgreSQL and MLflow: a worker that trains, one that deploys.

The operators' Python is called without Airflow; that tasks run on other hosts changes nothing for it but the directories.
"""

import contextlib
import hashlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import requests
from live_platform import free_port
from postgres_server import find_postgres, serve_postgres
from s3_server import KEY, S3, SECRET, serve_s3
from training_project import DAYS, MODEL_FILE, START, make_rows

from windvane.bundle import open_bundle
from windvane.collect_predictions import collect_predictions
from windvane.commit_data import Commit, commit_data
from windvane.config import ModelConfig
from windvane.deployment import package, promote, rehearse, resolve_release, roll_out
from windvane.extract_data import Staged, extract_data
from windvane.gate_challenger import gate_challenger
from windvane.lake import Lake
from windvane.ledger import Ledger
from windvane.model_code import load_model_code
from windvane.monitor_model import monitor_window
from windvane.object_path import ObjectPath
from windvane.process_target import environment_of, fetch_model
from windvane.register_model import register_model
from windvane.resolve_release import Plan
from windvane.settings import Settings, load_settings
from windvane.snapshot import Serving, Snapshot, plan_training
from windvane.train_model import train_model
from windvane.validate_data import Validation, validate_data
from windvane.windows import Window

pytestmark = [pytest.mark.live, pytest.mark.timeout(600)]

MODEL = "churn"
HALF = START + timedelta(days=DAYS / 2)
END = START + timedelta(days=DAYS)
NEXT = Window(END, END + timedelta(days=DAYS))
SHARED = ("lake", "bundles", "reports", "staging")
START_MLFLOW = Path(__file__).resolve().parents[2] / "include" / "docker" / "mlflow" / "write_auth.py"


@dataclass
class Installation:
    """Two hosts, or one that plays both.

    Attributes:
        seconds: How long each part took.
    """

    worker: Settings
    deployer: Settings
    config: ModelConfig
    seconds: dict[str, float] = field(default_factory=dict)

    @contextlib.contextmanager
    def timed(self, name: str) -> Iterator[None]:
        """Measure a part."""
        began = time.monotonic()
        yield
        self.seconds[name] = round(time.monotonic() - began, 2)


def install(root: Path, *, database: str, shared: dict[str, str], hosts: int) -> Installation:
    """Write the team's files, which every host has from git, and choose the places."""
    team = root / "team"
    (team / "include" / "models").mkdir(parents=True)
    (team / "include" / "models" / f"{MODEL}.py").write_text(MODEL_FILE.format(task="binary_classification"))
    for name, rows in (("a", make_rows("binary_classification", 1600)), ("b", make_rows("binary_classification", 1600, seed=1))):
        late = rows.assign(seen=rows["seen"] + timedelta(days=DAYS)) if name == "b" else rows
        late.assign(customer=late["customer"] + name).to_parquet(team / f"{name}.parquet", index=False)
    environ = {"WINDVANE_PROJECT": str(team), "WINDVANE_DB": database, "MLFLOW_TRACKING_URI": f"sqlite:///{root}/mlflow.db", **shared}
    made = [load_settings({**environ, "WINDVANE_VAR": str(root / f"host-{number}")}) for number in range(hosts)]
    config = ModelConfig.model_validate(
        {
            "model": MODEL,
            "task": "binary_classification",
            "data": {
                "id": "customer", "time": "seen", "label": "left", "label_delay": "1d",
                "source": {"type": "parquet", "path": "*.parquet"},
            },
            "train": {"window": "39d", "holdout": "10d"},
            "gates": {"min_rows": 50, "at_least": 0.6},
            "deploy": {"port": free_port(), "rollout": {"shadow": 50, "steps": [100], "bake": "1s", "min_requests": 10}},
            "monitor": {"min_rows": 100},
        }
    )  # fmt: skip
    return Installation(made[0], made[-1], config)


def handed_on(value: dict[str, Any]) -> dict[str, Any]:
    """What one task returns as another gets it."""
    found: dict[str, Any] = json.loads(json.dumps(value))
    return found


def ingest(at: Installation, window: Window) -> Commit:
    """Each task on another host."""
    code = load_model_code(at.worker.project / "include" / "models" / f"{MODEL}.py", MODEL)
    staged = handed_on(extract_data(at.config, code, at.worker, window=window, connection_uri=None).as_json())
    known = Lake(at.deployer.lake).columns(MODEL, "raw")
    judged = handed_on(validate_data(at.config, at.deployer, Staged.from_json(staged), known_schema=known).as_json())
    return commit_data(at.config, Lake(at.worker.lake), Validation.from_json(judged))


def train(at: Installation) -> tuple[int, str]:
    """Plan, train, register and gate; the gate on the other host."""
    code = load_model_code(at.worker.project / "include" / "models" / f"{MODEL}.py", MODEL)
    ledger = Ledger(at.worker.database)
    last = ledger.last(MODEL)
    ledger.close()
    champion = Serving(last.version, last.digest) if last else None
    planned = plan_training(at.config, code, Lake(at.worker.lake), window=None, settings=at.worker, champion=champion)
    snapshot = Snapshot.from_json(handed_on(planned.as_json()))
    trained = train_model(at.config, code, at.worker, Lake(at.worker.lake), snapshot)
    again = train_model(at.config, code, at.deployer, Lake(at.deployer.lake), snapshot)
    assert (again.bundle_digest, again.adopted) == (trained.bundle_digest, True)
    version = register_model(at.config, at.worker, bundle_digest=trained.bundle_digest, run_id=trained.run_id)
    verdict = gate_challenger(
        at.config, at.deployer, Lake(at.deployer.lake), snapshot,
        challenger=open_bundle(at.deployer.bundles, trained.bundle_digest),
        champion=open_bundle(at.deployer.bundles, champion.digest) if champion else None,
    )  # fmt: skip
    assert verdict.passed, verdict.table()
    return version, trained.bundle_digest


@contextlib.contextmanager
def serving(at: Installation) -> Iterator[str]:
    """The scoring server of the host that deploys, as the reconciler starts it."""
    port = at.config.deploy.port
    command = [sys.executable, "-m", "windvane.scoring", "--model", MODEL, "--port", str(port), "--poll", "0.2"]
    at.deployer.var.mkdir(parents=True, exist_ok=True)
    with (at.deployer.var / "scoring.log").open("wb") as log:
        process = subprocess.Popen(command, env=environment_of(at.deployer), stdin=subprocess.DEVNULL, stdout=log, stderr=log)
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(20)


def deploy(at: Installation) -> Plan:
    """All of a deployment, on the host that has the server."""
    plan = Plan.from_json(handed_on(resolve_release(at.config, at.deployer, None).as_json()))
    package(at.config, at.deployer, plan)
    evidence = handed_on(rehearse(at.config, at.deployer, plan))
    promote(at.config, at.deployer, plan, evidence=handed_on(roll_out(at.config, at.deployer, plan, evidence=evidence)))
    return plan


def run_loop(at: Installation) -> dict[str, Any]:
    """Ingest, train, gate, deploy, score, collect, monitor; returns what came of it."""
    with at.timed("ingest"):
        commits = [ingest(at, Window(START, HALF)), ingest(at, Window(HALF, END))]
        assert ingest(at, Window(START, HALF)).changed is False
    with at.timed("train and gate"):
        version, digest = train(at)
    with serving(at) as url:
        with at.timed("deploy"):
            plan = deploy(at)
        assert (plan.version, plan.digest) == (version, digest)
        assert fetch_model(url)["serving"]["digest"] == digest
        rows = make_rows("binary_classification", 1600, seed=1).head(300)
        rows = rows.assign(seen=(rows["seen"] + timedelta(days=DAYS)).dt.strftime("%Y-%m-%dT%H:%M:%SZ"), customer=rows["customer"] + "b")
        body = {"dataframe_split": rows[["customer", "seen", "calls", "plan", "note"]].to_dict(orient="split", index=False)}
        answer = requests.post(f"{url}/invocations", json=json.loads(json.dumps(body, default=str).replace("NaN", "null")), timeout=30)
        assert answer.status_code == 200, answer.text
        assert answer.headers["X-Windvane-Digest"] == digest
    with at.timed("monitor"):
        # its task runs where the requests were logged
        assert collect_predictions(at.config, at.deployer, Lake(at.deployer.lake)) == 300
        commits.append(ingest(at, NEXT))
        code = load_model_code(at.worker.project / "include" / "models" / f"{MODEL}.py", MODEL)
        ledger = Ledger(at.worker.database)
        seen = monitor_window(at.config, code, at.worker, Lake(at.worker.lake), ledger, window=NEXT)
        assert ledger.verify(MODEL) == []
        ledger.close()
    return {"commits": commits, "version": version, "digest": digest, "monitor": seen}


@contextlib.contextmanager
def serve_mlflow(root: Path, s3: S3) -> Iterator[str]:
    """URL of an MLflow server, started as its container starts it, that keeps artifacts in the bucket."""
    root.mkdir()
    port = free_port()
    command = [sys.executable, str(START_MLFLOW), sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port)]
    command += ["--workers", "1", "--artifacts-destination", s3.uri("mlflow")]
    environ = {**os.environ, **s3.environment, "MLFLOW_BACKEND_STORE_URI": f"sqlite:///{root}/mlflow.db", "TMPDIR": str(root)}
    environ |= {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_ENABLE_AI_GATEWAY": "false"}
    with (root / "mlflow.log").open("wb") as log:
        process = subprocess.Popen(command, env=environ, cwd=root, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
    url, give_up = f"http://127.0.0.1:{port}", time.monotonic() + 180
    try:
        while True:
            with contextlib.suppress(requests.ConnectionError):
                if requests.get(f"{url}/health", timeout=5).ok:
                    break
            assert process.poll() is None, (root / "mlflow.log").read_text()
            assert time.monotonic() < give_up, (root / "mlflow.log").read_text()
            time.sleep(0.2)
        yield url
    finally:
        process.terminate()
        process.wait(30)


def check_artifacts(at: Installation, s3: S3, *, version: int, digest: str) -> None:
    """The bundle of the version lies in the bucket, under its run, and can be had back from the server."""
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=at.worker.mlflow_uri)
    run = client.get_model_version(MODEL, str(version)).run_id
    experiment = client.get_run(run).info.experiment_id
    kept = ObjectPath.of(s3.uri(f"mlflow/{experiment}/{run}/artifacts"))
    contents = {hashlib.sha256(place.read_bytes()).hexdigest(): place.name for place, _ in kept.objects()}
    assert contents.get(digest) == "bundle.json", sorted(contents.values())
    bundle = open_bundle(at.worker.bundles, digest)
    assert {hashlib.sha256(path.read_bytes()).hexdigest() for path in bundle.path.rglob("*") if path.is_file()} <= set(contents)
    assert client.list_artifacts(run)


@pytest.fixture(scope="module")
def database() -> Iterator[str | None]:
    """URL of a PostgreSQL database; None where it is not installed."""
    if find_postgres() is None:
        yield None
        return
    with serve_postgres() as url:
        yield url


def test_two_hosts_that_share_no_directory_run_the_loop(
    tmp_path: Path, database: str | None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    here = install(tmp_path / "local", database=f"sqlite:///{tmp_path}/local.db", shared={}, hosts=1)
    run_loop(here)
    with serve_s3() as s3:
        for name, value in s3.environment.items():
            monkeypatch.setenv(name, value)
        places = {f"WINDVANE_{name.upper()}": s3.uri(f"installation/{name}") for name in SHARED}
        with serve_mlflow(tmp_path / "mlflow", s3) as mlflow:
            places["MLFLOW_TRACKING_URI"] = mlflow
            at = install(tmp_path / "shared", database=database or f"sqlite:///{tmp_path}/shared.db", shared=places, hosts=2)
            s3.requests()
            found = run_loop(at)
            check_artifacts(at, s3, version=found["version"], digest=found["digest"])
        with capsys.disabled():
            counts = ", ".join(f"{count} {method}" for method, count in sorted(s3.requests().items()))
            print(f"\nthe loop, seconds: local {here.seconds}, s3 {at.seconds}; requests: {counts}")

        assert [commit.rows for commit in found["commits"]] == [800, 800, 1600]
        assert found["monitor"].decision in ("ok", "wait", "ignore")
        reports = at.worker.reports
        assert isinstance(reports, ObjectPath)
        names = {place.name for place, _ in (reports / MODEL / NEXT.key).objects()}
        assert {"drift.html", "decision.json"} < names
        assert b"Decision:" in (reports / MODEL / NEXT.key / "drift.html").read_bytes(most=50_000_000)
        predictions = Lake(at.worker.lake).read(MODEL, "predictions")
        assert len(predictions) == 300
        assert set(predictions["digest"]) == {found["digest"]}
        # a host keeps copies of bundles, what it logs and what it serves, and nothing that another needs
        for host in (at.worker, at.deployer):
            kept = {path.relative_to(host.var).parts[0] for path in host.var.rglob("*") if path.is_file()}
            assert kept <= {"cache", "requests", "scoring.log", "keys"}, kept
        written = [path for path in tmp_path.rglob("*") if path.is_file() and path.stat().st_size < 50_000_000]
        leaked = [str(path) for path in written if SECRET.encode() in path.read_bytes() or KEY.encode() in path.read_bytes()]
        stored = [place for root in ("installation", "mlflow") for place, _ in ObjectPath.of(s3.uri(root)).objects()]
        leaked += [str(place) for place in stored if SECRET.encode() in place.read_bytes()]
        assert leaked == []
