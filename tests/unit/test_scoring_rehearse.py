"""A candidate that is not the model that was judged never passes its rehearsal, and a replay says what it does with requests."""

import json
import os
import subprocess
import sys

import numpy as np
import pyarrow as pa
import pytest
import small_bundle
from test_scoring_bundles import make_bundle, rows

from windvane.bundle import canonical
from windvane.encode_rows import encode_rows
from windvane.replay_requests import ReplayRows, write_replay
from windvane.scoring import rehearse
from windvane.scoring.rehearse import rehearse_bundle, replay_rows
from windvane.scoring.serve_version import Wanted, load_version
from windvane.signature import columns_from_json

TASKS = [("binary_classification", (0.0, 1.0)), ("multiclass_classification", ("a", "b", "c")), ("regression", ())]


def replay_file(path, made, count, *, more=()):
    frame = rows(count, seed=5)
    frame["at"] = frame["at"].dt.as_unit("us")
    table = pa.Table.from_pandas(frame, preserve_index=False)
    texts = [*more, *encode_rows(table, columns_from_json(made.manifest["signature"]))]
    write_replay(path, ReplayRows(texts, [None] * len(texts), len(texts), 0))
    return path


@pytest.mark.parametrize(("task", "classes"), TASKS)
def test_a_good_bundle_passes_through_the_path_of_a_request(tmp_path, task, classes):
    made = make_bundle(tmp_path / "bundles", task=task, classes=classes or (0, 1))

    found = rehearse_bundle(tmp_path / "bundles", made.digest)

    assert found.ok, found.error
    assert found.rows == 30
    assert found.max_difference <= 1e-6
    assert 0 < found.p99_ms < 1000
    assert found.peak_rss_mb > 10
    assert found.runtime in ("onnx", "skops")
    assert "replay" not in found.as_json()


@pytest.mark.parametrize(("task", "classes"), TASKS)
def test_a_replay_answers_each_row_as_the_predictor_does(tmp_path, task, classes):
    made = make_bundle(tmp_path / "bundles", task=task, classes=classes or (0, 1))
    file = replay_file(tmp_path / "replay.arrow", made, 900)

    found = rehearse_bundle(tmp_path / "bundles", made.digest, replay=file)

    assert found.ok, found.error
    replay = found.as_json()["replay"]
    assert (replay["rows"], replay["refused"], replay["errors"]) == (900, 0, 0)
    assert 0 < replay["p99_low_ms"] <= replay["p99_ms"] < 1000
    assert replay["mean_ms"] < 1000
    assert replay["classes"] == (list(classes) or None)
    predictor = load_version(tmp_path / "bundles", Wanted(0, made.digest), model=None).predictor
    wanted = predictor.predict(rows(900, seed=5))
    values = {
        "regression": lambda: wanted.values,
        "binary_classification": lambda: wanted.probabilities[:, 1],
        "multiclass_classification": lambda: wanted.probabilities.argmax(axis=1),
    }[task]()
    assert np.allclose(replay["scores"], values, rtol=1e-6, atol=1e-6)


def test_refused_rows_and_errors_are_counted_one_by_one(tmp_path, monkeypatch):
    made = make_bundle(tmp_path / "bundles")
    # a text where a number is due, and a row without a field; both first among the single ones, then within a batch
    bad = ['{"carrier": 1}', '{"carrier":"UA","distance":"far","seats":1,"night":null,"at":null}']
    file = replay_file(tmp_path / "replay.arrow", made, 700, more=bad)
    texts = rehearse._read_replay(file)
    served = load_version(tmp_path / "bundles", Wanted(0, made.digest), model=None)
    scored = rehearse.score_request

    def sometimes_broken(served, body, *arguments, **options):
        if b"BROKEN" in body:
            raise ZeroDivisionError
        return scored(served, body, *arguments, **options)

    monkeypatch.setattr(rehearse, "score_request", sometimes_broken)
    found = replay_rows(served, [*texts, *bad, texts[5].replace('"carrier": "', '"carrier": "BROKEN')])

    assert (found.rows, found.refused, found.errors) == (705, 4, 1)
    assert [n for n, score in enumerate(found.scores) if score is None] == [0, 1, 702, 703, 704]


def test_a_replay_ends_when_its_time_is_up(tmp_path):
    made = make_bundle(tmp_path / "bundles")
    served = load_version(tmp_path / "bundles", Wanted(0, made.digest), model=None)
    texts = rehearse._read_replay(replay_file(tmp_path / "replay.arrow", made, 10))

    found = replay_rows(served, texts, seconds=0)

    assert (found.rows, found.scores, found.p99_ms) == (0, [None] * 10, None)


