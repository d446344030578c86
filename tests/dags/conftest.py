"""The DAG tests parse with the repository's Airflow settings and a database of their own that stays empty."""

import os
import tempfile

from windvane.settings import REPOSITORY

_STATE = tempfile.mkdtemp(prefix="windvane-dags-")
os.environ.update(
    AIRFLOW_HOME=str(REPOSITORY),
    WINDVANE_PROJECT=str(REPOSITORY),
    WINDVANE_VAR=_STATE,
    AIRFLOW__DATABASE__SQL_ALCHEMY_CONN=f"sqlite:///{_STATE}/airflow.db",
    AIRFLOW__CORE__LOAD_EXAMPLES="False",
)
