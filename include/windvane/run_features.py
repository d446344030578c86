"""Runs the program that `trace_features` wrote on the columns of a request, with NumPy alone."""

import functools
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import numpy as np

Program = dict[str, Any]

COMPARISONS = frozenset({"equal", "not_equal", "less", "less_equal", "greater", "greater_equal", "isnan", "isfinite", "isinf"})
LOGICAL = frozenset({"logical_and", "logical_or", "logical_not", "logical_xor"})
BITS = frozenset({"bitwise_and", "bitwise_or", "bitwise_xor", "invert"})
WHOLE = frozenset(
    {"add", "subtract", "multiply", "floor_divide", "remainder", "absolute", "negative", "minimum", "maximum", "sign", "square"}
)
REAL = frozenset(
    {
        *("divide", "power", "log", "log1p", "log2", "log10", "exp", "expm1", "sqrt", "cbrt", "sin", "cos", "tan", "arcsin", "arccos"),
        *("arctan", "arctan2", "sinh", "cosh", "tanh", "hypot", "floor", "ceil", "trunc", "rint", "deg2rad", "rad2deg", "reciprocal"),
    }
)
UFUNCS = COMPARISONS | LOGICAL | BITS | WHOLE | REAL

_SECOND, _MINUTE, _HOUR, _DAY = 1_000_000, 60_000_000, 3_600_000_000, 86_400_000_000
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_YEARS = (1700, 2200)
_CHANGES: dict[str, Callable[[str], str]] = {"lower": str.lower, "upper": str.upper, "strip": str.strip}


