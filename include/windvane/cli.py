"""The command line `windvane`: prints for people, and JSON with `--json`."""

import json
import sys
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from typer.core import TyperGroup

from windvane.errors import ConfigError, WindvaneError
from windvane.settings import load_settings


class _Commands(TyperGroup):
    """Shows errors that were raised on purpose as their message, without a stack trace."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except WindvaneError as exc:
            for line in str(exc).splitlines():
                Console(stderr=True, soft_wrap=True).print(line, style="red", markup=False, highlight=False)
            raise typer.Exit(1) from exc


app = typer.Typer(cls=_Commands, no_args_is_help=True, add_completion=False, help="Windvane keeps scikit-learn models true.")

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Model = Annotated[str, typer.Argument(help="Name of the model.")]


@app.command()
def check(as_json: AsJson = False) -> None:
    """Check all configs, expectation suites and model files."""
    from windvane.check_project import check_project
    from windvane.load_config import list_configs

    settings = load_settings()
    problems = check_project(settings.project)
    if as_json:
        _print_json({"problems": problems})
    else:
        for problem in problems:
            _say(problem, style="red")
        if not problems:
            _say(f"{len(list_configs(settings.project))} configs with their suites and model files are right", style="green")
    raise typer.Exit(1 if problems else 0)


@app.command()
def ledger(
    model: Annotated[str | None, typer.Argument(help="Name of the model; all if not given.")] = None, as_json: AsJson = False
) -> None:
    """Show what served, when and why, and whether the record is untouched."""
    from windvane.ledger import Ledger

    book = Ledger(load_settings().database)
    models = [model] if model else book.models()
    histories = {name: book.history(name) for name in models}
    problems = [problem for name in models for problem in book.verify(name)]
    if as_json:
        _print_json({"releases": [row.as_json() for rows in histories.values() for row in rows], "problems": problems})
    else:
        for name, rows in histories.items():
            cells = [
                [
                    str(row.epoch),
                    row.action,
                    str(row.version),
                    _traffic(row.traffic),
                    f"{row.time:%Y-%m-%d %H:%M:%S}",
                    row.actor,
                    row.reason,
                ]
                for row in rows
            ]
            _print_table(name, ["epoch", "action", "version", "serves after it", "time (UTC)", "actor", "reason"], cells)
        for problem in problems:
            _say(problem, style="red")
    raise typer.Exit(1 if problems else 0)


@app.command("served-at")
def served_at(
    model: Model, moment: Annotated[str, typer.Argument(help="ISO 8601, UTC if it names no zone.")], as_json: AsJson = False
) -> None:
    """Tell what served at a moment."""
    from windvane.ledger import Ledger
    from windvane.windows import as_utc

    try:
        at = as_utc(moment)
    except ValueError as exc:
        raise ConfigError([f"moment: got {moment!r}, allowed is ISO 8601 such as 2026-01-31T12:00:00Z"]) from exc
    row = Ledger(load_settings().database).served_at(model, at)
    if as_json:
        _print_json(row.as_json() if row else None)
    elif row is None:
        _say(f"Nothing of {model} served at {at:%Y-%m-%d %H:%M:%S} UTC")
    else:
        _say(f"{model} at {at:%Y-%m-%d %H:%M:%S} UTC: {_traffic(row.traffic)}, since {row.time:%Y-%m-%d %H:%M:%S} (epoch {row.epoch})")
        _say(f"{row.action} of version {row.version} by {row.actor}: {row.reason}")
        _say(f"bundle {row.digest}")


@app.command()
def reconcile(
    every: Annotated[float | None, typer.Option(help="Repeat after so many seconds, until stopped.")] = None, as_json: AsJson = False
) -> None:
    """Bring what runs in line with what the ledger says should serve."""
    import logging

    import windvane.reconcile as reconciling
    from windvane.record_platform import of_platform

    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    settings = of_platform(load_settings())
    if every is not None:
        reconciling.Reconciler(settings).run(every_seconds=every)
        return
    actions = reconciling.reconcile(settings)
    if as_json:
        _print_json({"actions": actions})
    else:
        for action in actions or ["Everything is as the ledger says"]:
            _say(action)


@app.command()
def doctor(as_json: AsJson = False) -> None:
    """Look for what would keep the platform from working on this machine."""
    from windvane.check_machine import check_machine

    findings = check_machine(load_settings())
    if as_json:
        _print_json([finding.as_json() for finding in findings])
    else:
        styles = {"ok": "green", "warning": "yellow", "problem": "red"}
        for finding in findings:
            _say(f"{finding.state:8} {finding.subject}: {finding.text}", style=styles[finding.state])
    raise typer.Exit(1 if any(finding.state == "problem" for finding in findings) else 0)


@app.command("new-model")
def new_model(model: Model, as_json: AsJson = False) -> None:
    """Write a config and a model file to start from."""
    from windvane.new_model import new_model as write_model

    written = write_model(load_settings().project, model)
    if as_json:
        _print_json({"written": [str(path) for path in written]})
        return
    for path in written:
        _say(f"wrote {path}")
    _say("Fill in read() and build_pipeline(), then run: windvane check")


@app.command()
def up(as_json: AsJson = False) -> None:
    """Start Airflow, MLflow and the reconciler on 127.0.0.1, and wait until they answer."""
    from windvane.run_platform import start_platform
    from windvane.show_progress import Progress

    settings = load_settings()
    began = time.monotonic()
    with Progress(quiet=as_json) as progress:
        platform = start_platform(settings, say=progress.say)
    seconds = time.monotonic() - began
    if as_json:
        _print_json({"airflow": platform.airflow_url, "mlflow": platform.mlflow_url, "seconds": round(seconds, 1)})
        return
    _say(f"The platform is up after {seconds:.1f} s", style="green")
    _print_addresses(platform.airflow_url, platform.mlflow_url, settings.var)


@app.command()
def down(as_json: AsJson = False) -> None:
    """Stop exactly what `windvane up` started."""
    from windvane.run_platform import stop_platform

    stopped = stop_platform(load_settings())
    if as_json:
        _print_json({"stopped": stopped})
    else:
        _say(f"Stopped {stopped} processes" if stopped else "Nothing was running")


@app.command()
def status(as_json: AsJson = False) -> None:
    """Tell what runs, where it answers, and what each model serves."""
    from windvane.describe_platform import describe_platform

    found = describe_platform(load_settings())
    if as_json:
        _print_json(found.as_json())
    else:
        _print_table("platform", ["part", "state", "address"], [[part.name, part.state, part.address] for part in found.parts])
        rows = [[serving.model, serving.version, serving.since, serving.reason, serving.endpoint] for serving in found.serving]
        _print_table("models", ["model", "serves", "since (UTC)", "why", "endpoint"], rows)
    raise typer.Exit(0 if found.is_up else 3)


@app.command()
def demo(
    until: Annotated[str, typer.Option(help="Last month of the story.", envvar="WINDVANE_DEMO_UNTIL")] = "2013-07",
    target: Annotated[str | None, typer.Option(help="process or docker; default: what the config says.")] = None,
) -> None:
    """Run the whole loop on the flights of 2013: from nothing to a served, watched and retrained model."""
    from windvane.run_demo import run_demo

    raise typer.Exit(run_demo(until=until, target=target))


def _print_addresses(airflow: str, mlflow: str, var: Path) -> None:
    _say(f"Airflow   {airflow}   user admin, password in {var / 'airflow_passwords.json'}")
    _say(f"MLflow    {mlflow}")
    _say("Stop with: make down")


def _traffic(traffic: Any) -> str:
    return ", ".join(f"version {version} {percent}%" for version, percent in traffic.items()) or "nothing"


def _say(text: str, *, style: str | None = None) -> None:
    Console(soft_wrap=True).print(text, style=style, markup=False, highlight=False)


def _print_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    if not sys.stdout.isatty():
        for row in rows:
            _say(f"{title}  " + "  ".join(f"{column}={cell}" for column, cell in zip(columns, row, strict=True)))
        return
    table = Table(title=title, title_justify="left")
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*map(escape, row))
    Console().print(table)


def _print_json(value: Any) -> None:
    def as_text(other: Any) -> str:
        return other.astimezone(UTC).isoformat() if isinstance(other, datetime) else str(other)

    print(json.dumps(value, indent=2, default=as_text))


if __name__ == "__main__":
    app()
