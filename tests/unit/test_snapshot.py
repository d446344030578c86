import json
import subprocess
from datetime import timedelta

import pandas as pd
import pytest
from training_project import DAYS, START, fill, make_project, make_rows

from windvane.errors import ConfigError, NotEnoughData
from windvane.lake import Lake
from windvane.release_window import release_window
from windvane.snapshot import Sample, Serving, Snapshot, plan_training, read_snapshot
from windvane.train_model import train_model
from windvane.windows import Window

END = START + timedelta(days=DAYS)


@pytest.fixture
def project(tmp_path):
    return make_project(tmp_path, rows=200)


def plan(project, window=None, config=None, code=None, champion=None):
    return plan_training(
        config or project.config, code or project.code, project.lake, window=window, settings=project.settings, champion=champion
    )


def decide(project, decision, *, first, last, version=1, plan=None, reason="", **evidence):
    """Write a decision about the days from `first` to `last`, as the monitor does."""
    window = Window(START + timedelta(days=first), START + timedelta(days=last))
    row = pd.DataFrame(
        {
            "window_key": [window.key],
            "window_start": pd.to_datetime([window.start], utc=True).as_unit("us"),
            "window_end": pd.to_datetime([window.end], utc=True).as_unit("us"),
            "decision": [decision],
            "reason": [reason],
            "evidence": [json.dumps({**evidence, "plan": plan})],
            "version": pd.array([version], dtype="Int64"),
        }
    )
    project.lake.replace_rows("churn", "decisions", row, key="window_key", values=[window.key])
    return window


def day(number):
    return (START + timedelta(days=number)).isoformat()


def test_the_default_window_ends_where_outcomes_are_complete(project):
    snapshot = plan(project)
    assert snapshot.holdout == Window(END - timedelta(days=11), END - timedelta(days=1))
    assert snapshot.train == Window(START, END - timedelta(days=11))


def test_the_default_window_begins_no_earlier_than_the_data(project):
    def starting(first):
        return project.config.model_copy(update={"data": project.config.data.model_copy(update={"start": first})})

    whole = plan(project)
    early = plan(project, config=starting(whole.train.start + timedelta(days=3)))
    assert early.train == Window(whole.train.start + timedelta(days=3), whole.train.end)
    assert early.holdout == whole.holdout
    assert plan(project, config=starting(whole.train.start - timedelta(days=3))).train == whole.train


def test_json_round_trip_keeps_the_key(project):
    snapshot = plan(project)
    again = Snapshot.from_json(snapshot.as_json())
    assert again == snapshot
    assert again.training_key == snapshot.training_key


def test_the_key_changes_with_seed_config_data_and_window(project):
    config = project.config
    keys = [plan(project).training_key, plan(project).training_key]
    keys.append(plan(project, config=config.model_copy(update={"train": config.train.model_copy(update={"seed": 8})})).training_key)
    keys.append(plan(project, window=Window(START, START + timedelta(days=20))).training_key)
    fill(project.lake, make_rows(config.task, 200, seed=5))
    keys.append(plan(project).training_key)
    assert keys[0] == keys[1]
    assert len(set(keys)) == 4


def test_rows_are_labelled_sorted_and_split(project):
    train, holdout = read_snapshot(project.config, project.code, project.lake, plan(project))
    assert train["seen"].is_monotonic_increasing
    assert train["seen"].max() < holdout["seen"].min()
    assert train["left"].dtype == "int64"
    assert len(train) + len(holdout) == 200 * 0.9 * 39 / 40 - 0.5


def test_a_snapshot_reads_the_rows_of_its_version_for_ever(project):
    snapshot = plan(project)
    before = read_snapshot(project.config, project.code, project.lake, snapshot)
    fill(project.lake, make_rows(project.config.task, 100, seed=9))
    after = read_snapshot(project.config, project.code, project.lake, snapshot)
    assert before[0].equals(after[0])
    assert before[1].equals(after[1])


def limited(project, most):
    return project.config.model_copy(update={"train": project.config.train.model_copy(update={"max_rows": most})})


def test_a_limit_that_is_not_reached_changes_no_key(project):
    assert plan(project, config=limited(project, 1000)).as_json() == plan(project).as_json()
    assert "sample" not in plan(project).as_json()


