import itertools
import subprocess
import sys

import numpy as np
import pytest

from windvane.arrange_rows import arrange_rows

ROWS = 5000


def columns_of(*kinds):
    random = np.random.default_rng(0)
    made = {
        "text": lambda: random.choice(np.array(["a", "b", None], dtype=object), ROWS),
        "number": lambda: random.choice([1.0, -1.0, np.nan], ROWS),
        "measured": lambda: random.random(ROWS),
    }
    return [made[kind]() for kind in kinds]


def rows_of(columns, chosen=slice(None)):
    return [tuple(repr(value) for value in row) for row in zip(*[column[chosen].tolist() for column in columns], strict=True)]


@pytest.mark.parametrize("kinds", [["text"], ["number"], ["text", "number", "number"], ["text", "measured"], ["measured", "number"]])
def test_every_row_finds_its_like(kinds):
    columns = columns_of(*kinds)
    chosen, place = arrange_rows(columns)
    computed = rows_of(columns, chosen)
    assert [computed[i] for i in place] == rows_of(columns)


@pytest.mark.parametrize(("kinds", "distinct"), [(["text", "number"], 9), (["text", "number", "measured"], ROWS)])
def test_equal_rows_are_computed_once(kinds, distinct):
    assert len(arrange_rows(columns_of(*kinds))[0]) == distinct


def test_rows_that_share_a_text_follow_each_other():
    columns = columns_of("measured", "text")
    texts = columns[1][arrange_rows(columns)[0]].tolist()
    assert sum(before != after for before, after in itertools.pairwise(texts)) == 2


def test_measurements_alone_are_left_as_they_are():
    assert arrange_rows(columns_of("measured", "measured")) is None


def test_zeros_of_both_signs_are_not_equal():
    assert len(arrange_rows([np.tile([0.0, -0.0], ROWS)])[0]) == 2


def test_more_combinations_than_a_number_can_hold():
    columns = [np.arange(ROWS, dtype=float) % 1000 for _ in range(12)]
    chosen, place = arrange_rows(columns)
    assert sorted(columns[0][chosen]) == list(range(1000))
    assert np.array_equal(columns[0][chosen][place], columns[0])


def test_needs_no_pandas():
    code = (
        "import sys, numpy; from windvane.arrange_rows import arrange_rows; arrange_rows([numpy.zeros(9)]); print('pandas' in sys.modules)"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ended.stdout.strip() == "False"
