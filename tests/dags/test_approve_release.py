"""A challenger waits for a person: what they are asked, what becomes of each answer, and that nobody's answer promotes nothing."""

from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from airflow.sdk.exceptions import AirflowFailException, AirflowSkipException, DownstreamTasksSkipped, TaskAwaitingInput
from small_bundle import MODEL, make_bundle, make_settings

import windvane.resolve_release as resolving
from windvane.catalog import Catalog
from windvane.ledger import Ledger
from windvane_airflow.build_dags import build_dags

CONFIG = """
model: churn
task: binary_classification
data: {id: customer, time: seen, label: left}
approval: {required: true, timeout: 2h, approvers: ["1", ada]}
"""
NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
ADA = {"id": "ada", "name": "Ada L."}


class Asked:
    """A run of the deploy DAG, as far as its first tasks look at it."""

    def __init__(self, dag, details):
        self.dag, self.details, self.store = dag, details, {}
        self.run_id = "asset_triggered__1"

    def context(self, *, version=None, events=(), user=None):
        run = SimpleNamespace(conf={}, dag_id=self.dag.dag_id, run_id=self.run_id, triggering_user_name=user)
        ti = SimpleNamespace(id="ti", map_index=-1, xcom_push=lambda **kwargs: None)
        store = SimpleNamespace(get=lambda key, default=None: self.store.get(key, default), set=self.store.__setitem__)
        params = {**self.dag.params.dump(), "version": version, "reason": None}
        found = {"asset": [SimpleNamespace(extra=extra) for extra in events]}
        return {
            "dag": self.dag, "dag_run": run, "run_id": run.run_id, "params": params, "ti": ti, "task_instance": ti,
            "task": self.dag.get_task("approve"), "task_state_store": store, "triggering_asset_events": found,
        }  # fmt: skip

    def ask(self, **more):
        """Execute the task; return what it hands to itself for the answer."""
        with pytest.raises(TaskAwaitingInput) as parked:
            self.dag.get_task("approve").execute(self.context(**more))
        assert parked.value.timeout == timedelta(hours=2)
        return parked.value.kwargs

    def answer(self, kwargs, choice="Approve", *, reason="looks right", by=ADA, **more):
        event = {"chosen_options": [choice], "params_input": {"reason": reason}, "responded_at": NOON, "responded_by_user": by}
        return self.dag.get_task("approve").execute_complete(self.context(**more), event={**event, "timedout": False}, **kwargs)

    def package(self, approved, **more):
        task = self.dag.get_task("package")
        task.approved = approved
        return task.run(self.context(**more))


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    made = make_settings(tmp_path)
    (tmp_path / "dags" / "configs" / "churn.yaml").write_text(CONFIG)
    for name, value in made.as_environment().items():
        monkeypatch.setenv(name, value)
    return made


@pytest.fixture
def asked(settings, monkeypatch: pytest.MonkeyPatch) -> Asked:
    details: list[dict[str, Any]] = []
    monkeypatch.setattr("airflow.providers.standard.operators.hitl.upsert_hitl_detail", lambda **kwargs: details.append(kwargs))
    monkeypatch.setattr("windvane.deployment.package", lambda config, settings, plan: {})
    return Asked(build_dags(settings.project, only="churn__deploy")["churn__deploy"], details)


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
    more.setdefault("traffic", {version: 100})
    return ledger.append(
        MODEL, expected_epoch=last.epoch if last else 0, action=action, version=version, digest=digest, actor="test", reason="r", **more
    )  # fmt: skip


def register(settings, version, bundle, *, passed=True):
    catalog = Catalog(settings.database)
    catalog.record_version(
        MODEL, version=version, digest=bundle.digest, manifest=bundle.manifest, run_id=None, experiment_id=None, seconds=None,
        size_bytes=1, run="churn__train/manual__1+00:00",
    )  # fmt: skip
    catalog.record_verdict(MODEL, version=version, passed=passed, reason="r")
    catalog.close()


def event_of(version, bundle):
    return {"version": version, "bundle_digest": bundle.digest}


def test_the_question_carries_the_challenger_and_a_field_for_the_reason(settings, asked, ledger):
    champion, challenger = make_bundle(settings, seed=1), make_bundle(settings, seed=2)
    add(ledger, "promote", 1, champion.digest)
    register(settings, 2, challenger)
    kwargs = asked.ask(events=[event_of(2, challenger)])
    (question,) = asked.details
    assert question["subject"] == "Deploy version 2 of churn?"
    assert "**Version 2** would serve instead of version 1, which serves since" in question["body"]
    assert "[Models page](/plugin/models/churn?tab=challenger)" in question["body"]
    assert "[Verdict](/dags/churn__train/runs/manual__1%2B00%3A00/tasks/gate)" in question["body"]
    assert question["defaults"] is None
    assert question["options"] == ["Approve", "Reject"]
    assert question["assigned_users"] == [{"id": "1", "name": "1"}, {"id": "ada", "name": "ada"}]
    assert question["params"]["reason"]["schema"]["maxLength"] == 500
    assert kwargs["asked"]["bundle_digest"] == challenger.digest
    assert [row.action for row in ledger.history(MODEL)] == ["promote"]


