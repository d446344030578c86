import dataclasses
import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from training_project import DAYS, START, fill, make_config, make_project, make_rows

from windvane.bundle import open_bundle
from windvane.errors import ModelCodeError
from windvane.gate_challenger import Judged, gate_challenger, judge_quality, judge_sanity
from windvane.predictor import Predictions
from windvane.snapshot import plan_training
from windvane.train_model import train_model
from windvane.verdict import Gate, Verdict, load_verdict
from windvane.windows import Window

WEAK_MODEL = """
from sklearn.dummy import DummyClassifier
from sklearn.pipeline import Pipeline

def features(frame):
    return frame[["calls"]]

def build_pipeline(params):
    return Pipeline([("model", DummyClassifier(strategy="uniform"))])
"""


def train(project, *, seed=7, window=None):
    config = project.config.model_copy(update={"train": project.config.train.model_copy(update={"seed": seed})})
    snapshot = plan_training(config, project.code, project.lake, window=window, settings=project.settings)
    result = train_model(config, project.code, project.settings, project.lake, snapshot)
    return snapshot, open_bundle(project.settings.bundles, result.bundle_digest)


def gate(project, snapshot, challenger, champion=None):
    return gate_challenger(project.config, project.settings, project.lake, snapshot, challenger=challenger, champion=champion)


def failed(verdict):
    return [g.name for g in verdict.gates if not g.passed]


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    return make_project(
        tmp_path_factory.mktemp("gated"),
        rows=3000,
        gates={"at_least": 0.6, "slices": {"columns": ["plan"], "min_rows": 20, "max_drop": 0.05}},
    )


@pytest.fixture(scope="module")
def first(project):
    return train(project)


def test_a_good_first_version_passes_and_says_why(project, first):
    verdict = gate(project, *first)
    assert verdict.passed, verdict.table()
    assert load_verdict(project.settings.bundles, first[1].digest) == Verdict.from_json(verdict.as_json())
    table = verdict.table()
    assert "at least 0.6 is needed" in table
    assert "Nothing serves yet" in table
    assert table.endswith("verdict: passed")


def test_a_model_that_predicts_no_single_row_is_judged_without_its_latency(project, first, monkeypatch):
    def refuse(*args, **options):
        raise ModelCodeError("features() failed on one row")

    monkeypatch.setattr("windvane.gate_challenger.time_predictions", refuse)
    verdict = gate(project, *first)
    assert (verdict.passed, verdict.latency) == (True, {})


def test_what_serves_already_is_not_promoted_again_and_keeps_its_verdict(project, first):
    gate(project, *first)
    verdict = gate(project, *first, champion=first[1])
    assert not verdict.passed
    assert "serves already" in verdict.gates[0].reason
    assert load_verdict(project.settings.bundles, first[1].digest).passed


def test_another_seed_on_the_same_rows_is_no_reason_to_promote(project, first):
    snapshot, other = train(project, seed=8)
    verdict = gate(project, snapshot, other, champion=first[1])
    assert "new information" in failed(verdict)
    assert "luck of the seed" in verdict.gates[0].reason


def test_a_challenger_of_a_changed_world_beats_the_champion(tmp_path):
    project = make_project(tmp_path, rows=3000, gates={"slices": {"columns": ["plan"], "min_rows": 20, "max_drop": 0.05}})
    _, champion = train(project)
    fill(project.lake, make_rows(project.config.task, 3000, seed=3, weight=-1.5))
    snapshot, challenger = train(project)
    verdict = gate(project, snapshot, challenger, champion)
    assert verdict.passed, verdict.table()
    # and the other way round it fails on the metric and on slices
    back = gate(project, snapshot, champion, challenger)
    assert {"champion", "slices", "baseline dummy"} <= set(failed(back))
    assert "plan=" in next(g.reason for g in back.gates if g.name == "slices")


def test_a_model_that_knows_nothing_fails_floor_and_baselines(tmp_path):
    project = make_project(tmp_path, code=WEAK_MODEL, gates={"at_least": 0.6})
    assert {"floor", "baseline dummy"} <= set(failed(gate(project, *train(project))))


def test_too_few_rows_and_too_large_a_bundle(tmp_path):
    project = make_project(tmp_path, rows=600, gates={"min_rows": 5000, "size_mb": 0.001})
    verdict = gate(project, *train(project))
    assert failed(verdict) == ["size", "rows", "quality"]
    assert "at least 5000 are needed" in verdict.table()


def test_one_class_in_the_holdout_never_passes(tmp_path):
    project = make_project(tmp_path, rows=1600)
    rows = project.lake.read("churn", "raw")
    late = rows["seen"] > START + pd.Timedelta(days=DAYS - 12)
    fill(project.lake, rows.assign(left=rows["left"].mask(late & rows["left"].notna(), 1.0)))
    assert "classes" in failed(gate(project, *train(project)))


