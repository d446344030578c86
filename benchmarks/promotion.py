"""How often a challenger is promoted that should not be, and how often one is that should be.

    python benchmarks/promotion.py [--quick]

Three questions, each with the goal of the platform beside the figure:

- Two models of the same rows, config and code with different seeds, through the whole gate. Their true quality differs a little,
  which a test on rows may find, so the gate looks at what they were made from.
- Two models of the same true quality that err on different rows, by the paired test alone.
- A challenger that is truly 2 points better, on 2,000 rows, by the paired test alone. Models that share most of what they get wrong
  are told apart sooner, so the figure is given for three degrees of it.
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from windvane.compare_models import paired_bootstrap

ROWS = 2000
BETTER = 0.02
CONFIDENCE = 0.95
METRICS = ("roc_auc", "accuracy", "neg_brier_score")
Scores = tuple[np.ndarray, np.ndarray, np.ndarray]


def draw(n: int, random: np.random.Generator, *, shared: float, noise: float, worse: float) -> Scores:
    """Outcomes and the probabilities of a challenger and a champion that know the log odds up to noise.

    Args:
        shared: Share of the noise's variance that both have.
        noise: Standard deviation of the challenger's noise, in log odds.
        worse: The champion's noise, as a multiple.
    """
    odds = random.normal(0, 1.5, n)
    outcomes = (random.random(n) < expit(odds)).astype(float)
    common = np.sqrt(shared) * random.normal(size=n)
    own = [common + np.sqrt(1 - shared) * random.normal(size=n) for _ in range(2)]
    return outcomes, expit(odds + noise * own[0]), expit(odds + noise * worse * own[1])


def expit(odds: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-odds))


def points(metric: str, drawn: Scores) -> float:
    from windvane.compare_models import score_outcomes

    outcomes, challenger, champion = drawn
    return score_outcomes(metric, outcomes, challenger) - score_outcomes(metric, outcomes, champion)


def noise_of_worse(metric: str, *, shared: float, noise: float) -> float:
    """By how much the champion's noise must be larger for the challenger to be 2 points better, on very many rows."""
    low, high = 1.0, 8.0
    for _ in range(25):
        middle = (low + high) / 2
        found = points(metric, draw(200_000, np.random.default_rng(0), shared=shared, noise=noise, worse=middle))
        low, high = (middle, high) if found < BETTER else (low, middle)
    return high


def promoted(metric: str, pairs: int, make: Callable[[np.random.Generator], Scores]) -> float:
    count = 0
    for seed in range(pairs):
        outcomes, challenger, champion = make(np.random.default_rng(seed))
        found = paired_bootstrap(metric, outcomes, challenger, champion, confidence=CONFIDENCE, seed=seed)
        count += found.verdict == "better"
    return count / pairs


def seeds_promoted(pairs: int) -> tuple[int, int]:
    """Pairs of one training each with another seed: (promoted by the gate, better by the test alone)."""
    sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))
    from training_project import make_project

    from windvane.bundle import Bundle, open_bundle
    from windvane.gate_challenger import gate_challenger
    from windvane.predictor import load_predictor
    from windvane.snapshot import Snapshot, plan_training, read_snapshot
    from windvane.train_model import train_model

    with tempfile.TemporaryDirectory(prefix="windvane-promotion-") as root:
        project = make_project(Path(root), rows=4000)

        def train(seed: int) -> tuple[Snapshot, Bundle]:
            config = project.config.model_copy(update={"train": project.config.train.model_copy(update={"seed": seed})})
            snapshot = plan_training(config, project.code, project.lake, window=None, settings=project.settings)
            made = train_model(config, project.code, project.settings, project.lake, snapshot)
            return snapshot, open_bundle(project.settings.bundles, made.bundle_digest)

        gated = alone = 0
        _, champion = train(0)
        for seed in range(1, pairs + 1):
            snapshot, challenger = train(seed)
            verdict = gate_challenger(project.config, project.settings, project.lake, snapshot, challenger=challenger, champion=champion)
            gated += verdict.passed
            _, holdout = read_snapshot(project.config, project.code, project.lake, snapshot)
            scores = [load_predictor(bundle).predict(holdout).probabilities[:, 1] for bundle in (challenger, champion)]
            labels = holdout[project.config.data.label].to_numpy(dtype=float)
            alone += paired_bootstrap("roc_auc", labels, *scores, confidence=CONFIDENCE, seed=seed).verdict == "better"
            champion = challenger
        return gated, alone


def show(goal: str, figure: str, met: bool | None = None) -> None:
    print(f"{goal:<88} {figure:>14}  {'' if met is None else 'met' if met else 'NOT met'}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer pairs")
    quick = parser.parse_args().quick
    started = time.monotonic()
    trainings, pairs = (5, 100) if quick else (20, 200)
    gated, alone = seeds_promoted(trainings)
    show(
        "same rows, config and code, another seed, whole gate: promoted at most 5 in 100",
        f"{gated} of {trainings}",
        gated <= 0.05 * trainings,
    )
    show("  for comparison, the same pairs by the test on rows alone", f"{alone} of {trainings}")
    # what chance adds to 5 of 100 in so many pairs, two standard deviations
    most = 0.05 + 2 * np.sqrt(0.05 * 0.95 / pairs)
    for metric in METRICS:
        found = promoted(metric, pairs, lambda random: draw(ROWS, random, shared=0.7, noise=0.7, worse=1.0))
        show(
            f"equal models, {metric}: better at most 5 in 100 (up to {most:.1%} by chance in {pairs} pairs)", f"{found:.1%}", found <= most
        )
    for metric in METRICS:
        for shared in (0.9, 0.7, 0.5):
            worse = noise_of_worse(metric, shared=shared, noise=0.5)
            found = promoted(
                metric,
                pairs,
                lambda random, s=shared, w=worse: draw(ROWS, random, shared=s, noise=0.5, worse=w),  # type: ignore[misc]
            )
            show(f"2 points better, {metric}, {shared:.0%} of the noise shared: promoted at least 90 in 100", f"{found:.1%}", found >= 0.9)
    print(f"{time.monotonic() - started:.0f} s")


if __name__ == "__main__":
    main()
