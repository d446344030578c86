"""Makes the pool of trainings when a scheduler starts: as many at once as the machine bears, however many models want one.

Where the database is prepared before anything of Airflow starts, `python -m windvane_airflow.make_pools` makes it then.
"""

import logging
import os
import time
from typing import Any

from airflow.listeners import hookimpl

TRAIN_POOL = "train"

# what a training of as many rows as `train.max_rows` lets through takes, a good dozen columns wide, with the libraries
_BYTES_PER_TRAINING = 3 * 2**30
# Airflow goes on without what a listener could not do, and asks it no second time
_ATTEMPTS = 5
_WAIT_SECONDS = 2.0
_DESCRIPTION = "Trainings at once. Made when it is missing; a number that is set here stays."


class PoolMaker:
    """Called by Airflow when a process of its own or of a task starts."""

    @hookimpl
    def on_starting(self, component: Any) -> None:
        """Make what is missing; only a scheduler has this listener, and of a task it is told as well."""
        if type(component).__name__ == "Job":
            make_pools()


def make_pools() -> None:
    """Make the pool unless there is one: people change its slots. A database that is busy is asked again."""
    from sqlalchemy.exc import IntegrityError, OperationalError

    log = logging.getLogger(__name__)
    for attempt in range(1, _ATTEMPTS + 1):
        try:
            _make_train_pool()
        except IntegrityError:
            log.info("another scheduler made the pool %s", TRAIN_POOL)
        except OperationalError as exc:
            if attempt == _ATTEMPTS:
                log.error("no pool %s, without which no training starts: restart the scheduler, or make it in Airflow", TRAIN_POOL)
                raise
            log.warning("the pool %s is not made yet: %s", TRAIN_POOL, exc.orig)
            time.sleep(_WAIT_SECONDS)
            continue
        return


def _make_train_pool() -> None:
    from airflow.models.pool import Pool
    from airflow.utils.session import create_session

    with create_session() as session:
        if Pool.get_pool(TRAIN_POOL, session=session) is None:
            session.add(Pool(pool=TRAIN_POOL, slots=train_slots(), description=_DESCRIPTION, include_deferred=False))


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


if __name__ == "__main__":
    make_pools()
