"""Rolling back: one command, under load, with MLflow stopped, the lake moved away and no network; or a refusal that says what to do."""

import json
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta

import psutil
import pytest
from small_bundle import MODEL, make_bundle, make_config, make_settings, write_config
from steady_load import steady_load

from windvane.connect_docker import docker_engine, labels_of
from windvane.deployment import open_target
from windvane.docker_target import stop_containers
from windvane.errors import ServiceUnavailable
from windvane.ledger import Ledger
from windvane.process_target import environment_of, fetch_model

pytestmark = pytest.mark.live

BODY = {"dataframe_records": [{"calls": 0.5, "months": 1.0, "customer": "c1"}]}
PROMISED_SECONDS = 30
NO_NETWORK = """
import errno, sys


def refuse(event, arguments):
    host = None
    if event == "socket.connect" and isinstance(arguments[1], tuple):
        host = arguments[1][0]
    elif event == "socket.getaddrinfo":
        host = arguments[0]
    if host not in (None, "127.0.0.1", "localhost", "::1"):
        raise OSError(errno.ENETUNREACH, "no network in this test")


sys.addaudithook(refuse)
"""


class Place:
    """One installation of its own: its endpoint, its ledger, and a shell that has no network."""

    def __init__(self, root, *, target):
        self.settings = make_settings(root)
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.config = make_config(port=self.port, target=target, limits={"memory": "400m", "cpus": 1.0})
        write_config(self.settings, self.config)
        self.ledger = Ledger(self.settings.database)
        self.bundles = {version: make_bundle(self.settings, seed=version) for version in (1, 2, 3)}
        (root / "no_network").mkdir()
        (root / "no_network" / "sitecustomize.py").write_text(NO_NETWORK)
        self.environ = environment_of(self.settings)
        self.environ["PYTHONPATH"] = os.pathsep.join([str(root / "no_network"), *filter(None, [self.environ.get("PYTHONPATH")])])
        for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
            self.environ.pop(name, None)

    @property
    def url(self):
        return f"http://127.0.0.1:{self.port}"

    def add(self, action, version, *, traffic=None, **more):
        last = self.ledger.last(MODEL)
        return self.ledger.append(
            MODEL, expected_epoch=last.epoch if last else 0, action=action, version=version, digest=self.bundles[version].digest,
            traffic=traffic or {version: 100}, actor="test", reason="because", **more,
        )  # fmt: skip

    def begin(self):
        """The state from which each test starts: versions 1, 2 and 3 were promoted, 3 serves."""
        last = self.ledger.last(MODEL)
        if last is None or last.traffic != {3: 100} or last.until:
            for version in (1, 2, 3):
                self.add("promote", version)
        if self.config.deploy.target == "docker":
            open_target(self.config, self.settings).align(self.ledger.last(MODEL))
        self.wait_for(3)

    def serving(self):
        try:
            serving = fetch_model(self.url)["serving"] or {}
        except ServiceUnavailable:
            return None
        return serving.get("version")

    def wait_for(self, version, *, seconds=60):
        give_up = time.monotonic() + seconds
        while self.serving() != version:
            assert time.monotonic() < give_up, f"serves {self.serving()}, not {version}"
            time.sleep(0.1)

    def pause(self, *, version, seconds):
        """Pause the container of a version as soon as it is there, before it can answer."""
        wanted = [f"{name}={value}" for name, value in labels_of(self.settings, role="scorer", version=str(version)).items()]
        give_up = time.monotonic() + seconds
        with docker_engine() as client:
            while not (found := client.containers.list(filters={"label": wanted, "status": "running"})):
                assert time.monotonic() < give_up
                time.sleep(0.05)
            found[0].pause()

    def windvane(self, *arguments):
        began = time.monotonic()
        done = subprocess.run(
            [sys.executable, "-m", "windvane.cli", *arguments], env=self.environ, capture_output=True, text=True, timeout=120, check=False
        )
        return done, time.monotonic() - began


@pytest.fixture(scope="module")
def process(tmp_path_factory):
    place = Place(tmp_path_factory.mktemp("rollback"), target="process")
    with (place.settings.var / "reconciler.log").open("wb") as log:
        daemon = subprocess.Popen([sys.executable, "-m", "windvane.cli", "reconcile", "--every", "2"], env=place.environ, stderr=log)
    yield place
    daemon.send_signal(signal.SIGTERM)
    daemon.wait(30)
    place.ledger.close()


