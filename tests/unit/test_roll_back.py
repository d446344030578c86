"""The one command back: what it says, what it writes, and when it is no success."""

import pytest
from small_bundle import MODEL, make_bundle, make_config, make_settings

import windvane.deployment as deploying
import windvane.roll_back as rolling
from windvane.errors import ConfigError, RehearsalFailed, RolloutFailed, ServiceUnavailable
from windvane.ledger import Ledger
from windvane.roll_back import roll_back


class FakeTarget:
    """Serves what the ledger says, unless it is told to lag; fails its rehearsal when it is told to."""

    observe_seconds = 60.0
    in_steps = False

    def __init__(self):
        self.serves = None
        self.lags = False
        self.fails = False

    def prepare(self, plan):
        return {}

    def rehearse(self, plan, replay=None):
        if self.fails:
            raise RehearsalFailed("golden rows differ")
        return {"rows": 10, "max_difference": 0.0}

    def shift(self, release):
        if not self.lags:
            self.align(release)

    def observe(self, plan, release=None):
        return {}

    promote = revert = shift

    def align(self, release):
        self.serves = {"version": release.serving, "digest": release.digest}
        return []

    def fetch(self, url):
        if self.serves is None:
            raise ServiceUnavailable(f"{url}: refused")
        return {"serving": self.serves}


@pytest.fixture
def settings(tmp_path):
    return make_settings(tmp_path)


@pytest.fixture
def ledger(settings):
    opened = Ledger(settings.database)
    for epoch, version in enumerate((1, 2)):
        digest = make_bundle(settings, seed=version).digest
        opened.append(
            MODEL, expected_epoch=epoch, action="promote", version=version, digest=digest, traffic={version: 100}, actor="t", reason="r"
        )
    yield opened
    opened.close()


@pytest.fixture
def target(monkeypatch):
    fake = FakeTarget()
    monkeypatch.setattr(deploying, "open_target", lambda config, settings: fake)
    monkeypatch.setattr(rolling, "open_target", lambda config, settings: fake)
    monkeypatch.setattr(rolling, "fetch_model", fake.fetch)
    monkeypatch.setattr(deploying, "sync_alias", lambda settings, model, version: None)
    monkeypatch.setattr(rolling, "_SERVES_SECONDS", 0.5)
    return fake


def test_each_step_is_told_and_the_reason_is_in_the_ledger(settings, ledger, target):
    said = []
    release = roll_back(make_config(), settings, actor="ada", reason="late for JFK", say=said.append)
    assert (release.action, release.version, release.actor, release.reason) == ("rollback", 1, "ada", "late for JFK")
    assert [line.split(" ")[0] for line in said] == ["version", "rehearsed:", "the", "ledger", "http://127.0.0.1:8100/invocations"]
    assert ledger.last(MODEL) == release
    shift = ledger.history(MODEL)[-2]
    assert (shift.action, shift.until is None, shift.evidence["rehearsal"]["rows"]) == ("shift", False, 10)


def test_an_endpoint_that_lags_is_pushed(settings, ledger, target):
    target.lags = True
    roll_back(make_config(), settings, actor="ada", say=lambda line: None)
    assert target.serves["version"] == 1


def test_what_serves_already_is_seen_to_serve(settings, ledger, target):
    assert roll_back(make_config(), settings, 2, actor="ada", say=lambda line: None) == ledger.last(MODEL)
    assert target.serves["version"] == 2
    assert len(ledger.history(MODEL)) == 2


def test_an_endpoint_that_does_not_come_to_serve_it_is_no_success(settings, ledger, target, monkeypatch):
    target.lags = True
    monkeypatch.setattr(target, "align", lambda release: [])
    with pytest.raises(RolloutFailed, match=r"the ledger says that it serves, http://127\.0\.0\.1:8100 does not serve it"):
        roll_back(make_config(), settings, actor="ada", say=lambda line: None)


def test_golden_rows_that_differ_stop_it_before_traffic_moves(settings, ledger, target):
    target.fails = True
    with pytest.raises(RehearsalFailed):
        roll_back(make_config(), settings, actor="ada", say=lambda line: None)
    assert (ledger.last(MODEL).action, ledger.last(MODEL).traffic) == ("refuse", {2: 100})
    assert target.serves is None


def test_a_version_that_never_served_is_deployed_and_not_rolled_back_to(settings, ledger, target):
    with pytest.raises(ConfigError, match=f"version 7 never served; those that did: 1, 2; to deploy it, trigger {MODEL}__deploy"):
        roll_back(make_config(), settings, 7, actor="ada", say=lambda line: None)