class FeatureProgram:
    """A program that is ready to run; of its steps only those that are needed.

    Args:
        program: As `trace_features` returns it.
        wanted: Names of the features to compute.

    Raises:
        ValueError: If it is no such program.
    """

    def __init__(self, program: Program, wanted: Iterable[str]) -> None:
        try:
            self._wanted = [(name, program["columns"][name]) for name in wanted]
            needed = {register for _, register in self._wanted}
            steps = []
            for register in range(len(program["steps"]) - 1, -1, -1):
                name, inputs, given = program["steps"][register]
                if register in needed:
                    needed |= set(inputs)
                    steps.append((register, name == "column", _STEPS[name](**given), tuple(inputs)))
            if any(not 0 <= source < register for register, _, _, inputs in steps for source in inputs) or len(steps) != len(needed):
                raise ValueError("a step reads one that is not before it")
        except (KeyError, TypeError, IndexError) as exc:
            raise ValueError(f"unknown or incomplete step: {exc!s:.100}") from exc
        self._steps = steps[::-1]

    def __call__(self, columns: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Compute the wanted features.

        Args:
            columns: The columns of the signature in conformed form, each of shape (n,).

        Returns:
            Feature to values, (n,): doubles, integers, booleans, datetime64[us], or objects (texts and None).

        Raises:
            ValueError: If a value cannot be converted, as with pandas.
            KeyError: If a column is missing.
        """
        values: dict[int, Any] = {}
        with np.errstate(all="ignore"):
            for register, is_column, run, inputs in self._steps:
                values[register] = run(columns) if is_column else run(*[values[i] for i in inputs])
        rows = len(next(iter(columns.values())))
        return {
            name: found if (found := values[register]).__class__ is np.ndarray else _repeat(found, rows) for name, register in self._wanted
        }


def _repeat(value: Any, rows: int) -> np.ndarray:
    return np.full(rows, value, dtype=object if value is None or isinstance(value, str) else None)


def _column(name: str) -> Callable[..., Any]:
    return lambda columns: columns[name]


def _fill(value: Any = None, nan: bool = False) -> Callable[..., Any]:
    return lambda _: np.nan if nan else value


def _ufunc(name: str) -> Callable[..., Any]:
    if name not in UFUNCS:
        raise KeyError(name)
    found: Callable[..., Any] = getattr(np, name)
    return found


def _same_text(same: bool) -> Callable[..., Any]:
    def run(left: Any, right: Any) -> Any:
        equal = np.asarray(left == right) & np.asarray(left != None)  # noqa: E711 - compares each value
        return equal if same else ~equal

    return run


def _missing() -> Callable[..., Any]:
    def run(values: np.ndarray) -> np.ndarray:
        if values.dtype.kind == "O":
            return np.asarray(values == None)  # noqa: E711 - compares each value
        found: np.ndarray = np.isnat(values) if values.dtype.kind in "mM" else np.isnan(values)
        return found

    return run


def _isin(values: list[Any]) -> Callable[..., Any]:
    wanted = set(values)
    return lambda column: np.array([value in wanted for value in column.tolist()], dtype=bool)


def _map(pairs: list[Any], text: bool) -> Callable[..., Any]:
    table, default = dict(pairs), None if text else np.nan
    return lambda values: _array([table.get(value, default) for value in values.tolist()], object if text else float)


def _astype(kind: str) -> Callable[..., Any]:
    def whole(values: np.ndarray) -> np.ndarray:
        if values.dtype.kind == "f" and not np.isfinite(values).all():
            raise ValueError("NaN or infinity cannot become a whole number")
        return values.astype(np.int64)

    table: dict[str, Callable[..., Any]] = {
        "float": lambda values: values.astype(float),
        "int": whole,
        "bool": lambda values: values.astype(bool),
        "text": lambda values: _array([str(value) for value in values.tolist()], object),
    }
    return table[kind]


def _text(name: str) -> Callable[..., Any]:
    change = _CHANGES[name]
    return lambda values: _array([None if value is None else change(value) for value in values.tolist()], object)


def _text_length() -> Callable[..., Any]:
    return lambda values: _array([np.nan if value is None else len(value) for value in values.tolist()], float)


def _array(values: list[Any], kind: Any) -> np.ndarray:
    made = np.empty(len(values), dtype=kind)
    made[:] = values
    return made


def _ticks(values: np.ndarray) -> np.ndarray:
    ticks: np.ndarray = values.view(np.int64)
    return ticks


def _since(values: np.ndarray, unit: str) -> np.ndarray:
    """Days since the beginning of the year or month."""
    since: np.ndarray = values.astype("M8[D]") - values.astype(f"M8[{unit}]").astype("M8[D]")
    return since.astype(np.int64)


PARTS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "microsecond": lambda values: _ticks(values) % _SECOND,
    "second": lambda values: _ticks(values) // _SECOND % 60,
    "minute": lambda values: _ticks(values) // _MINUTE % 60,
    "hour": lambda values: _ticks(values) // _HOUR % 24,
    "weekday": lambda values: (_ticks(values) // _DAY + 3) % 7,
    "day": lambda values: _since(values, "M") + 1,
    "dayofyear": lambda values: _since(values, "Y") + 1,
    "month": lambda values: values.astype("M8[M]").astype(np.int64) % 12 + 1,
    "quarter": lambda values: values.astype("M8[M]").astype(np.int64) % 12 // 3 + 1,
    "year": lambda values: values.astype("M8[Y]").astype(np.int64) + 1970,
}


def _part(name: str, nullable: bool) -> Callable[..., Any]:
    part = PARTS[name]
    return (lambda values: np.where(np.isnat(values), np.nan, part(values))) if nullable else part


def _local(zone: str) -> Callable[..., Any]:
    """The local time of moments in UTC."""
    starts, offsets = _offsets(zone)
    return lambda moments: moments + offsets[np.searchsorted(starts, _ticks(moments), side="right") - 1]


@functools.cache
def _offsets(zone: str) -> tuple[np.ndarray, np.ndarray]:
    """When a zone's offset from UTC changes (microseconds since 1970) and to what; no zone changes it twice in a week."""
    info = ZoneInfo(zone)

    def offset(second: int) -> timedelta:
        return (_EPOCH + timedelta(seconds=second)).astimezone(info).utcoffset() or timedelta(0)

    begin, end = ((datetime(year, 1, 1, tzinfo=UTC) - _EPOCH) // timedelta(seconds=1) for year in _YEARS)
    found = [(begin, offset(begin))]
    for low in range(begin, end, 7 * 86_400):
        before, high = found[-1][1], low + 7 * 86_400
        after = offset(high)
        if after == before:
            continue
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if offset(middle) == before else (low, middle)
        found.append((high, after))
    return np.array([start for start, _ in found]) * _SECOND, np.array([offset for _, offset in found], "m8[us]")


_STEPS: dict[str, Callable[..., Callable[..., Any]]] = {
    "column": _column,
    "fill": _fill,
    "ufunc": _ufunc,
    "same_text": _same_text,
    "same": lambda: lambda values: values,
    "missing": _missing,
    "where": lambda: np.where,
    "round": lambda decimals: lambda values: np.round(values, decimals),
    "clip": lambda lower, upper: lambda values: np.clip(values, lower, upper),
    "isin": _isin,
    "map": _map,
    "astype": _astype,
    "text": _text,
    "text_length": _text_length,
    "part": _part,
    "local": _local,
    "seconds": lambda: lambda span: span / np.timedelta64(1, "s"),
    "days": lambda: lambda span: np.where(np.isnat(span), np.nan, span // np.timedelta64(1, "D")),
}
