"""Brings the world in line with the release ledger."""

from typing import Any

from airflow.sdk import BaseOperator, Context

from windvane_airflow.operators.model_operator import refuse_unknown_conf


class ReconcileOperator(BaseOperator):
    """Do at once what the reconciler does every ten seconds."""

    def execute(self, context: Context) -> dict[str, Any]:
        """Return what had to be done."""
        from windvane.reconcile import reconcile
        from windvane.settings import load_settings

        refuse_unknown_conf(context)
        actions = reconcile(load_settings())
        for action in actions:
            self.log.info("%s", action)
        return {"actions": actions}