@pytest.fixture(scope="module")
def docker(tmp_path_factory):
    try:
        with docker_engine():
            pass
    except ServiceUnavailable as exc:
        if os.environ.get("WINDVANE_REQUIRE_DOCKER") == "1":
            pytest.fail(str(exc))
        pytest.skip(str(exc))
    place = Place(tmp_path_factory.mktemp("rollback-docker"), target="docker")
    yield place
    stop_containers(place.settings)
    with docker_engine() as client:
        for image in client.images.list(filters={"label": [f"{k}={v}" for k, v in labels_of(place.settings).items()]}):
            client.images.remove(image.id, force=True)
    place.ledger.close()


@pytest.fixture(params=["process", pytest.param("docker", marks=pytest.mark.docker)])
def place(request):
    found = request.getfixturevalue(request.param)
    found.begin()
    return found


def test_one_command_rolls_back_in_time_with_mlflow_the_lake_and_the_network_gone(place):
    shut = place.settings.var / "lake"
    shut.mkdir(exist_ok=True)
    shut.rename(shut.with_name("moved-away"))
    with steady_load(place.url, BODY) as load:
        time.sleep(0.5)
        done, seconds = place.windvane("rollback", MODEL, "--reason", "it answers badly")
        time.sleep(0.5)

    print(f"{place.config.deploy.target}: rolled back in {seconds:.1f} s, {load.answered} requests, {len(load.failures)} failed")
    print(done.stdout)
    assert done.returncode == 0, done.stderr
    assert seconds <= PROMISED_SECONDS
    assert load.failures == []
    assert load.digests.keys() == {place.bundles[3].digest, place.bundles[2].digest}
    assert place.serving() == 2
    last = place.ledger.last(MODEL)
    assert (last.action, last.version, last.reason, last.traffic) == ("rollback", 2, "it answers badly", {2: 100})
    assert f"{MODEL} serves version 2 after" in done.stdout
    assert re.search(r"^ +[0-9.]+ s  rehearsed: 10 golden rows", done.stdout, re.MULTILINE)


def test_bad_bytes_are_refused_and_the_command_that_is_offered_works(place):
    bad = place.bundles[2].path / "model.skops"
    whole = bad.read_bytes()
    bad.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    before = place.ledger.last(MODEL)
    try:
        refused, _ = place.windvane("rollback", MODEL)
        assert refused.returncode == 1
        assert f"{bad}: its SHA-256 differs" in refused.stderr
        assert "Traceback" not in refused.stderr
        assert place.ledger.last(MODEL) == before
        assert place.serving() == 3

        offered = re.search(r"run `windvane (.*?)`", refused.stderr).group(1)
        done, seconds = place.windvane(*shlex.split(offered))
    finally:
        bad.write_bytes(whole)
    assert done.returncode == 0, done.stderr
    assert seconds <= PROMISED_SECONDS
    assert place.serving() == 1


def test_a_rollback_supersedes_a_rollout(place):
    share = {3: 90, 2: 10} if place.config.deploy.target == "docker" else {2: 100}
    shift = place.add("shift", 2, traffic=share, until=datetime.now(UTC) + timedelta(minutes=5), evidence={"plan": "x@1"})
    open_target(place.config, place.settings).shift(shift)

    done, seconds = place.windvane("rollback", MODEL, "--json")

    assert done.returncode == 0, done.stderr
    assert seconds <= PROMISED_SECONDS
    assert json.loads(done.stdout)["version"] == 3, "a rollback during a rollout goes back to the champion"
    rows = [(row.action, row.version, row.traffic) for row in place.ledger.history(MODEL) if row.epoch > shift.epoch]
    assert rows == [("revert", 2, {3: 100}), ("shift", 3, {3: 100}), ("rollback", 3, {3: 100})]
    assert place.serving() == 3