def test_a_champion_that_cannot_score_the_rows_never_lets_pass_silently(tmp_path):
    project = make_project(tmp_path, rows=1600)
    _, champion = train(project)
    path = project.code.path
    path.write_text(path.read_text().replace('["plan"]', '["tariff"]'))
    from windvane.model_code import load_model_code

    rows = make_rows(project.config.task, 1600, seed=4).rename(columns={"plan": "tariff"})
    window = Window(START, START + pd.Timedelta(days=DAYS))
    project.lake.overwrite_window("other", "raw", rows, window=window, time="seen", metadata={})
    code = load_model_code(path, "churn")
    lake = _Renamed(project.lake)
    snapshot = plan_training(project.config, code, lake, window=None, settings=project.settings)
    result = train_model(project.config, code, project.settings, lake, snapshot)
    challenger = open_bundle(project.settings.bundles, result.bundle_digest)
    verdict = gate_challenger(project.config, project.settings, lake, snapshot, challenger=challenger, champion=champion)
    assert failed(verdict) == ["champion"]
    assert "lost columns ['plan']" in verdict.table()


class _Renamed:
    """The lake of another model under this one's name: as if a column had been renamed at the source."""

    def __init__(self, lake):
        self.lake = lake

    def version(self, model, table):
        return self.lake.version("other", table)

    def watermark(self, model):
        return self.lake.watermark("other")

    def uri(self, model, table):
        return self.lake.uri("other", table)

    def open_table(self, model, table, **options):
        return self.lake.open_table("other", table, **options)

    def read(self, model, table, **options):
        return self.lake.read("other", table, **options)


@pytest.mark.parametrize("task", ["multiclass_classification", "regression"])
def test_the_other_tasks_pass_when_good(tmp_path, task):
    project = make_project(tmp_path, task=task, rows=2000)
    verdict = gate(project, *train(project))
    assert [g.name for g in verdict.gates if not g.passed] == [], verdict.table()


CONFIG = make_config(gates={"min_rows": 30})
ODD = st.sampled_from([math.nan, math.inf, -math.inf])


@settings(max_examples=60, deadline=None)
@given(odd=ODD, at=st.integers(0, 99), seed=st.integers(0, 9))
def test_predictions_that_are_not_finite_never_pass(odd, at, seed):
    labels = pd.Series(np.random.default_rng(seed).integers(0, 2, 100))
    chances = np.column_stack([1 - labels, labels]).astype(float)
    assert all(g.passed for g in judge_sanity(CONFIG, labels, Predictions(labels.to_numpy(), chances.copy()), [0, 1]))
    chances[at, 1] = odd
    assert not all(g.passed for g in judge_sanity(CONFIG, labels, Predictions(labels.to_numpy(), chances), [0, 1]))


@settings(max_examples=60, deadline=None)
@given(n=st.integers(0, 60), ones=st.booleans(), seed=st.integers(0, 9))
def test_too_few_rows_or_one_class_never_pass(n, ones, seed):
    labels = pd.Series(np.full(n, int(ones)) if n >= 30 else np.random.default_rng(seed).integers(0, 2, n))
    chances = np.column_stack([1 - labels, labels]).astype(float) if n else np.zeros((0, 2))
    assert not all(g.passed for g in judge_sanity(CONFIG, labels, Predictions(labels.to_numpy(), chances), [0, 1]))


@settings(max_examples=12, deadline=None)
@given(odd=ODD, of=st.sampled_from(["challenger", "champion", "baseline"]), seed=st.integers(0, 9))
def test_scores_that_are_not_finite_never_pass_the_comparison(odd, of, seed):
    random = np.random.default_rng(seed)
    y = random.integers(0, 2, 200).astype(float)
    scores = {"challenger": y + random.normal(size=200), "champion": random.normal(size=200), "baseline": np.zeros(200)}

    def passed():
        judged = Judged(CONFIG, pd.DataFrame(index=range(200)), y, scores["challenger"], scores["champion"])
        return all(g.passed for g in judge_quality(judged, {"dummy": scores["baseline"]}, first=False))

    assert passed()
    scores[of] = np.where(np.arange(200) == seed, odd, scores[of])
    assert not passed()


def test_two_equal_models_are_promoted_at_most_about_five_times_in_a_hundred():
    promoted = 0
    for seed in range(60):
        random = np.random.default_rng(seed)
        y = random.integers(0, 2, 200).astype(float)
        signal = y + random.normal(size=200)
        judged = Judged(
            CONFIG, pd.DataFrame(index=range(200)), y, signal + 0.3 * random.normal(size=200), signal + 0.3 * random.normal(size=200)
        )
        promoted += next(g for g in judge_quality(judged, {}, first=False) if g.name == "champion").passed
    assert promoted <= 7


