"""A browser opens Airflow's page of DAGs, and a report."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from live_platform import Live

pytestmark = [pytest.mark.live, pytest.mark.browser, pytest.mark.timeout(300)]

QUIET = [
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"),
    *("--disable-component-update", "--disable-sync", "--disable-dev-shm-usage"),
]


@pytest.fixture
def page(live: Live) -> Iterator[Any]:
    """A browser's page, logged in to Airflow."""
    from playwright.sync_api import Error, sync_playwright

    with sync_playwright() as playwright:
        try:
            browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), headless=True, args=QUIET)
        except Error as exc:
            if os.environ.get("CI"):
                raise
            pytest.skip(f"no Chromium to open pages with: {str(exc).splitlines()[0]}")
        page = browser.new_page(viewport={"width": 1400, "height": 900})
        page.goto(f"{live.platform.airflow_url}/")
        page.wait_for_selector('input[name="username"]')
        page.fill('input[name="username"]', "admin")
        page.fill('input[name="password"]', live.password("admin"))
        page.click('button[type="submit"]')
        page.wait_for_url(lambda url: "login" not in url)
        yield page
        browser.close()


def test_the_dags_of_the_models_are_on_the_page(live: Live, page: Any, tmp_path: Path) -> None:
    page.goto(f"{live.platform.airflow_url}/dags?tags=flights")
    page.wait_for_selector("text=flights__train")
    page.screenshot(path=tmp_path / "dags.png")
    for kind in ("ingest", "train", "deploy", "monitor", "score"):
        assert page.get_by_text(f"flights__{kind}", exact=True).count() > 0
    assert (tmp_path / "dags.png").stat().st_size > 20_000
