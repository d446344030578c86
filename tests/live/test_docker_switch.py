"""The Docker target on a real engine: no request is lost in a switch, and a bad version, a crash or a restart costs nothing."""

import json
import os
import socket
import subprocess
import sys
import threading
import time
from contextlib import contextmanager

import pytest
import requests
from small_bundle import MODEL, make_bundle, make_config, make_settings, write_config

import windvane.deployment as deploying
from windvane.connect_docker import docker_engine, labels_of
from windvane.deployment import Plan, package, promote, rehearse, roll_out
from windvane.docker_target import DockerTarget, proxy_directory, stop_containers
from windvane.errors import RehearsalFailed, RolloutFailed, ServiceUnavailable
from windvane.haproxy_control import HaproxyControl
from windvane.ledger import Ledger
from windvane.process_target import environment_of
from windvane.reconcile import reconcile
from windvane.resolve_release import resolve_release

pytestmark = [pytest.mark.live, pytest.mark.docker]

BODY = {"dataframe_records": [{"calls": 0.5, "months": 1.0, "customer": "c1"}]}
SWITCHES = 5
# not a column operation that is known, so that it runs in the container too, and fails there
NOT_HERE = """
import os


def features(frame):
    if os.path.isdir("/bundles"):
        raise RuntimeError("not here")
    return frame.apply(lambda column: column)
"""


@pytest.fixture(scope="module", autouse=True)
def engine():
    try:
        with docker_engine():
            return
    except ServiceUnavailable as exc:
        if os.environ.get("WINDVANE_REQUIRE_DOCKER") == "1":
            pytest.fail(str(exc))
        pytest.skip(str(exc))


@pytest.fixture(scope="module")
def settings(tmp_path_factory):
    made = make_settings(tmp_path_factory.mktemp("docker"))
    yield made
    stop_containers(made)


@pytest.fixture(scope="module")
def config(settings):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        made = make_config(port=probe.getsockname()[1], target="docker", limits={"memory": "400m", "cpus": 1.0})
    write_config(settings, made)
    return made


@pytest.fixture(autouse=True)
def no_mlflow(monkeypatch):
    monkeypatch.setattr(deploying, "sync_alias", lambda settings, model, version: None)


@pytest.fixture
def ledger(settings):
    opened = Ledger(settings.database)
    yield opened
    opened.close()


def url_of(config):
    return f"http://127.0.0.1:{config.deploy.port}"


def plan_for(ledger, version, digest):
    last = ledger.last(MODEL)
    return Plan(MODEL, version, digest, rollback=False, epoch=last.epoch if last else 0, reason="why", actor="test")


def deploy(config, settings, plan):
    package(config, settings, plan)
    roll_out(config, settings, plan, evidence=rehearse(config, settings, plan))
    return promote(config, settings, plan)


def served(config, ledger, settings):
    """Something serves: the version, after deploying a first one if need be."""
    last = ledger.last(MODEL)
    if last is None or last.serving is None:
        deploy(config, settings, plan_for(ledger, 1, make_bundle(settings, seed=1).digest))
    return ledger.last(MODEL).serving


def ask(url):
    answer = requests.post(f"{url}/invocations", json=BODY, timeout=10)
    return answer.status_code, answer.headers.get("X-Windvane-Version")


@contextmanager
def load(url):
    """Requests without a pause and without retries: two clients that keep their connection, two with a new one each time."""
    stop, answers, failures = threading.Event(), {"keep-alive": {}, "new": {}}, []

    def client(kind):
        session = requests.Session() if kind == "keep-alive" else None
        while not stop.is_set():
            try:
                send = session.post if session else requests.post
                answer = send(f"{url}/invocations", json=BODY, timeout=10)
                if answer.status_code == 200:
                    version = int(answer.headers["X-Windvane-Version"])
                    answers[kind][version] = answers[kind].get(version, 0) + 1
                else:
                    failures.append((kind, answer.status_code, answer.text[:200]))
            except requests.RequestException as exc:
                failures.append((kind, repr(exc)[:300]))
            time.sleep(0.02)
        if session:
            session.close()

    threads = [threading.Thread(target=client, args=(kind,)) for kind in ("keep-alive", "keep-alive", "new", "new")]
    for thread in threads:
        thread.start()
    try:
        yield answers, failures
    finally:
        stop.set()
        for thread in threads:
            thread.join()


