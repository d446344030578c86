"""Trainings at once: a pool that a scheduler makes when it starts, which the tasks of the train DAGs keep to."""

import os
import runpy
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import create_engine, select
from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import scoped_session, sessionmaker

import windvane_airflow.make_pools
from windvane.settings import REPOSITORY
from windvane_airflow.build_dags import build_dags
from windvane_airflow.make_pools import TRAIN_POOL, PoolMaker, make_pools, train_slots


class Job:
    """By its name what a scheduler tells of."""


class TaskRunnerMarker:
    """What a task tells of."""


@pytest.fixture
def sessions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Airflow's database with the table of the pools."""
    from airflow.models.pool import Pool

    engine = create_engine(f"sqlite:///{tmp_path}/airflow.db")
    Pool.__table__.create(engine)
    made = scoped_session(sessionmaker(bind=engine))
    monkeypatch.setattr("airflow.settings.Session", made)
    yield made
    made.remove()
    engine.dispose()


def pools(sessions: Any) -> dict[str, int]:
    from airflow.models.pool import Pool

    sessions.remove()
    return {pool.pool: pool.slots for pool in sessions.scalars(select(Pool))}


def test_a_scheduler_makes_the_pool_that_is_missing(sessions: Any) -> None:
    PoolMaker().on_starting(component=Job())
    assert pools(sessions) == {TRAIN_POOL: train_slots()}


def test_a_number_that_a_person_set_stays(sessions: Any) -> None:
    from airflow.models.pool import Pool

    make_pools()
    sessions.scalar(select(Pool)).slots = 7
    sessions.commit()
    make_pools()
    assert pools(sessions) == {TRAIN_POOL: 7}


class Busy:
    """A database that is locked so often."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, times: int) -> None:
        self.times, self.waited = times, list[float]()
        self.real = windvane_airflow.make_pools._make_train_pool
        monkeypatch.setattr("windvane_airflow.make_pools._make_train_pool", self)
        monkeypatch.setattr("windvane_airflow.make_pools.time.sleep", self.waited.append)

    def __call__(self) -> None:
        if len(self.waited) < self.times:
            raise OperationalError("INSERT", {}, sqlite3.OperationalError("database is locked"))
        self.real()


def test_a_database_that_is_busy_is_asked_again(sessions: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    busy = Busy(monkeypatch, 2)
    PoolMaker().on_starting(component=Job())
    assert len(busy.waited) == 2
    assert pools(sessions) == {TRAIN_POOL: train_slots()}
    assert "database is locked" in caplog.text


def test_a_pool_that_cannot_be_made_is_told(sessions: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    Busy(monkeypatch, 100)
    with pytest.raises(OperationalError):
        make_pools()
    assert "no pool train, without which no training starts" in caplog.text
    assert pools(sessions) == {}


def test_the_pool_is_made_with_the_database_of_the_containers(monkeypatch: pytest.MonkeyPatch) -> None:
    ran: list[Any] = []
    monkeypatch.setattr(subprocess, "run", lambda command, **options: ran.append((command, options)))
    runpy.run_path(str(REPOSITORY / "include" / "docker" / "airflow" / "prepare_airflow.py"), run_name="__main__")
    assert [command[1:3] for command, _ in ran[:2]] == [["db", "migrate"], ["-m", "windvane_airflow.make_pools"]]
    assert ran[1][1]["env"]["PYTHONPATH"] == str(REPOSITORY / "plugins")
    assert all(options["check"] for _, options in ran)


def test_a_task_makes_no_pool(sessions: Any) -> None:
    PoolMaker().on_starting(component=TaskRunnerMarker())
    assert pools(sessions) == {}


@pytest.mark.parametrize(
    ("executor", "cores", "gibibytes", "parallelism", "slots"),
    [
        pytest.param("LocalExecutor", 2, 24, 4, 2, id="cores"),
        pytest.param("LocalExecutor", 16, 64, 4, 3, id="a task is left for a rollback"),
        pytest.param("LocalExecutor", 16, 12, 32, 4, id="memory"),
        pytest.param("LocalExecutor", 1, 1, 1, 1, id="at least one"),
        pytest.param("CeleryExecutor", 2, 4, 32, 16, id="what waits for a worker counts too"),
    ],
)
def test_as_many_at_once_as_the_machine_bears(
    executor: str, cores: int, gibibytes: int, parallelism: int, slots: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AIRFLOW__CORE__EXECUTOR", executor)
    monkeypatch.setenv("AIRFLOW__CORE__PARALLELISM", str(parallelism))
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(cores)), raising=False)
    monkeypatch.setattr(os, "sysconf", {"SC_PAGE_SIZE": 4096, "SC_PHYS_PAGES": gibibytes * 2**18}.__getitem__)
    assert train_slots() == slots


def test_the_tasks_that_train_and_no_others_are_in_the_pool() -> None:
    dags = build_dags(REPOSITORY)
    pooled = {dag_id for dag_id, dag in dags.items() for task in dag.tasks if task.pool == TRAIN_POOL}
    assert pooled == {dag_id for dag_id in dags if dag_id.endswith("__train")}
    assert {task.pool for dag_id in pooled for task in dags[dag_id].tasks} == {TRAIN_POOL}


@pytest.mark.parametrize(("command", "listeners"), [("scheduler", [PoolMaker]), ("api-server", []), ("dag-processor", [])])
def test_only_the_scheduler_listens(command: str, listeners: list[type], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(REPOSITORY / "plugins"))
    from windvane_plugin import WindvanePlugin

    monkeypatch.setattr(sys, "argv", ["airflow", command])
    assert [type(listener) for listener in WindvanePlugin().listeners] == listeners
