"""What the scheduler and Celery workers import once, so that no task pays for it: task processes are forked from them."""

import sys

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

if "scheduler" in sys.argv or "celery" in sys.argv:
    import importlib
    import logging

    # these describe their own imports at length
    for name in ("great_expectations", "evidently", "alembic"):
        logging.getLogger(name).setLevel(logging.WARNING)
    for name in _HEAVY:
        importlib.import_module(name)
