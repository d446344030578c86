"""A candidate that is not the model that was judged never passes its rehearsal."""

import json
import os
import subprocess
import sys

import pytest
from test_scoring_bundles import make_bundle

from windvane.bundle import canonical, read_golden
from windvane.scoring import rehearse
from windvane.scoring.rehearse import rehearse_bundle


@pytest.mark.parametrize(
    ("task", "classes"),
    [("binary_classification", (0.0, 1.0)), ("multiclass_classification", ("a", "b", "c")), ("regression", ())],
)
def test_a_good_bundle_passes_through_the_path_of_a_request(tmp_path, task, classes):
    made = make_bundle(tmp_path / "bundles", task=task, classes=classes or (0, 1))

    found = rehearse_bundle(tmp_path / "bundles", made.digest)

    assert found.ok, found.error
    assert found.rows == 30
    assert found.max_difference <= 1e-6
    assert 0 < found.p99_ms < 1000
    assert found.peak_rss_mb > 10


@pytest.mark.parametrize("column", ["probability_1", "prediction"])
def test_other_predictions_than_the_golden_ones_fail(tmp_path, monkeypatch, column):
    made = make_bundle(tmp_path / "bundles")
    golden = read_golden(made)
    golden.loc[7, column] = 1 - golden.loc[7, column] if column == "prediction" else golden.loc[7, column] + 2e-6
    monkeypatch.setattr(rehearse, "read_golden", lambda bundle: golden)

    found = rehearse_bundle(tmp_path / "bundles", made.digest)

    assert not found.ok
    assert found.max_difference > 1e-6
    assert "differ" in found.error


def test_no_golden_rows_fail(tmp_path, monkeypatch):
    made = make_bundle(tmp_path / "bundles")
    monkeypatch.setattr(rehearse, "read_golden", lambda bundle: read_golden(bundle).head(0))

    assert "no golden rows" in rehearse_bundle(tmp_path / "bundles", made.digest).error


def test_a_changed_bundle_fails(tmp_path):
    made = make_bundle(tmp_path / "bundles")
    (made.path / "bundle.json").write_bytes(canonical({**made.manifest, "model": "else"}))

    found = rehearse_bundle(tmp_path / "bundles", made.digest)

    assert not found.ok
    assert "SHA-256" in found.error


def run(tmp_path, digest):
    command = [sys.executable, "-m", "windvane.scoring.rehearse", "--bundle", digest]
    done = subprocess.run(
        command, env=os.environ | {"WINDVANE_VAR": str(tmp_path)}, capture_output=True, text=True, timeout=60, check=False
    )
    (line,) = done.stdout.splitlines()
    return done.returncode, json.loads(line)


def test_the_command_prints_one_line_and_tells_by_its_status(tmp_path):
    made = make_bundle(tmp_path / "bundles")

    status, found = run(tmp_path, made.digest)
    assert status == 0
    assert {"ok", "rows", "max_difference", "seconds", "peak_rss_mb", "p99"} <= set(found)
    assert found["ok"] is True

    status, found = run(tmp_path, "0" * 64)
    assert status == 1
    assert found["ok"] is False
    assert "no such bundle" in found["error"]
