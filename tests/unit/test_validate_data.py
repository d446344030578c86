import json
import time

import numpy as np
import pandas as pd
import pytest

from windvane.check_suite import check_suite
from windvane.column_types import to_arrow
from windvane.config import ModelConfig, suite_path
from windvane.errors import ConfigError, DataError
from windvane.extract_data import Staged
from windvane.settings import REPOSITORY, load_settings
from windvane.store_files import as_parquet
from windvane.validate_data import Validation, validate_data
from windvane.windows import Window

WINDOW = Window("2013-01-01", "2013-02-01")
SCHEMA = {"id": "string", "t": "timestamp[us, tz=UTC]", "x": "double", "kind": "string", "late": "double"}
SUITE = [
    {"type": "expect_column_values_to_be_between", "kwargs": {"column": "x", "min_value": 0, "max_value": 100}},
    {"type": "expect_column_values_to_be_in_set", "kwargs": {"column": "kind", "value_set": ["A", "B"]}},
]


def frame(count=6, **columns):
    base = {
        "id": [f"r{n}" for n in range(count)],
        "t": pd.date_range(WINDOW.start, periods=count, freq="1h"),
        "x": np.arange(float(count)),
        "kind": ["A", "B"] * (count // 2),
        "late": [0.0, None] * (count // 2),
    }
    return pd.DataFrame({**base, **columns})


@pytest.fixture
def settings(tmp_path):
    return load_settings({"WINDVANE_VAR": str(tmp_path / "var"), "WINDVANE_PROJECT": str(tmp_path)})


def config(*, suite="raw", on_invalid="quarantine_rows", label_delay="1d", name="m"):
    data = {"id": "id", "time": "t", "label": "late", "suite": suite, "on_invalid": on_invalid, "label_delay": label_delay}
    return ModelConfig.model_validate({"model": name, "task": "binary_classification", "data": data})


def stage(settings, table, window=WINDOW):
    import hashlib

    content = as_parquet(to_arrow(table, where="test"))
    staged = Staged(settings.staging / "m" / "batch", window, len(table), hashlib.sha256(content).hexdigest())
    staged.directory.mkdir(parents=True, exist_ok=True)
    staged.path.write_bytes(content)
    return staged


def write_suite(settings, expectations):
    path = suite_path(settings.project, "m", "raw")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"name": "raw", "expectations": expectations}))
    return path


def validate(settings, table, *, suite=SUITE, known_schema=None, window=WINDOW, **options):
    write_suite(settings, suite)
    return validate_data(config(**options), settings, stage(settings, table, window), known_schema=known_schema)


def quarantined(validation):
    return {row["id"]: row["reason"] for row in validation.read_quarantine().to_pylist()}


def test_a_good_batch_passes_whole(settings):
    validation = validate(settings, frame(), known_schema=SCHEMA)
    assert (validation.valid_rows, validation.invalid_rows, validation.refused, validation.reasons) == (6, 0, False, ())
    assert validation.read_valid().num_rows == 6
    validation.raise_if_refused()
    assert Validation.from_json(json.loads(json.dumps(validation.as_json()))) == validation


def test_invalid_rows_are_quarantined_with_every_reason(settings):
    validation = validate(settings, frame(x=[-1.0, 1, 2, 3, 4, 500], kind=["C", "B", "A", "B", "A", "B"]))
    assert not validation.refused
    assert validation.read_valid()["id"].to_pylist() == ["r1", "r2", "r3", "r4"]
    reasons = quarantined(validation)
    assert set(reasons) == {"r0", "r5"}
    assert "x: expect_column_values_to_be_between" in reasons["r0"]
    assert "kind: expect_column_values_to_be_in_set" in reasons["r0"]
    assert "kind" not in reasons["r5"]
    row = json.loads(next(row for row in validation.read_quarantine().to_pylist() if row["id"] == "r5")["row"])
    assert row == {"id": "r5", "t": "2013-01-01T05:00:00+00:00", "x": 500.0, "kind": "B", "late": None}


def test_quarantine_batch_refuses_everything_for_one_row(settings):
    validation = validate(settings, frame(x=[-1.0, 1, 2, 3, 4, 5]), on_invalid="quarantine_batch")
    assert validation.refused
    assert (validation.valid_rows, validation.invalid_rows) == (0, 6)
    assert quarantined(validation)["r1"].startswith("the batch was refused: x: expect_column_values_to_be_between")
    with pytest.raises(DataError, match="batch of 6 rows is refused"):
        validation.raise_if_refused()


