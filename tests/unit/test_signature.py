from datetime import date

import numpy as np
import pandas as pd
import pytest

from windvane.errors import DataError
from windvane.signature import Column, columns_from_json, conform, describe_columns, keep_used_columns

FRAME = pd.DataFrame(
    {
        "text": ["a", None],
        "number": [1.5, 2.5],
        "whole": [1, 2],
        "yes": [True, False],
        "at": pd.to_datetime(["2024-01-01", "2024-01-02"], utc=True),
        "day": [date(2024, 1, 1), date(2024, 1, 2)],
        "maybe": [True, None],
        "id": ["x", "y"],
    }
)


def test_columns_are_named_and_typed_without_the_excluded():
    described = {c.name: (c.type, c.nullable) for c in describe_columns(FRAME, exclude=("id", None))}
    assert described == {
        "text": ("string", True),
        "number": ("double", False),
        "whole": ("long", False),
        "yes": ("boolean", False),
        "at": ("datetime", False),
        "day": ("datetime", False),
        "maybe": ("boolean", True),
    }


def test_conform_is_the_same_for_what_a_client_sends():
    columns = describe_columns(FRAME, exclude=("id",))
    sent = pd.DataFrame(
        {
            "maybe": [1.0, None],
            "day": ["2024-01-01", "2024-01-02"],
            "at": ["2024-01-01T00:00:00Z", "2024-01-02T01:00:00+01:00"],
            "yes": [True, False],
            "whole": [1.0, 2.0],
            "number": ["1.5", 2.5],
            "text": ["a", np.nan],
            "more": [1, 2],
        }
    )
    pd.testing.assert_frame_equal(conform(sent, columns), conform(FRAME, columns))
    assert conform(sent, columns)["at"].dtype == "datetime64[us, UTC]"


def test_a_lost_column_is_named():
    with pytest.raises(DataError, match=r"lost columns \['number'\]"):
        conform(FRAME.drop(columns="number"), describe_columns(FRAME, exclude=()))


@pytest.mark.parametrize(("kind", "values"), [("double", ["much", 1]), ("long", [1.5, 2]), ("datetime", ["noon", "late"])])
def test_a_retyped_column_is_named_without_its_values(kind, values):
    with pytest.raises(DataError, match="column 'x'") as caught:
        conform(pd.DataFrame({"x": values}), [Column("x", kind, nullable=True)])
    assert "much" not in str(caught.value)


def test_a_type_no_client_can_send_is_refused():
    with pytest.raises(DataError, match="timedelta"):
        describe_columns(pd.DataFrame({"x": pd.to_timedelta([1, 2], unit="s")}), exclude=())


def test_columns_the_model_does_not_read_are_dropped():
    frame = pd.DataFrame({"a": [1.0, 2.0], "b": [3.0, 4.0], "c": [5.0, 6.0]})
    columns = describe_columns(frame, exclude=())
    kept = keep_used_columns(
        columns, frame, features=lambda f: f.assign(d=f["b"] * 2), predict=lambda made: (made["a"] + made["d"]).to_numpy()
    )
    assert [c.name for c in kept] == ["a", "b"]


def test_json_round_trip():
    columns = describe_columns(FRAME, exclude=())
    assert columns_from_json([c.as_json() for c in columns]) == columns
