"""Sends what Airflow's scheduler says of its pools, by StatsD, over a real run of `<model>__train` in a database of its own.

    python tests/live/send_pools.py <address> <port>

Each line on the standard input is a state that the task of the pool `train` is put into; no scheduler gets in the way. What is sent is the
scheduler's own: its heartbeat, and its count of the pools in the database, by Airflow's names. Only the socket is ours: Airflow takes one
from the package `statsd`, which its official image has and the requirements here do not.
"""

import select
import socket
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

sys.path[:0] = [str(Path(__file__).parents[1]), str(Path(__file__).parents[2] / "plugins")]

EVERY_SECONDS = 0.5


class Wire:
    """The part of `statsd.StatsClient` that gauges and counters need."""

    def __init__(self, host: str, port: int, prefix: str, ipv6: bool) -> None:
        self._socket, self._address, self._prefix = socket.socket(socket.AF_INET, socket.SOCK_DGRAM), (host, port), prefix

    def gauge(self, stat: str, value: float, rate: float = 1, delta: bool = False) -> None:
        self._send(stat, value, "g")

    def incr(self, stat: str, count: int = 1, rate: float = 1) -> None:
        self._send(stat, count, "c")

    def _send(self, stat: str, value: float, kind: str) -> None:
        self._socket.sendto(f"{self._prefix}.{stat}:{value}|{kind}".encode(), self._address)


def start_training(session: Any) -> Any:
    """Store the DAGs of the team's only model as Airflow does, begin a run of its training, return the task of the pool `train`."""
    from airflow.dag_processing.bundles.manager import DagBundlesManager
    from airflow.models.serialized_dag import SerializedDagModel
    from airflow.serialization.serialized_objects import LazyDeserializedDAG
    from airflow.utils.state import DagRunState
    from airflow.utils.types import DagRunTriggeredByType, DagRunType
    from seed_airflow import _write_dags

    from windvane.settings import load_settings
    from windvane_airflow.build_dags import build_dags
    from windvane_airflow.make_pools import TRAIN_POOL, make_pools

    make_pools()
    DagBundlesManager().sync_bundles_to_db(session=session)
    session.commit()
    dags = build_dags(load_settings().project)
    _write_dags(session, [LazyDeserializedDAG.from_dag(dag) for dag in dags.values()])
    train = SerializedDagModel.get_dag(next(name for name in dags if name.endswith("__train")), session=session)
    assert train is not None
    run = train.create_dagrun(
        run_id="manual__1",
        run_after=datetime.now(UTC),
        run_type=DagRunType.MANUAL,
        triggered_by=DagRunTriggeredByType.REST_API,
        state=DagRunState.RUNNING,
        session=session,
    )
    session.commit()
    return next(task for task in run.get_task_instances(session=session) if task.pool == TRAIN_POOL)


def main() -> None:
    from airflow._shared.observability.metrics.statsd_logger import get_statsd_logger
    from airflow.configuration import conf
    from airflow.jobs.job import Job
    from airflow.jobs.scheduler_job_runner import SchedulerJobRunner
    from airflow.observability import stats
    from airflow.utils.db import initdb
    from airflow.utils.session import create_session

    host, port = sys.argv[1], int(sys.argv[2])
    initdb()
    with create_session() as session:
        task = start_training(session)
        runner = SchedulerJobRunner(Job())
        stats.initialize(
            factory=lambda: get_statsd_logger(stats_class=Wire, host=host, port=port, prefix=conf.get("metrics", "statsd_prefix")),
            export_legacy_names=conf.getboolean("metrics", "legacy_names_on"),
        )
        while True:
            if select.select([sys.stdin], [], [], EVERY_SECONDS)[0]:
                line = sys.stdin.readline()
                if not line:
                    return
                task.state = line.strip()
                session.commit()
            runner.heartbeat_callback(session=session)
            runner._emit_pool_metrics(session=session)
            session.commit()


if __name__ == "__main__":
    main()
