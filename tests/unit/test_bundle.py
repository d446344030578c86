import errno
import json
import os
import threading

import numpy as np
import pandas as pd
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer
from training_project import MODEL_FILE

from windvane.bundle import canonical, find_bundle, open_bundle, read_golden, read_reference, write_bundle
from windvane.errors import BundleError, StorageError
from windvane.model_code import load_model_code
from windvane.predictor import golden_differences, load_predictor
from windvane.signature import describe_columns

RANDOM = np.random.default_rng(0)
ROWS = pd.DataFrame(
    {
        "seen": pd.date_range("2024-01-01", periods=60, freq="h", tz="UTC").as_unit("us"),
        "calls": RANDOM.normal(size=60),
        "plan": RANDOM.choice(["a", "b"], 60),
    }
)
LABEL = (ROWS["calls"] > 0).astype(int)


@pytest.fixture
def code(tmp_path):
    path = tmp_path / "churn.py"
    path.write_text(MODEL_FILE.format(task="binary_classification"))
    return load_model_code(path, "churn")


def write(root, code, *, key="a" * 64, pipeline=None, seed=1):
    pipeline = pipeline or code.build_pipeline({}).set_params(model__random_state=seed).fit(code.features(ROWS), LABEL)
    manifest = {
        "model": "churn",
        "task": "binary_classification",
        "training_key": key,
        "signature": [c.as_json() for c in describe_columns(ROWS, exclude=())],
        "classes": [0, 1],
    }
    return write_bundle(root, pipeline=pipeline, code=code, golden=ROWS.head(10), reference=ROWS, manifest=manifest)


def test_a_bundle_comes_back_whole(tmp_path, code):
    made = write(tmp_path / "bundles", code)
    opened = open_bundle(tmp_path / "bundles", made.digest)
    assert opened == made
    assert sorted(os.listdir(opened.path)) == ["bundle.json", "golden.parquet", "model.py", "model.skops", "reference.parquet"]
    assert len(read_reference(opened)) == 60
    assert list(read_golden(opened).columns) == ["seen", "calls", "plan", "prediction", "probability_0", "probability_1"]
    assert sorted(opened.files) == sorted(os.listdir(opened.path))
    assert opened.size_bytes() == sum(p.stat().st_size for p in opened.path.iterdir())
    assert not list((tmp_path / "bundles").glob(".building-*"))


def test_the_model_predicts_after_loading_what_it_predicted_before(tmp_path, code):
    pipeline = code.build_pipeline({}).set_params(model__random_state=1).fit(code.features(ROWS), LABEL)
    predictor = load_predictor(write(tmp_path, code, pipeline=pipeline))
    np.testing.assert_allclose(predictor.predict(ROWS).probabilities, pipeline.predict_proba(code.features(ROWS)), atol=1e-12)
    assert predictor.classes == (0, 1)
    assert golden_differences(predictor) == []


def test_a_model_in_onnx_is_one_more_file(tmp_path):
    path = tmp_path / "churn.py"
    path.write_text("def build_pipeline(params):\n    return None\n")
    rows = ROWS[["calls"]]
    manifest = {
        "model": "churn",
        "training_key": "a" * 64,
        "signature": [c.as_json() for c in describe_columns(rows, exclude=())],
        "classes": [0, 1],
    }
    pipeline = make_pipeline(LogisticRegression()).fit(rows, LABEL)
    made = write_bundle(
        tmp_path / "bundles", pipeline=pipeline, code=load_model_code(path, "churn"), golden=rows, reference=rows, manifest=manifest
    )
    opened = open_bundle(tmp_path / "bundles", made.digest)
    assert "model.onnx" in opened.files
    assert opened.size_bytes() == sum(p.stat().st_size for p in opened.path.iterdir())
    assert load_predictor(opened).runtime == "onnx"
    golden = read_golden(opened)
    assert golden["probability_1"].tolist() == load_predictor(opened).predict(golden).probabilities[:, 1].tolist()


@pytest.mark.parametrize("name", ["bundle.json", "golden.parquet", "model.py", "model.skops", "reference.parquet"])
@pytest.mark.parametrize("damage", ["flip", "cut", "remove", "link"])
def test_every_damage_to_any_file_is_refused(tmp_path, code, name, damage):
    made = write(tmp_path, code)
    path = made.path / name
    data = path.read_bytes()
    if damage == "flip":
        path.write_bytes(data[:20] + bytes([data[20] ^ 1]) + data[21:])
    elif damage == "cut":
        path.write_bytes(data[:-1])
    else:
        path.unlink()
        if damage == "link":
            elsewhere = tmp_path / "elsewhere"
            elsewhere.write_bytes(data)
            path.symlink_to(elsewhere)
    with pytest.raises(BundleError, match=name):
        open_bundle(tmp_path, made.digest)
    assert find_bundle(tmp_path, made.training_key) is None


