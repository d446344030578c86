import multiprocessing
import subprocess
import threading
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from deltalake import DeltaTable

from windvane.column_types import TIME
from windvane.errors import DataError, StorageError
from windvane.lake import Lake
from windvane.windows import Window

JANUARY = Window("2013-01-01", "2013-02-01")
FEBRUARY = Window("2013-02-01", "2013-03-01")


def rows(window, *, count=5, **columns):
    times = pd.date_range(window.start, periods=count, freq="1h")
    return pd.DataFrame({"id": [f"{window.key}-{n}" for n in range(count)], "t": times, "x": np.arange(float(count)), **columns})


def write(lake, window, **options):
    return lake.overwrite_window("m", "raw", rows(window, **options), window=window, time="t")


@pytest.fixture
def lake(tmp_path):
    return Lake(str(tmp_path / "lake"))


def test_a_missing_table_is_empty_everywhere(lake):
    assert lake.read("m", "raw").empty
    assert list(lake.read("m", "raw", columns=["id", "t"]).columns) == ["id", "t"]
    assert lake.version("m", "raw") is None
    assert lake.columns("m", "raw") is None
    assert lake.watermark("m") is None
    assert lake.windows("m") == []
    assert not lake.exists("m", "raw")


def test_windows_are_independent_and_read_back_as_utc_microseconds(lake):
    write(lake, JANUARY)
    write(lake, FEBRUARY, count=3)
    found = lake.read("m", "raw", window=FEBRUARY, time="t")
    assert len(found) == 3
    assert str(found["t"].dtype) == "datetime64[us, UTC]"
    assert len(lake.read("m", "raw")) == 8


def test_rewriting_a_window_replaces_only_its_rows(lake):
    write(lake, JANUARY)
    write(lake, FEBRUARY)
    write(lake, JANUARY, count=2)
    assert len(lake.read("m", "raw", window=JANUARY, time="t")) == 2
    assert len(lake.read("m", "raw", window=FEBRUARY, time="t")) == 5


def test_the_same_rows_in_any_order_make_no_new_version(lake):
    first = write(lake, JANUARY)
    shuffled = rows(JANUARY).sample(frac=1, random_state=1)
    assert lake.overwrite_window("m", "raw", shuffled, window=JANUARY, time="t") == first
    assert lake.version("m", "raw") == first


def test_the_same_rows_are_written_again_when_an_overlapping_window_replaced_them(lake):
    write(lake, JANUARY)
    overlap = Window("2012-12-15", "2013-01-15")
    lake.overwrite_window("m", "raw", rows(overlap, count=1), window=overlap, time="t")
    write(lake, JANUARY)
    assert len(lake.read("m", "raw", window=JANUARY, time="t")) == 5


def test_an_empty_window_removes_its_rows(lake):
    write(lake, JANUARY)
    lake.overwrite_window("m", "raw", rows(JANUARY).iloc[:0], window=JANUARY, time="t")
    assert lake.read("m", "raw").empty
    assert lake.windows("m")[0].rows == 0


def test_rows_outside_the_window_are_refused(lake):
    with pytest.raises(DataError, match="5 of 5 rows lie outside the window 2013-02-01"):
        lake.overwrite_window("m", "raw", rows(JANUARY), window=FEBRUARY, time="t")
    assert not lake.exists("m", "raw")


def test_the_end_of_a_window_is_exclusive_and_its_start_inclusive(lake):
    frame = rows(JANUARY, count=1)
    lake.overwrite_window("m", "raw", frame, window=JANUARY, time="t")
    assert len(lake.read("m", "raw", window=JANUARY, time="t")) == 1
    assert lake.read("m", "raw", window=Window("2012-12-01", "2013-01-01"), time="t").empty
    with pytest.raises(DataError):
        lake.overwrite_window("m", "raw", frame.assign(t=JANUARY.end), window=JANUARY, time="t")


def test_old_versions_can_be_read_again(lake):
    first = write(lake, JANUARY)
    write(lake, JANUARY, count=1)
    assert len(lake.read("m", "raw", version=first)) == 5
    with pytest.raises(DataError, match="no version 99; the newest is 2"):
        lake.read("m", "raw", version=99)


