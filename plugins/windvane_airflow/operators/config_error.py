"""Shows the problems of a config where people look: in Airflow."""

from typing import Any

from airflow.sdk import BaseOperator, Context

from windvane.errors import ConfigError
from windvane_airflow.operators.model_operator import ModelLink


class ConfigErrorOperator(BaseOperator):
    """Fail with everything that is wrong with a config.

    Args:
        problems: One line each.
    """

    operator_extra_links = (ModelLink(),)

    def __init__(self, *, problems: list[str], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.problems = problems

    @property
    def model(self) -> str:
        """The model whose config has them."""
        return self.dag_id.removesuffix("__config_error")

    def execute(self, context: Context) -> None:
        """Raise the problems.

        Raises:
            ConfigError: Always.
        """
        raise ConfigError(self.problems)
