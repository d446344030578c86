"""A browser walks through the Models page and steers a model with it; no page may log an error or ask another host for anything.

The tests of this file tell one story about the model `asked` and run in their order.
"""

import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from browser import NARROW, Browser, open_browser
from live_platform import Live, until

from windvane.describe_models import ORDER
from windvane.ledger import Release
from windvane.windows import Window

pytestmark = [pytest.mark.live, pytest.mark.browser, pytest.mark.timeout(600)]

JANUARY = Window(datetime(2024, 1, 1, tzinfo=UTC), datetime(2024, 2, 1, tzinfo=UTC))
FEBRUARY = Window(datetime(2024, 2, 1, tzinfo=UTC), datetime(2024, 3, 1, tzinfo=UTC))
TABS = ("Now", "Performance", "Releases", "Versions", "Challenger", "Data", "Runs")


def write_month(live: Live, window: Window, *, slope: float) -> None:
    hours = int((window.end - window.start) / timedelta(hours=1))
    random = np.random.default_rng(window.start.month)
    x = random.normal(size=hours)
    rows = pd.DataFrame(
        {
            "at": [window.start + timedelta(hours=i) for i in range(hours)],
            "x": x,
            "place": random.choice(["north", "south"], hours),
            "y": slope * x + random.normal(size=hours) / 10,
        }
    )
    rows.to_csv(live.settings.project / "asked" / f"{window.start:%Y-%m}.csv", index=False)


def last(live: Live) -> Release:
    release = live.ledger.last("asked")
    assert release is not None
    return release


def facts(live: Live, path: str = "") -> Any:
    """What the API says of the model."""
    return live.web(f"/windvane/api/models/asked{path}", user="viewer").json()


@pytest.fixture(scope="module")
def browser(live: Live) -> Iterator[Browser]:
    with open_browser(live) as opened:
        yield opened


@pytest.fixture(autouse=True)
def quiet(browser: Browser) -> Iterator[None]:
    """Nothing that a page should not do."""
    browser.problems.clear()
    yield
    browser.leave()
    assert browser.problems == []


@pytest.fixture(scope="module")
def asked(live: Live) -> None:
    """Version 1 serves, the world turned around, and version 2 waits for an answer."""
    write_month(live, JANUARY, slope=3.0)
    write_month(live, FEBRUARY, slope=-3.0)
    live.run("asked__ingest", JANUARY.as_extra())
    live.run("asked__train")
    live.answer(live.question("asked__deploy"), reason="the first one")
    assert (last(live).action, last(live).version) == ("promote", 1)
    before = live.runs_of("asked__monitor")
    live.run("asked__ingest", FEBRUARY.as_extra())
    live.next_run("asked__monitor", after=before)
    live.run("asked__train")
    live.question("asked__deploy")


def test_the_dags_of_the_models_are_on_the_page(browser: Browser, tmp_path: Path) -> None:
    page = browser.open("/dags?tags=flights")
    page.wait_for_selector("text=flights__train")
    page.screenshot(path=tmp_path / "dags.png")
    for kind in ("ingest", "train", "deploy", "monitor", "score"):
        assert page.get_by_text(f"flights__{kind}", exact=True).count() > 0
    assert (tmp_path / "dags.png").stat().st_size > 20_000


def test_the_models_are_in_the_navigation(browser: Browser) -> None:
    page = browser.open("/")
    page.get_by_role("link", name="Models", exact=True).click()
    page.wait_for_url("**/plugin/models")
    page.get_by_role("heading", name="Models", level=2).wait_for()


def test_the_overview_shows_every_model_with_what_serves_and_its_state(live: Live, asked: None, browser: Browser, tmp_path: Path) -> None:
    page = browser.open("/plugin/models")
    rows = page.get_by_role("table", name="Models").get_by_role("row")
    rows.nth(1).wait_for()
    listed = live.web("/windvane/api/models", user="admin").json()["models"]
    names = names_on(page)
    assert names == [row["model"] for row in listed]
    assert {"flights", "landed", "asked", "broken"} <= set(names)
    mine = row_of(page, "asked")
    assert mine.get_by_text("Waiting for approval").count() == 1
    assert mine.get_by_text("v1", exact=True).count() == 1
    assert row_of(page, "broken").get_by_text("Config error").count() == 1
    flights = live.ledger.last("flights")
    if flights is not None:
        assert row_of(page, "flights").get_by_text(f"v{flights.serving}", exact=True).count() == 1
    states = [row["state"] for row in listed]
    assert {"config_error", "waiting_for_approval"} < set(states)
    assert states == sorted(states, key=ORDER.index)
    page.screenshot(path=tmp_path / "overview.png")


