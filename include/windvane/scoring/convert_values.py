"""Converts the values of one column of a request to the type that the model's signature names."""

import math
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pandas as pd

from windvane.scoring.request_error import RequestError

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
# model code may convert to nanoseconds or to local time: keep clear of the ends of both
_YEARS = (1700, 2200)
_INT64 = (-(2**63), 2**63 - 1)
_MAX_TEXT = 10_000
_BOOLEANS = {"true": True, "false": False}

_ALLOWED = {
    "string": f"a text of at most {_MAX_TEXT} characters",
    "double": "a finite number",
    "long": "a 64-bit integer",
    "boolean": "true or false",
    "datetime": f"an ISO 8601 time of the years {_YEARS[0]} to {_YEARS[1]}, such as 2013-02-01T06:00:00Z",
}


def convert_column(values: list[Any], name: str, *, type_name: str, nullable: bool, from_text: bool = False) -> pd.Series:
    """Convert a column.

    Args:
        values: What the request holds, None for null.
        type_name: string, double, long, boolean or datetime.
        from_text: Whether numbers and booleans come as text, as in CSV.

    Returns:
        string as object, double as float64, long as int64 (float64 if a value is null), boolean as bool (object if a value
        is null), datetime as datetime64[us, UTC].

    Raises:
        RequestError: If a value has another type, is null where that is not allowed, or is not finite.
    """
    convert = _CONVERTERS[type_name]
    parse = _FROM_TEXT.get(type_name) if from_text else None
    converted: list[Any] = []
    for number, value in enumerate(values):
        if value is None:
            if not nullable:
                raise RequestError(400, f"row {number}: {name}: got null, allowed is {_ALLOWED[type_name]}")
            converted.append(None)
            continue
        result = convert(parse(value) if parse else value)
        if result is None:
            got = "a text of another form" if from_text else describe(value)
            raise RequestError(400, f"row {number}: {name}: got {got}, allowed is {_ALLOWED[type_name]}{' or null' if nullable else ''}")
        converted.append(result)
    return _BUILDERS[type_name](converted)


def describe(value: Any) -> str:
    """The kind of a JSON value, never the value itself."""
    if isinstance(value, bool):
        return "a boolean"
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN or an infinite number"
    kinds = {dict: "an object", list: "a list", str: "a text", int: "an integer", float: "a number", type(None): "null"}
    kind = next((text for known, text in kinds.items() if isinstance(value, known)), "something else")
    if isinstance(value, str) and not _is_unicode(value):
        return "a text with half a surrogate pair"
    if isinstance(value, str) and len(value) > _MAX_TEXT:
        return f"a text of {len(value)} characters"
    return f"{kind} out of range" if isinstance(value, int) and not _INT64[0] <= value <= _INT64[1] else kind


def _is_unicode(text: str) -> bool:
    # only text in which JSON escapes made half a pair cannot be encoded
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _to_string(value: Any) -> str | None:
    if not isinstance(value, str) or len(value) > _MAX_TEXT:
        return None
    return value if value.isascii() or _is_unicode(value) else None


def _to_double(value: Any) -> float | None:
    if not isinstance(value, int | float) or isinstance(value, bool):
        return None
    try:
        number = float(value)
    except OverflowError:
        return None
    return number if math.isfinite(number) else None


def _to_long(value: Any) -> int | None:
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if not isinstance(value, int) or isinstance(value, bool):
        return None
    return value if _INT64[0] <= value <= _INT64[1] else None


def _to_boolean(value: Any) -> bool | None:
    return value if isinstance(value, bool) else None


def _to_microseconds(value: Any) -> int | None:
    if not isinstance(value, str) or len(value) > 64:
        return None
    try:
        moment = datetime.fromisoformat(value)
    except ValueError:
        return None
    if not _YEARS[0] <= moment.year <= _YEARS[1]:
        return None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return (moment - _EPOCH) // _MICROSECOND


def _parse_number(text: str) -> float | int | None:
    if len(text) > 400 or "_" in text or not text.isascii():
        return None
    try:
        return int(text)
    except ValueError:
        pass
    try:
        return float(text)
    except ValueError:
        return None


def _build_long(values: list[Any]) -> pd.Series:
    return pd.Series(values, dtype="float64" if None in values else "int64")


def _build_boolean(values: list[Any]) -> pd.Series:
    return pd.Series(values, dtype="object" if None in values else "bool")


def _build_datetime(values: list[Any]) -> pd.Series:
    ticks = np.array([np.iinfo("int64").min if value is None else value for value in values], dtype="int64")
    return pd.Series(ticks.view("datetime64[us]")).dt.tz_localize("UTC")


_CONVERTERS: dict[str, Callable[[Any], Any]] = {
    "string": _to_string,
    "double": _to_double,
    "long": _to_long,
    "boolean": _to_boolean,
    "datetime": _to_microseconds,
}
_FROM_TEXT: dict[str, Callable[[str], Any]] = {
    "double": _parse_number,
    "long": _parse_number,
    "boolean": lambda text: _BOOLEANS.get(text.strip().lower()),
}
_BUILDERS: dict[str, Callable[[list[Any]], pd.Series]] = {
    "string": lambda values: pd.Series(values, dtype="object"),
    "double": lambda values: pd.Series(values, dtype="float64"),
    "long": _build_long,
    "boolean": _build_boolean,
    "datetime": _build_datetime,
}
