"""DAGs that keep the platform itself in order."""

from airflow.sdk import DAG

from windvane_airflow.operators.reconcile import ReconcileOperator


def build_platform_dags(*, only: str | None = None) -> dict[str, DAG]:
    """Build the platform's own DAGs, or the one that is needed."""
    dag_id = "windvane__reconcile"
    if only not in (None, dag_id):
        return {}
    with DAG(
        dag_id=dag_id,
        description="Bring what serves, the containers and the MLflow aliases in line with the release ledger, now",
        schedule=None,
        tags=["windvane", "platform"],
        max_active_runs=1,
    ) as dag:
        ReconcileOperator(task_id="reconcile", retries=0)
    return {dag_id: dag}
