"""A model whose data is an attack goes through the whole loop; then a browser opens all that shows something of it, and nothing of it runs.

What would run asks a host for something, opens a dialog, or sets `window.__owned`; the browser takes note of all three.
"""

import json
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

import hostile_team as hostile
import pytest
import requests
from browser import Browser, open_browser
from live_platform import Live, free_port, until

from windvane.config import code_path
from windvane.model_code import load_model_code

pytestmark = [pytest.mark.live, pytest.mark.browser, pytest.mark.timeout(600)]

MODEL = hostile.MODEL
TABS = ("now", "performance", "releases", "versions", "challenger", "data", "runs")
# in every frame before anything else: reading the cookie is what an attack would begin with; Airflow's own files may
SPY = """
window.__reads = [];
Object.defineProperty(document, "cookie", {
  get() {
    const { stack } = new Error();
    if (!/\\/assets\\/|\\/windvane\\/page\\//.test(stack)) window.__reads.push(stack);
    return "";
  },
  set() {},
});
"""


@pytest.fixture(scope="module")
def browser(live: Live) -> Iterator[Browser]:
    with open_browser(live) as opened:
        yield opened


@pytest.fixture(autouse=True)
def left(browser: Browser) -> Iterator[None]:
    """No page of a test before is open, and none stays."""
    yield
    browser.leave()


@pytest.fixture(scope="module")
def walked(live: Live) -> dict[str, str]:
    """The loop: version 1 serves, answers and is watched; version 2 waits for a person. The runs by DAG."""
    port = free_port()
    hostile.write_hostile_team(live.settings.project, port=port, approval=True)
    dags = {f"{MODEL}__{kind}" for kind in ("ingest", "train", "deploy", "monitor", "score")}
    until(
        lambda: dags <= {dag["dag_id"] for dag in live.client._request("GET", "/dags", params={"tags": MODEL})["dags"]},
        seconds=60,
        what=MODEL,
    )
    runs = {"ingest": live.run(f"{MODEL}__ingest", hostile.TRAINED.as_extra())}
    runs["train"] = live.run(f"{MODEL}__train")
    question = live.question(f"{MODEL}__deploy")
    live.answer(question, reason=hostile.SCRIPT)
    runs["deploy"] = question["task_instance"]["dag_run_id"]
    code = load_model_code(code_path(live.settings.project, MODEL), MODEL)
    assert code.read is not None
    rows = code.read(hostile.WATCHED, None).head(40).drop(columns=[hostile.LABEL])
    rows[hostile.TIME] = rows[hostile.TIME].dt.strftime("%Y-%m-%dT%H:%M:%SZ")
    answer = requests.post(
        f"http://127.0.0.1:{port}/invocations", json={"dataframe_split": rows.to_dict(orient="split", index=False)}, timeout=30
    )
    assert answer.status_code == 200, answer.text[:500]
    assert set(answer.json()["predictions"]) <= set(hostile.CLASSES)
    assert answer.headers["content-type"].startswith("application/json")
    before = live.runs_of(f"{MODEL}__monitor")
    live.run(f"{MODEL}__ingest", hostile.WATCHED.as_extra())
    live.next_run(f"{MODEL}__monitor", after=before)
    runs["monitor"] = live.run(f"{MODEL}__monitor", {**hostile.WATCHED.as_extra(), "release": hostile.IMAGE})
    runs["score"] = live.run(f"{MODEL}__score", hostile.WATCHED.as_extra())
    live.run(f"{MODEL}__train")
    runs["question"] = live.question(f"{MODEL}__deploy")["task_instance"]["dag_run_id"]
    frozen = requests.post(
        f"{live.platform.airflow_url}/windvane/api/models/{MODEL}/freeze",
        json={"reason": f"{hostile.SCRIPT} {hostile.IMAGE}"[:500]},
        headers=live.login("admin"),
        timeout=30,
    )
    assert frozen.status_code == 200, frozen.text
    return runs


def look(browser: Browser, path: str, *, text: str | None = None) -> Any:
    """Open a page of Airflow's origin and see that nothing of the data ran in it."""
    browser.problems.clear()
    page = browser.open(path, first=SPY)
    if text:
        page.get_by_text(text).first.wait_for()
    page.wait_for_load_state("networkidle")
    page.mouse.move(300, 300)
    for frame in page.frames:
        assert frame.evaluate("window.__owned") is None, frame.url
        assert frame.evaluate("window.__reads") == [], frame.url
    found = [problem for problem in browser.problems if hostile.CANARY in problem or problem.startswith(("dialog", "error"))]
    assert found == []
    return page


