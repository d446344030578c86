"""Every body is either rows of the model's columns, or a 4xx that says what is wrong where."""

import json
import re
from datetime import datetime

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from windvane.scoring.convert_values import MOMENT_PATTERN, as_array
from windvane.scoring.parse_request import MAX_BODY_BYTES, MAX_ROWS, Layout, parse_request
from windvane.scoring.request_error import RequestError
from windvane.signature import Column

LAYOUT = Layout(
    columns=(
        Column("carrier", "string", False),
        Column("distance", "double", True),
        Column("seats", "long", False),
        Column("night", "boolean", True),
        Column("at", "datetime", False),
    ),
    id="key",
    time="at",
)
ROW = {"carrier": "UA", "distance": 12.5, "seats": 180, "night": True, "at": "2013-02-01T06:00:00Z"}
NAMES = list(ROW)
TICKS = 1_359_698_400_000_000  # 2013-02-01T06:00:00Z
JSON = "application/json"


def parse(document, content_type=JSON):
    body = document if isinstance(document, bytes) else json.dumps(document).encode()
    return parse_request(body, content_type, LAYOUT)


def refused(document, content_type=JSON):
    with pytest.raises(RequestError) as caught:
        parse(document, content_type)
    return caught.value.status, str(caught.value)


def record(**changes):
    return {"dataframe_records": [ROW, ROW | changes]}


def raw_record(field, literal):
    values = {name: json.dumps(value) for name, value in ROW.items()} | {field: literal}
    return ('{"dataframe_records":[{' + ",".join(f'"{k}":{v}' for k, v in values.items()) + "}]}").encode()


@pytest.mark.parametrize(
    "document",
    [
        pytest.param({"dataframe_records": [ROW, ROW]}, id="records"),
        pytest.param({"dataframe_split": {"columns": NAMES, "data": [list(ROW.values())] * 2, "index": [5, 6]}}, id="split"),
        pytest.param({"instances": [ROW, ROW]}, id="instances of objects"),
        pytest.param({"instances": [list(ROW.values())] * 2}, id="instances of lists"),
        pytest.param({"inputs": {name: [value] * 2 for name, value in ROW.items()}}, id="inputs of columns"),
        pytest.param({"inputs": [ROW, ROW], "params": None}, id="inputs of rows"),
        pytest.param({"inputs": [list(ROW.values())] * 2}, id="inputs of lists"),
    ],
)
def test_all_forms_give_the_same_columns(document):
    request = parse(document)

    assert request.rows == 2
    assert request.columns == {"carrier": ["UA"] * 2, "distance": [12.5] * 2, "seats": [180] * 2, "night": [True] * 2, "at": [TICKS] * 2}
    arrays = [as_array(request.columns[column.name], column) for column in LAYOUT.columns]
    assert [str(array.dtype) for array in arrays] == ["object", "float64", "int64", "float64", "datetime64[us]"]


def test_csv_gives_the_same_columns():
    text = (
        b"at,carrier,night,seats,distance,note\n2013-02-01T06:00:00Z,UA,TRUE,180,12.5,hello\n2013-02-01T07:00:00+01:00,UA,true,180,12.5,\n"
    )
    assert parse(text, "text/csv; charset=utf-8") == parse({"instances": [ROW, ROW]})


def test_order_and_other_columns_do_not_matter_and_null_is_kept():
    request = parse(
        {"inputs": {"extra": [[1]], "at": ["2013-02-01"], "seats": [180.0], "night": [None], "distance": [None], "carrier": ["é"]}}
    )

    assert request.columns == {"carrier": ["é"], "distance": [None], "seats": [180], "night": [None], "at": [TICKS - 6 * 3_600_000_000]}


def test_the_id_is_logged_and_never_a_column():
    request = parse({"dataframe_records": [ROW | {"key": "a-1"}, ROW | {"key": 7}, ROW | {"key": None}, ROW]})

    assert request.ids == ["a-1", "7", None, None]
    assert "key" not in request.columns
    assert request.times == [TICKS] * 4


