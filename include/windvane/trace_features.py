"""Turns the model file's `features(frame)` into a short list of column operations that runs on NumPy, without pandas.

It is called once with a frame that has names and types but no rows, and that writes down what is done to it. It knows
column reading and writing, `assign`, `drop`, `rename`, `copy`, selection by a list; arithmetic, comparison, `& | ^ ~`; NumPy's
element-wise functions, `np.where`, `np.clip`, `np.round`; `abs round clip between fillna isna notna isin map(dict) where mask`,
`astype` to float, int, bool and str; `.str.lower upper strip len`; `.dt` with `tz_convert`, `tz_localize(None)`, the parts of
date and time, `total_seconds` and `days`. All else, above all an `if` on values, is not traceable: such a model runs on pandas.

A program is `{"steps": [[operation, registers, parameters], ...], "columns": {name: register}}`; step i fills register i.
"""

import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.lib.mixins import NDArrayOperatorsMixin

from windvane.run_features import BITS, COMPARISONS, LOGICAL, PARTS, UFUNCS, WHOLE, Program
from windvane.signature import Column

_KINDS = {"string": "text", "double": "float", "long": "int", "boolean": "bool", "datetime": "time"}
_TYPES = {"float": "float", "float64": "float", "int": "int", "int64": "int", "bool": "bool", "str": "text"}


class NotTraceable(Exception):
    """`features` does something that is not known here; the text says what."""


def trace_features(features: Callable[[Any], Any], columns: Sequence[Column]) -> Program:
    """Trace `features`.

    Raises:
        NotTraceable: If it does something that is not known here.
    """
    steps: list[Any] = []
    inputs = {}
    for c in columns:
        kind = "float" if c.type == "boolean" and c.nullable else _KINDS[c.type]
        inputs[c.name] = Series(steps, "column", [], {"name": c.name}, kind=kind, nullable=c.nullable)
    try:
        made = features(Frame(inputs))
    except NotTraceable:
        raise
    except Exception as exc:
        raise NotTraceable(f"{type(exc).__name__}: {exc!s:.100}") from exc
    if not isinstance(made, Frame):
        raise NotTraceable(f"features() returned {type(made).__name__}")
    return {"steps": steps, "columns": {name: series.register for name, series in made.series.items()}}


class _Unknown:
    """Refuses what is not known."""

    def __getattr__(self, name: str) -> Any:
        raise NotTraceable(f"{type(self).__name__.lower()}.{name}")

    def _refuse(self, *_: Any) -> Any:
        raise NotTraceable("a decision that depends on values or on the number of rows")

    __bool__ = __len__ = __iter__ = __float__ = __int__ = __index__ = _refuse
    __array__ = _refuse


class Frame(_Unknown):
    """Stands for the DataFrame."""

    def __init__(self, series: Mapping[str, "Series"]) -> None:
        self.series = dict(series)

    @property
    def columns(self) -> list[str]:
        return list(self.series)

    def __contains__(self, name: object) -> bool:
        return name in self.series

    def __getattr__(self, name: str) -> Any:
        return self[name] if name in self.__dict__.get("series", {}) else super().__getattr__(name)

    def __getitem__(self, key: Any) -> Any:
        if isinstance(key, list) and all(name in self.series for name in key):
            return Frame({name: self.series[name] for name in key})
        if not isinstance(key, str) or key not in self.series:
            raise NotTraceable(f"frame[{type(key).__name__}]")
        return self.series[key]

    def __setitem__(self, name: str, value: Any) -> None:
        template = next(iter(self.series.values()))
        if not isinstance(name, str):
            raise NotTraceable("assignment to several columns")
        self.series[name] = (
            value if isinstance(value, Series) else template._emit("fill", [template], {"value": _plain(value)}, _kind(value))
        )

    def copy(self, deep: bool = True) -> "Frame":
        return Frame(self.series)

    def assign(self, **values: Any) -> "Frame":
        made = self.copy()
        for name, value in values.items():
            made[name] = value(made) if callable(value) else value
        return made

    def drop(self, *, columns: str | Iterable[str]) -> "Frame":
        gone = [columns] if isinstance(columns, str) else list(columns)
        if not set(gone) <= set(self.series):
            raise NotTraceable("drop of a column that is not there")
        return Frame({name: series for name, series in self.series.items() if name not in gone})

    def rename(self, *, columns: Mapping[str, str]) -> "Frame":
        return Frame({columns.get(name, name): series for name, series in self.series.items()})


