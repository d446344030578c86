"""Reads `dags/configs/<model>.yaml` strictly and reports every problem of a file at once, with its line.

The environment variable WINDVANE_TARGET (`process`, `docker` or `kubernetes`), when set, stands in for `deploy.target` of every config.
"""

import difflib
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, cast, get_args

from pydantic import BaseModel, ValidationError

from windvane.config import MODEL_PATTERN, SUITE_PATTERN, DeployTarget, FieldsClash, ModelConfig, config_path
from windvane.errors import ConfigError

_MAX_BYTES = 100_000
_MAX_DEPTH = 20
_MAX_ROUNDS = 100

_Place = tuple[str | int, ...]


@dataclass(frozen=True)
class Reading:
    """What is right of a config file.

    Attributes:
        problems: All problems of the file.
        config: The config with defaults and stand-ins where the file is wrong; None where hardly anything is right.
        wrong: The fields that are not as in the file, such as `deploy.port`.
        name: The file, for messages.
        lines: Line of each field.
    """

    problems: tuple[str, ...]
    config: ModelConfig | None
    wrong: frozenset[str]
    name: str
    lines: Mapping[_Place, int]

    def is_right(self, field: str) -> bool:
        """Whether a field such as `deploy.port` is as in the file, also where that is nothing."""
        return not any(_covers(wrong, field) or _covers(field, wrong) for wrong in self.wrong)

    def where(self, field: str) -> str:
        """File and line of a field, or of the nearest section that the file has."""
        at: _Place = tuple(field.split("."))
        while at and at not in self.lines:
            at = at[:-1]
        return f"{self.name}:{self.lines[at]}" if at else self.name


def load_config(path: Path, *, stand_ins: Mapping[str, Mapping[str, Any]] | None = None) -> ModelConfig:
    """Read one config.

    Args:
        stand_ins: Section -> field -> value, for fields that the file leaves out though they are required.

    Raises:
        ConfigError: With all problems of the file.
    """
    reading = read_config(path, stand_ins=stand_ins)
    if reading.problems or reading.config is None:
        raise ConfigError(list(reading.problems))
    return _with_target(reading.config, read_target())


def read_config(path: Path, *, stand_ins: Mapping[str, Mapping[str, Any]] | None = None) -> Reading:
    """Read as much of a config as is right; what is wrong hides no other problem."""
    try:
        value, lines = _read_yaml(path)
    except ConfigError as exc:
        return Reading(exc.problems, None, frozenset(), _name(path), {})
    if not isinstance(value, dict):
        problem = f"{_name(path)}: got {_kind(value)}, allowed is a mapping that starts with 'model: <name>'"
        return Reading((problem,), None, frozenset(), _name(path), {})
    for section, left_out in (stand_ins or {}).items():
        if isinstance(value.get(section), dict):
            value[section] = {**left_out, **value[section]}
    problems: list[str] = []
    wrong: set[str] = set()
    config = None
    for _ in range(_MAX_ROUNDS):
        try:
            config = ModelConfig.model_validate(value)
            break
        except ValidationError as exc:
            known = frozenset(wrong)
            for error in exc.errors(include_url=False):
                at = _place(error["loc"], lines)
                fields = _fields_of(error, at)
                # what follows from another problem is none of its own
                if not any(_covers(before, _dotted(field)) for before in known for field in fields):
                    problems.append(_explain(path, error, at, lines))
                for field in fields:
                    _set_right(value, field, path.stem, unknown=error["type"] == "extra_forbidden")
                    wrong.add(_dotted(field))
    reading = Reading(tuple(problems), config, frozenset(wrong), _name(path), lines)
    if config and reading.is_right("model") and config.model != path.stem:
        problem = f"{reading.where('model')}: model: got '{config.model}', but the file is named '{path.stem}.yaml'; make the two equal"
        return Reading((problem, *problems), config, reading.wrong, reading.name, lines)
    return reading


def read_target(environ: Mapping[str, str] | None = None) -> DeployTarget | None:
    """The deploy target that WINDVANE_TARGET asks for; None when it asks for none.

    Raises:
        ConfigError: If there is no such target.
    """
    return check_target((os.environ if environ is None else environ).get("WINDVANE_TARGET"), "WINDVANE_TARGET")


def check_target(target: str | None, setting: str) -> DeployTarget | None:
    """The deploy target that a setting names; None when it names none.

    Raises:
        ConfigError: If there is no such target.
    """
    if target and target not in get_args(DeployTarget):
        raise ConfigError([f"{setting}: got {target!r}, allowed are {', '.join(get_args(DeployTarget))}; set one of them or leave it out"])
    return cast(DeployTarget, target) if target else None


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


