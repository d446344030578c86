"""Writes the configs of stories, as a team would have."""

import json
import shutil
from pathlib import Path

from tell_stories import Story

from windvane.settings import REPOSITORY

_CONFIG = """\
model: {model}
description: {description}
owner: {owner}
tags: [{tags}]
task: binary_classification
data: {{schedule: "@weekly", start: 2024-01-01, time: at, label: late, label_delay: 7d}}
train: {{window: 180d, holdout: 28d}}
gates: {{metric: {metric}, at_least: {floor}}}
approval: {{required: {approval}}}
deploy: {{port: {port}, rollout: {{steps: [10, 50, 100]}}}}
retrain: {{schedule: {schedule}, on: [{on}]}}
"""
_WRONG = "model: {model}\ntask: regression\ndata: {{time: at, labl: y}}\ntrain: {{windw: 90d}}\n"


def write_team(team: Path, stories: list[Story]) -> None:
    configs = team / "dags" / "configs"
    configs.mkdir(parents=True)
    shutil.copy(REPOSITORY / "dags" / "model_dags.py", team / "dags" / "model_dags.py")
    for index, story in enumerate(stories):
        text = _WRONG if story.end == "config_error" else _CONFIG
        values = {
            "model": story.model,
            "description": json.dumps(as_in_config(story.description)),
            "owner": story.owner,
            "tags": ", ".join(story.tags),
            "metric": story.metric,
            "floor": -0.9 if story.metric == "neg_log_loss" else 0.6,
            "approval": str(story.end == "waiting_for_approval").lower(),
            "port": 20_000 + index,
            "schedule": '"@monthly"' if story.trains_on_schedule else "null",
            "on": "decision, schedule" if story.trains_on_schedule else "decision",
        }
        (configs / f"{story.model}.yaml").write_text(text.format(**values), encoding="utf-8")


def as_in_config(description: str) -> str:
    """The description as far as a config may hold it."""
    return description[:120]
