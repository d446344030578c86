import itertools
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.trial import TrialState
from postgres_server import execute
from sqlalchemy import create_engine, inspect, make_url

from windvane.errors import ConfigError, ModelCodeError, ServiceUnavailable, StorageError
from windvane.ledger import Ledger
from windvane.share_search import SharedSearch, forget
from windvane.store_trials import TrialStore

KEY, OTHER = "a" * 64, "b" * 64

WORKER = """
import sys, time
from windvane.share_search import SharedSearch
from windvane.store_trials import TrialStore

database, key, trials, worker, workers = sys.argv[1], sys.argv[2], *map(int, sys.argv[3:6])
store = TrialStore(database)

def judge(params):
    print("judging", flush=True)
    # until every worker has one
    while len({trial.user_attrs.get("worker") for trial in shared.trials()}) < workers:
        time.sleep(0.05)
    return -(params["x"] - 0.3) ** 2

shared = SharedSearch(store, key, model="churn", trials=trials, seed=7)
print("tried", shared.work(lambda t: {"x": t.suggest_float("x", 0, 1)}, judge, worker=worker, timeout_seconds=300))
store.close()
"""


@pytest.fixture
def store(database: str) -> Iterator[TrialStore]:
    store = TrialStore(database)
    yield store
    store.close()


@pytest.fixture
def alone(tmp_path: Path) -> Iterator[TrialStore]:
    store = TrialStore(f"sqlite:///{tmp_path / 'windvane.db'}", heartbeat_seconds=1)
    yield store
    store.close()


def space(trial: Any) -> dict[str, Any]:
    return {"x": trial.suggest_float("x", 0, 1), "kind": trial.suggest_categorical("kind", ["a", "b", None])}


def value_of(params: Any) -> float:
    return float(-((params["x"] - 0.3) ** 2))


def search(store: TrialStore, key: str = KEY, *, trials: int = 6, model: str = "churn") -> SharedSearch:
    return SharedSearch(store, key, model=model, trials=trials, seed=7)


def work(shared: SharedSearch, judge: Any = value_of, *, worker: int = 0, seconds: float = 60) -> int:
    return shared.work(space, judge, worker=worker, timeout_seconds=seconds)


