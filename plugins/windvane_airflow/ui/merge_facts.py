"""Joins what ledger and catalog know of a model with what Airflow knows: one row of the overview."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from windvane.describe_models import ORDER, describe_nothing, state_of
from windvane_airflow.ui.read_airflow import CONFIG_ERROR, AirflowFacts


def merge_row(model: str, described: Mapping[str, Any] | None, facts: AirflowFacts, *, can_act: bool, now: datetime) -> dict[str, Any]:
    """The row of a model.

    Args:
        described: What `describe_models` says of it; None if it knows nothing.
    """
    row = dict(described or describe_nothing(model, now=now))
    problems = _problems(facts)
    state, reason = state_of(row.pop("causes"), problems=problems, failed=facts.failed, approval=facts.approval)
    return {
        "model": model,
        "description": None if problems else facts.doc.split("\n\n")[0].strip() or None,
        "owner": facts.owner,
        "tags": list(facts.tags),
        **row,
        "state": state,
        "state_reason": reason,
        "problems": problems,
        "next_run": facts.next_run,
        "approval": facts.approval,
        "running": facts.running,
        "failed": facts.failed,
        "paused": facts.paused,
        "can_act": can_act,
    }


def in_order(row: Mapping[str, Any]) -> tuple[int, str]:
    """Sorts rows: what needs a person first, then by name."""
    return ORDER.index(row["state"]), row["model"]


def _problems(facts: AirflowFacts) -> list[str]:
    """The lines of the config's mistakes, as the DAG that stands in for the model's lists them."""
    if CONFIG_ERROR not in facts.dags:
        return []
    lines = [line[2:] for line in facts.doc.splitlines() if line.startswith("- ")]
    return lines or ["the config has problems; the log of its DAG's task tells them"]
