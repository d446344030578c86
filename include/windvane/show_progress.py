"""Shows what is going on: a live display on a terminal, plain lines elsewhere."""

import sys
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from types import TracebackType
from typing import TYPE_CHECKING

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.markup import escape
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from windvane.send_traffic import TrafficSender
    from windvane.watch_runs import RunSeen


class Progress:
    """Prints lines that stay, and on a terminal a picture of the present below them.

    Args:
        picture: Draws the present; called several times a second. None: lines only.
        quiet: Show nothing at all.
    """

    def __init__(self, picture: Callable[[], RenderableType] | None = None, *, quiet: bool = False) -> None:
        self._console = Console(soft_wrap=True, highlight=False, stderr=quiet)
        self._quiet = quiet
        self._began = time.monotonic()
        self._live: Live | None = None
        if picture is not None and self._console.is_terminal and not quiet:
            self._live = Live(get_renderable=picture, console=self._console, refresh_per_second=4, transient=True)

    def __enter__(self) -> "Progress":
        if self._live:
            self._live.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._live:
            self._live.stop()

    def say(self, text: str, *, style: str | None = None) -> None:
        """Print a line with the time since the start."""
        if self._quiet:
            return
        seconds = time.monotonic() - self._began
        self._console.print(f"{seconds:6.1f} s  {text}", style=style, markup=False)
        sys.stdout.flush()


def draw_picture(step: str, runs: "Sequence[RunSeen]", traffic: "TrafficSender") -> RenderableType:
    """Draw what goes on: the step, the runs with their tasks, and the requests."""
    table = Table(show_header=True, header_style="dim", box=None, pad_edge=False)
    for column in ("run", "task", "state", "seconds"):
        table.add_column(column)
    for run in runs:
        for task in run.tasks.values():
            if task.state == "waiting":
                continue
            now = (datetime.now(UTC) - task.started).total_seconds() if task.started and not task.is_final else task.seconds
            table.add_row(escape(run.dag_id), escape(task.task_id), escape(task.state), f"{now:.1f}")
    counts = traffic.counts
    versions = ", ".join(sorted(counts.versions))
    requests = f"requests {counts.sent:,} ({traffic.per_second:.1f}/s), failed {counts.failed}, answered by version {versions or '-'}"
    return Group(Text(f"\n{step}", style="bold"), table, Text(requests if counts.sent else "", style="red" if counts.failed else "green"))
