import json

import numpy as np
import pandas as pd
import pytest

from windvane.run_features import FeatureProgram
from windvane.signature import Column, arrays_of, conform
from windvane.trace_features import NotTraceable, trace_features

COLUMNS = (
    Column("a", "double", nullable=True),
    Column("b", "double", nullable=False),
    Column("whole", "long", nullable=False),
    Column("flag", "boolean", nullable=False),
    Column("perhaps", "boolean", nullable=True),
    Column("text", "string", nullable=True),
    Column("word", "string", nullable=False),
    Column("at", "datetime", nullable=False),
    Column("maybe", "datetime", nullable=True),
)
RANDOM = np.random.default_rng(0)
N = 500


def make_rows():
    moments = pd.to_datetime(RANDOM.integers(-(2**30), 2**31 - 1, N), unit="s", utc=True)
    rows = pd.DataFrame(
        {
            "a": np.where(RANDOM.random(N) < 0.2, np.nan, RANDOM.normal(size=N) * 10),
            "b": RANDOM.exponential(size=N),
            "whole": RANDOM.integers(-5, 6, N),
            "flag": RANDOM.random(N) < 0.5,
            "perhaps": RANDOM.choice([True, False, None], N),
            "text": RANDOM.choice(["x", " Yy ", "ß", "", None], N),
            "word": RANDOM.choice(["red", "green", "Blue"], N),
            "at": moments,
            "maybe": pd.Series(moments[::-1]).where(RANDOM.random(N) < 0.7),
        }
    )
    return conform(rows, COLUMNS)


ROWS = make_rows()


def same(series, values):
    if series.dtype == object:
        return series.where(series.notna(), None).tolist() == values.tolist()
    if series.dtype.kind == "M":
        return np.array_equal(series.dt.tz_localize(None).to_numpy(), values, equal_nan=True)
    return np.array_equal(series.to_numpy(float), values.astype(float), equal_nan=True)


