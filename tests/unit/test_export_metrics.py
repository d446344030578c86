"""What Prometheus gets of the ledger and the catalog, over HTTP, in its own format."""

import math
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from datetime import UTC, datetime, timedelta

import pytest
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from windvane.catalog import Catalog
from windvane.decision_evidence import Evidence, Performance
from windvane.export_metrics import ModelMetrics
from windvane.ledger import Ledger
from windvane.monitor_model import MonitorResult
from windvane.settings import load_settings
from windvane.windows import Window

START = datetime(2026, 1, 1, tzinfo=UTC)
DAY = timedelta(days=1)
CONFIG = """\
model: churn
description: Who leaves?
owner: team
task: binary_classification
data: {source: {type: python}, id: id, time: time, label: left, label_delay: 2d}
"""


def series(text: bytes) -> dict[tuple[str, ...], float]:
    """(name, label values in order of their names) to value."""
    return {
        (sample.name, *(sample.labels[name] for name in sorted(sample.labels))): sample.value
        for family in text_string_to_metric_families(text.decode())
        for sample in family.samples
    }


def read(settings):
    registry = CollectorRegistry(auto_describe=False)
    registry.register(ModelMetrics(settings))
    return series(generate_latest(registry))


@pytest.fixture
def settings(tmp_path):
    (tmp_path / "dags" / "configs").mkdir(parents=True)
    (tmp_path / "dags" / "configs" / "churn.yaml").write_text(CONFIG)
    return load_settings({"WINDVANE_VAR": str(tmp_path / "var"), "WINDVANE_PROJECT": str(tmp_path)})


def decide(settings, day, *, realised=math.nan, decision="ok", drifted=(), champion=2):
    window = Window(START + day * DAY, START + (day + 1) * DAY)
    performance = Performance("roc_auc", realised, realised, realised, 90, 90) if math.isfinite(realised) else None
    evidence = Evidence(window, 90, champion=champion, realised=performance, drifted=drifted, compared=5)
    catalog = Catalog(settings.database)
    catalog.record_window("churn", MonitorResult(decision, "because", "", evidence, None, window))
    catalog.close()


def release(settings, action, version, traffic, until=None):
    ledger = Ledger(settings.database)
    last = ledger.last("churn")
    row = ledger.append(
        "churn",
        expected_epoch=last.epoch if last else 0,
        action=action,
        version=version,
        digest=f"{version:064d}",
        traffic=traffic,
        actor="somebody",
        reason="because",
        until=until,
    )
    ledger.close()
    return row


def test_what_serves_and_what_was_decided_is_told(settings) -> None:
    release(settings, "promote", 1, {1: 100})
    promoted = release(settings, "promote", 2, {2: 100})
    decide(settings, 0, realised=0.75)
    decide(settings, 9, decision="retrain", drifted=("age", "pay"))
    found = read(settings)
    assert found["windvane_up",] == 1
    assert found["windvane_champion_version", "churn"] == 2
    assert found["windvane_champion_since_timestamp_seconds", "churn"] == pytest.approx(promoted.time.timestamp(), abs=1e-3)
    assert found["windvane_traffic_ratio", "churn", "2"] == 1
    assert found["windvane_releases_total", "promote", "churn"] == 2
    assert found["windvane_model_state", "churn", "degraded"] == 1
    assert sum(value for key, value in found.items() if key[0] == "windvane_model_state") == 1
    assert found["windvane_decision", "retrain", "churn"] == 1
    assert found["windvane_decision", "ok", "churn"] == 0
    assert found["windvane_model_metric", "realised", "roc_auc", "churn"] == 0.75
    assert found["windvane_drifted_columns", "churn"] == 2
    # outcomes are known until 9 days before the end of the newest window, and they usually take 2
    assert found["windvane_outcomes_lag_seconds", "churn"] == 7 * 86400
    assert 0 < found["windvane_disk_free_bytes",] < found["windvane_disk_size_bytes",]


