"""The steps of a deployment: what the ledger says after each, also when one fails, is killed, or is overtaken."""

from datetime import UTC, datetime, timedelta

import pytest
from small_bundle import MODEL, make_config, make_settings

import windvane.deployment as deploying
from windvane.bake_step import Counted, Silence
from windvane.deployment import Plan, package, promote, rehearse, revert_expired, roll_out
from windvane.errors import RehearsalFailed, RolloutFailed, ServiceUnavailable, StaleEpoch
from windvane.judge_rollout import Check, Judgement
from windvane.ledger import Ledger
from windvane.record_answer import record_refusal

A, B = "a" * 64, "b" * 64


class FakeTarget:
    """Remembers its calls; fails where it is told to."""

    observe_seconds = 60.0
    in_steps = False

    def __init__(self):
        self.calls = []
        self.fail = {}

    def _call(self, name, of):
        self.calls.append((name, of.version))
        if name in self.fail:
            raise self.fail[name]
        return {"done": name}

    def prepare(self, plan):
        return self._call("prepare", plan)

    def rehearse(self, plan, replay=None):
        return self._call("rehearse", plan)

    def counts(self):
        return {2: Counted(len(self.calls))}

    def shift(self, release):
        self._call("shift", release)

    def observe(self, plan):
        return self._call("observe", plan)

    def promote(self, release):
        self._call("promote", release)

    def revert(self, release):
        self._call("revert", release)

    def align(self, release):
        return []


@pytest.fixture
def target(monkeypatch):
    fake = FakeTarget()
    monkeypatch.setattr(deploying, "open_target", lambda config, settings: fake)
    monkeypatch.setattr(deploying, "rehearse_candidate", lambda config, settings, target, plan, champion: _rehearsed(target, plan))
    return fake


def _rehearsed(target, plan):
    target.rehearse(plan)
    return {"judgement": {"reason": "all is well"}, "replay": {"loss": None}}


@pytest.fixture
def settings(tmp_path):
    return make_settings(tmp_path)


@pytest.fixture
def ledger(settings):
    opened = Ledger(settings.database)
    yield opened
    opened.close()


@pytest.fixture(autouse=True)
def aliases(monkeypatch):
    moved = []
    monkeypatch.setattr(deploying, "sync_alias", lambda settings, model, version: moved.append(version))
    return moved


def plan_of(version=1, digest=A, *, epoch=0, **more):
    return Plan(MODEL, version, digest, rollback=more.pop("rollback", False), epoch=epoch, reason="why", actor="test", **more)


def deploy(settings, plan):
    package(make_config(), settings, plan)
    rehearse(make_config(), settings, plan)
    roll_out(make_config(), settings, plan)
    return promote(make_config(), settings, plan)


def rows(ledger):
    return [(row.epoch, row.action, row.version, dict(row.traffic)) for row in ledger.history(MODEL)]


def test_a_deployment_is_a_shift_and_a_promotion(settings, ledger, target, aliases):
    deploy(settings, plan_of())

    assert rows(ledger) == [(1, "shift", 1, {1: 100}), (2, "promote", 1, {1: 100})]
    shift, promotion = ledger.history(MODEL)
    assert shift.until > datetime.now(UTC) + timedelta(seconds=60)
    assert promotion.until is None
    assert aliases == [1]
    assert [name for name, _ in target.calls] == ["prepare", "rehearse", "prepare", "shift", "observe", "promote"]


def test_who_approved_when_and_why_stands_in_every_row_of_the_release(settings, ledger, target):
    approval = {"by": "ada", "at": "2026-01-01T00:00:00+00:00", "reason": "looks right"}
    deploy(settings, Plan.from_json(plan_of(approval=approval).as_json()))
    assert [(row.action, row.evidence["approval"]) for row in ledger.history(MODEL)] == [("shift", approval), ("promote", approval)]
    assert "approval" not in deploy(settings, plan_of(2, B, epoch=2)).evidence


