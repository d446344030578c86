"""Housekeeping that belongs to no single model, as Airflow DAGs."""

from pathlib import Path

from airflow.sdk import get_parsing_context

from windvane_airflow.build_platform_dags import build_platform_dags

globals().update(build_platform_dags(project=Path(__file__).resolve().parents[1], only=get_parsing_context().dag_id))
