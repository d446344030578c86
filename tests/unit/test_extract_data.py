import gzip
import json
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pyarrow.parquet as pq
import pytest
import sqlalchemy

from windvane.config import ModelConfig
from windvane.errors import ConfigError, DataError, ModelCodeError, ServiceUnavailable, StorageError
from windvane.extract_data import Staged, extract_data
from windvane.lake import Lake
from windvane.settings import load_settings
from windvane.windows import Window

WINDOW = Window("2013-01-01", "2013-02-01")
CSV = "id,t,x,late\na,2013-01-05T10:00:00Z,1.5,1\nb,2013-01-02T10:00:00Z,2,\nc,2013-02-05T10:00:00Z,3,0\n"


@pytest.fixture
def settings(tmp_path):
    return load_settings({"WINDVANE_VAR": str(tmp_path / "var"), "WINDVANE_PROJECT": str(tmp_path)})


def config(source):
    return ModelConfig.model_validate(
        {"model": "m", "task": "binary_classification", "data": {"source": source, "id": "id", "time": "t", "label": "late"}}
    )


def code(read):
    return SimpleNamespace(path=Path("include/models/m.py"), read=read)


def frame(**columns):
    times = pd.to_datetime(["2013-01-02T10:00Z", "2013-01-05T10:00Z"])
    return pd.DataFrame({"id": ["b", "a"], "t": times, "x": [2.0, 1.5], "late": [None, 1.0], **columns})


def extract(settings, source, *, read=None, connection_uri=None, window=WINDOW):
    return extract_data(config(source), code(read), settings, window=window, connection_uri=connection_uri)


def test_python_source_gets_the_window_and_the_connection(settings):
    asked = []
    staged = extract(settings, {"type": "python"}, read=lambda *given: asked.append(given) or frame(), connection_uri="sqlite://")
    assert asked == [(WINDOW, "sqlite://")]
    assert staged.rows == 2
    assert staged.directory.parent == settings.staging / "m" / WINDOW.key
    assert staged.read().schema.field("t").type.tz == "UTC"


def test_the_same_rows_in_another_order_are_the_same_batch(settings):
    first = extract(settings, {"type": "python"}, read=lambda *_: frame())
    second = extract(settings, {"type": "python"}, read=lambda *_: frame().iloc[::-1])
    assert second == first
    assert Staged.from_json(json.loads(json.dumps(first.as_json()))) == first


@pytest.mark.parametrize(
    ("read", "error", "message"),
    [
        pytest.param(None, ModelCodeError, "no function read", id="no-read"),
        pytest.param(lambda *_: 1 / 0, ModelCodeError, "read\\(\\) failed: ZeroDivisionError", id="read-fails"),
        pytest.param(lambda *_: [1], ModelCodeError, "must return a pandas DataFrame, got list", id="no-frame"),
        pytest.param(lambda *_: frame().iloc[:0], DataError, "has no rows", id="empty"),
        pytest.param(lambda *_: frame().drop(columns=["late", "id"]), DataError, "lost the columns 'late' .*'id'", id="lost"),
        pytest.param(lambda *_: frame(t=pd.Timestamp("2013-02-01", tz="UTC")), DataError, "2 of 2 rows lie outside", id="outside"),
        pytest.param(lambda *_: frame(t=["2013-01-02", "soon"]), DataError, "1 of 2 texts are no times", id="no-time"),
        pytest.param(lambda *_: frame(t=[1, 2]), DataError, "holds int64, allowed are times", id="time-retyped"),
        pytest.param(lambda *_: frame(x=[1, "one"]), DataError, "column 'x': its values have several types", id="mixed"),
        pytest.param(lambda *_: frame(x=[[1], [2]]), DataError, "column 'x': has the type list", id="list"),
        pytest.param(lambda *_: frame().rename(columns={"x": "id"}), DataError, "more than once: id", id="twice"),
    ],
)
def test_bad_python_sources_are_refused_by_name(settings, read, error, message):
    with pytest.raises(error, match=message):
        extract(settings, {"type": "python"}, read=read)
    assert not list(settings.var.rglob("*.parquet"))


def test_a_source_that_does_not_answer_can_be_retried(settings):
    def read(*_):
        raise ConnectionRefusedError("port 5432")

    with pytest.raises(ServiceUnavailable, match="ConnectionRefusedError: port 5432") as caught:
        extract(settings, {"type": "python"}, read=read)
    assert caught.value.retryable


@pytest.mark.parametrize("name", ["2013-01.csv", "2013-01.csv.gz"])
def test_csv_is_filtered_to_the_window_and_typed(settings, tmp_path, name):
    content = CSV.encode()
    (tmp_path / name).write_bytes(gzip.compress(content) if name.endswith("gz") else content)
    staged = extract(settings, {"type": "csv", "path": "{start:%Y-%m}.csv*"})
    assert staged.read().to_pylist() == [
        {"id": "b", "t": datetime(2013, 1, 2, 10, tzinfo=UTC), "x": 2.0, "late": None},
        {"id": "a", "t": datetime(2013, 1, 5, 10, tzinfo=UTC), "x": 1.5, "late": 1},
    ]