def test_a_time_outside_the_signature_is_read_for_the_log():
    layout = Layout(columns=LAYOUT.columns[:1], id=None, time="at")
    request = parse_request(b'{"instances":[{"carrier":"UA","at":"2013-02-01T06:00:00+02:00"}]}', JSON, layout)

    assert request.times == [TICKS - 2 * 3_600_000_000]
    assert list(request.columns) == ["carrier"]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        pytest.param({"carrier": None}, ["row 1", "carrier", "null"], id="null where it is not allowed"),
        pytest.param({"carrier": 5}, ["row 1", "carrier", "an integer", "a text"], id="number for text"),
        pytest.param({"distance": "12"}, ["row 1", "distance", "a text", "a finite number or null"], id="text for number"),
        pytest.param({"distance": True}, ["row 1", "distance", "a boolean"], id="boolean for number"),
        pytest.param({"seats": 1.5}, ["row 1", "seats", "64-bit integer"], id="fraction for integer"),
        pytest.param({"seats": 2**63}, ["row 1", "seats", "out of range"], id="integer beyond 63 bits"),
        pytest.param({"seats": -(2**63) - 1}, ["row 1", "seats", "64-bit integer"], id="integer below 64 bits"),
        pytest.param({"seats": 10**30}, ["row 1", "seats", "64-bit integer"], id="integer of 100 bits"),
        pytest.param({"seats": None}, ["row 1", "seats", "null"], id="null for an integer"),
        pytest.param({"distance": 10**400}, ["row 1", "distance", "finite"], id="integer beyond double"),
        pytest.param({"night": 1}, ["row 1", "night", "true or false"], id="number for boolean"),
        pytest.param({"at": "yesterday"}, ["row 1", "at", "ISO 8601"], id="no time"),
        pytest.param({"at": "0001-01-01T00:00:00+14:00"}, ["row 1", "at"], id="time too early"),
        pytest.param({"at": "9999-12-31T23:59:59-14:00"}, ["row 1", "at"], id="time too late"),
        pytest.param({"at": "2013-02-30T06:00:00Z"}, ["row 1", "at", "ISO 8601"], id="no such day"),
        pytest.param({"at": "2013-02-01x06:00:00Z"}, ["row 1", "at", "ISO 8601"], id="another separator"),
        pytest.param({"at": "NaT"}, ["row 1", "at", "ISO 8601"], id="a word of NumPy"),
        pytest.param({"at": "2013-W05-5"}, ["row 1", "at", "ISO 8601"], id="week date"),
        pytest.param({"at": 1359698400}, ["row 1", "at", "an integer"], id="number for time"),
        pytest.param({"carrier": ["UA"]}, ["row 1", "carrier", "a list"], id="list"),
        pytest.param({"carrier": "x" * 20_000}, ["row 1", "carrier", "20000 characters"], id="long text"),
        pytest.param({"key": "x" * 300}, ["row 1", "key"], id="long id"),
        pytest.param({"key": 1.5}, ["row 1", "key"], id="id of another type"),
    ],
)
def test_a_bad_value_names_row_field_got_and_allowed(changes, words):
    document = record(**changes) if "key" not in changes else {"instances": [ROW | {"key": "a"}, ROW | changes]}
    status, message = refused(document)

    assert status == 400
    for word in words:
        assert word in message
    assert "xxx" not in message


@pytest.mark.parametrize("literal", ["Infinity", "-Infinity", "1e999", "-1e999"])
def test_what_is_not_finite_names_row_and_field(literal):
    status, message = refused(raw_record("distance", literal))

    assert status == 400
    assert message.startswith("row 0: distance: got NaN or an infinite number, allowed is a finite number or null")


def test_nan_is_null_in_a_nullable_column_of_numbers_only():
    assert parse(raw_record("distance", "NaN")).columns["distance"] == [None]
    for field in ("seats", "night", "carrier", "at"):
        assert f"row 0: {field}: got NaN" in refused(raw_record(field, "NaN"))[1]


@pytest.mark.parametrize("rows", [1, 300])
@pytest.mark.parametrize("colon", [":", " :", "\n:", "\t:", "\r:", " \n :"])
def test_in_a_small_and_in_a_large_body_a_name_that_comes_twice_is_found(rows, colon):
    good = ",".join(f'"{name}"{colon} {json.dumps(value)}' for name, value in ROW.items())
    whole = [f"{{{good}}}"] * rows
    assert parse(f'{{"dataframe_records"{colon}[{",".join(whole)}]}}'.encode()).rows == rows
    twice = [*whole[:-1], f'{{{good},"seats"{colon}1}}']
    status, message = refused(f'{{"dataframe_records"{colon}[{",".join(twice)}]}}'.encode())
    assert (status, "'seats' appears twice" in message) == (400, True)


@pytest.mark.parametrize(
    "body",
    [
        '{"instances": [%s, {"carrier":"UA","carrier":"AA"}]}',
        '{"instances": [%s], "instances" : [%s]}',
        '{"instances": [{"carrier" :"AA",%s]}',
        '{"instances": [{"carrier"\n:"AA",%s]}',
        '{"dataframe_records":[{"\\u0063arrier":"AA",%s]}',
        '{"dataframe_records":[{"note":{"a":1,"a":2},%s]}',
    ],
)
def test_a_name_that_comes_twice_is_never_overlooked(body):
    row = json.dumps(ROW)
    status, message = refused(body.replace("%s", row if "{%s" not in body and ",%s" not in body else row[1:]).encode())

    assert status == 400
    assert "appears twice" in message