def test_the_refusal_of_another_version_overtakes_no_rollout(settings, ledger, target):
    deploy(settings, plan_of(1, A))
    plan = plan_of(2, B, epoch=2)
    package(make_config(), settings, plan)
    refused = {"by": "ada", "at": "2026-01-01T00:00:00+00:00", "reason": None}
    record_refusal(settings, MODEL, version=3, digest="c" * 64, run="r/1", actor="r/1 by ada", reason="no", approval=refused)
    assert deploy(settings, plan).serving == 2
    assert [row.action for row in ledger.history(MODEL)] == ["shift", "promote", "refuse", "shift", "promote"]


def test_a_freeze_still_overtakes_a_rollout(settings, ledger, target):
    deploy(settings, plan_of(1, A))
    ledger.append(MODEL, expected_epoch=2, action="freeze", version=1, digest=A, traffic={1: 100}, actor="ada", reason="audit")
    with pytest.raises(StaleEpoch, match="superseded"):
        deploy(settings, plan_of(2, B, epoch=2))


def test_a_rollback_is_called_so(settings, ledger, target):
    deploy(settings, plan_of(1, A))
    deploy(settings, plan_of(2, B, epoch=2))
    assert deploy(settings, plan_of(1, A, epoch=4, rollback=True)).action == "rollback"
    assert ledger.last(MODEL).serving == 1


def test_every_step_can_run_twice(settings, ledger, target):
    for step in (package, rehearse, roll_out, promote, roll_out, promote):
        step(make_config(), settings, plan_of())
    assert rows(ledger) == [(1, "shift", 1, {1: 100}), (2, "promote", 1, {1: 100})]


def test_a_failed_rehearsal_is_in_the_ledger_once_and_changes_nothing(settings, ledger, target):
    deploy(settings, plan_of(1, A))
    target.fail["rehearse"] = RehearsalFailed("golden rows differ")

    for _ in range(2):
        with pytest.raises(RehearsalFailed):
            rehearse(make_config(), settings, plan_of(2, B, epoch=2))

    assert rows(ledger)[2:] == [(3, "refuse", 2, {1: 100})]
    assert ledger.last(MODEL).reason == "golden rows differ"
    with pytest.raises(RolloutFailed, match="golden rows differ"):
        roll_out(make_config(), settings, plan_of(2, B, epoch=2))


def test_a_failed_rollout_gives_the_traffic_back(settings, ledger, target):
    deploy(settings, plan_of(1, A))
    target.fail["observe"] = RolloutFailed("it does not load")

    with pytest.raises(RolloutFailed):
        roll_out(make_config(), settings, plan_of(2, B, epoch=2))

    assert rows(ledger)[2:] == [(3, "shift", 2, {2: 100}), (4, "revert", 2, {1: 100})]
    assert target.calls[-1] == ("revert", 2)
    with pytest.raises(StaleEpoch, match="no shift of all traffic to promote, found revert: it does not load"):
        promote(make_config(), settings, plan_of(2, B, epoch=2))
    with pytest.raises(RolloutFailed, match="given up"):
        roll_out(make_config(), settings, plan_of(2, B, epoch=2))


def test_a_first_version_that_fails_leaves_nothing_serving(settings, ledger, target):
    target.fail["observe"] = RolloutFailed("it does not load")
    with pytest.raises(RolloutFailed):
        roll_out(make_config(), settings, plan_of())
    assert rows(ledger)[-1] == (2, "revert", 1, {})


def test_a_rollout_that_infrastructure_stopped_can_be_tried_again(settings, ledger, target):
    target.fail["shift"] = ServiceUnavailable("the engine is away")
    with pytest.raises(ServiceUnavailable):
        roll_out(make_config(), settings, plan_of())
    target.fail.clear()

    roll_out(make_config(), settings, plan_of())
    promote(make_config(), settings, plan_of())

    assert [action for _, action, _, _ in rows(ledger)] == ["shift", "revert", "shift", "promote"]


def test_a_killed_rollout_is_continued_by_its_retry(settings, ledger, target):
    target.fail["observe"] = KeyboardInterrupt()
    with pytest.raises(KeyboardInterrupt):
        roll_out(make_config(), settings, plan_of())
    assert rows(ledger) == [(1, "shift", 1, {1: 100})]
    target.fail.clear()

    roll_out(make_config(), settings, plan_of())
    promote(make_config(), settings, plan_of())

    assert rows(ledger) == [(1, "shift", 1, {1: 100}), (2, "promote", 1, {1: 100})]


