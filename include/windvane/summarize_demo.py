"""The last words of the demo: what serves, why, where to look, how to stop."""

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from windvane.bundle import open_bundle
from windvane.config import ModelConfig
from windvane.decision_evidence import TRAININGS
from windvane.lake import Lake
from windvane.ledger import Ledger, Release
from windvane.reach_platform import USER, Reached
from windvane.send_traffic import TrafficSender
from windvane.settings import Settings
from windvane.store_files import find_files, relative_place

_CHANGES = {"promote": "version {}", "rollback": "back to version {}", "revert": "version {} was taken back"}
_ENDS = {"promote": "promoted", "revert": "taken back", "refuse": "refused"}


def summarize_demo(config: ModelConfig, settings: Settings, platform: Reached, traffic: TrafficSender, *, problems: Sequence[str]) -> str:
    """Return the summary as text."""
    lines = ["", f"{config.model}: {config.description}", ""]
    ledger = Ledger(settings.database)
    row = ledger.last(config.model)
    serving = row.serving if row else None
    digest = ledger.digest_of(config.model, serving) if serving is not None else None
    lines += _serving_lines(settings, serving, digest)
    lines += _told(config, settings, ledger)
    lines += _traffic_lines(traffic)
    endpoint = f"http://127.0.0.1:{config.deploy.port}/invocations"
    lines += [
        "",
        f"Airflow      {platform.airflow_url}   user {USER}, password in {platform.password_place}",
        f"MLflow       {platform.mlflow_url}",
        f"Endpoint     {endpoint}",
        f"Last report  {_last_report(config, settings, platform) or 'none'}",
        "",
        "Score a flight:",
        f"  curl -s {endpoint} -H 'Content-Type: application/json'{_key_option(config, settings)} -d '{_example()}'",
        "",
        platform.commands,
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


def _told(config: ModelConfig, settings: Settings, ledger: Ledger) -> list[str]:
    """What served one after the other, and for each month what was decided and what became of it."""
    history = ledger.history(config.model)
    changes = [_CHANGES[release.action].format(release.version) for release in history if release.action in _CHANGES]
    return [f"Changes of what serves   {', '.join(changes) or 'none'}", *_decision_lines(config, settings, history)]


def _decision_lines(config: ModelConfig, settings: Settings, history: Sequence[Release]) -> list[str]:
    decisions = Lake(settings.lake).read(config.model, "decisions")
    if not len(decisions):
        return ["Decisions                none"]
    trainings = _trainings(config, settings)
    lines = ["Decisions"]
    for row in decisions.sort_values("window_start").to_dict("records"):
        lines.append(f"  {row['window_start']:%B %Y}: {row['decision']}: {row['reason']}")
        if row["decision"] in TRAININGS:
            results = [_result(verdict, history) for until, verdict in trainings if row["window_start"] < until <= row["window_end"]]
            lines += [f"    -> {result}" for result in results or ["no challenger was judged"]]
    return lines


def _trainings(config: ModelConfig, settings: Settings) -> list[tuple[datetime, Mapping[str, Any]]]:
    """What the gates said of each challenger, and until when it was judged: from what the tasks of the train DAG left."""
    runs = settings.reports / config.model / "runs" / f"{config.model}__train"
    found = []
    for gate in find_files(runs, "*/gate.json"):
        plan = gate.with_name("plan.json")
        if plan.is_file():
            holdout = json.loads(plan.read_text(encoding="utf-8"))["holdout"]
            found.append((datetime.fromisoformat(holdout["window_end"]), json.loads(gate.read_text(encoding="utf-8"))))
    return sorted(found, key=lambda training: (training[0], training[1]["version"]))


def _result(verdict: Mapping[str, Any], history: Sequence[Release]) -> str:
    """What became of a challenger."""
    version = verdict["version"]
    if not verdict["passed"]:
        return f"version {version} was refused: {'; '.join(gate['reason'] for gate in verdict['gates'] if not gate['passed'])}"
    rows = [release for release in history if release.version == version and release.action in _ENDS]
    if not rows:
        return f"version {version} passed its gates and was not deployed"
    if any(release.action == "promote" for release in rows):
        return f"version {version} was promoted"
    return f"version {version} was {_ENDS[rows[-1].action]}: {rows[-1].reason}"


def _traffic_lines(traffic: TrafficSender) -> list[str]:
    counts = traffic.counts
    versions = ", ".join(f"version {version}: {number:,}" for version, number in sorted(counts.versions.items()))
    return [
        f"Requests                 {counts.sent:,} with {counts.rows:,} flights in {traffic.seconds:.0f} s: "
        f"{traffic.per_second:.1f} a second, {counts.failed} failed",
        f"Answered by              {versions or 'nobody'}",
    ]


def _last_report(config: ModelConfig, settings: Settings, platform: Reached) -> str | None:
    reports = find_files(settings.reports / config.model, "*/drift.html")
    return f"{platform.airflow_url}/windvane/reports/{relative_place(reports[-1], settings.reports)}" if reports else None


def _key_option(config: ModelConfig, settings: Settings) -> str:
    return f' -H "X-API-Key: $(docker compose exec worker-deploy windvane key add {config.model} | head -n 1)"' if settings.network else ""


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
