"""The rollout on a real engine under a constant load: versions come and go, bad ones go back, and no request fails."""

import json
import os
import subprocess
import sys
import time
from bisect import bisect_right
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from small_bundle import MODEL, make_bundle, make_config, make_settings, write_config
from steady_load import steady_load

import windvane.deployment as deploying
from windvane.config import Rollout
from windvane.connect_docker import docker_engine, labels_of
from windvane.deployment import package, promote, rehearse, roll_out
from windvane.docker_target import DockerTarget, proxy_directory, stop_containers
from windvane.errors import RehearsalFailed, RolloutFailed, ServiceUnavailable
from windvane.haproxy_control import HaproxyControl
from windvane.ledger import Ledger
from windvane.process_target import environment_of
from windvane.reconcile import reconcile
from windvane.resolve_release import Plan, resolve_release

pytestmark = [pytest.mark.live, pytest.mark.docker]

SWITCHES = int(os.environ.get("WINDVANE_SWITCHES", "20"))
PER_SECOND = 110
ROLLOUT = Rollout.model_validate({"shadow": 300, "steps": [50, 100], "bake": "4s", "min_requests": 100})
_random = np.random.default_rng(3)
BODIES = [
    {"dataframe_records": [{"calls": float(calls), "months": float(months), "customer": f"c{number}"}]}
    for number, (calls, months) in enumerate(_random.normal(size=(400, 2)))
]
# `apply` is no column operation that is known, so that features() runs in the container, too
FEATURES = """
import os, sys, time

INSIDE, SERVING, CALLS = os.path.isdir("/bundles"), "__main__" in sys.argv[0], [0]


def features(frame):
    CALLS[0] += 1
    if {when}:
        {what}
    return frame.apply(lambda column: column)
"""
DEPLOY = """
import json, sys
import windvane.deployment as d
from windvane.load_config import load_model_config
from windvane.settings import load_settings

d.sync_alias = lambda *_: None
settings = load_settings()
config, plan = load_model_config(settings.project, sys.argv[1]), d.Plan.from_json(json.loads(sys.argv[2]))
d.package(config, settings, plan)
found = d.rehearse(config, settings, plan)
d.promote(config, settings, plan, evidence=d.roll_out(config, settings, plan, evidence=found))
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
    made = make_settings(tmp_path_factory.mktemp("rollout"))
    yield made
    stop_containers(made)


@pytest.fixture(scope="module")
def config(settings):
    from live_platform import free_port

    made = make_config(port=free_port(), target="docker", limits={"memory": "400m", "cpus": 1.0})
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


def next_version(ledger):
    return max((row.version for row in ledger.history(MODEL)), default=0) + 1


def plan_for(ledger, digest):
    last = ledger.last(MODEL)
    return Plan(MODEL, next_version(ledger), digest, rollback=False, epoch=last.epoch if last else 0, reason="why", actor="test")


def deploy(config, settings, plan):
    package(config, settings, plan)
    seen = roll_out(config, settings, plan, evidence=rehearse(config, settings, plan))
    return promote(config, settings, plan, evidence=seen)


@pytest.fixture
def champion(config, settings, ledger):
    """A good version serves."""
    last = ledger.last(MODEL)
    if last is None or last.serving is None:
        deploy(config, settings, plan_for(ledger, make_bundle(settings, seed=1).digest))
    return ledger.last(MODEL).serving


def check_answers(load, ledger):
    """Every answer came from a version that could serve then: by the row of that moment, or by the one before while it was being obeyed."""
    rows = ledger.history(MODEL)
    times, digests = [row.time.timestamp() for row in rows], {row.version: row.digest for row in rows}
    for moment, digest in load.seen:
        newest = bisect_right(times, moment) - 1
        allowed = {digests[version] for version in rows[newest].traffic}
        if newest and moment - times[newest] < 30:
            allowed |= {digests[version] for version in rows[newest - 1].traffic}
        assert digest in allowed, f"{digest} at {moment}, epoch {rows[newest].epoch} allows {allowed}"


def containers_of(settings, **labels):
    with docker_engine() as client:
        wanted = [f"{name}={value}" for name, value in labels_of(settings, model=MODEL, **labels).items()]
        return client.containers.list(all=True, filters={"label": wanted})


@pytest.mark.timeout(900)
def test_promotions_and_rollbacks_lose_no_request(config, settings, ledger, champion):
    bundles = [make_bundle(settings, seed=seed) for seed in (1, 2)]
    rollback_seconds = []
    with steady_load(url_of(config), BODIES, per_second=PER_SECOND) as load:
        for number in range(SWITCHES):
            deploy(config, settings, plan_for(ledger, bundles[(number + 1) % 2].digest))
            began = time.monotonic()
            back = resolve_release(config, settings, "previous")
            roll_out(config, settings, back, evidence=rehearse(config, settings, back))
            assert promote(config, settings, back).action == "rollback"
            rollback_seconds.append(time.monotonic() - began)
    print(f"{SWITCHES} promotions, {SWITCHES} rollbacks in at most {max(rollback_seconds):.1f} s; {load.answered} answers, "
          f"{len(load.failures)} failed")  # fmt: skip
    assert load.failures == []
    assert load.answered > 100 * SWITCHES
    assert max(rollback_seconds) < 30
    check_answers(load, ledger)
    assert ledger.verify(MODEL) == []


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("os._exit(3)", "exit status 3"),
        ("time.sleep(600)", "did not end"),
        ("bytearray(2_000_000_000)", "needs more memory"),
        ("time.sleep(0.03)", "latency"),
        ("return frame[['calls', 'months']] * -1", "golden rows"),
        ("return frame * float('nan')", "."),
    ],
    ids=["crashes", "hangs", "eats memory", "is slow", "answers differently", "answers NaN"],
)
def test_a_bad_candidate_does_not_get_past_its_rehearsal(config, settings, ledger, champion, monkeypatch, what, message):
    monkeypatch.setattr("windvane.scorer_containers._REHEARSAL_SECONDS", 30)
    bundle = make_bundle(settings, seed=2, more_code=FEATURES.format(when="INSIDE", what=what))
    plan = plan_for(ledger, bundle.digest)
    with steady_load(url_of(config), BODIES, per_second=PER_SECOND) as load:
        package(config, settings, plan)
        with pytest.raises(RehearsalFailed, match=message):
            rehearse(config, settings, plan)
    assert load.failures == []
    assert ledger.last(MODEL).action == "refuse"
    assert ledger.last(MODEL).traffic == {champion: 100}
    check_answers(load, ledger)


@pytest.mark.parametrize(
    ("what", "reason"),
    [
        ("os._exit(3)", "."),
        ("time.sleep(0.1)", "latency"),
        ("return frame[['calls', 'months']].set_axis(['months', 'calls'], axis=1)[['calls', 'months']]", "live answers"),
    ],
    ids=["crashes", "is slow", "swaps two features"],
)
def test_a_candidate_that_is_bad_only_when_it_serves_is_taken_back(config, settings, ledger, champion, what, reason):
    # long enough for a percentile of the times
    config = config.model_copy(update={"deploy": config.deploy.model_copy(update={"rollout": ROLLOUT})})
    # the first calls are those of the self check
    bundle = make_bundle(settings, seed=2, more_code=FEATURES.format(when="SERVING and CALLS[0] > 20", what=what))
    plan = plan_for(ledger, bundle.digest)
    package(config, settings, plan)
    evidence = rehearse(config, settings, plan)
    with steady_load(url_of(config), BODIES, per_second=PER_SECOND) as load:
        time.sleep(1)
        with pytest.raises(RolloutFailed, match=reason):
            roll_out(config, settings, plan, evidence=evidence)
        took = (ledger.last(MODEL).time - ledger.history(MODEL)[-2].time).total_seconds()
        time.sleep(1)
    print(f"taken back after {took:.1f} s: {ledger.last(MODEL).reason}")
    assert load.failures == []
    assert ledger.last(MODEL).action == "revert"
    assert ledger.last(MODEL).traffic == {champion: 100}
    assert {digest for moment, digest in load.seen if moment > time.time() - 0.5} == {ledger.digest_of(MODEL, champion)}
    check_answers(load, ledger)
    assert containers_of(settings, version=str(plan.version)) == []


def test_a_candidate_that_hangs_only_when_it_serves_is_taken_back(config, settings, ledger, champion):
    config = config.model_copy(update={"deploy": config.deploy.model_copy(update={"rollout": ROLLOUT})})
    code = FEATURES.format(when="SERVING and CALLS[0] > 20", what="time.sleep(600)")
    bundle = make_bundle(settings, seed=2, more_code=code)
    plan = plan_for(ledger, bundle.digest)
    package(config, settings, plan)
    evidence = rehearse(config, settings, plan)

    def ask_after_the_revert():
        own, give_up = Ledger(settings.database), time.monotonic() + 120
        while (own.last(MODEL).action, own.last(MODEL).version) != ("revert", plan.version) and time.monotonic() < give_up:
            time.sleep(0.1)
        own.close()
        time.sleep(5)
        with steady_load(url_of(config), BODIES, per_second=PER_SECOND, timeout_seconds=2) as later:
            time.sleep(2)
        return later

    # clients enough that some are left when others wait for what hangs; all are patient, as HAProxy gives up before them
    with (
        ThreadPoolExecutor(1) as pool,
        steady_load(url_of(config), BODIES, per_second=PER_SECOND, clients=64, timeout_seconds=60) as load,
    ):
        time.sleep(1)
        asked = pool.submit(ask_after_the_revert)
        with pytest.raises(RolloutFailed, match="health"):
            roll_out(config, settings, plan, evidence=evidence)
        time.sleep(1)
        later = asked.result(60)
    shifted, reverted = ledger.history(MODEL)[-2:]
    assert (shifted.action, reverted.action, reverted.traffic) == ("shift", "revert", {champion: 100})
    took = (reverted.time - shifted.time).total_seconds()
    print(f"taken back after {took:.1f} s: {reverted.reason}; {load.answered} and {later.answered} answers")
    assert took < 30
    assert load.failures == []
    # who asks now is answered at once, also while others still wait for what hung
    assert later.failures == []
    assert later.answered > PER_SECOND
    check_answers(load, ledger)
    assert containers_of(settings, version=str(plan.version)) == []


def test_a_restarted_haproxy_keeps_the_shares_of_a_canary(config, settings, ledger, champion):
    bundle = make_bundle(settings, seed=5)
    plan = plan_for(ledger, bundle.digest)
    package(config, settings, plan)
    row = deploying._append_shift(ledger, plan, plan.epoch, 25, seconds=60, evidence={})
    target = DockerTarget(config, settings)
    target.shift(row)
    containers_of(settings, role="proxy")[0].restart(timeout=1)
    control = HaproxyControl(proxy_directory(settings, MODEL) / "run")
    control.wait_until_up()
    weights = {f"v{plan.version}-" in name: state.weight for name, state in control.servers().items()}
    assert weights == {True: 64, False: 192}
    reverted = deploying._revert(ledger, row, actor="test", reason="the test ends", evidence={})
    target.revert(reverted)
    assert [f"v{champion}-" in name for name in control.servers()] == [True]


@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    "point", ["rehearse", "prepared", "shift row", "shifted", "baked", "step judged", "promote row", "retired"], ids=lambda name: name
)
def test_a_deployment_that_is_killed_anywhere_is_finished_by_the_next(config, settings, ledger, champion, point):
    bundle = make_bundle(settings, seed=1 + len(ledger.history(MODEL)) % 2)
    plan = plan_for(ledger, bundle.digest)
    command = [sys.executable, "-c", DEPLOY, MODEL, json.dumps(plan.as_json())]
    environ = environment_of(settings)
    with steady_load(url_of(config), BODIES, per_second=50) as load:
        killed = subprocess.run(
            command, env=environ | {"WINDVANE_FAILPOINT": f"{point}:kill"}, capture_output=True, check=False, timeout=200
        )
        assert killed.returncode == -9, killed.stderr[-2000:]
        reconcile(settings)
        again = subprocess.run(command, env=environ, capture_output=True, check=False, timeout=200)
        assert again.returncode == 0, again.stderr[-3000:]
    assert load.failures == []
    own = [row.action for row in ledger.history(MODEL) if row.epoch > plan.epoch]
    assert own.count("promote") == 1
    assert own[-1] == "promote"
    assert ledger.last(MODEL).traffic == {plan.version: 100}
    check_answers(load, ledger)
    assert {container.labels["windvane.version"] for container in containers_of(settings, role="scorer")} == {str(plan.version)}
    assert containers_of(settings, role="rehearsal") == []
