"""Checks everything a team writes: configs, expectation suites and model files; what CI of a team runs."""

import inspect
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from glob import glob
from pathlib import Path
from typing import Any

from windvane.check_approvers import check_approvers
from windvane.config import CsvSource, FileWait, ModelConfig, ParquetSource, code_path, suite_path
from windvane.errors import ConfigError, ModelCodeError
from windvane.load_config import Reading, list_configs, read_config, read_target
from windvane.model_code import ModelCode, load_model_code
from windvane.new_model import FIRST_PORT, is_template
from windvane.prepare_platform import AIRFLOW_PORT, MLFLOW_PORT, asked_port
from windvane.source_path import source_path
from windvane.windows import Window

_ARGUMENTS = {"build_pipeline": ("params",), "read": ("window", "connection"), "features": ("frame",), "search_space": ("trial",)}
_COUNTS = {1: "one argument", 2: "two arguments"}


def check_project(project: Path, *, environ: Mapping[str, str] = os.environ) -> list[str]:
    """Check all models of a project.

    Returns:
        All problems, one line each; none means that every model can be built.
    """
    readings = _read_all(project)
    if not readings:
        return [f"dags/configs: has no *.yaml in {project}; `.venv/bin/windvane new-model <name>` makes one"]
    problems = list(_check_settings(environ))
    for model, reading in readings.items():
        problems += reading.problems
        problems += _check_code(project, model, reading)
        if reading.config:
            problems += _check_suite(project, model, reading.config)
            problems += _check_metric(reading, reading.config)
            problems += _check_paths(reading, reading.config)
    problems += _check_ports(list(readings.values()), environ)
    problems += _unused(project, set(readings))
    return problems


def find_warnings(project: Path, *, environ: Mapping[str, str] = os.environ) -> list[str]:
    """What is not wrong and may not be meant, one line each: files that are not there yet, templates that nobody filled in, approvers
    whom Airflow does not know.

    Args:
        environ: The environment that Airflow would have.
    """
    warnings = []
    for model, reading in _read_all(project).items():
        path = _fixed_path(reading)
        if path and not glob(str(project / path)):
            warnings.append(f"{reading.where('data.source.path')}: data.source.path: no file matches '{path}' yet (relative to {project})")
        if is_template(code_path(project, model)):
            warnings.append(f"include/models/{model}.py: read() is still the template's; let it return rows before {model}__ingest runs")
        if reading.config and reading.is_right("approval.approvers"):
            where = reading.where("approval.approvers")
            warnings += [f"{where}: approval.approvers: {told}" for told in check_approvers(reading.config, environ)]
    return warnings


def _fixed_path(reading: Reading) -> str | None:
    """The path of a file source that is the same for every window."""
    source = reading.config.data.source if reading.config else None
    if not isinstance(source, CsvSource | ParquetSource) or not reading.is_right("data.source.path"):
        return None
    return None if "{" in source.path else source.path


def _read_all(project: Path) -> dict[str, Reading]:
    return {path.stem: read_config(path) for path in list_configs(project)}


def _check_settings(environ: Mapping[str, str]) -> Iterator[str]:
    for name, _ in (AIRFLOW_PORT, MLFLOW_PORT):
        try:
            asked_port(name, environ)
        except ConfigError as exc:
            yield from exc.problems
    try:
        read_target(environ)
    except ConfigError as exc:
        yield from exc.problems


def _check_code(project: Path, model: str, reading: Reading) -> Iterator[str]:
    path = code_path(project, model)
    where = path.relative_to(project).as_posix()
    try:
        code = load_model_code(path, model)
    except ModelCodeError as exc:
        yield str(exc).replace(str(path), where)
        return
    config = reading.config
    if config and reading.is_right("data.source") and config.data.source.type == "python" and code.read is None:
        yield f"{where}: has no function read(window, connection), which `data.source: {{type: python}}` needs; add it"
    if config and config.train.search and code.search_space is None:
        yield f"{where}: has no function search_space(trial), which `train.search` needs; add it or remove train.search"
    yield from _check_arguments(where, code)