def row_of(page: Any, model: str) -> Any:
    return page.get_by_role("row").filter(has=page.get_by_role("link", name=model, exact=True))


def test_what_needs_a_person_is_found_by_state_and_by_name(live: Live, asked: None, browser: Browser) -> None:
    page = browser.open("/plugin/models")
    listed = live.web("/windvane/api/models", user="admin").json()["models"]
    waiting = [row["model"] for row in listed if row["state"] == "waiting_for_approval"]
    assert "asked" in waiting
    page.get_by_role("button", name=re.compile("^Waiting for approval")).click()
    page.wait_for_url("**state=waiting_for_approval*")
    until(lambda: names_on(page) == waiting, seconds=10, what="the filter")
    page.get_by_role("button", name="Clear").click()
    until(lambda: len(names_on(page)) == len(listed), seconds=10, what="all models again")
    page.keyboard.press("/")
    page.keyboard.type("people-team")
    until(lambda: names_on(page) == ["asked"], seconds=10, what="the search")
    page.keyboard.press("Escape")
    until(lambda: len(names_on(page)) == len(listed), seconds=10, what="all models again")


def names_on(page: Any) -> list[str]:
    # a filter hides rows, it does not remove them
    return list(page.locator(".wv-name:visible").all_inner_texts())


@pytest.mark.parametrize("tab", TABS)
def test_each_tab_of_a_model_shows_what_it_is_for(live: Live, asked: None, browser: Browser, tmp_path: Path, tab: str) -> None:
    page = browser.open("/plugin/models/asked")
    page.get_by_role("navigation", name="Sections").get_by_role("link", name=tab, exact=True).click()
    # the section of before is there until the page has changed
    page.get_by_role("navigation", name="Sections").locator(f"[aria-current=page]:text-is('{tab}')").wait_for()
    page.locator(".wv-section").wait_for()
    told = facts(live)
    wanted = {
        "Now": told["decision"]["reason"][:40],
        "Performance": told["windows"][-1]["metric"],
        "Releases": "the first one",
        "Versions": "v2",
        "Challenger": "place",
        "Data": f"{told['batches'][-1]['rows']:,}",
        "Runs": "asked__deploy",
    }[tab]
    until(lambda: wanted in page.locator(".wv-model").inner_text(), seconds=10, what=f"{wanted!r} on the tab {tab}")
    page.screenshot(path=tmp_path / f"{tab}.png", full_page=True)


def test_a_challenger_is_approved_where_its_page_leads(live: Live, asked: None, browser: Browser, tmp_path: Path) -> None:
    run_id = live.question("asked__deploy")["task_instance"]["dag_run_id"]
    page = browser.open("/plugin/models")
    row_of(page, "asked").get_by_role("link", name="Approve or reject").click()
    page.wait_for_url("**/required_actions")
    page.get_by_text("place").first.wait_for()
    page.screenshot(path=tmp_path / "question.png", full_page=True)
    page.get_by_role("button", name="Approve").click()
    live.wait_for("asked__deploy", run_id)
    promoted = last(live)
    assert (promoted.action, promoted.version, promoted.traffic) == ("promote", 2, {2: 100})
    assert promoted.evidence["approval"]["by"] == "admin"
    page.goto(f"{browser.url}/plugin/models/asked?tab=releases")
    until(lambda: "v2" in page.locator(".wv-stats").inner_text(), seconds=15, what="the new version on the page")
    page.screenshot(path=tmp_path / "released.png", full_page=True)


