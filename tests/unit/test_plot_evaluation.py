import numpy as np
import pytest

from windvane.plot_evaluation import plot_evaluation

RANDOM = np.random.default_rng(0)


@pytest.mark.parametrize(
    ("task", "outcomes", "scores", "classes", "names"),
    [
        (
            "binary_classification",
            RANDOM.integers(0, 2, 50),
            RANDOM.random(50),
            [0, 1],
            ["calibration", "importance", "precision_recall", "roc"],
        ),
        ("binary_classification", np.ones(50), RANDOM.random(50), [0, 1], ["calibration", "importance", "precision_recall", "roc"]),
        ("binary_classification", np.array([0, 1]), np.array([0.5, 0.5]), [0, 1], ["calibration", "importance", "precision_recall", "roc"]),
        (
            "multiclass_classification",
            RANDOM.integers(0, 3, 50),
            RANDOM.dirichlet([1, 1, 1], 50),
            ["$a_", "b", "c"],
            ["calibration", "importance", "precision_recall", "roc"],
        ),
        ("regression", RANDOM.normal(size=50), RANDOM.normal(size=50), None, ["importance", "predicted_against_actual"]),
    ],
    ids=["binary", "one class", "two rows", "multiclass", "regression"],
)
def test_each_task_gets_its_small_plots(tmp_path, task, outcomes, scores, classes, names):
    paths = plot_evaluation(tmp_path, task=task, outcomes=outcomes, scores=scores, classes=classes, importance={"a$b": 0.1, "c": -0.01})
    assert sorted(p.stem for p in paths) == names
    assert all(p.read_bytes().startswith(b"\x89PNG") and p.stat().st_size < 60_000 for p in paths)
