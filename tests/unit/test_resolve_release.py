"""Which version is deployed, and that nothing serves without a passed verdict or a person's word."""

import shutil

import pytest
from small_bundle import MODEL, make_bundle, make_config, make_settings

import windvane.resolve_release as resolving
from windvane.errors import BundleError, ConfigError, ServiceUnavailable, StaleEpoch
from windvane.ledger import Ledger
from windvane.resolve_release import Plan, promoted_versions, resolve_release


@pytest.fixture
def settings(tmp_path):
    return make_settings(tmp_path)


@pytest.fixture
def ledger(settings):
    opened = Ledger(settings.database)
    yield opened
    opened.close()


@pytest.fixture
def registry(monkeypatch):
    """Stands in for MLflow: version to digest, with the challenger under None."""
    known = {}
    monkeypatch.setattr(resolving, "_registered", lambda settings, model, version: known[version])
    return known


def add(ledger, action, version, digest, **more):
    last = ledger.last(MODEL)
    traffic = {version: 100} if action != "refuse" else last.traffic
    return ledger.append(
        MODEL, expected_epoch=last.epoch if last else 0, action=action, version=version, digest=digest, traffic=traffic,
        actor="test", reason="because", **more,
    )  # fmt: skip


def test_the_challenger_that_passed_is_deployed(settings, registry):
    registry[None] = (1, make_bundle(settings).digest)

    plan = resolve_release(make_config(), settings, None)

    assert (plan.model, plan.version, plan.digest) == (MODEL, 1, registry[None][1])
    assert (plan.rollback, plan.override, plan.serves, plan.epoch) == (False, False, False, 0)
    assert Plan.from_json(plan.as_json()) == plan


@pytest.mark.parametrize("passed", [False, None], ids=["failed", "no verdict"])
def test_a_challenger_without_a_passed_verdict_is_not_deployed(settings, registry, passed):
    registry[None] = (1, make_bundle(settings, passed=passed).digest)
    with pytest.raises(BundleError, match="no passed verdict"):
        resolve_release(make_config(), settings, None)


def test_a_person_may_override_by_number_and_it_is_recorded(settings, registry):
    registry[4] = (4, make_bundle(settings, passed=False).digest)
    plan = resolve_release(make_config(), settings, "4", actor="ada")
    assert (plan.version, plan.override, plan.actor) == (4, True, "ada")


def test_a_verdict_that_says_anything_but_true_has_not_passed(settings, registry):
    bundle = make_bundle(settings)
    (settings.bundles / "verdicts" / f"{bundle.digest}.json").write_text('{"passed": "yes"}')
    registry[None] = (1, bundle.digest)
    with pytest.raises(BundleError, match="no passed verdict"):
        resolve_release(make_config(), settings, None)


def test_a_damaged_bundle_is_not_deployed(settings, registry):
    bundle = make_bundle(settings)
    with (bundle.path / "model.py").open("a") as file:
        file.write("\n# more")
    registry[None] = (1, bundle.digest)
    with pytest.raises(BundleError, match=r"model\.py: its SHA-256 differs"):
        resolve_release(make_config(), settings, None)


def test_what_serves_already_is_not_deployed_again(settings, registry, ledger):
    digest = make_bundle(settings).digest
    add(ledger, "promote", 1, digest)
    registry[None] = (1, digest)
    plan = resolve_release(make_config(), settings, None)
    assert (plan.serves, plan.version) == (True, 1)


def test_rolling_back_needs_no_mlflow(settings, ledger):
    first, second = make_bundle(settings, seed=1), make_bundle(settings, seed=2)
    add(ledger, "promote", 1, first.digest)
    add(ledger, "promote", 2, second.digest)

    plan = resolve_release(make_config(), settings, "previous", actor="ada")

    assert (plan.version, plan.digest, plan.rollback, plan.epoch) == (1, first.digest, True, 2)
    assert resolve_release(make_config(), settings, 1).rollback


def test_rolling_back_twice_goes_two_versions_back(settings, ledger):
    bundles = [make_bundle(settings, seed=n) for n in (1, 2, 3)]
    for version, bundle in enumerate(bundles, start=1):
        add(ledger, "promote", version, bundle.digest)
    add(ledger, "rollback", 2, bundles[1].digest)

    assert resolve_release(make_config(), settings, "previous").version == 1
    assert [row.version for row in promoted_versions(ledger.history(MODEL))] == [1, 2]


def test_rolling_back_during_a_shift_returns_to_the_champion(settings, ledger):
    first, second = make_bundle(settings, seed=1), make_bundle(settings, seed=2)
    add(ledger, "promote", 1, first.digest)
    add(ledger, "shift", 2, second.digest, until=resolving.datetime(2999, 1, 1, tzinfo=resolving.UTC))
    assert resolve_release(make_config(), settings, "previous").version == 1


def test_rolling_back_passes_over_a_version_whose_bundle_is_gone(settings, ledger):
    bundles = [make_bundle(settings, seed=n) for n in (1, 2, 3)]
    for version, bundle in enumerate(bundles, start=1):
        add(ledger, "promote", version, bundle.digest)
    shutil.rmtree(bundles[1].path)
    assert resolve_release(make_config(), settings, "previous").version == 1


@pytest.mark.parametrize("versions", [[], [1]], ids=["nothing served", "first version"])
def test_there_may_be_nothing_to_roll_back_to(settings, ledger, versions):
    for version in versions:
        add(ledger, "promote", version, make_bundle(settings).digest)
    with pytest.raises(ConfigError, match="no earlier version"):
        resolve_release(make_config(), settings, "previous")


def test_a_frozen_model_takes_only_a_rollback(settings, ledger, registry):
    bundles = [make_bundle(settings, seed=n) for n in (1, 2, 3)]
    add(ledger, "promote", 1, bundles[0].digest)
    add(ledger, "promote", 2, bundles[1].digest)
    add(ledger, "freeze", 2, bundles[1].digest)
    registry[None] = (3, bundles[2].digest)
    with pytest.raises(StaleEpoch, match="frozen"):
        resolve_release(make_config(), settings, None)
    assert resolve_release(make_config(), settings, "previous").version == 1


def test_an_attempt_that_was_cut_off_is_continued(settings, ledger, registry):
    digest = make_bundle(settings).digest
    registry[None] = (1, digest)
    plan = resolve_release(make_config(), settings, None)
    until = resolving.datetime(2999, 1, 1, tzinfo=resolving.UTC)
    add(ledger, "shift", 1, digest, until=until, evidence={"plan": plan.key})
    assert resolve_release(make_config(), settings, None) == plan


def test_nonsense_is_no_version(settings):
    with pytest.raises(ConfigError, match="allowed is a version number, 'previous'"):
        resolve_release(make_config(), settings, "latest")


def test_mlflow_that_does_not_answer_is_named(settings):
    with pytest.raises(ServiceUnavailable, match=r"MLflow at http://127\.0\.0\.1:9"):
        resolve_release(make_config(), settings, None)