def test_a_new_column_is_added_and_older_rows_have_null(lake):
    write(lake, JANUARY, count=2)
    write(lake, FEBRUARY, count=2, y=["a", None])
    found = lake.read("m", "raw")
    assert found["y"].notna().sum() == 1
    assert lake.columns("m", "raw") == {"id": "string", "t": "timestamp[us, tz=UTC]", "x": "double", "y": "string"}


def test_a_column_of_nothing_gets_its_type_with_the_first_value(lake):
    write(lake, JANUARY, count=2, y=[None, None])
    assert lake.read("m", "raw", columns=["id", "y"])["y"].isna().all()
    write(lake, FEBRUARY, count=2, y=[1.5, 2.5])
    assert lake.columns("m", "raw")["y"] == "double"


def test_whole_numbers_with_a_gap_stay_whole_numbers(lake):
    write(lake, JANUARY, count=2, n=[1, 2])
    write(lake, FEBRUARY, count=2, n=[3.0, None])
    assert lake.columns("m", "raw")["n"] == "int64"
    with pytest.raises(DataError, match="column 'n' was int64"):
        write(lake, FEBRUARY, count=2, n=[3.5, None])


def test_another_type_is_refused_by_name(lake):
    write(lake, JANUARY)
    with pytest.raises(DataError, match="column 'x' was double and is now string"):
        write(lake, FEBRUARY, count=1, x=["a"])


def test_the_watermark_is_the_end_of_the_newest_window_and_never_falls_back(lake):
    write(lake, FEBRUARY)
    write(lake, JANUARY)
    assert lake.watermark("m") == datetime(2013, 3, 1, tzinfo=UTC)
    assert [commit.window for commit in lake.windows("m")] == [JANUARY, FEBRUARY]
    assert [commit.version for commit in lake.windows("m")] == [2, 1]


def test_metadata_is_kept_with_the_commit(lake):
    lake.overwrite_window("m", "raw", rows(JANUARY), window=JANUARY, time="t", metadata={"digest": "abc"})
    assert lake.windows("m")[0].metadata["digest"] == "abc"


def test_replacing_rows_by_key_is_idempotent(lake):
    frame = pd.DataFrame({"segment": ["a'1", "a'1", "b"], "v": [1, 2, 3]})
    first = lake.replace_rows("m", "predictions", frame, key="segment", values=["a'1", "b"])
    assert lake.replace_rows("m", "predictions", frame, key="segment", values=["a'1", "b"]) == first
    lake.replace_rows("m", "predictions", frame.iloc[:1], key="segment", values=["a'1"])
    assert sorted(lake.read("m", "predictions")["v"]) == [1, 3]
    lake.replace_rows("m", "predictions", frame.iloc[:0], key="segment", values=["b"])
    assert sorted(lake.read("m", "predictions")["v"]) == [1]


def test_replacing_rows_refuses_a_key_that_it_would_not_replace(lake):
    with pytest.raises(DataError, match="not among those to replace"):
        lake.replace_rows("m", "predictions", pd.DataFrame({"segment": ["a"]}), key="segment", values=["b"])


def test_nothing_to_replace_makes_no_table(lake):
    assert lake.replace_rows("m", "quarantine", pd.DataFrame({"k": []}), key="k", values=["a"]) is None
    assert not lake.exists("m", "quarantine")


