"""The command `windvane reindex`: what the Models page shows, made again from what is stored."""

import time
from dataclasses import asdict
from typing import Annotated

import typer

from windvane.errors import ConfigError, WindvaneError
from windvane.print_results import AsJson, print_json
from windvane.settings import load_settings

commands = typer.Typer()


@commands.command()
def reindex(
    model: Annotated[str | None, typer.Argument(help="Name of the model; all configured ones if not given.")] = None,
    as_json: AsJson = False,
) -> None:
    """Fill the catalog of the Models page from lake, reports, ledger and bundles; exit status 1 if a model's could not be read."""
    from windvane.load_config import list_configs
    from windvane.reindex_catalog import reindex_model
    from windvane.show_progress import Progress

    settings, began = load_settings(), time.monotonic()
    known = [path.stem for path in list_configs(settings.project)]
    if model is not None and model not in known:
        raise ConfigError([f"dags/configs/{model}.yaml: there is no model '{model}'; known models: {', '.join(known) or 'none'}"])
    chosen = known if model is None else [model]
    done, problems = {}, []
    with Progress(quiet=as_json) as progress:
        for number, name in enumerate(chosen, 1):
            try:
                found = reindex_model(settings, name)
            except WindvaneError as exc:
                # one damaged table hides no other model
                problems.append(f"{name}: {exc}")
                progress.say(f"{number} of {len(chosen)}  {problems[-1]}", style="red")
                continue
            done[name] = asdict(found)
            counts = f"{found.windows} windows, {found.batches} batches, {found.versions} versions; {found.changed} new or mended"
            progress.say(f"{number} of {len(chosen)}  {name}: {counts}")
        if not chosen:
            progress.say("there is no config in dags/configs")
    if as_json:
        print_json({"models": done, "problems": problems, "seconds": round(time.monotonic() - began, 1)})
    raise typer.Exit(1 if problems else 0)