def test_a_killed_rollout_that_was_reverted_meanwhile_is_begun_again(settings, ledger, target, monkeypatch):
    target.fail["observe"] = KeyboardInterrupt()
    target.observe_seconds = -60.0  # its `until` is past at once
    with pytest.raises(KeyboardInterrupt):
        roll_out(make_config(), settings, plan_of())
    assert revert_expired(ledger, MODEL).action == "revert"
    assert revert_expired(ledger, MODEL) is None
    target.fail.clear()
    target.observe_seconds = 60.0

    roll_out(make_config(), settings, plan_of())

    assert [action for _, action, _, _ in rows(ledger)] == ["shift", "revert", "shift"]


def test_an_expired_shift_goes_back_to_the_last_settled_traffic(settings, ledger, target):
    deploy(settings, plan_of(1, A))
    target.observe_seconds = -60.0
    roll_out(make_config(), settings, plan_of(2, B, epoch=2))

    assert revert_expired(ledger, MODEL).traffic == {1: 100}
    assert ledger.last(MODEL).reason.startswith("version 2 was not promoted until")


def test_a_shift_under_way_is_not_reverted(settings, ledger, target):
    roll_out(make_config(), settings, plan_of())
    assert revert_expired(ledger, MODEL) is None


@pytest.mark.parametrize("step", [roll_out, promote], ids=["roll_out", "promote"])
def test_a_plan_that_was_overtaken_changes_nothing(settings, ledger, target, step):
    deploy(settings, plan_of(1, A))
    before = rows(ledger)
    with pytest.raises(StaleEpoch, match="superseded"):
        step(make_config(), settings, plan_of(2, B, epoch=0))
    assert rows(ledger) == before


def test_a_version_that_serves_needs_no_steps(settings, ledger, target):
    deploy(settings, plan_of())
    target.calls.clear()
    plan = plan_of(epoch=2, serves=True)
    assert deploy(settings, plan).epoch == 2
    assert [name for name, _ in target.calls] == ["promote"]
    assert len(rows(ledger)) == 2


def test_promotion_does_not_need_mlflow(settings, ledger, target, monkeypatch, caplog):
    def unavailable(settings, model, version):
        raise ServiceUnavailable("MLflow at http://127.0.0.1:9 does not answer")

    monkeypatch.setattr(deploying, "sync_alias", unavailable)
    deploy(settings, plan_of())
    assert ledger.last(MODEL).action == "promote"
    assert "the alias 'champion' was not moved" in caplog.text


def test_an_endpoint_that_is_not_there_stops_before_the_ledger_says_anything(settings, ledger, target):
    target.fail["prepare"] = ServiceUnavailable("the scoring server does not answer")
    with pytest.raises(ServiceUnavailable):
        roll_out(make_config(), settings, plan_of())
    assert rows(ledger) == []


def test_a_version_that_answers_nothing_while_requests_wait_is_noticed():
    silence = Silence()
    looks = [(4, 0), (14, 5), (14, 40), (14, 64), (15, 64), (15, 64), (15, 2), (15, 64), (15, 64)]
    found = [silence.look(Counted(answered, waiting=waiting), now=float(i)) for i, (answered, waiting) in enumerate(looks)]
    # few that wait may be slow ones, and an answer ends the silence
    assert found == [0, 0, 1, 2, 0, 1, 0, 1, 2]


@pytest.fixture
def judge(monkeypatch, target):
    """Steps, whose bakes end at once with what the test says."""
    target.in_steps = True
    said = {"verdicts": {}, "baked": []}

    def bake(config, settings, target, ledger, plan, release, *, before, began, champion, replay):
        share = release.traffic[plan.version]
        # as counted before the traffic moved
        assert before == {2: Counted(len(target.calls) - 1)}
        target.calls.append(("bake", share))
        said["baked"].append((share, champion, replay))
        verdict = said["verdicts"].get(share, "advance")
        return Judgement(verdict, (Check("errors", verdict, "3 of 9 requests failed"),))

    monkeypatch.setattr(deploying, "bake_step", bake)
    return said


def staged(settings, plan, step=roll_out):
    config = make_config(rollout={"steps": [10, 50, 100], "bake": "1s"})
    return step(config, settings, plan, evidence={"replay": {"loss": 0.1}})


