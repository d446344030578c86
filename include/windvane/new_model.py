"""Writes the two files that make a model, to start from."""

from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from windvane.config import ModelName, code_path, config_path
from windvane.errors import ConfigError
from windvane.load_config import list_configs, load_config

_FIRST_PORT = 8100

_CONFIG = """# yaml-language-server: $schema=./schema.json
model: {model}
description: What does {model} predict?
owner: {model}-team
task: binary_classification             # or multiclass_classification, regression
data:
  source: {{type: python}}                # read() of include/models/{model}.py
  schedule: "@daily"
  id: id                                # a column that identifies a row; never a feature
  time: time                            # the row's own time, UTC
  label: label                          # null where the outcome is not known yet
  label_delay: 1d
deploy:
  port: {port}
"""

_CODE = '''"""What {model} predicts from what."""

import pandas as pd
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.pipeline import Pipeline


def read(window, connection):
    """Return the rows with window.start <= time < window.end: id, time, label and whatever the pipeline uses."""
    return pd.DataFrame({{"id": pd.Series(dtype="str"), "time": pd.Series(dtype="datetime64[us, UTC]"), "label": pd.Series(dtype="float")}})


def build_pipeline(params):
    """Preprocessing belongs inside the pipeline, so that training and serving cannot differ."""
    return Pipeline([("model", HistGradientBoostingClassifier(**params))])
'''


def new_model(project: Path, model: str) -> list[Path]:
    """Write `dags/configs/<model>.yaml` and `include/models/<model>.py`.

    Returns:
        The files that were written.

    Raises:
        ConfigError: If the name is not one for a model, or a file is there already.
    """
    try:
        TypeAdapter(ModelName).validate_python(model)
    except ValidationError as exc:
        message = exc.errors(include_url=False)[0]["msg"]
        raise ConfigError([f"model: got {model!r}, allowed are names such as flight_delay: {message}"]) from exc
    files = {
        config_path(project, model): _CONFIG.format(model=model, port=_free_port(project)),
        code_path(project, model): _CODE.format(model=model),
    }
    there = [str(path) for path in files if path.exists()]
    if there:
        raise ConfigError([f"{path}: is there already; choose another name or remove it" for path in there])
    for path, text in files.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return list(files)


def _free_port(project: Path) -> int:
    taken = set()
    for path in list_configs(project):
        try:
            taken.add(load_config(path).deploy.port)
        except ConfigError:
            continue  # its port is not known; `windvane check` reports the config
    return next(port for port in range(_FIRST_PORT, 65536) if port not in taken)
