"""Request-log segments reach the lake once, whatever happens, and meet their outcomes."""

from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from windvane.collect_predictions import collect_predictions, join_outcomes
from windvane.config import ModelConfig
from windvane.lake import Lake
from windvane.settings import load_settings
from windvane.windows import Window

JANUARY = Window(datetime(2013, 1, 1, tzinfo=UTC), datetime(2013, 2, 1, tzinfo=UTC))


@pytest.fixture
def config():
    return ModelConfig.model_validate({"model": "tiny", "task": "binary_classification", "data": {"id": "key", "time": "at", "label": "y"}})


@pytest.fixture
def settings(tmp_path):
    return load_settings({"WINDVANE_VAR": str(tmp_path)})


@pytest.fixture
def lake(settings):
    return Lake(settings.lake)


def moment(day, hour=0):
    return datetime(2013, 1, day, hour, tzinfo=UTC)


def write_segment(settings, name, rows, *, form="arrow"):
    table = pa.Table.from_pylist(
        [
            {"segment": name, "request_id": f"{name}-{i}", "row": i, "version": 1, "features": "{}", "prediction": "1", **row}
            for i, row in enumerate(rows)
        ]
    )
    directory = settings.requests / "tiny"
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / f"{name}.{form}"
    if form == "parquet":
        pq.write_table(table, path)
    else:
        with pa.OSFile(str(path), "wb") as file, pa.ipc.new_file(file, table.schema) as writer:
            writer.write_table(table)
    return path


def raw_rows(*, key, at, y):
    return pd.DataFrame({"key": key, "at": pd.to_datetime(at, utc=True).as_unit("us"), "y": y})


def scored(key, day, score=0.5, hour=0):
    return {"id": key, "time": moment(day), "received": moment(day, hour), "score": score}


@pytest.mark.parametrize("form", ["arrow", "parquet"])
def test_segments_are_committed_then_deleted(config, settings, lake, form):
    first = write_segment(settings, "s1", [scored("a", 1), scored("b", 2)], form=form)
    second = write_segment(settings, "s2", [scored("c", 3)], form=form)

    assert collect_predictions(config, settings, lake) == 3

    assert not first.exists()
    assert not second.exists()
    found = lake.read("tiny", "predictions")
    assert sorted(found["id"]) == ["a", "b", "c"]
    assert sorted(found["segment"]) == ["s1", "s1", "s2"]
    assert collect_predictions(config, settings, lake) == 0


def test_segment_that_was_committed_but_not_deleted_is_there_once(config, settings, lake):
    for _ in range(2):
        write_segment(settings, "s1", [scored("a", 1), scored("b", 2)])
        collect_predictions(config, settings, lake)

    assert len(lake.read("tiny", "predictions")) == 2


def test_two_collectors_at_once_collect_once(config, settings, lake):
    for number in range(20):
        write_segment(settings, f"s{number}", [scored(f"k{number}", 1)])

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda _: collect_predictions(config, settings, Lake(settings.lake)), range(4)))

    assert sorted(lake.read("tiny", "predictions")["id"]) == sorted(f"k{number}" for number in range(20))
    assert list((settings.requests / "tiny").iterdir()) == []


def test_cut_segment_is_kept_aside_and_named_and_does_not_stop_the_others(config, settings, lake, caplog):
    cut = write_segment(settings, "s1", [scored("a", 1)] * 50)
    cut.write_bytes(cut.read_bytes()[:-40])
    write_segment(settings, "s2", [scored("b", 1)])
    unfinished = cut.with_name(".s3.arrow")
    unfinished.write_bytes(b"half")

    assert collect_predictions(config, settings, lake) == 1

    assert cut.with_name("s1.arrow.damaged").exists()
    assert unfinished.exists()
    assert "s1.arrow.damaged" in caplog.text


def test_segments_without_ids_or_scores_keep_their_types(config, settings, lake):
    write_segment(settings, "s1", [{"id": None, "time": None, "received": moment(1), "score": None}])
    write_segment(settings, "s2", [scored("a", 1)])

    collect_predictions(config, settings, lake)

    assert lake.columns("tiny", "predictions")["score"] == "double"
    assert len(join_outcomes(config, lake, JANUARY).rows) == 1


