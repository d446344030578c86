"""The reconciler: caches follow the ledger, and its daemon is the parent of the scoring servers."""

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, HTTPServer
from types import SimpleNamespace

import psutil
import pytest
from small_bundle import MODEL, make_bundle, make_config, make_settings, write_config

import windvane.align_alias as aligning
import windvane.reconcile as reconciling
import windvane.register_model as registering
from windvane.check_health import check_health, silent_endpoints
from windvane.errors import ServiceUnavailable, StorageError
from windvane.ledger import Ledger
from windvane.process_target import ProcessTarget, environment_of, fetch_model
from windvane.reconcile import Look, Memory, Reconciler, reconcile
from windvane.resolve_release import Plan
from windvane.supervise_servers import find_servers

A, B = "a" * 64, "b" * 64


@pytest.fixture
def settings(tmp_path):
    made = make_settings(tmp_path)
    write_config(made, make_config())
    yield made
    for process, _ in find_servers(made):
        process.kill()


@pytest.fixture
def ledger(settings):
    opened = Ledger(settings.database)
    yield opened
    opened.close()


@pytest.fixture
def aliases(monkeypatch):
    """Stands in for MLflow: the alias of each model."""
    known, digests = {}, {1: A, 2: B}

    def found(settings, model, alias):
        return (known[model], digests.get(known[model])) if model in known and alias == "champion" else None

    monkeypatch.setattr(aligning, "get_alias", found)
    monkeypatch.setattr(registering, "get_alias", found)
    monkeypatch.setattr(aligning, "registered_version", lambda settings, model, digest, version: version)
    monkeypatch.setattr(aligning, "set_champion_alias", lambda settings, model, version: known.update({model: version}))
    return known


def add(ledger, action, version, digest=A, **more):
    last = ledger.last(MODEL)
    return ledger.append(
        MODEL, expected_epoch=last.epoch if last else 0, action=action, version=version, digest=digest, traffic={version: 100},
        actor="test", reason="because", **more,
    )  # fmt: skip


def test_an_expired_shift_is_reverted_and_the_alias_follows(settings, ledger, aliases):
    add(ledger, "promote", 1)
    add(ledger, "shift", 2, B, until=datetime.now(UTC) - timedelta(seconds=1))
    aliases[MODEL] = 2

    done = reconcile(settings)

    assert ledger.last(MODEL).action == "revert"
    assert ledger.last(MODEL).traffic == {1: 100}
    assert aliases[MODEL] == 1
    assert [line.split(":")[0] for line in done] == [MODEL, MODEL]
    assert reconcile(settings) == []


def test_a_shift_under_way_moves_no_alias(settings, ledger, aliases):
    add(ledger, "promote", 1)
    add(ledger, "shift", 2, B, until=datetime.now(UTC) + timedelta(seconds=60))
    aliases[MODEL] = 1
    assert reconcile(settings) == []
    assert aliases[MODEL] == 1


def test_an_alias_that_is_elsewhere_is_moved_and_told(settings, ledger, aliases):
    add(ledger, "promote", 1)
    aliases[MODEL] = 7
    assert reconcile(settings) == [f"{MODEL}: moved the alias 'champion' from version 7 to version 1"]


@pytest.mark.parametrize("by_hand", [7, None], ids=["moved", "deleted"])
def test_an_alias_that_was_changed_by_hand_is_put_back_with_a_warning(settings, ledger, aliases, monkeypatch, by_hand):
    monkeypatch.setattr(aligning, "_PAUSE_SECONDS", 0)
    memory = Memory()
    add(ledger, "promote", 1)
    aliases[MODEL] = 1
    assert reconcile(settings, memory=memory) == []
    aliases.pop(MODEL)
    if by_hand:
        aliases[MODEL] = by_hand
    before = f"version {by_hand}" if by_hand else "nothing"
    assert reconcile(settings, memory=memory) == [
        f"{MODEL}: warning: somebody changed the alias in MLflow: moved the alias 'champion' from {before} to version 1"
    ]
    assert aliases[MODEL] == 1