def confirm(page: Any, button: str, *, reason: str | None = None) -> None:
    """Press a button of the model and confirm it in the page's own dialog."""
    page.locator(".wv-actions").get_by_role("button", name=button).click()
    dialog = page.get_by_role("dialog")
    dialog.wait_for()
    if reason is not None:
        dialog.get_by_role("textbox").first.fill(reason)
    dialog.locator("button.wv-primary, button.wv-danger").click()
    dialog.wait_for(state="detached")


def test_promotions_are_frozen_and_unfrozen_with_a_name_and_a_reason(live: Live, asked: None, browser: Browser) -> None:
    page = browser.open("/plugin/models/asked")
    confirm(page, "Freeze", reason="holidays")
    frozen = last(live)
    assert (frozen.action, frozen.actor, frozen.reason) == ("freeze", "airflow/admin", "holidays")
    page.get_by_text("Promotions are frozen").wait_for()
    confirm(page, "Unfreeze", reason="back at work")
    thawed = last(live)
    assert (thawed.action, thawed.actor, thawed.traffic) == ("unfreeze", "airflow/admin", frozen.traffic)


def test_the_monitor_is_run_by_a_click(live: Live, asked: None, browser: Browser) -> None:
    before = live.runs_of("asked__monitor")
    page = browser.open("/plugin/models/asked")
    confirm(page, "Monitor")
    run_id = live.next_run("asked__monitor", after=before)
    run = next(run for run in live.client.runs() if run["dag_run_id"] == run_id)
    assert run["triggering_user_name"] == "admin"


def test_a_roll_back_by_a_click_is_a_row_with_the_users_name(live: Live, asked: None, browser: Browser, tmp_path: Path) -> None:
    before = live.runs_of("asked__deploy")
    page = browser.open("/plugin/models/asked")
    page.locator(".wv-actions").get_by_role("button", name="Roll back").click()
    page.get_by_role("dialog").wait_for()
    page.screenshot(path=tmp_path / "confirm.png")
    page.keyboard.press("Escape")
    page.get_by_role("dialog").wait_for(state="detached")
    assert live.runs_of("asked__deploy") == before
    confirm(page, "Roll back")
    run_id = live.next_run("asked__deploy", after=before)
    row = last(live)
    assert (row.action, row.version, row.traffic) == ("rollback", 1, {1: 100})
    assert row.actor == f"asked__deploy/{run_id} by admin"
    until(lambda: "v1" in page.locator(".wv-stats").inner_text(), seconds=30, what="the version before on the page")


def test_what_served_at_a_moment_is_told(live: Live, asked: None, browser: Browser) -> None:
    promoted = next(row for row in live.ledger.history("asked") if row.action == "promote" and row.version == 2)
    moment = (promoted.time + timedelta(milliseconds=1)).isoformat()
    told = facts(live, f"/served-at?at={moment.replace('+', '%2B')}")
    assert [(share["version"], share["percent"]) for share in told["shares"]] == [(2, 100)]
    page = browser.open("/plugin/models/asked")
    page.get_by_role("navigation", name="Sections").get_by_role("link", name="Releases", exact=True).click()
    page.get_by_label("Moment, in").fill("2100-01-01T00:00")
    page.get_by_text(re.compile(f"served version {last(live).serving}")).wait_for()
    page.get_by_label("Moment, in").fill("2001-01-01T00:00")
    page.get_by_text(re.compile("Nothing served at .*: nothing was released before")).wait_for()


def test_a_viewer_sees_everything_and_can_do_nothing(live: Live, asked: None, browser: Browser, tmp_path: Path) -> None:
    page = browser.open("/plugin/models/asked", user="viewer")
    page.get_by_text("You may look at this model and not act on it.").wait_for()
    buttons = page.locator(".wv-actions").get_by_role("button")
    assert buttons.count() == 5
    assert {button.get_attribute("aria-disabled") for button in buttons.all()} == {"true"}
    before = live.runs_of("asked__deploy")
    buttons.filter(has_text="Roll back").click(force=True)
    assert page.get_by_role("dialog").count() == 0
    page.screenshot(path=tmp_path / "viewer.png")
    # what a viewer's own program could send with the viewer's own cookie
    forced = page.request.post(f"{browser.url}/windvane/api/models/asked/freeze", data={"reason": "because"})
    run = page.request.post(
        f"{browser.url}/api/v2/dags/asked__deploy/dagRuns", data={"logical_date": None, "conf": {"version": "previous"}}
    )
    assert (forced.status, run.status) == (403, 403)
    assert last(live).action == "rollback"
    assert live.runs_of("asked__deploy") == before


