"""The command line `windvane`: prints for people, and JSON with `--json`."""

import time
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from typer.core import TyperGroup

from windvane.backtest_command import commands as backtest_command
from windvane.errors import WindvaneError
from windvane.manifests_command import commands as manifests_command
from windvane.metrics_command import commands as metrics_command
from windvane.print_results import AsJson, Model, print_json, print_table, say
from windvane.reindex_command import commands as reindex_command
from windvane.release_commands import commands as release_commands
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

app.add_typer(release_commands)
app.add_typer(backtest_command)
app.add_typer(manifests_command)
app.add_typer(reindex_command)
app.add_typer(metrics_command)


@app.command()
def check(as_json: AsJson = False) -> None:
    """Check all configs, expectation suites and model files."""
    from windvane.check_project import check_project, find_warnings
    from windvane.load_config import list_configs

    settings = load_settings()
    problems, warnings = check_project(settings.project), find_warnings(settings.project)
    if as_json:
        print_json({"problems": problems, "warnings": warnings})
    else:
        for problem in problems:
            say(problem, style="red")
        for warning in warnings:
            say(f"warning: {warning}", style="yellow")
        if not problems:
            say(f"{len(list_configs(settings.project))} configs with their suites and model files are right", style="green")
    raise typer.Exit(1 if problems else 0)


@app.command()
def doctor(as_json: AsJson = False) -> None:
    """Look for what would keep the platform from working on this machine."""
    from windvane.check_machine import check_machine

    findings = check_machine(load_settings())
    if as_json:
        print_json([finding.as_json() for finding in findings])
    else:
        styles = {"ok": "green", "warning": "yellow", "problem": "red"}
        for finding in findings:
            say(f"{finding.state:8} {finding.subject}: {finding.text}", style=styles[finding.state])
    raise typer.Exit(1 if any(finding.state == "problem" for finding in findings) else 0)


@app.command("new-model")
def new_model(model: Model, as_json: AsJson = False) -> None:
    """Write a config and a model file to start from."""
    from windvane.new_model import new_model as write_model

    written = write_model(load_settings().project, model)
    if as_json:
        print_json({"written": [str(path) for path in written]})
        return
    for path in written:
        say(f"wrote {path}")
    say("Fill in read() and build_pipeline(), then run: .venv/bin/windvane check")


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
        print_json({"airflow": platform.airflow_url, "mlflow": platform.mlflow_url, "seconds": round(seconds, 1)})
        return
    say(f"The platform is up after {seconds:.1f} s", style="green")
    _print_addresses(platform.airflow_url, platform.mlflow_url, settings.var)


@app.command()
def down(as_json: AsJson = False) -> None:
    """Stop exactly what `windvane up` started."""
    from windvane.run_platform import stop_platform

    stopped = stop_platform(load_settings())
    if as_json:
        print_json({"stopped": stopped})
    else:
        say(f"Stopped {stopped} processes" if stopped else "Nothing was running")


@app.command()
def status(as_json: AsJson = False) -> None:
    """Tell what runs, where it answers, and what each model serves."""
    from windvane.describe_platform import describe_platform
    from windvane.report_state import read_report

    settings = load_settings()
    found, report = describe_platform(settings), read_report(settings)
    if as_json:
        print_json(found.as_json() | {"reconciler": asdict(report)})
    else:
        print_table("platform", ["part", "state", "address"], [[part.name, part.state, part.address] for part in found.parts])
        rows = [[serving.model, serving.version, serving.since, serving.reason, serving.endpoint] for serving in found.serving]
        print_table("models", ["model", "serves", "since (UTC)", "why", "endpoint"], rows)
        for problem in report.problems:
            say(f"problem: {problem}", style="red")
        for entry in report.done:
            say(f"{entry.time}  {entry.text}", style="yellow" if "warning" in entry.text else None)
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
    say(f"Airflow   {airflow}   user admin, password in {var / 'airflow_passwords.json'}")
    say(f"MLflow    {mlflow}")
    say("Stop with: make down")


if __name__ == "__main__":
    app()
