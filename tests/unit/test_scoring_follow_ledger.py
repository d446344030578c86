"""What serves follows the last row of the ledger, and nothing that goes wrong takes it away."""

import pytest
from test_scoring_bundles import make_bundle

from windvane.errors import ServiceUnavailable
from windvane.ledger import Ledger
from windvane.scoring import follow_ledger, serve_version
from windvane.scoring.follow_ledger import LedgerFollower
from windvane.scoring.serve_version import ServingSlot


@pytest.fixture
def ledger(tmp_path):
    opened = Ledger(f"sqlite:///{tmp_path / 'windvane.db'}")
    yield opened
    opened.close()


def follower_of(ledger, slot, tmp_path):
    return LedgerFollower(slot, ledger=ledger, bundles=tmp_path / "bundles", model="tiny")


def append(ledger, digest, version, *, traffic, action="promote"):
    last = ledger.last("tiny")
    epoch = last.epoch if last else 0
    ledger.append("tiny", expected_epoch=epoch, action=action, version=version, digest=digest, traffic=traffic, actor="t", reason="t")


def test_nothing_in_the_ledger_serves_nothing(ledger, tmp_path):
    slot = ServingSlot()
    follower_of(ledger, slot, tmp_path).poll()

    assert (slot.current, slot.wanted, slot.error, slot.ledger_error) == (None, None, None, None)


def test_a_refusal_repeats_the_traffic_and_changes_only_the_epoch(ledger, tmp_path):
    made = make_bundle(tmp_path / "bundles")
    slot = ServingSlot()
    follower = follower_of(ledger, slot, tmp_path)
    append(ledger, made.digest, 1, traffic={1: 100})
    follower.poll()
    before = slot.current

    append(ledger, "e" * 64, 2, traffic={1: 100}, action="refuse")
    follower.poll()

    assert slot.current is before
    assert (slot.epoch, slot.wanted.version, slot.wanted.digest, slot.error) == (2, 1, made.digest, None)


def test_a_row_without_traffic_keeps_the_version_serving(ledger, tmp_path):
    made = make_bundle(tmp_path / "bundles")
    slot = ServingSlot()
    follower = follower_of(ledger, slot, tmp_path)
    append(ledger, made.digest, 1, traffic={1: 100})
    follower.poll()
    append(ledger, made.digest, 1, traffic={}, action="revert")
    follower.poll()

    assert slot.current.version == 1


def test_a_failed_version_is_tried_again_ever_more_rarely(ledger, tmp_path, monkeypatch):
    now = [100.0]
    tries = []

    def load(bundles, wanted, *, model):
        tries.append(now[0])
        raise OSError("row of a customer")

    monkeypatch.setattr(follow_ledger.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(serve_version, "load_version", load)
    slot = ServingSlot()
    follower = follower_of(ledger, slot, tmp_path)
    append(ledger, "e" * 64, 1, traffic={1: 100})
    for _ in range(200):
        follower.poll()
        now[0] += 0.5

    assert tries[:5] == [100.0, 101.0, 103.0, 107.0, 115.0]
    assert "eeeeeeeeeeee" in slot.error
    assert "customer" not in slot.error


def test_a_failed_version_that_is_mended_serves(ledger, tmp_path):
    made = make_bundle(tmp_path / "bundles")
    hidden = made.path.rename(tmp_path / "hidden")
    slot = ServingSlot()
    follower = follower_of(ledger, slot, tmp_path)
    append(ledger, made.digest, 1, traffic={1: 100})
    follower.poll()
    assert "no such bundle" in slot.error

    hidden.rename(made.path)
    follower._retry_at = 0
    follower.poll()

    assert slot.current.version == 1
    assert slot.error is None


def test_an_error_of_the_ledger_is_reported_and_forgotten(ledger, tmp_path, monkeypatch):
    made = make_bundle(tmp_path / "bundles")
    slot = ServingSlot()
    follower = follower_of(ledger, slot, tmp_path)
    append(ledger, made.digest, 1, traffic={1: 100})
    follower.poll()

    def fail(model):
        raise ServiceUnavailable("release ledger postgresql://db: does not answer")

    with monkeypatch.context() as patch:
        patch.setattr(ledger, "last", fail)
        follower.poll()
    assert "does not answer" in slot.ledger_error
    assert slot.error is None
    assert slot.current.version == 1

    follower.poll()
    assert slot.ledger_error is None