def test_mlflow_that_does_not_answer_is_told_and_stops_nothing(settings, ledger):
    add(ledger, "promote", 1)
    add(ledger, "shift", 2, B, until=datetime.now(UTC) - timedelta(seconds=1))
    done = reconcile(settings)
    assert "reverted the shift" in done[0]
    assert "MLflow at http://127.0.0.1:9 does not answer" in done[1]


def test_mlflow_is_not_asked_again_while_nothing_changed(settings, ledger, aliases, monkeypatch):
    add(ledger, "promote", 1)
    memory = Memory()
    reconcile(settings, memory=memory)
    monkeypatch.setattr(aligning, "get_alias", lambda *args: pytest.fail("asked again"))
    monkeypatch.setattr(registering, "get_alias", lambda *args: pytest.fail("asked again"))
    assert reconcile(settings, memory=memory) == []


def test_an_alias_problem_is_said_again_without_asking_again(settings, ledger, aliases, monkeypatch):
    asked = []

    def deleted(settings, model, digest, version):
        asked.append(version)

    monkeypatch.setattr(aligning, "registered_version", deleted)
    add(ledger, "promote", 1)
    memory = Memory()
    first = reconcile(settings, memory=memory)
    assert "version 1, which serves, is not in MLflow any more; it serves on from its bundle" in first[0]
    assert "there is no such bundle" in first[0]
    assert reconcile(settings, memory=memory) == first
    assert asked == [1]


def test_a_config_that_cannot_be_read_is_told_and_hides_no_other(settings, ledger, aliases):
    (settings.project / "dags" / "configs" / "broken.yaml").write_text("model: broken\nsteps: 1\n")
    add(ledger, "promote", 1)
    done = reconcile(settings)
    assert any("broken.yaml" in line for line in done)
    assert aliases[MODEL] == 1


def test_a_config_that_became_unreadable_keeps_its_server(settings):
    daemon = Reconciler(settings)
    before = daemon._wanted({})
    assert before == {MODEL: 8100}
    (settings.project / "dags" / "configs" / f"{MODEL}.yaml").write_text("model: [")
    assert daemon._wanted(before) == before
    (settings.project / "dags" / "configs" / f"{MODEL}.yaml").unlink()
    assert daemon._wanted(before) == {}


def test_two_daemons_of_one_installation_are_refused(settings):
    lock = settings.var / "reconciler.lock"
    with reconciling._only_one(lock), pytest.raises(StorageError, match="another reconciler"), reconciling._only_one(lock):
        pass


def test_a_model_that_hangs_or_breaks_keeps_no_other_waiting(settings, ledger, monkeypatch, caplog):
    for model in ("slow", "broken", "good"):
        ledger.append(model, expected_epoch=0, action="promote", version=1, digest=A, traffic={1: 100}, actor="test", reason="because")
    hold, looked = threading.Event(), []

    def look(settings, model, config, memory):
        looked.append(model)
        if model == "slow":
            hold.wait(30)
        if model == "broken":
            raise RuntimeError("a defect")
        return Look(done=[f"{model}: done"])

    monkeypatch.setattr(reconciling, "reconcile_model", look)
    daemon = Reconciler(settings)
    daemon._every = 0.5
    try:
        first, second = daemon._look_at_all(), daemon._look_at_all()
    finally:
        hold.set()
    assert first == (["good: done"], ["broken: RuntimeError: a defect"])
    assert second == first
    assert sorted(looked) == ["broken", "broken", "good", "good", "slow"]
    assert sorted(daemon._look_at_all()[0]) == ["good: done", "slow: done"]
    assert "a defect" in caplog.text


