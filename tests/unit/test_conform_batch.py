from datetime import UTC, date, datetime
from decimal import Decimal

import numpy as np
import pyarrow as pa
import pytest

from windvane.conform_batch import conform_batch
from windvane.errors import DataError
from windvane.signature import Column, arrays_of, conform

TIME = pa.timestamp("us", tz="UTC")
MOMENT = datetime(2020, 2, 3, 4, 5, 6, 789, tzinfo=UTC)
CASES = [
    ("string", pa.array(["a", None, "a", "\u00fc"])),
    ("string", pa.array(["a", None, "a"]).dictionary_encode()),
    ("string", pa.array(["a", "b"], pa.string_view())),
    ("string", pa.array([None, None], pa.string())),
    ("string", pa.array([1, 2])),
    ("double", pa.array([1.5, None, float("inf"), float("nan")])),
    ("double", pa.array([1, None, 2**60 + 1])),
    ("double", pa.array([True, False])),
    ("double", pa.array([Decimal("1.5"), None])),
    ("long", pa.array([1, -(2**62)])),
    ("long", pa.array([1.0, 2.0])),
    ("boolean", pa.array([True, False, None])),
    ("boolean", pa.array([True, False])),
    ("datetime", pa.array([MOMENT, None], TIME)),
    ("datetime", pa.array([MOMENT, None], pa.timestamp("ns"))),
    ("datetime", pa.array([date(2020, 1, 2)])),
    ("datetime", pa.array(["2020-01-02T03:04:05Z"])),
]


@pytest.mark.parametrize("nullable", [True, False])
@pytest.mark.parametrize(("kind", "values"), CASES, ids=[f"{kind} from {values.type}{i}" for i, (kind, values) in enumerate(CASES)])
def test_a_batch_is_conformed_as_a_frame_is(kind, values, nullable):
    column = Column("x", kind, nullable)
    plain = values.dictionary_decode() if pa.types.is_dictionary(values.type) else values
    expected = arrays_of(conform(pa.table({"x": plain}).to_pandas(), [column]), [column])["x"]
    found = conform_batch(pa.record_batch({"x": values}), [column])["x"]
    assert found.dtype == expected.dtype
    np.testing.assert_array_equal(found, expected)


def test_a_part_of_a_batch_keeps_its_own_rows():
    batch = pa.record_batch({"s": pa.array(["a", "b", "c"]), "t": pa.array([MOMENT, None, MOMENT], TIME)}).slice(1, 2)
    found = conform_batch(batch, [Column("s", "string", False), Column("t", "datetime", True)])
    assert found["s"].tolist() == ["b", "c"]
    assert np.isnat(found["t"]).tolist() == [True, False]


def test_equal_texts_are_one_object():
    found = conform_batch(pa.record_batch({"s": pa.array(["some", "some"])}), [Column("s", "string", False)])["s"]
    assert found[0] is found[1]


@pytest.mark.parametrize("values", [["a"], [None], [1.5]], ids=repr)
def test_what_does_not_turn_into_its_type_is_named(values):
    with pytest.raises(DataError, match=r"column 'x': got .*, which does not turn into long"):
        conform_batch(pa.record_batch({"x": pa.array(values)}), [Column("x", "long", False)])


def test_a_lost_column_is_named():
    with pytest.raises(DataError, match=r"lost columns \['x'\]"):
        conform_batch(pa.record_batch({"y": pa.array([1])}), [Column("x", "long", False)])