def test_a_canary_that_runs_is_seen(live: Live, browser: Browser) -> None:
    """Without this, the other tests would pass for a browser that sees nothing."""
    page = browser.open("/", first=SPY)
    page.wait_for_load_state("networkidle")
    browser.problems.clear()
    page.set_content(f"<p>{hostile.SCRIPT}{hostile.IMAGE}{hostile.CLOSING}<script>document.cookie</script>")
    page.wait_for_function("window.__owned && window.__reads.length")
    assert {problem.split(":")[0] for problem in browser.problems} >= {"request", "dialog"}


@pytest.mark.parametrize("tab", TABS)
def test_no_script_runs_on_the_models_page(walked: dict[str, str], browser: Browser, tab: str) -> None:
    # the reason of the freeze stands on every tab
    page = look(browser, f"/plugin/models/{MODEL}?tab={tab}", text=hostile.SCRIPT[:40])
    page.locator(".wv-section").wait_for()
    assert page.locator(".wv script, .wv iframe, .wv img, .wv [onload], .wv [onerror], .wv a[href^='javascript']").count() == 0


def test_no_script_runs_on_the_overview(walked: dict[str, str], browser: Browser) -> None:
    page = look(browser, "/plugin/models", text=MODEL)
    page.get_by_role("searchbox").fill(hostile.SCRIPT[:30])
    assert page.evaluate("window.__owned") is None


def test_no_script_runs_where_a_window_is_looked_at(live: Live, walked: dict[str, str], browser: Browser) -> None:
    page = look(browser, f"/plugin/models/{MODEL}?tab=data&window={hostile.WATCHED.key}", text=MODEL)
    page.get_by_role("dialog").wait_for()
    assert page.evaluate("window.__owned") is None


@pytest.mark.parametrize(
    ("dag", "path", "text"),
    [
        ("question", "/tasks/approve/required_actions", "onerror="),
        ("ingest", "/tasks/validate", "onload=alert"),
        ("ingest", "/tasks/validate/xcom", "Key"),
        ("monitor", "/tasks/decide", f"{MODEL}__monitor"),
        ("train", "/tasks/gate/xcom", "Key"),
        ("deploy", "", f"{MODEL}__deploy"),
    ],
)
def test_no_script_runs_on_airflows_own_pages(walked: dict[str, str], browser: Browser, dag: str, path: str, text: str) -> None:
    kind = "deploy" if dag == "question" else dag
    look(browser, f"/dags/{MODEL}__{kind}/runs/{quote(walked[dag], safe='')}{path}", text=text)


@pytest.mark.parametrize(
    ("dag", "task", "name"), [("ingest", "validate", "Validation result"), ("monitor", "decide", "Report"), ("train", "gate", "Result")]
)
def test_what_a_task_links_to_runs_nothing_in_airflows_origin(
    live: Live, walked: dict[str, str], browser: Browser, dag: str, task: str, name: str
) -> None:
    path = live.link(f"{MODEL}__{dag}", walked[dag], task)[name]
    answer = live.web(path, user="admin")
    assert answer.headers["content-security-policy"].startswith("sandbox")
    assert "allow-same-origin" not in answer.headers["content-security-policy"]
    assert answer.headers["x-content-type-options"] == "nosniff"
    page = look(browser, path)
    # a document that is sandboxed has no origin: it could not read Airflow's cookie or storage if a script of it ran
    assert page.evaluate("self.origin") == "null"


def test_the_questions_body_is_text(live: Live, walked: dict[str, str]) -> None:
    """Markdown of the data would make the approver's browser ask for its pictures, or offer its links."""
    body = str(live.question(f"{MODEL}__deploy")["body"])
    assert len(body) < 100_000
    assert "](//canary" not in body
    assert "](javascript:" not in body


def test_the_api_answers_with_json_that_no_browser_takes_for_a_page(live: Live, walked: dict[str, str]) -> None:
    for path in ("", f"/{MODEL}", f"/{MODEL}/windows/{hostile.WATCHED.key}"):
        answer = live.web(f"/windvane/api/models{path}", user="admin")
        assert answer.status_code == 200
        assert answer.headers["content-type"].startswith("application/json")
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert hostile.MODEL in json.dumps(answer.json())
