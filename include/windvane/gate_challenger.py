"""Decides whether a challenger may serve: every gate must pass, and what cannot be told never passes."""

import functools
import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from windvane.bundle import Bundle
from windvane.compare_models import Comparison, align_classes, finite_or_none, outcomes_of, paired_bootstrap, score_outcomes, scores_of
from windvane.config import ModelConfig, Slices
from windvane.errors import BundleError, DataError, ModelCodeError
from windvane.evaluate_model import METRICS
from windvane.fit_baselines import fit_baselines
from windvane.gate_calibration import judge_calibration
from windvane.gate_fairness import find_disparities, judge_fairness
from windvane.gate_slices import find_slices, judge_slices
from windvane.lake import Lake
from windvane.predictor import Predictions, Predictor, load_predictor
from windvane.settings import Settings
from windvane.snapshot import Snapshot, read_snapshot
from windvane.time_predictions import time_predictions
from windvane.verdict import Disparity, Gate, Measured, Slice, Verdict, load_verdict, store_verdict

log = logging.getLogger(__name__)

_MOST_SLICES = 50
_ROUNDING = 1e-6


@dataclass(frozen=True)
class Judged:
    """The holdout rows as metrics need them.

    Attributes:
        rows: The holdout.
        outcomes: Shape (n,), from `outcomes_of`.
        challenger: Scores of the challenger, from `scores_of`.
        champion: Scores of the champion on the same rows; None when there is none, or it cannot score them.
        champion_problem: Why it cannot.
        recalibrated: Whether the challenger is the champion with another calibration, which cannot show in a metric of ranks.
    """

    config: ModelConfig
    rows: pd.DataFrame
    outcomes: np.ndarray
    challenger: np.ndarray
    champion: np.ndarray | None = None
    champion_problem: str | None = None
    recalibrated: bool = False

    @functools.cached_property
    def slices(self) -> tuple[Slice, ...]:
        """Both models on every slice that is large enough, the largest loss first."""
        return find_slices(self.config, rows=self.rows, outcomes=self.outcomes, challenger=self.challenger, champion=self.champion)

    def measure(self) -> tuple[Measured, ...]:
        """The usual metrics of the task, of both models."""

        def value(name: str, scores: np.ndarray | None) -> float | None:
            return None if scores is None else finite_or_none(score_outcomes(name, self.outcomes, scores))

        names = dict.fromkeys((self.config.metric, *METRICS[self.config.task]))
        return tuple(Measured(name, value(name, self.challenger), value(name, self.champion)) for name in names)

    def disparities(self) -> tuple[Disparity, ...]:
        """How differently both models treat groups of people, where the config asks."""
        rule, task = self.config.gates.fairness, self.config.task
        if rule is None:
            return ()
        ours, theirs = self.challenger, self.champion
        return find_disparities(rule, task=task, rows=self.rows, outcomes=self.outcomes, challenger=ours, champion=theirs)


def gate_challenger(
    config: ModelConfig, settings: Settings, lake: Lake, snapshot: Snapshot, *, challenger: Bundle, champion: Bundle | None
) -> Verdict:
    """Judge a challenger on the holdout of its snapshot and store the verdict.

    Args:
        champion: The bundle that serves now; None for the first version.

    Raises:
        NotEnoughData: If the snapshot has no labelled rows.
        BundleError: If the challenger's bundle cannot be loaded.
        ModelCodeError: If the challenger cannot score the holdout.
    """
    if champion is not None and (champion.digest == challenger.digest or champion.training_key == challenger.training_key):
        return _serves_already(config, settings, challenger, champion)
    predictor = load_predictor(challenger)
    train, holdout = read_snapshot(config, predictor.code, lake, snapshot)
    predictions = predictor.predict(holdout)
    gates = [*_luck(challenger, champion), _size(config, challenger)]
    gates += judge_sanity(config, holdout[config.data.label], predictions, predictor.classes)
    seen: dict[str, Any] = {}
    if all(gate.passed for gate in gates):
        served = _ask_champion(champion, holdout)
        recalibrated = champion is not None and challenger.manifest.get("recalibrated_from") == champion.digest
        judged, baselines = _score_all(config, predictor, predictions, served, train=train, holdout=holdout, recalibrated=recalibrated)
        gates += judge_quality(judged, baselines, first=champion is None)
        seen = {"measured": judged.measure(), "slices": judged.slices[:_MOST_SLICES], "disparities": judged.disparities()}
        seen["latency"] = _time(holdout, predictor, served.predictor)
    else:
        failed = ", ".join(gate.name for gate in gates if not gate.passed)
        gates.append(Gate("quality", False, f"The metric was not judged, because these gates failed: {failed}."))
    verdict = Verdict(
        passed=bool(gates) and all(gate.passed for gate in gates),
        gates=tuple(gates),
        challenger=challenger.digest,
        champion=champion.digest if champion else None,
        metric=config.metric,
        rows=len(holdout),
        **seen,
    )
    log.info("%s: the verdict is kept in %s", config.model, store_verdict(settings.bundles, verdict))
    return verdict


