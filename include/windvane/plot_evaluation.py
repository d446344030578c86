"""Draws what the evaluation found as small PNG files."""

import io
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from windvane.store_files import Place, write_bytes

_MOST_BARS = 20
_BINS = 10


def plot_evaluation(
    directory: Place, *, task: str, outcomes: np.ndarray, scores: np.ndarray, classes: Sequence[Any] | None, importance: Mapping[str, float]
) -> list[Place]:
    """Draw the plots of the task into the directory and return their paths.

    Args:
        outcomes: Shape (n,), from `outcomes_of`.
        scores: From `scores_of`.
        classes: Labels of a classifier.
        importance: Input column to the loss of the metric when it is shuffled.
    """
    plots: dict[str, Callable[[Any], None]] = {}
    if task == "regression":
        plots["predicted_against_actual"] = lambda axes: _actual(axes, outcomes, scores)
    else:
        binary = scores.ndim == 1
        curves = (
            [(str(classes[1] if classes else 1), outcomes == 1, scores)]
            if binary
            else [(str(label), outcomes == i, scores[:, i]) for i, label in enumerate(classes or ())]
        )
        curves = [c for c in curves if c[1].any() and not c[1].all()]
        plots["roc"] = lambda axes: _roc(axes, curves)
        plots["precision_recall"] = lambda axes: _precision_recall(axes, curves)
        plots["calibration"] = lambda axes: _calibration(axes, curves)
    plots["importance"] = lambda axes: _importance(axes, importance)
    return [_draw(directory / f"{name}.png", draw) for name, draw in plots.items()]


def _draw(path: Place, draw: Callable[[Any], None]) -> Place:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    # no pyplot: it keeps global state and would open a display
    figure = Figure(figsize=(4.5, 3.5), layout="constrained")
    FigureCanvasAgg(figure)
    draw(figure.add_subplot())
    with warnings.catch_warnings():
        # a name may have letters or scripts that the font lacks: they become boxes
        warnings.simplefilter("ignore", UserWarning)
        picture = io.BytesIO()
        # the file must not say when it was drawn
        figure.savefig(picture, dpi=80, format="png", metadata={"Software": None})
    write_bytes(path, picture.getvalue())
    return path


def _roc(axes: Any, curves: Sequence[tuple[str, np.ndarray, np.ndarray]]) -> None:
    from sklearn.metrics import roc_curve

    axes.plot([0, 1], [0, 1], "--", color="grey", linewidth=0.8)
    for label, truth, score in curves:
        x, y, _ = roc_curve(truth, score)
        axes.plot(x, y, label=_short(label))
    _finish(axes, curves, "ROC", "false positive rate", "true positive rate")


def _precision_recall(axes: Any, curves: Sequence[tuple[str, np.ndarray, np.ndarray]]) -> None:
    from sklearn.metrics import precision_recall_curve

    for label, truth, score in curves:
        precision, recall, _ = precision_recall_curve(truth, score)
        axes.plot(recall, precision, label=_short(label))
    axes.set_ylim(0, 1.02)
    _finish(axes, curves, "Precision and recall", "recall", "precision")


def _calibration(axes: Any, curves: Sequence[tuple[str, np.ndarray, np.ndarray]]) -> None:
    axes.plot([0, 1], [0, 1], "--", color="grey", linewidth=0.8)
    for label, truth, score in curves:
        bins = np.unique(np.quantile(score, np.linspace(0, 1, _BINS + 1)))
        place = np.clip(np.searchsorted(bins, score, side="right") - 1, 0, max(len(bins) - 2, 0))
        sizes = np.bincount(place)
        filled = sizes > 0
        axes.plot(
            np.bincount(place, score)[filled] / sizes[filled], np.bincount(place, truth)[filled] / sizes[filled], "o-", label=_short(label)
        )
    _finish(axes, curves, "Calibration", "predicted probability", "observed share")


def _actual(axes: Any, outcomes: np.ndarray, scores: np.ndarray) -> None:
    step = max(1, len(outcomes) // 2000)
    ends = [float(outcomes.min()), float(outcomes.max())]
    axes.plot(ends, ends, "--", color="grey", linewidth=0.8)
    axes.plot(outcomes[::step], scores[::step], ".", markersize=2)
    axes.set_title("Predicted against actual")
    axes.set_xlabel("actual")
    axes.set_ylabel("predicted")


def _importance(axes: Any, importance: Mapping[str, float]) -> None:
    shown = list(importance.items())[:_MOST_BARS][::-1]
    # by place: two long names may be short for the same
    axes.barh(range(len(shown)), [drop for _, drop in shown])
    axes.set_yticks(range(len(shown)), [_short(name) for name, _ in shown])
    axes.set_title("Loss of the metric when shuffled")


def _finish(axes: Any, curves: Sequence[Any], title: str, x: str, y: str) -> None:
    axes.set_title(title)
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    if 0 < len(curves) <= _BINS:
        axes.legend(fontsize=7)


def _short(text: str) -> str:
    # a dollar would start TeX, an underscore in front would hide a line from the legend
    return "".join(c if c.isprintable() else " " for c in text)[:30].replace("$", "\\$").lstrip("_") or "(empty)"