def test_nobody_sees_anything(live: Live, asked: None) -> None:
    for path in ("/windvane/api/models", "/windvane/api/models/asked", "/windvane/page/models.js", "/windvane/api/openapi.json"):
        assert live.web(path).status_code == 401


@pytest.mark.parametrize("path", ["/plugin/models", "/plugin/models/asked", "/plugin/models/asked?tab=performance"])
def test_the_page_fits_a_narrow_window(live: Live, asked: None, browser: Browser, tmp_path: Path, path: str) -> None:
    page = browser.open(path, viewport=NARROW)
    page.get_by_text("asked", exact=True).first.wait_for()
    page.wait_for_load_state("networkidle")
    # what scrolls by itself may be wider than the window
    wide = page.evaluate(
        """() => {
          const scrolls = (each) => each && (/auto|scroll|hidden/.test(getComputedStyle(each).overflowX) || scrolls(each.parentElement));
          return [...document.querySelectorAll(".wv *")]
            .filter((each) => each.getBoundingClientRect().right > innerWidth + 1 && !scrolls(each.parentElement.closest(".wv *")))
            .map((each) => each.className).slice(0, 5);
        }"""
    )
    assert wide == []
    page.screenshot(path=tmp_path / "narrow.png", full_page=True)


def test_the_page_is_dark_where_airflow_is(live: Live, asked: None, browser: Browser, tmp_path: Path) -> None:
    seen = {}
    for theme in ("light", "dark"):
        page = browser.open("/plugin/models/asked", theme=theme)
        page.locator(".wv-stats").wait_for()
        seen[theme] = page.evaluate(
            """() => {
              const brush = document.createElement("canvas").getContext("2d");
              const brightness = (name, at) => {
                for (; at; at = at.parentElement) {
                  brush.clearRect(0, 0, 1, 1);
                  brush.fillStyle = getComputedStyle(at).getPropertyValue(name);
                  brush.fillRect(0, 0, 1, 1);
                  const [red, green, blue, alpha] = brush.getImageData(0, 0, 1, 1).data;
                  if (alpha > 200) return (red + green + blue) / 3;
                }
              };
              return ["color", "background-color"].map((name) => brightness(name, document.querySelector(".wv-title h2")));
            }"""
        )
        page.screenshot(path=tmp_path / f"{theme}.png", full_page=True)
    assert seen["light"][0] < 80 < 200 < seen["light"][1], seen
    assert seen["dark"][1] < 80 < 200 < seen["dark"][0], seen


@pytest.mark.parametrize(
    ("dag", "task", "name", "leads_to"),
    [
        ("train", "gate", "Verdict", "?tab=challenger"),
        ("ingest", "commit", "Batches", "?tab=data"),
        ("deploy", "promote", "Model", "/asked"),
    ],
)
def test_the_page_of_a_task_leads_to_the_models_page_and_back(
    live: Live, asked: None, browser: Browser, dag: str, task: str, name: str, leads_to: str
) -> None:
    newest = max(live.runs_of(f"asked__{dag}"), key=lambda run: run.split("__")[1])
    page = browser.open(f"/dags/asked__{dag}/runs/{newest}/tasks/{task}/details")
    page.get_by_role("link", name=name, exact=True).click()
    page.wait_for_url(f"**/plugin/models/asked{leads_to if leads_to.startswith('?') else ''}")
    page.get_by_role("heading", name="asked").wait_for()
    page.goto(f"{browser.url}/plugin/models/asked?tab=runs")
    page.locator(f'a[href*="asked__{dag}"]').first.click()
    page.wait_for_url(f"**/dags/asked__{dag}/**")


def test_a_model_that_does_not_exist_is_said_so(live: Live, browser: Browser) -> None:
    page = browser.open("/plugin/models/no_such_model")
    page.get_by_text("There is no model").wait_for()
    # the browser itself notes the answer of 404
    browser.problems[:] = [problem for problem in browser.problems if "404" not in problem]
