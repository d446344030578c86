import numpy as np
import pytest
from streams import BROKEN_COLUMNS, BROKEN_LABELS, CATEGORIES, KINDS, LABEL, NUMBERS, make_stream

from windvane.backtest_defaults import ROW_TIME
from windvane.load_config import load_config
from windvane.model_code import load_model_code

TASKS = ["binary_classification", "multiclass_classification", "regression"]


@pytest.mark.parametrize("kind", KINDS)
def test_a_seed_draws_the_same_rows(kind):
    one, two, other = (make_stream(kind, seed=seed, window=100, windows=10, first=300) for seed in (3, 3, 4))
    assert one.frame.equals(two.frame)
    assert not one.frame.equals(other.frame)
    assert list(one.frame.columns) == [*NUMBERS, *CATEGORIES, LABEL]
    assert len(one.frame) == 300 + 10 * 100


@pytest.mark.parametrize("kind", [*BROKEN_COLUMNS, *BROKEN_LABELS])
def test_broken_rows_lie_in_the_odd_windows(kind):
    stream = make_stream(kind, seed=1, window=500, windows=12, first=1_000)
    assert stream.onset is not None
    assert stream.until is not None
    assert (stream.onset - stream.first) % 500 == 0
    assert list(stream.odd_windows) == list(range(stream.odd_windows[0], (stream.until - 1 - stream.first) // 500 + 1))
    usual = stream.frame.drop(index=range(stream.onset, stream.until))
    assert usual.notna().all().all()
    assert usual[[*NUMBERS]].to_numpy().max() < 3_000
    assert 0.35 < usual[LABEL].mean() < 0.65


def test_a_turned_concept_is_the_opposite_of_what_was():
    stream = make_stream("abrupt", seed=2, window=1_000)
    assert stream.detail == "turned round"
    before, after = stream.frame[: stream.onset], stream.frame[stream.onset :]
    assert np.corrcoef(before["x0"], before[LABEL])[0, 1] > 0.25
    assert np.corrcoef(after["x0"], after[LABEL])[0, 1] < -0.25


def test_harmless_drift_leaves_a_good_model_right(tmp_path):
    stream = make_stream("covariate", seed=3)
    config = load_config(stream.write(tmp_path), stand_ins={"data": {"time": ROW_TIME}})
    code = load_model_code(tmp_path / f"{config.model}.py", config.model)
    before, after = stream.frame[: stream.onset], stream.frame[stream.onset :]
    assert after["x0"].mean() - before["x0"].mean() == pytest.approx(1.2, abs=0.05)
    chances = code.build_pipeline({}).fit(before.drop(columns=LABEL), before[LABEL]).predict_proba(after.drop(columns=LABEL))[:, 1]
    for part in (chances < 0.25, (chances > 0.25) & (chances < 0.75), chances > 0.75):
        assert chances[part].mean() == pytest.approx(after[LABEL][part].mean(), abs=0.04)


def test_odd_seeds_change_in_the_middle_of_a_window():
    even, odd = make_stream("abrupt", seed=4), make_stream("abrupt", seed=5)
    assert even.onset is not None
    assert odd.onset is not None
    assert (even.onset - even.first) % even.window == 0
    assert 0.2 < (odd.onset - odd.first) % odd.window / odd.window < 0.8


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("world", ["linear", "steps"])
def test_config_and_model_file_are_those_of_a_model_that_learns(tmp_path, task, world):
    stream = make_stream("undrifted", seed=0, task=task, world=world, window=500, windows=2)
    config = load_config(stream.write(tmp_path), stand_ins={"data": {"time": ROW_TIME}})
    code = load_model_code(tmp_path / f"{config.model}.py", config.model)
    inputs, outcomes = stream.frame.drop(columns=LABEL), stream.frame[LABEL]
    pipeline = code.build_pipeline({}).fit(inputs[: stream.first], outcomes[: stream.first])
    share = {"binary_classification": 0.7, "multiclass_classification": 0.55, "regression": 0.65}[task]
    assert config.task == task
    assert pipeline.score(inputs[stream.first :], outcomes[stream.first :]) > share


def test_a_clock_gives_a_window_a_day():
    stream = make_stream("undrifted", seed=0, window=24, windows=3, first=48, clock=True)
    times = stream.frame["time"]
    assert str(times.iloc[stream.first]) == "2024-01-01 00:00:00+00:00"
    assert (times.diff().dropna().dt.total_seconds() == 3_600).all()
