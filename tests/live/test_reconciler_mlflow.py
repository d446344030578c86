"""The reconciler and a real MLflow: its aliases and versions are caches, whoever changes them by hand."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from dataclasses import replace

import pytest
from small_bundle import MODEL, make_bundle, make_config, make_settings, write_config
from steady_load import steady_load

import windvane.align_alias as aligning
from windvane.ledger import Ledger
from windvane.mlflow_client import connect
from windvane.process_target import environment_of, fetch_model
from windvane.reconcile import Memory, reconcile
from windvane.register_model import BUNDLE_TAG, CHAMPION, get_alias, register_again

pytestmark = pytest.mark.live

BODY = {"dataframe_records": [{"calls": 0.5, "months": 1.0, "customer": "c1"}]}
PROMISED_SECONDS = 60


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture(scope="module")
def mlflow_uri(tmp_path_factory):
    root, port = tmp_path_factory.mktemp("mlflow"), free_port()
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    command += ["--backend-store-uri", f"sqlite:///{root}/mlflow.db", "--artifacts-destination", str(root / "artifacts")]
    environ = os.environ | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
    with (root / "log").open("wb") as log:
        server = subprocess.Popen(command, cwd=root, env=environ, stdout=log, stderr=log, start_new_session=True)
    uri, give_up = f"http://127.0.0.1:{port}", time.monotonic() + 120
    while True:
        try:
            urllib.request.urlopen(f"{uri}/health", timeout=2).close()
            break
        except (urllib.error.URLError, OSError):
            assert server.poll() is None, (root / "log").read_text()[-2000:]
            assert time.monotonic() < give_up
            time.sleep(0.3)
    yield uri
    os.killpg(server.pid, signal.SIGTERM)
    server.wait(30)


class Place:
    def __init__(self, root, uri):
        self.settings = replace(make_settings(root), mlflow_uri=uri)
        self.config = make_config(port=free_port())
        write_config(self.settings, self.config)
        self.client = connect(self.settings)
        self.ledger = Ledger(self.settings.database)
        self.bundles, self.versions = [make_bundle(self.settings, seed=seed) for seed in (1, 2)], []
        for bundle in self.bundles:
            # versions of earlier tests stay in the same MLflow, under the same bundles
            self.versions.append(register_again(self.settings, bundle, version=0))
        self.promote(self.versions[0], self.bundles[0].digest)
        self.memory = Memory()
        self.reconcile()

    def promote(self, version, digest):
        last = self.ledger.last(MODEL)
        self.ledger.append(
            MODEL, expected_epoch=last.epoch if last else 0, action="promote", version=version, digest=digest, traffic={version: 100},
            actor="test", reason="because",
        )  # fmt: skip

    def reconcile(self):
        return reconcile(self.settings, memory=self.memory)

    @property
    def champion(self):
        return get_alias(self.settings, MODEL, CHAMPION)


@pytest.fixture
def place(tmp_path, mlflow_uri, monkeypatch):
    monkeypatch.setattr(aligning, "_PAUSE_SECONDS", 0)
    made = Place(tmp_path, mlflow_uri)
    assert made.champion == (made.versions[0], made.bundles[0].digest)
    yield made
    made.ledger.close()


def test_an_alias_that_was_moved_or_deleted_is_put_back_and_told(place):
    right = place.champion
    place.client.set_registered_model_alias(MODEL, CHAMPION, str(place.versions[1]))
    moved = place.reconcile()
    assert place.champion == right
    place.client.delete_registered_model_alias(MODEL, CHAMPION)
    deleted = place.reconcile()
    assert place.champion == right
    warning = f"{MODEL}: warning: somebody changed the alias in MLflow: moved the alias 'champion' from"
    assert moved == [f"{warning} version {place.versions[1]} to version {right[0]}"]
    assert deleted == [f"{warning} nothing to version {right[0]}"]
    assert place.reconcile() == []


@pytest.mark.parametrize("lost", ["version", "run", "model"])
def test_a_champion_that_was_deleted_is_registered_again_from_its_bundle(place, lost):
    version, digest = place.champion
    if lost == "run":
        place.client.delete_run(place.client.get_model_version(MODEL, str(version)).run_id)
    if lost == "model":
        place.client.delete_registered_model(MODEL)
    else:
        place.client.delete_model_version(MODEL, str(version))
    before = place.ledger.last(MODEL)

    told = place.reconcile()

    again, found = place.champion
    assert found == digest
    if lost != "model":  # a new model counts from 1
        assert again > max(place.versions)
    assert f"{MODEL}: warning: version {version}, which serves, is not in MLflow any more; it serves on from its bundle" in told[0]
    assert f"registered again as version {again}" in told[0]
    registered = place.client.get_model_version(MODEL, str(again))
    assert registered.tags == {
        BUNDLE_TAG: digest, "windvane.training_key": place.bundles[0].training_key, "windvane.serves_as": str(version)
    }  # fmt: skip
    assert {file.path for file in place.client.list_artifacts(registered.run_id, "bundle")} >= {"bundle/bundle.json", "bundle/model.skops"}
    assert place.ledger.last(MODEL) == before
    assert place.reconcile() == []


def test_the_daemon_puts_an_alias_back_within_a_minute_while_it_serves(tmp_path, mlflow_uri):
    place = Place(tmp_path, mlflow_uri)
    settings, right = place.settings, place.champion
    environ = environment_of(settings)
    with (settings.var / "reconciler.log").open("wb") as log:
        daemon = subprocess.Popen([sys.executable, "-m", "windvane.cli", "reconcile", "--every", "10"], env=environ, stderr=log)
    try:
        url, give_up = f"http://127.0.0.1:{place.config.deploy.port}", time.monotonic() + 60
        while True:
            try:
                if fetch_model(url)["version"] == right[0]:
                    break
            except aligning.ServiceUnavailable:
                pass
            assert time.monotonic() < give_up
            time.sleep(0.2)
        with steady_load(url, BODY) as load:
            began = time.monotonic()
            place.client.set_registered_model_alias(MODEL, CHAMPION, str(place.versions[1]))
            while place.champion != right:
                assert time.monotonic() - began < PROMISED_SECONDS
                time.sleep(0.5)
            seconds = time.monotonic() - began
        status = subprocess.run(
            [sys.executable, "-m", "windvane.cli", "status", "--json"], env=environ, capture_output=True, text=True, check=False
        )
        shown = json.loads(status.stdout)["reconciler"]
    finally:
        daemon.send_signal(signal.SIGTERM)
        daemon.wait(30)
        place.ledger.close()
    print(f"the alias was back after {seconds:.1f} s, {load.answered} requests, {len(load.failures)} failed")
    assert load.failures == []
    assert load.digests.keys() == {place.bundles[0].digest}
    assert any("moved the alias 'champion'" in entry["text"] for entry in shown["done"])
    assert shown["problems"] == []
