"""The plugin's routes in a real web server: who gets in, who may change something, and that Airflow shows the page."""

import os
import re
import shutil
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import requests
from browser import QUIET
from seed_models import seeded_server
from walk_routes import WALK, Stop

pytestmark = [pytest.mark.live, pytest.mark.timeout(400)]

MODELS = 14
METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")


class Server:
    """A web server over made-up models, and how to ask it as somebody."""

    def __init__(self, url: str) -> None:
        self.url = url
        self._tokens: dict[str, str] = {}
        rows = self.ask("viewer", "GET", "/windvane/api/models").json()["models"]
        self.rows = {row["model"]: row for row in rows}
        self.model = next(row["model"] for row in rows if row["state"] == "serving" and row["decision"] and not row["frozen"])
        entry = self.plugin()["react_apps"][0]
        self.digest = re.search(r"/page\.([0-9a-f]+)/models\.js$", entry["bundle_url"])[1]  # type: ignore[index]

    def token(self, user: str) -> str:
        if user not in self._tokens:
            login = {"username": user, "password": user}
            answer = requests.post(f"{self.url}/auth/token", json=login, timeout=30)
            self._tokens[user] = str(answer.json()["access_token"])
        return self._tokens[user]

    def ask(self, user: str | None, method: str, path: str, *, cookie: bool = False, **more: Any) -> requests.Response:
        headers = dict(more.pop("headers", {}))
        if user and cookie:
            headers["Cookie"] = f"_token={self.token(user)}"
        elif user:
            headers["Authorization"] = f"Bearer {self.token(user)}"
        return requests.request(method, f"{self.url}{path}", headers=headers, timeout=60, allow_redirects=False, **more)

    def plugin(self) -> dict[str, Any]:
        plugins = self.ask("admin", "GET", "/api/v2/plugins").json()["plugins"]
        return dict(next(plugin for plugin in plugins if plugin["name"] == "windvane"))

    def at(self, stop: Stop) -> str:
        key = self.rows[self.model]["decision"]["window_key"]
        return "/windvane" + stop.path.format(model=self.model, key=key, digest=self.digest)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with seeded_server(tmp_path_factory.mktemp("seeded"), MODELS) as url:
        yield Server(url)


def test_airflow_lists_the_page(server: Server) -> None:
    entry = server.plugin()["react_apps"][0]
    assert (entry["name"], entry["url_route"], entry["destination"], entry["nav_top_level"]) == ("Models", "models", "nav", True)
    for address in (entry["bundle_url"], entry["icon"], entry["icon_dark_mode"]):
        assert server.ask("viewer", "GET", address).status_code == 200
    assert server.ask("admin", "GET", "/api/v2/plugins/importErrors").json()["total_entries"] == 0


@pytest.mark.parametrize("stop", WALK, ids=lambda stop: f"{stop.method} {stop.path}")
def test_nobody_gets_in_anywhere(server: Server, stop: Stop) -> None:
    for method in METHODS:
        for headers in ({}, {"Authorization": "Bearer nonsense"}, {"Cookie": "_token=nonsense"}):
            answer = server.ask(None, method, server.at(stop), json=stop.json, headers=headers)
            # Airflow says 403 of a token that it did not sign
            assert answer.status_code == (403 if headers else 401), f"{method} {headers}"
            assert server.model not in answer.text


@pytest.mark.parametrize("stop", WALK, ids=lambda stop: f"{stop.method} {stop.path}")
@pytest.mark.parametrize("cookie", [False, True], ids=["token", "cookie"])
def test_a_viewer_looks_and_cannot_act(server: Server, stop: Stop, cookie: bool) -> None:
    answer = server.ask("viewer", stop.method, server.at(stop), json=stop.json, cookie=cookie)
    assert answer.status_code == (403 if stop.writes else stop.found)
    for method in set(METHODS) - {stop.method}:
        assert server.ask("viewer", method, server.at(stop), cookie=cookie, json=stop.json).status_code in (404, 405)


@pytest.mark.parametrize("stop", [stop for stop in WALK if stop.writes], ids=lambda stop: stop.path)
@pytest.mark.parametrize("user", ["editor", "admin"])
@pytest.mark.parametrize("cookie", [False, True], ids=["token", "cookie"])
def test_an_editor_acts_under_their_name(server: Server, stop: Stop, user: str, cookie: bool) -> None:
    def write(**more: Any) -> requests.Response:
        return server.ask(user, stop.method, server.at(stop), cookie=cookie, **more)

    own = {"Origin": server.url, "Sec-Fetch-Site": "same-origin"}
    action = stop.path.rpartition("/")[2]
    other = "unfreeze" if action == "freeze" else "freeze"
    assert server.ask("admin", "POST", f"/windvane/api/models/{server.model}/{other}", json={"reason": "before"}).status_code == 200
    assert write(json=stop.json, headers={"Origin": "https://evil.example", "Sec-Fetch-Site": "cross-site"}).status_code == 403
    assert write(json=stop.json, headers={"Sec-Fetch-Site": "cross-site"}).status_code == 403
    assert write(json=stop.json, headers={"Origin": "null"}).status_code == 403
    assert write(data={"reason": "x"}, headers=own).status_code == 415
    answer = write(json=stop.json, headers=own)
    assert answer.status_code == 200
    row = server.ask("viewer", "GET", f"/windvane/api/models/{server.model}").json()
    assert bool(row["frozen"]) == (action == "freeze")
    newest = row["releases"][0]
    assert (newest["action"], newest["actor"], newest["user"]) == (action, f"airflow/{user}", user)


