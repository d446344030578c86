"""History replayed: what each policy decides, and that none sees the future."""

import json
import math
from datetime import timedelta

import numpy as np
import pandas as pd
import pytest
from streams import LABEL, make_stream

from windvane.backtest import POLICIES, run_backtest
from windvane.backtest_command import choose_spans, load_model, parse_span, read_history
from windvane.backtest_defaults import ROW_TIME
from windvane.errors import ConfigError, DataError
from windvane.load_config import load_config
from windvane.model_code import load_model_code
from windvane.settings import load_settings
from windvane.walk_history import History, walk


class Replay:
    """A stream with its config and model file in a directory."""

    def __init__(self, directory, kind, **options):
        self.stream = make_stream(kind, **{"seed": 3, "window": 500, "windows": 12, "first": 2000, **options})
        self.path = self.stream.write(directory)
        self.config = load_config(self.path, stand_ins={"data": {"time": ROW_TIME}})
        self.code = load_model_code(self.path.with_suffix(".py"), self.config.model)

    def run(self, *policies, frame=None, **options):
        given = {"first": 2000, "window": 500, "label_delay": 0, **options}
        *records, last = run_backtest(
            self.config, self.code, self.stream.frame if frame is None else frame, policies=policies or ("windvane",), **given
        )
        return records, last["summary"]


def decisions(records):
    return [record["decision"] for record in records]


def test_undrifted_stream_is_left_alone(tmp_path):
    records, summary = Replay(tmp_path, "undrifted").run("windvane", "never")

    assert set(decisions(records)) <= {"ok", "wait"}
    assert (summary["windvane"]["trainings"], summary["windvane"]["alarms"]) == (0, 0)
    assert summary["windvane"]["mean_loss"] == summary["never"]["mean_loss"]


def test_new_concept_is_retrained_within_two_windows_and_the_loss_recovers(tmp_path):
    replay = Replay(tmp_path, "abrupt")
    onset = (replay.stream.onset - 2000) // 500

    records, summary = replay.run("windvane", "never")

    ours = records[:12]
    assert "retrain" in decisions(ours)[onset : onset + 2]
    first = next(record for record in ours if record["decision"] == "retrain")
    assert (first["trained"], first["promoted"], first["served_version"]) == (True, True, 1)
    assert ours[first["window"] + 1]["served_version"] > 1
    assert summary["windvane"]["mean_loss"] < 0.8 * summary["never"]["mean_loss"]
    assert sum(record["alarm"] for record in ours) == summary["windvane"]["alarms"] == 1


def test_covariate_shift_without_harm_is_ignored(tmp_path):
    records, summary = Replay(tmp_path, "covariate").run()

    assert summary["windvane"]["trainings"] == 0
    assert "ignore" in decisions(records)


@pytest.mark.parametrize("kind", ["nulls", "sentinel", "constant", "scaled", "labels_low", "labels_high"])
def test_broken_data_is_never_learned_from(tmp_path, kind):
    replay = Replay(tmp_path, kind)

    records, summary = replay.run()

    assert {decisions(records)[n] for n in replay.stream.odd_windows} == {"fix_data"}
    assert summary["windvane"]["trainings"] == 0


def test_one_odd_block_is_waited_out(tmp_path):
    _, summary = Replay(tmp_path, "block").run()

    assert summary["windvane"]["trainings"] == 0


def test_the_future_changes_nothing_that_was_decided_before(tmp_path):
    replay = Replay(tmp_path, "abrupt")
    changed = replay.stream.frame.copy()
    after = slice(2000 + 8 * 500, None)
    changed.loc[changed.index[after], LABEL] = 1 - changed[LABEL][after]
    changed.loc[changed.index[after], "x0"] = 0.0

    # the oracle is the one that may see the future
    for policy in POLICIES[:-1]:
        (before, _), (then, _) = replay.run(policy), replay.run(policy, frame=changed)
        assert before[:8] == then[:8]
        assert before[8:] != then[8:]


def test_outcomes_that_are_late_are_not_seen(tmp_path):
    replay = Replay(tmp_path, "abrupt")
    unknown = replay.stream.frame.copy()
    late = slice(2000 + 8 * 500 - 1000, 2000 + 8 * 500)
    unknown.loc[unknown.index[late], LABEL] = 1 - unknown[LABEL][late]

    (before, _), (then, _) = (replay.run(frame=frame, label_delay=1000) for frame in (replay.stream.frame, unknown))

    # window 7 ends where the changed outcomes end; they arrive 1,000 rows later
    hidden = [{k: v for k, v in record.items() if k not in ("metric", "loss")} for record in before[:8]]
    assert hidden == [{k: v for k, v in record.items() if k not in ("metric", "loss")} for record in then[:8]]


def test_records_are_strict_json_with_the_promised_fields(tmp_path):
    records, summary = Replay(tmp_path, "abrupt", windows=4).run(*POLICIES)

    json.dumps([records, summary], allow_nan=False)
    fields = ["policy", "window", "start", "end", "rows", "decision", "reason", "evidence", "alarm"]
    fields += ["trained", "promoted", "served_version", "metric", "loss"]
    assert all(list(record) == fields for record in records)
    assert [record["window"] for record in records] == 6 * [0, 1, 2, 3]
    for told in summary.values():
        assert set(told) == {"mean_loss", "mean_metric", "trainings", "promotions", "alarms", "regret_to_oracle", "seconds"}
    assert list(summary) == list(POLICIES)
    assert summary["oracle"]["regret_to_oracle"] == 0.0
    assert summary["never"]["regret_to_oracle"] > -0.02
    assert (summary["every-window"]["trainings"], summary["never"]["trainings"]) == (4, 0)


