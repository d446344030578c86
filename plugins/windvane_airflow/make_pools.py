"""Makes the pool of trainings when a scheduler starts: as many at once as the machine bears, however many models want one."""

import logging
import os
from typing import Any

from airflow.listeners import hookimpl

TRAIN_POOL = "train"

# what a training of as many rows as `train.max_rows` lets through takes, a good dozen columns wide, with the libraries
_BYTES_PER_TRAINING = 3 * 2**30
_DESCRIPTION = "Trainings at once. Made when it is missing; a number that is set here stays."


class PoolMaker:
    """Called by Airflow when a process of its own or of a task starts."""

    @hookimpl
    def on_starting(self, component: Any) -> None:
        """Make what is missing; only a scheduler has this listener, and of a task it is told as well."""
        if type(component).__name__ == "Job":
            make_pools()


def make_pools() -> None:
    """Make the pool unless there is one: people change its slots."""
    from airflow.models.pool import Pool
    from airflow.utils.session import create_session
    from sqlalchemy.exc import IntegrityError

    try:
        with create_session() as session:
            if Pool.get_pool(TRAIN_POOL, session=session) is None:
                session.add(Pool(pool=TRAIN_POOL, slots=train_slots(), description=_DESCRIPTION, include_deferred=False))
    except IntegrityError:
        logging.getLogger(__name__).info("another scheduler made the pool %s", TRAIN_POOL)


def train_slots() -> int:
    """Trainings at once: on this machine as many as it has cores and memory for, never all tasks: a rollback must not wait behind them."""
    from airflow.sdk import conf

    parallelism = conf.getint("core", "parallelism")
    if "LocalExecutor" not in conf.get("core", "executor"):
        # workers bound what runs, but what waits for one of them counts as well
        return max(1, parallelism // 2)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return max(1, min(cores, memory // _BYTES_PER_TRAINING, parallelism - 1))
