"""How long a step is watched, what counts meanwhile, and that what is down at its end does not go on."""

from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

import windvane.bake_step as baking
from windvane.bake_step import Counted, bake_step
from windvane.config import ModelConfig
from windvane.judge_rollout import Check, Judgement
from windvane.ledger import Ledger
from windvane.resolve_release import Plan
from windvane.settings import load_settings

CONFIG = ModelConfig.model_validate(
    {
        "model": "churn",
        "task": "binary_classification",
        "data": {"time": "at", "label": "y"},
        "deploy": {"target": "docker", "rollout": {"steps": [50, 100], "bake": "20s"}},
    }
)
GOOD = Counted(50)


class Clock:
    """Time that passes only while somebody sleeps."""

    def __init__(self):
        self.now = 0.0

    def monotonic(self):
        return self.now

    def sleep(self, seconds):
        self.now += seconds


@pytest.fixture
def clock(monkeypatch):
    made = Clock()
    monkeypatch.setattr(baking, "time", made)
    return made


@pytest.fixture
def bake(tmp_path, monkeypatch, clock):
    """Bake a step of version 2 whose counters are a function of the seconds since; only errors are bad."""
    settings = load_settings({"WINDVANE_VAR": str(tmp_path / "var")})
    settings.var.mkdir()
    common = {"digest": "a" * 64, "actor": "test", "reason": "because"}
    with closing(Ledger(settings.database)) as ledger:
        ledger.append("churn", expected_epoch=0, action="promote", version=1, traffic={1: 100}, **common)
        until = datetime.now(UTC) + timedelta(hours=2)
        written = ledger.append("churn", expected_epoch=1, action="shift", version=2, traffic={1: 50, 2: 50}, until=until, **common)

        def judge(*, candidate, **_):
            verdict = "revert" if candidate.server_errors else "advance"
            return Judgement(verdict, (Check("errors", verdict, f"{candidate.server_errors} of {candidate.requests}"),))

        monkeypatch.setattr(baking, "judge_step", judge)

        def run(counts, *, before=None, age=timedelta(0)):
            class Service:
                def counts(self):
                    return {1: GOOD, 2: counts(clock.now)}

            plan = Plan("churn", 2, "a" * 64, False, 1, "because", "test")
            release = replace(written, time=written.time - age)
            return bake_step(
                CONFIG, settings, Service(), ledger, plan, release, before=before or {}, began=release.time, champion=1, replay=None
            )

        yield run


def test_a_step_bakes_from_the_moment_at_which_the_traffic_moved(bake, clock):
    assert bake(lambda seconds: GOOD, age=timedelta(minutes=5)).verdict == "advance"
    assert clock.now == 20


def test_what_failed_before_the_first_look_counts(bake, clock):
    judgement = bake(lambda seconds: Counted(21, server_errors=2), before={2: Counted(0)})
    assert (judgement.verdict, clock.now) == ("revert", 0)
    assert judgement.reason == "errors: 2 of 21"


def test_what_was_counted_before_the_step_does_not_count(bake):
    assert bake(lambda seconds: Counted(1021, server_errors=2), before={2: Counted(1000, server_errors=2)}).verdict == "advance"


def test_what_is_down_goes_back_after_five_seconds(bake, clock):
    judgement = bake(lambda seconds: replace(GOOD, down=True))
    assert (judgement.verdict, clock.now) == ("revert", 6)
    assert judgement.reason == "health: it has failed its health checks for 5 s"


def test_what_is_down_as_the_bake_ends_is_watched_on(bake, clock):
    assert bake(lambda seconds: replace(GOOD, down=18 <= seconds <= 22)).verdict == "advance"
    assert clock.now == 23


def test_what_is_down_again_and_again_goes_back_at_the_limit(bake, clock):
    # each time that it is up, what waited at it is not answered
    judgement = bake(lambda seconds: replace(GOOD, waiting=9) if seconds % 5 == 4 else replace(GOOD, down=True))
    assert (judgement.verdict, clock.now) == ("revert", 90)
    assert judgement.reason == "health: again and again it is down or lets requests wait"
