"""A team whose data is an attack: names, cells, classes and ids that would run, break out, reorder or overflow where they are shown.

Whatever of it runs in a page calls `__owned`, opens a dialog, or asks the host `canary.invalid` for something.
"""

from datetime import UTC, datetime, timedelta
from pathlib import Path

from windvane.windows import Window

MODEL = "hostile"
CANARY = "canary.invalid"
START = datetime(2024, 1, 1, tzinfo=UTC)
TRAINED, WATCHED = Window(START, START + timedelta(days=30)), Window(START + timedelta(days=30), START + timedelta(days=45))

SCRIPT = "<script>window.top.__owned='script';fetch('//canary.invalid/script')</script>"
IMAGE = '"><img src=//canary.invalid/image onerror="window.top.__owned=\'image\'">'
CLOSING = "</script></style></title></textarea>--><svg onload=alert('closing')>"
QUOTES = "it's `${alert('quotes')}` \"\\' || {{ 1 / 0 }} {% raw %} %s {0}"
MARKDOWN = "[go](javascript:alert('markdown')) ![](//canary.invalid/markdown) | a | **b** |\n|---|---|\n# c"
LEFTWARD = "\u202eevitagen\u202c \u2066\u2069 \ufeff\u200b"
EMOJI = "👩\u200d👩\u200d👧 💥 ﷽"
CONTROLS = "\x01\x07\x1b[31m\x7f\u2028\u2029\r\n\t"
NUL = "before\x00after"
LONG = (IMAGE + "long " * 2_000)[:10_000]
WORDS = "__proto__"
POLYGLOTS = (SCRIPT, IMAGE, CLOSING, QUOTES, MARKDOWN, LEFTWARD, EMOJI, CONTROLS, NUL, LONG, WORDS, "constructor", "NaN", "=1+1", "../../x")

# what a config may name is at most 250 characters long; the data may have columns of any name
ID, TIME, LABEL = f"id {IMAGE}", f"time {QUOTES}"[:250], f"label {SCRIPT}"
CLASSES = (SCRIPT, IMAGE, f"{LEFTWARD}{EMOJI}")
CATEGORY, SLICE, NUMBER, OTHER = f"category {CLOSING}", f"slice {IMAGE}", f"number {SCRIPT}", f"10 kB {LONG}"

CONFIG = """\
model: hostile
description: {description}
owner: {owner}
tags: {tags}
task: multiclass_classification
data:
  id: {id}
  time: {time}
  label: {label}
  suite: raw
train: {{window: 30d, holdout: 7d}}
gates: {{beat_baseline: false, at_least: 0.5, min_rows: 50, slices: {{columns: [{slice}], min_rows: 20}}}}
approval: {{required: {approval}}}
deploy: {{port: {port}}}
monitor: {{min_rows: 100}}
"""

CODE = """\
import numpy as np
import pandas as pd
from sklearn.compose import make_column_selector, make_column_transformer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

ID, TIME, LABEL = {id!r}, {time!r}, {label!r}
CATEGORY, SLICE, NUMBER, OTHER = {category!r}, {slice!r}, {number!r}, {other!r}
CLASSES, POLYGLOTS = {classes!r}, {polyglots!r}


def read(window, connection):
    hours = int((window.end - window.start).total_seconds() // 3600)
    random = np.random.default_rng(int(window.start.timestamp()))
    moved = window.start.timestamp() > {watched!r}
    place = random.integers(0, len(CLASSES), hours)
    numbers = place + random.normal(size=hours) / 3 + 4 * moved
    cells = random.choice(len(POLYGLOTS) // 2 if not moved else len(POLYGLOTS), hours)
    return pd.DataFrame(
        {{
            ID: [f"{{POLYGLOTS[i % len(POLYGLOTS)][:200]}} {{window.start}} {{i}}" for i in range(hours)],
            TIME: pd.date_range(window.start, periods=hours, freq="h", tz="UTC"),
            CATEGORY: [POLYGLOTS[i] for i in cells],
            SLICE: [CLASSES[i] for i in random.integers(0, len(CLASSES), hours)],
            NUMBER: numbers,
            OTHER: random.normal(size=hours),
            LABEL: [CLASSES[i] for i in place],
        }}
    )


def features(frame):
    return frame.drop(columns=TIME)


def build_pipeline(params):
    columns = make_column_transformer(
        (OneHotEncoder(handle_unknown="ignore", sparse_output=False), make_column_selector(dtype_include=object)),
        (StandardScaler(), make_column_selector(dtype_include="number")),
    )
    return make_pipeline(columns, LogisticRegression(max_iter=500))
"""

SUITE = {
    "name": SCRIPT,
    "expectations": [
        # fails for some rows: they go to quarantine
        {"type": "expect_column_values_to_not_be_in_set", "kwargs": {"column": CATEGORY, "value_set": [MARKDOWN, LONG]}},
        {"type": "expect_column_values_to_be_in_set", "kwargs": {"column": LABEL, "value_set": list(CLASSES)}},
        {"type": "expect_column_values_to_be_between", "kwargs": {"column": OTHER, "min_value": -1e6, "max_value": 1e6}},
        # fails and only warns
        {
            "type": "expect_column_distinct_values_to_be_in_set",
            "kwargs": {"column": CATEGORY, "value_set": [SCRIPT]},
            "severity": "warning",
            "notes": IMAGE,
        },
    ],
}


def write_hostile_team(directory: Path, *, port: int, approval: bool = False) -> None:
    """Add the model to a team's directory."""
    import json

    names = {"id": ID, "time": TIME, "label": LABEL, "slice": SLICE}
    config = CONFIG.format(
        # JSON is YAML
        **{name: json.dumps(value) for name, value in names.items()},
        description=json.dumps(f"{MARKDOWN} {SCRIPT} {IMAGE}"),
        owner=json.dumps(IMAGE),
        tags=json.dumps([SCRIPT[:100]]),
        approval=str(approval).lower(),
        port=port,
    )
    columns = {"category": CATEGORY, "slice": SLICE, "number": NUMBER, "other": OTHER}
    code = CODE.format(**names | columns, classes=CLASSES, polyglots=POLYGLOTS, watched=(TRAINED.end - timedelta(seconds=1)).timestamp())
    for path, text in (
        (directory / "dags" / "configs" / f"{MODEL}.yaml", config),
        (directory / "include" / "models" / f"{MODEL}.py", code),
        (directory / "expectations" / MODEL / "raw.json", json.dumps(SUITE)),
    ):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