def judge_sanity(config: ModelConfig, labels: "pd.Series[Any]", predictions: Predictions, classes: Sequence[Any] | None) -> list[Gate]:
    """The gates that need no comparison: enough rows, more than one class, finite predictions and a finite metric."""
    few, n = config.gates.min_rows, len(labels)
    gates = [Gate("rows", n >= few, f"{n} labelled holdout rows, at least {few} are needed.", n, few)]
    if config.is_classifier:
        gates.append(_classes(config, labels, classes))
    finite = predictions.finite()
    gates.append(Gate("finite", finite, "Every prediction is a finite number." if finite else "Some predictions are NaN or infinite."))
    if all(gate.passed for gate in gates):
        known = labels.isin(list(classes)).to_numpy() if classes else np.ones(n, dtype=bool)
        value = score_outcomes(config.metric, outcomes_of(labels[known], config.task, classes), scores_of(predictions, config.task)[known])
        if not math.isfinite(value):
            gates.append(Gate("metric", False, f"{config.metric} is not defined on these {n} rows.", value))
    return gates


def judge_quality(judged: Judged, baselines: dict[str, np.ndarray], *, first: bool) -> list[Gate]:
    """The gates that are about the metric.

    Args:
        judged: The holdout rows.
        baselines: Name to scores on the same rows.
        first: Whether there is no champion yet.
    """
    gates = [_floor(judged)]
    if judged.config.gates.beat_baseline:
        gates += [_baseline(judged, name, scores) for name, scores in baselines.items()]
    gates.append(_champion(judged, first=first))
    if judged.config.gates.slices:
        gates.append(_slices(judged, judged.config.gates.slices, first=first))
    if judged.config.gates.fairness:
        gates.append(_fairness(judged))
    if judged.config.gates.calibration:
        gates.append(_calibration(judged))
    return gates


def _serves_already(config: ModelConfig, settings: Settings, challenger: Bundle, champion: Bundle) -> Verdict:
    reason = (
        f"Bundle {challenger.digest[:12]} was made from the same snapshot, config, code and seed as what serves already; nothing changes."
    )
    verdict = Verdict(False, (Gate("champion", False, reason),), challenger.digest, champion.digest, config.metric, 0)
    # a verdict that let it serve stays: a rollback may still need it
    if load_verdict(settings.bundles, challenger.digest) is None:
        store_verdict(settings.bundles, verdict)
    return verdict


def _luck(challenger: Bundle, champion: Bundle | None) -> list[Gate]:
    """Refuse to trade one draw of the seed for another: of many draws some look better by luck alone."""
    recipe = challenger.manifest.get("recipe_digest")
    if champion is None or recipe is None or champion.manifest.get("recipe_digest") != recipe:
        return []
    reason = "The champion was trained on the same rows with the same config and code: the two differ by the luck of the seed alone."
    return [Gate("new information", False, reason)]


