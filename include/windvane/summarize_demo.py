"""The last words of the demo: what serves, why, where to look, how to stop."""

import json
from collections.abc import Sequence

from windvane.bundle import open_bundle
from windvane.config import ModelConfig
from windvane.lake import Lake
from windvane.ledger import Ledger
from windvane.record_platform import Platform
from windvane.send_traffic import TrafficSender
from windvane.settings import Settings


def summarize_demo(config: ModelConfig, settings: Settings, platform: Platform, traffic: TrafficSender, *, problems: Sequence[str]) -> str:
    """Return the summary as text."""
    lines = ["", f"{config.model}: {config.description}", ""]
    ledger = Ledger(settings.database)
    row = ledger.last(config.model)
    serving = row.serving if row else None
    digest = ledger.digest_of(config.model, serving) if serving is not None else None
    lines += _serving_lines(settings, serving, digest)
    promotions = [f"version {r.version}" for r in ledger.history(config.model) if r.action == "promote"]
    lines.append(f"Promoted in this order   {', '.join(promotions) or 'none'}")
    lines += _decision_lines(config, settings)
    lines += _traffic_lines(traffic)
    endpoint = f"http://127.0.0.1:{config.deploy.port}/invocations"
    lines += [
        "",
        f"Airflow      {platform.airflow_url}   user admin, password in {settings.var / 'airflow_passwords.json'}",
        f"MLflow       {platform.mlflow_url}",
        f"Endpoint     {endpoint}",
        f"Last report  {_last_report(config, settings, platform) or 'none'}",
        "",
        "Score a flight:",
        f"  curl -s {endpoint} -H 'Content-Type: application/json' -d '{_example()}'",
        "",
        "Stop everything: make down      See what runs: make status      What served when: .venv/bin/windvane ledger",
        "",
    ]
    lines += [f"FAILED: {problem}" for problem in problems] or ["Every step did what it should."]
    return "\n".join(lines)


def _serving_lines(settings: Settings, serving: int | None, digest: str | None) -> list[str]:
    if serving is None or digest is None:
        return ["Serves                   nothing"]
    metrics = open_bundle(settings.bundles, digest).manifest["metrics"]
    shown = ", ".join(f"{name} {value:.4f}" for name, value in metrics.items() if isinstance(value, int | float))
    return [f"Serves                   version {serving}, bundle {digest[:12]}", f"Its metrics on holdout   {shown}"]


def _decision_lines(config: ModelConfig, settings: Settings) -> list[str]:
    decisions = Lake(settings.lake).read(config.model, "decisions")
    if not len(decisions):
        return ["Decisions                none"]
    rows = decisions.sort_values("window_start").to_dict("records")
    return ["Decisions", *(f"  {row['window_start']:%B %Y}: {row['decision']}: {row['reason']}" for row in rows)]


def _traffic_lines(traffic: TrafficSender) -> list[str]:
    counts = traffic.counts
    versions = ", ".join(f"version {version}: {number:,}" for version, number in sorted(counts.versions.items()))
    return [
        f"Requests                 {counts.sent:,} with {counts.rows:,} flights in {traffic.seconds:.0f} s: "
        f"{traffic.per_second:.1f} a second, {counts.failed} failed",
        f"Answered by              {versions or 'nobody'}",
    ]


def _last_report(config: ModelConfig, settings: Settings, platform: Platform) -> str | None:
    reports = sorted((settings.reports / config.model).glob("*/drift.html"))
    return f"{platform.airflow_url}/windvane/reports/{reports[-1].relative_to(settings.reports).as_posix()}" if reports else None


def _example() -> str:
    flight = {
        "flight_id": "2013-08-01-UA-1545-EWR",
        "scheduled_departure": "2013-08-01T21:15:00Z",
        "carrier": "UA",
        "origin": "EWR",
        "dest": "IAH",
        "distance": 1400.0,
    }
    return json.dumps({"dataframe_records": [flight]})
