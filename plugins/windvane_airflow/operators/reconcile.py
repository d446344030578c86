"""Brings the world in line with the release ledger."""

from typing import Any

from airflow.sdk import BaseOperator, Context

from windvane_airflow.operators.model_operator import ModelLink, refuse_unknown_conf
from windvane_airflow.storage_connection import task_settings


class ModelsLink(ModelLink):
    """The button that leads to all models."""

    name = "Models"


class ReconcileOperator(BaseOperator):
    """Do at once what the reconciler does every ten seconds."""

    operator_extra_links = (ModelsLink(),)

    def execute(self, context: Context) -> dict[str, Any]:
        """Return what had to be done."""
        from windvane.reconcile import reconcile

        refuse_unknown_conf(context)
        actions = reconcile(task_settings())
        for action in actions:
            self.log.info("%s", action)
        return {"actions": actions}
