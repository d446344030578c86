"""What Celery workers, or the scheduler where it runs the tasks, import once, so that no task pays for it: tasks are forked from them.

And how often the DAG processor parses, how the web server collects garbage, and what a pod of Kubernetes may do.
"""

import gc
import os
import sys
import threading
import time
from typing import Any

_HEAVY = (
    "deltalake",
    "pyarrow.dataset",
    "sklearn.calibration",
    "sklearn.compose",
    "sklearn.dummy",
    "sklearn.ensemble",
    "sklearn.inspection",
    "sklearn.linear_model",
    "skops.io",
    "optuna",
    "mlflow",
    "mlflow.data.pandas_dataset",
    "mlflow.store.tracking.rest_store",
    "matplotlib.backends.backend_agg",
    "great_expectations",
    "evidently.presets",
)

_HERE = os.environ.get("AIRFLOW__CORE__EXECUTOR", "LocalExecutor") == "LocalExecutor"

if "celery" in sys.argv or ("scheduler" in sys.argv and _HERE):
    import importlib
    import logging

    # these describe their own imports at length
    for name in ("great_expectations", "evidently", "alembic"):
        logging.getLogger(name).setLevel(logging.WARNING)
    for name in _HEAVY:
        importlib.import_module(name)

# parsing and writing one takes a twentieth of a second: a fifth between two leaves a core mostly free, and SQLite to its other writers
_MODELS_PER_SECOND = 5
_PARSED_PER_SECOND = 20


def _space_parsing() -> None:
    """Let the DAG processor rest longer the more models there are: it parses all of them each time, whether they changed or not."""
    from glob import glob

    from airflow.configuration import conf

    models = len(glob(os.path.join(conf.get("core", "dags_folder"), "configs", "*.yaml")))
    seconds = max(conf.getint("dag_processor", "min_file_process_interval"), models // _MODELS_PER_SECOND)
    os.environ["AIRFLOW__DAG_PROCESSOR__MIN_FILE_PROCESS_INTERVAL"] = str(seconds)
    # a parsing that fails counts as one without any DAGs: longer than from one to the next but one, shorter than to the one after that
    stale = max(conf.getint("dag_processor", "stale_dag_threshold"), seconds * 8 // 5 + models // _PARSED_PER_SECOND)
    os.environ["AIRFLOW__DAG_PROCESSOR__STALE_DAG_THRESHOLD"] = str(stale)


if "dag-processor" in sys.argv:
    _space_parsing()


def _collect_garbage_aside() -> None:
    """Collect garbage in a thread of its own, twice a second.

    Python 3.11 does it inside any allocation, so also while an object's attributes grow; what runs then, such as SQLAlchemy's weak
    references, sets attributes of the same objects, and the process crashes with dozens of requests at once. From 3.12 on Python
    collects between two instructions.
    """

    def collect() -> None:
        while True:
            time.sleep(0.5)
            due = [place for place, limit in enumerate(gc.get_threshold()) if gc.get_count()[place] > limit]
            if due:
                gc.collect(due[-1])

    def start() -> None:
        threading.Thread(target=collect, name="garbage", daemon=True).start()

    gc.disable()
    start()
    os.register_at_fork(after_in_child=start)


if "api-server" in sys.argv and sys.version_info < (3, 12):
    _collect_garbage_aside()


def pod_mutation_hook(pod: Any) -> None:
    """Let the tasks that deploy, and no others, act in the cluster (KubernetesExecutor; see deploy/kubernetes)."""
    dag_id = (pod.metadata.annotations or {}).get("dag_id", "")
    if dag_id.endswith("__deploy") or dag_id == "windvane__reconcile":
        pod.spec.service_account_name = "windvane-deployer"
        pod.spec.automount_service_account_token = True
