"""The state of every model from ledger and catalog, with a number of queries that does not grow."""

import json
import sqlite3
from contextlib import closing
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import Engine, event

from windvane.catalog import Catalog
from windvane.decision_evidence import Evidence, Performance
from windvane.describe_models import ORDER, describe_models, describe_nothing, state_of
from windvane.ledger import Ledger
from windvane.monitor_model import MonitorResult
from windvane.settings import load_settings
from windvane.windows import Window

START = datetime(2026, 1, 1, tzinfo=UTC)
DAY, MINUTE = timedelta(days=1), timedelta(minutes=1)
WINDOW = Window(START, START + DAY)


class State:
    """A ledger and a catalog whose clock the test sets."""

    def __init__(self, directory):
        self.settings = load_settings({"WINDVANE_VAR": str(directory)})
        self.ledger, self.catalog = Ledger(self.settings.database), Catalog(self.settings.database)
        self.ledger.models(), self.catalog.overviews()
        self.now = datetime.now(UTC)

    def close(self):
        self.ledger.close()
        self.catalog.close()

    def row(self, action, version, traffic, *, minute=0, model="churn", until=None, actor="churn__deploy/manual__1", reason="because"):
        """Append a row that was written so many minutes from now."""
        last = self.ledger.last(model)
        digits = f"{version:064d}"
        values = {"model": model, "epoch": last.epoch + 1 if last else 1, "action": action, "version": version, "digest": digits}
        traffic = json.dumps({str(v): p for v, p in traffic.items()}, separators=(",", ":"))
        values |= {"traffic": traffic, "actor": actor, "reason": reason, "evidence": "{}", "until": self.at(until) if until else None}
        with self.ledger.connect() as connection, connection.begin():
            connection.execute(self.ledger.table.insert(), values | {"time": self.at(minute), "previous_hash": "0" * 64, "hash": "0" * 64})

    def decide(self, decision, *, model="churn", minute=0, version=1, value=0.7, reason="because", harmed=False, window=WINDOW):
        """Record a decision that was made so many minutes from now."""
        realised = Performance("roc_auc", value, value, value, 90, 90)
        evidence = Evidence(window, 90, champion=version, realised=realised, harm_confirmed=harmed)
        self.catalog.record_window(model, MonitorResult(decision, reason, "", evidence, None, window))
        with closing(sqlite3.connect(self.settings.var / "windvane.db")) as other, other:
            for table, place in (("catalog_windows", "$.decided_at"), ("catalog_overviews", "$.newest.decided_at")):
                other.execute(f"UPDATE {table} SET detail = json_set(detail, ?, ?) WHERE model = ?", (place, self.at(minute), model))

    def train(self, version, *, model="churn", minute=0, passed=None, reason="", value=0.7):
        manifest = {"task": "binary_classification", "metrics": {"roc_auc": value}}
        made = {"manifest": manifest, "run_id": None, "experiment_id": None, "seconds": 1.0, "size_bytes": 1, "run": None}
        moment = self.now + minute * MINUTE
        self.catalog.record_version(model, version=version, digest=f"{version:064d}", **made, trained_at=moment)
        if passed is not None:
            self.catalog.record_verdict(model, version=version, passed=passed, reason=reason)

    def at(self, minute):
        return (self.now + minute * MINUTE).isoformat(timespec="microseconds")

    def describe(self, model="churn", **more):
        return describe_models(self.settings, now=self.now, **more)[model]

    def state(self, model="churn", **more):
        return state_of(self.describe(model)["causes"], **more)


@pytest.fixture
def state(tmp_path):
    made = State(tmp_path)
    yield made
    made.close()


def test_an_empty_installation_has_no_models(state):
    assert describe_models(state.settings, now=state.now) == {}
    assert state_of(describe_nothing("churn", now=state.now)["causes"])[0] == "never_trained"


