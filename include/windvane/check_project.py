"""Checks everything a team writes: configs, expectation suites and model files; what CI of a team runs."""

import inspect
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

from windvane.config import ModelConfig, code_path, suite_path
from windvane.errors import ConfigError, ModelCodeError
from windvane.load_config import list_configs, load_config
from windvane.model_code import ModelCode, load_model_code


def check_project(project: Path) -> list[str]:
    """Check all models of a project.

    Returns:
        All problems, one line each; none means that every model can be built.
    """
    paths = list_configs(project)
    if not paths:
        return [f"{project / 'dags' / 'configs'}: has no *.yaml; `windvane new-model <name>` makes one"]
    problems: list[str] = []
    configs: list[ModelConfig] = []
    for path in paths:
        try:
            configs.append(load_config(path))
        except ConfigError as exc:
            problems.extend(exc.problems)
    for config in configs:
        problems.extend(_check_code(project, config))
        problems.extend(_check_suite(project, config))
    problems.extend(_check_ports(configs))
    problems.extend(_unused(project, {path.stem for path in paths}))
    return problems


def _check_code(project: Path, config: ModelConfig) -> Iterator[str]:
    where = f"include/models/{config.model}.py"
    try:
        code = load_model_code(code_path(project, config.model), config.model)
    except ModelCodeError as exc:
        yield str(exc)
        return
    if config.data.source.type == "python" and code.read is None:
        yield f"{where}: has no function read(window, connection), which `data.source: {{type: python}}` needs; add it"
    if config.train.search and code.search_space is None:
        yield f"{where}: has no function search_space(trial), which `train.search` needs; add it or remove train.search"
    yield from _check_arguments(where, config, code)


def _check_arguments(where: str, config: ModelConfig, code: ModelCode) -> Iterator[str]:
    wanted = {"build_pipeline": ("params",), "read": ("window", "connection"), "features": ("frame",), "search_space": ("trial",)}
    for name, arguments in wanted.items():
        function = getattr(code.module, name, None)
        if function is None:
            continue
        if not callable(function):
            yield f"{where}: {name} is not a function; write `def {name}({', '.join(arguments)})`"
            continue
        try:
            inspect.signature(function).bind(*arguments)
        except TypeError:
            found = str(inspect.signature(function))
            yield f"{where}: {name} takes {found}, allowed is ({', '.join(arguments)}); {config.model} calls it with {len(arguments)}"


def _check_suite(project: Path, config: ModelConfig) -> list[str]:
    if config.data.suite is None:
        return []
    path = suite_path(project, config.model, config.data.suite)
    if not path.is_file():
        return [
            f"expectations/{config.model}/{config.data.suite}.json: is missing; create it or remove data.suite from {config.model}.yaml"
        ]
    from windvane.check_suite import check_suite

    return check_suite(path)


def _check_ports(configs: list[ModelConfig]) -> Iterator[str]:
    by_port: dict[int, list[str]] = defaultdict(list)
    for config in configs:
        by_port[config.deploy.port].append(config.model)
    for port, models in sorted(by_port.items()):
        for model in models[1:]:
            yield f"dags/configs/{model}.yaml: deploy.port: {port} is the port of {models[0]} too; choose another"


def _unused(project: Path, models: set[str]) -> Iterator[str]:
    for path in sorted((project / "dags" / "configs").glob("*.yml")):
        yield f"dags/configs/{path.name}: is not read, configs end in .yaml; rename it to {path.stem}.yaml"
    for path in sorted((project / "include" / "models").glob("*.py")):
        if path.stem not in models and not path.stem.startswith("_"):
            yield f"include/models/{path.name}: no config uses it; create dags/configs/{path.stem}.yaml or remove it"
