"""The reconciler on a real engine: whatever happens to containers and HAProxy, within a minute all is as the ledger says."""

import os
import signal
import socket
import subprocess
import sys
import time
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta

import pytest
from small_bundle import MODEL, make_bundle, make_config, make_settings, write_config
from steady_load import steady_load

from windvane.connect_docker import docker_engine, labels_of
from windvane.docker_target import proxy_directory, stop_containers
from windvane.errors import ServiceUnavailable
from windvane.haproxy_control import HaproxyControl
from windvane.ledger import Ledger
from windvane.process_target import environment_of, fetch_model

pytestmark = [pytest.mark.live, pytest.mark.docker]

BODY = {"dataframe_records": [{"calls": 0.5, "months": 1.0, "customer": "c1"}]}
PROMISED_SECONDS = 60


class Place:
    """One installation with containers, and the reconciler that looks after it every few seconds."""

    def __init__(self, root):
        self.settings = make_settings(root)
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        self.url = f"http://127.0.0.1:{port}"
        self.config = make_config(port=port, target="docker", limits={"memory": "400m", "cpus": 1.0})
        write_config(self.settings, self.config)
        self.ledger = Ledger(self.settings.database)
        self.bundles = {version: make_bundle(self.settings, seed=version) for version in (1, 2)}
        self.control = HaproxyControl(proxy_directory(self.settings, MODEL) / "run")

    def add(self, action, version, traffic, **more):
        last = self.ledger.last(MODEL)
        return self.ledger.append(
            MODEL, expected_epoch=last.epoch if last else 0, action=action, version=version, digest=self.bundles[version].digest,
            traffic=traffic, actor="test", reason="because", **more,
        )  # fmt: skip

    @contextmanager
    def containers(self, **labels):
        with docker_engine() as client:
            wanted = [f"{name}={value}" for name, value in labels_of(self.settings, model=MODEL, **labels).items()]
            yield client.containers.list(all=True, filters={"label": wanted})

    def shares(self):
        """What HAProxy gives to each version: percent."""
        states = [state for state in self.control.servers().values() if state.healthy]
        total = sum(state.weight for state in states)
        found = {}
        for state in states:
            version = int(state.name.rpartition("-v")[2].split("-")[0])
            found[version] = found.get(version, 0) + round(100 * state.weight / total) if total else 0
        return {version: percent for version, percent in found.items() if percent}

    def wait_until_in_line(self, *, seconds=PROMISED_SECONDS):
        """Wait until endpoint, HAProxy and containers are as the last row says; returns how long that took."""
        began, found = time.monotonic(), None
        while True:
            last = self.ledger.last(MODEL)
            try:
                answers = {fetch_model(self.url)["version"] for _ in range(10)}
                with self.containers(role="scorer") as scorers:
                    running = {int(scorer.labels["windvane.version"]): scorer.status for scorer in scorers}
                found = (answers, self.shares(), running)
                right = answers <= set(last.traffic) and self.shares() == last.traffic
                if right and last.until is None and running == dict.fromkeys(last.traffic, "running"):
                    return time.monotonic() - began
            except ServiceUnavailable as exc:
                found = exc
            assert time.monotonic() - began < seconds, f"after {seconds} s the ledger says {last.action} {last.traffic}, found {found}"
            time.sleep(0.3)


@pytest.fixture(scope="module")
def installation(tmp_path_factory):
    try:
        with docker_engine():
            pass
    except ServiceUnavailable as exc:
        if os.environ.get("WINDVANE_REQUIRE_DOCKER") == "1":
            pytest.fail(str(exc))
        pytest.skip(str(exc))
    place = Place(tmp_path_factory.mktemp("reconciler"))
    place.add("promote", 1, {1: 100})
    with (place.settings.var / "reconciler.log").open("wb") as log:
        daemon = subprocess.Popen([sys.executable, "-m", "windvane.cli", "reconcile"], env=environment_of(place.settings), stderr=log)
        daemon.wait(300)
        command = [sys.executable, "-m", "windvane.cli", "reconcile", "--every", "4"]
        daemon = subprocess.Popen(command, env=environment_of(place.settings), stderr=log)
    yield place
    daemon.send_signal(signal.SIGTERM)
    daemon.wait(30)
    stop_containers(place.settings)
    with docker_engine() as client:
        for image in client.images.list(filters={"label": [f"{k}={v}" for k, v in labels_of(place.settings).items()]}):
            client.images.remove(image.id, force=True)
    place.ledger.close()


@pytest.fixture
def place(installation):
    if installation.ledger.last(MODEL).traffic != {1: 100}:
        installation.add("rollback", 1, {1: 100})
    installation.wait_until_in_line()
    return installation