def test_five_switches_lose_no_request(config, settings, ledger):
    bundles = [make_bundle(settings, seed=seed) for seed in (1, 2)]
    first = served(config, ledger, settings)

    with load(url_of(config)) as (answers, failures):
        for number in range(SWITCHES):
            time.sleep(0.5)
            deploy(config, settings, plan_for(ledger, first + 1 + number, bundles[(number + 1) % 2].digest))
        time.sleep(0.5)

    total = {kind: sum(counts.values()) for kind, counts in answers.items()}
    print(f"switches: {SWITCHES}, requests: {total}, failed: {len(failures)}")
    assert failures == []
    assert total["keep-alive"] > 100
    assert total["new"] > 100
    assert set(answers["new"]) == set(range(first, first + SWITCHES + 1)), "each version answered"
    assert ask(url_of(config)) == (200, str(first + SWITCHES))


def test_the_containers_can_do_next_to_nothing(config, settings, ledger):
    served(config, ledger, settings)
    with docker_engine() as client:
        ours = client.containers.list(filters={"label": [f"{k}={v}" for k, v in labels_of(settings, model=MODEL).items()]})
        assert sorted(container.labels["windvane.role"] for container in ours) == ["proxy", "scorer"]
        for container in ours:
            host = container.attrs["HostConfig"]
            assert container.attrs["Config"]["User"] == "10001:10001"
            assert host["ReadonlyRootfs"]
            assert host["CapDrop"] == ["ALL"]
            assert "no-new-privileges" in host["SecurityOpt"]
            assert host["Memory"] == host["MemorySwap"] > 0
            assert host["PidsLimit"] > 0
            assert not host["Privileged"]
            published = [port["HostIp"] for ports in container.ports.values() if ports for port in ports]
            assert published == (["127.0.0.1"] if container.labels["windvane.role"] == "proxy" else [])
        scorer = next(container for container in ours if container.labels["windvane.role"] == "scorer")
        probe = "import socket; socket.create_connection(('192.0.2.1', 80), timeout=2)"
        assert scorer.exec_run(["python", "-c", probe]).exit_code != 0
        assert scorer.exec_run(["touch", "/opt/windvane/x"]).exit_code != 0


def test_scored_rows_are_logged_where_the_monitor_collects_them(config, settings, ledger):
    served(config, ledger, settings)
    directory = settings.requests / MODEL
    before = set(directory.glob("*.arrow"))
    assert ask(url_of(config))[0] == 200
    give_up = time.monotonic() + 15
    while not (new := set(directory.glob("*.arrow")) - before):
        assert time.monotonic() < give_up, "no segment was written"
        time.sleep(0.2)
    new.pop().unlink()


def test_a_version_that_fails_its_rehearsal_takes_no_traffic(config, settings, ledger):
    before = served(config, ledger, settings)
    broken = make_bundle(settings, seed=3, more_code=NOT_HERE)
    plan = plan_for(ledger, 90, broken.digest)
    package(config, settings, plan)
    with pytest.raises(RehearsalFailed, match="version 90 failed its rehearsal"):
        rehearse(config, settings, plan)
    assert ledger.last(MODEL).action == "refuse"
    assert ask(url_of(config)) == (200, str(before))


def test_a_version_that_does_not_come_up_leaves_the_old_one_serving(config, settings, ledger, monkeypatch):
    before = served(config, ledger, settings)
    plan = plan_for(ledger, 91, make_bundle(settings, seed=4, more_code=NOT_HERE).digest)
    monkeypatch.setattr("windvane.docker_target._HEALTHY_SECONDS", 6.0)

    with load(url_of(config)) as (_, failures), pytest.raises(RolloutFailed, match="not healthy within"):
        roll_out(config, settings, plan)

    assert failures == []
    assert [row.action for row in ledger.history(MODEL)[-2:]] == ["shift", "revert"]
    assert ask(url_of(config)) == (200, str(before))
    with docker_engine() as client:
        label = [f"{k}={v}" for k, v in labels_of(settings, model=MODEL, version="91").items()]
        assert client.containers.list(all=True, filters={"label": label}) == []


