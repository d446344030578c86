"""The rows of a rehearsal: the newest requests that fit, their outcomes, and held-out rows of the candidate."""

import json
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from windvane.collect_predictions import collect_predictions
from windvane.config import ModelConfig
from windvane.lake import Lake
from windvane.replay_requests import gather_replay, write_replay
from windvane.settings import load_settings
from windvane.windows import Window

NOON = datetime(2026, 5, 1, 12, tzinfo=UTC)
MAY = Window(datetime(2026, 5, 1, tzinfo=UTC), datetime(2026, 6, 1, tzinfo=UTC))


@pytest.fixture
def config():
    return ModelConfig.model_validate({"model": "tiny", "task": "binary_classification", "data": {"id": "key", "time": "at", "label": "y"}})


@pytest.fixture
def settings(tmp_path):
    return load_settings({"WINDVANE_VAR": str(tmp_path)})


@pytest.fixture
def lake(settings):
    return Lake(settings.lake)


def make_candidate(path, *, columns=("n",), rows=6, classes=(0, 1), labels=None, held=4, **manifest):
    """The parts of a bundle that are looked at: its manifest, and a reference whose last rows were held out."""
    path.mkdir(parents=True, exist_ok=True)
    frame = pd.DataFrame({name: [float(n) for n in range(rows)] for name in columns})
    frame["y"] = labels or [float(n % 2) for n in range(rows)]
    frame["holdout"] = [n >= rows - held for n in range(rows)]
    frame.to_parquet(path / "reference.parquet", index=False)
    signature = [{"name": name, "type": "double", "nullable": False} for name in columns]
    made = {"model": "tiny", "signature": signature, "classes": None if classes is None else list(classes), "label": "y", "time": "at"}
    return SimpleNamespace(path=path, manifest=made | manifest)


def row(number, *, features=None, version=1, seconds=None, **more):
    return {
        "request_id": f"r{number}",
        "row": 0,
        "received": NOON + timedelta(seconds=number if seconds is None else seconds),
        "version": version,
        "id": f"k{number}",
        "time": NOON,
        "features": json.dumps({"n": float(number)} if features is None else features),
    } | more


def write(settings, name, rows):
    table = pa.Table.from_pylist(rows)
    path = settings.requests / "tiny" / f"{name}.arrow"
    path.parent.mkdir(parents=True, exist_ok=True)
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_file(file, table.schema) as writer:
        writer.write_table(table)


def gather(config, settings, lake, candidate, *, rows=10, champion=None):
    return gather_replay(config, settings, lake, champion=champion, candidate=candidate, rows=rows)


def numbers(replay):
    return [json.loads(text)["n"] for text in replay.features]


def test_a_row_that_is_asked_about_again_and_again_is_one_row(config, settings, lake, tmp_path):
    probe = [row(n, id="probe", features={"n": -1.0}) for n in range(100, 200)]
    write(settings, "20260501T120000000000Z-a", [row(1), *probe, row(2), row(3, id="k1")])
    found = gather(config, settings, lake, make_candidate(tmp_path / "b"), rows=5)
    assert numbers(found)[: found.logged] == [1.0, 2.0, 3.0, -1.0], "another row of the same id is another row"
    write(settings, "20260501T120000000000Z-a", [row(n, id=None, features={"n": 7.0}) for n in range(4)])
    assert gather(config, settings, lake, make_candidate(tmp_path / "b")).logged == 4, "without an id nobody knows"


def test_without_log_and_lake_held_out_rows_are_the_evidence(config, settings, tmp_path):
    found = gather(config, settings, None, make_candidate(tmp_path / "b"))

    assert (found.logged, found.held_out) == (0, 4)
    assert numbers(found) == [2, 3, 4, 5]
    assert found.outcomes == [0, 1, 0, 1]


def test_newest_requests_come_first_from_files_then_from_the_lake(config, settings, lake, tmp_path):
    candidate = make_candidate(tmp_path / "b", held=0)
    write(settings, "a", [row(n) for n in range(5)])
    collect_predictions(config, settings, lake)
    write(settings, "b", [row(n) for n in range(5, 8)])

    assert numbers(gather(config, settings, lake, candidate, rows=3)) == [5, 6, 7]
    assert numbers(gather(config, settings, lake, candidate, rows=5)) == [3, 4, 5, 6, 7]
    assert numbers(gather(config, settings, lake, candidate, rows=50)) == list(range(8))
    assert gather(config, settings, lake, candidate, rows=0).logged == 0


def test_a_segment_that_is_in_the_lake_and_still_a_file_is_replayed_once(config, settings, lake, tmp_path):
    write(settings, "a", [row(n) for n in range(5)])
    content = (settings.requests / "tiny" / "a.arrow").read_bytes()
    collect_predictions(config, settings, lake)
    (settings.requests / "tiny" / "a.arrow").write_bytes(content)

    assert numbers(gather(config, settings, lake, make_candidate(tmp_path / "b", held=0), rows=50)) == list(range(5))