def remove_the_scorer(place):
    with place.containers(role="scorer") as (scorer,):
        scorer.remove(force=True)


def pause_the_scorer(place):
    with place.containers(role="scorer") as (scorer,):
        scorer.pause()


def freeze_the_server(place):
    code = (
        "import os, signal, glob\n"
        "for path in glob.glob('/proc/[0-9]*/cmdline'):\n"
        "    words, pid = open(path, 'rb').read().split(b'\\0'), int(path.split('/')[2])\n"
        "    if b'windvane.scoring' in words and words[0].endswith(b'python'):\n"
        "        os.kill(pid, signal.SIGSTOP)\n"
    )
    with place.containers(role="scorer") as (scorer,):
        assert scorer.exec_run(["python", "-c", code]).exit_code == 0


def kill_haproxy(place):
    with place.containers(role="proxy") as (proxy,):
        proxy.kill()


def pause_haproxy(place):
    with place.containers(role="proxy") as (proxy,):
        proxy.pause()


def restart_everything(place):
    """What a restart of the engine does to our containers; the engine itself serves others too."""
    with place.containers() as ours:
        for container in ours:
            container.kill()
        for container in ours:
            container.start()


def take_the_server_out_by_hand(place):
    for name in place.control.servers():
        place.control._do(f"set server scorers/{name} state maint")


def change_the_weight_by_hand(place):
    for name in place.control.servers():
        place.control._do(f"set server scorers/{name} weight 0")


@pytest.mark.parametrize(
    "hurt",
    [
        remove_the_scorer, pause_the_scorer, freeze_the_server, kill_haproxy, pause_haproxy, restart_everything,
        take_the_server_out_by_hand, change_the_weight_by_hand,
    ],
)  # fmt: skip
def test_what_was_done_by_hand_is_undone(place, hurt):
    before = place.ledger.last(MODEL)
    hurt(place)
    seconds = place.wait_until_in_line()
    print(f"{hurt.__name__}: in line again after {seconds:.1f} s")
    assert place.ledger.last(MODEL) == before, "nothing that happens to containers changes what should serve"


def test_a_canary_past_its_time_is_reverted_and_no_request_fails(place):
    with steady_load(place.url, BODY) as load:
        shift = place.add("shift", 2, {1: 90, 2: 10}, until=datetime.now(UTC) + timedelta(seconds=20))
        give_up = time.monotonic() + 20
        while place.shares() != {1: 90, 2: 10}:
            assert time.monotonic() < give_up, f"the canary is not enforced: {place.shares()}"
            time.sleep(0.2)
        while place.ledger.last(MODEL) == shift:
            assert datetime.now(UTC) < shift.until + timedelta(seconds=PROMISED_SECONDS)
            time.sleep(0.2)
        late = (datetime.now(UTC) - shift.until).total_seconds()
        seconds = place.wait_until_in_line()
        time.sleep(0.5)
    print(f"reverted {late:.1f} s after its time, in line {seconds:.1f} s later, {load.answered} requests, {len(load.failures)} failed")
    last = place.ledger.last(MODEL)
    assert (last.action, last.traffic, last.actor) == ("revert", {1: 100}, "reconciler")
    assert late + seconds < PROMISED_SECONDS
    assert load.failures == []
    assert load.digests.keys() == {place.bundles[1].digest, place.bundles[2].digest}


@pytest.mark.parametrize(
    "rows",
    [
        [("shift", {1: 90, 2: 10})],
        [("shift", {1: 90, 2: 10}), ("shift", {1: 50, 2: 50})],
        [("shift", {2: 100})],
        [("shift", {2: 100}), ("promote", {2: 100})],
        [("shift", {1: 90, 2: 10}), ("revert", {1: 100})],
    ],
    ids=["first step", "second step", "all of it", "promoted", "reverted"],
)
def test_a_deployment_that_was_killed_after_a_row_is_ended(place, rows):
    """The rows are all that such a deployment left: it was killed before it touched a container."""
    until = datetime.now(UTC) + timedelta(seconds=3)
    for action, traffic in rows:
        place.add(action, 2, traffic, until=until if action == "shift" else None)
    time.sleep(3)
    seconds = place.wait_until_in_line()
    print(f"{[action for action, _ in rows]}: in line after {seconds:.1f} s, {place.ledger.last(MODEL).traffic} serves")
    assert place.ledger.last(MODEL).traffic == ({2: 100} if rows[-1][0] == "promote" else {1: 100})
    assert place.ledger.verify(MODEL) == []