TRACEABLE = {
    "arithmetic": lambda f: f.assign(
        x=f["a"] * 2 + f["b"] / 3 - 1, y=-(f["whole"] ** 2), z=1 / (f["b"] + 1), w=f["whole"] // 2 + f["whole"] % 3
    ),
    "integers and floats": lambda f: f.assign(x=f["whole"] * f["whole"] + f["flag"], y=f["whole"] / 2, z=f["whole"] + 0.5),
    "comparison": lambda f: f.assign(x=(f["a"] > 1) & ~(f["b"] <= 0.5) | (f["whole"] == 2), y=f["word"] == "red", z=f["text"] != "x"),
    "texts with each other": lambda f: f.assign(x=f["text"] == f["text"], y=f["text"] != f["word"]),
    "numpy": lambda f: f.assign(x=np.log1p(f["b"]), y=np.exp(f["a"] / 10), z=np.sqrt(f["b"]), w=np.maximum(f["a"], 0), v=np.isnan(f["a"])),
    "np.where": lambda f: f.assign(x=np.where(f["a"] > 0, f["a"], 0.0), y=np.where(f["flag"], "on", "off"), z=np.where(f["flag"], 1, 2)),
    "rounding": lambda f: f.assign(
        x=f["a"].round(1), y=f["a"].abs(), z=abs(f["whole"]), w=f["a"].clip(-1, 1), v=np.clip(f["b"], 0.5, None)
    ),
    "missing values": lambda f: f.assign(
        x=f["a"].fillna(0.0), y=f["a"].isna(), z=f["text"].fillna("?"), w=f["text"].notna(), v=f["maybe"].isna()
    ),
    "where and mask": lambda f: f.assign(x=f["a"].where(f["a"] > 0, -1.0), y=f["a"].mask(f["flag"]), z=f["text"].where(f["flag"], "no")),
    "between": lambda f: f.assign(x=f["a"].between(-1, 1), y=f["whole"].between(0, 2)),
    "types": lambda f: f.assign(
        x=f["flag"].astype(float), y=f["b"].astype(int), z=f["whole"].astype("float64"), w=f["whole"].astype(str), v=f["a"].astype(bool)
    ),
    "texts of numbers": lambda f: f.assign(x=f["a"].astype(str), y=f["flag"].astype(str), z=f["text"].astype(str)),
    "text": lambda f: f.assign(x=f["text"].str.lower(), y=f["word"].str.upper(), z=f["text"].str.strip(), w=f["text"].str.len()),
    "map": lambda f: f.assign(x=f["word"].map({"red": 1, "green": 2.5}), y=f["text"].map({"x": "first"}), z=f["whole"].map({1: 10.0})),
    "isin": lambda f: f.assign(x=f["word"].isin(["red", "Blue"]), y=f["whole"].isin((1, 2)), z=~f["text"].isin(["x"])),
    "time": lambda f: f.assign(
        x=f["at"].dt.hour, y=f["at"].dt.dayofweek, z=f["at"].dt.day, w=f["at"].dt.month, v=f["at"].dt.year, u=f["at"].dt.dayofyear
    ),
    "time with gaps": lambda f: f.assign(x=f["maybe"].dt.minute, y=f["maybe"].dt.second + 1, z=f["maybe"].dt.quarter, w=f["maybe"].dt.day),
    "zones": lambda f: f.assign(
        x=f["at"].dt.tz_convert("America/New_York").dt.hour,
        y=f["at"].dt.tz_convert("Asia/Kathmandu").dt.tz_convert("Australia/Lord_Howe").dt.minute,
        z=f["maybe"].dt.tz_convert("Europe/Berlin").dt.tz_localize(None).dt.weekday,
    ),
    "spans": lambda f: f.assign(x=(f["at"] - f["maybe"]).dt.total_seconds(), y=(f["at"] - f["maybe"]).dt.days),
    "columns": lambda f: f[["a", "b", "word"]].rename(columns={"a": "alpha"}).drop(columns="b"),
    "a callable": lambda f: f.assign(x=lambda g: g["a"] + 1, y=lambda g: g["x"] * 2),
    "attributes": lambda f: f.assign(x=f.a + f.b if "a" in f else 0.0),
    "constants": lambda f: f.assign(x=1.0, y="same", z=True),
}


def written(frame):
    made = frame.copy()
    made["x"] = made["a"] * 2
    made["a"] = 0.0
    for name in list(made.columns):
        if name.startswith("x"):
            made[name] = made[name] + 1
    return made


def identity(frame):
    return frame


@pytest.mark.parametrize("features", [*TRACEABLE.values(), written, identity], ids=[*TRACEABLE, "written", "identity"])
def test_the_program_gives_what_pandas_gives(features):
    program = json.loads(json.dumps(trace_features(features, COLUMNS), allow_nan=False))
    made = features(ROWS.copy())
    found = FeatureProgram(program, program["columns"])(arrays_of(ROWS, COLUMNS))
    assert list(found) == list(made.columns)
    assert [name for name in made if not same(made[name], found[name])] == []
    for row in (ROWS.iloc[[3]], ROWS.iloc[:0]):
        few = FeatureProgram(program, program["columns"])(arrays_of(row, COLUMNS))
        again = features(row.copy())
        assert [name for name in again if len(row) and not same(again[name], few[name])] == []
        assert {len(values) for values in few.values()} == {len(row)}