@pytest.mark.parametrize("kind", ["text", "whole"])
def test_outcomes_are_joined_where_the_lake_knows_them(config, settings, lake, tmp_path, kind):
    key = {"text": "k{}", "whole": "{}"}[kind].format
    write(settings, "a", [row(n, id=key(n)) for n in range(4)] + [row(4, id=None)])
    ids = [key(n) if kind == "text" else n for n in (0, 1, 2)]
    raw = pd.DataFrame({"key": ids, "at": pd.to_datetime([NOON] * 3).as_unit("us"), "y": [1.0, None, 7.0]})
    lake.overwrite_window("tiny", "raw", raw, window=MAY, time="at")

    found = gather(config, settings, lake, make_candidate(tmp_path / "b", held=0))

    # the second is not known yet, the third is a label that the candidate never saw
    assert found.outcomes == [1, None, None, None, None]


def test_labels_become_places_among_the_classes_and_numbers_of_a_regression(config, settings, tmp_path):
    labels = ["b", "a", "c", "b", "x", "a"]
    assert gather(config, settings, None, make_candidate(tmp_path / "m", classes=("a", "b", "c"), labels=labels)).outcomes == [
        2,
        1,
        None,
        0,
    ]
    labels = [0.0, 0.0, 2.5, -1.0, float("nan"), 3.0]
    assert gather(config, settings, None, make_candidate(tmp_path / "r", classes=None, labels=labels)).outcomes == [2.5, -1, None, 3]


def test_a_row_without_a_column_of_the_candidate_does_not_count_but_one_of_another_type_does(config, settings, tmp_path):
    candidate = make_candidate(tmp_path / "b", columns=("n", "new"), held=0)
    odd = {"n": "text", "new": 1.0}
    write(settings, "a", [row(1), row(2, features={"n": 2.0, "new": 1.0, "gone": 1}), row(3, features=odd), row(4, features=[1])])

    assert [json.loads(text)["n"] for text in gather(config, settings, None, candidate).features] == [2.0, "text"]


def test_held_out_rows_have_the_columns_of_the_champion_too_where_the_lake_knows_them(config, settings, lake, tmp_path):
    holdout = {"window_start": "2026-05-10T00:00:00+00:00", "window_end": "2026-05-12T00:00:00+00:00"}
    candidate = make_candidate(tmp_path / "b", snapshot={"holdout": holdout})
    champion = make_candidate(tmp_path / "c", columns=("n", "gone"))
    assert numbers(gather(config, settings, lake, candidate, champion=champion)) == [2, 3, 4, 5]
    raw = pd.DataFrame({"key": list("abc"), "at": pd.to_datetime(["2026-05-09", "2026-05-10", "2026-05-11"], utc=True).as_unit("us")})
    lake.overwrite_window("tiny", "raw", raw.assign(n=1, gone=2.0, y=1.0), window=MAY, time="at")

    found = gather(config, settings, lake, candidate, champion=champion)

    assert found.features == ['{"n": 1.0, "gone": 2.0}'] * 2
    assert (found.outcomes, found.held_out) == ([1.0, 1.0], 2)


def test_held_out_rows_of_the_lake_are_more_and_drawn_evenly_by_time_window(config, settings, lake, tmp_path):
    holdout = {"window_start": "2026-05-10T00:00:00+00:00", "window_end": "2026-05-20T00:00:00+00:00"}
    candidate = make_candidate(tmp_path / "b", snapshot={"holdout": holdout})
    at = pd.date_range("2026-05-01", "2026-05-31", periods=30_001, tz="UTC", inclusive="left").as_unit("us")
    raw = pd.DataFrame({"key": range(30_000), "at": at, "n": np.arange(30_000.0), "y": 1.0, "other": "x"})
    raw.loc[raw["n"] == 9500, "y"] = None
    lake.overwrite_window("tiny", "raw", raw, window=MAY, time="at")

    found = gather(config, settings, lake, candidate)

    assert found.held_out == len(found.outcomes) == 4000
    assert sorted(numbers(found))[0] == 9000
    assert sorted(numbers(found))[-1] == 18_999
    assert max(np.diff(sorted(numbers(found)))) <= 4


def test_many_held_out_rows_are_drawn_evenly(config, settings, tmp_path):
    found = gather(config, settings, None, make_candidate(tmp_path / "b", rows=9000, held=9000))

    assert found.held_out == len(found.features) == len(found.outcomes) == 4000
    assert numbers(found)[::3999] == [0, 8999]


def test_a_damaged_segment_or_table_means_fewer_rows(config, settings, lake, tmp_path, caplog):
    write(settings, "a", [row(1)])
    write(settings, "b", [row(2)])
    (settings.requests / "tiny" / "b.arrow").write_bytes(b"cut")
    for table in ("predictions", "raw"):
        (tmp_path / "lake" / "tiny" / table / "_delta_log").mkdir(parents=True)
        (tmp_path / "lake" / "tiny" / table / "_delta_log" / f"{0:020}.json").write_text("no json")

    assert numbers(gather(config, settings, lake, make_candidate(tmp_path / "b", held=0))) == [1]
    assert "b.arrow" in caplog.text
    assert "raw: cannot be read" in caplog.text


def test_the_file_is_what_a_rehearsal_reads(config, settings, tmp_path):
    replay = gather(config, settings, None, make_candidate(tmp_path / "b"))
    path = tmp_path / "deep" / "replay.arrow"

    write_replay(path, replay)

    with pa.memory_map(str(path)) as source:
        assert pa.ipc.open_file(source).read_all()["features"].to_pylist() == replay.features
    assert path.stat().st_mode & 0o777 == 0o644
    assert [p.name for p in path.parent.iterdir()] == ["replay.arrow"]