@pytest.mark.parametrize("trial", range(3))
def test_eight_threads_on_two_new_windows_leave_one_writer_per_window(lake, trial):
    problems = []

    def work(writer):
        try:
            write(lake, (JANUARY, FEBRUARY)[writer % 2], count=50, writer=writer)
        except Exception as exc:  # noqa: BLE001 - collected and asserted on
            problems.append(exc)

    threads = [threading.Thread(target=work, args=(writer,)) for writer in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    assert problems == []
    found = lake.read("m", "raw")
    assert len(found) == found["id"].nunique() == 100
    assert found.groupby(found["t"].dt.month)["writer"].nunique().tolist() == [1, 1]


def _write_from_process(root, writer):
    write(Lake(root), (JANUARY, FEBRUARY)[writer % 2], count=50, writer=writer)


def test_four_processes_on_two_new_windows_leave_one_writer_per_window(lake):
    # fork is not possible: the threads of delta-rs do not survive it
    spawn = multiprocessing.get_context("spawn")
    processes = [spawn.Process(target=_write_from_process, args=(lake.root, writer)) for writer in range(4)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(timeout=60)
    assert [process.exitcode for process in processes] == [0] * 4
    found = lake.read("m", "raw")
    assert len(found) == found["id"].nunique() == 100
    assert found.groupby(found["t"].dt.month)["writer"].nunique().tolist() == [1, 1]


def batches_of(frame, size=2):
    table = pa.Table.from_pandas(frame, preserve_index=False)
    return lambda: table.cast(pa.schema([(f.name, TIME if f.name == "t" else f.type) for f in table.schema])).to_batches(max_chunksize=size)


def write_by(lake, window, make, *, rows=5, schema=None, **metadata):
    schema = schema or next(iter(make())).schema
    return lake.overwrite_window_by("m", "scores", make, schema=schema, rows=rows, window=window, time="t", metadata=metadata)


def test_batches_that_are_made_while_they_are_written_replace_the_window(lake):
    write_by(lake, JANUARY, batches_of(rows(JANUARY)), digest="a")
    write_by(lake, FEBRUARY, batches_of(rows(FEBRUARY)), digest="a")
    second = write_by(lake, JANUARY, batches_of(rows(JANUARY, count=3)), rows=3, digest="b")
    assert len(lake.read("m", "scores", window=JANUARY, time="t")) == 3
    assert len(lake.read("m", "scores")) == 8
    assert lake.windows("m", "scores")[0].metadata["digest"] == "b"
    assert write_by(lake, JANUARY, lambda: pytest.fail("made again"), rows=3, schema=pa.schema([("t", TIME)]), digest="b") == second


@pytest.mark.parametrize(
    ("frame", "problem"),
    [
        (rows(FEBRUARY), "rows lie outside the window 2013-01-01"),
        (rows(JANUARY, count=4), "got 4 rows for the window 2013-01-01..2013-02-01, announced were 5"),
        (rows(JANUARY, count=6), "got 6 rows"),
        (rows(JANUARY).assign(x="a"), "column 'x' was double and is now string"),
    ],
    ids=["outside", "too few", "too many", "type"],
)
def test_batches_that_are_wrong_are_refused_and_nothing_is_written(lake, frame, problem):
    first = write_by(lake, JANUARY, batches_of(rows(JANUARY)), digest="a")
    with pytest.raises(DataError, match=problem):
        write_by(lake, JANUARY, batches_of(frame), digest="b")
    assert lake.version("m", "scores") == first
    assert len(lake.read("m", "scores")) == 5


def test_whole_numbers_are_written_into_a_column_of_fractions(lake):
    write_by(lake, JANUARY, batches_of(rows(JANUARY)), digest="a")
    write_by(lake, FEBRUARY, batches_of(rows(FEBRUARY).assign(x=[1, 2, 3, 4, 5])), digest="a")
    assert lake.columns("m", "scores")["x"] == "double"


def test_batches_are_made_again_when_somebody_else_committed_first(lake):
    write_by(lake, FEBRUARY, batches_of(rows(FEBRUARY)), digest="a")
    calls = []

    def make():
        calls.append(1)
        if len(calls) == 1:
            write_by(lake, JANUARY, batches_of(rows(JANUARY, count=2)), rows=2, digest="other")
        return batches_of(rows(JANUARY))()

    write_by(lake, JANUARY, make, schema=next(iter(batches_of(rows(JANUARY))())).schema, digest="a")
    assert len(calls) == 2
    assert len(lake.read("m", "scores", window=JANUARY, time="t")) == 5


def test_a_scan_reads_the_window_of_the_version_that_it_found(lake):
    write(lake, JANUARY, place=["here", None, "here", "there", "here"])
    write(lake, FEBRUARY)
    scan = lake.scan("m", "raw", window=JANUARY, time="t")
    write(lake, JANUARY, count=1)
    assert (scan.version, scan.changed, scan.rows) == (2, 1, 5)
    found = pa.Table.from_batches(scan.batches(["x", "place", "id"], texts=["place"], rows_at_once=2))
    assert found.column_names == ["x", "place", "id"]
    assert found["x"].to_pylist() == [0, 1, 2, 3, 4]
    assert found["place"].to_pylist() == ["here", None, "here", "there", "here"]
    assert pa.types.is_dictionary(found["place"].type)


def test_a_scan_reads_null_where_a_file_is_older_than_a_column(lake):
    write(lake, JANUARY)
    write(lake, FEBRUARY, **{'we"ird': [1.5] * 5})
    scan = lake.scan("m", "raw", window=Window(JANUARY.start, FEBRUARY.end), time="t")
    found = pa.Table.from_batches(scan.batches(['we"ird'], rows_at_once=100))
    assert sorted(found['we"ird'].to_pylist(), key=str) == [1.5] * 5 + [None] * 5


def test_a_scan_of_nothing(lake):
    assert lake.scan("m", "raw", window=JANUARY, time="t") is None
    write(lake, JANUARY)
    assert lake.scan("m", "raw", window=FEBRUARY, time="t").rows == 0
    with pytest.raises(DataError, match="no column 'when' to find the window by; columns: id, t, x"):
        lake.scan("m", "raw", window=JANUARY, time="when")


def test_only_commits_that_may_concern_the_window_change_it(lake):
    first = write(lake, JANUARY)
    write(lake, FEBRUARY)
    table = DeltaTable(lake.uri("m", "raw"))
    table.optimize.compact()
    assert lake.scan("m", "raw", window=JANUARY, time="t").changed == first
    assert write(lake, JANUARY) == first
    table.update_incremental()
    table.delete("x = 0")
    assert lake.scan("m", "raw", window=JANUARY, time="t").changed == lake.version("m", "raw")
    write(lake, JANUARY)
    assert len(lake.read("m", "raw", window=JANUARY, time="t")) == 5


def test_a_table_is_created_once_when_several_begin_at_once(lake):
    together = threading.Barrier(4)

    def work(writer):
        together.wait()
        write(lake, JANUARY, writer=writer)

    threads = [threading.Thread(target=work, args=(writer,)) for writer in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    operations = [entry["operation"] for entry in DeltaTable(lake.uri("m", "raw")).history()]
    assert operations.count("CREATE TABLE") == 1


@pytest.fixture
def small_disk(tmp_path):
    place = tmp_path / "small"
    place.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(place)], capture_output=True, check=False)
    if mounted.returncode:
        pytest.skip("mounting a small disk needs root")
    yield place
    subprocess.run(["umount", str(place)], check=True)


def test_a_full_disk_is_named_and_commits_nothing(small_disk: Path):
    lake = Lake(str(small_disk / "lake"))
    write(lake, JANUARY, count=1)
    noise = np.random.default_rng(1).random(20_000)
    times = pd.date_range(FEBRUARY.start, periods=20_000, freq="1s")
    big = pd.DataFrame({"id": noise.astype(str), "t": times, "x": noise})
    with pytest.raises(StorageError, match=r"lake/m/raw: could not store \d+ bytes: no space is left"):
        lake.overwrite_window("m", "raw", big, window=FEBRUARY, time="t")
    assert len(lake.read("m", "raw")) == 1
    assert lake.watermark("m") == JANUARY.end


def test_commits_are_numbered_by_their_own_version_also_from_an_older_table(tmp_path):
    from deltalake import DeltaTable

    from windvane.committed_windows import commits_of

    lake = Lake(str(tmp_path))
    for day in (1, 2, 3):
        window = Window(datetime(2013, 1, day, tzinfo=UTC), datetime(2013, 1, day + 1, tzinfo=UTC))
        rows = pd.DataFrame({"at": pd.to_datetime([window.start], utc=True).as_unit("us"), "x": [day]})
        lake.overwrite_window("tiny", "raw", rows, window=window, time="at")
        if day == 2:
            older = DeltaTable(lake.uri("tiny", "raw"))

    assert [(c.version, c.window.start.day) for c in commits_of(older)] == [(older.version(), 2), (older.version() - 1, 1)]
