"""Which version is deployed, and that nothing serves without a passed verdict or a person's word."""

import json
import shutil
from datetime import UTC, datetime

import pytest
from small_bundle import MODEL, make_bundle, make_config, make_settings

import windvane.resolve_release as resolving
from windvane.errors import BundleError, ConfigError, ServiceUnavailable, StaleEpoch
from windvane.ledger import Ledger
from windvane.resolve_release import Candidate, Plan, is_rollback, promoted_versions, resolve_release

FUTURE = datetime(2999, 1, 1, tzinfo=UTC)


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


def add_at(ledger, epoch, action, version, digest, **more):
    return ledger.append(
        MODEL, expected_epoch=epoch, action=action, version=version, digest=digest, traffic={version: 100}, actor="test",
        reason="because", **more,
    )  # fmt: skip


def add(ledger, action, version, digest, *, traffic=None, **more):
    last = ledger.last(MODEL)
    traffic = traffic or ({version: 100} if action != "refuse" else last.traffic)
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


def test_the_version_that_was_approved_is_deployed_though_a_newer_one_was_registered(settings, registry):
    approved, newer = make_bundle(settings, seed=1).digest, make_bundle(settings, seed=2).digest
    registry[None] = (2, newer)

    plan = resolve_release(make_config(), settings, None, candidate=Candidate(1, approved))

    assert (plan.version, plan.digest) == (1, approved)


def test_an_approved_bundle_of_another_model_is_not_deployed(settings):
    bundle = make_bundle(settings)
    with pytest.raises(BundleError, match="is of the model churn, not of other"):
        resolve_release(make_config().model_copy(update={"model": "other"}), settings, None, candidate=Candidate(1, bundle.digest))


def test_what_served_before_is_a_rollback(settings, ledger):
    add(ledger, "promote", 1, "a" * 64)
    add(ledger, "refuse", 2, "b" * 64)
    asked = {requested: is_rollback(settings, MODEL, requested) for requested in (None, "", "previous", 1, "1", 2, 3)}
    assert [requested for requested, rollback in asked.items() if rollback] == ["previous", 1, "1"]


@pytest.mark.parametrize("passed", [False, None], ids=["failed", "no verdict"])
def test_a_challenger_without_a_passed_verdict_is_not_deployed(settings, registry, passed):
    registry[None] = (1, make_bundle(settings, passed=passed).digest)
    with pytest.raises(BundleError, match="no passed verdict"):
        resolve_release(make_config(), settings, None)


def test_a_person_may_override_by_number_and_it_is_recorded(settings, registry):
    registry[4] = (4, make_bundle(settings, passed=False).digest)
    plan = resolve_release(make_config(), settings, "4", actor="ada")
    assert (plan.version, plan.override, plan.actor) == (4, True, "ada")


@pytest.mark.parametrize(
    ("verdict", "reason"),
    [
        (
            [("floor", True, "0.71 is enough"), ("size", False, "9 MB is more than 5 MB"), ("slices", False, "JFK: 0.51")],
            "version 4 was asked for; its gates refused it: size: 9 MB is more than 5 MB; slices: JFK: 0.51",
        ),
        ([], "version 4 was asked for; its gates refused it: the verdict names none that passed"),
        (None, "version 4 was asked for; its gates were never run"),
    ],
    ids=["refused", "no gates", "no verdict"],
)
def test_the_reason_of_an_override_says_why_the_gates_refused(settings, registry, verdict, reason):
    bundle = make_bundle(settings, passed=None)
    registry[4] = (4, bundle.digest)
    if verdict is not None:
        gates = [{"name": name, "passed": passed, "reason": told} for name, passed, told in verdict]
        path = settings.bundles / "verdicts" / f"{bundle.digest}.json"
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps({"passed": False, "gates": gates}))
    assert resolve_release(make_config(), settings, 4).reason == reason


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


@pytest.mark.parametrize("year", [2999, 2020], ids=["under way", "past its until"])
def test_rolling_back_during_a_shift_returns_to_the_champion(settings, ledger, year):
    first, second = make_bundle(settings, seed=1), make_bundle(settings, seed=2)
    add(ledger, "promote", 1, first.digest)
    add(ledger, "shift", 2, second.digest, until=datetime(year, 1, 1, tzinfo=UTC))
    plan = resolve_release(make_config(), settings, "previous")
    assert (plan.version, plan.serves, plan.rollback) == (1, False, True)


def test_the_champion_of_a_canary_can_be_asked_for_by_number(settings, ledger):
    first, second = make_bundle(settings, seed=1), make_bundle(settings, seed=2)
    add(ledger, "promote", 1, first.digest)
    add(ledger, "shift", 2, second.digest, traffic={1: 90, 2: 10}, until=FUTURE)
    plan = resolve_release(make_config(), settings, 1)
    assert (plan.version, plan.serves, plan.rollback) == (1, False, True)


def test_a_rollback_supersedes_a_rollout_before_its_next_step(settings, ledger, registry):
    first, second, third = (make_bundle(settings, seed=seed) for seed in (1, 2, 3))
    add(ledger, "promote", 1, first.digest)
    add(ledger, "promote", 2, second.digest)
    registry[None] = (3, third.digest)
    rollout = resolve_release(make_config(), settings, None)
    add(ledger, "shift", 3, third.digest, traffic={2: 90, 3: 10}, until=FUTURE, evidence={"plan": rollout.key})

    plan = resolve_release(make_config(), settings, 1, actor="ada")

    ended = ledger.last(MODEL)
    assert (ended.action, ended.version, ended.traffic, ended.actor) == ("revert", 3, {2: 100}, "ada")
    assert (plan.version, plan.epoch) == (1, ended.epoch)
    with pytest.raises(StaleEpoch):
        add_at(ledger, ended.epoch - 1, "shift", 3, third.digest)
    assert resolve_release(make_config(), settings, None).epoch == ended.epoch, "the superseded rollout is not continued"