@pytest.mark.parametrize(
    ("table", "reason"),
    [
        pytest.param(frame().iloc[:0], "the batch is empty", id="empty"),
        pytest.param(frame().drop(columns="x"), "column 'x' is lost; the table has it", id="lost-column"),
        pytest.param(frame().drop(columns="late"), "column 'late' is lost; the config needs it", id="lost-label"),
        pytest.param(frame(x=list("abcdef")), "column 'x' was double and is now string", id="retyped"),
        pytest.param(frame(kind=None), "column 'kind' holds only nulls", id="all-null"),
        pytest.param(frame(x=np.nan), "column 'x' holds only nulls", id="all-nan"),
        pytest.param(frame(late=np.nan), "column 'late' holds only nulls", id="no-outcome-at-all"),
        pytest.param(frame(x=np.inf), "no valid row is left", id="all-infinite"),
        pytest.param(frame(x=1000.0), "no valid row is left", id="all-invalid"),
    ],
)
@pytest.mark.parametrize("suite", [SUITE, SUITE[:1]], ids=["suite", "short-suite"])
def test_a_batch_that_is_bad_as_a_whole_is_refused(settings, table, reason, suite):
    validation = validate(settings, table, suite=suite, known_schema=SCHEMA)
    assert validation.refused
    assert any(reason in line for line in validation.reasons)
    assert validation.invalid_rows == len(table)


def test_a_column_of_the_suite_that_is_lost_before_the_first_commit_is_named(settings):
    validation = validate(settings, frame().drop(columns="kind"))
    assert validation.reasons == ("column 'kind' is lost; the expectation suite needs it",)


def test_guards_work_without_a_suite(settings):
    staged = stage(settings, frame(x=[np.inf, -np.inf, 2, 3, 4, 5]))
    validation = validate_data(config(suite=None), settings, staged, known_schema=None)
    assert quarantined(validation) == {"r0": "x: infinite", "r1": "x: infinite"}
    assert json.loads(validation.read_quarantine()["row"][0].as_py())["x"] == "inf"


def test_rows_without_id_or_time_and_conflicting_ids_are_quarantined(settings):
    table = frame(count=8, id=["a", "a", "b", "b", None, "c", "d", "e"])
    table = table.assign(t=table["t"].mask(table.index == 5))
    table.loc[1] = table.loc[0]  # the same row again; the two rows of b differ
    validation = validate(settings, table)
    reasons = [(row["id"], row["reason"]) for row in validation.read_quarantine().to_pylist()]
    assert reasons == [
        ("a", "id: the same row again"),
        ("b", "id: different rows with one id"),
        ("b", "id: different rows with one id"),
        (None, "id: null"),
        ("c", "t: null"),
    ]
    assert validation.read_valid()["id"].to_pylist() == ["a", "d", "e"]


def test_outcomes_that_are_not_due_yet_are_no_fault(settings):
    day = Window("2013-01-01", "2013-01-02")
    assert not validate(settings, frame(late=np.nan), window=day, label_delay="2d").refused
    assert validate(settings, frame(late=np.nan), window=day, label_delay="12h").refused


def test_a_table_level_expectation_refuses_the_batch(settings):
    suite = [*SUITE, {"type": "expect_column_mean_to_be_between", "kwargs": {"column": "x", "min_value": 50}}]
    validation = validate(settings, frame(), suite=suite)
    assert validation.refused
    assert validation.reasons == ('x: expect_column_mean_to_be_between ("min_value": 50): failed',)


def test_mostly_tolerates_a_share_and_refuses_the_batch_beyond_it(settings):
    def suite(mostly):
        return [{"type": "expect_column_values_to_be_between", "kwargs": {"column": "x", "max_value": 4, "mostly": mostly}}]

    assert validate(settings, frame(), suite=suite(0.5)).valid_rows == 6
    assert validate(settings, frame(), suite=suite(0.9)).refused


def test_a_warning_is_reported_and_has_no_consequence(settings):
    validation = validate(settings, frame(x=-1.0), suite=[{**SUITE[0], "severity": "warning"}])
    assert validation.valid_rows == 6
    assert json.loads(validation.result_path.read_text())["expectations"][0]["success"] is False


def test_an_expectation_that_cannot_be_evaluated_refuses_without_quoting_a_value(settings):
    suite = [{"type": "expect_column_values_to_be_between", "kwargs": {"column": "kind", "min_value": 0}}]
    validation = validate(settings, frame(kind=["secret"] * 6), suite=suite)
    assert validation.refused
    assert "secret" not in "".join(validation.reasons)


