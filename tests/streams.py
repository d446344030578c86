"""Streams with known drift: rows in the order of time, of which it is known what changes, when, and what should be decided.

Every stream has ten inputs: seven numbers, three categories. `kind` says what happens:

- undrifted: nothing; swings: the inputs swing from hour to hour, as they did in the training.
- abrupt, gradual: the outcome follows the inputs in another way from some row on, at once or over two windows; recurring: and back again.
- covariate: the inputs move, the outcome follows them as before; ambiguous: they move to where the outcome is hard to tell.
- base_rate: there are more (or fewer) positives of every sort, or all values are higher; the order of the rows by chance stays.
- noise: outcomes follow their inputs less than before.
- nulls, sentinel, constant, scaled: a share of one column is broken for some windows; labels_low, labels_high: the outcomes are.
- block: for less than a window the outcomes are odd.
- story: one thing after the other, for the picture in the docs: covariate, nulls, block, base_rate, abrupt.
"""

import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd

Task = Literal["binary_classification", "multiclass_classification", "regression"]
World = Literal["linear", "steps"]

LABEL = "outcome"
NUMBERS = ("x0", "x1", "x2", "x3", "x4", "x5", "x6")
CATEGORIES = ("c0", "c1", "c2")
CONTINUOUS = ("x0", "x1", "x2", "x3", "x4", "x6")
CLASSES = ("amber", "blue", "coral")
SENTINELS = (-200.0, 999.0, -999.0, 9999.0)
SHARES = (0.2, 0.5, 1.0)

_LEVELS = {
    "c0": (("east", "north", "south", "west"), (0.4, 0.3, 0.2, 0.1)),
    "c1": (("A", "B", "C", "D", "E", "F"), (0.35, 0.25, 0.15, 0.12, 0.08, 0.05)),
    "c2": (("no", "yes"), (0.7, 0.3)),
}
_MOVED = {"c0": (0.1, 0.2, 0.3, 0.4), "c1": (0.2, 0.2, 0.2, 0.15, 0.15, 0.1), "c2": (0.5, 0.5)}
_EFFECTS = {"c0": (0.6, 0.0, -0.4, -0.9), "c1": (0.3, -0.3, 0.2, 0.0, -0.5, 0.5), "c2": (-0.15, 0.35)}
_WEIGHTS = np.array([1.2, -0.9, 0.7, 0.5, 0.35, 0.4, 0.3])
_SWING_ROWS = 40

CONFIG = """\
model: {name}
task: {task}
data:
  source: {{type: python}}
  label: {label}
train: {{seed: 7}}
gates: {{metric: {metric}}}
monitor: {{min_rows: {min_rows}}}
"""

CODE = '''\
"""{kind}, seed {seed}."""

from sklearn.compose import make_column_transformer
from sklearn.impute import SimpleImputer
from sklearn.pipeline import Pipeline, make_pipeline
{imports}

NUMBERS = {numbers}
CATEGORIES = {categories}


def build_pipeline(params):
{body}
'''

_LINEAR = """\
    numbers = make_pipeline(SimpleImputer(strategy="median"), StandardScaler())
    columns = make_column_transformer((numbers, NUMBERS), (OneHotEncoder(handle_unknown="ignore"), CATEGORIES), remainder="drop")
    return Pipeline([("columns", columns), ("model", {model})])"""
_STEPS = """\
    codes = OrdinalEncoder(handle_unknown="use_encoded_value", unknown_value=-1)
    columns = make_column_transformer((codes, CATEGORIES), ("passthrough", NUMBERS), remainder="drop")
    return Pipeline([("columns", columns), ("model", {model}(max_iter=80, max_leaf_nodes=4, min_samples_leaf=40))])"""


