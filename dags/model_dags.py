"""The only DAG file: each config in `dags/configs` becomes the Airflow DAGs of its model."""

from pathlib import Path

from airflow.sdk import get_parsing_context

from windvane_airflow.build_dags import build_dags

# a task process needs its own DAG only
globals().update(build_dags(Path(__file__).resolve().parents[1], only=get_parsing_context().dag_id))
