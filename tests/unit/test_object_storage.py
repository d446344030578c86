"""Lake, bundles and staged batches on a real S3 API: written by several at once, cut off, changed, removed."""

import json
import multiprocessing
import os
import shutil
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from s3_server import KEY, SECRET
from small_bundle import MODEL, make_bundle, make_settings

from windvane import shared_folder
from windvane.bundle import find_bundle, open_bundle
from windvane.config import ModelConfig
from windvane.errors import BundleError, DataError, StorageError
from windvane.extract_data import Staged, extract_data
from windvane.lake import Lake
from windvane.model_code import load_model_code
from windvane.object_path import ObjectPath
from windvane.retain_releases import prune_bundles
from windvane.settings import Settings, load_settings
from windvane.store_files import read_parquet, write_bytes
from windvane.windows import Window

JANUARY = Window("2013-01-01", "2013-02-01")
FEBRUARY = Window("2013-02-01", "2013-03-01")
LEAK = f"<Error><Code>SignatureDoesNotMatch</Code><AWSAccessKeyId>{KEY}</AWSAccessKeyId><StringToSign>{SECRET}</StringToSign></Error>"


def host(root: ObjectPath, directory: Path) -> Settings:
    """The settings of a host: what is shared lies in the object store, the rest in a directory of its own."""
    made = make_settings(directory)
    places = {f"WINDVANE_{name.upper()}": str(root / name) for name in ("lake", "bundles", "reports", "staging")}
    return load_settings({**made.as_environment(), **places})


@pytest.fixture
def hosts(root, tmp_path) -> tuple[Settings, Settings]:
    return host(root, tmp_path / "one"), host(root, tmp_path / "two")


# the lake


def rows(window: Window, *, count: int = 5, **columns) -> pd.DataFrame:
    times = pd.date_range(window.start, periods=count, freq="1h")
    return pd.DataFrame({"id": [f"{window.key}-{n}" for n in range(count)], "t": times, "x": np.arange(float(count)), **columns})


def overwrite(lake: Lake, window: Window, **options) -> int:
    return lake.overwrite_window("m", "raw", rows(window, **options), window=window, time="t", metadata={"note": "n"})


@pytest.fixture
def lake(root) -> Lake:
    return Lake(str(root / "lake"))


def test_a_window_is_replaced_once_however_often_it_is_written(lake):
    first = overwrite(lake, JANUARY)
    assert overwrite(lake, JANUARY) == first
    second = overwrite(lake, FEBRUARY, count=3)
    third = overwrite(lake, JANUARY, count=2)
    assert [first, second, third] == [1, 2, 3]
    assert len(lake.read("m", "raw", window=JANUARY, time="t")) == 2
    assert len(lake.read("m", "raw", version=first)) == 5
    assert [(w.version, w.rows, w.metadata["note"]) for w in lake.windows("m")] == [(3, 2, "n"), (2, 3, "n")]
    assert lake.watermark("m") == FEBRUARY.end
    assert lake.scan("m", "raw", window=JANUARY, time="t").changed == 3
    with pytest.raises(DataError, match="no version 9; the newest is 3"):
        lake.read("m", "raw", version=9)


def test_a_missing_table_is_empty(lake):
    assert lake.read("m", "raw").empty
    assert lake.windows("m") == []
    assert not lake.exists("m", "raw")


def test_batches_and_keyed_rows_are_written(lake):
    table = pa.Table.from_pandas(rows(JANUARY), preserve_index=False).cast(
        pa.schema([("id", pa.string()), ("t", pa.timestamp("us", "UTC")), ("x", pa.float64())])
    )
    made = lake.overwrite_window_by(
        "m", "scores", lambda: table.to_batches(), schema=table.schema, rows=5, window=JANUARY, time="t", metadata={"from": "a"}
    )
    assert (made, len(lake.read("m", "scores"))) == (1, 5)
    keyed = rows(JANUARY).assign(key="a")
    assert lake.replace_rows("m", "quarantine", keyed, key="key", values=["a"]) == 1
    assert lake.replace_rows("m", "quarantine", keyed, key="key", values=["a"]) == 1
    assert lake.replace_rows("m", "quarantine", keyed.iloc[:0], key="key", values=["a"]) == 2
    assert lake.read("m", "quarantine").empty


