"""What Airflow's own processes take over the DAGs of this environment, in a process of its own; benchmarks/scale.py asks for it.

    python tests/measure_airflow.py parse 2
    python tests/measure_airflow.py task model__ingest
    python tests/measure_airflow.py loops 8

The last line is JSON.
"""

import json
import os
import resource
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "plugins"))


def parse(rounds: str) -> dict[str, Any]:
    """What the DAG processor takes for its file, so many times."""
    from airflow.dag_processing.manager import DagFileProcessorManager
    from airflow.jobs.dag_processor_job_runner import DagProcessorJobRunner
    from airflow.jobs.job import Job, run_job

    found: list[dict[str, float]] = []

    class Measured(DagFileProcessorManager):
        def persist_parsing_result(self, **known: Any) -> None:
            began, used = time.perf_counter(), time.process_time()
            super().persist_parsing_result(**known)
            dags = known["parsing_result"].serialized_dags
            found.append(
                {
                    "dags": len(dags),
                    "parse_s": known["run_duration"],
                    "write_s": time.perf_counter() - began,
                    "write_cpu_s": time.process_time() - used,
                    "bytes": sum(len(json.dumps(dag.data)) for dag in dags),
                }
            )

    runner = DagProcessorJobRunner(job=Job(), processor=Measured(max_runs=int(rounds)))
    run_job(job=runner.job, execute_callable=runner._execute)
    # the parsing processes are forked, one per round
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    used = (children.ru_utime + children.ru_stime) / int(rounds)
    return {"first": found[0], "again": found[-1], "parse_cpu_s": used, "parse_rss_mib": children.ru_maxrss / 1024}


def task(dag_id: str) -> dict[str, Any]:
    """What a task process parses: the same file, for one DAG."""
    from airflow.dag_processing.dagbag import BundleDagBag
    from airflow.sdk.definitions._internal.contextmanager import DagContext  # noqa: F401  what a worker has imported before it forks
    from airflow.sdk.execution_time.task_runner import _airflow_parsing_context_manager

    import windvane_airflow.build_dags  # noqa: F401

    file = os.environ["AIRFLOW__CORE__DAGS_FOLDER"] + "/model_dags.py"
    seconds = []
    for _ in range(6):
        began = time.process_time()
        with _airflow_parsing_context_manager(dag_id=dag_id, task_id="extract"):
            bag = BundleDagBag(
                dag_folder=file, safe_mode=False, load_op_links=False, bundle_path=Path(file).parent, bundle_name="dags-folder"
            )
        seconds.append(time.process_time() - began)
        if list(bag.dags) != [dag_id]:
            raise SystemExit(f"a task of {dag_id} parsed {len(bag.dags)} DAGs: {bag.import_errors}")
    return {"first_ms": seconds[0] * 1000, "ms": statistics.median(seconds[1:]) * 1000}


def loops(least: str) -> dict[str, Any]:
    """Loops of the scheduler over the DAGs that are registered, for so many seconds, with an executor that starts nothing."""
    from airflow.executors.base_executor import BaseExecutor
    from airflow.jobs.job import Job, run_job
    from airflow.jobs.scheduler_job_runner import SchedulerJobRunner
    from airflow.models.dagrun import DagRun
    from airflow.utils.session import create_session
    from sqlalchemy import func, select

    begun: list[float] = []
    used: list[float] = []
    seconds: list[float] = []

    class Nothing(BaseExecutor):
        is_local = True

        def end(self) -> None:
            pass

        def _process_workloads(self, workloads: Any) -> None:
            for workload in list(workloads):
                self.queued_tasks.pop(workload.ti.key, None)

    class Measured(SchedulerJobRunner):
        def _do_scheduling(self, session: Any) -> int:
            begun.append(time.perf_counter())
            used.append(time.process_time())
            if begun[-1] - begun[0] > float(least):
                self.num_runs = len(begun)
            queued = super()._do_scheduling(session)
            seconds.append(time.perf_counter() - begun[-1])
            return queued

    runner = Measured(job=Job(), num_runs=-1, executors=[Nothing(parallelism=4)], scheduler_idle_sleep_time=0)
    run_job(job=runner.job, execute_callable=runner._execute)
    with create_session() as session:
        runs = session.scalar(select(func.count()).select_from(DagRun))
    # a whole loop is more than scheduling: heartbeats, and what happens every few seconds only
    whole, cpu = ((moments[-1] - moments[0]) / (len(moments) - 1) for moments in (begun, used))
    return {
        "runs": runs,
        "ms": statistics.median(seconds[len(seconds) // 2 :]) * 1000,
        "whole_ms": whole * 1000,
        "cpu_ms": cpu * 1000,
        "worst_ms": max(seconds) * 1000,
    }


MEASUREMENTS: dict[str, Callable[[str], dict[str, Any]]] = {"parse": parse, "task": task, "loops": loops}

if __name__ == "__main__":
    print(json.dumps(MEASUREMENTS[sys.argv[1]](sys.argv[2])))
