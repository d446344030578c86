"""Live figures: every segment counts once, whether it is read as a file, from the lake, or is collected meanwhile."""

from datetime import UTC, datetime, timedelta

import pyarrow as pa
import pytest

from windvane import read_traffic
from windvane.collect_predictions import collect_predictions
from windvane.config import ModelConfig
from windvane.lake import Lake
from windvane.read_traffic import TrafficReader, scored_since
from windvane.scoring.log_requests import SCHEMA
from windvane.settings import load_settings

NOON = datetime(2026, 5, 1, 12, tzinfo=UTC)


@pytest.fixture
def config():
    return ModelConfig.model_validate({"model": "tiny", "task": "binary_classification", "data": {"id": "key", "time": "at", "label": "y"}})


@pytest.fixture
def settings(tmp_path):
    return load_settings({"WINDVANE_VAR": str(tmp_path)})


@pytest.fixture
def lake(settings):
    return Lake(settings.lake)


def row(number, *, request=None, version=1, seconds=0.0, score=0.5, milliseconds=2.0, **more):
    return {
        "request_id": request or f"r{number}",
        "row": 0,
        "received": NOON + timedelta(seconds=seconds),
        "version": version,
        "features": f'{{"n":{number}}}',
        "score": score,
        "milliseconds": milliseconds,
    } | more


def write(settings, rows, *, written=NOON + timedelta(minutes=1), name=None):
    path = settings.requests / "tiny" / f"{name or f'{written:%Y%m%dT%H%M%S%fZ}-1-ab-000001'}.arrow"
    path.parent.mkdir(parents=True, exist_ok=True)
    names = [*SCHEMA.names, *({"milliseconds"} - set(SCHEMA.names))]
    table = pa.Table.from_pylist([{n: one.get(n) for n in names} for one in rows])
    table = table.set_column(table.column_names.index("received"), "received", table["received"].cast(pa.timestamp("us", tz="UTC")))
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_file(file, table.schema) as writer:
        writer.write_table(table)
    return path


def test_without_log_and_lake_there_are_no_figures(config, settings, lake):
    assert scored_since(config, settings, lake, since=NOON) == {}
    assert scored_since(config, settings, None, since=NOON) == {}


def test_versions_are_counted_apart_and_only_since_the_moment(config, settings):
    rows = [row(1, version=1, score=0.1), row(2, version=2, score=0.9, milliseconds=7.0), row(3, version=2, seconds=-1)]
    write(settings, [*rows, row(4, request="r2", version=2, score=0.8, milliseconds=7.0)])

    found = scored_since(config, settings, None, since=NOON)

    assert (found[1].requests, list(found[1].scores), found[1].p99_ms) == (1, [0.1], 2.0)
    assert (found[2].requests, list(found[2].scores), found[2].p99_ms, found[2].timed) == (1, [0.9, 0.8], 7.0, 1)
    assert (found[2].server_errors, found[2].refused) == (0, 0)


def test_a_collected_segment_counts_once(config, settings, lake):
    write(settings, [row(1), row(2)], name="a")
    reader = TrafficReader(config, settings, lake, since=NOON)
    assert reader.update()[1].requests == 2

    collect_predictions(config, settings, lake)
    assert reader.update()[1].requests == 2

    write(settings, [row(3)], name="b")
    collect_predictions(config, settings, lake)
    assert reader.update()[1].requests == 3
    write(settings, [row(4)], name="c")
    assert reader.update()[1].requests == 4
    assert scored_since(config, settings, lake, since=NOON)[1].requests == 4


def test_a_segment_that_is_committed_and_not_yet_deleted_counts_once(config, settings, lake):
    path = write(settings, [row(1)], name="a")
    content = path.read_bytes()
    collect_predictions(config, settings, lake)
    path.write_bytes(content)

    assert scored_since(config, settings, lake, since=NOON)[1].requests == 1


def test_a_segment_that_is_collected_between_listing_and_reading_counts(config, settings, lake, monkeypatch):
    write(settings, [row(1)], name="a")
    listed = read_traffic.list_segments

    def list_then_lose(*arguments):
        found = listed(*arguments)
        collect_predictions(config, settings, lake)
        return found

    monkeypatch.setattr(read_traffic, "list_segments", list_then_lose)

    assert scored_since(config, settings, lake, since=NOON)[1].requests == 1