def test_an_added_file_is_refused(tmp_path, code):
    made = write(tmp_path, code)
    (made.path / "model.pkl").write_bytes(b"x")
    with pytest.raises(BundleError, match=r"model\.pkl"):
        open_bundle(tmp_path, made.digest)


@pytest.mark.parametrize("digest", ["../secrets", "a" * 64, ""])
def test_an_unknown_digest_is_refused(tmp_path, digest):
    with pytest.raises(BundleError):
        open_bundle(tmp_path, digest)


def test_the_first_bundle_of_a_training_key_wins(tmp_path, code):
    first, second = write(tmp_path, code, seed=1), write(tmp_path, code, seed=2)
    assert second == first
    assert find_bundle(tmp_path, "a" * 64) == first
    assert [p.name for p in tmp_path.iterdir() if len(p.name) == 64] == [first.digest]


def test_two_writers_at_once_agree(tmp_path, code):
    made = []
    pipelines = [code.build_pipeline({}).set_params(model__random_state=s).fit(code.features(ROWS), LABEL) for s in (1, 2, 3)]
    threads = [threading.Thread(target=lambda p=p: made.append(write(tmp_path, code, pipeline=p))) for p in pipelines]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(made) == 3
    assert len({bundle.digest for bundle in made}) == 1


def test_a_damaged_bundle_is_replaced_by_the_next_training(tmp_path, code):
    first = write(tmp_path, code)
    (first.path / "golden.parquet").unlink()
    second = write(tmp_path, code, seed=2)
    assert find_bundle(tmp_path, "a" * 64) == second
    assert second.digest != first.digest


def test_a_full_disk_publishes_nothing_and_the_next_attempt_works(tmp_path, code, monkeypatch):
    def full(path):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr("windvane.bundle._sync", full)
        with pytest.raises(StorageError, match="No space left on device; nothing was published"):
            write(tmp_path / "bundles", code)
    assert list((tmp_path / "bundles").iterdir()) == []
    assert open_bundle(tmp_path / "bundles", write(tmp_path / "bundles", code).digest)


def test_what_a_killed_attempt_left_is_swept_after_a_day(tmp_path, code):
    old, young = tmp_path / ".building-old", tmp_path / ".building-young"
    old.mkdir()
    young.mkdir()
    os.utime(old, (1, 1))
    write(tmp_path, code)
    assert (old.exists(), young.exists()) == (False, True)


def test_a_lambda_cannot_be_stored(tmp_path, code):
    pipeline = code.build_pipeline({})
    pipeline.set_params(columns__functiontransformer__func=lambda values: values)
    pipeline.fit(code.features(ROWS), LABEL)
    with pytest.raises(BundleError, match=r"churn.py: the pipeline"):
        write(tmp_path, code, pipeline=pipeline)
    assert not any(len(p.name) == 64 for p in tmp_path.iterdir())


def test_a_type_outside_the_trusted_list_is_refused(tmp_path, code):
    pipeline = code.build_pipeline({}).fit(code.features(ROWS), LABEL)
    pipeline.steps.insert(1, ("evil", FunctionTransformer(os.path.basename)))
    with pytest.raises(BundleError, match=r"may not be loaded again: posixpath\.basename"):
        write(tmp_path, code, pipeline=pipeline)


def test_bytes_that_ask_for_another_type_are_refused_even_if_the_manifest_agrees(tmp_path, code):
    import hashlib

    import skops.io

    made = write(tmp_path, code)
    evil = skops.io.dumps(FunctionTransformer(os.system))
    (made.path / "model.skops").write_bytes(evil)
    manifest = {**made.manifest, "files": {**made.manifest["files"], "model.skops": hashlib.sha256(evil).hexdigest()}}
    data = canonical(manifest)
    (made.path / "bundle.json").write_bytes(data)
    moved = made.path.rename(tmp_path / hashlib.sha256(data).hexdigest())
    with pytest.raises(BundleError, match=r"not trusted: posix\.system"):
        load_predictor(open_bundle(tmp_path, moved.name))


def test_infinity_never_reaches_a_manifest():
    with pytest.raises(ValueError, match="not JSON compliant"):
        canonical({"metrics": {"roc_auc": float("inf")}})
    assert json.loads(canonical({"b": 1, "a": 2})) == {"a": 2, "b": 1}
