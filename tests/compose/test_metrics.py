"""Prometheus on the live stack: it reaches everything, every dashboard has something to show, and no alert fires without cause."""

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest
from compose_stack import REPOSITORY, ROW, Stack, wait_for
from live.steady_load import steady_load

pytestmark = pytest.mark.timeout(900)
BOARDS = sorted((REPOSITORY / "include" / "docker" / "grafana" / "dashboards").glob("*.json"))
_ASK = "import sys, urllib.request as r; print(r.build_opener(r.ProxyHandler({})).open(sys.argv[1], timeout=20).read().decode())"


@pytest.fixture(scope="module", autouse=True)
def traffic(stack: Stack) -> Iterator[None]:
    """Somebody asks the model all the time: what nobody asks shows no rates. PostgreSQL is away for a while, and no request fails."""
    with steady_load(stack.endpoint, {"dataframe_records": [ROW]}, per_second=5, clients=2, headers=stack.new_key()) as load:
        yield
    assert load.failures == []


def ask(stack: Stack, path: str) -> Any:
    """Prometheus is reached from inside only."""
    return json.loads(stack.run("exec", "-T", "metrics", "python", "-c", _ASK, f"http://prometheus:9090/api/v1/{path}"))["data"]


def query(stack: Stack, expression: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = ask(stack, f"query?{urlencode({'query': expression})}")["result"]
    return found


def test_prometheus_reaches_all_that_it_should(stack: Stack) -> None:
    def reached() -> bool:
        up = {row["metric"]["job"]: row["value"][1] for row in query(stack, "min by (job) (up)")}
        return up == dict.fromkeys(("prometheus", "windvane", "airflow", "scorers", "haproxy"), "1")

    wait_for(reached, "Prometheus reaches its targets", seconds=90, every=3)


@pytest.mark.parametrize("board", BOARDS, ids=lambda board: board.stem)
def test_every_panel_has_something_to_show(stack: Stack, board: Path) -> None:
    panels = json.loads(board.read_text())["panels"]
    asked = {target["expr"].replace("$model", ".*"): panel["title"] for panel in panels for target in panel["targets"]}

    def empty() -> list[str]:
        return [f"{title}: {expression}" for expression, title in asked.items() if not query(stack, expression)]

    give_up = time.monotonic() + 150
    while (missing := empty()) and time.monotonic() < give_up:
        time.sleep(5)
    assert missing == []


def test_no_alert_about_the_platform_fires_while_it_works(stack: Stack) -> None:
    firing = {row["metric"]["alertname"] for row in query(stack, 'ALERTS{alertstate="firing"}')}
    assert not firing & {"LedgerUnreachable", "SchedulerDown", "EndpointDown", "ServesOtherThanLedger", "DagsBroken"}


def test_an_alert_fires_and_reaches_alertmanager(stack: Stack) -> None:
    stack.run("stop", "postgres")
    try:
        wait_for(
            lambda: query(stack, 'ALERTS{alertname="LedgerUnreachable", alertstate="firing"}'),
            "LedgerUnreachable fires",
            seconds=300,
            every=5,
        )
        url = "http://alertmanager:9093/api/v2/alerts"

        def told() -> bool:
            alerts = json.loads(stack.run("exec", "-T", "metrics", "python", "-c", _ASK, url))
            return "LedgerUnreachable" in {alert["labels"]["alertname"] for alert in alerts}

        wait_for(told, "Alertmanager was told", seconds=60, every=3)
    finally:
        stack.run("up", "--detach", "--wait", "--no-build", "--no-recreate", "postgres")
