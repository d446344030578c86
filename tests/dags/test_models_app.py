"""The plugin's web application without a server: its addresses, its headers, and what is not served."""

import gc
import os
import sys
import warnings
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy.exc import OperationalError
from walk_routes import WALK

from windvane.settings import load_settings

with warnings.catch_warnings():
    # Airflow's own imports lead to a test client that advertises its successor
    warnings.simplefilter("ignore")
    from airflow.api_fastapi.core_api.security import get_user
    from fastapi import HTTPException
    from fastapi.testclient import TestClient

    from windvane_airflow.ui import serve_models, serve_page, serve_reports
    from windvane_airflow.ui.build_app import build_app
    from windvane_airflow.ui.guard import Known, known_model
    from windvane_airflow.ui.read_airflow import AirflowFacts


class User:
    def get_name(self) -> str:
        return "editor"


@pytest.fixture
def client(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> TestClient:
    """Somebody who may read and act on the model `flights` alone."""

    def only_flights(model: str) -> Known:
        if model != "flights":
            raise HTTPException(404)
        return Known("flights", AirflowFacts(dags={"deploy": "flights__deploy"}), can_act=True)

    monkeypatch.setenv("WINDVANE_VAR", str(tmp_path))
    monkeypatch.delenv("WINDVANE_REPORTS", raising=False)
    app = build_app()
    app.dependency_overrides |= {get_user: User, known_model: only_flights}
    return TestClient(app, raise_server_exceptions=False)


@pytest.fixture
def reports(tmp_path: Path) -> Path:
    directory = load_settings({"WINDVANE_VAR": str(tmp_path)}).reports
    assert isinstance(directory, Path)
    (directory / "flights" / "w").mkdir(parents=True)
    (directory / "other").mkdir()
    (directory / "other" / "secret.html").write_text("other people's rows")
    (tmp_path / "secrets.json").write_text("{}")
    return directory


def test_every_route_is_walked() -> None:
    declared = {(route.path, method) for route in build_app().routes for method in getattr(route, "methods", None) or {"ANY"}}
    catch_all = {(path, method) for path, method in declared if path == "/{path:path}"}
    assert {method for _, method in catch_all} >= {"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"}
    assert declared - catch_all == {(stop.route, stop.method) for stop in WALK if stop.route != "/{path:path}"}


@pytest.mark.parametrize(
    ("method", "path"),
    [
        (m, p)
        for m in ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")
        for p in ("/", "/docs", "/api/models", "/page/models.js")
    ],
)
def test_nobody_gets_nothing(method: str, path: str) -> None:
    assert TestClient(build_app()).request(method, path).status_code == 401


def test_who_is_not_logged_in_learns_nothing_from_a_body_that_is_wrong() -> None:
    client = TestClient(build_app())
    assert client.post("/api/models/flights/freeze", content=b"{", headers={"content-type": "application/json"}).status_code == 401


def test_answers_say_what_a_browser_may_do_with_them(client: TestClient, reports: Path) -> None:
    (reports / "flights" / "w" / "drift.html").write_text("<script>alert(1)</script>")
    for path in ("/api/openapi.json", "/nowhere", "/page/models.js", "/reports/flights/w/drift.html", "/api/models/flights/freeze"):
        headers = client.get(path).headers
        assert headers["x-content-type-options"] == "nosniff", path
        assert "default-src 'none'" in headers["content-security-policy"], path
        assert headers["cross-origin-resource-policy"] == "same-origin", path
        assert headers["referrer-policy"] == "no-referrer", path


def test_a_report_is_sandboxed_and_may_not_reach_the_network(client: TestClient, reports: Path) -> None:
    (reports / "flights" / "w" / "drift.html").write_text("<script>alert(1)</script>")
    answer = client.get("/reports/flights/w/drift.html")
    policy = {rule.split()[0]: rule.split()[1:] for rule in answer.headers["content-security-policy"].split("; ")}
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    assert policy["sandbox"] == ["allow-scripts"]
    assert policy["default-src"] == ["'none'"]
    assert policy["base-uri"] == policy["form-action"] == ["'none'"]
    assert not [rule for rule, values in policy.items() if any("http" in value or "*" in value for value in values)]
    assert answer.headers["cache-control"] == "no-store"


@pytest.mark.parametrize(
    "path",
    [
        "other/secret.html",
        "../secrets.json",
        "flights/../other/secret.html",
        "flights/%2e%2e/other/secret.html",
        "flights/..%2fother/secret.html",
        "flights/%2e%2e%2f%2e%2e%2fsecrets.json",
        "flights//etc/passwd",
        "flights/%2fetc%2fpasswd.txt",
        "flights/w/%00.html",
        "flights/w/" + "a" * 5000 + ".html",
        "flights/link.html",
        "flights/circle.html",
        "flights/up/secret.html",
        "flights/w",
        "flights/w/",
        "flights/pipe.txt",
        "flights/picture.svg",
        "flights/page.HTML",
        "flights/page.xhtml",
        "flights/none.html",
        "flights/",
        "",
    ],
)
def test_what_is_no_report_of_the_model_does_not_exist(client: TestClient, reports: Path, path: str) -> None:
    own = reports / "flights"
    (own / "link.html").symlink_to(reports.parent / "secrets.json")
    (own / "circle.html").symlink_to(own / "circle.html")
    (own / "up").symlink_to(reports / "other")
    os.mkfifo(own / "pipe.txt")
    for name in ("picture.svg", "page.HTML", "page.xhtml"):
        (own / name).write_text("<script>alert(1)</script>")
    answer = client.get(f"/reports/{path}")
    assert answer.status_code == 404
    assert "removed" in answer.text or "nothing at" in answer.text or answer.json() == {"detail": "Not Found"}


def test_a_link_in_place_of_the_models_directory_leads_nowhere(client: TestClient, reports: Path) -> None:
    (reports / "flights" / "w").rmdir()
    (reports / "flights").rmdir()
    (reports / "flights").symlink_to(reports / "other")
    assert client.get("/reports/flights/secret.html").status_code == 404


def test_a_huge_report_is_not_sent(client: TestClient, reports: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serve_reports, "_MOST_BYTES", 10)
    (reports / "flights" / "w" / "big.txt").write_text("x" * 11)
    assert client.get("/reports/flights/w/big.txt").status_code == 413


@pytest.mark.parametrize(("name", "kind"), [("models.js", "text/javascript"), ("models.css", "text/css"), ("icon.svg", "image/svg+xml")])
def test_files_of_the_page_are_asked_for_again_and_not_sent_twice(client: TestClient, name: str, kind: str) -> None:
    first = client.get(f"/page/{name}")
    assert first.status_code == 200
    assert first.headers["content-type"].startswith(kind)
    assert first.headers["cache-control"] == "private, no-cache"
    for seen in (first.headers["etag"], f'"other", W/{first.headers["etag"]}'):
        again = client.get(f"/page/{name}", headers={"if-none-match": seen})
        assert (again.status_code, again.content) == (304, b"")
    assert client.get(f"/page/{name}", headers={"if-none-match": '"other"'}).status_code == 200


def test_files_of_the_page_are_kept_for_good_under_their_digest_only(client: TestClient) -> None:
    digest = serve_page.page_digest()
    assert "immutable" in client.get(f"/page.{digest}/models.js").headers["cache-control"]
    assert "immutable" not in client.get("/page.0123456789abcdef/models.js").headers["cache-control"]


@pytest.mark.parametrize("path", ["../serve_page.py", "%2e%2e/serve_page.py", "models.py", "", "nothing.js"])
def test_only_files_of_the_page_are_served(client: TestClient, path: str) -> None:
    assert client.get(f"/page/{path}").status_code == 404


def test_the_entry_of_the_page_follows_the_base_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIRFLOW__API__BASE_URL", "https://example.org/air/flow/")
    entry = serve_page.models_page()
    assert entry["bundle_url"].startswith("/air/flow/windvane/page.")
    assert {entry["destination"], entry["url_route"], entry["nav_top_level"]} == {"nav", "models", True}


def test_airflow_accepts_the_entry() -> None:
    from airflow.api_fastapi.core_api.datamodels.plugins import ReactAppResponse

    assert ReactAppResponse.model_validate(serve_page.models_page()).url_route == "models"


@pytest.mark.parametrize(("argv", "served"), [(["airflow", "api-server"], True), (["airflow", "scheduler"], False), (["airflow"], False)])
def test_only_the_web_server_builds_the_application(monkeypatch: pytest.MonkeyPatch, argv: list[str], served: bool) -> None:
    from windvane_plugin import WindvanePlugin

    monkeypatch.setattr(sys, "argv", argv)
    plugin = WindvanePlugin()
    assert (bool(plugin.fastapi_apps), bool(plugin.react_apps)) == (served, served)
    assert plugin.fastapi_apps is plugin.fastapi_apps


JSON = {"content-type": "application/json"}


@pytest.mark.parametrize(
    ("headers", "body", "status"),
    [
        pytest.param({**JSON, "origin": "https://evil.example"}, b'{"reason": "x"}', 403, id="another origin"),
        pytest.param({**JSON, "origin": "null"}, b'{"reason": "x"}', 403, id="no origin to speak of"),
        pytest.param({**JSON, "sec-fetch-site": "cross-site"}, b'{"reason": "x"}', 403, id="another site"),
        pytest.param({**JSON, "sec-fetch-site": "same-site"}, b'{"reason": "x"}', 403, id="a neighbour"),
        pytest.param({"content-type": "application/x-www-form-urlencoded"}, b"reason=x", 415, id="a form"),
        pytest.param({"content-type": "text/plain"}, b'{"reason": "x"}', 415, id="text"),
        pytest.param({}, b'{"reason": "x"}', 415, id="no type"),
        pytest.param(JSON, b"{", 422, id="cut off"),
        pytest.param(JSON, b"[" * 5000, 422, id="deep"),
        pytest.param(JSON, b"[]", 422, id="a list"),
        pytest.param(JSON, b'{"reason": "  "}', 422, id="no reason"),
        pytest.param(JSON, b'{"reason": 1}', 422, id="a number"),
        pytest.param(JSON, b'{"reason": "x", "actor": "somebody else"}', 422, id="a field too many"),
        pytest.param(JSON, b'{"reason": "' + b"x" * 501 + b'"}', 422, id="long"),
        pytest.param(JSON, b'{"reason": "' + b"x" * 20_000 + b'"}', 413, id="very long"),
        pytest.param(JSON, b'{"reason": "x"}', 422, id="a model that never served"),
        pytest.param({**JSON, "origin": "http://testserver", "sec-fetch-site": "same-origin"}, b'{"reason": "x"}', 422, id="own page"),
    ],
)
def test_what_changes_something_must_come_from_the_page_and_say_why(
    client: TestClient, headers: dict[str, str], body: bytes, status: int
) -> None:
    answer = client.post("/api/models/flights/freeze", content=body, headers=headers)
    assert answer.status_code == status
    assert isinstance(answer.json()["detail"], str)


def test_freeze_writes_the_users_name(client: TestClient, tmp_path: Path) -> None:
    from windvane.ledger import Ledger

    ledger = Ledger(load_settings({"WINDVANE_VAR": str(tmp_path)}).database)
    ledger.append(
        "flights", expected_epoch=0, action="promote", version=1, digest="d" * 64, traffic={1: 100}, actor="x__deploy/y", reason="first"
    )
    # half of an emoji is no text that a database takes
    row = client.post("/api/models/flights/freeze", content=rb'{"reason": "sale <b> \ud83d"}', headers=JSON).json()
    assert (row["action"], row["actor"], row["version"], row["traffic"]) == ("freeze", "airflow/editor", 1, {"1": 100})
    assert row["reason"] == "sale <b> ?"
    assert ledger.is_frozen("flights")
    assert client.post("/api/models/flights/unfreeze", json={"reason": "over"}).json()["actor"] == "airflow/editor"
    assert not ledger.is_frozen("flights")
    ledger.close()


@pytest.mark.parametrize(("at", "status"), [("2026-05-04T14:05:00Z", 200), ("yesterday", 422), ("", 422), ("9" * 70, 422)])
def test_served_at_reads_a_time(client: TestClient, at: str, status: int) -> None:
    answer = client.get("/api/models/flights/served-at", params={"at": at})
    assert answer.status_code == status
    if status == 200:
        assert answer.json() == {"at": "2026-05-04T14:05:00+00:00", "shares": [], "since": None, "row": None}


def test_what_the_server_loaded_is_not_looked_through_again() -> None:
    gc.unfreeze()
    with TestClient(build_app()):
        assert gc.get_freeze_count() > 10_000
    gc.unfreeze()


@pytest.mark.parametrize(
    ("error", "status"), [("StaleEpoch", 409), ("ServiceUnavailable", 503), ("StorageError", 503), ("BundleError", 500)]
)
def test_errors_tell_the_truth(client: TestClient, monkeypatch: pytest.MonkeyPatch, error: str, status: int) -> None:
    from windvane import errors

    def fail(*_: Any) -> None:
        raise getattr(errors, error)("it is so; do this")

    monkeypatch.setattr(serve_models, "describe_window", fail)
    answer = client.get("/api/models/flights/windows/w")
    assert (answer.status_code, answer.json()) == (status, {"detail": "it is so; do this"})


def test_a_database_that_is_away_is_told_without_its_statements(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> None:
        raise OperationalError("SELECT secret", {}, Exception("disk I/O error"))

    monkeypatch.setattr(serve_models, "read_runs", fail)
    answer = client.get("/api/models/flights")
    assert answer.status_code == 503
    assert "secret" not in answer.text
    assert answer.headers["x-content-type-options"] == "nosniff"