def test_a_served_model_is_described(state):
    state.train(1, minute=-60)
    state.row("promote", 1, {1: 100}, minute=-50)
    state.decide("ok", minute=-40)
    told = state.describe()

    assert told == {
        "causes": [{"state": "serving", "reason": "version 1 serves; ok: because"}],
        "frozen": None,
        "version": 1,
        "since": state.at(-50),
        "traffic": {"1": 100},
        "rollout_until": None,
        "metric": {"name": "roc_auc", "value": 0.7, "kind": "realised", "at": "2026-01-02T00:00:00.000000+00:00"},
        "sparkline": [["2026-01-02T00:00:00.000000+00:00", 0.7, "realised"]],
        "decision": {
            "decision": "ok",
            "reason": "because",
            "alert": "",
            "decided_at": state.at(-40),
            "window_key": WINDOW.key,
            "window_start": "2026-01-01T00:00:00.000000+00:00",
            "window_end": "2026-01-02T00:00:00.000000+00:00",
        },
        "last_release": {
            "epoch": 1,
            "action": "promote",
            "version": 1,
            "at": state.at(-50),
            "actor": "churn__deploy/manual__1",
            "reason": "because",
        },
    }
    assert json.loads(json.dumps(told, allow_nan=False)) == told


def test_before_any_window_the_holdout_tells_the_metric(state):
    state.train(1, minute=-60, value=0.66)
    state.train(2, minute=-50, value=0.99)
    state.row("promote", 1, {1: 100}, minute=-40)

    assert state.describe()["metric"] == {"name": "roc_auc", "value": 0.66, "kind": "holdout", "at": state.at(-60)}


def test_a_version_that_a_person_rejected_degrades_nothing(state):
    state.row("promote", 1, {1: 100}, minute=-50)
    state.row("refuse", 2, {1: 100}, minute=-40, reason="rejected by admin: too slow")
    assert state.state()[0] == "serving"
    state.row("refuse", 3, {1: 100}, minute=-30, reason="the rehearsal failed")
    assert state.state()[0] == "degraded"


def test_after_a_rollback_the_metric_is_not_that_of_the_version_before(state):
    state.train(1, minute=-60, value=0.66)
    state.row("promote", 1, {1: 100}, minute=-50)
    state.row("promote", 2, {2: 100}, minute=-40)
    state.decide("ok", version=2, value=0.9, minute=-30)
    assert state.describe()["metric"]["value"] == 0.9
    state.row("rollback", 1, {1: 100}, minute=-20)

    assert state.describe()["metric"] == {"name": "roc_auc", "value": 0.66, "kind": "holdout", "at": state.at(-60)}


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        pytest.param([("promote", 1, {1: 100})], 0, id="first"),
        pytest.param([("promote", 1, {1: 100}), ("refuse", 2, {1: 100}), ("freeze", 1, {1: 100})], 0, id="repeated"),
        pytest.param([("promote", 1, {1: 100}), ("shift", 2, {1: 90, 2: 10}), ("revert", 2, {1: 100})], 0, id="canary-went-back"),
        pytest.param(
            [("promote", 1, {1: 100}), ("shift", 2, {1: 50, 2: 50}), ("shift", 2, {2: 100}), ("promote", 2, {2: 100})], 1, id="half-of-all"
        ),
        pytest.param([("promote", 1, {1: 100}), ("shift", 2, {2: 100}), ("revert", 2, {1: 100})], 2, id="served-a-moment"),
        pytest.param([("promote", 1, {1: 100}), ("rollback", 1, {}), ("promote", 1, {1: 100})], 2, id="nothing-served"),
        pytest.param([("promote", 1, {1: 100}), ("promote", 2, {2: 100}), *[("refuse", 3, {2: 100})] * 100], 1, id="long-ago"),
        pytest.param([*[("promote", 1, {1: 100})] * 65], 0, id="always"),
        pytest.param([("refuse", 1, {})], None, id="never"),
    ],
)
def test_since_is_when_the_version_began_to_serve_without_a_break(state, rows, expected):
    for minute, (action, version, traffic) in enumerate(rows):
        state.row(action, version, traffic, minute=minute)
        state.row(action, 7, {7: 100}, minute=minute, model="other")

    assert state.describe()["since"] == (None if expected is None else state.at(expected))
    assert state.describe("other")["since"] == state.at(0)


