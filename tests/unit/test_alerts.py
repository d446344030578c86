"""Prometheus's own tool reads the rules and fires every alert; each has its paragraph, each dashboard asks for series that exist."""

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
