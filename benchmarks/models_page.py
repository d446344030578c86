"""The Models page over 500 models with a year of windows and releases: its JSON over HTTP, and its first paint in a browser.

    python benchmarks/models_page.py [--models 500] [--requests 100] [--rounds 5]

The floor of the JSON is the same bytes from the memory of the same server, behind the same login and compression, asked for in turns.
The floor of the first paint is Airflow's own home page in the same browser.
"""

import argparse
import gzip
import os
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import requests

REPOSITORY = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(REPOSITORY / "tests"), str(REPOSITORY / "plugins")]

from seed_models import seeded_environment, seeded_server, seeded_settings  # noqa: E402

OVERVIEW, FLOOR = "/windvane/api/models", "/floor/models"
# a plugin beside Windvane's: the bytes of a file, read once
FLOOR_PLUGIN = """\
from functools import cache
from pathlib import Path

from airflow.plugins_manager import AirflowPlugin


class FloorPlugin(AirflowPlugin):
    name = "floor"

    @property
    def fastapi_apps(self):
        from airflow.api_fastapi.core_api.security import get_user
        from fastapi import Depends, FastAPI
        from fastapi.responses import Response

        app = FastAPI(dependencies=[Depends(get_user)])
        read = cache(Path(__file__).with_name("floor.json").read_bytes)

        @app.get("/models")
        def models() -> Response:
            return Response(read(), media_type="application/json")

        return [{"app": app, "url_prefix": "/floor", "name": "Floor"}]
"""
# the moment at which rows are on the screen, and the moment of the click that asked for them
WATCH = """
(() => {
  const look = () => {
    if (window.rowsAt === undefined && document.querySelectorAll('[role=row] a[href*="/plugin/models/"]').length > 0)
      requestAnimationFrame(() => requestAnimationFrame(() => { window.rowsAt ??= performance.now(); }));
  };
  new MutationObserver(look).observe(document, { childList: true, subtree: true });
  addEventListener("click", () => { window.clickedAt = performance.now(); window.rowsAt = undefined; }, true);
})();
"""
QUIET = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking", "--disable-dev-shm-usage"]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", type=int, default=500)
    parser.add_argument("--requests", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=5, help="page loads of each kind; none without a browser")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="windvane-page-") as directory:
        root = Path(directory)
        plugins = _write_plugins(root / "plugins")
        print(f"filling the databases with {asked.models} models", flush=True)
        with seeded_server(root, asked.models, plugins=plugins) as url:
            token = _token(url)
            _measure_json(url, token, plugins, asked.requests)
            if asked.rounds and shutil.which("chromium"):
                _measure_paint(url, token, asked.rounds)
        _count_statements(root, asked.models)


def _write_plugins(directory: Path) -> Path:
    directory.mkdir()
    (directory / "windvane_plugin.py").symlink_to(REPOSITORY / "plugins" / "windvane_plugin.py")
    (directory / "windvane_airflow").symlink_to(REPOSITORY / "plugins" / "windvane_airflow")
    (directory / ".airflowignore").symlink_to(REPOSITORY / "plugins" / ".airflowignore")
    (directory / "floor_plugin.py").write_text(FLOOR_PLUGIN)
    return directory


def _token(url: str) -> str:
    login = {"username": "viewer", "password": "viewer"}
    return str(requests.post(f"{url}/auth/token", json=login, timeout=30).json()["access_token"])


def _measure_json(url: str, token: str, plugins: Path, count: int) -> None:
    session = requests.Session()
    session.headers["Authorization"] = f"Bearer {token}"

    def ask(path: str, encoding: str) -> tuple[float, bytes]:
        began = time.perf_counter()
        answer = session.get(f"{url}{path}", headers={"Accept-Encoding": encoding}, timeout=60)
        answer.raise_for_status()
        return (time.perf_counter() - began) * 1000, answer.content

    first, body = ask(OVERVIEW, "gzip")
    (plugins / "floor.json").write_bytes(body)
    print(f"GET {OVERVIEW}: {len(body) / 1000:.0f} kB, {len(gzip.compress(body, 5)) / 1000:.0f} kB compressed")
    print(f"  first request of the server    {first:7.1f} ms")
    for encoding in ("gzip", "identity"):
        times: dict[str, list[float]] = {OVERVIEW: [], FLOOR: []}
        for path in times:
            ask(path, encoding)
        for _ in range(count):
            for path, taken in times.items():
                taken.append(ask(path, encoding)[0])
        ours, floor = (sorted(times[path]) for path in (OVERVIEW, FLOOR))
        for name, values in (("overview", ours), ("floor: the same bytes", floor)):
            print(f"  {encoding:8} {name:22} p50 {statistics.median(values):7.1f} ms   p95 {_p95(values):7.1f} ms")
        print(f"  {encoding:8} ratio                  p50 {statistics.median(ours) / statistics.median(floor):7.1f}      ", end="")
        print(f"p95 {_p95(ours) / _p95(floor):7.1f}")


