"""Writes the two files that make a model, to start from."""

from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from windvane.config import ModelName, code_path, config_path
from windvane.errors import ConfigError
from windvane.load_config import list_configs, read_config

FIRST_PORT = 8100

_CONFIG = """# yaml-language-server: $schema=./schema.json
model: {model}
description: What does {model} predict?
owner: {model}-team
task: binary_classification             # or multiclass_classification, regression
data:
  source: {{type: python}}                # read() of include/models/{model}.py
  schedule: null                        # or a cron in UTC, such as "@daily": each run ingests the day before
  id: id                                # a column that identifies a row; never a feature
  time: time                            # the row's own time, UTC
  label: label                          # null where the outcome is not known yet
  label_delay: 1d
deploy:
  port: {port}
"""

_UNWRITTEN = 'raise NotImplementedError("write read() first")'

_CODE = '''"""What {model} predicts from what."""

from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.pipeline import Pipeline


def read(window, connection):
    """Return a DataFrame of the rows with window.start <= time < window.end: id, time, label and whatever the pipeline uses."""
    {unwritten}


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
        error = exc.errors(include_url=False)[0]
        why = error["msg"] if error["type"] == "value_error" else "small letters, digits and single '_', at most 63 characters"
        raise ConfigError([f"model: got {model!r}, allowed are names such as flight_delay: {why}"]) from exc
    files = {
        config_path(project, model): _CONFIG.format(model=model, port=_free_port(project)),
        code_path(project, model): _CODE.format(model=model, unwritten=_UNWRITTEN),
    }
    there = [str(path) for path in files if path.exists()]
    if there:
        raise ConfigError([f"{path}: is there already; choose another name or remove it" for path in there])
    for path, text in files.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return list(files)


def is_template(path: Path) -> bool:
    """Whether a model file's `read` was not written yet."""
    return path.is_file() and _UNWRITTEN in path.read_text(encoding="utf-8", errors="replace")


def _free_port(project: Path) -> int:
    readings = [read_config(path) for path in list_configs(project)]
    taken = {reading.config.deploy.port for reading in readings if reading.config}
    return next(port for port in range(FIRST_PORT, 65536) if port not in taken)