def test_an_endpoint_that_nobody_started_is_no_success(tmp_path):
    lonely = Place(tmp_path, target="process")
    lonely.add("promote", 1)
    done, _ = lonely.windvane("rollback", MODEL, "--to", "1")
    lonely.ledger.close()
    assert done.returncode == 1
    assert f"the ledger says that it serves, {lonely.url} does not serve it" in done.stderr
    assert "windvane status" in done.stderr


DEPLOY = """
import json, sys
from windvane.deployment import Plan, roll_out
from windvane.load_config import load_model_config
from windvane.settings import load_settings

settings, plan = load_settings(), Plan.from_json(json.loads(sys.argv[1]))
roll_out(load_model_config(settings.project, plan.model), settings, plan)
"""


@pytest.mark.docker
def test_a_rollback_does_not_wait_for_a_candidate_that_does_not_come_up(docker):
    docker.begin()
    sick = make_bundle(docker.settings, seed=9)
    last = docker.ledger.last(MODEL)
    plan = {"model": MODEL, "version": 9, "digest": sick.digest, "rollback": False, "epoch": last.epoch, "reason": "why", "actor": "t"}
    with steady_load(docker.url, BODY) as load:
        deploying = subprocess.Popen([sys.executable, "-c", DEPLOY, json.dumps(plan)], env=environment_of(docker.settings))
        try:
            docker.pause(version=9, seconds=60)
            time.sleep(4)  # by now the deployment waits for the candidate, with the lock of the containers in its hand
            assert deploying.poll() is None
            assert docker.ledger.last(MODEL).action == "shift"
            done, seconds = docker.windvane("rollback", MODEL)
        finally:
            deploying.kill()
            deploying.wait()
    print(f"rolled back in {seconds:.1f} s beside a candidate that hangs, {load.answered} requests, {len(load.failures)} failed")
    assert done.returncode == 0, done.stderr
    assert seconds <= PROMISED_SECONDS
    assert docker.serving() == 3
    assert docker.ledger.last(MODEL).traffic == {3: 100}
    assert load.failures == []
    assert load.digests.keys() == {docker.bundles[3].digest}


STOPPED = """
import json, os, signal, sys
import windvane.ledger as ledger
from windvane.deployment import Plan, promote, roll_out
from windvane.errors import StaleEpoch
from windvane.load_config import load_model_config
from windvane.settings import load_settings

action, plan, settings, real = sys.argv[1], Plan.from_json(json.loads(sys.argv[2])), load_settings(), ledger._hash_of


def stop_before(values):
    if values["action"] == action and not values["hash"]:
        os.kill(os.getpid(), signal.SIGSTOP)
    return real(values)


ledger._hash_of = stop_before
config = load_model_config(settings.project, plan.model)
try:
    roll_out(config, settings, plan)
    promote(config, settings, plan)
except StaleEpoch as exc:
    sys.exit(f"stale: {exc}")
"""


@pytest.mark.parametrize("action", ["shift", "promote"])
def test_an_attempt_that_slept_while_another_acted_is_refused_by_the_database(process, action):
    process.begin()
    last = process.ledger.last(MODEL)
    plan = {"model": MODEL, "version": 2, "digest": process.bundles[2].digest, "rollback": False, "epoch": last.epoch}
    plan |= {"reason": "why", "actor": "slow"}
    slow = subprocess.Popen(
        [sys.executable, "-c", STOPPED, action, json.dumps(plan)], env=environment_of(process.settings), stderr=subprocess.PIPE, text=True
    )
    try:
        give_up = time.monotonic() + 60
        while psutil.Process(slow.pid).status() != psutil.STATUS_STOPPED:
            assert slow.poll() is None, slow.stderr.read()
            assert time.monotonic() < give_up
            time.sleep(0.05)
        done, _ = process.windvane("rollback", MODEL, "--to", "1")
        assert done.returncode == 0, done.stderr
        before = process.ledger.history(MODEL)

        slow.send_signal(signal.SIGCONT)
        _, said = slow.communicate(timeout=60)
    finally:
        if slow.poll() is None:
            slow.kill()
            slow.wait()
        slow.stderr.close()

    assert slow.returncode == 1
    assert "stale: release ledger" in said
    assert "superseded" in said
    time.sleep(1.5)
    assert process.ledger.history(MODEL) == before, "no row came from the one that slept"
    assert process.ledger.verify(MODEL) == []
    assert process.serving() == 1
