"""The figures are what Prometheus's own parser reads out of them."""

from datetime import UTC, datetime, timedelta
from types import SimpleNamespace

from prometheus_client.parser import text_string_to_metric_families

from windvane.scoring.count_requests import Counts
from windvane.scoring.log_requests import LoggedRequest, ScoredRows

LEARNT_UNTIL = datetime.now(UTC) - timedelta(days=2)
SERVED = SimpleNamespace(version=4, learnt_until=LEARNT_UNTIL)


def rows(predictions, scores, version=4):
    return ScoredRows(version, "d" * 64, [LoggedRequest("r", 0, len(predictions), 1.0)], 9, {}, set(), [], [], predictions, scores, None)


def read(counts, served=SERVED, in_line=True):
    text = counts.render(served=served, in_line=in_line).decode()
    samples = [sample for family in text_string_to_metric_families(text) for sample in family.samples]
    return {(s.name, *sorted((k, v) for k, v in s.labels.items() if k != "model")): s.value for s in samples}


def test_requests_errors_rows_and_times_are_counted():
    counts = Counts("tiny")
    counts.answered("/invocations", 200, 0.003, scoring=True)
    counts.answered("/invocations", 400, 0.03, scoring=True)
    counts.answered("/ping", 200, 9.0, scoring=False)
    counts.refused("input")
    counts.scored(rows([0, 1, 1], [0.2, 0.7, 0.7]), classifier=True)
    counts.logged(2)
    counts.dropped(1)
    counts.in_flight = 5
    found = read(counts)

    assert found["windvane_requests_total", ("path", "/invocations"), ("status", "400")] == 1
    assert found["windvane_errors_total", ("kind", "input")] == 1
    assert found["windvane_scoring_seconds_bucket", ("le", "0.005")] == 1
    assert found[("windvane_scoring_seconds_count",)] == 2
    assert found["windvane_scored_rows_total", ("version", "4")] == 3
    assert found["windvane_predictions_total", ("label", "1"), ("version", "4")] == 2
    assert (found[("windvane_logged_rows_total",)], found[("windvane_dropped_rows_total",)]) == (2, 1)
    assert found[("windvane_in_flight_requests",)] == 5
    assert found[("windvane_serving_version",)] == 4
    assert found[("windvane_serves_what_it_should",)] == 1
    assert abs(found[("windvane_model_age_seconds",)] - (datetime.now(UTC) - LEARNT_UNTIL).total_seconds()) < 60


def test_scores_are_spread_over_buckets_by_version():
    counts = Counts("tiny")
    for _ in range(2_000):
        counts.scored(rows([0, 1, 1], [0.02, 0.5, 1.0]), classifier=True)
    counts.scored(rows([0], [0.5], version=5), classifier=True)
    found = read(counts)

    buckets = {le: found["windvane_scores_bucket", ("le", le), ("version", "4")] for le in ("0.05", "0.45", "0.5", "0.95", "1.0", "+Inf")}
    assert buckets == {"0.05": 2_000, "0.45": 2_000, "0.5": 4_000, "0.95": 4_000, "1.0": 6_000, "+Inf": 6_000}
    assert abs(found["windvane_scores_sum", ("version", "4")] - 3_040) < 1e-6
    assert found["windvane_scores_count", ("version", "5")] == 1


def test_a_regression_has_buckets_on_both_sides_of_zero():
    counts = Counts("tiny")
    counts.scored(rows([-3.0, 0.0, 7.0], [-3.0, 0.0, 7.0]), classifier=False)
    found = read(counts)

    assert [found["windvane_scores_bucket", ("le", le), ("version", "4")] for le in ("-2.0", "0.0", "5.0", "10.0")] == [1, 2, 2, 3]
    assert not any(name[0] == "windvane_predictions_total" for name in found)


def test_nothing_serves_yet():
    found = read(Counts("tiny"), served=None, in_line=False)

    assert found[("windvane_serving_version",)] == 0
    assert found[("windvane_dropped_rows_total",)] == 0
    assert ("windvane_model_age_seconds",) not in found


def test_a_label_may_be_any_text():
    counts = Counts("tiny")
    counts.scored(rows(['a"b\n\\'], None), classifier=True)

    assert read(counts)["windvane_predictions_total", ("label", 'a"b\n\\'), ("version", "4")] == 1
