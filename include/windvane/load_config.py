"""Reads `dags/configs/<model>.yaml` strictly and reports every problem of a file at once, with its line.

The environment variable WINDVANE_TARGET (`process` or `docker`), when set, stands in for `deploy.target` of every config.
"""

import difflib
import os
import re
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from windvane.config import ModelConfig, config_path
from windvane.errors import ConfigError

_MAX_BYTES = 100_000
_MAX_DEPTH = 20


def load_config(path: Path) -> ModelConfig:
    """Read one config.

    Raises:
        ConfigError: With all problems of the file.
    """
    value = _read_yaml(path)
    if not isinstance(value, dict):
        raise ConfigError([f"{_name(path)}: got {_kind(value)}, allowed is a mapping that starts with 'model: <name>'"])
    try:
        config = ModelConfig.model_validate(value)
    except ValidationError as exc:
        lines = _line_numbers(path)
        raise ConfigError([_explain(path, problem, lines) for problem in exc.errors(include_url=False)]) from None
    if config.model != path.stem:
        raise ConfigError([f"{_name(path)}: model: got '{config.model}', but the file is named '{path.stem}.yaml'; make the two equal"])
    return _with_target(config, os.environ.get("WINDVANE_TARGET"))


def load_model_config(project: Path, model: str) -> ModelConfig:
    """Read the config of one model of a project.

    Raises:
        ConfigError: If the file is missing or has problems.
    """
    path = config_path(project, model)
    if not path.is_file():
        known = sorted(p.stem for p in path.parent.glob("*.yaml"))
        raise ConfigError([f"{_name(path)}: there is no model '{model}'{_did_you_mean(model, known)}"])
    return load_config(path)


def list_configs(project: Path) -> list[Path]:
    """The config files of a project, sorted by name."""
    return sorted((project / "dags" / "configs").glob("*.yaml"))


def _with_target(config: ModelConfig, target: str | None) -> ModelConfig:
    """The config with another deploy target."""
    if not target or target == config.deploy.target:
        return config
    if target not in ("process", "docker"):
        raise ConfigError([f"WINDVANE_TARGET: got {target!r}, allowed is 'process' or 'docker'; set one of them or unset it"])
    return config.model_copy(update={"deploy": config.deploy.model_copy(update={"target": target})})


def _read_yaml(path: Path) -> Any:
    from ruamel.yaml import YAML
    from ruamel.yaml.error import YAMLError

    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as exc:
        raise ConfigError([f"{_name(path)}: cannot be read as UTF-8 text: {exc}"]) from exc
    if len(text) > _MAX_BYTES:
        raise ConfigError([f"{_name(path)}: has {len(text)} characters, allowed are {_MAX_BYTES}"])
    try:
        _refuse_aliases(path, text)
        return YAML(typ="safe", pure=True).load(text)
    except (YAMLError, ValueError, RecursionError) as exc:
        mark = getattr(exc, "problem_mark", None)
        where = f":{mark.line + 1}" if mark else ""
        problem = str(getattr(exc, "problem", None) or exc).splitlines()[0]
        raise ConfigError([f"{_name(path)}{where}: not valid YAML: {problem}"]) from exc


def _refuse_aliases(path: Path, text: str) -> None:
    """Refuse `&` anchors, `*` aliases and deep nesting: a few bytes of them can stand for millions of values."""
    from ruamel.yaml import YAML
    from ruamel.yaml.events import AliasEvent, CollectionEndEvent, CollectionStartEvent, NodeEvent

    depth = 0
    for event in YAML(typ="safe", pure=True).parse(text):
        if isinstance(event, AliasEvent) or (isinstance(event, NodeEvent) and event.anchor):
            where = f"{_name(path)}:{event.start_mark.line + 1}"
            raise ConfigError([f"{where}: anchors (&) and aliases (*) are not allowed; write the value out"])
        depth += isinstance(event, CollectionStartEvent) - isinstance(event, CollectionEndEvent)
        if depth > _MAX_DEPTH:
            raise ConfigError([f"{_name(path)}:{event.start_mark.line + 1}: nested more than {_MAX_DEPTH} levels deep"])


def _line_numbers(path: Path) -> dict[tuple[str | int, ...], int]:
    from ruamel.yaml import YAML

    found: dict[tuple[str | int, ...], int] = {}

    def walk(node: Any, at: tuple[str | int, ...]) -> None:
        # ruamel's line and column; scalars have none
        marks: Any = getattr(node, "lc", None)
        if marks is None:
            return
        for key in node if isinstance(node, dict) else range(len(node)):
            found[(*at, key)] = (marks.key(key) if isinstance(node, dict) else marks.item(key))[0] + 1
            walk(node[key], (*at, key))

    walk(YAML(typ="rt", pure=True).load(path.read_text(encoding="utf-8")), ())
    return found


def _explain(path: Path, problem: Any, lines: dict[tuple[str | int, ...], int]) -> str:
    # pydantic puts the tag of a discriminated union into the location; the file has no such key
    at: tuple[str | int, ...] = ()
    for part in problem["loc"]:
        if (*at, part) in lines or part == problem["loc"][-1]:
            at = (*at, part)
    line = lines.get(at) or lines.get(at[:-1])
    where = f"{_name(path)}{f':{line}' if line else ''}"
    kind, got = problem["type"], problem.get("input")
    if kind == "extra_forbidden":
        parent = ".".join(map(str, at[:-1]))
        hint = _did_you_mean(str(at[-1]), _fields_at(problem["loc"][:-1]))
        return f"{where}: {parent + ': ' if parent else ''}unknown field '{at[-1]}'{hint}"
    field = ".".join(map(str, at))
    if kind == "missing":
        return f"{where}: {field}: is required and missing; add it"
    context = problem.get("ctx", {})
    if kind == "literal_error":
        allowed = context["expected"]
        hint = _close_to(str(got), re.findall(r"'([^']*)'", allowed))
        return f"{where}: {field}: got {got!r}, allowed is {allowed}{hint}"
    if kind == "union_tag_invalid":
        return f"{where}: {field}.type: got {context['tag']!r}, allowed is {context['expected_tags']}"
    if kind == "value_error":
        return f"{where}: {field + ': ' if field else ''}{context['error']}"
    return f"{where}: {field}: {problem['msg']}, got {got!r:.80}"


def _fields_at(location: tuple[str | int, ...]) -> list[str]:
    """The field names allowed at a place of the config."""
    models: list[Any] = [ModelConfig]
    for part in location:
        if isinstance(part, int):
            continue
        fields = [m.model_fields[part].annotation for m in models if part in m.model_fields]
        nested = [m for annotation in fields for m in _models_in(annotation)]
        tagged = [m for m in models if "type" in m.model_fields and part in getattr(m.model_fields["type"].annotation, "__args__", ())]
        models = nested or tagged or models
    return sorted({name for m in models for name in m.model_fields})


def _models_in(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [m for part in getattr(annotation, "__args__", ()) for m in _models_in(part)]


def _did_you_mean(word: str, known: list[str]) -> str:
    return _close_to(word, known) or f"; allowed: {', '.join(known)}"


def _close_to(word: str, known: list[str]) -> str:
    close = difflib.get_close_matches(word, known, n=1)
    return f" - did you mean '{close[0]}'?" if close else ""


def _kind(value: Any) -> str:
    return "nothing" if value is None else f"a {type(value).__name__}"


def _name(path: Path) -> str:
    return "/".join(path.parts[-3:])
