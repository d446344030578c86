"""Prints what a command found: coloured for people, plain lines into a pipe, JSON on demand."""

import json
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Model = Annotated[str, typer.Argument(help="Name of the model.")]


def say(text: str, *, style: str | None = None) -> None:
    """Print a line as it is, without folding it."""
    Console(soft_wrap=True).print(text, style=style, markup=False, highlight=False)


def print_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table; into a pipe one line per row, with the columns' names."""
    if not sys.stdout.isatty():
        for row in rows:
            say(f"{title}  " + "  ".join(f"{column}={cell}" for column, cell in zip(columns, row, strict=True)))
        return
    table = Table(title=title, title_justify="left")
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*map(escape, row))
    Console().print(table)


def print_json(value: Any) -> None:
    """Print JSON; moments are ISO 8601 in UTC."""

    def as_text(other: Any) -> str:
        return other.astimezone(UTC).isoformat() if isinstance(other, datetime) else str(other)

    print(json.dumps(value, indent=2, default=as_text))
