"""A tiny project with a lake of its own, for tests of training: a real Delta table and a real MLflow on SQLite."""

import functools
import shutil
import tempfile
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pandas as pd

from windvane.config import ModelConfig
from windvane.lake import Lake
from windvane.mlflow_client import connect
from windvane.model_code import ModelCode, load_model_code
from windvane.settings import Settings, load_settings
from windvane.windows import Window

START = datetime(2024, 1, 1, tzinfo=UTC)
DAYS = 40
MODEL_FILE = """
import numpy as np
from sklearn.compose import make_column_selector, make_column_transformer
from sklearn.ensemble import RandomForestClassifier, RandomForestRegressor
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import FunctionTransformer, OneHotEncoder

TASK = "{task}"


def halve(values):
    return values / 2


def features(frame):
    return frame.assign(hour=frame["seen"].dt.hour.astype(float)).drop(columns="seen")


def build_pipeline(params):
    columns = make_column_transformer(
        (OneHotEncoder(handle_unknown="ignore", sparse_output=False), ["plan"]),
        (FunctionTransformer(halve), make_column_selector(dtype_include="number")),
        verbose_feature_names_out=False,
    )
    forest = RandomForestRegressor if TASK == "regression" else RandomForestClassifier
    return Pipeline([("columns", columns), ("model", forest(n_estimators=10, max_depth=params.get("max_depth", 4)))])


def search_space(trial):
    return {{"max_depth": trial.suggest_int("max_depth", 2, 5)}}
"""


@dataclass(frozen=True)
class Project:
    """What the tests of training start from."""

    config: ModelConfig
    code: ModelCode
    settings: Settings
    lake: Lake


def make_project(root: Path, *, task: str = "binary_classification", rows: int = 1600, code: str | None = None, **sections) -> Project:
    """Write the model file, fill the lake and return the parts."""
    path = root / "include" / "models" / "churn.py"
    path.parent.mkdir(parents=True)
    path.write_text(code or MODEL_FILE.format(task=task))
    settings = load_settings(
        {"WINDVANE_PROJECT": str(root), "WINDVANE_VAR": str(root / "var"), "MLFLOW_TRACKING_URI": f"sqlite:///{root}/mlflow.db"}
    )
    shutil.copyfile(_empty_mlflow(), root / "mlflow.db")
    config = make_config(task=task, **sections)
    lake = Lake(settings.lake)
    fill(lake, make_rows(task, rows))
    return Project(config=config, code=load_model_code(path, "churn"), settings=settings, lake=lake)


@functools.cache
def _empty_mlflow() -> Path:
    """A database with MLflow's tables: making them takes longer than most tests."""
    path = Path(tempfile.mkdtemp(prefix="windvane-mlflow-")) / "mlflow.db"
    connect(load_settings({"WINDVANE_VAR": str(path.parent), "MLFLOW_TRACKING_URI": f"sqlite:///{path}"})).search_experiments()
    return path


def make_config(*, task: str = "binary_classification", **sections) -> ModelConfig:
    """A config with short windows."""
    return ModelConfig.model_validate(
        {
            "model": "churn",
            "task": task,
            "data": {"id": "customer", "time": "seen", "label": "left", "label_delay": "1d"},
            "train": {"window": "39d", "holdout": "10d", **sections.pop("train", {})},
            "gates": {"min_rows": 50, **sections.pop("gates", {})},
            **sections,
        }
    )


def make_rows(task: str, rows: int, *, seed: int = 0, weight: float = 1.5) -> pd.DataFrame:
    """Rows whose label follows the size of `calls` and `plan`; every tenth has no outcome yet."""
    random = np.random.default_rng(seed)
    calls, plan = random.normal(size=rows), random.choice(["basic", "plus", "pro"], rows)
    # a bend that no linear model follows
    signal = weight * (2 * np.abs(calls) - 1.5) + (plan == "pro") + random.normal(size=rows)
    label = {
        "binary_classification": (signal > 0).astype(float),
        "multiclass_classification": np.digitize(signal, [-1, 1]).astype(float),
        "regression": signal,
    }[task]
    return pd.DataFrame(
        {
            "customer": [f"c{i}" for i in range(rows)],
            "seen": pd.to_datetime([START + timedelta(days=DAYS) * (i / rows) for i in range(rows)], utc=True).as_unit("us"),
            "calls": calls,
            "plan": plan,
            "note": random.choice(["x", None], rows),
            "left": np.where(np.arange(rows) % 10 == 0, np.nan, label),
        }
    )


def fill(lake: Lake, rows: pd.DataFrame) -> None:
    """Commit all rows as one window."""
    lake.overwrite_window("churn", "raw", rows, window=Window(START, START + timedelta(days=DAYS)), time="seen", metadata={})
