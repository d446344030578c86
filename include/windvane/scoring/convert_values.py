"""Converts the values of one column of a request to what the model's signature names, fast where they are right at once."""

import math
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from itertools import product
from typing import Any

import numpy as np

from windvane.scoring.request_error import RequestError
from windvane.signature import Column

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
_NAT = np.iinfo("int64").min
# model code may convert to nanoseconds or to local time: keep clear of the ends of both
FIRST_YEAR, LAST_YEAR = 1700, 2200
INT64 = (-(2**63), 2**63 - 1)
_EXACT = 2**53
MAX_TEXT = 10_000
_BOOLEANS = {"true": True, "false": False}
_DIGITS = str.maketrans("123456789", "000000000")
_ZONES = ("", "Z", "+00:00", "-00:00", "+0000", "-0000")
_CLOCKS = ("00:00", "00:00:00", *(f"00:00:00.{'0' * n}" for n in range(1, 10)))
# the forms of RFC 3339, of which the time, its seconds and its zone may be left out; each digit shown as 0
_MOMENTS = frozenset({"0000-00-00"} | {f"0000-00-00{t}{clock}{zone}" for t, clock, zone in product("T ", _CLOCKS, _ZONES)})
_DAYS = "|".join(
    (
        r"(1[7-9][0-9]{2}|2[01][0-9]{2}|2200)-((0[13578]|1[02])-(0[1-9]|[12][0-9]|3[01])|(0[469]|11)-(0[1-9]|[12][0-9]|30)"
        r"|02-(0[1-9]|1[0-9]|2[0-8]))",
        # leap years
        r"((1[7-9]|2[01])(0[48]|[2468][048]|[13579][26])|2000)-02-29",
    )
)
_HOUR = r"([01][0-9]|2[0-3])"
MOMENT_PATTERN = rf"^({_DAYS})([T ]{_HOUR}:[0-5][0-9](:[0-5][0-9](\.[0-9]{{1,9}})?)?(Z|[+-]{_HOUR}:?[0-5][0-9])?)?$"

_ALLOWED = {
    "string": f"a text of at most {MAX_TEXT} characters",
    "double": "a finite number",
    "long": "a 64-bit integer",
    "boolean": "true or false",
    "datetime": f"an ISO 8601 time of the years {FIRST_YEAR} to {LAST_YEAR}, such as 2013-02-01T06:00:00Z",
}


class NotJson(float):
    """NaN or infinity, which JSON does not have and some clients send; kept until row and field are known."""


def convert_column(values: list[Any], column: Column, *, from_text: bool = False) -> list[Any]:
    """Convert a column.

    Args:
        values: What the request holds, None for null.
        column: What is allowed.
        from_text: Whether numbers and booleans come as text, as in CSV.

    Returns:
        One value per row, None for null: str, float, int, bool, or microseconds since 1970 in UTC.

    Raises:
        RequestError: If a value has another type, is null where that is not allowed, or is not finite. NaN is a null in a
            nullable column of numbers, because the clients of MLflow write nulls so.
    """
    if not from_text:
        converted = _FAST[column.type](values, column.nullable)
        if converted is not None:
            return converted
    return _convert_each(values, column, from_text=from_text)


def as_array(values: list[Any], column: Column) -> np.ndarray:
    """What `convert_column` returns, as the array of shape (n,) that a predictor takes."""
    if column.type == "datetime":
        ticks = [_NAT if value is None else value for value in values] if column.nullable else values
        return np.array(ticks, dtype="int64").view("datetime64[us]")
    if column.type == "boolean":
        return np.array(values, dtype="float64" if column.nullable else "bool")
    return np.array(values, dtype={"string": "object", "double": "float64", "long": "int64"}[column.type])


def describe(value: Any) -> str:
    """The kind of a JSON value, never the value itself."""
    if isinstance(value, bool):
        return "a boolean"
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN or an infinite number"
    kinds = {dict: "an object", list: "a list", str: "a text", int: "an integer", float: "a number", type(None): "null"}
    kind = next((text for known, text in kinds.items() if isinstance(value, known)), "something else")
    if isinstance(value, str) and not is_unicode(value):
        return "a text with half a surrogate pair"
    if isinstance(value, str) and len(value) > MAX_TEXT:
        return f"a text of {len(value)} characters"
    return f"{kind} out of range" if isinstance(value, int) and not INT64[0] <= value <= INT64[1] else kind


def _fast_string(values: list[Any], nullable: bool) -> list[Any] | None:
    kinds = set(map(type, values))
    if kinds == {str}:
        text = "".join(values)
        return values if (len(text) <= MAX_TEXT or max(map(len, values)) <= MAX_TEXT) and is_unicode(text) else None
    if nullable and kinds <= {str, type(None)}:
        return None if _fast_string([value for value in values if value is not None] or [""], False) is None else values
    return None


