"""A refusal by a person, or by nobody's answer, stands in the ledger once and changes nothing of what serves."""

from datetime import UTC, datetime

import pytest

import windvane.record_answer as recording
from windvane.errors import StaleEpoch
from windvane.ledger import Ledger
from windvane.record_answer import find_answer, is_answer, record_refusal
from windvane.settings import load_settings

A, B = "a" * 64, "b" * 64
RUN = "churn__deploy/asset__1"
ADA = {"by": "ada", "at": "2026-01-01T00:00:00+00:00", "reason": "not before Easter"}


@pytest.fixture
def settings(tmp_path):
    return load_settings({"WINDVANE_PROJECT": str(tmp_path), "WINDVANE_VAR": str(tmp_path / "var")})


@pytest.fixture
def ledger(settings):
    opened = Ledger(settings.database)
    yield opened
    opened.close()


def add(ledger, action, version, digest, **more):
    last = ledger.last("churn")
    more.setdefault("traffic", {version: 100})
    return ledger.append(
        "churn", expected_epoch=last.epoch if last else 0, action=action, version=version, digest=digest, actor="test", reason="r", **more
    )  # fmt: skip


def refuse(settings, *, approval=ADA, run=RUN, **more):
    return record_refusal(
        settings, "churn", version=2, digest=B, run=run, actor=f"{run} by ada", reason="rejected by ada", approval=approval, **more
    )  # fmt: skip


def test_a_refusal_says_who_when_and_why_and_repeats_what_serves(settings, ledger):
    add(ledger, "promote", 1, A)
    row = refuse(settings)
    assert (row.action, row.version, row.digest, dict(row.traffic)) == ("refuse", 2, B, {1: 100})
    assert row.evidence["approval"] == ADA
    assert row.evidence["answer"] == "reject"
    assert is_answer(row)
    assert not is_answer(ledger.history("churn")[0])
    assert ledger.verify("churn") == []


def test_a_task_that_runs_again_writes_no_second_row(settings, ledger):
    add(ledger, "promote", 1, A)
    first = refuse(settings)
    add(ledger, "freeze", 1, A)
    assert refuse(settings) == first
    assert find_answer(settings, "churn", run=RUN) == first
    assert find_answer(settings, "churn", run="churn__deploy/asset__2") is None
    assert refuse(settings, run="churn__deploy/asset__2").epoch == 4


def test_the_first_version_of_a_model_can_be_refused(settings, ledger):
    row = refuse(settings, approval={"by": None, "at": None, "reason": None})
    assert (row.epoch, dict(row.traffic), row.evidence["answer"]) == (1, {}, "timeout")
    assert ledger.last("churn").serving is None


def test_a_refusal_waits_until_a_rollout_is_settled(settings, ledger):
    add(ledger, "promote", 1, A)
    add(ledger, "shift", 3, "c" * 64, traffic={1: 90, 3: 10}, until=datetime(2999, 1, 1, tzinfo=UTC))
    waits = []

    def sleep(seconds):
        waits.append(seconds)
        if len(waits) == 2:
            add(ledger, "promote", 3, "c" * 64)

    assert dict(refuse(settings, sleep=sleep).traffic) == {3: 100}
    assert [row.action for row in ledger.history("churn")] == ["promote", "shift", "promote", "refuse"]


def test_a_rollout_that_never_settles_is_left_alone(settings, ledger, monkeypatch):
    monkeypatch.setattr(recording, "_PATIENCE_SECONDS", 0)
    add(ledger, "shift", 3, "c" * 64, until=datetime(2999, 1, 1, tzinfo=UTC))
    assert refuse(settings, sleep=lambda seconds: None) is None
    assert ledger.last("churn").action == "shift"


def test_somebody_who_is_faster_does_not_stop_it(settings, ledger, monkeypatch):
    add(ledger, "promote", 1, A)
    appended = Ledger.append

    def lose_once(self, model, **more):
        monkeypatch.setattr(Ledger, "append", appended)
        add(ledger, "freeze", 1, A)
        raise StaleEpoch("somebody was faster")

    monkeypatch.setattr(Ledger, "append", lose_once)
    assert refuse(settings).epoch == 3
