"""The command that serves the figures of all models to Prometheus."""

import threading
from typing import Annotated

import typer

from windvane.settings import load_settings

commands = typer.Typer()


@commands.command()
def metrics(
    port: Annotated[int, typer.Option(help="Port to listen on.")] = 9464,
    host: Annotated[str, typer.Option(help="Address to listen on; who reaches it may read it.")] = "127.0.0.1",
) -> None:
    """Serve what the ledger and the catalog say of all models to Prometheus, until stopped."""
    from prometheus_client import CollectorRegistry, start_http_server

    from windvane.errors import ConfigError
    from windvane.export_metrics import ModelMetrics

    registry = CollectorRegistry(auto_describe=False)
    # what a first look finds wrong is told here, not to Prometheus only
    registry.register(ModelMetrics(load_settings()))
    try:
        start_http_server(port, addr=host, registry=registry)
    except OSError as exc:
        raise ConfigError([f"metrics: cannot listen on {host}:{port}: {exc.strerror}; choose another with --port"]) from exc
    threading.Event().wait()