def list_configs(project: Path, *, dag_id: str | None = None) -> list[Path]:
    """The config files of a project, sorted by name.

    Args:
        dag_id: Of the one that a DAG comes from; the others are not even listed.
    """
    directory = project / "dags" / "configs"
    if dag_id is None:
        return sorted(directory.glob("*.yaml"))
    parts = dag_id.split("__")
    paths = (directory / f"{'__'.join(parts[:count])}.yaml" for count in range(1, len(parts)))
    return [path for path in paths if path.is_file()]


def _with_target(config: ModelConfig, target: DeployTarget | None) -> ModelConfig:
    """The config with another deploy target."""
    if target is None or target == config.deploy.target:
        return config
    return config.model_copy(update={"deploy": config.deploy.model_copy(update={"target": target})})


def _read_yaml(path: Path) -> tuple[Any, dict[_Place, int]]:
    from ruamel.yaml.error import YAMLError

    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as exc:
        raise ConfigError([f"{_name(path)}: cannot be read as UTF-8 text: {exc}"]) from exc
    if len(text) > _MAX_BYTES:
        raise ConfigError([f"{_name(path)}: has {len(text)} characters, allowed are {_MAX_BYTES}"])
    try:
        # one pass: reading the text is most of what a DAG file of many models costs
        yaml = _yaml()
        node = yaml.compose(text)
        return (yaml.constructor.construct_document(node) if node is not None else None), _line_numbers(node)
    except _Refused as exc:
        raise ConfigError([f"{_name(path)}:{exc.line}: {exc}"]) from exc
    except (YAMLError, ValueError, RecursionError) as exc:
        mark = getattr(exc, "problem_mark", None)
        where = f":{mark.line + 1}" if mark else ""
        problem = str(getattr(exc, "problem", None) or exc).splitlines()[0]
        raise ConfigError([f"{_name(path)}{where}: not valid YAML: {problem}"]) from exc


class _Refused(Exception):
    """What YAML allows and a config does not."""

    def __init__(self, problem: str, line: int) -> None:
        super().__init__(problem)
        self.line = line


def _yaml() -> Any:
    from ruamel.yaml import YAML

    yaml: Any = YAML(typ="safe", pure=True)
    yaml.Composer = _composer()
    yaml.Constructor = _constructor()
    return yaml


@cache
def _composer() -> type:
    """Refuses `&` anchors, `*` aliases and deep nesting: a few bytes of them can stand for millions of values."""
    from ruamel.yaml.composer import Composer
    from ruamel.yaml.events import AliasEvent, CollectionStartEvent

    class Strict(Composer):  # type: ignore[misc, unused-ignore]
        def compose_node(self, parent: Any, index: Any) -> Any:
            event = self.parser.peek_event()
            if isinstance(event, AliasEvent) or event.anchor:
                raise _Refused("anchors (&) and aliases (*) are not allowed; write the value out", event.start_mark.line + 1)
            if isinstance(event, CollectionStartEvent) and self.depth >= _MAX_DEPTH:
                raise _Refused(f"nested more than {_MAX_DEPTH} levels deep", event.start_mark.line + 1)
            return super().compose_node(parent, index)

    return Strict


@cache
def _constructor() -> type:
    """Reads dates as texts: ruamel does not say where the date is that it cannot read."""
    from ruamel.yaml.constructor import SafeConstructor

    class Constructor(SafeConstructor):  # type: ignore[misc, unused-ignore]
        pass

    Constructor.add_constructor("tag:yaml.org,2002:timestamp", SafeConstructor.construct_scalar)
    return Constructor


def _line_numbers(node: Any) -> dict[_Place, int]:
    """The line of each field under a node."""
    from ruamel.yaml.nodes import MappingNode, SequenceNode

    found: dict[_Place, int] = {}

    def walk(node: Any, at: _Place) -> None:
        parts: list[tuple[str | int, Any, Any]] = []
        if isinstance(node, MappingNode):
            parts = [(key.value, key, value) for key, value in node.value]
        elif isinstance(node, SequenceNode):
            parts = [(place, value, value) for place, value in enumerate(node.value)]
        for name, marked, value in parts:
            found[(*at, name)] = marked.start_mark.line + 1
            walk(value, (*at, name))

    walk(node, ())
    return found


# what is put in the place of required fields that are missing or wrong, so that the rest can be checked
_STAND_INS: dict[str, Any] = {
    "task": "regression",
    "data": {"time": "?time", "label": "?label"},
    "time": "?time",
    "label": "?label",
    "type": "file",
    "path": "?",
    "uri": "?",
    "connection": "?",
    "query": "?",
    "columns": ["?"],
}


