"""Keeps a config with the model that it made, without secrets, and says what changed between two."""

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

from windvane.config import ModelConfig

_MAX_LINE = 500
# connections are named by id, so a secret can only stand where somebody wrote it into an address or a query
_IN_ADDRESS = re.compile(r"(?<=://)[^@\s'\"]+@")
_IN_PARAMETER = re.compile(r"(?i)((?:password|passwd|pwd|secret|token|credential|signature|sig|key)[\w-]{0,20}=)[^&;,\s'\"]+")
_PLAIN = re.compile(r"(?![\d.]+$)[\w@/][\w@/. -]*")
_WORDS = ("true", "false", "null", "yes", "no", "on", "off")


def config_without_secrets(config: ModelConfig) -> dict[str, Any]:
    """The whole config as JSON values, with passwords and keys in addresses and queries masked."""
    value: dict[str, Any] = _masked(config.model_dump(mode="json"))
    return value


def diff_configs(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    """The fields that differ, one line each, such as `- train.window: 90d` and `+ train.window: 60d`; none when they are equal.

    A field that only one of them knows and that is not set is no difference: a version of the platform added or removed it.
    """
    old, new = dict(_fields(before)), dict(_fields(after))
    lines = []
    for name in dict.fromkeys([*new, *old]):
        if old.get(name) == new.get(name):
            continue
        lines += [f"- {name}: {_text(old[name])}"] if name in old else []
        lines += [f"+ {name}: {_text(new[name])}"] if name in new else []
    return lines


def _masked(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _masked(item) for name, item in value.items()}
    if isinstance(value, list):
        return [_masked(item) for item in value]
    return _IN_PARAMETER.sub(r"\1***", _IN_ADDRESS.sub("***@", value)) if isinstance(value, str) else value


def _fields(value: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, item in value.items():
        if isinstance(item, Mapping):
            yield from _fields(item, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", item


def _text(value: Any) -> str:
    """The value as YAML, on one line."""
    if isinstance(value, str) and _PLAIN.fullmatch(value) and value.strip() == value and value.lower() not in _WORDS:
        return value[:_MAX_LINE]
    return json.dumps(value, ensure_ascii=False)[:_MAX_LINE]