def test_reports_carry_no_value_of_the_data_and_no_live_markup(settings):
    hostile = "<script>alert(1)</script>"
    table = frame(kind=[hostile, "B", "A", "B", "A", "B"]).rename(columns={"x": hostile})
    validation = validate(settings, table, suite=[{**SUITE[0], "kwargs": {**SUITE[0]["kwargs"], "column": hostile}}, SUITE[1]])
    page = validation.report_path.read_text()
    assert "<script" not in page
    assert "&lt;script&gt;" in page  # the name of the column
    values = validate(settings, frame(kind=["canary-4711", "B", "A", "B", "A", "B"]))
    assert "canary-4711" not in values.report_path.read_text() + values.result_path.read_text() + "".join(values.reasons)
    assert "canary-4711" in values.read_quarantine()["row"][0].as_py()


def test_reasons_are_bounded(settings):
    table = frame(**{f"c{n}": np.nan for n in range(30)})
    validation = validate(settings, table)
    assert len(validation.reasons) == 10
    assert validation.reasons[-1] == "and 21 more"


def test_whole_numbers_that_read_as_fractions_are_not_retyped(settings):
    validation = validate(settings, frame(n=[1.0, 2, 3, None, 5, 6]), known_schema={**SCHEMA, "n": "int64"})
    assert not validation.refused
    assert str(validation.read_valid().schema.field("n").type) == "int64"


def test_suites_written_by_great_expectations_are_accepted(settings):
    import great_expectations as gx
    import great_expectations.expectations as gxe

    suite = gx.ExpectationSuite("raw", expectations=[gxe.ExpectColumnValuesToBeBetween(column="x", max_value=4)]).to_json_dict()
    path = write_suite(settings, [])
    path.write_text(json.dumps(suite))
    assert check_suite(path) == []
    assert validate_data(config(), settings, stage(settings, frame()), known_schema=None).invalid_rows == 1


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        pytest.param("{", "not JSON", id="not-json"),
        pytest.param("[]", "allowed is a mapping with 'name'", id="not-a-suite"),
        pytest.param('{"expectations": []}', "the list is empty", id="empty"),
        pytest.param(
            '{"expectations": [{"type": "expect_column_values_to_be_nul", "kwargs": {"column": "x"}}]}',
            "unknown expectation 'expect_column_values_to_be_nul' - did you mean 'expect_column_values_to_be_null'?",
            id="unknown-expectation",
        ),
        pytest.param(
            '{"expectations": [{"type": "expect_column_values_to_be_between", "kwargs": {"column": "x", "min_valu": 1, "max_value": 2}}]}',
            "min_valu: unknown argument - did you mean 'min_value'?",
            id="unknown-argument",
        ),
        pytest.param('{"expectations": [{"type": "expect_column_to_exist", "kwargs": {}}]}', "column: field required", id="no-column"),
        pytest.param(
            '{"expectations": [{"type": "expect_column_to_exist", "kwarg": {}, "kwargs": {"column": "x"}}]}',
            "unknown field 'kwarg' - did you mean 'kwargs'?",
            id="unknown-field",
        ),
    ],
)
def test_bad_suites_are_explained(settings, text, problem):
    path = write_suite(settings, [])
    path.write_text(text)
    found = check_suite(path)
    assert len(found) == 1
    assert found[0].startswith("expectations/m/raw.json: ")
    assert problem in found[0]
    with pytest.raises(ConfigError):
        validate_data(config(), settings, stage(settings, frame()), known_schema=None)


def test_a_missing_suite_is_explained(settings):
    assert "there is no such suite" in check_suite(suite_path(settings.project, "m", "raw"))[0]


def test_the_suite_of_the_flights_is_good():
    path = suite_path(REPOSITORY, "flight_delay", "raw")
    assert check_suite(path) == []
    assert len(json.loads(path.read_text())["expectations"]) >= 10


def test_a_month_of_rows_is_judged_in_under_two_seconds(settings):
    count = 28_000
    table = frame(count=count, x=np.arange(count) % 100.0, t=pd.date_range(WINDOW.start, periods=count, freq="1min"))
    validate(settings, frame())  # imports
    started = time.perf_counter()
    validation = validate(settings, table)
    assert time.perf_counter() - started < 2
    assert validation.valid_rows == count