@pytest.mark.parametrize("text", ['a":', '":"', ":", "}{", '\\"', "x\n:"])
def test_any_text_is_read_as_it_is(text):
    assert parse({"instances": [ROW | {"carrier": text, "note": {"a": [text]}}]}).columns["carrier"] == [text]


def test_many_times_are_read_as_one_is():
    texts = [f"20{year:02d}-0{month}-1{month}T0{month}:30:59.12{year % 10}Z" for year in range(100) for month in (1, 2, 9)]
    single = [parse({"instances": [ROW | {"at": text}]}).columns["at"][0] for text in texts]

    assert parse({"instances": [ROW | {"at": text} for text in texts]}).columns["at"] == single
    for bad in ("2013-02-30T06:30:59.120Z", "2013-02-01T06:30:61.120Z", "1699-02-01T06:30:59.120Z", "2013-02-0\uff11T06:30:59.120Z"):
        assert refused({"instances": [ROW | {"at": text} for text in [*texts, bad]]})[1].startswith("row 300: at: got a text")


@pytest.mark.parametrize("text", ["nan", "inf", "1e999", "1_000", "٣", "0x10", "x" * 500])
def test_csv_numbers_are_plain_and_finite(text):
    status, message = refused(f"carrier,distance,seats,night,at\nUA,{text},1,,2013-02-01\n".encode(), "text/csv")

    assert status == 400
    assert message.startswith("row 0: distance")


@pytest.mark.parametrize(
    ("body", "words"),
    [
        pytest.param(b"", "not valid JSON", id="empty"),
        pytest.param(b"{", "not valid JSON", id="cut"),
        pytest.param(b"\xff\xfe", "not valid UTF-8 at byte 0", id="bad UTF-8"),
        pytest.param(b"\xef\xbb\xbf{}", "not valid JSON", id="byte order mark"),
        pytest.param(b"[" * 100_000, "nested too deeply", id="deep lists"),
        pytest.param(b'{"inputs":' * 100_000, "nested too deeply", id="deep objects"),
        pytest.param(raw_record("seats", "9" * 5000), "too many digits", id="5000-digit integer"),
        pytest.param(raw_record("carrier", '"\\ud800"'), "half a surrogate pair", id="lone surrogate"),
        pytest.param(b'{"inputs":{"seats":[1],"seats":[2]}}', "'seats' appears twice", id="duplicate key"),
        pytest.param(b'{"inputs":[], "inputs":[]}', "'inputs' appears twice", id="duplicate format"),
        pytest.param(b"null", "got null", id="null"),
        pytest.param(b"[]", "got a list", id="list"),
        pytest.param(b"{}", "exactly one of", id="no format"),
        pytest.param(b'{"inputs":[],"instances":[]}', "exactly one of", id="two formats"),
        pytest.param(b'{"inputs":[],"odd\\n":1}', r"odd\n", id="unknown field"),
        pytest.param(b'{"instances":[]}', "no rows", id="no rows"),
        pytest.param(b'{"instances":[{}]}', "'carrier', 'distance', 'seats', 'night', 'at'", id="empty row"),
        pytest.param(b'{"instances":{}}', "got an object", id="no list"),
        pytest.param(b'{"instances":[1]}', "row 0: got an integer", id="number for row"),
        pytest.param(b'{"instances":[[1]]}', "row 0: got 1 values", id="short list"),
        pytest.param(b'{"instances":[[],{}]}', "row 0: got 0 values", id="empty list"),
        pytest.param(b'{"inputs":{"carrier":["a"],"seats":[1,2]}}', "got 2 values, allowed are 1", id="uneven columns"),
        pytest.param(b'{"inputs":{}}', "no rows", id="no columns"),
        pytest.param(b'{"inputs":{"\\ud800":1}}', "missing", id="surrogate in a name"),
        pytest.param(b'{"dataframe_split":{"columns":["a","a"],"data":[[1,2]]}}', "'a' appears twice", id="duplicate column"),
        pytest.param(b'{"dataframe_split":{"columns":[1],"data":[[1]]}}', "list of column names", id="column of numbers"),
        pytest.param(b'{"dataframe_split":{"columns":["a"]}}', "columns, data", id="split without data"),
        pytest.param(b'{"dataframe_split":[]}', "columns, data", id="split as list"),
        pytest.param(b'{"dataframe_split":{"columns":["a"],"data":5}}', "got an integer", id="data as number"),
        pytest.param(b'{"inputs":[1],"params":{"a":1}}', "params", id="parameters"),
    ],
)
def test_a_bad_body_says_what_is_wrong(body, words):
    status, message = refused(body)

    assert status == 400
    assert words in message
    assert len(message) < 1000
    assert "\n" not in message