def _score_all(
    config: ModelConfig,
    predictor: Predictor,
    predictions: Predictions,
    champion: "_Served",
    *,
    train: pd.DataFrame,
    holdout: pd.DataFrame,
    recalibrated: bool,
) -> tuple[Judged, dict[str, np.ndarray]]:
    # what a champion is worth against the baselines was asked when it became one, and a new calibration is the same model
    asked = config.gates.beat_baseline and not recalibrated
    found = fit_baselines(config, predictor.code, predictor.signature, train=train, holdout=holdout) if asked else {}
    served, problem = champion.predictions, champion.problem
    served_classes = champion.predictor.classes if champion.predictor else None
    classes = _union(predictor.classes, served_classes) if config.is_classifier else None
    if served is not None and config.task == "binary_classification" and classes != list(predictor.classes or ()):
        served, problem = None, "it was trained on other classes"
        classes = list(predictor.classes or ())
    known = holdout[config.data.label].isin(classes).to_numpy() if classes else np.ones(len(holdout), dtype=bool)
    if not known.all():
        log.warning("%s: %d holdout rows have a label that no model knows; they are not judged", config.model, int((~known).sum()))

    def scores(given: Predictions, own: Sequence[Any] | None) -> np.ndarray:
        aligned: np.ndarray = scores_of(align_classes(given, own, classes), config.task)[known]
        return aligned

    judged = Judged(
        config=config,
        rows=holdout[known],
        outcomes=outcomes_of(holdout[config.data.label][known], config.task, classes),
        challenger=scores(predictions, predictor.classes),
        champion=None if served is None else scores(served, served_classes),
        champion_problem=problem,
        recalibrated=recalibrated,
    )
    return judged, {name: scores(given, own) for name, (given, own) in found.items()}


class _Served(NamedTuple):
    """The champion with its predictions of the holdout, or why there are none."""

    predictor: Predictor | None = None
    predictions: Predictions | None = None
    problem: str | None = None


def _ask_champion(champion: Bundle | None, holdout: pd.DataFrame) -> _Served:
    if champion is None:
        return _Served()
    try:
        predictor = load_predictor(champion)
        return _Served(predictor, predictor.predict(holdout))
    except (BundleError, DataError, ModelCodeError) as exc:
        log.warning("the champion %s cannot score the holdout: %s", champion.digest[:12], exc)
        return _Served(problem=str(exc))


def _time(holdout: pd.DataFrame, challenger: Predictor, champion: Predictor | None) -> dict[str, float | None]:
    try:
        return time_predictions(holdout, challenger=challenger, champion=champion)
    except (DataError, ModelCodeError) as exc:
        # the rehearsal tells whether single rows can be served
        log.warning("the latency is not known: a single row cannot be predicted: %s", exc)
        return {}


def _union(first: Sequence[Any] | None, second: Sequence[Any] | None) -> list[Any]:
    every = {*(first or ()), *(second or ())}
    return sorted(every, key=lambda label: (str(type(label)), label)) if len({type(v) for v in every}) > 1 else sorted(every)


def _classes(config: ModelConfig, labels: "pd.Series[Any]", classes: Sequence[Any] | None) -> Gate:
    present, learned = labels.nunique(), len(classes or ())
    if config.task == "binary_classification" and learned != 2:
        return Gate("classes", False, f"The challenger learned {learned} classes, a binary classification has 2.", learned, 2)
    reason = f"The holdout has {present} classes, at least 2 are needed."
    return Gate("classes", present >= 2, reason, present, 2)


def _size(config: ModelConfig, challenger: Bundle) -> Gate:
    size, most = challenger.size_bytes() / 1e6, config.gates.size_mb
    return Gate("size", size <= most, f"The bundle has {size:.2f} MB, at most {most:g} MB are allowed.", size, most)


def _floor(judged: Judged) -> Gate:
    metric, floor = judged.config.metric, judged.config.gates.at_least
    value = score_outcomes(metric, judged.outcomes, judged.challenger)
    n = len(judged.outcomes)
    if not math.isfinite(value):
        return Gate("floor", False, f"{metric} is not defined on these {n} rows.", value, floor)
    if floor is None:
        return Gate("floor", True, f"{metric} is {value:.4f} on {n} rows; no floor is configured.", value)
    return Gate("floor", value >= floor, f"{metric} is {value:.4f} on {n} rows, at least {floor:g} is needed.", value, floor)


def _baseline(judged: Judged, name: str, scores: np.ndarray) -> Gate:
    """A dummy must be beaten beyond chance; against the linear model chance is the challenger's, for it may be linear itself."""
    metric, confidence = judged.config.metric, judged.config.gates.versus_champion.confidence
    found = paired_bootstrap(metric, judged.outcomes, judged.challenger, scores, confidence=confidence, seed=judged.config.train.seed)
    theirs = score_outcomes(metric, judged.outcomes, scores)
    passed = found.verdict == "better" if name == "dummy" else math.isfinite(found.low) and found.verdict != "worse"
    told = {True: "better beyond chance" if found.verdict == "better" else "not worse beyond chance", False: "not better beyond chance"}[
        passed
    ]
    told = "worse beyond chance" if found.verdict == "worse" else told
    if name != "dummy" and found.verdict == "worse" and judged.champion is not None:
        served = score_outcomes(metric, judged.outcomes, judged.champion)
        if served < score_outcomes(metric, judged.outcomes, judged.challenger):
            # a refusal would not bring the baseline into service: it would keep what is worse still
            passed, told = True, f"{told}, but the champion's {served:.4f} is worse still"
    reason = (
        f"{metric} differs by {found.difference:+.4f} ({found.low:+.4f} to {found.high:+.4f}) from the {name} model's {theirs:.4f}: {told}."
    )
    return Gate(f"baseline {name}", passed, reason, found.difference, 0.0)


