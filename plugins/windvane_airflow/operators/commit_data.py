"""Makes a validated batch visible: one Delta commit, one `<model>/data` event."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from airflow.sdk import Context

from windvane_airflow import assets
from windvane_airflow.operators.model_operator import MadeLink, ModelLink, ModelOperator, run_of

if TYPE_CHECKING:
    from windvane.commit_data import Commit
    from windvane.validate_data import Validation


class BatchesLink(ModelLink):
    """The button that leads to the model's batches."""

    name = "Batches"
    tab = "data"


class BatchOperator(ModelOperator):
    """An operator that puts a validated batch into the lake: into the table, or into quarantine."""

    def put(self, validation: "Validation", context: Context) -> "Commit":
        """Commit a batch, or quarantine a refused one, and let the Models page know."""
        from windvane.commit_data import commit_data

        commit = commit_data(self.config, self.lake, validation)
        self.catalog.record_batch(
            self.model,
            window=commit.window,
            rows=commit.rows,
            quarantined=commit.quarantined,
            refused=validation.refused,
            reasons=validation.reasons,
            report=self.report_path(validation.report_path),
            version=commit.version,
            run=run_of(context),
        )
        return commit


class CommitDataOperator(BatchOperator):
    """Commit the valid rows of a batch and quarantine the others.

    Args:
        validation: What the validate task returned. (templated)
    """

    template_fields: Sequence[str] = ("validation",)
    operator_extra_links = (BatchesLink(), MadeLink(), ModelLink())

    def __init__(self, *, validation: Any, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.validation = validation

    def run(self, context: Context) -> dict[str, Any]:
        """Return the window, the table version and the counts."""
        from windvane.validate_data import Validation

        commit = self.put(Validation.from_json(self.validation), context)
        extra = {**commit.window.as_extra(), "version": commit.version, "rows": commit.rows, "quarantined": commit.quarantined}
        context["outlet_events"][assets.data(self.model)].extra = extra
        self.log.info(
            "Committed %s rows of %s as version %s; %s quarantined", f"{commit.rows:,}", commit.window, commit.version, commit.quarantined
        )
        return extra