def start(database: str, *, worker: int, trials: int, workers: int) -> subprocess.Popen[str]:
    """A worker; its first trial lasts until so many workers have one."""
    command = [sys.executable, "-c", WORKER, database, KEY, str(trials), str(worker), str(workers)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def run(store: TrialStore, statement: str) -> None:
    with store.storage.engine.begin() as connection:
        connection.exec_driver_sql(statement)


def silence(store: TrialStore) -> None:
    """As if no trial had given a sign of life for years."""
    run(store, "UPDATE trial_heartbeats SET heartbeat = '2020-01-01 00:00:00'")


def wait_for_a_sign(store: TrialStore) -> None:
    give_up = time.monotonic() + 60
    while time.monotonic() < give_up:
        with store.storage.engine.connect() as connection:
            if connection.exec_driver_sql("SELECT max(heartbeat) FROM trial_heartbeats").scalar() > "2021":
                return
        time.sleep(0.1)
    raise AssertionError("no sign of life within a minute")


def tables_of(database: str) -> list[str]:
    engine = create_engine(database)
    tables = inspect(engine).get_table_names()
    engine.dispose()
    return tables


def states(shared: SharedSearch) -> list[str]:
    return states_of(shared.trials())


def states_of(trials: list[Any]) -> list[str]:
    return [trial.state.name for trial in trials]


def test_two_processes_try_exactly_as_many_trials_as_were_asked_for(database: str) -> None:
    workers = [start(database, worker=number, trials=8, workers=2) for number in range(2)]
    tried = [int(worker.communicate(timeout=300)[0].split()[-1]) for worker in workers]
    store = TrialStore(database)
    assert states(search(store, trials=8)) == ["COMPLETE"] * 8
    store.close()
    assert sum(tried) == 8
    assert min(tried) > 0


def test_a_trial_of_a_killed_process_is_tried_again(postgres: str) -> None:
    killed = start(postgres, worker=0, trials=3, workers=2)
    assert killed.stdout is not None
    assert killed.stdout.readline() == "judging\n"
    os.kill(killed.pid, signal.SIGKILL)
    killed.communicate()
    store = TrialStore(postgres, heartbeat_seconds=1, grace_seconds=1)
    shared = search(store, trials=3)
    assert states(shared) == ["RUNNING"]
    # the same worker, started again: it tries two more, and waits until the first is known to be dead
    assert shared.work(lambda trial: {"x": trial.suggest_float("x", 0, 1)}, value_of, worker=0, timeout_seconds=60) == 3
    trials = shared.trials()
    store.close()
    assert sorted(states_of(trials)) == ["COMPLETE"] * 3 + ["FAIL"]
    again = next(trial for trial in trials if trial.system_attrs.get("retry_history") == [0])
    assert again.params == trials[0].params


def test_a_trial_that_kills_whoever_tries_it_is_given_up(alone: TrialStore) -> None:
    shared = search(alone, trials=2)
    for _ in range(2):
        assert shared._claim(0) is not None
        silence(alone)
    assert work(shared) == 1
    assert sorted(states(shared)) == ["COMPLETE", "FAIL", "FAIL"]


def test_another_worker_does_not_wait_for_a_trial_that_runs(alone: TrialStore) -> None:
    shared = search(alone, trials=1)
    assert shared._claim(0) is not None
    assert work(shared, worker=1) == 0
    assert states(shared) == ["RUNNING"]


def test_a_claim_that_was_cut_off_is_taken_up(alone: TrialStore) -> None:
    shared = search(alone, trials=2)
    shared._study.enqueue_trial({})
    assert work(shared) == 2
    assert states(shared) == ["COMPLETE"] * 2


def test_params_do_not_depend_on_who_draws_them(alone: TrialStore) -> None:
    one, turns = search(alone, KEY, trials=12), search(alone, OTHER, trials=12, model="other")
    work(one)
    workers = itertools.cycle([0, 1])
    while (trial := turns._claim(next(workers))) is not None:
        turns._try(trial, space, value_of)
    assert [trial.params for trial in one.trials()] == [trial.params for trial in turns.trials()]
    assert len({trial.params["x"] for trial in one.trials()}) == 12


def test_who_comes_later_goes_on(store: TrialStore) -> None:
    assert work(search(store, trials=3)) == 3
    assert work(search(store, trials=5)) == 2
    assert work(search(store, trials=5), worker=1) == 0


def test_failed_trials_count(alone: TrialStore) -> None:
    def judge(params: Any) -> float:
        if params["x"] > 0.5:
            raise ModelCodeError("no")
        return float("nan") if params["kind"] is None else value_of(params)

    shared = search(alone, trials=12)
    assert work(shared, judge) == 12
    assert {trial.state == TrialState.COMPLETE for trial in shared.trials() if trial.params["x"] > 0.5} == {False}
    assert {trial.state == TrialState.COMPLETE for trial in shared.trials() if trial.params["kind"] is None} == {False}
    assert states(shared).count("COMPLETE") > 0


def test_a_mistake_in_the_search_space_is_shown(alone: TrialStore) -> None:
    shared = search(alone)

    def wrong(trial: Any) -> dict[str, Any]:
        raise LookupError("the table of layers has no row 7")

    with pytest.raises(LookupError, match="row 7"):
        shared.work(wrong, value_of, worker=0, timeout_seconds=60)
    assert states(shared) == ["FAIL"]


def test_params_that_the_space_rules_out_count_as_tried(alone: TrialStore) -> None:
    def picky(trial: Any) -> dict[str, Any]:
        raise optuna.TrialPruned

    shared = search(alone, trials=2)
    assert shared.work(picky, value_of, worker=0, timeout_seconds=60) == 2
    assert states(shared) == ["PRUNED"] * 2


def test_the_time_budget_ends_the_work(alone: TrialStore) -> None:
    def slow(params: Any) -> float:
        time.sleep(0.3)
        return 1.0

    assert 1 <= work(search(alone, trials=10_000), slow, seconds=1) < 10


def test_a_value_that_comes_after_its_trial_was_given_up_is_not_counted(alone: TrialStore, caplog: pytest.LogCaptureFixture) -> None:
    shared = search(alone, trials=1)
    trial = shared._claim(0)
    silence(alone)
    assert work(shared, worker=1) == 1
    shared._tell(trial, 0.9)
    assert sorted(states(shared)) == ["COMPLETE", "FAIL"]
    assert "no sign of life" in caplog.text


def test_signs_of_life_keep_a_long_trial(alone: TrialStore) -> None:
    shared = search(alone, trials=1)
    others = []

    def slow(params: Any) -> float:
        silence(alone)
        wait_for_a_sign(alone)
        others.append(work(search(alone, trials=1), worker=1))
        return 1.0

    assert work(shared, slow) == 1
    assert others == [0]
    assert states(shared) == ["COMPLETE"]


def test_a_new_search_of_a_model_ends_what_earlier_ones_left(store: TrialStore) -> None:
    work(search(store, KEY, trials=2))
    work(search(store, "c" * 64, trials=2, model="other"))
    search(store, OTHER)
    assert {study.study_name for study in store.storage.get_all_studies()} == {OTHER, "c" * 64}


def test_what_earlier_searches_left_is_deleted_without_the_lock(store: TrialStore, monkeypatch: pytest.MonkeyPatch) -> None:
    # a database ends a transaction that is idle for as long as much takes to delete
    held, seen = list[int](), list[list[int]]()

    @contextmanager
    def lock(number: int) -> Iterator[None]:
        held.append(number)
        yield
        held.remove(number)

    monkeypatch.setattr(store, "lock", lock)
    monkeypatch.setattr("windvane.share_search.forget_others", lambda *_: seen.append(list(held)))
    search(store)
    search(store)
    assert seen == [[]]


def test_a_forgotten_search_leaves_nothing(store: TrialStore) -> None:
    work(search(store, trials=3))
    forget(store, KEY)
    forget(store, KEY)
    tables = set(inspect(store.storage.engine).get_table_names()) - {"version_info", "alembic_version"}
    with store.storage.engine.connect() as connection:
        rows = {table: connection.exec_driver_sql(f"SELECT count(*) FROM {table}").scalar() for table in tables}
    assert len(rows) > 5
    assert set(rows.values()) == {0}


def test_the_ledgers_tables_stay_by_themselves(database: str) -> None:
    Ledger(database).last("churn")
    before = tables_of(database)
    store = TrialStore(database)
    work(search(store, trials=1))
    store.close()
    assert tables_of(database) == before == ["releases"]
    assert Ledger(database).last("churn") is None


def test_options_of_the_url_and_braces_in_it_stay(postgres: str) -> None:
    store = TrialStore(f"{postgres}?options=-c statement_timeout%3D9s&application_name=a{{b}}c")
    with store.storage.engine.connect() as connection:
        found = [connection.exec_driver_sql(f"SHOW {name}").scalar() for name in ("statement_timeout", "search_path", "application_name")]
    store.close()
    assert found == ["9s", "windvane_search", "a{b}c"]


def test_tables_of_an_earlier_optuna_are_upgraded(database: str) -> None:
    store = TrialStore(database)
    newest = store.storage.get_head_version()
    run(store, "UPDATE alembic_version SET version_num = 'v3.0.0.d'")
    store.close()
    again = TrialStore(database)
    indexes = {index["name"] for index in inspect(again.storage.engine).get_indexes("trials")}
    found = again.storage.get_current_version()
    again.close()
    assert found == newest
    assert "trials_study_id_key" in indexes


def test_a_database_that_does_not_answer_is_named_without_its_password() -> None:
    with pytest.raises(ServiceUnavailable, match="WINDVANE_DB") as caught:
        TrialStore("postgresql+psycopg://windvane:geheim@127.0.0.1:1/windvane")
    assert "geheim" not in str(caught.value)


@pytest.mark.parametrize("schema", [None, "of an administrator"])
def test_a_right_that_is_missing_is_named_with_what_gives_it(postgres: str, schema: str | None) -> None:
    name = "refused" if schema is None else "refused_schema"
    execute(postgres, f"CREATE ROLE {name} LOGIN", f"CREATE DATABASE {name}")
    url = make_url(postgres).set(database=name)
    if schema:
        execute(url.render_as_string(hide_password=False), "CREATE SCHEMA windvane_search")
    database = url.set(username=name).render_as_string(hide_password=False)
    with pytest.raises(ConfigError, match=f"CREATE SCHEMA windvane_search AUTHORIZATION {name}"):
        TrialStore(database)
    statement = f"ALTER SCHEMA windvane_search OWNER TO {name}" if schema else f"CREATE SCHEMA windvane_search AUTHORIZATION {name}"
    execute(url.render_as_string(hide_password=False), statement)
    store = TrialStore(database)
    assert work(search(store, trials=1)) == 1
    store.close()


def test_a_lock_file_that_cannot_be_opened_is_named(tmp_path: Path) -> None:
    (tmp_path / "windvane.search.db.lock").mkdir()
    with pytest.raises(StorageError, match=r"windvane\.search\.db\.lock: Is a directory; check"):
        TrialStore(f"sqlite:///{tmp_path / 'windvane.db'}")


def test_a_database_that_breaks_down_in_a_search_is_named(store: TrialStore) -> None:
    shared = search(store)
    run(store, "DROP TABLE trial_heartbeats")
    with pytest.raises((StorageError, ServiceUnavailable), match="set WINDVANE_DB"):
        work(shared)