def test_a_verdict_stays_json_when_values_are_not_finite():
    verdict = Verdict(False, (Gate("floor", False, "nothing", math.nan, math.inf),), "a", None, "roc_auc", 1)
    assert verdict.as_json()["gates"][0]["value"] is None
    assert "FAILED" in verdict.table()


def recalibrate(project, champion, *, since):
    window = Window(START + pd.Timedelta(days=since), START + pd.Timedelta(days=DAYS - 1))
    snapshot = plan_training(project.config, project.code, project.lake, window=window, settings=project.settings)
    snapshot = dataclasses.replace(snapshot, recalibrates=champion.digest, code_digest=champion.manifest["files"]["model.py"])
    result = train_model(project.config, project.code, project.settings, project.lake, snapshot)
    return snapshot, open_bundle(project.settings.bundles, result.bundle_digest)


def test_a_recalibrated_champion_passes_by_its_loss_where_the_ranks_cannot_tell(tmp_path):
    project = make_project(tmp_path, rows=3000)
    _, champion = train(project, window=Window(START, START + pd.Timedelta(days=18)))
    same = recalibrate(project, champion, since=18)
    rows = make_rows(project.config.task, 3000)
    late = (rows["seen"] > START + pd.Timedelta(days=18)) & rows["left"].notna()
    lost = late & (np.random.default_rng(0).random(3000) < 0.7)
    # of those who would leave most stay: the order is what it was, the rate is not
    fill(project.lake, rows.assign(left=rows["left"].mask(lost, 0.0)))
    snapshot, challenger = recalibrate(project, champion, since=18)
    verdict = gate(project, snapshot, challenger, champion)
    assert verdict.passed, verdict.table()
    assert "Only the calibration is new: neg_log_loss differs by +" in verdict.table()
    assert "baseline dummy" not in [g.name for g in verdict.gates]
    # and nothing was wrong with it before
    assert same[1].manifest["recalibrated_from"] == champion.digest
    unneeded = Judged(CONFIG, pd.DataFrame(index=range(400)), *_calibrated(400), recalibrated=True)
    assert [g.name for g in judge_quality(unneeded, {}, first=False) if not g.passed] == ["champion"]


def _calibrated(n):
    """Outcomes of true probabilities, nearly these, and these."""
    random = np.random.default_rng(5)
    chances = random.random(n)
    return (random.random(n) < chances).astype(float), np.clip(chances + 0.01 * random.normal(size=n), 0, 1), chances


def test_a_calibration_that_makes_the_configured_metric_worse_is_not_promoted():
    random = np.random.default_rng(6)
    y = (random.random(2000) < 0.3).astype(float)
    champion = np.clip(0.75 + 0.2 * y + 0.05 * random.normal(size=2000), 0.01, 0.99)
    rate = np.clip(champion - 0.6, 0.01, 0.99)
    for metric, passed in (("roc_auc", True), ("recall", False)):
        config = make_config(gates={"metric": metric})
        judged = Judged(config, pd.DataFrame(index=range(2000)), y, rate, champion, recalibrated=True)
        assert next(g for g in judge_quality(judged, {}, first=False) if g.name == "champion").passed is passed


def test_a_challenger_calibrated_from_another_version_than_the_champion_is_judged_like_any_other(project, first):
    snapshot, challenger = recalibrate(project, first[1], since=15)
    _, other = train(project, seed=9)
    verdict = gate(project, snapshot, challenger, other)
    assert "Only the calibration is new" not in verdict.table()
    assert "baseline dummy" in [g.name for g in verdict.gates]


STRICT = make_config(
    gates={
        "min_rows": 30,
        "beat_baseline": False,
        "slices": {"columns": ["group"], "min_rows": 20},
        "fairness": {"sensitive": ["group"], "at_most": 0.5, "min_rows": 20},
        "calibration": {"at_most": 0.3},
    }
)
PLAIN = make_config(gates={"min_rows": 30})
BAD = ["nan", "infinity", "constant", "one class", "too few rows", "no rows", "labels unknown"]


