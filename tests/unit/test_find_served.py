"""What served at a moment: every version that had traffic then, with its bundle."""

from datetime import UTC, datetime, timedelta

import pytest

import windvane.ledger as booking
from windvane.errors import ConfigError
from windvane.find_served import Share, find_served
from windvane.ledger import Ledger

A, B = "a" * 64, "b" * 64
START = datetime(2026, 11, 20, 14, 0, tzinfo=UTC)


@pytest.fixture
def ledger(tmp_path, monkeypatch):
    """Promoted 14:00, canary 14:01 and 14:02, promoted 14:03, a refusal 14:04, back 14:05."""
    clock = iter(START + timedelta(minutes=n) for n in range(6))

    class Clock(datetime):
        @classmethod
        def now(cls, tz=None):
            return next(clock)

    monkeypatch.setattr(booking, "datetime", Clock)
    opened = Ledger(f"sqlite:///{tmp_path / 'windvane.db'}")
    rows = [
        ("promote", 1, A, {1: 100}), ("shift", 2, B, {1: 90, 2: 10}), ("shift", 2, B, {1: 50, 2: 50}), ("promote", 2, B, {2: 100}),
        ("refuse", 3, "c" * 64, {2: 100}), ("rollback", 1, A, {1: 100}),
    ]  # fmt: skip
    for epoch, (action, version, digest, traffic) in enumerate(rows):
        until = START + timedelta(hours=1) if action == "shift" else None
        opened.append(
            "churn",
            expected_epoch=epoch,
            action=action,
            version=version,
            digest=digest,
            traffic=traffic,
            until=until,
            actor="t",
            reason="r",
        )
    yield opened
    opened.close()


@pytest.mark.parametrize(
    ("seconds", "epoch", "shares", "since"),
    [
        (0, 1, (Share(1, 100, A),), 0),
        (59, 1, (Share(1, 100, A),), 0),
        (60, 2, (Share(1, 90, A), Share(2, 10, B)), 60),
        (130, 3, (Share(2, 50, B), Share(1, 50, A)), 120),
        (250, 5, (Share(2, 100, B),), 180),
        (10**8, 6, (Share(1, 100, A),), 300),
    ],
    ids=["first", "before the canary", "canary", "half", "a refusal repeats", "future"],
)
def test_every_share_is_named_with_its_bundle(ledger, seconds, epoch, shares, since):
    found = find_served(ledger, "churn", START + timedelta(seconds=seconds))
    assert (found.release.epoch, found.shares) == (epoch, shares)
    assert found.since == START + timedelta(seconds=since)
    assert found.as_json()["shares"][0]["digest"] == shares[0].digest


def test_before_the_first_row_nothing_is_known(ledger):
    found = find_served(ledger, "churn", START - timedelta(seconds=1))
    assert (found.release, found.shares, found.since, found.begins) == (None, (), None, START)
    assert found.as_json() is None


def test_a_model_that_is_not_in_the_ledger_is_named(ledger):
    with pytest.raises(ConfigError, match="there is no model 'chrun'; known models: churn"):
        find_served(ledger, "chrun", START)
