"""Judges a staged batch by the model's Great Expectations suite."""

from collections.abc import Mapping, Sequence
from typing import Any

from airflow.sdk import Context

from windvane_airflow.operators.model_operator import MadeLink, ModelOperator


class ValidationLink(MadeLink):
    """The button that leads to the validation result."""

    name = "Validation result"


class ValidateDataOperator(ModelOperator):
    """Split a staged batch into valid and invalid rows, or refuse it.

    Args:
        staged: What the extract task returned. (templated)
    """

    template_fields: Sequence[str] = ("staged",)
    operator_extra_links = (ValidationLink(),)

    def __init__(self, *, staged: Any, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.staged = staged

    def run(self, context: Context) -> dict[str, Any]:
        """Return the validation: counts, reasons and the paths of the result.

        Raises:
            DataError: If the batch was refused; it is then in the quarantine table.
        """
        from windvane.commit_data import commit_data
        from windvane.extract_data import Staged
        from windvane.validate_data import validate_data

        known = self.lake.columns(self.model, "raw")
        validation = validate_data(self.config, self.settings, Staged.from_json(self.staged), known_schema=known)
        self.made = self.report_url(validation.report_path)
        if validation.refused:
            commit_data(self.config, self.lake, validation)
            validation.raise_if_refused()
        for reason in validation.reasons:
            self.log.warning("%s", reason)
        return validation.as_json()

    def link_to(self, result: Mapping[str, Any]) -> str | None:
        """Lead to the validation result."""
        return self.report_url(result["report_path"])