def _place(location: _Place, lines: Mapping[_Place, int]) -> _Place:
    """Where it is in the file: pydantic puts the tag of a discriminated union into the location, and the file has no such key."""
    at: _Place = ()
    for part in location:
        if (*at, part) in lines or part == location[-1]:
            at = (*at, part)
    return at


def _fields_of(problem: Any, at: _Place) -> list[_Place]:
    """The fields that a problem is about."""
    error = problem.get("ctx", {}).get("error")
    return [(*at, field) for field in error.fields] if isinstance(error, FieldsClash) else [at]


def _set_right(value: Any, at: _Place, model: str, *, unknown: bool) -> None:
    """Put a default or a stand-in where the file is wrong."""
    names = [part for part in at if isinstance(part, str)]
    for name in names[:-1]:
        value = value.get(name)
        if not isinstance(value, dict):
            return
    stand_in = None if unknown else {**_STAND_INS, "model": model}.get(names[-1]) if names else None
    if stand_in is not None:
        value[names[-1]] = stand_in
    elif names:
        value.pop(names[-1], None)


def _dotted(at: _Place) -> str:
    return ".".join(part for part in at if isinstance(part, str))


def _covers(field: str, other: str) -> bool:
    return other == field or other.startswith(f"{field}.")


def _explain(path: Path, problem: Any, at: _Place, lines: Mapping[_Place, int]) -> str:
    kind, got, context = problem["type"], problem.get("input"), problem.get("ctx", {})
    error = context.get("error")
    known = [place for field in _fields_of(problem, at) for place in (field, field[:-1]) if place in lines]
    where = f"{_name(path)}{f':{lines[known[0]]}' if known else ''}"
    field = ".".join(map(str, at))
    if kind == "extra_forbidden":
        parent = ".".join(map(str, at[:-1]))
        hint = _did_you_mean(str(at[-1]), _fields_at(problem["loc"][:-1]))
        return f"{where}: {parent + ': ' if parent else ''}unknown field '{at[-1]}'{hint}"
    if kind == "missing":
        return f"{where}: {field}: is required and missing; add it"
    if kind in ("union_tag_invalid", "union_tag_not_found"):
        allowed = context.get("expected_tags", "'python', 'csv', 'parquet', 'delta', 'sql'")
        hint = _close_to(str(context.get("tag", "")), re.findall(r"'([^']*)'", allowed))
        found = f"got {context['tag']!r}" if "tag" in context else "is required and missing"
        return f"{where}: {field}.type: {found}, allowed is {allowed}{hint}"
    if kind == "literal_error":
        hint = _close_to(str(got), re.findall(r"'([^']*)'", context["expected"]))
        return f"{where}: {field}: got {got!r:.80}, allowed is {context['expected']}{hint}"
    if error is not None:
        return f"{where}: {field + ': ' if field else ''}{error}"
    words = _IN_WORDS.get(kind)
    return f"{where}: {field}: got {got!r:.80}, {words(context, got) if words else problem['msg']}"


_PATTERNS = {
    MODEL_PATTERN: "small letters, digits and single '_', such as flight_delay",
    SUITE_PATTERN: "the name of a suite without .json: small letters, digits and '_', such as raw",
    "^[0-9]+[kmg]$": "a whole number with k, m or g, such as 512m",
}
_A_SECTION = "allowed is a section of fields, or leave it out"

_IN_WORDS: dict[str, Callable[[Mapping[str, Any], Any], str]] = {
    "tuple_type": lambda c, got: f"allowed is a list, such as [{got}]" if isinstance(got, str) else "allowed is a list, such as [one, two]",
    "too_short": lambda c, got: "allowed is a list with at least one entry",
    "string_type": lambda c, got: "allowed is a text; put it in quotes" if got is not None else "allowed is a text",
    "string_too_short": lambda c, got: "it must not be empty",
    "string_too_long": lambda c, got: f"allowed are at most {c['max_length']} characters",
    "string_pattern_mismatch": lambda c, got: f"allowed is {_PATTERNS.get(c['pattern'], c['pattern'])}",
    "none_required": lambda c, got: "it must be empty in this version; remove it",
    "model_type": lambda c, got: _A_SECTION,
    "model_attributes_type": lambda c, got: _A_SECTION,
    "greater_than": lambda c, got: f"allowed is a number greater than {c['gt']:g}",
    "greater_than_equal": lambda c, got: f"allowed is a number from {c['ge']:g} on",
    "less_than": lambda c, got: f"allowed is a number less than {c['lt']:g}",
    "less_than_equal": lambda c, got: f"allowed is a number up to {c['le']:g}",
}


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