def test_a_rollback_that_was_cut_off_is_continued_and_not_turned_round(settings, ledger):
    bundles = promote_all(settings, ledger, 1, 2)
    plan = resolve_release(make_config(), settings, "previous")
    add(ledger, "shift", 1, bundles[1].digest, until=FUTURE, evidence={"plan": plan.key})
    assert resolve_release(make_config(), settings, "previous") == plan
    assert len(ledger.history(MODEL)) == 3


def test_a_rollout_that_goes_on_while_it_is_ended_is_ended_all_the_same(settings, ledger, monkeypatch):
    first, second = make_bundle(settings, seed=1), make_bundle(settings, seed=2)
    add(ledger, "promote", 1, first.digest)
    add(ledger, "shift", 2, second.digest, traffic={1: 90, 2: 10}, until=FUTURE)
    real, steps = Ledger.append, [50]

    def append(self, model, **row):
        if steps:
            add(ledger, "shift", 2, second.digest, traffic={1: 50, 2: steps.pop()}, until=FUTURE)
        return real(self, model, **row)

    monkeypatch.setattr(Ledger, "append", append)
    plan = resolve_release(make_config(), settings, "previous")
    assert [row.action for row in ledger.history(MODEL)] == ["promote", "shift", "shift", "revert"]
    assert plan.epoch == 4


def promote_all(settings, ledger, *versions):
    bundles = {version: make_bundle(settings, seed=version) for version in versions}
    for version, bundle in bundles.items():
        add(ledger, "promote", version, bundle.digest)
    return bundles


@pytest.mark.parametrize("requested", ["previous", 3, "3"])
def test_rolling_back_to_bad_bytes_is_refused_and_the_next_older_is_offered(settings, ledger, requested):
    bundles = promote_all(settings, ledger, 1, 2, 3, 4)
    with (bundles[3].path / "model.skops").open("ab") as file:
        file.write(b"x")
    shutil.rmtree(bundles[2].path)

    with pytest.raises(BundleError) as refused:
        resolve_release(make_config(), settings, requested)

    said = str(refused.value)
    assert said.startswith(f"{MODEL}: version 3 cannot be rolled back to: {bundles[3].path}/model.skops: its SHA-256 differs")
    assert f"the next older version that is whole is 1: run `windvane rollback {MODEL} --to 1`" in said
    assert f"{MODEL}__deploy with version: 1" in said
    assert resolve_release(make_config(), settings, "1").version == 1, "what was offered is accepted"


def test_no_version_is_offered_when_none_is_whole(settings, ledger):
    bundles = promote_all(settings, ledger, 1, 2)
    shutil.rmtree(bundles[1].path)
    with pytest.raises(BundleError, match=r"version 1 cannot be rolled back to: .*there is no such bundle.*no older version is whole"):
        resolve_release(make_config(), settings, "previous")


def test_a_version_that_was_given_up_is_not_offered(settings, ledger):
    bundles = promote_all(settings, ledger, 1, 2)
    add(ledger, "rollback", 1, bundles[1].digest)
    bundles |= promote_all(settings, ledger, 3, 4)
    shutil.rmtree(bundles[3].path)
    with pytest.raises(BundleError, match="whole is 1:"):
        resolve_release(make_config(), settings, "previous")


def test_what_serves_now_is_not_offered(settings, ledger):
    bundles = promote_all(settings, ledger, 1, 2, 3)
    add(ledger, "rollback", 2, bundles[2].digest)
    shutil.rmtree(bundles[3].path)
    with pytest.raises(BundleError, match="whole is 1:"):
        resolve_release(make_config(), settings, 3)


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


@pytest.mark.parametrize("year", [2999, 2020], ids=["under way", "past its until"])
def test_an_attempt_that_was_cut_off_is_continued_from_any_of_its_steps(settings, ledger, registry, year):
    champion, digest = make_bundle(settings, seed=1).digest, make_bundle(settings, seed=2).digest
    add(ledger, "promote", 1, champion)
    registry[None] = (2, digest)
    plan = resolve_release(make_config(), settings, None)
    for percent in (10, 50):
        traffic = {1: 100 - percent, 2: percent}
        add(ledger, "shift", 2, digest, traffic=traffic, until=datetime(year, 1, 1, tzinfo=UTC), evidence={"plan": plan.key})
    assert resolve_release(make_config(), settings, None) == plan


def test_an_attempt_of_other_bytes_is_not_continued(settings, ledger, registry):
    add(ledger, "promote", 1, make_bundle(settings, seed=1).digest)
    add(ledger, "shift", 2, "f" * 64, traffic={1: 90, 2: 10}, until=FUTURE, evidence={"plan": f"{'f' * 16}@1"})
    registry[None] = (2, make_bundle(settings, seed=2).digest)
    assert resolve_release(make_config(), settings, None).epoch == 2


def test_nonsense_is_no_version(settings):
    with pytest.raises(ConfigError, match="allowed is a version number, 'previous'"):
        resolve_release(make_config(), settings, "latest")


def test_mlflow_that_does_not_answer_is_named(settings):
    with pytest.raises(ServiceUnavailable, match=r"MLflow at http://127\.0\.0\.1:9"):
        resolve_release(make_config(), settings, None)
