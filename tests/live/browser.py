"""A browser that sees all that a page does: errors on its console, dialogs, and requests to anybody but this machine."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import pytest
from live_platform import Live

QUIET = [
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"),
    *("--disable-component-update", "--disable-sync", "--disable-dev-shm-usage"),
]
WIDE, NARROW = {"width": 1400, "height": 900}, {"width": 390, "height": 844}


@dataclass
class Browser:
    """Opens pages that are logged in.

    Attributes:
        problems: What went wrong on any page so far.
    """

    live: Live
    chromium: Any
    problems: list[str] = field(default_factory=list)
    sessions: dict[str, Any] = field(default_factory=dict)

    @property
    def url(self) -> str:
        return self.live.platform.airflow_url

    def open(
        self, path: str = "/", *, user: str = "admin", theme: str = "light", viewport: dict[str, int] = WIDE, first: str | None = None
    ) -> Any:
        """A new page of a user, in a context of its own.

        Args:
            first: A script that runs in every document before its own.
        """
        if user not in self.sessions:
            self.sessions[user] = self._log_in(user)
        # where Airflow keeps what a person chose
        chosen = [{"origin": self.url, "localStorage": [{"name": "theme", "value": theme}, {"name": "i18nextLng", "value": "en"}]}]
        state = {**self.sessions[user], "origins": chosen}
        context = self.chromium.new_context(viewport=viewport, storage_state=state, color_scheme=theme)
        if first:
            context.add_init_script(first)
        page = context.new_page()
        self.watch(page)
        page.goto(f"{self.url}{path}")
        return page

    def leave(self) -> None:
        """Close all pages: one that stays open goes on asking for news."""
        for context in list(self.chromium.contexts):
            context.close()

    def watch(self, page: Any) -> None:
        """Take down whatever a page should not do."""
        page.on("console", lambda message: message.type == "error" and self.problems.append(f"console: {message.text} {message.location}"))
        page.on("pageerror", lambda error: self.problems.append(f"error: {error}"))
        page.on("dialog", lambda dialog: (self.problems.append(f"dialog: {dialog.message}"), dialog.dismiss()))
        page.on("request", lambda request: self._check(request.url))

    def _check(self, url: str) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("data", "blob", "about") and parts.hostname != "127.0.0.1":
            self.problems.append(f"request: {url[:200]}")

    def _log_in(self, user: str) -> Any:
        context = self.chromium.new_context()
        page = context.new_page()
        page.goto(f"{self.url}/")
        page.wait_for_selector('input[name="username"]')
        page.fill('input[name="username"]', user)
        page.fill('input[name="password"]', self.live.password(user))
        page.click('button[type="submit"]')
        page.wait_for_url(lambda url: "login" not in url)
        state = context.storage_state()
        context.close()
        return state


@contextmanager
def open_browser(live: Live) -> Iterator[Browser]:
    """Start Debian's Chromium; without one the test is skipped, unless this is CI."""
    from playwright.sync_api import Error, sync_playwright

    with sync_playwright() as playwright:
        try:
            chromium = playwright.chromium.launch(executable_path=shutil.which("chromium"), headless=True, args=QUIET)
        except Error as exc:
            if os.environ.get("CI"):
                raise
            pytest.skip(f"no Chromium to open pages with: {str(exc).splitlines()[0]}")
        try:
            yield Browser(live, chromium)
        finally:
            chromium.close()
