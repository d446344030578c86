"""The story of two versions where each container of the manifests is a real process, with a real S3 API: bundles, rehearsals, logs."""

import dataclasses
import threading
import time
from collections import Counter
from contextlib import contextmanager
from datetime import UTC, datetime

import pytest
from kubernetes_cluster import Cluster, serve_cluster
from kubernetes_processes import ProcessPods
from s3_server import serve_s3
from small_bundle import MODEL, make_bundle, make_config, make_settings

import windvane.deployment as deploying
import windvane.kubernetes_rehearsal as rehearsing
import windvane.kubernetes_target as targeting
from windvane.collect_predictions import collect_predictions, list_segments
from windvane.deployment import Plan, package, promote, rehearse, roll_out
from windvane.errors import RehearsalFailed
from windvane.kubernetes_target import KubernetesTarget
from windvane.lake import Lake
from windvane.ledger import Ledger
from windvane.object_path import ObjectPath
from windvane.read_traffic import TrafficReader
from windvane.scoring.fetch_bundle import UNREACHABLE
from windvane.scoring.fetch_bundle import main as fetch
from windvane.scoring.ship_requests import ship_segments
from windvane.shared_folder import SharedFolder

CONFIG = make_config(target="kubernetes")


@pytest.fixture(scope="module")
def s3():
    with serve_s3() as server:
        yield server


@pytest.fixture
def place(s3, tmp_path, monkeypatch):
    """Settings whose bundles and request logs are in the object store, under a name of their own."""
    for name in ("KUBERNETES_SERVICE_HOST", "HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy"):
        monkeypatch.delenv(name, raising=False)
    for name, value in {
        **s3.environment,
        "WINDVANE_SCORER_IMAGE": "registry.example.com/windvane/scorer:1",
        "WINDVANE_MODELS_DOMAIN": "models.example.com",
        "WINDVANE_BUNDLES": s3.uri(f"{tmp_path.name}/bundles"),
        "WINDVANE_REQUESTS": s3.uri(f"{tmp_path.name}/requests"),
    }.items():
        monkeypatch.setenv(name, value)
    shared = SharedFolder(ObjectPath.of(s3.uri(f"{tmp_path.name}/bundles")), cache=tmp_path / "cache")
    return dataclasses.replace(make_settings(tmp_path / "project"), bundles=shared)


@pytest.fixture
def cluster(place, s3, tmp_path, monkeypatch):
    pods = ProcessPods(tmp_path / "nodes", s3.environment)
    made = Cluster(pods)
    monkeypatch.setattr(targeting, "_POLL_SECONDS", 0.2)
    monkeypatch.setattr(rehearsing, "_POLL_SECONDS", 0.2)
    monkeypatch.setattr(deploying, "sync_alias", lambda settings, model, version: None)
    try:
        with serve_cluster(made, tmp_path) as kubeconfig:
            monkeypatch.setenv("KUBECONFIG", str(kubeconfig))
            yield made
    finally:
        pods.stop_all()


@contextmanager
def clients(cluster):
    """Ask for scores without a pause; gives how often each status came."""
    answers, stop = Counter(), threading.Event()

    def ask():
        while not stop.is_set():
            answers.update(cluster.send(1))
            time.sleep(0.005)

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    try:
        yield answers
    finally:
        stop.set()
        thread.join(30)


def deploy(settings, version, digest):
    ledger = Ledger(settings.database)
    last = ledger.last(MODEL)
    ledger.close()
    plan = Plan(MODEL, version, digest, rollback=False, epoch=last.epoch if last else 0, reason="why", actor="test")
    package(CONFIG, settings, plan)
    seen = rehearse(CONFIG, settings, plan)
    judged = roll_out(CONFIG, settings, plan, evidence=seen)
    promote(CONFIG, settings, plan)
    return seen, judged


def collected(settings, rows):
    """Collect until so many rows came, or it takes too long."""
    lake, found, give_up = Lake(settings.lake), 0, time.monotonic() + 30
    while found < rows and time.monotonic() < give_up:
        found += collect_predictions(CONFIG, settings, lake)
        time.sleep(0.2)
    return found, lake.read(MODEL, "predictions", columns=["version", "id"])