def test_outcomes_that_never_came_are_late_since_the_first_window_that_was_served(settings) -> None:
    release(settings, "promote", 2, {2: 100})
    decide(settings, 0)
    # none are due before two days are over
    assert read(settings)["windvane_outcomes_lag_seconds", "churn"] == 0
    decide(settings, 9)
    assert read(settings)["windvane_outcomes_lag_seconds", "churn"] == 8 * 86400


def test_outcomes_that_are_known_count_however_many_windows_follow(settings) -> None:
    for day in range(50):
        decide(settings, day, realised=0.75 if day == 10 else math.nan)
    assert read(settings)["windvane_outcomes_lag_seconds", "churn"] == 37 * 86400
    decide(settings, 48, realised=0.75)
    assert read(settings)["windvane_outcomes_lag_seconds", "churn"] == 0


def test_a_model_that_never_served_waits_for_no_outcomes(settings) -> None:
    decide(settings, 0, decision="wait", champion=None)
    decide(settings, 60, decision="wait", champion=None)
    assert ("windvane_outcomes_lag_seconds", "churn") not in read(settings)
    decide(settings, 61)
    assert read(settings)["windvane_outcomes_lag_seconds", "churn"] == 0


def test_an_action_is_counted_from_0_on(settings) -> None:
    release(settings, "promote", 1, {1: 100})

    def counted():
        return {key[1]: value for key, value in read(settings).items() if key[0] == "windvane_releases_total" and key[2] == "churn"}

    none = {"shift": 0, "promote": 0, "revert": 0, "rollback": 0, "refuse": 0, "freeze": 0, "unfreeze": 0}
    assert counted() == {**none, "promote": 1}
    release(settings, "shift", 2, {1: 90, 2: 10})
    release(settings, "revert", 2, {1: 100})
    assert counted() == {**none, "promote": 1, "shift": 1, "revert": 1}


def test_a_rollout_is_told_while_it_lasts(settings) -> None:
    release(settings, "promote", 1, {1: 100})
    release(settings, "shift", 2, {1: 90, 2: 10}, until=datetime.now(UTC) + DAY)
    catalog = Catalog(settings.database)
    catalog.record_rollout("churn", {"figures": {"1": {"requests": 90, "failed": 0}, "2": {"requests": 10, "failed": 3}}})
    catalog.close()
    found = read(settings)
    assert found["windvane_traffic_ratio", "churn", "2"] == pytest.approx(0.1)
    assert found["windvane_rollout_failed_requests", "churn", "2"] == 3
    release(settings, "revert", 2, {1: 100})
    found = read(settings)
    assert not [key for key in found if key[0].startswith("windvane_rollout")]
    assert found["windvane_releases_total", "revert", "churn"] == 1


def test_a_database_that_does_not_answer_shows_and_nothing_is_made_up(settings) -> None:
    release(settings, "promote", 1, {1: 100})
    (settings.var / "windvane.db").write_bytes(b"this is not a database" * 100)
    found = read(settings)
    assert found["windvane_up",] == 0
    assert not [key for key in found if "champion" in key[0] or "state" in key[0]]


def test_nothing_at_all_is_no_error(settings) -> None:
    assert read(settings)["windvane_up",] == 1


def test_the_command_serves_it(settings, tmp_path) -> None:
    release(settings, "promote", 1, {1: 100})
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environ = {"WINDVANE_VAR": str(settings.var), "WINDVANE_PROJECT": str(tmp_path), "PATH": ""}
    command = [sys.executable, "-c", "from windvane.cli import app; app()", "metrics", "--port", str(port)]
    server = subprocess.Popen(command, env=environ)
    try:
        give_up = time.monotonic() + 60
        while True:
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as answer:
                    found = series(answer.read())
                break
            except urllib.error.URLError:
                assert time.monotonic() < give_up, "the exporter does not answer"
                assert server.poll() is None
                time.sleep(0.2)
        assert found["windvane_champion_version", "churn"] == 1
    finally:
        server.terminate()
        server.wait(timeout=20)
