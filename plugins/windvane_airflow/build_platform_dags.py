"""DAGs that belong to no single model."""

from pathlib import Path

from airflow.sdk import DAG, Param

from windvane.backtest_defaults import POLICIES
from windvane_airflow.build_dags import DEPLOY_QUEUE
from windvane_airflow.operators.reconcile import ReconcileOperator
from windvane_airflow.operators.run_backtest import RunBacktestOperator

_LENGTH = "a number of rows, or a length of time such as 30d"


def build_platform_dags(*, project: Path, only: str | None = None) -> dict[str, DAG]:
    """Build the platform's own DAGs, or the one that is needed.

    Args:
        project: Directory that holds `dags/configs`, `expectations` and `include/models`.
        only: Id of the only DAG that is needed; None: all.
    """
    wanted = {"windvane__reconcile": _reconcile, "windvane__backtest": _backtest}
    return {dag_id: build(dag_id, project) for dag_id, build in wanted.items() if only in (None, dag_id)}


def _reconcile(dag_id: str, project: Path) -> DAG:
    with DAG(
        dag_id=dag_id,
        description="Bring what serves, the containers and the MLflow aliases in line with the release ledger, now",
        schedule=None,
        tags=["windvane", "platform"],
        max_active_runs=1,
    ) as dag:
        ReconcileOperator(task_id="reconcile", retries=0, queue=DEPLOY_QUEUE)
    return dag


def _backtest(dag_id: str, project: Path) -> DAG:
    models = sorted(path.stem for path in (project / "dags" / "configs").glob("*.yaml"))
    params = {
        "model": Param(models[0] if models else "", type="string", enum=models or [""], title="Model"),
        "data": Param(None, type=["null", "string"], title="Data", description="CSV, Parquet or Delta table; empty: what was ingested."),
        "first": Param(None, type=["null", "string"], title="First", description=f"Version 1 is trained on {_LENGTH}; empty: a fifth."),
        "window": Param(
            None, type=["null", "string"], title="Window", description=f"One window: {_LENGTH}; empty: a fortieth of the rest."
        ),
        "label_delay": Param(None, type=["null", "string"], title="Label delay", description=f"{_LENGTH}; empty: `data.label_delay`."),
        "policies": Param(list(POLICIES), type="array", examples=list(POLICIES), title="Policies"),
        "seed": Param(None, type=["null", "integer"], title="Seed", description="Empty: `train.seed`."),
    }
    with DAG(
        dag_id=dag_id,
        description="Replay a model's history under several policies: what each would have decided, served and cost",
        schedule=None,
        tags=["windvane", "platform", "backtest"],
        params=params,
        max_active_runs=2,
    ) as dag:
        RunBacktestOperator(task_id="backtest", project=str(project), retries=0)
    return dag
