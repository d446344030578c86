"""A challenger waits for a person, answered by the REST API: by somebody who may not, by nobody, with yes and with no.

The tests of this file tell one story about the model `vetted` and run in their order.
"""

from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import quote

import numpy as np
import pandas as pd
import pytest
from live_platform import LANDED_CODE, Live, free_port, until

from windvane.errors import WindvaneError
from windvane.ledger import Release
from windvane.windows import Window

pytestmark = [pytest.mark.live, pytest.mark.timeout(300)]

MAY = Window(datetime(2024, 5, 1, tzinfo=UTC), datetime(2024, 6, 1, tzinfo=UTC))
JUNE = Window(MAY.end, datetime(2024, 7, 1, tzinfo=UTC))
HOSTILE = "<script>document.title='owned'</script>|`x`"

CONFIG = """\
model: vetted
description: Trained on demand, deployed when the right person approves
task: regression
data:
  source: {{type: csv, path: "landing/vetted-{{start:%Y-%m}}.csv"}}
  time: at
  label: y
train: {{window: 28d, holdout: 7d}}
gates: {{beat_baseline: false, min_rows: 20, slices: {{columns: [place], min_rows: 20}}}}
approval: {{required: true, approvers: [{approver}], timeout: {timeout}}}
deploy: {{port: {port}}}
retrain: {{on: []}}
"""


@pytest.fixture(scope="module")
def port() -> int:
    return free_port()


def write_config(live: Live, port: int, *, approver: str, timeout: str) -> None:
    path = live.settings.project / "dags" / "configs" / "vetted.yaml"
    path.with_suffix(".part").write_text(CONFIG.format(approver=approver, timeout=timeout, port=port))
    path.with_suffix(".part").rename(path)


def train(live: Live, window: Window, *, slope: float) -> dict[str, Any]:
    """Ingest a month, train on it, and return the question that follows."""
    hours = int((window.end - window.start) / timedelta(hours=1))
    random = np.random.default_rng(window.start.month)
    x = random.normal(size=hours)
    rows = pd.DataFrame(
        {
            "at": [window.start + timedelta(hours=i) for i in range(hours)],
            "x": x,
            "place": random.choice(["north", HOSTILE], hours),
            "y": slope * x + random.normal(size=hours) / 10,
        }
    )
    rows.to_csv(live.settings.project / "landing" / f"vetted-{window.start:%Y-%m}.csv", index=False)
    live.run("vetted__ingest", window.as_extra())
    live.run("vetted__train")
    return live.question("vetted__deploy")


def last(live: Live) -> Release:
    release = live.ledger.last("vetted")
    assert release is not None
    return release


def test_somebody_who_is_no_approver_may_not_answer_and_nobodys_answer_promotes_nothing(live: Live, port: int) -> None:
    write_config(live, port, approver="somebody", timeout="10s")
    (live.settings.project / "include" / "models" / "vetted.py").write_text(LANDED_CODE)
    until(lambda: {"vetted__ingest", "vetted__deploy"} <= set(live.client.dag_ids()), seconds=60, what="the DAGs of the new model")
    question = train(live, MAY, slope=3)
    run_id = question["task_instance"]["dag_run_id"]
    path = f"/dags/vetted__deploy/dagRuns/{quote(run_id, safe='')}/taskInstances/approve/-1/hitlDetails"
    # even an admin
    with pytest.raises(WindvaneError, match="answers 403"):
        live.client._request("PATCH", path, json={"chosen_options": ["Approve"], "params_input": {}})
    assert live.ledger.last("vetted") is None
    live.wait_for("vetted__deploy", run_id, expect="failed", seconds=90)
    refused = last(live)
    assert (refused.action, refused.version, dict(refused.traffic)) == ("refuse", 1, {})
    assert refused.reason == "nobody answered within 10s"
    assert refused.actor == f"vetted__deploy/{run_id} by approval"


def test_who_approved_when_and_why_is_in_the_ledger(live: Live, port: int) -> None:
    write_config(live, port, approver="admin", timeout="10m")
    run_id = live.client.trigger("vetted__deploy", {"version": 1})
    question = live.question("vetted__deploy")
    assert question["task_instance"]["dag_run_id"] == run_id
    assert question["subject"] == "Deploy version 1 of vetted?"
    assert "as the first one: nothing serves yet" in question["body"]
    assert last(live).action == "refuse"
    live.answer(question, reason="seen in the staging area")
    promoted = last(live)
    assert (promoted.action, promoted.version, dict(promoted.traffic)) == ("promote", 1, {1: 100})
    assert promoted.actor == f"vetted__deploy/{run_id} by admin"
    approval = promoted.evidence["approval"]
    assert (approval["by"], approval["reason"]) == ("admin", "seen in the staging area")
    assert abs(datetime.now(UTC) - datetime.fromisoformat(approval["at"])) < timedelta(minutes=2)
    assert next(row for row in live.ledger.history("vetted") if row.action == "shift").evidence["approval"] == approval


def test_a_rejected_challenger_was_compared_and_changes_nothing(live: Live) -> None:
    question = train(live, JUNE, slope=-2)
    body = question["body"]
    assert "**Version 2** would serve instead of version 1, which serves since" in body
    for title in ("Metrics on the same", "Slices by `r2`, worst first", "Gates", "Cost of serving", "Data", "Config since version 1"):
        assert f"### {title}" in body
    assert "| `r2` | 0.99" in body
    assert "`` <script>document.title='owned'</script>\\|`x` ``" in body
    live.answer(question, option="Reject", reason="not before Easter")
    run_id = question["task_instance"]["dag_run_id"]
    refused = last(live)
    assert (refused.action, refused.version, dict(refused.traffic)) == ("refuse", 2, {1: 100})
    assert refused.reason == "rejected by admin: not before Easter"
    assert refused.actor == f"vetted__deploy/{run_id} by admin"
    assert refused.evidence["approval"]["by"] == "admin"
    assert {task["task_id"]: task["state"] for task in live.client.tasks("vetted__deploy", run_id)} == {
        "approve": "success",
        "package": "skipped",
        "rehearse": "skipped",
        "rollout": "skipped",
        "promote": "skipped",
    }