def _check_arguments(where: str, code: ModelCode) -> Iterator[str]:
    for name, arguments in _ARGUMENTS.items():
        function: Any = getattr(code.module, name, None)
        if function is None:
            continue
        wanted = f"write `def {name}({', '.join(arguments)}):`"
        if not callable(function):
            yield f"{where}: {name} is not a function; {wanted}"
            continue
        try:
            inspect.signature(function).bind(*arguments)
        except TypeError:
            line = getattr(getattr(function, "__code__", None), "co_firstlineno", None)
            found = f"{name}{inspect.signature(function)}"
            yield f"{where}{f':{line}' if line else ''}: {name} must take {_COUNTS[len(arguments)]}, got {found}; {wanted}"


def _check_suite(project: Path, model: str, config: ModelConfig) -> list[str]:
    if config.data.suite is None:
        return []
    path = suite_path(project, model, config.data.suite)
    if not path.is_file():
        return [f"expectations/{model}/{config.data.suite}.json: is missing; create it or remove data.suite from {model}.yaml"]
    from windvane.check_suite import check_suite

    return check_suite(path)


def _check_metric(reading: Reading, config: ModelConfig) -> Iterator[str]:
    if config.gates.metric is None:
        return
    from windvane.score_rows import find_scorer

    where = reading.where("gates.metric")
    try:
        scorer = find_scorer(config.gates.metric)
    except ConfigError as exc:
        yield from (f"{where}: {problem}" for problem in exc.problems)
        return
    measures_numbers = scorer._score_func.__module__.startswith("sklearn.metrics._regression")
    if reading.is_right("task") and not config.is_classifier and not measures_numbers:
        yield f"{where}: gates.metric: '{config.gates.metric}' is for classes, and task is regression; choose another, such as r2"


def _check_paths(reading: Reading, config: ModelConfig) -> Iterator[str]:
    any_window = Window(datetime(2013, 1, 1, tzinfo=UTC), datetime(2013, 2, 1, tzinfo=UTC))
    for field, part in (("data.source.path", config.data.source), ("data.wait_for.path", config.data.wait_for)):
        if isinstance(part, CsvSource | ParquetSource | FileWait):
            try:
                source_path(Path(), part.path, any_window)
            except ConfigError as exc:
                yield from (f"{reading.where(field)}: {field}: {problem}" for problem in exc.problems)


def _check_ports(readings: Sequence[Reading], environ: Mapping[str, str]) -> Iterator[str]:
    owners: dict[int, str] = {}
    for name, (setting, default) in {"Airflow": AIRFLOW_PORT, "MLflow": MLFLOW_PORT}.items():
        with suppress(ConfigError):
            owners[asked_port(setting, environ) or default] = f"{name} ({setting})"
    placed = [
        (reading, reading.config.deploy.port)
        for reading in readings
        if reading.config and reading.is_right("deploy.port") and reading.config.deploy.target != "kubernetes"
    ]
    free = next(port for port in range(FIRST_PORT, 65536) if port not in owners and port not in {taken for _, taken in placed})
    for reading, port in placed:
        where = reading.where("deploy.port")
        if port in owners:
            yield f"{where}: deploy.port: {port} is the port of {owners[port]} too; give one of the two another, such as {free}"
        owners.setdefault(port, where)


def _unused(project: Path, models: set[str]) -> Iterator[str]:
    for path in sorted((project / "dags" / "configs").glob("*.yml")):
        yield f"dags/configs/{path.name}: is not read, configs end in .yaml; rename it to {path.stem}.yaml"
    for path in sorted((project / "include" / "models").glob("*.py")):
        if path.stem not in models and not path.stem.startswith("_"):
            yield f"include/models/{path.name}: no config uses it; create dags/configs/{path.stem}.yaml or remove it"
