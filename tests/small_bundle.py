"""A tiny real bundle and a project around it, for tests of what is done with bundles."""

import hashlib
import json
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pandas as pd

from windvane.bundle import Bundle, write_bundle
from windvane.config import ModelConfig
from windvane.model_code import load_model_code
from windvane.settings import Settings, load_settings
from windvane.signature import describe_columns

MODEL = "churn"
MODEL_FILE = """
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import StandardScaler


def build_pipeline(params):
    return Pipeline([("scale", StandardScaler()), ("classifier", LogisticRegression(**params))])
"""


QUICK = {"shadow": 50, "steps": [50, 100], "bake": "1s", "min_requests": 10}


def make_settings(root: Path) -> Settings:
    """Settings of an installation of its own, with the model's file and config in place."""
    settings = load_settings(
        {"WINDVANE_PROJECT": str(root), "WINDVANE_VAR": str(root / "var"), "MLFLOW_TRACKING_URI": "http://127.0.0.1:9"}
    )
    (root / "include" / "models").mkdir(parents=True)
    (root / "include" / "models" / f"{MODEL}.py").write_text(MODEL_FILE)
    (root / "dags" / "configs").mkdir(parents=True)
    return settings


def make_config(*, port: int = 8100, target: str = "process", **deploy) -> ModelConfig:
    """A config of the model."""
    return ModelConfig.model_validate(
        {
            "model": MODEL,
            "task": "binary_classification",
            "data": {"id": "customer", "time": "seen", "label": "left"},
            "deploy": {"port": port, "target": target, "rollout": QUICK, **deploy},
        }
    )


def write_config(settings: Settings, config: ModelConfig) -> Path:
    """Store a config where the project keeps it."""
    path = settings.project / "dags" / "configs" / f"{config.model}.yaml"
    path.write_text(json.dumps({**config.model_dump(mode="json", exclude_defaults=True), "model": config.model}))
    return path


def make_bundle(settings: Settings, *, seed: int = 1, passed: bool | None = True, more_code: str = "") -> Bundle:
    """Train on forty rows, hold out eighty, and write the bundle, and the verdict unless `passed` is None."""
    (settings.project / "include" / "models" / f"{MODEL}.py").write_text(MODEL_FILE + more_code)
    code = load_model_code(settings.project / "include" / "models" / f"{MODEL}.py", MODEL)
    random = np.random.default_rng(seed)
    rows = pd.DataFrame({"calls": random.normal(size=40), "months": random.normal(size=40)})
    label = _left(random, rows)
    pipeline = code.build_pipeline({"C": float(seed)}).fit(rows, label)
    held_out = pd.DataFrame({"calls": random.normal(size=80), "months": random.normal(size=80)})
    reference = pd.concat([rows.assign(left=label, holdout=False), held_out.assign(left=_left(random, held_out), holdout=True)])
    bundle = write_bundle(
        settings.bundles,
        pipeline=pipeline,
        code=code,
        golden=rows.head(10),
        reference=reference,
        manifest={
            "model": MODEL,
            "task": "binary_classification",
            "training_key": hashlib.sha256(f"{seed} {more_code}".encode()).hexdigest(),
            "signature": [column.as_json() for column in describe_columns(rows, exclude=())],
            "classes": [0, 1],
            "id": "customer",
            "time": "seen",
            "label": "left",
            "created": datetime(2026, 1, 1, tzinfo=UTC).isoformat(),
        },
    )
    if passed is not None:
        (settings.bundles / "verdicts").mkdir(exist_ok=True)
        (settings.bundles / "verdicts" / f"{bundle.digest}.json").write_text(json.dumps({"passed": passed}))
    return bundle


def _left(random: np.random.Generator, rows: pd.DataFrame) -> pd.Series:
    return (rows["calls"] + random.normal(size=len(rows)) > 0).astype(int)
