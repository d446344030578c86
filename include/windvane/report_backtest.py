"""Keeps what a backtest found: the records, the picture, and a page with both that needs nothing else."""

import base64
import html
import json
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from windvane.plot_backtest import plot_backtest
from windvane.store_files import Place, write_bytes

COLUMNS = ("mean_loss", "mean_metric", "trainings", "promotions", "alarms", "regret_to_oracle", "seconds")
_STYLE = (
    "body{font:14px system-ui,sans-serif;margin:2em auto;max-width:1100px;padding:0 1em;color-scheme:light dark}img{max-width:100%}"
    "table{border-collapse:collapse;margin:1em 0}td,th{padding:.3em .7em;text-align:left;border-bottom:1px solid #8884;vertical-align:top}"
    "td.n{text-align:right;font-variant-numeric:tabular-nums}"
)


def report_backtest(
    records: Sequence[Mapping[str, Any]], summary: Mapping[str, Mapping[str, Any]], *, directory: Place, title: str
) -> Place:
    """Write `backtest.jsonl`, `backtest.png` and `backtest.html`.

    Args:
        records: What `run_backtest` yields for windows.
        summary: Policy -> what it came to.
        directory: Where the files go; they are replaced.
        title: The heading.

    Returns:
        Path of the page.

    Raises:
        StorageError: If a file cannot be written.
    """
    lines = [json.dumps(record, allow_nan=False) for record in [*records, {"summary": summary}]]
    write_bytes(directory / "backtest.jsonl", "\n".join(lines).encode())
    with tempfile.TemporaryDirectory(prefix="windvane-") as folder:
        picture = plot_backtest([dict(record) for record in records], Path(folder) / "backtest.png", title=title).read_bytes()
    write_bytes(directory / "backtest.png", picture)
    write_bytes(directory / "backtest.html", _page(records, summary, picture, title=title).encode())
    return directory / "backtest.html"


def told(value: float | None) -> str:
    """A number for people; nothing where there is none."""
    return "" if value is None else str(value) if isinstance(value, int) else f"{value:.4f}"


def decisions(records: Sequence[Mapping[str, Any]]) -> list[list[str]]:
    """The windows of Windvane's policy in which something was to be said: window, start, decision, promoted, metric, reason."""
    kept = [r for r in records if r["policy"] == "windvane" and (r["decision"] != "ok" or r["alarm"])]
    return [
        [str(r["window"]), str(r["start"]), r["decision"], "yes" if r["promoted"] else "", told(r["metric"]), r["reason"]] for r in kept
    ]


def _page(records: Sequence[Mapping[str, Any]], summary: Mapping[str, Mapping[str, Any]], picture: bytes, *, title: str) -> str:
    policies = [[name, *(told(found[column]) for column in COLUMNS)] for name, found in summary.items()]
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{html.escape(title)}</title>'
        f"<style>{_STYLE}</style></head><body>"
        f"<h1>{html.escape(title)}</h1>"
        f'<img alt="Served metric over the windows, for each policy" src="data:image/png;base64,{base64.b64encode(picture).decode()}">'
        f"<h2>Policies</h2>{_table(['policy', *COLUMNS], policies, numbers=True)}"
        "<h2>Decisions of windvane</h2>"
        f"{_table(['window', 'start', 'decision', 'promoted', 'metric', 'reason'], decisions(records), numbers=False)}</body></html>"
    )


def _table(columns: Sequence[str], rows: Sequence[Sequence[str]], *, numbers: bool) -> str:
    head = "".join(f"<th>{html.escape(column)}</th>" for column in columns)
    cells = ["".join(f"<td{' class=n' if numbers and n else ''}>{html.escape(cell)}</td>" for n, cell in enumerate(row)) for row in rows]
    return f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(f'<tr>{row}</tr>' for row in cells)}</tbody></table>"
