import subprocess
from datetime import timedelta

import pytest
from training_project import DAYS, START, fill, make_project, make_rows

from windvane.errors import ConfigError, NotEnoughData
from windvane.lake import Lake
from windvane.snapshot import Snapshot, plan_training, read_snapshot
from windvane.windows import Window

END = START + timedelta(days=DAYS)


@pytest.fixture
def project(tmp_path):
    return make_project(tmp_path, rows=200)


def plan(project, window=None, config=None, code=None):
    return plan_training(config or project.config, code or project.code, project.lake, window=window, settings=project.settings)


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
