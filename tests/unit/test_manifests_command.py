"""`windvane manifests` prints what the target would apply."""

import io

import pytest
from kubernetes_cluster import check_manifest
from ruamel.yaml import YAML
from small_bundle import MODEL, make_config, make_settings, write_config
from test_kubernetes_place import ENVIRONMENT
from typer.testing import CliRunner

from windvane.cli import app
from windvane.ledger import Ledger


@pytest.fixture
def settings(tmp_path, monkeypatch):
    made = make_settings(tmp_path)
    write_config(made, make_config(target="kubernetes"))
    for name, value in {**ENVIRONMENT, "WINDVANE_PROJECT": str(tmp_path), "WINDVANE_DB": made.database}.items():
        monkeypatch.setenv(name, value)
    ledger = Ledger(made.database)
    more = {"actor": "test", "reason": "why"}
    ledger.append(MODEL, expected_epoch=0, action="promote", version=1, digest="a" * 64, traffic={1: 100}, **more)
    ledger.append(MODEL, expected_epoch=1, action="shift", version=2, digest="b" * 64, traffic={1: 90, 2: 10}, **more)
    ledger.close()
    return made


def test_the_newest_row_is_printed_as_manifests_that_are_right(settings):
    result = CliRunner().invoke(app, ["manifests", MODEL])
    assert result.exit_code == 0
    found = list(YAML(typ="safe").load_all(io.StringIO(result.stdout)))
    assert [(item["kind"], item["metadata"]["name"]) for item in found] == [
        ("Deployment", "churn-v1"),
        ("Service", "churn-v1"),
        ("Deployment", "churn-v2"),
        ("Service", "churn-v2"),
        ("HTTPRoute", "churn"),
    ]
    for item in found:
        check_manifest(item)
    assert [backend["weight"] for backend in found[-1]["spec"]["rules"][0]["backendRefs"]] == [90, 10]


def test_a_version_is_printed_as_if_it_had_all_traffic(settings):
    result = CliRunner().invoke(app, ["manifests", MODEL, "--version", "1"])
    assert result.exit_code == 0
    assert "churn-v2" not in result.stdout
    assert "weight: 100" in result.stdout


def test_a_version_that_the_ledger_does_not_know_is_refused(settings):
    result = CliRunner().invoke(app, ["manifests", MODEL, "--version", "9"])
    assert result.exit_code == 1
    assert "has no version 9" in result.stderr
