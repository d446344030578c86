"""What a rollout does is recorded while it is watched; where it cannot be, the rollout goes on all the same."""

import logging
from contextlib import closing
from datetime import UTC, datetime, timedelta

import pytest

from windvane.bake_step import Counted, bake_step
from windvane.config import ModelConfig
from windvane.describe_model import describe_model
from windvane.judge_rollout import Check, Judgement, LiveFigures
from windvane.ledger import Ledger
from windvane.record_rollout import RolloutRecord
from windvane.resolve_release import Plan
from windvane.settings import load_settings

CONFIG = ModelConfig.model_validate(
    {
        "model": "churn",
        "task": "binary_classification",
        "data": {"time": "at", "label": "y"},
        "train": {"window": "60d", "holdout": "10d"},
        "deploy": {"target": "docker", "rollout": {"steps": [10, 50, 100], "bake": "20s", "min_requests": 50}},
    }
)
JUDGEMENT = Judgement("inconclusive", (Check("evidence", "inconclusive", "3 live requests, 50 are needed"),))


@pytest.fixture
def settings(tmp_path):
    made = load_settings({"WINDVANE_VAR": str(tmp_path / "var")})
    made.var.mkdir()
    return made


@pytest.fixture
def ledger(settings):
    with closing(Ledger(settings.database)) as opened:
        yield opened


@pytest.fixture
def release(ledger):
    common = {"digest": "a" * 64, "actor": "test", "reason": "because"}
    ledger.append("churn", expected_epoch=0, action="promote", version=1, traffic={1: 100}, **common)
    until = datetime.now(UTC) + timedelta(minutes=5)
    return ledger.append("churn", expected_epoch=1, action="shift", version=2, traffic={1: 50, 2: 50}, until=until, **common)


def record_of(settings, release, **more):
    asked = {"champion": 1, "began": release.time, "bake_seconds": 20.0, "limit_seconds": 90.0, **more}
    return RolloutRecord(CONFIG, settings, release, **asked)


def test_a_look_is_what_the_page_shows(settings, release):
    candidate = LiveFigures(200, 1, 2, (), p99_ms=9.5, p50_ms=1.5)
    record_of(settings, release).write(elapsed_seconds=3.21, figures={2: candidate}, judgement=JUDGEMENT)

    told = describe_model(settings, "churn")["rollout"]
    assert (told["version"], told["champion"], told["percent"], told["step"], told["steps"]) == (2, 1, 50, 2, [10, 50, 100])
    assert (told["elapsed_seconds"], told["bake_seconds"], told["limit_seconds"]) == (3.2, 20.0, 90.0)
    assert (told["verdict"], told["reason"]) == ("inconclusive", "evidence: 3 live requests, 50 are needed")
    assert told["began"] == release.time.isoformat(timespec="microseconds")
    assert told["figures"]["2"] == {
        "percent": 50, "requests": 200, "failed": 1, "refused": 2, "error_rate": 0.005, "p50_ms": 1.5, "p99_ms": 9.5
    }  # fmt: skip
    assert (told["figures"]["1"]["requests"], told["figures"]["1"]["error_rate"]) == (0, None)


def test_a_first_version_has_one_step(settings, ledger, release):
    ledger.append(
        "price", expected_epoch=0, action="shift", version=1, digest="a" * 64, traffic={1: 100}, until=release.until, actor="t", reason="r"
    )
    record_of(settings, ledger.last("price"), champion=None).write(elapsed_seconds=0, figures={}, judgement=JUDGEMENT)

    told = describe_model(settings, "price")["rollout"]
    assert (told["step"], told["steps"], told["champion"]) == (1, [100], None)


def test_what_cannot_be_recorded_is_told_once(settings, release, caplog, tmp_path):
    (tmp_path / "file").write_text("in the way")
    broken = load_settings({"WINDVANE_VAR": str(settings.var), "WINDVANE_DB": f"sqlite:///{tmp_path}/file/windvane.db"})
    record = record_of(broken, release)
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            record.write(elapsed_seconds=1, figures={}, judgement=JUDGEMENT)

    assert [entry.levelname for entry in caplog.records] == ["WARNING"]
    assert "the rollout goes on" in caplog.text


class Failing:
    """A service whose candidate fails every request after its first second."""

    def __init__(self):
        self.looks = 0

    def counts(self):
        self.looks += 1
        sent = 0 if self.looks < 3 else 400
        return {1: Counted(sent), 2: Counted(sent, server_errors=sent)}


def test_a_step_that_is_watched_is_recorded_until_it_is_judged(settings, ledger, release):
    plan = Plan("churn", 2, "a" * 64, False, 1, "because", "test")
    judgement = bake_step(CONFIG, settings, Failing(), ledger, plan, release, before={}, began=release.time, champion=1, replay=None)

    told = describe_model(settings, "churn")["rollout"]
    assert judgement.verdict == told["verdict"] == "revert"
    assert told["figures"]["2"]["error_rate"] == 1.0
    assert (told["figures"]["1"]["requests"], told["figures"]["1"]["failed"]) == (400, 0)
    assert told["elapsed_seconds"] < 20