def test_a_frozen_model_says_by_whom(state):
    state.row("promote", 1, {1: 100}, minute=-9)
    state.row("freeze", 1, {1: 100}, minute=-8, actor="airflow/ann", reason="audit")
    state.row("rollback", 1, {1: 100}, minute=-7)

    assert state.describe()["frozen"] == {"since": state.at(-8), "by": "airflow/ann", "reason": "audit"}
    state.row("unfreeze", 1, {1: 100}, minute=-6)
    assert state.describe()["frozen"] is None


@pytest.mark.parametrize("decision", ["fix_data", "retrain", "recalibrate"])
def test_what_a_decision_asks_for_degrades_until_something_is_promoted(state, decision):
    state.row("promote", 1, {1: 100}, minute=-60)
    state.decide(decision, minute=-50, reason="it got worse")

    found, reason = state.state()
    assert found == "degraded"
    assert reason.startswith(f"{decision}: it got worse; ")
    state.row("promote", 2, {2: 100}, minute=-40)
    assert state.state()[0] == "serving"


def test_a_decision_about_the_version_before_is_history(state):
    state.row("promote", 1, {1: 100}, minute=-60)
    state.row("promote", 2, {2: 100}, minute=-50)
    state.decide("retrain", minute=-40, version=1)

    assert state.state() == ("serving", "version 2 serves; no window was monitored with it yet")


def test_confirmed_harm_degrades_whatever_was_decided(state):
    state.row("promote", 1, {1: 100}, minute=-60)
    state.decide("ignore", minute=-50, harmed=True, reason="retraining does not help")

    assert state.state() == ("degraded", "ignore: retraining does not help")


@pytest.mark.parametrize("decision", ["ok", "wait", "ignore"])
def test_other_decisions_degrade_nothing(state, decision):
    state.row("promote", 1, {1: 100}, minute=-60)
    state.decide(decision, minute=-50)

    assert state.state()[0] == "serving"


@pytest.mark.parametrize(
    ("training", "expected"),
    [
        pytest.param(None, "a training by churn__train comes next", id="not-yet"),
        pytest.param({"minute": -55}, "a training by churn__train comes next", id="trained-before"),
        pytest.param({"minute": -45}, "version 2 was made since and is not judged yet", id="trained"),
        pytest.param(
            {"minute": -45, "passed": False, "reason": "at_least: 0.5 < 0.6"},
            "version 2 was made since, and its gates refused it: at_least: 0.5 < 0.6",
            id="refused",
        ),
        pytest.param(
            {"minute": -45, "passed": True}, "version 2 was made since and passed its gates: churn__deploy comes next", id="passed"
        ),
    ],
)
def test_a_decision_to_train_says_what_comes_next(state, training, expected):
    state.row("promote", 1, {1: 100}, minute=-60)
    state.decide("retrain", minute=-50)
    if training:
        state.train(2, **training)

    assert state.state() == ("degraded", f"retrain: because; {expected}")


@pytest.mark.parametrize(("action", "told"), [("revert", "was taken back"), ("refuse", "was refused")])
def test_a_candidate_that_failed_degrades_until_the_next_change(state, action, told):
    state.row("promote", 1, {1: 100}, minute=-60)
    state.row(action, 2, {1: 100}, minute=-50, reason="too slow")

    assert state.state() == ("degraded", f"version 2 {told}: too slow")
    state.row("promote", 3, {3: 100}, minute=-40)
    assert state.state()[0] == "serving"


@pytest.mark.parametrize(("until", "told"), [(5, "has 10 % of the traffic until"), (-5, "the reconciler takes it back")])
def test_a_rollout_shows_until_it_is_over(state, until, told):
    state.row("promote", 1, {1: 100}, minute=-60)
    state.row("shift", 2, {1: 90, 2: 10}, minute=-10, until=until)

    found, reason = state.state()
    assert found == "rolling_out"
    assert told in reason
    assert state.describe()["rollout_until"] == state.at(until)
    assert state.describe()["version"] == 1


