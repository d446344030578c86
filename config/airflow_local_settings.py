"""What Celery workers, or the scheduler where it runs the tasks, import once, so that no task pays for it: tasks are forked from them."""

import os
import sys
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


def pod_mutation_hook(pod: Any) -> None:
    """Let the tasks that deploy, and no others, act in the cluster (KubernetesExecutor; see deploy/kubernetes)."""
    dag_id = (pod.metadata.annotations or {}).get("dag_id", "")
    if dag_id.endswith("__deploy") or dag_id == "windvane__reconcile":
        pod.spec.service_account_name = "windvane-deployer"
        pod.spec.automount_service_account_token = True