def test_latest_scoring_of_an_id_meets_its_outcome(config, settings, lake):
    write_segment(settings, "s1", [scored("a", 1, 0.1, hour=1), scored("b", 2, 0.2), scored(None, 2, 0.9), scored(None, 2, 0.9)])
    write_segment(settings, "s0", [scored("a", 1, 0.7, hour=3)])
    collect_predictions(config, settings, lake)
    raw = raw_rows(key=["a", "b", "z"], at=[moment(1), moment(2), moment(3)], y=[1.0, None, 0.0])
    lake.overwrite_window("tiny", "raw", raw, window=JANUARY, time="at")

    joined = join_outcomes(config, lake, JANUARY).rows

    assert joined.columns.tolist() == ["id", "time", "version", "score", "prediction", "probabilities", "label"]
    assert len(joined) == 4
    by_id = joined.dropna(subset="id").set_index("id")
    assert by_id.loc["a", ["score", "label"]].tolist() == [0.7, 1.0]
    assert by_id["label"].isna().to_dict() == {"a": False, "b": True}


def test_whole_number_ids_meet_the_text_of_the_log(config, settings, lake):
    write_segment(settings, "s1", [scored("17", 1)])
    collect_predictions(config, settings, lake)
    raw = raw_rows(key=[17], at=[moment(1)], y=[1.0])
    lake.overwrite_window("tiny", "raw", raw, window=JANUARY, time="at")

    assert join_outcomes(config, lake, JANUARY).rows["label"].tolist() == [1.0]


def test_of_many_scored_rows_a_sample_is_joined_with_all_its_outcomes(config, settings, lake):
    names = [f"k{number}" for number in range(2000)]
    for segment, score in (("s1", 0.1), ("s2", 0.9)):
        write_segment(settings, segment, [scored(name, 1, score, hour=1 + (segment == "s2")) for name in names])
    collect_predictions(config, settings, lake)
    raw = raw_rows(key=names, at=[moment(1)] * 2000, y=[float(number % 2) for number in range(2000)])
    lake.overwrite_window("tiny", "raw", raw, window=JANUARY, time="at")

    joined, whole = join_outcomes(config, lake, JANUARY, most=1000), join_outcomes(config, lake, JANUARY)

    assert (joined.of, joined.is_sampled) == (4000, True)
    assert (whole.of, whole.is_sampled) == (2000, False)
    # two scorings of each of nearly 500 names, of which the latest counts
    assert 450 < len(joined.rows) <= 500
    assert set(joined.rows["score"]) == {0.9}
    both = joined.rows.merge(whole.rows, on="id", suffixes=("", "_whole"))
    assert len(both) == len(joined.rows)
    assert both["label"].tolist() == both["label_whole"].tolist()
    assert both["label"].notna().all()


def test_without_ids_rows_are_drawn_from_all_requests_however_few(settings, lake):
    config = ModelConfig.model_validate({"model": "tiny", "task": "binary_classification", "data": {"time": "at", "label": "y"}})
    for number in range(10):
        write_segment(settings, f"s{number}", [scored(None, 1) | {"request_id": f"r{number}"}] * 100)
    collect_predictions(config, settings, lake)
    raw = raw_rows(key=range(10), at=[moment(1)] * 10, y=[float(number % 2) for number in range(10)])
    raw = raw.assign(request_id=[f"r{number}" for number in range(10)])
    lake.overwrite_window("tiny", "raw", raw, window=JANUARY, time="at")

    joined = join_outcomes(config, lake, JANUARY, most=500)

    assert (joined.of, len(joined.rows)) == (1000, 500)
    assert joined.rows["label"].value_counts().to_dict() == {0.0: 250, 1.0: 250}


def test_without_predictions_the_join_is_empty(config, lake):
    assert join_outcomes(config, lake, JANUARY).rows.empty


def test_milliseconds_reach_a_table_that_did_not_have_them(config, settings, lake):
    old = pa.table(
        {"segment": ["s0"], "request_id": ["r0"], "row": [0], "id": ["z"], "received": pa.array([moment(1)], pa.timestamp("us", tz="UTC"))}
    )
    lake.replace_rows("tiny", "predictions", old, key="segment", values=["s0"])
    write_segment(settings, "s1", [scored("a", 1) | {"milliseconds": 1.5}])
    write_segment(settings, "s2", [scored("b", 1)])

    assert collect_predictions(config, settings, lake) == 2

    found = lake.read("tiny", "predictions").set_index("segment")["milliseconds"]
    assert found["s1"] == 1.5
    assert found[["s0", "s2"]].isna().all()
