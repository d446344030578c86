import multiprocessing
import subprocess
import threading
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

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