@dataclass(frozen=True)
class Stream:
    """Rows with known drift.

    Attributes:
        frame: Inputs and the label, in the order of time; with `time` where the stream has a clock.
        first: Rows before the first window.
        window: Rows of a window.
        onset: First row, counted from the first one of all, that is not as before; None when all are as before.
        until: The row after the last odd one; None when there is no end.
        detail: What is odd, for people.
    """

    kind: str
    seed: int
    task: Task
    world: World
    frame: pd.DataFrame
    first: int
    window: int
    onset: int | None = None
    until: int | None = None
    detail: str = ""

    @property
    def odd_windows(self) -> range:
        """Numbers of the windows with odd rows."""
        if self.onset is None:
            return range(0)
        last = (len(self.frame) if self.until is None else self.until) - 1
        return range((self.onset - self.first) // self.window, (last - self.first) // self.window + 1)

    @property
    def clear_window(self) -> int | None:
        """Number of the first window of which at least half is odd."""
        if self.onset is None:
            return None
        inside = (self.onset - self.first) % self.window
        return (self.onset - self.first) // self.window + (2 * inside > self.window)

    def write(self, directory: Path) -> Path:
        """Write a config and its model file; the path of the config is returned."""
        name = f"stream_{self.kind}"
        metric = {"binary_classification": "roc_auc", "multiclass_classification": "roc_auc_ovr_weighted", "regression": "r2"}[self.task]
        path = directory / f"{name}.yaml"
        path.write_text(CONFIG.format(name=name, task=self.task, label=LABEL, metric=metric, min_rows=min(500, self.window)))
        (directory / f"{name}.py").write_text(self._code())
        return path

    def _code(self) -> str:
        kind = "Regressor" if self.task == "regression" else "Classifier"
        if self.world == "steps":
            imports = f"from sklearn.ensemble import HistGradientBoosting{kind}\nfrom sklearn.preprocessing import OrdinalEncoder"
            body = _STEPS.format(model=f"HistGradientBoosting{kind}")
        else:
            model, call = ("Ridge", "Ridge()") if self.task == "regression" else ("LogisticRegression", "LogisticRegression(max_iter=300)")
            imports = f"from sklearn.linear_model import {model}\nfrom sklearn.preprocessing import OneHotEncoder, StandardScaler"
            body = _LINEAR.format(model=call)
        return CODE.format(kind=self.kind, seed=self.seed, imports=imports, numbers=list(NUMBERS), categories=list(CATEGORIES), body=body)


@dataclass
class _Draft:
    """What is to happen to every row; arrays have shape (rows,)."""

    random: np.random.Generator
    seed: int
    task: Task
    world: World
    first: int
    window: int
    rows: int
    onset: int
    concept: np.ndarray = field(init=False)
    move: np.ndarray = field(init=False)
    toward_doubt: np.ndarray = field(init=False)
    offset: np.ndarray = field(init=False)
    noise: np.ndarray = field(init=False)
    swing: np.ndarray = field(init=False)
    turn: float = np.pi
    broken: Callable[[pd.DataFrame, np.ndarray], None] | None = None
    until: int | None = None
    detail: str = ""

    def __post_init__(self) -> None:
        self.concept = np.zeros(self.rows, dtype=int)
        self.move, self.toward_doubt, self.offset, self.noise = (np.zeros(self.rows) for _ in range(4))
        self.swing = np.zeros((self.rows, len(NUMBERS)))

    @property
    def is_odd_seed(self) -> bool:
        return self.seed % 2 == 1

    def ramp(self, rows: int) -> np.ndarray:
        """0 before the onset, 1 from some rows behind it on, a line between."""
        return np.clip((np.arange(self.rows) - self.onset + 1) / max(rows, 1), 0, 1)

    def span(self, windows: float) -> slice:
        """The rows from the onset on, for some windows."""
        self.until = min(self.rows, self.onset + int(windows * self.window))
        return slice(self.onset, self.until)


def make_stream(
    kind: str,
    *,
    seed: int,
    task: Task = "binary_classification",
    world: World = "linear",
    window: int = 1_000,
    windows: int = 30,
    first: int | None = None,
    clock: bool = False,
) -> Stream:
    """Draw a stream; the same arguments draw the same rows.

    Args:
        kind: A name of `KINDS`.
        seed: Odd seeds start in the middle of a window, even ones at its begin; the other options of a kind follow from it as well.
        task: Of the model.
        world: How outcomes follow inputs: linear (and the model is linear), or by steps and interactions (and the model is of trees).
        window: Rows of a window.
        windows: Their number.
        first: Rows before them; default five windows, at least 3,000 rows.
        clock: Whether rows have a `time`; a window takes a day.
    """
    first = max(3_000, 5 * window) if first is None else first
    random = np.random.default_rng([zlib.crc32(f"{kind} {task} {world}".encode()), seed])
    begin = int(random.integers(windows // 4, max(windows // 4 + 1, windows // 2)))
    within = int(window * random.uniform(0.25, 0.75)) if seed % 2 else 0
    draft = _Draft(random, seed, task, world, first, window, first + windows * window, first + begin * window + within)
    KINDS[kind](draft)
    inputs, codes = _draw_inputs(draft)
    frame = inputs.assign(**{LABEL: _draw_outcomes(draft, inputs, codes)})
    if draft.broken is not None:
        draft.broken(frame, np.arange(draft.onset, draft.until))
    if clock:
        step = pd.Timedelta(days=1) / window
        frame.insert(0, "time", pd.Timestamp("2024-01-01", tz="UTC") - first * step + np.arange(len(frame)) * step)
    onset = None if kind in ("undrifted", "swings") else draft.onset
    return Stream(kind, seed, task, world, frame, first, window, onset, draft.until, draft.detail)


def _draw_inputs(draft: _Draft) -> tuple[pd.DataFrame, dict[str, np.ndarray]]:
    random, n = draft.random, draft.rows
    z = random.normal(size=(n, len(NUMBERS)))
    z[:, 1] = 0.4 * z[:, 0] + np.sqrt(1 - 0.4**2) * z[:, 1]
    z[:, 3] = 0.3 * z[:, 2] + np.sqrt(1 - 0.3**2) * z[:, 3]
    z += draft.swing
    z[:, 0] += 1.2 * draft.move
    z[:, 2] -= 0.8 * draft.move
    z[:, 4] += 0.5 * draft.move
    if draft.toward_doubt.any():
        strength = 0.85 * draft.toward_doubt
        z[:, :4] *= (1 - strength)[:, None]
    frame = pd.DataFrame(
        {
            "x0": z[:, 0],
            "x1": 50 + 10 * z[:, 1],
            "x2": z[:, 2],
            "x3": 1_000 + 200 * z[:, 3],
            "x4": np.exp(0.5 * z[:, 4]),
            # a count from a normal: the same swings and moves apply
            "x5": np.clip(np.round(5 + 2 * z[:, 5]), 0, None),
            "x6": 1 / (1 + np.exp(-z[:, 6])),
        }
    )
    codes = {}
    for name, (levels, usual) in _LEVELS.items():
        drawn = random.random(n)
        before = np.searchsorted(np.cumsum(usual)[:-1], drawn)
        after = np.searchsorted(np.cumsum(_MOVED[name])[:-1], drawn)
        codes[name] = np.where(random.random(n) < draft.move, after, before)
        frame[name] = np.array(levels, dtype=object)[codes[name]]
    return frame, codes


def _standard(frame: pd.DataFrame) -> np.ndarray:
    """The numbers on one scale, shape (n, 7)."""
    return np.column_stack(
        [
            frame["x0"],
            (frame["x1"] - 50) / 10,
            frame["x2"],
            (frame["x3"] - 1_000) / 200,
            frame["x4"] - 1,
            (frame["x5"] - 5) / 2,
            4 * (frame["x6"] - 0.5),
        ]
    )


def _strength(draft: _Draft, frame: pd.DataFrame, codes: dict[str, np.ndarray], *, second: bool = False) -> np.ndarray:
    """The logit of the outcome (of the second class against the first), or the value of a regression on that scale; shape (n,)."""
    z = _standard(frame)
    order = [2, 3, 0, 1, 6, 5, 4] if second else list(range(len(NUMBERS)))
    effects = sum(np.asarray(_EFFECTS[name])[codes[name]] for name in CATEGORIES)

    def of(weights: np.ndarray) -> np.ndarray:
        if draft.world == "linear":
            return z[:, order] @ weights
        signs = np.sign(weights)
        a, b, c, d = (z[:, order[i]] for i in range(4))
        steps = signs[0] * np.where(a > 0.2, 1.3, -0.9) + signs[2] * np.where(b > 0, 1.0, -0.8) * np.where(a > 0.2, 1.0, 0.4)
        return steps + signs[3] * np.where(c > -0.5, 0.4, -0.7) + signs[4] * np.where(d > 0, 0.3, -0.3)

    turned = _WEIGHTS.copy()
    for i, j in ((0, 1), (2, 3), (4, 5)):
        cosine, sine = np.cos(draft.turn), np.sin(draft.turn)
        turned[i], turned[j] = cosine * _WEIGHTS[i] - sine * _WEIGHTS[j], sine * _WEIGHTS[i] + cosine * _WEIGHTS[j]
    return np.where(draft.concept == 1, of(turned), of(_WEIGHTS)) + effects - 0.5


def _draw_outcomes(draft: _Draft, frame: pd.DataFrame, codes: dict[str, np.ndarray]) -> np.ndarray:
    random, n = draft.random, draft.rows
    one = _strength(draft, frame, codes)
    if draft.task == "regression":
        return 20 + 4 * one + 4 * draft.offset + random.normal(size=n) * 3 * (1 + 1.5 * draft.noise)
    if draft.task == "multiclass_classification":
        two = 0.8 * _strength(draft, frame, codes, second=True)
        logits = np.column_stack([np.zeros(n), one + draft.offset, two])
        drawn = (logits + random.gumbel(size=logits.shape)).argmax(axis=1)
        drawn = np.where(random.random(n) < 0.6 * draft.noise, random.integers(0, len(CLASSES), n), drawn)
        return np.array(CLASSES, dtype=object)[drawn]
    outcomes = (random.random(n) < 1 / (1 + np.exp(-(one + draft.offset)))).astype(int)
    return np.where(random.random(n) < 0.6 * draft.noise, random.integers(0, 2, n), outcomes)


def _nothing(draft: _Draft) -> None:
    pass


def _swings(draft: _Draft) -> None:
    steps = -(-draft.rows // _SWING_ROWS)
    pushes = draft.random.normal(size=(steps, len(NUMBERS))) * 0.4 * np.sqrt(1 - 0.9**2)
    level, levels = np.zeros(len(NUMBERS)), np.empty((steps, len(NUMBERS)))
    for i in range(steps):
        level = 0.9 * level + pushes[i]
        levels[i] = level
    draft.swing = np.repeat(levels, _SWING_ROWS, axis=0)[: draft.rows]


def _turn(draft: _Draft) -> None:
    draft.turn = np.pi if draft.seed // 2 % 2 or draft.world == "steps" else np.pi / 2
    draft.detail = "turned round" if draft.turn == np.pi else "turned by 90 degrees"


def _abrupt(draft: _Draft) -> None:
    _turn(draft)
    draft.concept = draft.ramp(1).astype(int)


def _gradual(draft: _Draft) -> None:
    _turn(draft)
    draft.concept = (draft.random.random(draft.rows) < draft.ramp(2 * draft.window)).astype(int)


def _recurring(draft: _Draft) -> None:
    _turn(draft)
    length = max(1, (draft.rows - draft.first) // draft.window // 5) * draft.window
    draft.onset = draft.first + length
    draft.concept = np.clip((np.arange(draft.rows) - draft.first) // length, 0, None) % 2


def _covariate(draft: _Draft) -> None:
    rows = 1 if draft.seed // 2 % 2 else 6 * draft.window
    # trees know less about where there were few rows: less of a move keeps the model right
    draft.move = (1.0 if draft.world == "linear" else 0.6) * draft.ramp(rows)
    draft.detail = "at once" if rows == 1 else "over 6 windows"


def _ambiguous(draft: _Draft) -> None:
    draft.toward_doubt = draft.ramp(1)


def _base_rate(draft: _Draft) -> None:
    change = -1.2 if draft.seed // 2 % 2 else 1.2
    draft.offset = change * draft.ramp(1)
    draft.detail = f"logit {change:+.1f}"


def _noise(draft: _Draft) -> None:
    draft.noise = draft.ramp(1)


def _block(draft: _Draft) -> None:
    rows = draft.span(draft.random.uniform(0.3, 0.6))
    if draft.seed // 2 % 2:
        draft.concept[rows] = 1
        draft.detail = "outcomes turned round"
    else:
        draft.offset[rows] = 2.0
        draft.detail = "many positives"


def _break(draft: _Draft, columns: Sequence[str], change: Callable[[pd.DataFrame, str, np.ndarray], None], *, note: str = "") -> None:
    """Break a share of one column from the begin of a window on, for one to four windows, or of a column to the end."""
    draft.onset -= (draft.onset - draft.first) % draft.window
    windows = int(draft.random.integers(1, 5))
    draft.span(windows)
    column = columns[int(draft.random.integers(len(columns)))]
    share = SHARES[int(draft.random.integers(len(SHARES)))]
    draft.detail = f"{share:.0%} of {column}{note}, {windows} windows"
    random = draft.random

    def broken(frame: pd.DataFrame, rows: np.ndarray) -> None:
        change(frame, column, rows[random.random(len(rows)) < share])

    draft.broken = broken


def _set(frame: pd.DataFrame, column: str, rows: np.ndarray, value: Any) -> None:
    frame.loc[rows, column] = value


def _nulls(draft: _Draft) -> None:
    _break(draft, (*NUMBERS, *CATEGORIES), lambda frame, column, rows: _set(frame, column, rows, np.nan))


def _sentinel(draft: _Draft) -> None:
    value = SENTINELS[int(draft.random.integers(len(SENTINELS)))]
    # x3 reaches 999 by itself
    columns = tuple(c for c in NUMBERS if c != "x3" or value != 999)
    _break(draft, columns, lambda frame, column, rows: _set(frame, column, rows, value), note=f" are {value:g}")


def _constant(draft: _Draft) -> None:
    # the last value that came, as a sensor that hangs
    _break(draft, CONTINUOUS, lambda frame, column, rows: _set(frame, column, rows, frame[column].iloc[rows[0] - 1]))


def _scaled(draft: _Draft) -> None:
    _break(draft, NUMBERS, lambda frame, column, rows: _set(frame, column, rows, frame[column].iloc[rows].to_numpy() * 100))


def _labels(high: bool) -> Callable[[_Draft], None]:
    def plan(draft: _Draft) -> None:
        draft.onset -= (draft.onset - draft.first) % draft.window
        windows = int(draft.random.integers(1, 4))
        draft.span(windows)
        draft.detail = f"{'high' if high else 'low'} for {windows} windows"
        value: Any = int(high)
        if draft.task == "multiclass_classification":
            value = CLASSES[-1 if high else 0]
        elif draft.task == "regression":
            value = 0.0
        random = draft.random

        def broken(frame: pd.DataFrame, rows: np.ndarray) -> None:
            _set(frame, LABEL, rows[random.random(len(rows)) < 0.98], value)

        draft.broken = broken

    return plan


def _story(draft: _Draft) -> None:
    def place(window: float) -> int:
        return draft.first + int(window * (draft.rows - draft.first) / 40)

    draft.turn = np.pi / 2
    draft.move = np.clip((np.arange(draft.rows) - place(6)) / (place(9) - place(6)), 0, 1)
    draft.onset, draft.until = place(13), place(15)
    draft.offset[place(19.3) : place(19.8)] = 2.0
    draft.offset[place(23) :] = -1.2
    draft.concept[place(31) :] = 1
    draft.broken = lambda frame, rows: _set(frame, "x0", rows[::2], np.nan)


KINDS: dict[str, Callable[[_Draft], None]] = {
    "undrifted": _nothing,
    "swings": _swings,
    "abrupt": _abrupt,
    "gradual": _gradual,
    "recurring": _recurring,
    "covariate": _covariate,
    "ambiguous": _ambiguous,
    "base_rate": _base_rate,
    "noise": _noise,
    "nulls": _nulls,
    "sentinel": _sentinel,
    "constant": _constant,
    "scaled": _scaled,
    "labels_low": _labels(high=False),
    "labels_high": _labels(high=True),
    "block": _block,
    "story": _story,
}
"""What can happen to a stream."""
BROKEN_COLUMNS = ("nulls", "sentinel", "constant", "scaled")
BROKEN_LABELS = ("labels_low", "labels_high")