def test_a_csv_cut_anywhere_is_refused(settings, tmp_path):
    accepted = []
    whole_rows = {len(line) for line in [CSV[: n + 1] for n, sign in enumerate(CSV) if sign == "\n"]}
    for cut in range(len(CSV)):
        (tmp_path / "in.csv").write_text(CSV[:cut])
        try:
            extract(settings, {"type": "csv", "path": "in.csv"})
            accepted.append(cut)
        except DataError:
            continue
    # a cut exactly behind a row leaves no trace in the file
    assert set(accepted) <= whole_rows


@pytest.mark.parametrize(
    ("content", "message"),
    [
        pytest.param(b"id,t,x,late\na,2013-01-05,1\n", "Expected 4 columns, got 3", id="short-row"),
        pytest.param(b'id,t,x,late\n"a,2013-01-05,1,0\n', "cut in the middle", id="open-quote"),
        pytest.param(b"", "is empty", id="empty"),
        pytest.param(b"id,t,x,late\n\xff,2013-01-05,1,0\n", "not UTF-8 text in the columns id", id="latin-1"),
        pytest.param(b"id,t,x,late\n", "has no rows", id="only-a-header"),
    ],
)
def test_bad_csv_is_refused_without_quoting_a_row(settings, tmp_path, content, message):
    (tmp_path / "in.csv").write_bytes(content)
    with pytest.raises(DataError, match=message) as caught:
        extract(settings, {"type": "csv", "path": "in.csv"})
    assert "2013-01-05" not in str(caught.value)


def test_no_file_and_bad_placeholders_are_named(settings):
    with pytest.raises(DataError, match=r"no file matches '2013-01\.csv'"):
        extract(settings, {"type": "csv", "path": "{start:%Y-%m}.csv"})
    with pytest.raises(ConfigError, match="allowed placeholders are"):
        extract(settings, {"type": "csv", "path": "{month}.csv"})


def test_unfinished_and_hidden_files_are_not_read(settings, tmp_path):
    for name in ("a.csv.tmp", ".a.csv", "_a.csv"):
        (tmp_path / name).write_text(CSV)
    with pytest.raises(DataError, match="no file matches"):
        extract(settings, {"type": "csv", "path": "*a.csv*"})


def test_parquet_files_are_joined_and_a_cut_or_flipped_one_is_refused(settings, tmp_path):
    frame().iloc[:1].to_parquet(tmp_path / "1.parquet")
    frame().iloc[1:].to_parquet(tmp_path / "2.parquet")
    source = {"type": "parquet", "path": str(tmp_path / "*.parquet")}
    assert extract(settings, source).rows == 2
    content = (tmp_path / "2.parquet").read_bytes()
    (tmp_path / "2.parquet").write_bytes(content[: len(content) // 2])
    with pytest.raises(DataError, match=r"2\.parquet: not a whole Parquet file"):
        extract(settings, source)


def test_delta_source_reads_only_the_window(settings, tmp_path):
    other = Window("2013-02-01", "2013-03-01")
    lake = Lake(str(tmp_path / "theirs"))
    lake.overwrite_window("a", "b", frame(), window=WINDOW, time="t")
    lake.overwrite_window("a", "b", frame(t=other.start), window=other, time="t")
    assert extract(settings, {"type": "delta", "uri": lake.uri("a", "b")}).rows == 2
    with pytest.raises(DataError, match="there is no Delta table"):
        extract(settings, {"type": "delta", "uri": str(tmp_path / "nothing")})


def test_sql_source_binds_the_window(settings, tmp_path):
    uri = f"sqlite:///{tmp_path / 'in.db'}"
    engine = sqlalchemy.create_engine(uri)
    frame().assign(t=lambda f: f["t"].dt.tz_localize(None)).to_sql("flights", engine, index=False)
    engine.dispose()
    query = "select * from flights where t >= :window_start and t < :window_end"
    source = {"type": "sql", "connection": "warehouse", "query": query}
    assert extract(settings, source, connection_uri=uri).rows == 2
    with pytest.raises(DataError, match="has no rows"):
        extract(settings, source, connection_uri=uri, window=Window("2014-01-01", "2014-02-01"))
    with pytest.raises(ConfigError, match="connection 'warehouse' has no address"):
        extract(settings, source)
    with pytest.raises(ServiceUnavailable, match="connection 'warehouse'"):
        extract(settings, source, connection_uri="sqlite:////nowhere/at/all.db")


def test_a_changed_or_lost_staged_file_is_refused(settings):
    staged = extract(settings, {"type": "python"}, read=lambda *_: frame())
    content = bytearray(staged.path.read_bytes())
    content[len(content) // 2] ^= 1
    staged.path.write_bytes(content)
    with pytest.raises(DataError, match="changed after it was written"):
        staged.read()
    staged.path.unlink()
    with pytest.raises(DataError, match="cannot be read"):
        staged.read()


def test_staged_files_carry_page_checksums(settings):
    staged = extract(settings, {"type": "python"}, read=lambda *_: frame())
    assert pq.read_table(staged.path, page_checksum_verification=True).num_rows == 2


def test_a_failing_write_leaves_nothing_behind(settings, monkeypatch):
    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(StorageError, match=r"raw\.parquet: could not write \d+ bytes: no space is left"):
        extract(settings, {"type": "python"}, read=lambda *_: frame())
    assert [path for path in settings.staging.rglob("*") if path.is_file()] == []