def test_two_versions_serve_from_the_object_store_and_every_scored_row_is_collected(cluster, place):
    one, two = make_bundle(place, seed=1, passed=None), make_bundle(place, seed=2, passed=None)
    seen, _ = deploy(place, 1, one.digest)
    assert seen["rehearsal"]["ok"]
    assert seen["rehearsal"]["rows"] == 10
    with clients(cluster) as answers:
        time.sleep(1)
        seen, judged = deploy(place, 2, two.digest)
        time.sleep(1)
    target = KubernetesTarget(CONFIG, place)
    served = target.counts()[2].requests

    assert set(answers) == {200}
    assert cluster.weights() == {"churn-v2": 100}
    assert judged["judgement"]["verdict"] == "advance"
    assert seen["replay"]["candidate"]["rows"] > 50
    found, rows = collected(place, answers.total())
    assert found == answers.total()
    assert rows["id"].nunique() == answers.total()
    assert (rows["version"] == 2).sum() == served
    assert list_segments(CONFIG, place) == []
    assert list((ObjectPath.of(str(place.bundles)).parent / "requests").objects()) == []
    assert cluster.denied == []


def test_a_bundle_that_was_changed_in_the_store_never_serves(cluster, place):
    one, two = make_bundle(place, seed=1, passed=None), make_bundle(place, seed=2, passed=None)
    deploy(place, 1, one.digest)
    damaged = place.bundles / two.digest / "model.skops"
    damaged.write_bytes(damaged.read_bytes()[:-1] + b"x")
    with pytest.raises(RehearsalFailed, match="SHA-256 differs"):
        deploy(place, 2, two.digest)
    assert cluster.weights() == {"churn-v1": 100}
    assert cluster.names("deployments") == ["churn-v1"]


def test_what_fetches_says_by_its_status_whether_another_try_can_help(place, tmp_path, s3, monkeypatch, capsys):
    bundle = make_bundle(place, seed=1, passed=None)
    arguments = ["--bundle", bundle.digest, "--from", str(place.bundles), "--to", str(tmp_path / "fetched")]
    assert fetch(arguments) == 0
    assert sorted(path.name for path in (tmp_path / "fetched" / bundle.digest).iterdir()) == sorted(bundle.files)
    assert fetch([*arguments[:1], "0" * 64, *arguments[2:]]) == 1
    s3.fail("GET", "bundle.json", status=403, times=1)
    assert fetch([*arguments[:5], str(tmp_path / "again")]) == UNREACHABLE
    assert "cannot be read" in capsys.readouterr().err


def test_a_damaged_segment_is_set_aside_in_the_store_and_one_that_cannot_be_listed_ends_no_bake(place, s3, tmp_path, caplog):
    damaged = ObjectPath.of(s3.uri(f"{tmp_path.name}/requests")) / MODEL / "20260101T000000000000Z-1-a-000001.arrow"
    damaged.write_bytes(b"cut off")
    lake = Lake(place.lake)
    assert collect_predictions(CONFIG, place, lake) == 0
    assert damaged.with_name(f"{damaged.name}.damaged").read_bytes() == b"cut off"
    assert not damaged.is_file()
    reader = TrafficReader(CONFIG, place, lake, since=datetime.now(UTC))
    s3.fail("GET", "", status=403)
    assert reader.update() == {}
    assert "its rows do not count yet" in caplog.text
    s3.mend()


def test_segments_wait_while_the_store_is_away_and_the_oldest_go_when_there_are_too_many(place, tmp_path, s3):
    from windvane.errors import StorageError

    for number in range(4):
        (tmp_path / f"2026-{number}.arrow").write_bytes(bytes([number]) * 1000)
    (tmp_path / ".2026-5.tmp").write_bytes(b"not closed")
    store = ObjectPath.of(s3.uri(f"{tmp_path.name}/shipped"))
    s3.fail("PUT", "2026-1", status=403)
    with pytest.raises(StorageError):
        ship_segments(tmp_path, store, max_bytes=2500)
    assert sorted(path.name for path in tmp_path.glob("*.arrow")) == ["2026-2.arrow", "2026-3.arrow"]
    assert ship_segments(tmp_path, store) == 2
    assert sorted(place.name for place, _ in store.objects()) == ["2026-0.arrow", "2026-2.arrow", "2026-3.arrow"]
    assert (tmp_path / ".2026-5.tmp").exists()
