"""Makes `dags/configs/schema.json` (for editors) and `docs/config.md` (for people) from `config.py`."""

import json
import sys
from collections.abc import Iterator, Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from windvane.config import Duration, ModelConfig
from windvane.settings import REPOSITORY

_DURATION = "[wdhms])+$"

_INTRODUCTION = """# The config of a model

One file, `dags/configs/<model>.yaml`, is one model. Unknown fields, duplicate keys, anchors and aliases are refused, and all
problems of a file are reported at once (`windvane check`). Durations are written `90d`, `12h`, `10m` or `1h30m`. Dates are UTC.

This page is made from `include/windvane/config.py` by `python -m windvane.describe_config`.
"""


def describe_config() -> dict[Path, str]:
    """Return the generated files: path relative to the repository, and text."""
    schema = _with_durations_as_written(ModelConfig.model_json_schema())
    schema = {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema, "title": "Windvane model"}
    return {
        Path("dags/configs/schema.json"): json.dumps(schema, indent=2, ensure_ascii=False) + "\n",
        Path("docs/config.md"): "\n".join(_page(schema)).rstrip() + "\n",
    }


def _with_durations_as_written(value: Any) -> Any:
    """The schema with defaults as `90d`, where pydantic writes ISO 8601."""
    if isinstance(value, list):
        return [_with_durations_as_written(item) for item in value]
    if not isinstance(value, dict):
        return value
    if str(value.get("pattern", "")).endswith(_DURATION) and "default" in value:
        span = TypeAdapter(timedelta).validate_python(value["default"])
        return {**value, "default": TypeAdapter(Duration).dump_python(span, mode="json")}
    return {name: _with_durations_as_written(item) for name, item in value.items()}


def stale_files(repository: Path) -> list[str]:
    """The generated files that differ from what `config.py` says, as paths relative to the repository."""
    return [
        path.as_posix()
        for path, text in describe_config().items()
        if not (repository / path).is_file() or (repository / path).read_text(encoding="utf-8") != text
    ]


def _page(schema: Mapping[str, Any]) -> Iterator[str]:
    yield _INTRODUCTION
    yield "## The model\n"
    yield from _section(schema, schema["$defs"])
    for name, definition in _sections(schema, schema["$defs"]):
        yield f"\n## `{name}`\n"
        yield f"{definition.get('description', '').splitlines()[0]}\n"
        yield from _section(definition, schema["$defs"])


def _sections(owner: Mapping[str, Any], definitions: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Mapping[str, Any]]]:
    for field, value in owner.get("properties", {}).items():
        for reference in _references(value):
            definition = definitions[reference]
            kind = definition.get("properties", {}).get("type", {}).get("const")
            name = f"{prefix}{field}"
            yield (f"{name}: {{type: {kind}}}" if kind else name), definition
            yield from _sections(definition, definitions, f"{name}.")


def _references(value: Mapping[str, Any]) -> Iterator[str]:
    for part in [value, *value.get("anyOf", []), *value.get("oneOf", [])]:
        if "$ref" in part:
            yield part["$ref"].rsplit("/", 1)[-1]


def _section(definition: Mapping[str, Any], definitions: Mapping[str, Any]) -> Iterator[str]:
    yield "| field | value | needed | what it is |"
    yield "|---|---|---|---|"
    required = definition.get("required", [])
    for field, value in definition.get("properties", {}).items():
        needed = "yes" if field in required else ""
        described = value.get("description") or next((definitions[name].get("description", "") for name in _references(value)), "")
        yield f"| `{field}` | {_escape(_kind(value))} | {needed} | {_escape(described)} |"


def _kind(value: Mapping[str, Any]) -> str:
    """What may stand there, in words."""
    choices = value.get("anyOf") or value.get("oneOf")
    if choices:
        return " or ".join(dict.fromkeys(_kind(choice) for choice in choices))
    if "$ref" in value:
        return "section"
    if "const" in value:
        return f"`{value['const']}`"
    if "enum" in value:
        return ", ".join(f"`{choice}`" for choice in value["enum"])
    if value.get("pattern", "").endswith(_DURATION):
        return "duration"
    kind = str(value.get("type", "value"))
    if kind == "array":
        return f"list of {_kind(value['items'])}" if "items" in value else "empty list"
    limits = [f"{sign} {value[name]}" for name, sign in _LIMITS.items() if name in value]
    kind = {"null": "`null`", "string": "text", "boolean": "`true`, `false`"}.get(kind, value.get("format", kind))
    return f"{kind} {', '.join(limits)}".strip()


_LIMITS = {"minimum": ">=", "exclusiveMinimum": ">", "maximum": "<=", "exclusiveMaximum": "<"}


def _escape(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "&lt;")


def main(arguments: list[str]) -> int:
    """Write the files; with `--check` only say which are stale."""
    if arguments == ["--check"]:
        stale = stale_files(REPOSITORY)
        for name in stale:
            print(f"{name}: is not what include/windvane/config.py says; run `python -m windvane.describe_config`", file=sys.stderr)
        return 1 if stale else 0
    for path, text in describe_config().items():
        (REPOSITORY / path).parent.mkdir(parents=True, exist_ok=True)
        (REPOSITORY / path).write_text(text, encoding="utf-8")
        print(path.as_posix())
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