@pytest.mark.parametrize("column", ["probability_1", "prediction"])
def test_other_predictions_than_the_golden_ones_fail(tmp_path, monkeypatch, column):
    made = make_bundle(tmp_path / "bundles")
    changed = rehearse._read_golden(made)
    values = changed[column].to_pylist()
    values[7] = 1 - values[7] if column == "prediction" else values[7] + 2e-6
    changed = changed.set_column(changed.column_names.index(column), column, pa.array(values))
    monkeypatch.setattr(rehearse, "_read_golden", lambda bundle: changed)

    found = rehearse_bundle(tmp_path / "bundles", made.digest, replay=replay_file(tmp_path / "replay.arrow", made, 10))

    assert not found.ok
    assert found.max_difference > 1e-6
    assert "differ" in found.error
    assert found.replay is None


def test_another_label_is_equal_only_in_a_tie():
    assert rehearse._tied(np.array([0.5 + 9e-7, 0.5 - 9e-7]), 1e-6)
    assert rehearse._tied(np.array([0.4, 0.2, 0.4]), 1e-6)
    assert not rehearse._tied(np.array([0.5 + 3e-6, 0.5 - 3e-6]), 1e-6)


def test_golden_rows_that_are_no_numbers_are_never_equal():
    assert rehearse._larger(0.0, np.array([0.0, np.nan])) == 1.0
    assert rehearse._larger(0.1, np.array([0.0, 0.2])) == 0.2


def test_no_golden_rows_fail(tmp_path, monkeypatch):
    made = make_bundle(tmp_path / "bundles")
    none = rehearse._read_golden(made).slice(0, 0)
    monkeypatch.setattr(rehearse, "_read_golden", lambda bundle: none)

    assert "no golden rows" in rehearse_bundle(tmp_path / "bundles", made.digest).error


def test_a_changed_bundle_fails(tmp_path):
    made = make_bundle(tmp_path / "bundles")
    (made.path / "bundle.json").write_bytes(canonical({**made.manifest, "model": "else"}))

    found = rehearse_bundle(tmp_path / "bundles", made.digest)

    assert not found.ok
    assert "SHA-256" in found.error


def run(tmp_path, digest, *options, code="from windvane.scoring.rehearse import main; sys.exit(main())"):
    command = [sys.executable, "-c", f"import sys; {code}", "--bundle", digest, *options]
    done = subprocess.run(
        command, env=os.environ | {"WINDVANE_VAR": str(tmp_path)}, capture_output=True, text=True, timeout=60, check=False
    )
    (line,) = done.stdout.splitlines()
    return done.returncode, json.loads(line)


def test_the_command_prints_one_line_and_tells_by_its_status(tmp_path):
    made = make_bundle(tmp_path / "bundles")

    status, found = run(tmp_path, made.digest, "--replay", str(replay_file(tmp_path / "replay.arrow", made, 20)))
    assert status == 0
    assert {"ok", "rows", "max_difference", "seconds", "peak_rss_mb", "p99", "runtime", "replay"} <= set(found)
    assert found["ok"] is True
    assert len(found["replay"]["scores"]) == found["replay"]["rows"] == 20
    assert found["replay"]["timed"] == 100

    status, found = run(tmp_path, "0" * 64)
    assert status == 1
    assert found["ok"] is False
    assert "no such bundle" in found["error"]


def test_a_model_that_hangs_is_given_up_in_time(tmp_path):
    made = make_bundle(tmp_path / "bundles")
    hang = "import time; from windvane.scoring import rehearse; rehearse.score_request = lambda *a, **k: time.sleep(50)"

    status, found = run(tmp_path, made.digest, "--timeout", "3", code=f"{hang}; sys.exit(rehearse.main())")

    assert status == 1
    assert found["ok"] is False
    assert "did not end within 3 s" in found["error"]


def test_a_file_that_is_no_replay_fails_and_is_named(tmp_path):
    made = make_bundle(tmp_path / "bundles")
    (tmp_path / "replay.arrow").write_bytes(b"no arrow")

    found = rehearse_bundle(tmp_path / "bundles", made.digest, replay=tmp_path / "replay.arrow")

    assert not found.ok
    assert "replay.arrow" in found.error


def test_an_onnx_bundle_is_rehearsed_without_pandas_and_scikit_learn(tmp_path):
    settings = small_bundle.make_settings(tmp_path)
    made = small_bundle.make_bundle(settings)
    assert made.manifest["runtime"]["format"] == "onnx"
    write_replay(tmp_path / "replay.arrow", ReplayRows(['{"calls":1.5,"months":-0.5}'] * 20, [None] * 20, 20, 0))
    block = "sys.modules.update(dict.fromkeys(['pandas', 'sklearn', 'skops', 'scipy', 'mlflow']))"
    code = f"{block}; from windvane.scoring.rehearse import main; sys.exit(main())"

    status, found = run(settings.var, made.digest, "--replay", str(tmp_path / "replay.arrow"), code=code)

    assert (status, found["error"], found["runtime"]) == (0, None, "onnx")
    assert (found["replay"]["rows"], found["replay"]["refused"]) == (20, 0)
