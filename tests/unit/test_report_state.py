"""The reconciler's report: what `windvane status` tells of it."""

from datetime import UTC, datetime, timedelta

import pytest
from small_bundle import make_settings

from windvane.report_state import Done, Report, read_report, write_report


@pytest.fixture
def settings(tmp_path):
    return make_settings(tmp_path)


def test_a_report_is_read_back_as_it_was_written(settings):
    assert read_report(settings) == Report()
    report = Report().after(done=["moved"], problems=["away"])
    write_report(settings, report)
    assert read_report(settings) == report
    assert (report.problems, [entry.text for entry in report.done]) == (("away",), ["moved"])


def test_problems_are_those_of_the_last_look_and_deeds_stay_for_a_day(settings):
    old = Done((datetime.now(UTC) - timedelta(days=2)).isoformat(), "long ago")
    report = Report(done=(old,)).after(done=["first"], problems=["away"]).after(done=["second"], problems=[])
    assert (report.problems, [entry.text for entry in report.done]) == ((), ["first", "second"])
    for _ in range(50):
        report = report.after(done=["again"], problems=[])
    assert len(report.done) == 20


@pytest.mark.parametrize("content", ["{", "[]", '{"seen": "yesterday", "problems": [], "done": []}'])
def test_a_report_that_cannot_be_read_is_none(settings, content):
    settings.var.mkdir(parents=True)
    (settings.var / "reconciler.json").write_text(content)
    assert read_report(settings) == Report()
