"""Makes a validated batch visible: one Delta commit, one `<model>/data` event."""

from collections.abc import Sequence
from typing import Any

from airflow.sdk import Context

from windvane_airflow import assets
from windvane_airflow.operators.model_operator import ModelOperator


class CommitDataOperator(ModelOperator):
    """Commit the valid rows of a batch and quarantine the others.

    Args:
        validation: What the validate task returned. (templated)
    """

    template_fields: Sequence[str] = ("validation",)

    def __init__(self, *, validation: Any, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.validation = validation

    def run(self, context: Context) -> dict[str, Any]:
        """Return the window, the table version and the counts."""
        from windvane.commit_data import commit_data
        from windvane.validate_data import Validation

        commit = commit_data(self.config, self.lake, Validation.from_json(self.validation))
        extra = {**commit.window.as_extra(), "version": commit.version, "rows": commit.rows, "quarantined": commit.quarantined}
        context["outlet_events"][assets.data(self.model)].extra = extra
        self.log.info(
            "Committed %s rows of %s as version %s; %s quarantined", f"{commit.rows:,}", commit.window, commit.version, commit.quarantined
        )
        return extra
