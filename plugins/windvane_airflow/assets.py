"""The assets that connect the DAGs of a model; an event carries the window of data it is about."""

from airflow.sdk import Asset
from airflow.sdk.definitions.asset import Model


def data(model: str) -> Asset:
    """A window of validated data was committed."""
    return Asset(f"{model}/data", uri=f"windvane://{model}/data", group="windvane")


def challenger(model: str) -> Asset:
    """A version passed its gates and waits to be deployed."""
    return Asset(f"{model}/challenger", uri=f"windvane://{model}/challenger", group="windvane")


def champion(model: str) -> Asset:
    """Another version serves."""
    return Model(f"{model}/champion", uri=f"windvane://{model}/champion")


def retrain(model: str) -> Asset:
    """The monitor decided that a retraining helps."""
    return Asset(f"{model}/retrain", uri=f"windvane://{model}/retrain", group="windvane")


def scores(model: str) -> Asset:
    """A window was scored in batch."""
    return Asset(f"{model}/scores", uri=f"windvane://{model}/scores", group="windvane")
