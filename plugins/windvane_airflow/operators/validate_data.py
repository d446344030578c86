"""Judges a staged batch by the model's Great Expectations suite."""

from collections.abc import Mapping, Sequence
from typing import Any

from airflow.sdk import Context

from windvane_airflow.operators.commit_data import BatchOperator
from windvane_airflow.operators.model_operator import MadeLink, ModelLink


class ValidationLink(MadeLink):
    """The button that leads to the validation result."""

    name = "Validation result"


class ValidateDataOperator(BatchOperator):
    """Split a staged batch into valid and invalid rows, or refuse it.

    Args:
        staged: What the extract task returned. (templated)
    """

    template_fields: Sequence[str] = ("staged",)
    operator_extra_links = (ValidationLink(), ModelLink())

    def __init__(self, *, staged: Any, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.staged = staged

    def run(self, context: Context) -> dict[str, Any]:
        """Return the validation: counts, reasons and the paths of the result.

        Raises:
            DataError: If the batch was refused; it is then in the quarantine table.
        """
        from windvane.extract_data import Staged
        from windvane.validate_data import validate_data

        known = self.lake.columns(self.model, "raw")
        validation = validate_data(self.config, self.settings, Staged.from_json(self.staged), known_schema=known)
        self.made = self.report_url(validation.report_path)
        if validation.refused:
            self.put(validation, context)
            validation.raise_if_refused()
        for reason in validation.reasons:
            self.log.warning("%s", reason)
        return validation.as_json()

    def link_to(self, result: Mapping[str, Any]) -> str | None:
        """Lead to the validation result."""
        return self.report_url(result["report_path"])
