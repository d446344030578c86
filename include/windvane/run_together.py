"""Runs several commands side by side in one container: when one of them ends, the others are ended too, and whoever restarts restarts all.

python -m windvane.run_together "first command" "second command"
"""

import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from types import FrameType

_POLL_SECONDS = 0.2


def run_together(commands: Sequence[str]) -> int:
    """Run the commands until one ends or a signal comes; the signal goes to all of them.

    Returns:
        0 after a signal, else the exit status of the first that ended, or 1 if it ended with 0: nothing here should end.
    """
    stopped: list[int] = []

    def stop(number: int, _frame: FrameType | None) -> None:
        stopped.append(number)

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, stop)
    # each in a session of its own: a signal comes from here, once
    children = [subprocess.Popen(shlex.split(command), start_new_session=True) for command in commands]
    while not stopped and all(child.poll() is None for child in children):
        time.sleep(_POLL_SECONDS)
    ended = [child for child in children if child.poll() is not None]
    for child in ended:
        print(f"{shlex.join(map(str, child.args))}: ended with status {child.returncode}", file=sys.stderr, flush=True)  # type: ignore[arg-type]
    for child in children:
        child.terminate()
    for child in children:
        child.wait()
    if stopped:
        return 0
    return ended[0].returncode if ended and ended[0].returncode > 0 else 1


if __name__ == "__main__":
    os.environ.setdefault("PYTHONUNBUFFERED", "1")
    sys.exit(run_together(sys.argv[1:]))