def test_a_segment_is_read_once_and_an_older_one_not_at_all(config, settings, monkeypatch):
    write(settings, [row(1)])
    write(settings, [row(2, seconds=-90)], written=NOON - timedelta(minutes=1))
    reads = []
    read = read_traffic.read_segment
    monkeypatch.setattr(read_traffic, "read_segment", lambda path: reads.append(path.name) or read(path))
    reader = TrafficReader(config, settings, None, since=NOON)

    assert reader.update() == reader.update()
    assert len(reads) == 1


def test_a_damaged_segment_is_named_once_and_the_others_count(config, settings, caplog):
    write(settings, [row(1)], name="b")
    write(settings, [row(2)], name="a").write_bytes(b"ARROW1 cut")
    reader = TrafficReader(config, settings, None, since=NOON)

    assert reader.update()[1].requests == 1
    reader.update()
    assert len([record for record in caplog.records if "a.arrow" in record.getMessage()]) == 1


def test_rows_of_an_older_log_have_no_latency(config, settings, lake):
    old = pa.table({"segment": ["s"], "received": pa.array([NOON], pa.timestamp("us", tz="UTC"))})
    old = old.append_column("request_id", pa.array(["r"])).append_column("row", pa.array([0])).append_column("version", pa.array([1]))
    for name, value in (("features", "{}"), ("score", 0.5), ("probabilities", "[]")):
        old = old.append_column(name, pa.array([value]))
    lake.replace_rows("tiny", "predictions", old, key="segment", values=["s"])

    found = scored_since(config, settings, lake, since=NOON)[1]

    assert (found.requests, found.p99_ms, found.timed) == (1, None, 0)


def test_of_more_than_two_classes_the_score_is_the_place_of_the_most_probable(config, settings):
    write(settings, [row(1, score=None, probabilities="[0.2, 0.1, 0.7]"), row(2, score=None, probabilities=None)])

    assert list(scored_since(config, settings, None, since=NOON)[1].scores) == [2.0]


def test_the_sample_is_the_newest_rows_with_their_scores(config, settings):
    write(settings, [row(n, score=n / 1000) for n in range(700)])
    reader = TrafficReader(config, settings, None, since=NOON)
    reader.update()

    replay, scores = reader.sample(1)

    assert len(scores) == replay.logged == len(replay.features) == 500
    assert (replay.features[-1], scores[-1]) == ('{"n":699}', 0.699)
    assert reader.sample(9)[1] == []


def test_a_lake_that_cannot_be_read_is_said_and_files_still_count(config, settings, tmp_path, caplog):
    (tmp_path / "lake" / "tiny" / "predictions" / "_delta_log").mkdir(parents=True)
    (tmp_path / "lake" / "tiny" / "predictions" / "_delta_log" / "00000000000000000000.json").write_text("no json")
    write(settings, [row(1)])

    assert scored_since(config, settings, Lake(settings.lake), since=NOON)[1].requests == 1
    assert "cannot be read" in caplog.text


def test_a_row_that_is_asked_about_again_has_one_score_and_without_an_id_nobody_knows(config, settings):
    probe = [row(0, request=f"p{i}", id="probe", score=0.9) for i in range(60)]
    others = [row(i, id=f"k{i}", score=0.1) for i in range(1, 41)]
    changed = [row(0, request="c", id="k1", score=0.3)]
    write(settings, [*probe, *others, *changed], name="20260501T121000000000Z-1-ab-000001")
    write(settings, probe, name="20260501T121100000000Z-1-ab-000002")
    reader = TrafficReader(config, settings, None, since=NOON)
    found = reader.update()[1]
    assert (found.requests, found.rows, found.timed) == (161, 161, 161)
    assert sorted(found.scores) == [0.1] * 40 + [0.3, 0.9]
    assert reader.sample(1)[0].logged == 161
    write(settings, [row(0, request=f"n{i}") for i in range(5)], name="20260501T121200000000Z-1-ab-000003")
    found = reader.update()[1]
    assert (found.rows, len(found.scores)) == (166, 47)


def test_known_rows_are_bounded(config, settings, monkeypatch):
    monkeypatch.setattr(read_traffic, "_KEPT_SCORES", 10)
    write(settings, [row(i, id=f"k{i}") for i in range(50)])
    reader = TrafficReader(config, settings, None, since=NOON)
    assert reader.update()[1].rows == 50
    assert len(reader._versions[1].known) == 10
