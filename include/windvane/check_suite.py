"""Checks the expectation suites that a team writes, before any data comes."""

import difflib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from windvane.errors import ConfigError
from windvane.load_gx import load_gx

_KEYS = {"type", "kwargs", "meta", "notes", "description", "id", "severity", "rendered_content", "success_on_last_run"}
_MAX_BYTES = 5_000_000


def check_suite(path: Path) -> list[str]:
    """Find everything that is wrong with a suite file in GX's own format.

    Returns:
        One line per problem, saying where, what, got, allowed and the fix; empty when the suite can be used.
    """
    name = "/".join(path.parts[-3:])
    try:
        suite = json.loads(path.read_text(encoding="utf-8")) if path.stat().st_size <= _MAX_BYTES else None
    except FileNotFoundError:
        return [f"{name}: there is no such suite; create it, or remove data.suite from the config"]
    except (OSError, ValueError, RecursionError) as exc:
        return [f"{name}: not JSON: {exc}"]
    if not isinstance(suite, dict) or not isinstance(suite.get("expectations"), list):
        return [f"{name}: allowed is a mapping with 'name' and a list 'expectations', as GX's suite.to_json_dict() gives it"]
    if not suite["expectations"]:
        return [f"{name}: expectations: the list is empty; add at least one, or remove data.suite from the config"]
    return [f"{name}: {problem}" for place, entry in enumerate(suite["expectations"]) for problem in _check_expectation(place, entry)]


def load_suite(path: Path) -> list[dict[str, Any]]:
    """The expectations of a suite file.

    Raises:
        ConfigError: With everything that is wrong with the file.
    """
    problems = check_suite(path)
    if problems:
        raise ConfigError(problems)
    suite: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return list(suite["expectations"])


def columns_of(kwargs: Mapping[str, Any]) -> list[str]:
    """The columns that an expectation is about."""
    named = [kwargs.get(key) for key in ("column", "column_A", "column_B")]
    listed = kwargs.get("column_list")
    return [name for name in [*named, *(listed if isinstance(listed, (list, tuple)) else [])] if isinstance(name, str)]


def _check_expectation(place: int, entry: Any) -> Iterator[str]:
    load_gx()
    from great_expectations.compatibility.pydantic import ValidationError
    from great_expectations.expectations.registry import get_expectation_impl, list_registered_expectation_implementations

    where = f"expectations[{place}]"
    if not isinstance(entry, dict) or not isinstance(entry.get("type"), str) or not isinstance(entry.get("kwargs", {}), dict):
        yield f"{where}: allowed is a mapping with 'type' and 'kwargs', got {type(entry).__name__}"
        return
    yield from (f"{where}: unknown field '{key}'{_near(key, _KEYS)}" for key in entry if key not in _KEYS)
    known = list_registered_expectation_implementations()
    if entry["type"] not in known:
        yield f"{where}: unknown expectation '{entry['type']}'{_near(entry['type'], known)}"
        return
    kind = get_expectation_impl(entry["type"])
    severity = {"severity": entry["severity"]} if entry.get("severity") else {}
    try:
        kind(**{**entry.get("kwargs", {}), **severity})
    except ValidationError as exc:
        told = set()
        for problem in exc.errors():
            field = ".".join(str(part) for part in problem["loc"] if part != "__root__")
            if field in told:
                continue
            told.add(field)
            hint = _near(field, kind.__fields__) if problem["type"] == "value_error.extra" else ""
            what = "unknown argument" if hint else problem["msg"]
            yield f"{where}: {entry['type']}: {field + ': ' if field else ''}{what}{hint}"
    except (TypeError, ValueError, LookupError) as exc:
        yield f"{where}: {entry['type']}: {str(exc).splitlines()[0][:200]}"


def _near(word: str, known: Any) -> str:
    close = difflib.get_close_matches(word, list(known), n=1, cutoff=0.5)
    return f" - did you mean '{close[0]}'?" if close else "; see the gallery of Great Expectations for what exists"