def test_more_rows_than_the_limit_are_sampled_and_the_snapshot_says_so(tmp_path):
    project = make_project(tmp_path, rows=8000)
    whole, snapshot = plan(project), plan(project, config=limited(project, 1000))
    train, holdout = read_snapshot(project.config, project.code, project.lake, snapshot)
    every = read_snapshot(project.config, project.code, project.lake, whole)

    assert snapshot.sample == Sample(max_rows=1000, train_rows=len(every[0]), holdout_rows=len(every[1]))
    assert Snapshot.from_json(json.loads(json.dumps(snapshot.as_json()))) == snapshot
    assert snapshot.training_key != whole.training_key
    assert snapshot.data_digest != whole.data_digest
    assert 900 < len(train) <= 1000
    assert 200 < len(holdout) <= 250
    for drawn, full in zip((train, holdout), every, strict=True):
        pd.testing.assert_frame_equal(drawn, full[full["customer"].isin(drawn["customer"])].reset_index(drop=True))
    assert train["seen"].dt.floor("D").value_counts().between(15, 60).all()


def test_a_sample_stays_what_was_planned_whatever_the_config_says_later(tmp_path):
    project = make_project(tmp_path, rows=3000)
    snapshot = plan(project, config=limited(project, 1000))
    before, after = (
        read_snapshot(config, project.code, project.lake, snapshot)[0] for config in (limited(project, 1000), limited(project, 2000))
    )
    assert before.equals(after)


def test_a_holdout_alone_may_be_sampled(tmp_path):
    project = make_project(tmp_path, rows=3000)
    most = 2200
    snapshot = plan(project, config=limited(project, most))
    train, holdout = read_snapshot(project.config, project.code, project.lake, snapshot)
    assert len(train) == snapshot.sample.train_rows < most
    assert len(holdout) <= most // 4 < snapshot.sample.holdout_rows


def test_nothing_ingested_is_said(project, tmp_path):
    with pytest.raises(NotEnoughData, match="run churn__ingest first"):
        plan_training(project.config, project.code, Lake(str(tmp_path / "empty")), window=None, settings=project.settings)


def test_a_window_without_labels_is_named(project):
    with pytest.raises(NotEnoughData, match=r"no row of the train window 2030-01-01\.\.2030-01-22"):
        plan(project, window=Window("2030-01-01", "2030-02-01"))


def test_one_class_is_not_enough(project):
    fill(project.lake, make_rows(project.config.task, 200).assign(left=1.0))
    with pytest.raises(NotEnoughData, match="one class only"):
        plan(project)


def test_a_window_no_longer_than_the_holdout_is_refused(project):
    with pytest.raises(ConfigError, match=r"longer than train\.holdout"):
        plan(project, window=Window(START, START + timedelta(days=10)))


def test_the_commit_is_recorded_and_says_when_the_tree_differs(project):
    root = project.settings.project
    assert plan(project).code_commit == "unknown"
    git = ["git", "-c", "user.name=t", "-c", "user.email=t@example.org"]
    for arguments in (["init", "-q"], ["add", "include"], ["commit", "-q", "-m", "first"]):
        subprocess.run([*git, *arguments], cwd=root, check=True)
    clean = plan(project).code_commit
    assert len(clean) == 40
    project.code.path.write_text(project.code.path.read_text() + "\n")
    assert plan(project).code_commit == f"{clean}-dirty"


def test_a_decision_to_retrain_says_from_when_to_train_and_a_short_window_keeps_rows_to_fit_on(project):
    decide(project, "retrain", first=30, last=38, plan={"train_start": day(24), "recalibrate": False})
    snapshot = plan(project, champion=Serving(1, "a" * 64))
    # outcomes are complete until day 39: 40 % of 15 days are 6
    assert snapshot.train == Window(START + timedelta(days=24), START + timedelta(days=33))
    assert snapshot.holdout == Window(START + timedelta(days=33), START + timedelta(days=39))
    assert snapshot.recalibrates is None


def test_what_a_trial_judged_on_is_held_out(project):
    planned = {"train_start": day(24), "holdout_start": day(36), "recalibrate": False}
    decide(project, "retrain", first=30, last=38, plan=planned)
    assert plan(project, champion=Serving(1, "a" * 64)).holdout == Window(START + timedelta(days=36), START + timedelta(days=39))
    for odd in (day(24), day(39), ""):
        decide(project, "retrain", first=30, last=38, plan={**planned, "holdout_start": odd})
        assert plan(project, champion=Serving(1, "a" * 64)).holdout.start == START + timedelta(days=33)