@pytest.mark.parametrize(
    ("training", "told"),
    [
        ({}, "version 1 was trained and is not judged yet"),
        ({"passed": False, "reason": "beat_baseline: no"}, "version 1 was refused: beat_baseline: no"),
        ({"passed": True}, "version 1 passed its gates and is not deployed: trigger churn__deploy"),
    ],
)
def test_a_model_that_was_trained_and_does_not_serve_says_why(state, training, told):
    state.train(1, minute=-9, **training)

    assert state.state() == ("not_serving", f"nothing serves; {told}")


def test_the_order_of_states_and_what_others_know(state):
    state.row("promote", 1, {1: 100}, minute=-60)
    state.decide("fix_data", minute=-50)
    failed = [{"dag_id": "churn__ingest", "run_id": "r1", "at": "1"}, {"dag_id": "churn__train", "run_id": "r2", "at": "2"}]

    assert state.state(problems=["line 3: no such field"], failed=failed) == ("config_error", "line 3: no such field")
    assert state.state(failed=failed, approval={"subject": "Deploy?"})[1].startswith("fix_data: because")
    assert state_of([{"state": "serving", "reason": "fine"}], failed=failed) == ("degraded", "the newest run of churn__train failed: r2")
    assert state_of([{"state": "serving", "reason": "fine"}], approval={"subject": "Deploy?"}) == ("waiting_for_approval", "Deploy?")
    assert state_of([{"state": name, "reason": ""} for name in reversed(ORDER)])[0] == "config_error"


def test_a_decision_to_train_gives_way_to_what_came_of_it(state):
    state.row("promote", 1, {1: 100}, minute=-60)
    state.decide("retrain", minute=-50)

    assert state.state()[0] == "degraded"
    assert state.state(approval={"subject": "Deploy?"}) == ("waiting_for_approval", "Deploy?")
    state.row("shift", 2, {1: 90, 2: 10}, minute=-10, until=5)
    assert state.state()[0] == "rolling_out"
    failed = [{"dag_id": "churn__ingest", "run_id": "r1", "at": "1"}]
    assert state.state(failed=failed)[0] == "degraded"


def test_only_one_model_is_read_when_only_one_is_asked_for(state):
    for model in ("churn", "price"):
        state.row("promote", 1, {1: 100}, model=model)
        state.decide("ok", model=model)
        state.train(1, model=model)

    assert describe_models(state.settings, now=state.now, only="price").keys() == {"price"}
    assert describe_models(state.settings, now=state.now, only="price")["price"] == state.describe("price")
    assert describe_models(state.settings, now=state.now, only="nobody") == {}


def test_the_queries_do_not_grow_with_the_models(state):
    queries = []

    def count(connection, cursor, statement, *_):
        queries.append(statement)

    counts = []
    for first, last in ((0, 2), (2, 60)):
        for number in range(first, last):
            model = f"model_{number}"
            state.row("promote", 1, {1: 100}, model=model)
            state.train(1, model=model)
            if number % 2:
                state.decide("ok", model=model)
        queries.clear()
        event.listen(Engine, "before_cursor_execute", count)
        found = describe_models(state.settings, now=state.now)
        event.remove(Engine, "before_cursor_execute", count)
        assert len(found) == last
        counts.append(len(queries))

    assert counts[0] == counts[1] > 0
    assert not any("evidence" in query for query in queries)


def test_a_ledger_of_an_earlier_release_gets_its_index(tmp_path):
    path = tmp_path / "windvane.db"
    with closing(Ledger(f"sqlite:///{path}")) as ledger:
        ledger.models()
    with closing(sqlite3.connect(path)) as other, other:
        other.execute("DROP INDEX releases_by_action")
    with closing(Ledger(f"sqlite:///{path}")) as ledger:
        ledger.models()
    with closing(sqlite3.connect(path)) as other:
        assert other.execute("SELECT name FROM sqlite_master WHERE name = 'releases_by_action'").fetchall()
