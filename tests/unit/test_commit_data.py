import threading
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest

from windvane.commit_data import Commit, commit_data
from windvane.config import ModelConfig
from windvane.errors import DataError
from windvane.extract_data import extract_data
from windvane.lake import Lake
from windvane.settings import load_settings
from windvane.validate_data import validate_data
from windvane.windows import Window

JANUARY = Window("2013-01-01", "2013-02-01")
FEBRUARY = Window("2013-02-01", "2013-03-01")


@pytest.fixture
def settings(tmp_path):
    return load_settings({"WINDVANE_VAR": str(tmp_path / "var"), "WINDVANE_PROJECT": str(tmp_path)})


@pytest.fixture
def lake(settings):
    return Lake(settings.lake)


def config(on_invalid="quarantine_rows"):
    data = {"id": "id", "time": "t", "label": "late", "on_invalid": on_invalid}
    return ModelConfig.model_validate({"model": "m", "task": "binary_classification", "data": data})


def validation(settings, lake, *, window=JANUARY, x=(1.0, 2.0, 3.0), **options):
    times = pd.date_range(window.start, periods=len(x), freq="1h")
    frame = pd.DataFrame({"id": [f"{window.key}{n}" for n in range(len(x))], "t": times, "x": x, "late": [0.0, 1.0, None][: len(x)]})
    code = SimpleNamespace(path=Path("m.py"), read=lambda *_: frame)
    staged = extract_data(config(**options), code, settings, window=window, connection_uri=None)
    return validate_data(config(**options), settings, staged, known_schema=lake.columns("m", "raw"))


def test_valid_rows_are_committed_once_with_where_they_came_from(settings, lake):
    judged = validation(settings, lake)
    first = commit_data(config(), lake, judged)
    assert (first.rows, first.quarantined, first.changed) == (3, 0, True)
    assert Commit.from_json(first.as_json()) == first
    assert commit_data(config(), lake, judged) == Commit(JANUARY, first.version, 3, 0, changed=False)
    assert lake.windows("m")[0].metadata["digest"] == judged.staged.digest
    assert not lake.exists("m", "quarantine")


def test_invalid_rows_go_to_quarantine_and_leave_it_when_they_are_mended(settings, lake):
    bad = validation(settings, lake, x=(float("inf"), 2.0, 3.0))
    assert commit_data(config(), lake, bad).quarantined == 1
    assert commit_data(config(), lake, bad).changed is False
    found = lake.read("m", "quarantine")
    assert found[["window_key", "id", "reason"]].to_numpy().tolist() == [[JANUARY.key, f"{JANUARY.key}0", "x: infinite"]]
    assert set(found.columns) == {"window_key", "window_start", "window_end", "id", "reason", "row", "digest"}
    commit_data(config(), lake, validation(settings, lake))
    assert lake.read("m", "quarantine").empty
    assert len(lake.read("m", "raw")) == 3


def test_a_refused_batch_leaves_raw_untouched(settings, lake):
    commit_data(config(), lake, validation(settings, lake))
    refused = validation(settings, lake, x=(float("inf"), 2.0, 3.0), on_invalid="quarantine_batch")
    commit = commit_data(config("quarantine_batch"), lake, refused)
    assert (commit.version, commit.rows, commit.quarantined, commit.changed) == (1, 0, 3, False)
    assert lake.version("m", "raw") == 1
    assert len(lake.read("m", "quarantine")) == 3
    with pytest.raises(DataError):
        refused.raise_if_refused()


def test_a_lost_column_is_refused_by_what_the_table_has(settings, lake):
    commit_data(config(), lake, validation(settings, lake))
    judged = validation(settings, lake, window=FEBRUARY, x=["a", "b", "c"])
    assert judged.reasons == ("column 'x' was double and is now string; mend the source, or give the column a new name",)
    assert commit_data(config(), lake, judged).rows == 0
    assert lake.watermark("m") == JANUARY.end


@pytest.mark.parametrize("name", ["valid_path", "quarantine_path"])
@pytest.mark.parametrize("damage", [lambda content: content[:-9], lambda content: content[:60] + b"?" + content[61:]], ids=["cut", "flip"])
def test_a_damaged_staged_file_is_never_committed(settings, lake, name, damage):
    judged = validation(settings, lake)
    path = getattr(judged, name)
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(DataError, match="changed after it was written"):
        commit_data(config(), lake, judged)
    assert not lake.exists("m", "raw")


def test_eight_concurrent_commits_of_two_windows_leave_each_row_once(settings, lake):
    judged = [validation(settings, lake, window=window, x=(1.0, float("inf"), 3.0)) for window in (JANUARY, FEBRUARY)]
    problems = []

    def work(writer):
        try:
            commit_data(config(), lake, judged[writer % 2])
        except Exception as exc:  # noqa: BLE001 - collected and asserted on
            problems.append(exc)

    threads = [threading.Thread(target=work, args=(writer,)) for writer in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    assert problems == []
    assert len(lake.read("m", "raw")) == lake.read("m", "raw")["id"].nunique() == 4
    assert len(lake.read("m", "quarantine")) == lake.read("m", "quarantine")["id"].nunique() == 2
