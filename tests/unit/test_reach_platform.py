"""The demo speaks to the platform that it is told of, and borrows a key where it needs one."""

from dataclasses import replace

import pytest
from small_bundle import make_settings

from windvane import reach_platform
from windvane.manage_keys import list_keys


def test_a_platform_that_runs_elsewhere_is_not_started(tmp_path, monkeypatch):
    monkeypatch.setattr(reach_platform, "start_platform", lambda *_, **__: pytest.fail("it was started"))
    settings = replace(make_settings(tmp_path), mlflow_page="http://127.0.0.1:5123")
    environ = {
        "WINDVANE_AIRFLOW_URL": "http://api:8080",
        "AIRFLOW__API__BASE_URL": "http://127.0.0.1:8123",
        "AIRFLOW_ADMIN_PASSWORD": "canary",
    }
    reached, found = reach_platform.reach_platform(settings, say=print, environ=environ)
    assert (reached.airflow, reached.airflow_url, reached.mlflow_url) == (
        "http://api:8080",
        "http://127.0.0.1:8123",
        "http://127.0.0.1:5123",
    )
    assert reached.password == "canary"
    assert "canary" not in repr(reached)
    assert found == settings


def test_a_borrowed_key_is_given_back(tmp_path):
    settings = replace(make_settings(tmp_path), network="somewhere")
    with reach_platform.borrowed_key(settings, "tiny") as key:
        assert key.startswith("wv_")
        assert len(list_keys(settings, "tiny")) == 1
    assert list_keys(settings, "tiny") == []


def test_an_open_endpoint_needs_none(tmp_path):
    settings = make_settings(tmp_path)
    with reach_platform.borrowed_key(settings, "tiny") as key:
        assert key == ""
    assert list_keys(settings, "tiny") == []
