"""Draws what a backtest found: the served metric over the windows under each policy, with decisions and trainings."""

from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np

from windvane.errors import DataError

_OWN = "windvane"
# the colours of Okabe and Ito, 2008, which people of all kinds of colour vision tell apart; styles and markers tell as much in print
_LINES: dict[str, dict[str, Any]] = {
    "windvane": {"color": "#000000", "linestyle": "-", "linewidth": 2.0},
    "never": {"color": "#D55E00", "linestyle": ":", "linewidth": 1.6},
    "every-window": {"color": "#0072B2", "linestyle": "--", "linewidth": 1.2},
    "weekly": {"color": "#56B4E9", "linestyle": "-.", "linewidth": 1.2},
    "drift-psi": {"color": "#CC79A7", "linestyle": (0, (5, 1, 1, 1, 1, 1)), "linewidth": 1.2},
    "oracle": {"color": "#999999", "linestyle": "-", "linewidth": 0.9},
}
_OTHER = {"color": "#009E73", "linestyle": "--", "linewidth": 1.0}
_DECISIONS: dict[str, dict[str, Any]] = {
    "retrain": {"marker": "^", "color": "#009E73"},
    "recalibrate": {"marker": "D", "color": "#0072B2"},
    "fix_data": {"marker": "X", "color": "#D55E00"},
    "ignore": {"marker": "o", "color": "#FFFFFF"},
    "wait": {"marker": ".", "color": "#000000"},
}
_IN_VIEW = 1.5


def plot_backtest(records: Sequence[dict[str, Any]], path: Path, *, title: str) -> Path:
    """Draw the served metric per policy above, and below when each policy trained and what Windvane decided.

    Args:
        records: What `run_backtest` yields; its summary may be among them.
        path: Of a PNG file; its directory is made.
        title: One line above the picture.

    Raises:
        DataError: If there is no window among the records.
    """
    policies: dict[str, list[dict[str, Any]]] = {}
    for record in records:
        if "policy" in record:
            policies.setdefault(str(record["policy"]), []).append(record)
    if not policies:
        raise DataError("the backtest has no windows, so there is nothing to draw")
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    # no pyplot: it keeps global state and would open a display
    decided = _OWN in policies
    strips = len(policies) + decided
    figure = Figure(figsize=(9.6, 4.2 + 0.22 * strips), layout="constrained")
    FigureCanvasAgg(figure)
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=[4.2, 0.4 + 0.22 * strips])
    _draw_metric(above, policies)
    above.set_title(_inert(title, 120))
    _draw_strips(below, policies)
    below.set_xlabel("time" if _is_dated(policies) else "window")
    if _is_dated(policies):
        below.tick_params(axis="x", rotation=20)
    path.parent.mkdir(parents=True, exist_ok=True)
    # the file must not say when it was drawn
    figure.savefig(path, dpi=100, metadata={"Software": None})
    return path


def _draw_metric(axes: Any, policies: dict[str, list[dict[str, Any]]]) -> None:
    values = np.array([_number(r["metric"]) for records in policies.values() for r in records])
    low, high = _view(values[np.isfinite(values)])
    # Windvane's line last, so that it lies on top
    for name in sorted(policies, key=lambda name: name == _OWN):
        x, y = _places(policies[name]), np.array([_number(r["metric"]) for r in policies[name]])
        style = _LINES.get(name, _OTHER)
        axes.plot(x, np.clip(y, low, high), label=_inert(name, 30), **style)
        outside = np.isfinite(y) & ((y < low) | (y > high))
        if outside.any():
            axes.plot(
                [x[i] for i in np.flatnonzero(outside)],
                np.clip(y[outside], low, high),
                linestyle="none",
                marker=7,
                color=style["color"],
                label="_",
            )
    if np.isfinite(low):
        room = max(0.05 * (high - low), 1e-3 * max(1.0, abs(high)))
        axes.set_ylim(low - room, high + room)
    axes.set_ylabel("served metric")
    axes.grid(alpha=0.3, linewidth=0.5)
    axes.legend(fontsize=8, loc="upper left", bbox_to_anchor=(1.0, 1.0), frameon=False)


def _draw_strips(axes: Any, policies: dict[str, list[dict[str, Any]]]) -> None:
    names = [*([_OWN] if _OWN in policies else []), *(name for name in policies if name != _OWN)]
    labels: list[str] = []
    for name in names:
        records, x, y = policies[name], _places(policies[name]), -len(labels)
        labels.append(f"{_inert(name, 30)}: trained")
        for promoted in (True, False):
            at = [x[i] for i, r in enumerate(records) if r.get("trained") and bool(r.get("promoted")) == promoted]
            if at:
                face = _LINES.get(name, _OTHER)["color"] if promoted else "#FFFFFF"
                axes.plot(at, [y] * len(at), linestyle="none", marker="s", markersize=5, markeredgecolor="#000000", markerfacecolor=face)
        if name == _OWN:
            _draw_decisions(axes, records, x, -len(labels))
            labels.append(f"{name}: decided")
    for label, face in (("promoted", "#000000"), ("refused", "#FFFFFF")):
        axes.plot([], [], linestyle="none", marker="s", markersize=5, markeredgecolor="#000000", markerfacecolor=face, label=label)
    axes.set_yticks([-i for i in range(len(labels))], labels, fontsize=8)
    axes.set_ylim(-len(labels) + 0.4, 0.6)
    axes.grid(axis="x", alpha=0.3, linewidth=0.5)
    axes.legend(fontsize=8, loc="upper left", bbox_to_anchor=(1.0, 1.0), frameon=False, borderpad=0.1)


def _draw_decisions(axes: Any, records: Sequence[dict[str, Any]], x: Sequence[Any], y: float) -> None:
    for decision, style in _DECISIONS.items():
        at = [x[i] for i, r in enumerate(records) if r.get("decision") == decision]
        if at:
            axes.plot(
                at,
                [y] * len(at),
                linestyle="none",
                marker=style["marker"],
                markersize=6,
                markeredgecolor="#000000",
                markeredgewidth=0.7,
                markerfacecolor=style["color"],
                label=decision,
            )
    alarms = [x[i] for i, r in enumerate(records) if r.get("alarm")]
    if alarms:
        axes.plot(alarms, [y + 0.42] * len(alarms), linestyle="none", marker=7, markersize=5, color="#D55E00", label="alarm")


def _view(values: np.ndarray) -> tuple[float, float]:
    """The ends of what is shown: all, but a few windows of wrong data do not press the rest flat."""
    if not len(values):
        return np.nan, np.nan
    low, middle, high = np.quantile(values, [0.1, 0.5, 0.9])
    reach = _IN_VIEW * max(high - low, 1e-3 * max(1.0, abs(middle)))
    return max(float(values.min()), float(low - reach)), min(float(values.max()), float(high + reach))


def _places(records: Sequence[dict[str, Any]]) -> list[Any]:
    return [datetime.fromisoformat(r["end"]) if isinstance(r["end"], str) else r["window"] for r in records]


def _is_dated(policies: dict[str, list[dict[str, Any]]]) -> bool:
    return isinstance(next(iter(policies.values()))[0]["end"], str)


def _number(value: float | None) -> float:
    return np.nan if value is None else float(value)


def _inert(text: str, longest: int) -> str:
    # a dollar would start TeX, an underscore in front would hide a line from the legend
    return "".join(c if c.isprintable() else " " for c in text)[:longest].replace("$", "\\$").lstrip("_")
