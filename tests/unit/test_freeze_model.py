"""A freeze: only rollbacks change what serves, and what is under way is given up."""

from datetime import UTC, datetime

import pytest
from small_bundle import MODEL, make_settings

from windvane.errors import ConfigError, StaleEpoch
from windvane.freeze_model import freeze_model, unfreeze_model
from windvane.ledger import Ledger

A, B = "a" * 64, "b" * 64


@pytest.fixture
def settings(tmp_path):
    return make_settings(tmp_path)


@pytest.fixture
def ledger(settings):
    opened = Ledger(settings.database)
    yield opened
    opened.close()


def add(ledger, action, version, digest, traffic, **more):
    last = ledger.last(MODEL)
    epoch = last.epoch if last else 0
    return ledger.append(
        MODEL, expected_epoch=epoch, action=action, version=version, digest=digest, traffic=traffic, actor="t", reason="r", **more
    )


def test_a_freeze_repeats_what_serves_and_is_written_once(settings, ledger):
    add(ledger, "promote", 1, A, {1: 100})
    add(ledger, "refuse", 2, B, {1: 100})
    row = freeze_model(settings, MODEL, actor="ada", reason="audit")
    assert (row.action, row.version, row.digest, row.traffic, row.reason) == ("freeze", 1, A, {1: 100}, "audit")
    assert freeze_model(settings, MODEL, actor="bob", reason="again") == row
    assert ledger.is_frozen(MODEL)
    assert unfreeze_model(settings, MODEL, actor="ada", reason="done").traffic == {1: 100}
    assert not ledger.is_frozen(MODEL)
    assert len(ledger.history(MODEL)) == 4


def test_a_freeze_gives_up_a_rollout_which_is_then_stale(settings, ledger):
    add(ledger, "promote", 1, A, {1: 100})
    shift = add(ledger, "shift", 2, B, {1: 90, 2: 10}, until=datetime(2999, 1, 1, tzinfo=UTC))
    row = freeze_model(settings, MODEL, actor="ada", reason="stop")
    assert (row.traffic, row.version, row.digest, row.until) == ({1: 100}, 1, A, None)
    with pytest.raises(StaleEpoch):
        ledger.append(MODEL, expected_epoch=shift.epoch, action="promote", version=2, digest=B, traffic={2: 100}, actor="t", reason="late")


def test_a_model_without_rows_cannot_be_frozen(settings, ledger):
    with pytest.raises(ConfigError, match=f"'{MODEL}' never served, so there is nothing to freeze"):
        freeze_model(settings, MODEL, actor="ada", reason="why")
