import math

import numpy as np
import pytest

from windvane.errors import DataError
from windvane.plot_backtest import _view, plot_backtest

DECISIONS = ["ok", "wait", "ignore", "fix_data", "recalibrate", "retrain"]


def _record(policy, window, **changes):
    record = {
        "policy": policy,
        "window": window,
        "start": 100 * window,
        "end": 100 * window + 100,
        "decision": DECISIONS[window % len(DECISIONS)],
        "alarm": window == 2,
        "trained": window in (4, 5),
        "promoted": window == 5,
        "metric": 0.8 - 0.01 * window,
    }
    return record | changes


def _size(path):
    """Width and height of a PNG."""
    data = path.read_bytes()
    assert data.startswith(b"\x89PNG")
    return int.from_bytes(data[16:20]), int.from_bytes(data[20:24])


def test_every_policy_is_a_line_with_its_decisions_and_trainings(tmp_path):
    records = [_record(policy, window) for policy in ("windvane", "never", "a policy of somebody else") for window in range(12)]
    path = plot_backtest([*records, {"summary": {"windvane": {}}}], tmp_path / "new" / "plot.png", title="churn: roc_auc")
    one = plot_backtest(records[:12], tmp_path / "one.png", title="churn: roc_auc")
    assert path.stat().st_size < 200_000
    # each policy has a strip of its own
    assert _size(path)[0] == _size(one)[0]
    assert _size(path)[1] > _size(one)[1]


def test_the_same_records_give_the_same_bytes(tmp_path):
    records = [_record("windvane", window) for window in range(12)]
    first, second = (plot_backtest(records, tmp_path / f"{i}.png", title="churn").read_bytes() for i in range(2))
    assert first == second


def test_a_decision_shows(tmp_path):
    calm = [_record("windvane", window, decision="ok", alarm=False, trained=False) for window in range(12)]
    pictures = {plot_backtest(calm, tmp_path / "calm.png", title="churn").read_bytes()}
    for field in ({"decision": "retrain"}, {"decision": "fix_data"}, {"alarm": True}, {"trained": True}):
        changed = [*calm[:5], calm[5] | field, *calm[6:]]
        pictures.add(plot_backtest(changed, tmp_path / "changed.png", title="churn").read_bytes())
    assert len(pictures) == 5


@pytest.mark.parametrize(
    "changes",
    [
        {"metric": None},
        {"metric": math.nan},
        {"metric": 0.5},
        {"start": "2013-01-01T00:00:00+00:00", "end": "2013-02-01T00:00:00+00:00"},
        {"policy": "_$x^{$\\"},
        {"decision": "a word of a later version"},
    ],
    ids=["no metric", "not a number", "constant", "times", "TeX in a name", "unknown decision"],
)
def test_odd_records_are_drawn(tmp_path, changes):
    path = plot_backtest(
        [_record("windvane", window) | changes for window in range(3)], tmp_path / "plot.png", title="_$\\frac{$ \n\x00 churn"
    )
    assert _size(path)[0] > 500


def test_one_window_is_enough(tmp_path):
    assert _size(plot_backtest([_record("never", 0)], tmp_path / "plot.png", title="churn"))[0] > 500


def test_no_windows_is_an_error(tmp_path):
    with pytest.raises(DataError, match="nothing to draw"):
        plot_backtest([{"summary": {}}], tmp_path / "plot.png", title="churn")


def test_a_window_of_wrong_data_does_not_press_the_others_flat():
    usual = np.linspace(0.7, 0.8, 40)
    assert _view(usual) == (usual.min(), usual.max())
    low, high = _view(np.append(usual, -43.0))
    assert 0 < low < 0.7
    assert high == usual.max()