def _write(root: str, window: Window, start: float) -> None:
    lake = Lake(root)
    frame = rows(window).assign(x=np.arange(5.0) + start)
    lake.overwrite_window("m", "raw", frame, window=window, time="t")


def test_processes_that_create_and_write_at_once_leave_one_writer_per_window(lake):
    spawn = multiprocessing.get_context("spawn")
    writers = [spawn.Process(target=_write, args=(lake.root, window, start)) for start in (0.0, 100.0) for window in (JANUARY, FEBRUARY)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join(120)
        assert writer.exitcode == 0
    for window in (JANUARY, FEBRUARY):
        found = sorted(lake.read("m", "raw", window=window, time="t")["x"])
        assert found in ([0.0, 1.0, 2.0, 3.0, 4.0], [100.0, 101.0, 102.0, 103.0, 104.0])


def test_threads_on_eight_windows_lose_no_commit(lake):
    windows = [Window(JANUARY.start + timedelta(days=n), JANUARY.start + timedelta(days=n + 1)) for n in range(8)]
    with ThreadPoolExecutor(8) as pool:
        versions = list(pool.map(lambda window: overwrite(lake, window), windows))
    assert sorted(versions) == list(range(1, 9))
    assert [w.window for w in lake.windows("m")] == windows
    assert len(lake.read("m", "raw")) == 40


def test_a_commit_that_was_answered_with_an_error_is_there_once(s3, lake):
    overwrite(lake, JANUARY)
    s3.fail("PUT", "_delta_log", status=500)
    overwrite(lake, FEBRUARY)
    assert len(lake.read("m", "raw")) == 10
    assert [w.window for w in lake.windows("m")] == [JANUARY, FEBRUARY]


def test_the_requests_of_a_write_do_not_grow_with_the_history(s3, lake):
    def cost(day: int) -> int:
        s3.requests()
        overwrite(lake, Window(JANUARY.start + timedelta(days=day), JANUARY.start + timedelta(days=day + 1)))
        return s3.requests().total()

    costs = [cost(day) for day in range(45)]
    assert max(costs[15:]) < 120
    assert sum(costs[35:45]) < 1.3 * sum(costs[15:25])


def test_no_error_repeats_a_key(s3, root):
    lake = Lake(str(root / "lake"))
    overwrite(lake, JANUARY)
    told = []
    for method, name, act in [
        ("GET", "file", (root / "file").read_bytes),
        ("PUT", "file", lambda: (root / "file").write_bytes(b"x")),
        ("PUT", "file", lambda: (root / "file").create(b"x")),
        ("HEAD", "file", (root / "file").is_file),
        ("GET", "_delta_log", lambda: lake.read("m", "raw")),
        ("GET", ".parquet", lambda: lake.read("m", "raw")),
        ("GET", ".parquet", lambda: lake.scan("m", "raw", window=JANUARY, time="t")),
        ("PUT", ".parquet", lambda: overwrite(lake, FEBRUARY)),
        ("PUT", "_delta_log", lambda: overwrite(lake, FEBRUARY)),
    ]:
        s3.fail(method, name, status=403, body=LEAK)
        with pytest.raises(StorageError, match="403 Forbidden") as failed:
            act()
        shown, error = [], failed.value
        while error is not None:
            shown.append(str(error))
            error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
        told.append(" ".join(shown))
    assert not [text for text in told if KEY in text or SECRET in text]
    assert all("docs/storage.md" in text for text in told)


# bundles


def test_a_bundle_of_one_host_is_opened_by_another_and_fetched_once(s3, hosts):
    one, two = hosts
    made = make_bundle(one, passed=None)
    opened = open_bundle(two.bundles, made.digest)
    assert opened.path.parent == two.var / "cache" / "bundles"
    assert (opened.digest, opened.manifest, opened.size_bytes()) == (made.digest, made.manifest, made.size_bytes())
    s3.requests()
    open_bundle(two.bundles, made.digest)
    assert s3.requests().total() == 0
    assert find_bundle(two.bundles, made.training_key).digest == made.digest
    assert find_bundle(two.bundles, "f" * 64) is None
    with pytest.raises(BundleError, match="there is no such bundle"):
        open_bundle(two.bundles, "0" * 64)


def test_of_two_hosts_that_train_the_same_the_first_wins(root, hosts):
    first, second = (make_bundle(settings, passed=None) for settings in hosts)
    assert second.digest == first.digest
    assert (root / "bundles" / "keys" / first.training_key).read_text() == first.digest
    assert {place.key.split("/")[-2] for place, _ in (root / "bundles").objects() if place.name == "bundle.json"} == {first.digest}
    assert [place.name for place, _ in (root / "bundles" / "models").objects()] == [first.digest]


def test_hosts_that_publish_at_once_agree(root, tmp_path):
    settings = [host(root, tmp_path / str(n)) for n in range(4)]
    for trial in range(3):
        with ThreadPoolExecutor(4) as pool:
            made = list(pool.map(lambda where, trial=trial: make_bundle(where, seed=trial + 1, passed=None), settings))
        assert len({bundle.digest for bundle in made}) == 1


def test_a_bundle_that_was_cut_off_is_none_and_the_next_attempt_publishes(s3, root, hosts):
    one, two = hosts
    s3.fail("PUT", "bundle.json", status=403)
    with pytest.raises(StorageError, match="cannot be written: 403"):
        make_bundle(one, passed=None)
    cut = shared_folder.list_shared(two.bundles, MODEL)
    assert len(cut) == 1
    assert find_bundle(two.bundles, cut[0].training_key) is None
    with pytest.raises(BundleError, match="there is no such bundle"):
        open_bundle(two.bundles, cut[0].digest)
    made = make_bundle(two, passed=None)
    assert find_bundle(one.bundles, made.training_key).digest == made.digest


def test_a_download_that_is_cut_off_leaves_nothing(s3, hosts):
    one, two = hosts
    made = make_bundle(one, passed=None)
    s3.fail("GET", "model.skops", status=200, cut=100, times=1000)
    with pytest.raises((StorageError, BundleError), match=r"model\.skops"):
        open_bundle(two.bundles, made.digest)
    assert list((two.var / "cache" / "bundles").iterdir()) == []
    s3.mend()
    assert open_bundle(two.bundles, made.digest).digest == made.digest


def test_processes_of_one_host_fetch_at_once(hosts):
    one, two = hosts
    made = make_bundle(one, passed=None)
    with ThreadPoolExecutor(8) as pool:
        opened = list(pool.map(lambda _: open_bundle(two.bundles, made.digest), range(8)))
    assert {bundle.digest for bundle in opened} == {made.digest}
    assert [path.name for path in (two.var / "cache" / "bundles").iterdir()] == [made.digest]


@pytest.mark.parametrize("name", ["model.skops", "bundle.json", "added.txt"])
def test_a_damaged_copy_is_fetched_again(hosts, name):
    one, two = hosts
    made = make_bundle(one, passed=None)
    copy = open_bundle(two.bundles, made.digest).path
    (copy / name).write_bytes(b"damaged")
    assert open_bundle(two.bundles, made.digest).manifest == made.manifest
    assert not (copy / "added.txt").exists()


def test_a_bundle_that_was_changed_in_the_store_is_refused(root, hosts):
    one, two = hosts
    made = make_bundle(one, passed=None)
    whole = (root / "bundles" / made.digest / "model.skops").read_bytes()
    for damaged in (whole[:-1], bytes([whole[0] ^ 1]) + whole[1:]):
        (root / "bundles" / made.digest / "model.skops").write_bytes(damaged)
        with pytest.raises(BundleError, match="its SHA-256 differs"):
            open_bundle(two.bundles, made.digest)
    (root / "bundles" / made.digest / "bundle.json").write_bytes(b"{}")
    with pytest.raises(BundleError, match="differs"):
        open_bundle(two.bundles, made.digest)
    # this host trained it and has it whole
    assert open_bundle(one.bundles, made.digest).digest == made.digest


def test_a_key_whose_bundle_is_gone_is_claimed_anew(root, hosts):
    one, two = hosts
    lost = make_bundle(one, passed=None)
    (root / "bundles" / lost.digest / "bundle.json").unlink()
    shutil.rmtree(one.var / "cache")
    (root / "bundles" / "keys" / lost.training_key).write_bytes(b"0" * 64)
    made = make_bundle(two, passed=None)
    assert (root / "bundles" / "keys" / lost.training_key).read_text() == made.digest


def test_what_nothing_needs_is_removed_from_the_store_and_from_this_host(root, hosts):
    one, two = hosts
    old, kept = make_bundle(one, seed=1, passed=None), make_bundle(one, seed=2, passed=None)
    write_bytes(root / "bundles" / "verdicts" / f"{old.digest}.json", b"{}")
    open_bundle(two.bundles, old.digest)
    assert prune_bundles(two, MODEL, {kept.digest}) == []
    assert prune_bundles(two, "other", set(), young_seconds=0) == []
    assert prune_bundles(two, MODEL, {kept.digest}, young_seconds=0) == [old.digest]
    assert find_bundle(two.bundles, old.training_key) is None
    assert find_bundle(two.bundles, kept.training_key).digest == kept.digest
    assert not [place for place, _ in (root / "bundles").objects() if old.digest in place.key]
    assert not (two.var / "cache" / "bundles" / old.digest).exists()


def test_a_copy_that_was_not_used_for_a_week_is_forgotten(hosts):
    one, two = hosts
    old, new = make_bundle(one, seed=1, passed=None), make_bundle(one, seed=2, passed=None)
    copy = open_bundle(two.bundles, old.digest).path
    os.utime(copy, (0, 0))
    open_bundle(two.bundles, new.digest)
    assert not copy.exists()
    assert open_bundle(two.bundles, old.digest).digest == old.digest


def test_a_full_disk_of_this_host_is_named(hosts, monkeypatch):
    one, two = hosts
    made = make_bundle(one, passed=None)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(shared_folder, "_fetch", full)
    with pytest.raises(StorageError, match="No space left on device"):
        open_bundle(two.bundles, made.digest)


# batches


def test_a_staged_batch_is_read_by_another_host_and_refused_when_it_changed(root, hosts, tmp_path):
    one, _ = hosts
    rows(JANUARY).assign(y=1).to_parquet(tmp_path / "in.parquet")
    source = {"type": "parquet", "path": str(tmp_path / "in.parquet")}
    config = ModelConfig.model_validate(
        {"model": MODEL, "task": "binary_classification", "data": {"id": "id", "time": "t", "label": "y", "source": source}}
    )
    code = load_model_code(one.project / "include" / "models" / f"{MODEL}.py", MODEL)
    staged = extract_data(config, code, one, window=JANUARY, connection_uri=None)
    again = Staged.from_json(json.loads(json.dumps(staged.as_json())))
    assert again == staged
    assert str(again.path).startswith(str(root / "staging"))
    assert again.read().num_rows == 5
    again.path.write_bytes(again.path.read_bytes()[:-1])
    with pytest.raises(DataError, match="the file changed"):
        again.read()
    again.path.unlink()
    with pytest.raises(DataError, match="cannot be read"):
        read_parquet(again.path)