@pytest.mark.parametrize(
    "features",
    [
        lambda f: f.assign(x=1.0) if (f["a"] > 0).any() else f,
        lambda f: f.assign(x=1.0) if f["a"] > 0 else f,
        lambda f: f.assign(x=float(len(f))),
        lambda f: f.assign(x=f["a"].rolling(2).mean()),
        lambda f: f.assign(x=f["word"].apply(len)),
        lambda f: f.assign(x=f["word"].map(len)),
        lambda f: f.assign(x=list(f["a"])),
        lambda f: f.assign(x=np.asarray(f["a"])),
        lambda f: f[f["a"] > 0],
        lambda f: f["a"],
        lambda f: f.assign(x=f["a"] / float("inf")),
        lambda f: f.assign(x=f["whole"] // f["whole"]),
        lambda f: f.assign(x=f["word"] + "!"),
        lambda f: f.assign(x=f["word"].astype("category")),
        lambda f: f.assign(x=f["at"] > pd.Timestamp("2024-01-01", tz="UTC")),
        lambda f: f.assign(x=f["nowhere"]),
        lambda f: f.assign(x=np.add.reduce(f["a"])),
        lambda f: f.assign(x=f["flag"] - f["flag"]),
        lambda f: f.merge(f),
    ],
)
def test_what_is_not_known_is_not_traced(features):
    with pytest.raises(NotTraceable):
        trace_features(features, COLUMNS)


def test_in_place_addition_is_not_traced():
    def features(frame):
        column = frame["a"]
        column += 1
        return frame

    with pytest.raises(NotTraceable, match="options"):
        trace_features(features, COLUMNS)


def test_a_missing_number_does_not_become_a_whole_one():
    program = trace_features(lambda f: f.assign(x=f["a"].astype(int)), COLUMNS)
    with pytest.raises(ValueError, match="whole number"):
        FeatureProgram(program, ["x"])(arrays_of(ROWS, COLUMNS))


def test_only_what_is_wanted_is_computed():
    program = trace_features(lambda f: f.assign(x=f["a"].astype(int), y=f["b"] + 1), COLUMNS)
    found = FeatureProgram(program, ["y"])({"b": np.array([1.0])})
    assert {name: values.tolist() for name, values in found.items()} == {"y": [2.0]}


@pytest.mark.parametrize("zone", ["America/New_York", "Europe/Dublin", "Africa/Casablanca", "Australia/Lord_Howe", "Pacific/Apia", "UTC"])
def test_local_times_are_those_of_the_zone_at_each_hour_of_thirty_years(zone):
    from zoneinfo import ZoneInfo

    moments = pd.date_range("1995-01-01", "2025-01-01", freq="h", tz="UTC").as_unit("us")
    program = trace_features(lambda f: f.assign(x=f["at"].dt.tz_convert(zone)), [Column("at", "datetime", nullable=False)])
    found = FeatureProgram(program, ["x"])({"at": moments.tz_localize(None).to_numpy()})["x"]
    np.testing.assert_array_equal(found, moments.tz_convert(ZoneInfo(zone)).tz_localize(None).to_numpy())


@pytest.mark.parametrize(
    "program",
    [
        {"steps": [["system", [], {"command": "touch x"}]], "columns": {"x": 0}},
        {"steps": [["ufunc", [], {"name": "fromfile"}]], "columns": {"x": 0}},
        {"steps": [["ufunc", [1], {"name": "log"}], ["column", [], {"name": "a"}]], "columns": {"x": 0}},
        {"steps": [["ufunc", [0], {"name": "log"}]], "columns": {"x": 0}},
        {"steps": [["ufunc", [-1], {"name": "log"}]], "columns": {"x": 0}},
        {"steps": [["column", [], {"name": "a", "path": "/etc"}]], "columns": {"x": 0}},
        {"steps": [["local", [], {"zone": "../../etc/passwd"}]], "columns": {"x": 0}},
        {"steps": [["local", [], {"zone": "Mars/Phobos"}]], "columns": {"x": 0}},
        {"steps": [], "columns": {"x": 0}},
        {"steps": [], "columns": {}},
        {"columns": {"x": 0}},
        [],
    ],
)
def test_a_program_that_was_not_traced_is_refused(program):
    with pytest.raises(ValueError, match=r"."):
        FeatureProgram(program, ["x"])