def test_an_approval_hands_on_exactly_what_was_asked_with_who_when_and_why(settings, asked, ledger, registry):
    champion, challenger, newer = (make_bundle(settings, seed=seed) for seed in (1, 2, 3))
    add(ledger, "promote", 1, champion.digest)
    register(settings, 2, challenger)
    kwargs = asked.ask(events=[event_of(2, challenger)])
    # meanwhile a newer one is registered: the alias in MLflow points at it
    registry[None] = (3, newer.digest)
    register(settings, 3, newer)
    approved = asked.answer(kwargs, reason="  looks right  ")
    approval = {"by": "Ada L.", "at": "2026-01-01T12:00:00+00:00", "reason": "looks right"}
    assert approved == {"chosen_options": ["Approve"], "version": 2, "bundle_digest": challenger.digest, "approval": approval}
    plan = asked.package(approved)
    assert (plan["version"], plan["digest"], plan["approval"], plan["actor"]) == (
        2, challenger.digest, approval, "churn__deploy/asset_triggered__1",
    )  # fmt: skip


def test_a_rejection_is_in_the_ledger_and_nothing_follows(settings, asked, ledger):
    champion, challenger = make_bundle(settings, seed=1), make_bundle(settings, seed=2)
    add(ledger, "promote", 1, champion.digest)
    register(settings, 2, challenger)
    kwargs = asked.ask(events=[event_of(2, challenger)])
    for _ in range(2):
        with pytest.raises(DownstreamTasksSkipped) as skipped:
            asked.answer(kwargs, "Reject", reason="worse for JFK")
        assert "package" in str(skipped.value.tasks)
    refused, *before = reversed(ledger.history(MODEL))
    assert [row.action for row in before] == ["promote"]
    assert (refused.action, refused.version, dict(refused.traffic)) == ("refuse", 2, {1: 100})
    assert refused.actor == "churn__deploy/asset_triggered__1 by Ada L."
    assert refused.reason == "rejected by Ada L.: worse for JFK"
    assert refused.evidence["approval"] == {"by": "Ada L.", "at": "2026-01-01T12:00:00+00:00", "reason": "worse for JFK"}
    with pytest.raises(AirflowSkipException, match="this run asked already: rejected by Ada"):
        asked.dag.get_task("approve").execute(asked.context(events=[event_of(2, challenger)]))


def test_what_was_rejected_is_not_asked_about_again_unless_a_person_wants_to(settings, asked, ledger, registry):
    champion, challenger = make_bundle(settings, seed=1), make_bundle(settings, seed=2)
    add(ledger, "promote", 1, champion.digest)
    with pytest.raises(DownstreamTasksSkipped):
        asked.answer(asked.ask(events=[event_of(2, challenger)]), "Reject", reason="no")
    # the same bundle is adopted by a training that is run again
    asked.run_id, asked.store = "asset_triggered__2", {}
    with pytest.raises(AirflowSkipException, match=r"version 2 was rejected by Ada L\.: no; trigger churn__deploy with version: 2"):
        asked.dag.get_task("approve").execute(asked.context(events=[event_of(2, challenger)]))
    registry[2] = (2, challenger.digest)
    assert asked.ask(version=2)["asked"]["version"] == 2


def test_no_answer_in_time_fails_the_run_and_refuses(settings, asked, ledger):
    challenger = make_bundle(settings)
    kwargs = asked.ask(events=[event_of(1, challenger)])
    event = {"error": "the time has passed", "error_type": "timeout"}
    for _ in range(2):
        with pytest.raises(AirflowFailException, match="nobody answered within 2h: version 1 is not deployed"):
            asked.dag.get_task("approve").execute_complete(asked.context(), event=event, **kwargs)
    (refused,) = ledger.history(MODEL)
    assert (refused.action, refused.serving, refused.reason) == ("refuse", None, "nobody answered within 2h")
    assert refused.actor == "churn__deploy/asset_triggered__1 by approval"


def test_the_first_version_waits_too(settings, asked, registry):
    challenger = make_bundle(settings)
    registry[None] = (1, challenger.digest)
    asked.ask()
    assert "as the first one: nothing serves yet" in asked.details[0]["body"]


