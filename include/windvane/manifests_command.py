"""The command `windvane manifests`: what the target `kubernetes` would apply, as YAML."""

import sys
from typing import Annotated, Any

import typer

from windvane.print_results import AsJson, Model, print_json
from windvane.settings import load_settings

commands = typer.Typer()


@commands.command()
def manifests(
    model: Model,
    version: Annotated[int | None, typer.Option(help="A version of the ledger, as if it had all traffic; default: the newest row.")] = None,
    as_json: AsJson = False,
) -> None:
    """Print what the target `kubernetes` applies for a model: `windvane manifests MODEL | kubectl diff -f -` shows what differs."""
    from windvane.kubernetes_target import wanted_manifests
    from windvane.load_config import load_model_config

    settings = load_settings()
    found = wanted_manifests(load_model_config(settings.project, model), settings, version=version)
    if as_json:
        print_json(found)
    else:
        _print_yaml(found)


def _print_yaml(found: list[dict[str, Any]]) -> None:
    from ruamel.yaml import YAML

    writer = YAML(typ="safe", pure=True)
    writer.default_flow_style = False
    writer.width = 200
    writer.sort_base_mapping_type_on_output = False  # type: ignore[assignment]
    writer.dump_all(found, sys.stdout)
