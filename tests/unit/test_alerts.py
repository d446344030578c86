"""Prometheus's own tool reads the rules and fires every alert; each has its paragraph, each dashboard asks for series that exist."""

import importlib.util
import json
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

DOCKER = Path(__file__).parents[2] / "include" / "docker"
RULES = sorted((DOCKER / "prometheus" / "rules").glob("*.yml"))
DOCS = (Path(__file__).parents[2] / "docs" / "metrics.md").read_text()
FIRE = Path(__file__).with_name("alerts_fire.yml")


def rules() -> list[dict[str, Any]]:
    return [rule for path in RULES for group in yaml.safe_load(path.read_text())["groups"] for rule in group["rules"]]


def promtool(*arguments: str) -> str:
    tool = shutil.which("promtool")
    if tool is None:
        if os.environ.get("CI"):
            pytest.fail("promtool is not installed; it comes with Debian's package prometheus")
        pytest.skip("no promtool; it comes with Debian's package prometheus")
    done = subprocess.run([tool, *arguments], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def sent_by_airflow() -> set[str]:
    """Every name that Airflow sends by StatsD, with its variables as `{pool_name}`: it sends the old name and the new one."""
    found = importlib.util.find_spec("airflow")
    assert found is not None
    template = Path(str(found.origin)).parent / "_shared" / "observability" / "metrics" / "metrics_template.yaml"
    told = yaml.safe_load(template.read_text())["metrics"]
    return {f"airflow.{name}" for row in told for name in (row["name"], row["legacy_name"]) if name != "-"}


def mapped(name: str) -> tuple[str, dict[str, str]] | None:
    """The series that statsd-exporter makes of a name, or None if it drops it."""
    for rule in yaml.safe_load((DOCKER / "statsd" / "mapping.yml").read_text())["mappings"]:
        match = re.fullmatch(re.escape(rule["match"]).replace(r"\*", r"([^.]*)"), name)
        if match:
            if rule.get("action") == "drop":
                return None

            def filled(text: str, match: re.Match[str] = match) -> str:
                return re.sub(r"\$(\d)", lambda number: match[int(number[1])], text)

            return filled(rule["name"]), {label: filled(text) for label, text in rule.get("labels", {}).items()}
    return re.sub(r"\W", "_", name), {}


def test_pools_have_their_name_as_a_label_and_nothing_else() -> None:
    assert {"airflow.pool.queued_slots", "airflow.pool.queued_slots.{pool_name}"} <= sent_by_airflow()
    series = [mapped(name) for name in sent_by_airflow() if name.startswith("airflow.pool.")]
    assert ("airflow_pool_queued_slots", {"pool": "{pool_name}"}) in series
    assert ("airflow_pool_running_slots", {"pool": "{pool_name}"}) in series
    assert all(one is None or one[1] == {"pool": "{pool_name}"} for one in series)


def test_rules_and_dashboards_ask_for_what_airflow_sends() -> None:
    known = {one[0] for one in map(mapped, sent_by_airflow()) if one}
    texts = [*(rule["expr"] for rule in rules()), *(path.read_text() for path in (DOCKER / "grafana" / "dashboards").glob("*.json"))]
    asked = {name for text in texts for name in re.findall(r"\bairflow_\w+", text)}
    assert {"airflow_pool_queued_slots", "airflow_scheduler_heartbeat", "airflow_ti_failures"} <= asked
    assert {re.sub(r"_(sum|count)$", "", name) for name in asked} <= known


def test_promtool_reads_the_rules() -> None:
    assert "SUCCESS" in promtool("check", "rules", *map(str, RULES))


def test_every_alert_fires_when_it_should_and_not_before() -> None:
    assert "SUCCESS" in promtool("test", "rules", str(FIRE))


def test_every_alert_is_made_to_fire() -> None:
    fired = {
        case["alertname"] for test in yaml.safe_load(FIRE.read_text())["tests"] for case in test["alert_rule_test"] if case["exp_alerts"]
    }
    assert fired == {rule["alert"] for rule in rules() if "alert" in rule}


def test_every_alert_says_what_to_do() -> None:
    for rule in rules():
        if "alert" in rule:
            assert f"\n### {rule['alert']}\n" in DOCS
            assert rule["annotations"]["runbook"] == f"docs/metrics.md#{rule['alert'].lower()}"
            assert rule["labels"]["severity"] in ("warning", "critical")


def test_dashboards_ask_prometheus_and_name_their_panels() -> None:
    uids = set()
    for path in sorted((DOCKER / "grafana" / "dashboards").glob("*.json")):
        board = json.loads(path.read_text())
        uids.add(board["uid"])
        assert len({panel["id"] for panel in board["panels"]}) == len(board["panels"]) > 4
        for panel in board["panels"]:
            assert panel["title"]
            assert panel["targets"]
            assert panel["datasource"]["uid"] == "prometheus"
            assert all(target["expr"] for target in panel["targets"])
    assert len(uids) == 4


def test_the_docs_know_every_figure_of_the_exporter() -> None:
    source = (Path(__file__).parents[2] / "include" / "windvane" / "export_metrics.py").read_text()
    names = set(re.findall(r'"(windvane_[a-z_]+)"', source))
    assert len(names) > 10
    for name in names:
        assert f"`{name}" in DOCS, name