def _fast_double(values: list[Any], nullable: bool) -> list[Any] | None:
    kinds = set(map(type, values))
    if int in kinds and kinds <= {int, float}:
        try:
            values, kinds = list(map(float, values)), {float}
        except OverflowError:
            return None
    # the sum of finite numbers may be infinite: then the slow way decides
    if kinds == {float}:
        return values if math.isfinite(sum(values)) else None
    if nullable and kinds == {float, type(None)}:
        return values if math.isfinite(sum([value for value in values if value is not None])) else None
    return None


def _fast_long(values: list[Any], nullable: bool) -> list[Any] | None:
    return values if set(map(type, values)) == {int} and INT64[0] <= min(values) and max(values) <= INT64[1] else None


def _fast_boolean(values: list[Any], nullable: bool) -> list[Any] | None:
    return values if set(map(type, values)) <= ({bool, type(None)} if nullable else {bool}) else None


def _fast_datetime(values: list[Any], nullable: bool) -> list[Any] | None:
    """Times that all have one form and end in Z, read as one block of bytes."""
    if len(values) == 1 or set(map(type, values)) != {str} or not values[0].endswith("Z") or values[0].translate(_DIGITS) not in _MOMENTS:
        return None
    length = len(values[0]) + 1
    data = "\n".join([*values, ""]).encode(errors="replace")
    if len(data) != len(values) * length:
        return None
    block = np.frombuffer(data, dtype="u1").reshape(-1, length)
    is_digit = (block[0] >= ord("0")) & (block[0] <= ord("9"))
    if (block[:, is_digit] - ord("0") > 9).any() or (block[:, ~is_digit] != block[0, ~is_digit]).any():
        return None
    try:
        # the forms were looked at, so NumPy's own words, such as NaT and today, cannot come here
        moments = np.ascontiguousarray(block[:, :-2]).view(f"S{length - 2}")[:, 0].astype("datetime64[us]")
    except ValueError:
        return None
    if moments.min() < np.datetime64(str(FIRST_YEAR)) or moments.max() >= np.datetime64(str(LAST_YEAR + 1)):
        return None
    ticks: list[int] = moments.view("int64").tolist()
    return ticks


def _convert_each(values: list[Any], column: Column, *, from_text: bool) -> list[Any]:
    convert = _CONVERTERS[column.type]
    parse = _FROM_TEXT.get(column.type) if from_text else None
    # a long is never null: no integer stands for it
    nullable = column.nullable and column.type != "long"
    converted: list[Any] = []
    for number, value in enumerate(values):
        if value is None or (nullable and column.type == "double" and isinstance(value, NotJson) and math.isnan(value)):
            if not nullable:
                raise RequestError(400, f"row {number}: {column.name}: got null, allowed is {_ALLOWED[column.type]}")
            converted.append(None)
            continue
        result = convert(parse(value) if parse else value)
        if result is None:
            got = "a text of another form" if from_text else describe(value)
            allowed = f"{_ALLOWED[column.type]}{' or null' if nullable else ''}"
            raise RequestError(400, f"row {number}: {column.name}: got {got}, allowed is {allowed}")
        converted.append(result)
    return converted


def is_unicode(text: str) -> bool:
    # only text in which JSON escapes made half a pair cannot be encoded
    if text.isascii():
        return True
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _to_string(value: Any) -> str | None:
    return value if isinstance(value, str) and len(value) <= MAX_TEXT and is_unicode(value) else None


def _to_double(value: Any) -> float | None:
    if not isinstance(value, int | float) or isinstance(value, bool):
        return None
    try:
        number = float(value)
    except OverflowError:
        return None
    return number if math.isfinite(number) else None


def _to_long(value: Any) -> int | None:
    # beyond 53 bits a fraction does not say which integer was meant
    if isinstance(value, float) and value.is_integer() and abs(value) < _EXACT:
        value = int(value)
    if not isinstance(value, int) or isinstance(value, bool):
        return None
    return value if INT64[0] <= value <= INT64[1] else None


def _to_boolean(value: Any) -> bool | None:
    return value if isinstance(value, bool) else None


def _to_microseconds(value: Any) -> int | None:
    if not isinstance(value, str) or value.translate(_DIGITS) not in _MOMENTS:
        return None
    try:
        moment = datetime.fromisoformat(value)
    except ValueError:
        return None
    if not FIRST_YEAR <= moment.year <= LAST_YEAR:
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


_FAST: dict[str, Callable[[list[Any], bool], list[Any] | None]] = {
    "string": _fast_string,
    "double": _fast_double,
    "long": _fast_long,
    "boolean": _fast_boolean,
    "datetime": _fast_datetime,
}
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