class Series(_Unknown, NDArrayOperatorsMixin):
    """Stands for one column; `utc` is the register of a local time's moment."""

    def __init__(
        self, steps: list[Any], name: str, inputs: list[int], given: Mapping[str, Any], *, kind: str, nullable: bool = True
    ) -> None:
        self.steps, self.register, self.kind, self.nullable = steps, len(steps), kind, nullable
        self.utc: Series | None = self if name == "column" and kind == "time" else None
        steps.append([name, inputs, dict(given)])

    def _emit(self, name: str, inputs: Sequence["Series"], given: Mapping[str, Any], kind: str) -> "Series":
        nullable = any(series.nullable for series in inputs)
        return Series(self.steps, name, [series.register for series in inputs], given, kind=kind, nullable=nullable)

    def _need(self, *kinds: str) -> None:
        if self.kind not in kinds:
            raise NotTraceable(f"this operation on a column of the kind {self.kind}")

    def _operand(self, value: Any) -> "Series":
        return value if isinstance(value, Series) else self._emit("fill", [self], {"value": _plain(value)}, _kind(value))

    def _calculate(self, ufunc: str, *values: Any) -> "Series":
        if ufunc not in UFUNCS:
            raise NotTraceable(f"np.{ufunc}")
        inputs = [self._operand(value) for value in values]
        kinds = {series.kind for series in inputs}
        if ufunc == "subtract" and kinds == {"time"} and all(series.utc is not None for series in inputs):
            return self._emit("ufunc", [s.utc for s in inputs if s.utc is not None], {"name": ufunc}, "span")
        if ufunc in ("equal", "not_equal") and kinds == {"text"}:
            return self._emit("same_text", inputs, {"same": ufunc == "equal"}, "bool")
        if not kinds <= {"float", "int", "bool"}:
            raise NotTraceable(f"np.{ufunc} on {', '.join(sorted(kinds))}")
        if ufunc in ("floor_divide", "remainder") and (isinstance(values[1], Series) or not values[1]):
            raise NotTraceable("division without remainder by a column or by zero")
        truth = ufunc in COMPARISONS | LOGICAL | BITS
        if (kinds == {"bool"} and not truth) or (ufunc in BITS and kinds != {"bool"}):
            raise NotTraceable(f"np.{ufunc} on {', '.join(sorted(kinds))}")
        kind = "bool" if truth else "int" if "float" not in kinds and ufunc in WHOLE else "float"
        return self._emit("ufunc", inputs, {"name": ufunc}, kind)

    def __array_ufunc__(self, ufunc: Any, method: str, *inputs: Any, **kwargs: Any) -> "Series":
        if method != "__call__" or kwargs:
            raise NotTraceable(f"np.{ufunc.__name__} with options")
        return self._calculate(ufunc.__name__, *inputs)

    def __array_function__(self, func: Any, types: Any, args: Any, kwargs: Any) -> "Series":
        if func is np.where and len(args) == 3 and not kwargs and isinstance(args[0], Series):
            kept = args[1] if isinstance(args[1], Series) else args[0]._operand(args[1])
            return kept.where(args[0], args[2])
        if func in (np.clip, np.round) and isinstance(args[0], Series):
            made: Series = getattr(args[0], func.__name__)(*args[1:], **kwargs)
            return made
        raise NotTraceable(f"np.{func.__name__}")

    def abs(self) -> "Series":
        return self._calculate("absolute", self)

    def round(self, decimals: int = 0) -> "Series":
        self._need("float", "int")
        return self._emit("round", [self], {"decimals": decimals}, self.kind)

    def clip(self, lower: Any = None, upper: Any = None) -> "Series":
        self._need("float", "int")
        if {_kind(bound) for bound in (lower, upper) if bound is not None} - {"int", self.kind}:
            raise NotTraceable("clip with bounds of another kind")
        return self._emit("clip", [self], {"lower": _plain(lower), "upper": _plain(upper)}, self.kind)

    def between(self, left: Any, right: Any) -> "Series":
        return self._calculate("logical_and", self._calculate("greater_equal", self, left), self._calculate("less_equal", self, right))

    def isna(self) -> "Series":
        return self._emit("missing", [self], {}, "bool")

    def notna(self) -> "Series":
        return self._calculate("invert", self.isna())

    isnull, notnull = isna, notna

    def fillna(self, value: Any) -> "Series":
        return self if self.kind in ("int", "bool") else self.mask(self.isna(), value)

    def mask(self, condition: "Series", other: Any = None) -> "Series":
        return self.where(self._calculate("invert", condition), other)

    def where(self, condition: "Series", other: Any = None) -> "Series":
        if not isinstance(condition, Series) or condition.kind != "bool":
            raise NotTraceable("where() without a condition on columns")
        nothing = other is None or (isinstance(other, float) and other != other)
        text = self.kind == "text"
        given = self._emit("fill", [self], {} if text else {"nan": True}, "text" if text else "float") if nothing else self._operand(other)
        kinds = {self.kind, given.kind}
        if (len(kinds) > 1 and not kinds <= {"int", "float"}) or not kinds <= {"int", "float", "text", "bool"}:
            raise NotTraceable(f"where() on {' and '.join(sorted(kinds))}")
        return self._emit("where", [condition, self, given], {}, "float" if len(kinds) > 1 else self.kind)

    def isin(self, values: Iterable[Any]) -> "Series":
        self._need("text", "int", "float")
        return self._emit("isin", [self], {"values": [_plain(value) for value in values]}, "bool")

    def map(self, values: Mapping[Any, Any]) -> "Series":
        self._need("text", "int", "float")
        if not isinstance(values, dict):
            raise NotTraceable("map() with a function")
        pairs = [[_plain(key), _plain(value)] for key, value in values.items()]
        kinds = {_kind(value) for _, value in pairs}
        if not kinds <= {"int", "float"} and kinds != {"text"}:
            raise NotTraceable("map() to values of several kinds")
        return self._emit("map", [self], {"pairs": pairs, "text": kinds == {"text"}}, "text" if kinds == {"text"} else "float")

    def astype(self, kind: Any) -> "Series":
        wanted = _TYPES.get(kind if isinstance(kind, str) else getattr(kind, "__name__", ""))
        if wanted is None or self.kind not in ("float", "int", "bool", "text") or (self.kind == "text" and wanted != "text"):
            raise NotTraceable(f"astype({kind!s:.20}) of the kind {self.kind}")
        return self._emit("astype", [self], {"kind": wanted}, wanted)

    def __getattr__(self, name: str) -> Any:
        accessor = {("str", "text"): _Text, ("dt", "time"): _Time, ("dt", "span"): _Time}.get((name, self.__dict__.get("kind", "")))
        return accessor(self) if accessor else super().__getattr__(name)