def test_models_that_are_not_there_are_not_told_apart(server: Server) -> None:
    for name in ("nothing", "windvane", "..", "%2e%2e", "a" * 300, "x'; drop table dag; --", "\U0001f525"):
        for path in (
            f"/windvane/api/models/{name}",
            f"/windvane/reports/{name}/x.html",
            f"/windvane/api/models/{name}/served-at?at=2026-01-01",
        ):
            assert server.ask("viewer", "GET", path).status_code == 404, path
        assert server.ask("editor", "POST", f"/windvane/api/models/{name}/freeze", json={"reason": "x"}).status_code in (404, 405)


def test_one_models_row_is_that_of_the_overview(server: Server) -> None:
    for model, row in server.rows.items():
        one = server.ask("viewer", "GET", f"/windvane/api/models/{model}").json()
        if model != server.model:  # the tests act on that one
            assert {name: one[name] for name in row} == row
        assert not {"releases", "versions", "windows", "batches", "challenger", "rollout", "runs", "config", "links"} - set(one)


def test_can_act_is_what_airflow_allows(server: Server) -> None:
    for user, allowed in (("viewer", False), ("editor", True)):
        row = server.ask(user, "GET", f"/windvane/api/models/{server.model}").json()
        assert row["can_act"] is allowed
        train = {"logical_date": None, "conf": {}}
        answer = server.ask(user, "POST", f"/api/v2/dags/{server.model}__train/dagRuns", json=train)
        assert answer.status_code == (200 if allowed else 403)
        if allowed:
            assert answer.json()["triggering_user_name"] == user
    runs = server.ask("viewer", "GET", f"/windvane/api/models/{server.model}").json()["runs"]
    assert (runs[0]["dag_id"], runs[0]["state"], runs[0]["user"]) == (f"{server.model}__train", "queued", "editor")


def test_the_description_of_the_api_tells_every_route(server: Server) -> None:
    told = server.ask("viewer", "GET", "/windvane/api/openapi.json").json()
    paths = {(path, method.upper()) for path, methods in told["paths"].items() for method in methods}
    wanted = {(stop.route.replace(":path", ""), stop.method) for stop in WALK if stop.found == 200 and "openapi" not in stop.route}
    assert paths == wanted


def test_many_requests_at_once_are_all_answered(server: Server) -> None:
    """As many as the web server has threads, for a while: a pool of fewer connections stops all, and Python 3.11 may crash."""
    server.token("viewer")
    paths = ["/api/v2/dags?limit=20", "/windvane/api/models"] * 300
    with ThreadPoolExecutor(40) as crowd:
        answers = crowd.map(lambda path: server.ask("viewer", "GET", path).status_code, paths)
        assert Counter(answers) == {200: len(paths)}


def test_runs_that_many_trigger_at_once_are_all_made_and_logged(server: Server) -> None:
    """SQLite has one writer: whoever waits for it must not stop whoever has written and is about to commit."""
    dag_id, runs = f"{server.model}__score", 100
    server.token("editor")

    def trigger(_: int) -> int:
        return server.ask("editor", "POST", f"/api/v2/dags/{dag_id}/dagRuns", json={"logical_date": None}).status_code

    with ThreadPoolExecutor(10) as crowd:
        assert Counter(crowd.map(trigger, range(runs))) == {200: runs}
    logged = server.ask("admin", "GET", f"/api/v2/eventLogs?dag_id={dag_id}&event=trigger_dag_run").json()
    assert logged["total_entries"] == runs


def test_json_is_compressed_and_not_kept(server: Server) -> None:
    answer = server.ask("viewer", "GET", "/windvane/api/models", headers={"Accept-Encoding": "gzip"})
    assert answer.headers["content-encoding"] == "gzip"
    assert answer.headers["cache-control"] == "no-store"
    assert answer.headers["content-type"] == "application/json"


@pytest.mark.browser
def test_the_page_opens_and_a_hostile_report_stays_in_its_sandbox(server: Server) -> None:
    from playwright.sync_api import sync_playwright

    chromium = shutil.which("chromium")
    if chromium is None and not os.environ.get("CI"):
        pytest.skip("no Chromium to open pages with")
    hostile = next(row for row in server.rows.values() if row["decision"] and "<script>" in row["decision"]["reason"])
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, headless=True, args=QUIET)
        context = browser.new_context()
        context.add_cookies([{"name": "_token", "value": server.token("viewer"), "url": server.url, "httpOnly": True}])
        page = context.new_page()
        page.goto(f"{server.url}/plugin/models")
        page.get_by_text(server.model).first.wait_for(timeout=30_000)
        asked: list[str] = []
        page.on("request", lambda request: asked.append(request.url))
        report = Path("/windvane/reports") / hostile["model"] / hostile["decision"]["window_key"] / "drift.html"
        page.goto(f"{server.url}{report}")
        # its script ran, in an origin of its own
        assert page.evaluate("[origin, document.title]") == ["null", "owned"]
        assert page.evaluate("(() => { try { return document.cookie } catch (error) { return error.name } })()") == "SecurityError"
        refused = "fetch('/windvane/api/models').then(() => 'answered', () => 'refused')"
        assert page.evaluate(refused) == "refused"
        assert [url for url in asked if not url.startswith(server.url)] == []
        browser.close()