@pytest.mark.parametrize(
    ("content_type", "status"),
    [
        (None, 415),
        ("", 415),
        ("text/plain", 415),
        ("application/json; charset=latin-1", 415),
        ("application/json; q=1", 415),
        ("text/html;charset", 415),
    ],
)
def test_another_content_type_is_415(content_type, status):
    assert refused({"instances": [ROW]}, content_type)[0] == status


def test_content_type_may_name_utf8():
    assert parse({"instances": [ROW]}, 'Application/JSON; charset="UTF-8"').rows == 1


def test_a_misspelt_field_names_the_likely_one():
    changed = {("distanse" if name == "distance" else name): value for name, value in ROW.items()}

    assert "missing fields: 'distance' - is it the one sent as 'distanse'?" in refused({"instances": [changed]})[1]


def test_a_row_with_too_few_fields_names_the_row_and_the_fields():
    short = {name: value for name, value in ROW.items() if name != "seats"}

    assert "row 1: missing fields: 'seats'" in refused({"instances": [ROW, short]})[1]


def test_too_many_rows_and_bytes_are_413():
    assert refused({"inputs": {name: [value] * (MAX_ROWS + 1) for name, value in ROW.items()}})[0] == 413
    assert refused({"instances": [ROW] * (MAX_ROWS + 1)})[0] == 413
    assert refused(("carrier\n" + "UA\n" * (MAX_ROWS + 1)).encode(), "text/csv")[0] == 413
    assert refused(b" " * (MAX_BODY_BYTES + 1))[0] == 413
    assert parse({"instances": [ROW] * MAX_ROWS}).rows == MAX_ROWS


@pytest.mark.parametrize(
    "body",
    [b"", b"\n\n", b'a,"b\n', b"carrier,carrier\n1,2\n", b"carrier\n1,2\n", b"carrier\x00\n1\n", b'a\n"x"y\n'],
    ids=["empty", "blank", "open quote", "twice", "too many fields", "NUL", "text after quote"],
)
def test_bad_csv_is_400(body):
    assert refused(body, "text/csv")[0] == 400


@settings(max_examples=300, deadline=None)
@given(st.from_regex(MOMENT_PATTERN.replace("$", r"\Z")))
def test_the_published_pattern_of_times_is_what_is_accepted(text):
    assert len(parse({"instances": [ROW | {"at": text}]}).times) == 1


@settings(max_examples=300, deadline=None)
@given(st.datetimes(datetime(1690, 1, 1), datetime(2210, 1, 1)), st.sampled_from(["T", " "]), st.sampled_from(["", "Z", "+02:00", "-0930"]))
def test_every_accepted_time_matches_the_published_pattern(moment, separator, zone):
    text = moment.isoformat(separator) + zone
    inside = 1700 <= moment.year <= 2200

    assert bool(re.fullmatch(MOMENT_PATTERN, text)) == inside
    if inside:
        parse({"instances": [ROW | {"at": text}]})
    else:
        refused({"instances": [ROW | {"at": text}]})


scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(), max_size=8) | st.just("2013-02-01")
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from([*NAMES, "key", "x"]), inner, max_size=6),
    max_leaves=25,
)
documents = st.fixed_dictionaries(
    {}, optional={"dataframe_split": values, "dataframe_records": values, "instances": values, "inputs": values}
)


@settings(max_examples=300, deadline=None)
@given(
    documents
    | st.lists(st.fixed_dictionaries({**dict.fromkeys(NAMES, scalars), "key": scalars}), max_size=3).map(lambda r: {"instances": r})
)
def test_any_json_is_rows_or_a_client_error(document):
    problem = request = None
    try:
        request = parse(json.dumps(document).encode())
    except RequestError as exc:
        problem = exc
    if request is not None:
        assert 1 <= request.rows == len(request.ids) == len(request.times)
        for column in LAYOUT.columns:
            assert len(as_array(request.columns[column.name], column)) == request.rows
    else:
        assert 400 <= problem.status < 500
        assert re.fullmatch(r"[ -~]+", str(problem))


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=60), st.sampled_from([JSON, "text/csv"]))
def test_any_bytes_are_rows_or_a_client_error(body, content_type):
    with pytest.raises(RequestError) as caught:
        parse_request(body, content_type, LAYOUT)
    assert 400 <= caught.value.status < 500