class _Text(_Unknown):
    def __init__(self, series: Series) -> None:
        self._series = series
        for name in ("lower", "upper", "strip"):
            setattr(self, name, functools.partial(series._emit, "text", [series], {"name": name}, "text"))
        self.len = functools.partial(series._emit, "text_length", [series], {}, "float")


class _Time(_Unknown):
    def __init__(self, series: Series) -> None:
        self._series = series

    def __getattr__(self, name: str) -> Any:
        wanted = {"dayofweek": "weekday", "day_of_week": "weekday", "day_of_year": "dayofyear"}.get(name, name)
        if self._series.kind != "time" or wanted not in PARTS:
            return super().__getattr__(name)
        nullable = self._series.nullable
        return self._series._emit("part", [self._series], {"name": wanted, "nullable": nullable}, "float" if nullable else "int")

    def tz_convert(self, zone: Any) -> Series:
        utc = self._series.utc
        if utc is None or not isinstance(zone, str):
            raise NotTraceable("tz_convert() of a time without a zone, or without a zone's name")
        made = utc._emit("local", [utc], {"zone": zone}, "time")
        made.utc = utc
        return made

    def tz_localize(self, zone: None) -> Series:
        if zone is not None:
            raise NotTraceable("tz_localize() to a zone")
        return self._series._emit("same", [self._series], {}, "time")

    def total_seconds(self) -> Series:
        self._series._need("span")
        return self._series._emit("seconds", [self._series], {}, "float")

    @property
    def days(self) -> Series:
        self._series._need("span")
        return self._series._emit("days", [self._series], {}, "float")


def _plain(value: Any) -> Any:
    value = value.item() if isinstance(value, np.generic) else value
    if value is None or isinstance(value, bool | int | str) or (isinstance(value, float) and np.isfinite(value)):
        return value
    raise NotTraceable(f"a constant of the type {type(value).__name__}, or one that is not finite")


def _kind(value: Any) -> str:
    return {bool: "bool", int: "int", float: "float", str: "text"}.get(type(_plain(value)), "float")