@pytest.mark.parametrize("version", ["previous", 1, "1"])
def test_a_rollback_asks_nobody(settings, asked, ledger, version):
    first, second = make_bundle(settings, seed=1), make_bundle(settings, seed=2)
    add(ledger, "promote", 1, first.digest)
    add(ledger, "promote", 2, second.digest)
    approved = asked.dag.get_task("approve").execute(asked.context(version=version, user="bob"))
    assert asked.details == []
    plan = asked.package(approved, version=version, user="bob")
    assert (plan["version"], plan["rollback"], plan["approval"]) == (1, True, None)
    assert plan["actor"] == "churn__deploy/asset_triggered__1 by bob"


def test_a_version_by_its_number_that_never_served_is_asked_for(settings, asked, ledger, registry):
    refused = make_bundle(settings, passed=False)
    registry[4] = (4, refused.digest)
    kwargs = asked.ask(version=4)
    assert "**Its gates did not pass.**" in asked.details[0]["body"]
    plan = asked.package(asked.answer(kwargs, version=4), version=4)
    assert (plan["version"], plan["override"], plan["rollback"]) == (4, True, False)


@pytest.mark.parametrize("approved", [None, {}, {"chosen_options": ["Approve"], "reason": "a rollback needs no approval"}])
def test_a_task_that_was_marked_as_done_is_no_approval(settings, asked, registry, approved):
    registry[None] = (1, make_bundle(settings).digest)
    with pytest.raises(AirflowFailException, match="nobody approved this version"):
        asked.package(approved)


def test_there_may_be_nothing_to_approve(settings, asked, ledger):
    first, second, third = (make_bundle(settings, seed=seed) for seed in (1, 2, 3))
    add(ledger, "promote", 1, first.digest)

    def ask(events):
        with pytest.raises(AirflowSkipException) as skipped:
            asked.dag.get_task("approve").execute(asked.context(events=events))
        return str(skipped.value)

    assert "version 1 serves already" in ask([event_of(1, first)])
    for version, bundle in ((2, second), (3, third)):
        register(settings, version, bundle)
    assert "version 3 passed its gates after version 2, and its own run asks" in ask([event_of(2, second)])
    add(ledger, "freeze", 1, first.digest)
    assert "churn is frozen" in ask([event_of(3, third)])
    assert asked.details == []


def test_of_several_events_the_newest_is_asked_about(settings, asked):
    second, third = make_bundle(settings, seed=2), make_bundle(settings, seed=3)
    assert asked.ask(events=[event_of(3, third), event_of(2, second), {"from_rest_api": True}])["asked"]["version"] == 3


@pytest.mark.parametrize(
    ("action", "more", "told"),
    [
        ("promote", {}, "version 3 serves since the question was asked"),
        ("shift", {"until": datetime(2999, 1, 1, tzinfo=UTC), "traffic": {1: 90, 3: 10}}, "version 3 is being rolled out since"),
        ("freeze", {"traffic": {1: 100}}, "approved, but churn is frozen"),
    ],
)
def test_an_approval_of_what_does_not_hold_any_more_promotes_nothing(settings, asked, ledger, action, more, told):
    first, second, third = (make_bundle(settings, seed=seed) for seed in (1, 2, 3))
    add(ledger, "promote", 1, first.digest)
    kwargs = asked.ask(events=[event_of(2, second)])
    add(ledger, action, 3, third.digest, **more)
    with pytest.raises(AirflowSkipException, match=told):
        asked.answer(kwargs)


def test_a_run_that_is_cleared_asks_the_same_or_nothing(settings, asked, ledger):
    first, second, third = (make_bundle(settings, seed=seed) for seed in (1, 2, 3))
    add(ledger, "promote", 1, first.digest)
    for _ in range(2):
        asked.ask(events=[event_of(2, second)])
    add(ledger, "promote", 3, third.digest)
    with pytest.raises(AirflowSkipException, match="this run asked about version 2 when something else served"):
        asked.dag.get_task("approve").execute(asked.context(events=[event_of(2, second)]))


@pytest.mark.parametrize("by", [None, {"id": "eve", "name": "eve"}], ids=["nobody", "somebody else"])
def test_an_answer_of_somebody_who_may_not_counts_for_nothing(settings, asked, ledger, by):
    kwargs = asked.ask(events=[event_of(1, make_bundle(settings))])
    for choice in ("Approve", "Reject"):
        with pytest.raises(AirflowFailException, match="allowed are 1, ada"):
            asked.answer(kwargs, choice, by=by)
    assert ledger.history(MODEL) == []


@pytest.mark.parametrize("reason", [None, "", "   ", 7, "x" * 20_000, "{{ conn.db }}\n<script>"])
def test_any_reason_is_kept_as_short_text(settings, asked, reason):
    kwargs = asked.ask(events=[event_of(1, make_bundle(settings))])
    kept = asked.answer(kwargs, reason=reason)["approval"]["reason"]
    assert kept == (str(reason or "").strip()[:500] or None)