@pytest.mark.parametrize("task", ["multiclass_classification", "regression"])
def test_other_tasks_recover_as_well(tmp_path, task):
    records, summary = Replay(tmp_path, "abrupt", task=task).run("windvane", "never")

    assert "retrain" in decisions(records)
    assert summary["windvane"]["mean_loss"] < 0.9 * summary["never"]["mean_loss"]


def test_same_seed_same_records_other_seed_other_model(tmp_path):
    replay = Replay(tmp_path, "abrupt", windows=4)

    assert replay.run(seed=1)[0] == replay.run(seed=1)[0]


def test_windows_by_time(tmp_path):
    replay = Replay(tmp_path, "undrifted", windows=4)
    moments = pd.date_range("2024-01-01", periods=len(replay.stream.frame), freq="1min")
    frame = replay.stream.frame.assign(at=moments.astype(str)).sample(frac=1, random_state=1)
    replay.config = replay.config.model_copy(update={"data": replay.config.data.model_copy(update={"time": "at"})})

    records, _ = replay.run(
        "never", frame=frame, first=timedelta(minutes=2000), window=timedelta(minutes=500), label_delay=timedelta(hours=1)
    )

    assert [record["rows"] for record in records] == [500] * 4
    assert records[0]["start"] == "2024-01-02T09:20:00+00:00"


def test_rows_without_an_outcome_are_no_rows_to_learn_from(tmp_path):
    replay = Replay(tmp_path, "undrifted", windows=3)
    frame = replay.stream.frame.copy()
    frame[LABEL] = frame[LABEL].astype(float).where(np.arange(len(frame)) % 2 == 0)

    records, _ = replay.run("every-window", frame=frame)

    assert all(math.isfinite(record["loss"]) for record in records)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        pytest.param({"first": 99_999}, "--first: got 99999 rows", id="nothing left to walk over"),
        pytest.param({"window": timedelta(days=1)}, "--window: got a length of time", id="time without a clock"),
        pytest.param({"window": 9_999}, "--window: got 9999, but 1000 rows are left", id="window longer than the rest"),
        pytest.param({"policies": ("guess",)}, "--policy: got 'guess'", id="unknown policy"),
    ],
)
def test_what_cannot_be_replayed_says_why(tmp_path, change, says):
    replay = Replay(tmp_path, "undrifted", windows=2)
    given = {"first": 2000, "window": 500, "label_delay": 0, "policies": ("never",), **change}

    with pytest.raises(ConfigError, match=says):
        list(run_backtest(replay.config, replay.code, replay.stream.frame, **given))


def test_a_lost_label_column_is_named(tmp_path):
    replay = Replay(tmp_path, "undrifted", windows=2)

    with pytest.raises(DataError, match=f"has no column '{LABEL}'"):
        History(replay.config, replay.stream.frame.drop(columns=LABEL))


def test_a_short_last_window_counts_from_half_its_length(tmp_path):
    replay = Replay(tmp_path, "undrifted", windows=3)

    def rows(left_out):
        frame = replay.stream.frame.iloc[: len(replay.stream.frame) - left_out]
        return [step.rows.stop - step.rows.start for step in walk(History(replay.config, frame), first=2000, window=500, label_delay=0)]

    assert (rows(0), rows(200), rows(300)) == ([500, 500, 500], [500, 500, 300], [500, 500])


@pytest.mark.parametrize(("text", "span"), [("500", 500), ("30d", timedelta(days=30)), ("1h30m", timedelta(minutes=90))])
def test_spans(text, span):
    assert parse_span(text, "--window") == span


@pytest.mark.parametrize("text", ["", "-5", "0d", "soon"])
def test_wrong_spans_name_what_is_allowed(text):
    with pytest.raises(ConfigError, match="--window: got"):
        parse_span(text, "--window")


def test_defaults_walk_forty_windows_over_four_fifths(tmp_path):
    replay = Replay(tmp_path, "undrifted", windows=2)

    assert choose_spans(replay.config, 10_000, False, first=None, window=None, label_delay=None) == {
        "first": 2000,
        "window": 200,
        "label_delay": 0,
    }


def test_a_config_at_another_place_and_files_of_each_kind(tmp_path):
    replay = Replay(tmp_path, "undrifted", windows=2)
    settings = load_settings({"WINDVANE_VAR": str(tmp_path / "var")})
    frame = replay.stream.frame
    frame.to_csv(tmp_path / "rows.csv", index=False)
    frame.to_parquet(tmp_path / "rows.parquet")

    config, code = load_model(settings, str(replay.path))

    assert (config.model, config.data.time, code.path.parent) == (replay.config.model, ROW_TIME, tmp_path)
    for name in ("rows.csv", "rows.parquet"):
        assert len(read_history(settings, config, str(tmp_path / name))) == len(frame)
    (tmp_path / "rows.xlsx").touch()
    with pytest.raises(DataError, match="allowed are a"):
        read_history(settings, config, str(tmp_path / "rows.xlsx"))
    with pytest.raises(DataError, match="there is no such file"):
        read_history(settings, config, str(tmp_path / "other.csv"))
    with pytest.raises(DataError, match="ingested nothing yet"):
        read_history(settings, config, None)
    with pytest.raises(ConfigError, match="there is no such config"):
        load_model(settings, str(tmp_path / "other.yaml"))