def _p95(values: list[float]) -> float:
    return values[min(len(values) - 1, int(len(values) * 0.95))]


def _measure_paint(url: str, token: str, rounds: int) -> None:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), headless=True, args=QUIET)

        @contextmanager
        def opened() -> Iterator[Any]:
            context = browser.new_context(viewport={"width": 1400, "height": 900})
            context.add_cookies([{"name": "_token", "value": token, "url": url, "httpOnly": True}])
            context.add_init_script(WATCH)
            yield context.new_page()
            context.close()

        def home() -> dict[str, float]:
            with opened() as page:
                page.goto(f"{url}/", wait_until="networkidle")
                return {"first contentful paint": _painted(page)}

        def cold() -> dict[str, float]:
            with opened() as page:
                page.goto(f"{url}/plugin/models")
                return {"first contentful paint": _painted(page), "rows on the screen": _rows(page)}

        def switched() -> dict[str, float]:
            with opened() as page:
                page.goto(f"{url}/", wait_until="networkidle")
                page.get_by_role("link", name="Models", exact=True).first.click()
                first = _rows(page) - page.evaluate("window.clickedAt")
                page.goto(f"{url}/", wait_until="networkidle")
                page.get_by_role("link", name="Models", exact=True).first.click()
                return {"rows, files not cached": first, "rows, files cached": _rows(page) - page.evaluate("window.clickedAt")}

        cold()  # the browser itself warms up
        for name, load in (("Airflow's home, cold", home), ("/plugin/models, cold", cold), ("from Airflow's home", switched)):
            _print_loads(name, load, rounds)
        browser.close()


def _painted(page: Any) -> float:
    script = "performance.getEntriesByName('first-contentful-paint')[0]?.startTime"
    page.wait_for_function(script, timeout=30_000)
    return float(page.evaluate(script))


def _rows(page: Any) -> float:
    page.wait_for_function("window.rowsAt !== undefined", timeout=30_000)
    return float(page.evaluate("window.rowsAt"))


def _print_loads(name: str, load: Callable[[], dict[str, float]], rounds: int) -> None:
    measured = [load() for _ in range(rounds)]
    for what in measured[0]:
        values = sorted(found[what] for found in measured)
        print(f"{name:22} {what:24} median {statistics.median(values):6.0f} ms   worst {values[-1]:6.0f} ms")


def _count_statements(root: Path, models: int) -> None:
    os.environ.update(seeded_environment(root, 18000))
    from datetime import UTC, datetime

    from airflow.utils.session import create_session
    from sqlalchemy import Engine, event

    from windvane.describe_models import describe_models
    from windvane_airflow.ui.read_airflow import read_models

    counts = dict.fromkeys(("Airflow's database", "ledger and catalog"), 0)

    def count(connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        if not statement.startswith("PRAGMA"):
            counts["Airflow's database" if "airflow.db" in str(connection.engine.url) else "ledger and catalog"] += 1

    for _ in range(2):
        counts = dict.fromkeys(counts, 0)
        event.listen(Engine, "before_cursor_execute", count)
        began = time.perf_counter()
        with create_session() as session:
            found = read_models(session)
        middle = time.perf_counter()
        describe_models(seeded_settings(root), now=datetime.now(UTC))
        event.remove(Engine, "before_cursor_execute", count)
    spent = {"Airflow's database": middle - began, "ledger and catalog": time.perf_counter() - middle}
    for name, statements in counts.items():
        print(f"SQL statements for {models} models, {name:20} {statements:3}   {spent[name] * 1000:6.1f} ms")
    if len(found) != models:
        raise SystemExit(f"{len(found)} models were found, {models} were made")


if __name__ == "__main__":
    main()
