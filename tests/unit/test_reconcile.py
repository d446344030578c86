"""The reconciler: caches follow the ledger, and its daemon is the parent of the scoring servers."""

import os
import signal
import socket
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta

import psutil
import pytest
from small_bundle import MODEL, make_bundle, make_config, make_settings, write_config

import windvane.reconcile as reconciling
import windvane.register_model as registering
from windvane.errors import ServiceUnavailable, StorageError
from windvane.ledger import Ledger
from windvane.process_target import ProcessTarget, environment_of, fetch_model
from windvane.reconcile import Reconciler, reconcile
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
    known = {}
    monkeypatch.setattr(registering, "get_alias", lambda settings, model, alias: (known[model], None) if model in known else None)
    monkeypatch.setattr(reconciling, "sync_alias", lambda settings, model, version: known.update({model: version}))
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


def test_an_alias_that_was_moved_by_hand_is_moved_back_and_told(settings, ledger, aliases):
    add(ledger, "promote", 1)
    aliases[MODEL] = 7
    assert reconcile(settings) == [f"{MODEL}: moved the alias 'champion' from version 7 to version 1"]


def test_mlflow_that_does_not_answer_is_told_and_stops_nothing(settings, ledger):
    add(ledger, "promote", 1)
    add(ledger, "shift", 2, B, until=datetime.now(UTC) - timedelta(seconds=1))
    done = reconcile(settings)
    assert "reverted the shift" in done[0]
    assert "MLflow at http://127.0.0.1:9 does not answer" in done[1]


def test_mlflow_is_not_asked_again_while_nothing_changed(settings, ledger, aliases, monkeypatch):
    add(ledger, "promote", 1)
    known = {}
    reconcile(settings, aliases_known=known)
    monkeypatch.setattr(registering, "get_alias", lambda *args: pytest.fail("asked again"))
    assert reconcile(settings, aliases_known=known) == []


def test_a_config_that_cannot_be_read_is_told_and_hides_no_other(settings, ledger, aliases):
    (settings.project / "dags" / "configs" / "broken.yaml").write_text("model: broken\nsteps: 1\n")
    add(ledger, "promote", 1)
    done = reconcile(settings)
    assert "broken.yaml" in done[0]
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