def _champion(judged: Judged, *, first: bool) -> Gate:
    rule, metric = judged.config.gates.versus_champion, judged.config.metric
    if first:
        return Gate("champion", True, "Nothing serves yet: the floor and the baselines decide.")
    if judged.champion is None:
        return Gate("champion", False, f"The champion could not be compared: {judged.champion_problem}")
    if judged.recalibrated:
        return _recalibration(judged, judged.champion)
    found = paired_bootstrap(
        metric,
        judged.outcomes,
        judged.challenger,
        judged.champion,
        confidence=rule.confidence,
        seed=judged.config.train.seed,
        margin=rule.margin,
    )
    told = {
        "better": "the challenger is better",
        "not_worse": "the challenger is not worse by more than the margin",
        "worse": "the challenger is worse",
        "inconclusive": "inconclusive, and that never promotes",
    }[found.verdict]
    theirs = score_outcomes(metric, judged.outcomes, judged.champion)
    reason = (
        f"{metric} differs by {found.difference:+.4f} from the champion's {theirs:.4f} on the same {found.n} rows; "
        f"at {rule.confidence:.0%} confidence by at least {found.low:+.4f}, more than {rule.margin:+g} is needed: {told}."
    )
    return Gate("champion", found.verdict in ("better", "not_worse"), reason, found.low, rule.margin)


def _recalibration(judged: Judged, champion: np.ndarray) -> Gate:
    """Better by a proper loss, which tells calibration and ranks, and not worse by the configured metric, beyond rounding."""
    config, rule = judged.config, judged.config.gates.versus_champion
    loss = "neg_log_loss" if config.is_classifier else "neg_mean_squared_error"

    def compare(metric: str) -> Comparison:
        ours, seed = judged.challenger, config.train.seed
        return paired_bootstrap(metric, judged.outcomes, ours, champion, confidence=rule.confidence, seed=seed)

    proper, own = compare(loss), compare(config.metric)
    better, kept = proper.verdict == "better", math.isfinite(own.high) and own.high >= -_ROUNDING
    reason = (
        f"Only the calibration is new: {loss} differs by {proper.difference:+.4f} from the champion's on the same {proper.n} rows; "
        f"at {rule.confidence:.0%} confidence by at least {proper.low:+.4f}, more than 0 is needed; {config.metric} differs by "
        f"{own.difference:+.4f} ({own.low:+.4f} to {own.high:+.4f}), which {'is not' if kept else 'is, or may be,'} worse: "
        f"{'the challenger is better' if better and kept else 'that does not promote'}."
    )
    return Gate("champion", better and kept, reason, proper.low, 0.0)


def _fairness(judged: Judged) -> Gate:
    rules = judged.config.gates
    if rules.fairness is None:
        return Gate("fairness", False, "gates.fairness is not set.")
    return judge_fairness(
        rules.fairness,
        task=judged.config.task,
        rows=judged.rows,
        outcomes=judged.outcomes,
        scores=judged.challenger,
        confidence=rules.versus_champion.confidence,
        seed=judged.config.train.seed,
    )


def _calibration(judged: Judged) -> Gate:
    rules = judged.config.gates
    if rules.calibration is None or not judged.config.is_classifier:
        return Gate("calibration", False, "A regression has no probabilities; remove gates.calibration.")
    confidence, seed = rules.versus_champion.confidence, judged.config.train.seed
    return judge_calibration(rules.calibration, outcomes=judged.outcomes, scores=judged.challenger, confidence=confidence, seed=seed)


def _slices(judged: Judged, rule: Slices, *, first: bool) -> Gate:
    if first:
        return Gate("slices", True, "Nothing serves yet: there is no champion to compare slices with.")
    if judged.champion is None:
        return Gate("slices", False, "The champion could not be compared.")
    return judge_slices(rule, judged.slices, columns=judged.rows.columns)