def test_old_bundles_go_after_a_promotion_and_every_ten_minutes(settings, ledger, aliases, monkeypatch):
    pruned = []
    monkeypatch.setattr(reconciling, "retain_releases", lambda settings, config, history: pruned.append(history[-1].epoch) or ["gone"])
    memory = Memory()
    add(ledger, "promote", 1)
    aliases[MODEL] = 1
    assert reconcile(settings, memory=memory) == ["gone"]
    assert reconcile(settings, memory=memory) == []
    add(ledger, "refuse", 1)
    reconcile(settings, memory=memory)
    add(ledger, "promote", 1)
    reconcile(settings, memory=memory)
    assert pruned == [1, 3]
    monkeypatch.setattr(reconciling, "_RETAIN_SECONDS", 0)
    reconcile(settings, memory=memory)
    assert pruned == [1, 3, 3]


def start_daemon(settings):
    code = "import windvane.reconcile as r, windvane.settings as s; r.Reconciler(s.load_settings()).run(every_seconds=1)"
    return subprocess.Popen([sys.executable, "-c", code], env=environment_of(settings))


def wait_for(found, *, seconds=40):
    give_up = time.monotonic() + seconds
    while True:
        try:
            value = found()
        except ServiceUnavailable:
            value = None
        if value:
            return value
        assert time.monotonic() < give_up, "waited in vain"
        time.sleep(0.1)


def test_the_daemon_serves_survives_a_crash_and_takes_its_servers_along(settings, ledger):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    config = make_config(port=port)
    write_config(settings, config)
    digest = make_bundle(settings).digest
    add(ledger, "promote", 1, digest)
    url = f"http://127.0.0.1:{port}"

    first = start_daemon(settings)
    wait_for(lambda: fetch_model(url)["serving"])
    ((server, _),) = find_servers(settings)
    first.kill()
    first.wait()
    assert fetch_model(url)["serving"]["digest"] == digest, "the server outlives a crash of its parent"

    second = start_daemon(settings)
    try:
        os.kill(server.pid, signal.SIGKILL)
        wait_for(lambda: [process.pid for process, _ in find_servers(settings)] not in ([], [server.pid]))
        assert len(find_servers(settings)) == 1
        plan = Plan(MODEL, 1, digest, rollback=False, epoch=1, reason="why", actor="test")
        assert ProcessTarget(config, settings).prepare(plan)
        assert ProcessTarget(config, settings).observe(plan)
    finally:
        second.send_signal(signal.SIGTERM)
        second.wait(20)
    assert find_servers(settings) == []
    assert not psutil.pid_exists(second.pid)


@pytest.mark.parametrize(
    ("target", "seconds", "state"),
    [("process", 100, "answers 503"), ("process", 1, "ready"), ("docker", 100, "answers 503"), ("docker", 1, None)],
)
def test_an_endpoint_that_answers_and_does_not_serve_what_it_should_is_not_ready(settings, ledger, target, seconds, state):
    class Refuse(BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_error(503)

        def log_message(self, *args):
            pass

    with HTTPServer(("127.0.0.1", 0), Refuse) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        write_config(settings, make_config(port=server.server_port, target=target))
        running = SimpleNamespace(created=time.time() - seconds)
        platform = SimpleNamespace(
            process=lambda name: running if name == "reconciler" else None,
            ports={"airflow": 9, "mlflow": 9},
            airflow_url="http://127.0.0.1:9",
            mlflow_url="http://127.0.0.1:9",
        )
        # nothing should serve yet
        assert check_health(settings, platform).get(f"endpoint of {MODEL}") == ("ready" if target == "process" else None)
        assert silent_endpoints(settings) == []
        add(ledger, "promote", 1)
        assert check_health(settings, platform).get(f"endpoint of {MODEL}") == state
        assert silent_endpoints(settings) == [
            f"{MODEL}: the ledger says that it serves, and http://127.0.0.1:{server.server_port}/health answers 503"
        ]
        server.shutdown()
