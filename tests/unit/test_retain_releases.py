"""What a rollback may need stays; the rest goes, with what stands beside it."""

import os
import time
from datetime import UTC, datetime, timedelta

import pytest
from small_bundle import MODEL, make_bundle, make_config, make_settings

import windvane.register_model as registering
from windvane.config import Approval
from windvane.errors import ServiceUnavailable
from windvane.ledger import Ledger
from windvane.resolve_release import resolve_release
from windvane.retain_releases import kept_digests, prune_bundles, retain_releases

OLD = time.time() - 2 * 86_400


@pytest.fixture
def settings(tmp_path):
    return make_settings(tmp_path)


@pytest.fixture
def ledger(settings):
    opened = Ledger(settings.database)
    yield opened
    opened.close()


@pytest.fixture
def challenger(monkeypatch):
    """Stands in for MLflow: the digest of the challenger."""
    found = {}
    monkeypatch.setattr(registering, "get_alias", lambda settings, model, alias: (99, found[alias]) if alias in found else None)
    return found


def old_bundle(settings, seed):
    bundle = make_bundle(settings, seed=seed)
    os.utime(bundle.path, (OLD, OLD))
    return bundle.digest


def add(ledger, action, version, digest, *, traffic=None, **more):
    last = ledger.last(MODEL)
    return ledger.append(
        MODEL, expected_epoch=last.epoch if last else 0, action=action, version=version, digest=digest,
        traffic=traffic or {version: 100}, actor="test", reason="because", **more,
    )  # fmt: skip


def left(settings):
    return {path.name for path in settings.bundles.iterdir() if len(path.name) == 64}


def test_the_last_three_promotions_stay_with_all_that_stands_beside_them(settings, ledger, challenger):
    digests = [old_bundle(settings, seed) for seed in range(1, 6)]
    for version, digest in enumerate(digests, start=1):
        add(ledger, "promote", version, digest)

    done = retain_releases(settings, make_config(), ledger.history(MODEL))

    assert done == [f"{MODEL}: removed the bundle {digest[:12]}" for digest in sorted(digests[:2])]
    assert left(settings) == set(digests[2:])
    assert {path.stem for path in (settings.bundles / "verdicts").iterdir()} == set(digests[2:])
    assert {path.read_text() for path in (settings.bundles / "keys").iterdir()} == set(digests[2:])
    assert retain_releases(settings, make_config(), ledger.history(MODEL)) == []
    assert resolve_release(make_config(), settings, "previous").digest == digests[3]


def test_a_version_promoted_again_counts_once(ledger):
    for version, digest in [(1, "a"), (2, "b"), (3, "c"), (4, "d"), (4, "d"), (4, "d")]:
        add(ledger, "promote", version, digest * 64)
    assert kept_digests(ledger.history(MODEL)) == {"b" * 64, "c" * 64, "d" * 64}


def test_after_rolling_back_far_both_ways_stay_open(ledger):
    for version, digest in enumerate("abcdef", start=1):
        add(ledger, "promote", version, digest * 64)
    add(ledger, "rollback", 3, "c" * 64)
    kept = kept_digests(ledger.history(MODEL))
    assert {"c" * 64, "f" * 64, "e" * 64} <= kept, "what was promoted last"
    assert {"a" * 64, "b" * 64} <= kept, "what one can go back to"


def test_what_serves_and_what_is_on_its_way_stay(ledger):
    for version, digest in enumerate("abcde", start=1):
        add(ledger, "promote", version, digest * 64)
    add(ledger, "rollback", 1, "a" * 64)
    add(ledger, "shift", 9, "9" * 64, traffic={1: 90, 9: 10}, until=datetime(2999, 1, 1, tzinfo=UTC))
    assert {"a" * 64, "9" * 64} <= kept_digests(ledger.history(MODEL))
    add(ledger, "refuse", 10, "f" * 64, traffic={1: 100})
    assert {"a" * 64, "f" * 64} <= kept_digests(ledger.history(MODEL))


def test_the_challenger_the_young_and_other_models_stay(settings, ledger, challenger):
    add(ledger, "promote", 1, old_bundle(settings, 1))
    challenger["challenger"] = old_bundle(settings, 2)
    gone, young = old_bundle(settings, 3), make_bundle(settings, seed=4).digest
    retain_releases(settings, make_config(), ledger.history(MODEL))
    assert left(settings) == {ledger.last(MODEL).digest, challenger["challenger"], young}
    assert gone not in left(settings)
    assert prune_bundles(settings, "another", ()) == []


def test_what_a_person_may_be_asked_about_stays_as_long_as_the_question(settings, ledger, challenger):
    add(ledger, "promote", 1, old_bundle(settings, 1))
    asked = old_bundle(settings, 2)
    for days, stays in ((3, True), (0.5, False)):
        approval = Approval(required=True, timeout=timedelta(days=days))
        retain_releases(settings, make_config().model_copy(update={"approval": approval}), ledger.history(MODEL))
        assert (asked in left(settings)) is stays


def test_while_a_rollout_is_under_way_or_mlflow_is_away_nothing_goes(settings, ledger):
    unneeded = old_bundle(settings, 2)
    add(ledger, "promote", 1, old_bundle(settings, 1))
    with pytest.raises(ServiceUnavailable, match="MLflow"):
        retain_releases(settings, make_config(), ledger.history(MODEL))
    add(ledger, "shift", 3, "c" * 64, traffic={1: 90, 3: 10}, until=datetime(2999, 1, 1, tzinfo=UTC))
    assert retain_releases(settings, make_config(), ledger.history(MODEL)) == []
    assert unneeded in left(settings)


def test_a_bundle_whose_manifest_is_damaged_is_left_to_people(settings, ledger, challenger):
    digest = old_bundle(settings, 1)
    (settings.bundles / digest / "bundle.json").write_text("{")
    os.utime(settings.bundles / digest, (OLD, OLD))
    assert prune_bundles(settings, MODEL, ()) == []
    assert left(settings) == {digest}