def test_what_was_killed_is_brought_back_in_line(config, settings, ledger):
    version = served(config, ledger, settings)
    with docker_engine() as client:
        for container in client.containers.list(filters={"label": [f"{k}={v}" for k, v in labels_of(settings, model=MODEL).items()]}):
            container.remove(force=True)
    with pytest.raises(requests.ConnectionError):
        ask(url_of(config))

    done = DockerTarget(config, settings).align(ledger.last(MODEL))

    assert len(done) == 2
    assert ask(url_of(config)) == (200, str(version))
    assert DockerTarget(config, settings).align(ledger.last(MODEL)) == []


def test_a_restarted_haproxy_finds_the_servers_in_its_file(config, settings, ledger):
    version = served(config, ledger, settings)
    with docker_engine() as client:
        label = [f"{k}={v}" for k, v in labels_of(settings, model=MODEL, role="proxy").items()]
        client.containers.list(filters={"label": label})[0].restart(timeout=1)
    control = HaproxyControl(proxy_directory(settings, MODEL) / "run")
    control.wait_until_up()
    give_up = time.monotonic() + 15
    while ask(url_of(config)) != (200, str(version)):
        assert time.monotonic() < give_up
        time.sleep(0.1)


def test_previous_rolls_back(config, settings, ledger):
    before = served(config, ledger, settings)
    deploy(config, settings, plan_for(ledger, 92, make_bundle(settings, seed=5).digest))
    assert ask(url_of(config)) == (200, "92")
    plan = resolve_release(config, settings, "previous")
    assert plan.version == before
    roll_out(config, settings, plan)
    assert promote(config, settings, plan).action == "rollback"
    assert ask(url_of(config)) == (200, str(before))


def test_a_killed_rollout_is_finished_by_the_next(config, settings, ledger):
    before = served(config, ledger, settings)
    plan = plan_for(ledger, 93, make_bundle(settings, seed=6).digest)
    code = (
        "import json, sys; from windvane.deployment import Plan, roll_out; from windvane.load_config import load_model_config; "
        "from windvane.settings import load_settings; s = load_settings(); "
        f"roll_out(load_model_config(s.project, {MODEL!r}), s, Plan.from_json(json.loads(sys.argv[1])), evidence=json.loads(sys.argv[2]))"
    )
    package(config, settings, plan)
    evidence = rehearse(config, settings, plan)
    given = [json.dumps(plan.as_json()), json.dumps(evidence)]
    attempt = subprocess.Popen([sys.executable, "-c", code, *given], env=environment_of(settings))
    while ledger.last(MODEL).action != "shift":
        assert attempt.poll() is None
        time.sleep(0.02)
    time.sleep(0.3)
    attempt.kill()
    attempt.wait()
    assert ask(url_of(config))[0] == 200

    roll_out(config, settings, plan, evidence=evidence)
    promote(config, settings, plan)

    assert [row.action for row in ledger.history(MODEL) if row.epoch > plan.epoch] == ["shift", "shift", "promote"]
    assert before != 93
    assert ask(url_of(config)) == (200, "93")


def test_containers_of_a_model_that_became_a_process_are_removed(config, settings, ledger):
    served(config, ledger, settings)
    write_config(settings, make_config(port=config.deploy.port))
    try:
        done = reconcile(settings)
    finally:
        write_config(settings, config)
    assert any(f"{MODEL}: serves no more from containers" in line for line in done)
    with docker_engine() as client:
        label = [f"{k}={v}" for k, v in labels_of(settings, model=MODEL).items()]
        assert client.containers.list(all=True, filters={"label": label}) == []
    assert not proxy_directory(settings, MODEL).exists()


def test_a_taken_port_is_named_with_its_setting(tmp_path):
    settings = make_settings(tmp_path)
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        target = DockerTarget(make_config(port=port, target="docker"), settings)
        plan = Plan(MODEL, 1, make_bundle(settings).digest, rollback=False, epoch=0, reason="why", actor="test")
        with pytest.raises(ServiceUnavailable, match=rf"deploy\.port: port {port} is taken by"):
            target.prepare(plan)
