"""The report shows the decision and the verdicts that exist already, is bounded and inert."""

import json

import numpy as np
import pandas as pd
import pytest

from windvane.detect_drift import MULTIVARIATE, ColumnDrift, Drift, detect_drift, neutralise
from windvane.draw_report import draw_report
from windvane.errors import StorageError
from windvane.profile_rows import Profile

EVIL = "<script>alert('owned')</script>"
EVIL_COLUMN = "<img src=x onerror=alert(1)>"


def rows(n=600, seed=1, **more):
    random = np.random.default_rng(seed)
    return pd.DataFrame({"distance": random.normal(size=n), "carrier": random.choice(["AA", "UA", "DL"], n)}).assign(**more)


def report_of(tmp_path, current, reference, drift=None, **texts):
    drift = drift or detect_drift(current, Profile.of(reference, seed=7), false_alarm_rate=0.01)
    texts = {"decision": "ignore", "reason": "no harm", "evidence": ["roc_auc 0.71"], **texts}
    path = draw_report(current, reference, drift, path=tmp_path / "drift.html", seed=7, **texts)
    return drift, path.read_text()


def test_decision_evidence_and_verdicts_are_on_top(tmp_path):
    drift, html = report_of(tmp_path, rows(seed=2).assign(distance=lambda f: f["distance"] + 2), rows())
    head = html.split("class='windvane'")[1].split("</div>")[0]

    assert "Decision: ignore" in head
    assert "no harm" in head
    assert "<li>roc_auc 0.71</li>" in head
    assert drift.columns[0].how.replace(">", "&gt;") in head
    assert head.count("class='drifted'") == len(drift.drifted)
    assert html.split("<body")[1].split(">", 1)[1].startswith("<div class='windvane'>")
    assert "Drift in column" in html


@pytest.mark.parametrize("drifted", [True, False])
def test_page_has_our_verdict_and_no_second_opinion(tmp_path, drifted):
    verdict = ColumnDrift("distance", "number", 0.123, 0.456, drifted, "a sentence", "Wasserstein")

    # far apart: whatever Evidently would say, it says what it was told
    _, html = report_of(tmp_path, rows(distance=9.0), rows(), Drift((verdict,), rows=600))

    assert html.count("Drift detection method: Wasserstein, threshold 0.456. Drift score: 0.123") == 1
    assert ("Data drift detected" in html, "Data drift not detected" in html) == (drifted, not drifted)
    for foreign in ("Dataset Drift", "p_value", "Drift is detected for", "Share of Drifted Columns"):
        assert foreign not in html


def test_values_names_and_evidence_are_inert(tmp_path):
    reference = rows().rename(columns={"distance": EVIL_COLUMN})
    current = rows(seed=2).rename(columns={"distance": EVIL_COLUMN})
    current.loc[:200, "carrier"] = EVIL
    _, clean = report_of(tmp_path, rows(seed=2), rows())

    _, html = report_of(tmp_path, current, reference, decision=EVIL, reason=EVIL_COLUMN, evidence=[EVIL, EVIL_COLUMN])

    for raw in (EVIL, EVIL_COLUMN, "<script>alert", "<img src=x", "alert('owned')"):
        assert raw not in html
    # the category is there, defused: the test would pass on an empty report otherwise
    assert json.dumps(neutralise(EVIL)) in html
    assert html.count("<script") == clean.count("<script")
    assert html.count("Content-Security-Policy") == 1


def test_size_of_the_page_does_not_grow_with_the_window(tmp_path):
    small, large = (len(report_of(tmp_path, rows(n, seed=2), rows(5_000))[1]) for n in (5_000, 60_000))

    assert abs(large - small) < 100_000


def test_rare_categories_are_pooled(tmp_path):
    random = np.random.default_rng(4)
    many = [rows(n=5_000, seed=s, dest=random.integers(0, 300, 5_000).astype(str)) for s in (1, 2)]

    assert "(other)" in report_of(tmp_path, *many)[1]


@pytest.mark.parametrize(
    ("current", "reference"),
    [
        (rows(0), rows()),
        (rows(), rows(0)),
        (rows(1), rows()),
        (rows(distance=1.0, carrier="AA"), rows(distance=1.0, carrier="AA")),
        (rows()[["carrier"]], rows()),
        (rows(distance=np.nan, carrier=None), rows()),
        (rows(distance=np.inf), rows()),
    ],
    ids=["no rows", "no reference", "one row", "constant", "lost", "null", "infinite"],
)
def test_odd_windows_have_a_report(tmp_path, current, reference):
    drift, html = report_of(tmp_path, current, reference)

    assert "Decision: ignore" in html
    for name in drift.lost:
        assert f"<td>{name}</td><td>lost</td>" in html


def test_multivariate_verdict_is_in_the_table(tmp_path):
    verdict = ColumnDrift(MULTIVARIATE, "number", 0.5, 0.1, True, "error 1.2 -> 1.6", "reconstruction error")

    assert f"<td>{MULTIVARIATE}</td><td>drifted</td>" in report_of(tmp_path, rows(), rows(), Drift((), multivariate=verdict, rows=600))[1]


def test_report_that_cannot_be_written_names_path_and_size(tmp_path):
    (tmp_path / "file").write_text("")

    with pytest.raises(StorageError, match=r"file/drift\.html: could not write \d+ bytes"):
        report_of(tmp_path / "file", rows(), rows())