@settings(max_examples=60, deadline=None)
@given(
    how=st.sampled_from(BAD),
    config=st.sampled_from([STRICT, PLAIN]),
    metric=st.sampled_from(["roc_auc", "accuracy", "f1", "neg_log_loss", "average_precision"]),
    recalibrated=st.booleans(),
    seed=st.integers(0, 99),
)
def test_what_cannot_be_judged_never_passes_and_raises_nothing(how, config, metric, recalibrated, seed):
    config = config.model_copy(update={"gates": config.gates.model_copy(update={"metric": metric})})
    random = np.random.default_rng(seed)
    n = {"too few rows": 19, "no rows": 0}.get(how, 200)
    y = random.integers(0, 2, n).astype(float)
    champion, challenger = random.uniform(0.3, 0.7, n), np.clip(0.2 + 0.6 * y + 0.05 * random.normal(size=n), 0, 1)
    if how in ("nan", "infinity"):
        challenger[random.integers(n)] = {"nan": np.nan, "infinity": np.inf}[how]
    elif how == "constant":
        challenger = champion = np.full(n, 0.4)
    elif how == "one class":
        y[:] = seed % 2
        # neither answer is better than the other
        challenger = champion.copy()
    elif how == "labels unknown":
        y[random.integers(n)] = np.nan
    judged = Judged(config, pd.DataFrame({"group": random.choice(["a", "b"], n)}), y, challenger, champion, recalibrated=recalibrated)
    assert not all(g.passed for g in judge_quality(judged, {}, first=False))


@settings(max_examples=25, deadline=None)
@given(odd=ODD, task=st.sampled_from(["multiclass_classification", "regression"]), recalibrated=st.booleans(), seed=st.integers(0, 9))
def test_the_other_tasks_never_pass_with_what_is_not_finite(odd, task, recalibrated, seed):
    random = np.random.default_rng(seed)
    config = make_config(task=task)
    if task == "regression":
        y, champion = random.normal(size=(2, 200))
        challenger = y + 0.1 * champion
    else:
        y = random.integers(0, 3, 200).astype(float)
        champion = random.dirichlet([1, 1, 1], 200)
        challenger = 0.3 * champion + 0.7 * np.eye(3)[y.astype(int)]
    judged = Judged(config, pd.DataFrame(index=range(200)), y, challenger, champion, recalibrated=recalibrated)
    assert all(g.passed for g in judge_quality(judged, {}, first=False))
    challenger[seed] = odd
    assert not all(g.passed for g in judge_quality(judged, {}, first=False))


def test_fairness_and_calibration_are_asked_of_a_first_version_too():
    y, challenger, _ = _calibrated(2000)
    rows = pd.DataFrame({"group": np.where(np.arange(2000) % 2, "a", "b")})
    gates = judge_quality(Judged(STRICT, rows, y, challenger), {}, first=True)
    assert {g.name: g.passed for g in gates} == {
        "floor": True,
        "champion": True,
        "slices": True,
        "fairness": True,
        "calibration": True,
    }
    sure = judge_quality(Judged(STRICT, rows, y, (challenger > 0.9).astype(float)), {}, first=True)
    assert [g.name for g in sure if not g.passed] == ["calibration"]


def test_slices_keep_what_both_models_were_worth_the_worst_first():
    config = make_config(gates={"metric": "accuracy", "slices": {"columns": ["plan"], "min_rows": 20, "max_drop": 0.1}})
    outcomes = np.tile([0, 1], 200)
    groups = np.repeat(["same", "<script>" + "x" * 10_000, "worse", "few"], [150, 130, 110, 10])
    wrong = np.where(groups == "worse", 1 - outcomes, outcomes)
    judged = Judged(config, pd.DataFrame({"plan": groups}), outcomes, wrong.astype(float), outcomes.astype(float))
    assert [(part.value[:8], part.rows, part.challenger, part.champion, part.passed) for part in judged.slices] == [
        ("worse", 110, 0.0, 1.0, False),
        ("same", 150, 1.0, 1.0, True),
        ("<script>", 130, 1.0, 1.0, True),
    ]
    assert max(len(part.value) for part in judged.slices) == 200
    gate = next(g for g in judge_quality(judged, {}, first=False) if g.name == "slices")
    assert (gate.passed, gate.value) == (False, 1.0)
    assert "1 of 3 slices lose more than 0.1: plan=worse loses 1.0000 on 110 rows" in gate.reason


def test_without_a_champion_slices_tell_the_challenger_alone():
    config = make_config(gates={"metric": "accuracy", "slices": {"columns": ["plan", "lost"], "min_rows": 20}})
    rows, outcomes = pd.DataFrame({"plan": np.repeat(["a", None], 50)}), np.tile([0, 1], 50)
    judged = Judged(config, rows, outcomes, np.where(np.arange(100) < 50, outcomes, 0).astype(float))
    assert [(part.value, part.challenger, part.champion, part.passed) for part in judged.slices] == [
        ("nan", 0.5, None, True),
        ("a", 1.0, None, True),
    ]
    assert {part.name: (part.challenger, part.champion) for part in judged.measure()}["accuracy"] == (0.75, None)