@pytest.mark.parametrize(
    ("decision", "champion", "days"),
    [
        pytest.param("retrain", Serving(2, "a" * 64), (30, 38), id="another version serves by now"),
        pytest.param("retrain", None, (30, 38), id="nothing serves"),
        pytest.param("ignore", Serving(1, "a" * 64), (30, 38), id="another decision"),
    ],
)
def test_a_decision_that_does_not_hold_any_more_is_not_followed(project, decision, champion, days):
    usual = plan(project)
    decide(project, decision, first=days[0], last=days[1], plan={"train_start": day(24), "recalibrate": False})
    assert plan(project, champion=champion) == usual


def test_only_the_newest_decision_counts_and_a_broken_plan_is_the_usual_one(project):
    serving, usual = Serving(1, "a" * 64), plan(project)
    decide(project, "retrain", first=20, last=30, plan={"train_start": day(24), "recalibrate": False})
    decide(project, "ok", first=30, last=38)
    assert plan(project, champion=serving) == usual
    for broken in (None, {}, {"train_start": None}, {"train_start": "soon"}, {"train_start": day(50), "recalibrate": False}):
        decide(project, "retrain", first=30, last=38, plan=broken)
        assert plan(project, champion=serving) == usual


def test_a_person_who_gives_a_window_gets_it_whatever_was_decided(project):
    decide(project, "retrain", first=30, last=38, plan={"train_start": day(24), "recalibrate": False})
    given = Window(START, START + timedelta(days=20))
    snapshot = plan(project, window=given, champion=Serving(1, "a" * 64))
    assert (snapshot.train.start, snapshot.holdout.end) == (given.start, given.end)
    assert snapshot.holdout.end - snapshot.holdout.start == timedelta(days=10)


def test_a_decision_to_recalibrate_names_the_bundle_and_skips_the_rows_that_it_was_trained_on(project):
    first = plan(project, window=Window(START, START + timedelta(days=20)))
    digest = train_model(project.config, project.code, project.settings, project.lake, first).bundle_digest
    decide(project, "recalibrate", first=30, last=38, plan={"train_start": day(2), "recalibrate": True})
    snapshot = plan(project, champion=Serving(1, digest))
    assert snapshot.recalibrates == digest
    assert snapshot.train.start == first.train.end
    assert snapshot.code_digest == first.code_digest
    again = Snapshot.from_json(json.loads(json.dumps(snapshot.as_json())))
    assert (again, again.training_key) == (snapshot, snapshot.training_key)
    decide(project, "retrain", first=30, last=38, plan={"train_start": first.train.end.isoformat(), "recalibrate": False})
    assert plan(project, champion=Serving(1, digest)).training_key != snapshot.training_key


def test_rows_of_windows_held_back_are_never_read_until_a_person_releases_them(project):
    usual, (before, newest) = plan(project), read_snapshot(project.config, project.code, project.lake, plan(project))
    held = decide(project, "fix_data", first=10, last=12)
    late = decide(project, "fix_data", first=35, last=37)
    decide(project, "fix_data", first=60, last=62)
    snapshot = plan(project)
    assert snapshot.excluded == (held, late)
    assert snapshot.training_key != usual.training_key
    assert snapshot.data_digest != usual.data_digest
    assert Snapshot.from_json(snapshot.as_json()) == snapshot
    train, holdout = read_snapshot(project.config, project.code, project.lake, snapshot)
    assert len(train) == len(before) - ((before["seen"] >= held.start) & (before["seen"] < held.end)).sum() < len(before)
    assert len(holdout) == len(newest) - ((newest["seen"] >= late.start) & (newest["seen"] < late.end)).sum() < len(newest)
    for window in (held, late):
        release_window(project.config, project.lake, window, actor="ann", reason="checked at the source")
    assert plan(project) == usual


def test_a_holdout_that_is_held_back_as_a_whole_is_named(project):
    decide(project, "fix_data", first=25, last=39)
    with pytest.raises(NotEnoughData, match=r"held back as bad data \(2024-01-26"):
        plan(project)


def test_a_snapshot_of_an_earlier_version_is_read_as_it_was(project):
    snapshot = plan(project)
    assert not {"recalibrates", "excluded"} & snapshot.as_json().keys()
    assert Snapshot.from_json(snapshot.as_json()).training_key == snapshot.training_key


def test_the_holdout_of_young_data_is_at_most_two_fifths(project):
    def starting(days):
        return project.config.model_copy(update={"data": project.config.data.model_copy(update={"start": START + timedelta(days=days)})})

    assert plan(project, config=starting(9)).holdout.start == START + timedelta(days=29)
    assert plan(project, config=starting(29)).holdout.start == START + timedelta(days=35)