def test_traffic_moves_in_steps_that_are_rows(settings, ledger, target, judge):
    deploy(settings, plan_of(1, A))
    assert judge["baked"] == [(100, None, None)]
    judge["baked"].clear()
    target.calls.clear()

    staged(settings, plan_of(2, B, epoch=2))
    promote(make_config(), settings, plan_of(2, B, epoch=2))

    assert rows(ledger)[2:] == [
        (3, "shift", 2, {1: 90, 2: 10}),
        (4, "shift", 2, {1: 50, 2: 50}),
        (5, "shift", 2, {2: 100}),
        (6, "promote", 2, {2: 100}),
    ]
    assert judge["baked"] == [(10, 1, {"loss": 0.1}), (50, 1, {"loss": 0.1}), (100, 1, {"loss": 0.1})]
    assert target.calls[1:-1] == [("shift", 2), ("bake", 10), ("shift", 2), ("bake", 50), ("shift", 2), ("bake", 100), ("observe", 2)]
    assert ledger.history(MODEL)[3].evidence["step"]["judgement"]["verdict"] == "advance"
    assert all(row.until > row.time + timedelta(seconds=60) for row in ledger.history(MODEL)[2:5])


def test_a_first_version_has_nothing_that_counts_yet(settings, ledger, target, monkeypatch):
    target.in_steps, found = True, []

    def counts():
        raise ServiceUnavailable("haproxy: is its container running?")

    def bake(*_, before, **__):
        found.append(before)
        return Judgement("advance", (Check("errors", "advance", "none"),))

    monkeypatch.setattr(target, "counts", counts)
    monkeypatch.setattr(deploying, "bake_step", bake)
    deploy(settings, plan_of(1, A))
    assert (found, ledger.last(MODEL).action) == ([{}], "promote")


@pytest.mark.parametrize("verdict", ["revert", "inconclusive"])
def test_a_step_that_is_not_good_goes_back_with_its_reason(settings, ledger, target, judge, verdict):
    deploy(settings, plan_of(1, A))
    judge["verdicts"][50] = verdict

    with pytest.raises(RolloutFailed, match="version 2 at 50 %: errors: 3 of 9 requests failed"):
        staged(settings, plan_of(2, B, epoch=2))

    assert rows(ledger)[-2:] == [(4, "shift", 2, {1: 50, 2: 50}), (5, "revert", 2, {1: 100})]
    assert ledger.last(MODEL).evidence["judgement"]["verdict"] == verdict
    assert target.calls[-1] == ("revert", 2)
    with pytest.raises(RolloutFailed, match="given up"):
        staged(settings, plan_of(2, B, epoch=2))


def test_an_attempt_goes_on_at_the_step_where_the_one_before_was_killed(settings, ledger, target, judge):
    deploy(settings, plan_of(1, A))
    target.fail["shift"] = KeyboardInterrupt()
    with pytest.raises(KeyboardInterrupt):
        staged(settings, plan_of(2, B, epoch=2))
    target.fail.clear()
    judge["baked"].clear()

    staged(settings, plan_of(2, B, epoch=2))

    assert [row[3] for row in rows(ledger)[2:]] == [{1: 90, 2: 10}, {1: 50, 2: 50}, {2: 100}]
    assert [share for share, _, _ in judge["baked"]] == [10, 50, 100]


def test_only_all_of_the_traffic_can_be_promoted(settings, ledger, target, judge):
    deploy(settings, plan_of(1, A))
    target.fail["shift"] = KeyboardInterrupt()
    with pytest.raises(KeyboardInterrupt):
        staged(settings, plan_of(2, B, epoch=2))
    with pytest.raises(StaleEpoch, match="no shift of all traffic"):
        promote(make_config(), settings, plan_of(2, B, epoch=2))


def test_a_rollback_takes_no_steps(settings, ledger, target, judge):
    deploy(settings, plan_of(1, A))
    deploy(settings, plan_of(2, B, epoch=2))
    judge["baked"].clear()
    last = ledger.last(MODEL).epoch
    staged(settings, plan_of(1, A, epoch=last, rollback=True))
    assert rows(ledger)[-1] == (last + 1, "shift", 1, {1: 100})
    assert judge["baked"] == []
